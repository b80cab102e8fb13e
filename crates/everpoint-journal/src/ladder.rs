//! Which recovery points a policy keeps: every write of the continuous window, then one a slot, ever sparser.
//!
//! ```text
//!  month   day  day  day  1 h 1 h 1 h  5 5 5 5 5 5 min   every write
//! ───┴──────┴────┴────┴────┴───┴───┴────┴─┴─┴─┴─┴─┴────────────────────▶ newest point
//!  for 12 months   30 days   7 days        2 days        24 h, say
//! ```
//!
//! Time is cut into slots in the same way by everybody, in UTC, and of each slot one point stays: the last one that is
//! app-consistent, or else the last. What comes later can only put another in its place, and what was given up is never
//! the better one. So whoever thins again and again keeps what one who had kept everything would keep now, and a rung
//! never takes anything that another rung wants.
//!
//! Ages count up to the newest point, never beyond: where nothing new arrives nothing grows old, and the last good
//! points stay. Nor do they count beyond a time that two clocks agree about ([`trusted_time`]): a clock that jumps ahead
//! makes nothing old, and one that jumps back only keeps more.

use std::collections::BTreeSet;
use std::time::Duration;

use everpoint_format::record::Consistency;
use everpoint_units::{Seq, WallTime};

use crate::history::Span;

/// Rungs of one ladder. Every policy that was met has fewer than ten.
pub const RUNG_COUNT_MAX: usize = 16;
/// App-consistent points that stay whatever their age.
pub const APP_COUNT_MAX: usize = 1_000;
/// How far two clocks may be apart and still agree: a commit's longest way, and the second of an HTTP date. Unit:
/// seconds.
const CLOCKS_APART_S_MAX: u64 = 300;
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const MICROS: u64 = 1_000_000;

/// What is kept of a disk's or a machine's points.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ladder {
    continuous: Duration,
    rungs: Vec<Rung>,
    app_rungs: Vec<Rung>,
    app_count: usize,
}

/// One point of each slot that has not ended longer ago than `reach`: a slot stays or goes as a whole, for its best point
/// may be its oldest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rung {
    pub slot: Slot,
    pub reach: Duration,
}

/// How a rung cuts up time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Slot {
    /// From 1970 on, in steps of whole seconds.
    Every(Duration),
    /// By the calendar, in UTC.
    Month,
}

/// Why a ladder is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LadderError {
    #[error("a ladder has at most {RUNG_COUNT_MAX} rungs, this one has {count}")]
    TooManyRungs { count: usize },
    #[error("a rung keeps one point each {slot:?}: write whole seconds, at least one")]
    Slot { slot: Duration },
    #[error("a rung that reaches {reach:?} has slots that are longer")]
    ReachTooShort { reach: Duration },
    #[error("rungs get sparser and reach further, one after the other: {reach:?} does not")]
    NotRising { reach: Duration },
    #[error("at most {APP_COUNT_MAX} app-consistent points stay whatever their age, not {count}")]
    AppCount { count: usize },
    #[error("the table knows 0 to 15 days, not {days}")]
    Days { days: u32 },
}

/// A recovery point that there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    pub seq: Seq,
    /// True time, monotone over `Seq`.
    pub at: WallTime,
    /// `None`: a write that nobody named.
    pub class: Option<Consistency>,
}

/// What stays, of points that were handed in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// From here on every write. `None` where there is no point at all.
    pub every_write_from: Option<Seq>,
    /// Below that, these.
    pub points: BTreeSet<Seq>,
}

/// What somebody protects from every policy, with a reason that stands elsewhere.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holds {
    /// Pinned points.
    pub pins: BTreeSet<Seq>,
    /// Of a legal hold: every point in it.
    pub spans: Vec<Span>,
}

/// A ladder, and one that takes its place.
///
/// Until then what either of them keeps stays: what is longer holds at once, what is shorter takes effect late and can
/// be taken back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    ladder: Ladder,
    next: Option<(Ladder, WallTime)>,
}

