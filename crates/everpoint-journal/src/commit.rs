//! Commit: when to freeze an object, and how far `committed` reaches (R9, R10).
//!
//! ```text
//! blocks ─▶ batch ─freeze─▶ number n, PUT … several in flight
//!                              │ stored, gapless from the first
//!                              ▼
//!                          ask for `end`, after those stores
//!                              │ absent
//!                              ▼
//!                          committed through n
//! ```
//!
//! Invariant, asserted after every event: `committed <= asked_after <= stored <= frozen`, where
//! `stored` is the end of the gapless run of own successes.

use std::collections::BTreeSet;
use std::time::Duration;

use everpoint_marks::{planted, reached};
use everpoint_units::{Moment, ObjectNo};

/// Most objects that any server may have under way at once. Sealing relies on it: what lies behind a
/// disagreement of two lives of one server is at most so many objects.
pub const IN_FLIGHT_MAX: u64 = 16;

/// See the module.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Commit {
    limits: CommitLimits,
    /// Last number that was given out.
    frozen: ObjectNo,
    /// End of the gapless run of own successes.
    stored: ObjectNo,
    /// Successes beyond that run.
    stored_ahead: BTreeSet<ObjectNo>,
    /// What the question for `end` that is under way covers.
    asking: Option<ObjectNo>,
    committed: ObjectNo,
    fenced: bool,
    batch: Batch,
    pending_commit: bool,
}

/// What one process server allows itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CommitLimits {
    /// How long a change may wait for its object. Default: 2 s.
    pub interval: Duration,
    /// Frames that close a batch at once. Unit: bytes. Default: 32 MiB.
    pub object_len_target: u64,
    /// Objects under way at once, at most [`IN_FLIGHT_MAX`]. Default: 4.
    pub in_flight_max: u64,
}

impl Default for CommitLimits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            object_len_target: 32 << 20,
            in_flight_max: 4,
        }
    }
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Ask whether the own journal's `end` is there; answer with [`Commit::handle_end_absent`] or
    /// [`Commit::handle_fenced`].
    AskForEnd { after: ObjectNo },
    /// Everything through this object is committed: tell the agents, free the log.
    Committed { through: ObjectNo },
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Batch {
    /// Unit: bytes of frames.
    len: u64,
    /// When the oldest change that calls for a commit has waited long enough.
    deadline: Option<Moment>,
}

impl Commit {
    /// A new journal, nothing written.
    ///
    /// # Panics
    ///
    /// If a limit is zero, or more may be under way than [`IN_FLIGHT_MAX`].
    pub fn new(limits: CommitLimits) -> Self {
        assert!(0 < limits.in_flight_max && 0 < limits.object_len_target);
        assert!(
            limits.in_flight_max <= IN_FLIGHT_MAX,
            "sealing relies on it"
        );
        Self {
            limits,
            frozen: ObjectNo::ZERO,
            stored: ObjectNo::ZERO,
            stored_ahead: BTreeSet::new(),
            asking: None,
            committed: ObjectNo::ZERO,
            fenced: false,
            batch: Batch::default(),
            pending_commit: false,
        }
    }

    /// A cached block joined the batch. `calls` says whether it calls for a commit: a block with
    /// changes does, an empty one only when it lifts the cut over committed changes.
    pub fn handle_block(&mut self, now: Moment, frame_len: u64, calls: bool) {
        self.batch.len += frame_len;
        if calls {
            let deadline = now.after(self.limits.interval);
            self.batch.deadline.get_or_insert(deadline);
        }
    }

    /// Asks for a commit as soon as possible: shutdown, a hand-over, an operator's point.
    pub fn handle_hurry(&mut self, now: Moment) {
        self.batch.deadline = Some(now);
    }

    /// Whether the batch should be frozen now.
    pub fn wants_freeze(&self, now: Moment) -> bool {
        let due = self.batch.deadline.is_some_and(|deadline| deadline <= now);
        let full = self.limits.object_len_target <= self.batch.len;
        (due || full) && self.may_freeze()
    }

    /// When [`Self::wants_freeze`] changes by time alone.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.batch.deadline.filter(|_| self.may_freeze())
    }

    fn may_freeze(&self) -> bool {
        !self.fenced && self.in_flight() < self.limits.in_flight_max
    }

    /// Objects frozen and not yet stored in the gapless run.
    pub fn in_flight(&self) -> u64 {
        self.frozen.0 - self.stored.0
    }

    /// The batch was frozen; its object has this number. The next batch is empty.
    ///
    /// # Panics
    ///
    /// If too many are in flight, or after a fence.
    pub fn handle_frozen(&mut self) -> ObjectNo {
        assert!(self.may_freeze(), "the driver froze one object too many");
        self.frozen = self.frozen.next();
        self.batch = Batch::default();
        self.assert_invariants();
        self.frozen
    }

    /// The create of `number` succeeded, or found the same bytes.
    ///
    /// # Panics
    ///
    /// If that number was never frozen or was stored before.
    pub fn handle_stored(&mut self, number: ObjectNo) {
        if planted!(CommittedOverGap) {
            self.stored = self.stored.max(number);
            return;
        }
        assert!(self.stored < number && number <= self.frozen);
        assert!(self.stored_ahead.insert(number), "stored twice: {number}");
        while self.stored_ahead.remove(&self.stored.next()) {
            self.stored = self.stored.next();
        }
        if !self.stored_ahead.is_empty() {
            reached!(StoredOutOfOrder);
        }
        self.assert_invariants();
    }

    /// `end` was asked for after `after` was stored, and is not there.
    ///
    /// # Panics
    ///
    /// If that was not the question.
    pub fn handle_end_absent(&mut self, after: ObjectNo) {
        assert_eq!(self.asking.take(), Some(after), "not what was asked");
        if !self.fenced {
            self.committed = after;
            self.pending_commit = true;
        }
        self.assert_invariants();
    }

    /// The question for `end` got no answer; it will be asked again.
    pub fn handle_end_unknown(&mut self) {
        self.asking = None;
    }

    /// A create found other bytes or a seal, or `end` is there: this journal is over, for ever.
    pub fn handle_fenced(&mut self) {
        self.fenced = true;
        self.asking = None;
    }

    /// Whether this journal is over.
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Everything through this object is committed.
    pub const fn committed(&self) -> ObjectNo {
        self.committed
    }

    /// Whether nothing waits: no batch, nothing in flight, everything stored is committed.
    pub fn is_idle(&self) -> bool {
        self.batch.deadline.is_none() && self.batch.len == 0 && self.committed == self.frozen
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.pending_commit) {
            return Some(Action::Committed {
                through: self.committed,
            });
        }
        if !self.fenced && self.asking.is_none() && self.committed < self.stored {
            self.asking = Some(self.stored);
            return Some(Action::AskForEnd { after: self.stored });
        }
        None
    }

    fn assert_invariants(&self) {
        let asked = self.asking.unwrap_or(self.committed);
        assert!(self.committed <= asked);
        assert!(asked <= self.stored);
        assert!(self.stored <= self.frozen);
    }
}

#[cfg(test)]
mod tests;
