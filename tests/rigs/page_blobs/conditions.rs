//! What a request wants to be true before it is done.

use std::time::{Instant, SystemTime};

use super::dates;
use super::lease::Lease;
use super::refusal::Refusal;

/// The conditions of one request, which are looked at in the order: headers of HTTP, lease, sequence number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conditions {
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
    pub(super) if_modified_since: Option<SystemTime>,
    pub(super) if_unmodified_since: Option<SystemTime>,
    pub(super) lease: Option<String>,
    pub(super) sequence: Vec<SequenceCondition>,
}

/// How a blob's sequence number is to stand to `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceCondition {
    pub order: SequenceOrder,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceOrder {
    AtMost,
    Below,
    Equal,
}

/// What conditions of HTTP are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) etag: &'a str,
    pub(super) modified: SystemTime,
}

impl Conditions {
    /// For a read, or a write when `is_write`, of what is there.
    pub(super) fn check(
        &self,
        seen: Seen<'_>,
        lease: &Lease,
        sequence_number: u64,
        now: Instant,
        is_write: bool,
    ) -> Result<(), Refusal> {
        self.check_headers(seen, is_write)?;
        let lease_id = self.lease.as_deref();
        if is_write {
            lease.admits_write(lease_id, now)?;
        } else {
            lease.admits_read(lease_id, now)?;
        }
        let holds = |condition: &SequenceCondition| condition.holds(sequence_number);
        if self.sequence.iter().all(holds) {
            Ok(())
        } else {
            Err(Refusal::SEQUENCE_CONDITION_NOT_MET)
        }
    }

    /// For what is not there.
    pub(super) fn check_absent(&self) -> Result<(), Refusal> {
        if self.if_match.is_some() {
            return Err(Refusal::CONDITION_NOT_MET);
        }
        match self.lease {
            Some(_) => Err(Refusal::LEASE_NOT_PRESENT_WITH_BLOB_OPERATION),
            None => Ok(()),
        }
    }

    /// Whether the blob is to be new.
    pub(super) fn wants_none(&self) -> bool {
        self.if_none_match.as_deref() == Some("*")
    }

    pub(super) fn check_headers(&self, seen: Seen<'_>, is_write: bool) -> Result<(), Refusal> {
        let modified = dates::whole_second(seen.modified);
        let names = |wanted: &String| {
            let mut wanted = wanted.split(',').map(|etag| etag.trim());
            wanted.any(|etag| etag == "*" || etag == seen.etag)
        };
        let is_other = self.if_match.as_ref().is_some_and(|wanted| !names(wanted));
        let is_newer = self
            .if_unmodified_since
            .is_some_and(|since| since < modified);
        if is_other || is_newer {
            return Err(Refusal::CONDITION_NOT_MET);
        }
        let is_same = self.if_none_match.as_ref().is_some_and(names);
        let is_older = self
            .if_modified_since
            .is_some_and(|since| modified <= since);
        match is_same || is_older {
            false => Ok(()),
            true if is_write => Err(Refusal::CONDITION_NOT_MET),
            true => Err(Refusal::CONDITION_NOT_MET.not_modified()),
        }
    }
}

impl SequenceCondition {
    fn holds(self, number: u64) -> bool {
        match self.order {
            SequenceOrder::AtMost => number <= self.number,
            SequenceOrder::Below => number < self.number,
            SequenceOrder::Equal => number == self.number,
        }
    }
}
