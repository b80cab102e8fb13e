//! Sealing a journal (R5): one operation for restart, take-over, planned rotation and shutdown.
//!
//! List the journal to its end. Where `end` or a seal stands, it is sealed, and what stands there
//! counts. Otherwise create the seal in the *first missing number*; if that name was taken meanwhile,
//! list again. A create whose outcome is unknown is repeated with the same bytes (R9), so the seal is
//! frozen once for each number that it is tried in.
//!
//! The seal states the prefix (R4): the gapless run, up to where two neighbours disagree about the
//! checksum. They do when a server was resumed from a snapshot of its memory, or cloned, and both
//! lives created objects. Only the last objects of the run are read to find that out:
//!
//! ```text
//! 1 … n │ n+1 …     n from one life, n+1 from another: no life has both, so none knows its run of own
//!                   successes to reach past n, and each froze at most n + IN_FLIGHT_MAX
//! ```
//!
//! A seal has its own length, shorter than any data object, so that a listing shows where seals may
//! be; only those are read.

use everpoint_format::object::{ObjectChecksum, ObjectHeader, SEAL_LEN, Seal};
use everpoint_marks::{planted, reached};
use everpoint_units::{JournalId, ObjectNo, ServerId, VaultId, WallTime};

use crate::commit::IN_FLIGHT_MAX;
use crate::path::{Listing, gapless_run};

/// See the module.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Sealing {
    order: SealOrder,
    at: At,
}

/// Which journal to seal, and what the seal says.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SealOrder {
    pub vault: VaultId,
    pub journal: JournalId,
    /// The journal that goes on; its level must be higher (R2).
    pub successor: JournalId,
    /// Who seals.
    pub server: ServerId,
    pub assignment: u64,
    pub now: WallTime,
}

/// What the driver does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// List the journal and call [`Sealing::handle_listing`].
    List,
    /// Read `end` and call [`Sealing::handle_read`].
    ReadEnd,
    /// Read an object and call [`Sealing::handle_read`].
    Read(ObjectNo),
    /// Create the seal under its own number and call [`Sealing::handle_created`].
    Create(Seal),
    /// The journal is sealed, by this seal.
    Sealed(Seal),
}

/// What an object turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    Data {
        checksum: ObjectChecksum,
        /// What it says of the object before it.
        previous: ObjectChecksum,
    },
    Seal(Seal),
    /// Present and unreadable.
    Damaged,
    Missing,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum At {
    Listing,
    ReadingEnd,
    /// Candidates for a seal, last first; then the last objects of the run.
    Candidates {
        candidates: Vec<ObjectNo>,
        run: ObjectNo,
    },
    LastObjects(Tail),
    Creating(Seal),
    Sealed(Seal),
}

/// The last objects of a run, read in order.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Tail {
    next: ObjectNo,
    run: ObjectNo,
    /// Checksum of the object before `next`, if that one was read and decoded.
    previous: Option<ObjectChecksum>,
    /// Where the prefix ends, once two neighbours disagreed.
    ended: Option<(ObjectNo, ObjectChecksum)>,
}

impl Sealing {
    /// Starts to seal.
    ///
    /// # Panics
    ///
    /// If the successor's level is not higher (R2): the server opens a higher journal first.
    pub fn new(order: SealOrder) -> Self {
        assert!(
            order.journal.level < order.successor.level,
            "a seal names a successor of a higher level"
        );
        Self {
            order,
            at: At::Listing,
        }
    }

    /// The journal that is sealed.
    pub const fn journal(&self) -> JournalId {
        self.order.journal
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match &self.at {
            At::Listing => Step::List,
            At::ReadingEnd => Step::ReadEnd,
            At::Candidates { candidates, run } => candidates
                .last()
                .map_or(Step::Read(*run), |&n| Step::Read(n)),
            At::LastObjects(tail) => Step::Read(tail.next),
            At::Creating(seal) => Step::Create(*seal),
            At::Sealed(seal) => Step::Sealed(*seal),
        }
    }

