//! A blob's lease, as a machine without a clock: what may happen in which state, and what is answered otherwise.
//!
//! The states and outcomes are those of the tables in the reference of Lease Blob. One thing they leave open is
//! decided here: a writer that names a lease which it held, and which another write or a break has ended, is told
//! `LeaseLost`; one that names any other is told `LeaseNotPresentWithBlobOperation`.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::refusal::Refusal;

/// How long a lease with an end may be asked for. Unit: seconds.
pub(super) const LEASE_S: RangeInclusive<i64> = 15..=60;
/// How long a break may take at most. Unit: seconds.
pub(super) const BREAK_S_MAX: u64 = 60;

/// Who may write.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// Who holds it, or did.
    id: Option<String>,
    held: Held,
    /// None: until it is released or broken.
    duration: Option<Duration>,
}

/// As `x-ms-lease-state` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    Available,
    Leased,
    Expired,
    Breaking,
    Broken,
}

#[derive(Clone, Copy, Debug, Default)]
enum Held {
    #[default]
    No,
    Until(Option<Instant>),
    BreaksAt(Instant),
    Broken,
}

impl LeaseState {
    /// As `x-ms-lease-state` says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Leased => "leased",
            Self::Expired => "expired",
            Self::Breaking => "breaking",
            Self::Broken => "broken",
        }
    }

    /// As `x-ms-lease-status` says it.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Leased | Self::Breaking => "locked",
            Self::Available | Self::Expired | Self::Broken => "unlocked",
        }
    }
}

impl Lease {
    /// Where it is at `now`.
    pub(super) fn state(&self, now: Instant) -> LeaseState {
        match self.held {
            Held::No => LeaseState::Available,
            Held::Until(Some(end)) if end <= now => LeaseState::Expired,
            Held::Until(_) => LeaseState::Leased,
            Held::BreaksAt(end) if now < end => LeaseState::Breaking,
            Held::BreaksAt(_) | Held::Broken => LeaseState::Broken,
        }
    }

    /// Whether it has no end of its own.
    pub(super) fn is_infinite(&self) -> bool {
        self.duration.is_none()
    }

    /// Takes it, or takes it again.
    pub(super) fn acquire(
        &mut self,
        id: String,
        duration: Option<Duration>,
        now: Instant,
    ) -> Result<(), Refusal> {
        match self.state(now) {
            LeaseState::Leased | LeaseState::Breaking if !self.is(&id) => {
                Err(Refusal::LEASE_ALREADY_PRESENT)
            }
            LeaseState::Breaking => Err(Refusal::LEASE_IS_BREAKING_AND_CANNOT_BE_ACQUIRED),
            _ => {
                *self = Self {
                    id: Some(id),
                    held: Held::Until(duration.map(|duration| now + duration)),
                    duration,
                };
                Ok(())
            }
        }
    }

    pub(super) fn renew(&mut self, id: &str, now: Instant) -> Result<(), Refusal> {
        match self.state(now) {
            LeaseState::Available => Err(Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION),
            _ if !self.is(id) => Err(Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION),
            LeaseState::Breaking | LeaseState::Broken => {
                Err(Refusal::LEASE_IS_BROKEN_AND_CANNOT_BE_RENEWED)
            }
            LeaseState::Leased | LeaseState::Expired => {
                self.held = Held::Until(self.duration.map(|duration| now + duration));
                Ok(())
            }
        }
    }

    pub(super) fn change(&mut self, id: &str, new: String, now: Instant) -> Result<(), Refusal> {
        match self.state(now) {
            LeaseState::Available | LeaseState::Broken | LeaseState::Expired => {
                Err(Refusal::LEASE_NOT_PRESENT_WITH_LEASE_OPERATION)
            }
            // Who asks for what is there already has perhaps not heard the first answer.
            _ if !self.is(id) && !self.is(&new) => {
                Err(Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION)
            }
            LeaseState::Breaking => Err(Refusal::LEASE_IS_BREAKING_AND_CANNOT_BE_CHANGED),
            LeaseState::Leased => {
                self.id = Some(new);
                Ok(())
            }
        }
    }

    pub(super) fn release(&mut self, id: &str, now: Instant) -> Result<(), Refusal> {
        if self.state(now) == LeaseState::Available || !self.is(id) {
            return Err(Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION);
        }
        *self = Self::default();
        Ok(())
    }

    /// Breaks it, and tells how many seconds are left of it.
    pub(super) fn end(&mut self, period: Option<Duration>, now: Instant) -> Result<u64, Refusal> {
        let left = match (self.state(now), self.held) {
            (LeaseState::Available, _) => {
                return Err(Refusal::LEASE_NOT_PRESENT_WITH_LEASE_OPERATION);
            }
            (LeaseState::Leased, Held::Until(Some(end))) => {
                let left = end - now;
                period.map_or(left, |period| period.min(left))
            }
            (LeaseState::Leased, _) => period.unwrap_or_default(),
            (LeaseState::Breaking, Held::BreaksAt(end)) => {
                let left = end - now;
                period.map_or(left, |period| period.min(left))
            }
            _ => Duration::ZERO,
        };
        self.held = match left {
            Duration::ZERO => Held::Broken,
            left => Held::BreaksAt(now + left),
        };
        let seconds = left.as_millis().div_ceil(1000);
        Ok(u64::try_from(seconds).expect("a minute at most"))
    }

    /// Whether one that names `id`, or none, may write.
    pub(super) fn admits_write(&self, id: Option<&str>, now: Instant) -> Result<(), Refusal> {
        match (self.state(now), id) {
            (LeaseState::Leased | LeaseState::Breaking, None) => Err(Refusal::LEASE_ID_MISSING),
            _ => self.admits_read(id, now),
        }
    }

    /// Whether one that names `id`, or none, may read.
    pub(super) fn admits_read(&self, id: Option<&str>, now: Instant) -> Result<(), Refusal> {
        let Some(id) = id else {
            return Ok(());
        };
        match self.state(now) {
            LeaseState::Leased | LeaseState::Breaking if self.is(id) => Ok(()),
            LeaseState::Leased | LeaseState::Breaking => {
                Err(Refusal::LEASE_ID_MISMATCH_WITH_BLOB_OPERATION)
            }
            _ if self.is(id) => Err(Refusal::LEASE_LOST),
            _ => Err(Refusal::LEASE_NOT_PRESENT_WITH_BLOB_OPERATION),
        }
    }

    /// A write was done: a lease that has expired cannot be renewed after that.
    pub(super) fn note_write(&mut self, now: Instant) {
        if self.state(now) == LeaseState::Expired {
            self.held = Held::No;
        }
    }

    fn is(&self, id: &str) -> bool {
        let held = self.id.as_deref();
        held.is_some_and(|held| held.eq_ignore_ascii_case(id))
    }
}

#[cfg(test)]
mod tests;