impl Ladder {
    /// Every write for `continuous`; then what the rungs keep of all points, what `app_rungs` keep of the app-consistent
    /// ones, and the newest `app_count` of those whatever their age.
    ///
    /// # Errors
    ///
    /// See [`LadderError`].
    pub fn new(
        continuous: Duration,
        rungs: Vec<Rung>,
        app_rungs: Vec<Rung>,
        app_count: usize,
    ) -> Result<Self, LadderError> {
        check(&rungs)?;
        check(&app_rungs)?;
        if APP_COUNT_MAX < app_count {
            return Err(LadderError::AppCount { count: app_count });
        }
        Ok(Self {
            continuous,
            rungs,
            app_rungs,
            app_count,
        })
    }

    /// What Azure Site Recovery keeps at a retention of so many days. Source: its questions and answers, "How does
    /// the pruning of recovery points happen over time". There the points are five minutes apart from the beginning,
    /// and with more days the first one is kept sparser; both are so here, for whoever compares.
    ///
    /// # Errors
    ///
    /// [`LadderError::Days`] beyond 15.
    pub fn site_recovery(days: u32) -> Result<Self, LadderError> {
        let every = |slot: Duration, reach| Rung {
            slot: Slot::Every(slot),
            reach,
        };
        let fresh = every(DAY / 288, HOUR * 2);
        let rungs = match days {
            0 => Vec::new(),
            1 => vec![fresh, every(HOUR, DAY)],
            2..=7 => vec![fresh, every(HOUR * 2, DAY * days)],
            8..=15 => vec![fresh, every(HOUR * 2, DAY * 7), every(HOUR * 4, DAY * days)],
            _ => return Err(LadderError::Days { days }),
        };
        Self::new(Duration::ZERO, rungs, Vec::new(), 0)
    }

    /// What stays of `candidates`, which rise by `Seq`, when it is `now` or less ([`trusted_time`]).
    pub fn keep(&self, candidates: &[Candidate], holds: &Holds, now: WallTime) -> Kept {
        let Some(newest) = candidates.last() else {
            return Kept::default();
        };
        let as_of = newest.at.min(now);
        let from = WallTime(as_of.0.saturating_sub(micros(self.continuous)));
        // A state of each instant of the window: so also the one that the window begins with.
        let first = candidates.partition_point(|candidate| candidate.at <= from);
        let every_write_from = candidates[first.saturating_sub(1)].seq;
        let mut points = BTreeSet::new();
        for rung in &self.rungs {
            rung.keep(candidates.iter(), as_of, &mut points);
        }
        let apps = || candidates.iter().filter(|candidate| candidate.is_app());
        for rung in &self.app_rungs {
            rung.keep(apps(), as_of, &mut points);
        }
        points.extend(apps().rev().take(self.app_count).map(|app| app.seq));
        let held = candidates.iter().map(|candidate| candidate.seq);
        points.extend(held.filter(|seq| holds.hold(*seq)));
        points.retain(|seq| *seq < every_write_from);
        Kept {
            every_write_from: Some(every_write_from),
            points,
        }
    }
}

fn check(rungs: &[Rung]) -> Result<(), LadderError> {
    if RUNG_COUNT_MAX < rungs.len() {
        let count = rungs.len();
        return Err(LadderError::TooManyRungs { count });
    }
    let mut last = (Duration::ZERO, Duration::ZERO);
    for Rung { slot, reach } in rungs.iter().copied() {
        if let Slot::Every(slot) = slot
            && (slot.is_zero() || slot.subsec_nanos() != 0)
        {
            return Err(LadderError::Slot { slot });
        }
        if reach < slot.longest() {
            return Err(LadderError::ReachTooShort { reach });
        }
        if slot.longest() <= last.0 || reach <= last.1 {
            return Err(LadderError::NotRising { reach });
        }
        last = (slot.longest(), reach);
    }
    Ok(())
}

impl Rung {
    /// Adds the best point of each slot that it reaches.
    fn keep<'a>(
        &self,
        candidates: impl Iterator<Item = &'a Candidate>,
        as_of: WallTime,
        points: &mut BTreeSet<Seq>,
    ) {
        let oldest = WallTime(as_of.0.saturating_sub(micros(self.reach)));
        let oldest = self.slot.of(oldest);
        let mut best: Option<(u64, &Candidate)> = None;
        for candidate in candidates {
            let slot = self.slot.of(candidate.at);
            match best {
                _ if slot < oldest => (),
                Some((known, had)) if known == slot && had.is_app() && !candidate.is_app() => (),
                Some((known, _)) if known == slot => best = Some((slot, candidate)),
                had => {
                    points.extend(had.map(|(_, had)| had.seq));
                    best = Some((slot, candidate));
                }
            }
        }
        points.extend(best.map(|(_, best)| best.seq));
    }
}