    /// The whole listing, from the start to its end.
    pub fn handle_listing(&mut self, listing: &Listing) {
        if listing.has_end {
            self.at = At::ReadingEnd;
            return;
        }
        let candidates = listing
            .objects
            .iter()
            .rev()
            .filter(|(_, len)| *len == SEAL_LEN as u64)
            .map(|(number, _)| *number)
            .collect();
        let run = match listing.objects.last() {
            Some((last, _)) if planted!(SealBehindGap) => *last,
            _ => gapless_run(listing),
        };
        self.at = At::Candidates { candidates, run };
        self.after_candidates();
    }

    /// What the object, or `end`, that was to be read is.
    ///
    /// # Panics
    ///
    /// If nothing was to be read.
    pub fn handle_read(&mut self, found: Found) {
        match (&mut self.at, found) {
            (At::ReadingEnd | At::Candidates { .. }, Found::Seal(seal)) => {
                reached!(SealThere);
                self.at = At::Sealed(seal);
            }
            (At::ReadingEnd, _) => self.at = At::Listing,
            (At::Candidates { candidates, .. }, _) => {
                candidates.pop();
                self.after_candidates();
            }
            (At::LastObjects(tail), found) => {
                let tail = *tail;
                match found {
                    Found::Data { checksum, previous } => {
                        let tail = tail.disagreeing(previous);
                        self.after(tail, Some(checksum));
                    }
                    // Damage ends no prefix and takes no seal: the seal goes behind it.
                    Found::Damaged => self.after(tail, None),
                    Found::Seal(seal) => self.at = At::Sealed(seal),
                    Found::Missing => self.at = At::Listing,
                }
            }
            _ => panic!("nothing was to be read"),
        }
    }

    /// What became of the create: `true` when these bytes stand there now, `false` when other bytes
    /// do. An unknown outcome is no answer: the driver repeats the same create.
    ///
    /// # Panics
    ///
    /// If nothing was to be created.
    pub fn handle_created(&mut self, mine: bool) {
        let At::Creating(seal) = self.at else {
            panic!("nothing was to be created");
        };
        if !mine {
            reached!(SealNumberTaken);
        }
        self.at = match mine || planted!(SealNotChecked) {
            true => At::Sealed(seal),
            false => At::Listing,
        };
    }

    fn after_candidates(&mut self) {
        if let At::Candidates { candidates, run } = &self.at
            && candidates.is_empty()
        {
            let run = *run;
            if run == ObjectNo::ZERO {
                reached!(EmptyJournalSealed);
                self.create(
                    run,
                    ObjectChecksum::default(),
                    (run, ObjectChecksum::default()),
                );
            } else {
                let first = run.0.saturating_sub(IN_FLIGHT_MAX).max(1);
                let next = ObjectNo(first);
                let previous = (first == 1).then(ObjectChecksum::default);
                self.at = At::LastObjects(Tail {
                    next,
                    run,
                    previous,
                    ended: None,
                });
            }
        }
    }

    /// The object at `tail.next` has this checksum, if it decoded.
    fn after(&mut self, tail: Tail, checksum: Option<ObjectChecksum>) {
        if tail.next < tail.run {
            self.at = At::LastObjects(Tail {
                next: tail.next.next(),
                previous: checksum,
                ..tail
            });
            return;
        }
        let last = checksum.unwrap_or_default();
        self.create(tail.run, last, tail.ended.unwrap_or((tail.run, last)));
    }

    /// Creates the seal behind the run; it states the prefix.
    fn create(
        &mut self,
        run: ObjectNo,
        previous: ObjectChecksum,
        (prefix_end, last_checksum): (ObjectNo, ObjectChecksum),
    ) {
        let prefix_end = match planted!(SealStatesLess) {
            true => ObjectNo(prefix_end.0.saturating_sub(1)),
            false => prefix_end,
        };
        let order = &self.order;
        self.at = At::Creating(Seal {
            header: ObjectHeader {
                vault: order.vault,
                journal: order.journal,
                number: run.next(),
                server: order.server,
                assignment: order.assignment,
                previous,
                created_at: order.now,
            },
            prefix_end,
            last_checksum,
            successor: order.successor,
        });
    }
}

impl Tail {
    /// The same, its prefix ended before `next` if `next` follows another object than lies there.
    fn disagreeing(self, stated: ObjectChecksum) -> Self {
        match self.previous {
            Some(previous) if previous != stated && self.ended.is_none() => Self {
                ended: Some((ObjectNo(self.next.0 - 1), previous)),
                ..self
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests;