impl Slot {
    /// Which slot a time lies in; it rises with time.
    fn of(self, at: WallTime) -> u64 {
        match self {
            Self::Every(len) => at.0 / micros(len),
            Self::Month => at.month(),
        }
    }

    const fn longest(self) -> Duration {
        match self {
            Self::Every(len) => len,
            Self::Month => Duration::from_secs(31 * 86_400),
        }
    }
}

impl Candidate {
    fn is_app(&self) -> bool {
        self.class == Some(Consistency::App)
    }
}

impl Holds {
    fn hold(&self, seq: Seq) -> bool {
        self.pins.contains(&seq) || self.spans.iter().any(|span| span.contains(seq))
    }
}

impl Kept {
    /// Whether the point stays.
    pub fn contains(&self, seq: Seq) -> bool {
        self.every_write_from.is_some_and(|from| from <= seq) || self.points.contains(&seq)
    }

    /// What either keeps.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        let first = [self.every_write_from, other.every_write_from];
        self.every_write_from = first.into_iter().flatten().min();
        self.points.extend(other.points);
        if let Some(from) = self.every_write_from {
            self.points.retain(|seq| *seq < from);
        }
        self
    }

    /// The candidates that this keeps and `later` does not: what a change of policy costs.
    pub fn lost<'a>(
        &'a self,
        later: &'a Self,
        candidates: &'a [Candidate],
    ) -> impl Iterator<Item = &'a Candidate> {
        let lost =
            |candidate: &&Candidate| self.contains(candidate.seq) && !later.contains(candidate.seq);
        candidates.iter().filter(lost)
    }
}

impl Policy {
    /// This ladder, from now on.
    pub const fn new(ladder: Ladder) -> Self {
        Self { ladder, next: None }
    }

    /// Has another ladder take its place at `at`. The one that holds now, once more: takes a change back.
    pub fn change(&mut self, to: Ladder, at: WallTime) {
        self.next = (to != self.ladder).then_some((to, at));
    }

    /// The ladder that holds.
    pub const fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// The one that takes its place, and when.
    pub fn next(&self) -> Option<(&Ladder, WallTime)> {
        self.next.as_ref().map(|(ladder, at)| (ladder, *at))
    }

    /// It is `now`, as [`trusted_time`] says: a change whose time has come takes effect.
    pub fn handle_time(&mut self, now: WallTime) {
        if let Some((ladder, _)) = self.next.take_if(|(_, at)| *at <= now) {
            self.ladder = ladder;
        }
    }

    /// What stays. See [`Ladder::keep`].
    pub fn keep(&self, candidates: &[Candidate], holds: &Holds, now: WallTime) -> Kept {
        let kept = self.ladder.keep(candidates, holds, now);
        match &self.next {
            None => kept,
            Some((next, _)) => kept.or(next.keep(candidates, holds, now)),
        }
    }
}

/// Why nothing may grow old now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoTime {
    #[error(
        "this machine's clock says {local}, the store's {store}: nothing is pruned until they agree"
    )]
    Disagree { local: WallTime, store: WallTime },
    #[error(
        "it is {now} by both clocks, and the newest manifest was made at {last}: nothing is pruned until then"
    )]
    WentBack { now: WallTime, last: WallTime },
}

/// The time that things may be as old as: the earlier of two that agree, not before what the newest manifest says.
///
/// # Errors
///
/// See [`NoTime`].
pub fn trusted_time(
    local: WallTime,
    store: WallTime,
    last: Option<WallTime>,
) -> Result<WallTime, NoTime> {
    if CLOCKS_APART_S_MAX * MICROS < local.0.abs_diff(store.0) {
        return Err(NoTime::Disagree { local, store });
    }
    let now = local.min(store);
    match last {
        Some(last) if now.0.saturating_add(CLOCKS_APART_S_MAX * MICROS) < last.0 => {
            Err(NoTime::WentBack { now, last })
        }
        _ => Ok(now),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
