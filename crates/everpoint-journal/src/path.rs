//! A machine's path: from its origin through releases and seals to the journal that goes on.
//!
//! The walk names one thing that it needs ([`PathWalk::need`]), the driver fetches it and hands it
//! in, until nothing is needed. Every data object that the walk accepts is handed back to the driver
//! as *in the path*; in what order is what the walk decides.
//!
//! Rules: R2 (an edge that does not rise is damage), R3 (a machine's part of a journal runs to its
//! first release inside the prefix, else to the seal), R4 (the prefix of an unsealed journal is its
//! gapless run in which no two neighbours that decode disagree; damage ends nothing; behind that, only
//! a seal still counts, and leads on). Where `end`
//! stands (R14) something was deleted, which this version cannot follow: it says so instead of
//! serving less than there was.

use everpoint_format::data::DataIndex;
use everpoint_format::index::Release;
use everpoint_format::manifest::FoldedTo;
use everpoint_format::object::{ObjectChecksum, Seal};
use everpoint_format::origin::Origin;
use everpoint_marks::{planted, reached};
use everpoint_units::{JournalId, MachineId, ObjectNo};

/// See the module.
#[derive(Debug)]
pub struct PathWalk {
    machine: MachineId,
    at: At,
    damage: Vec<Damage>,
}

/// What the walk wants to know next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// The machine's origin object.
    Origin,
    /// A complete listing of a journal.
    Listing(JournalId),
    /// One object of a journal: its index, or the seal.
    Object(JournalId, ObjectNo),
}

/// What a listing of a journal showed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listing {
    /// Number and length of each object, rising by number. Unit of length: bytes.
    pub objects: Vec<(ObjectNo, u64)>,
    /// Whether the journal's `end` is there.
    pub has_end: bool,
}

/// What became of reading one object.
#[derive(Clone, Copy, Debug)]
pub enum ObjectRead<'a> {
    Data(&'a DataIndex),
    Seal(&'a Seal),
    /// It is there and does not decode, or belongs elsewhere.
    Damaged,
    /// It was listed and is gone.
    Missing,
}

/// What to do with the object just handed in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is part of the path: fold what it holds of the machine.
    Fold,
    /// Nothing in it belongs to the machine's history.
    Skip,
}

/// How a finished walk ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathEnd {
    /// The machine has no origin: nothing of it is in this vault.
    NoOrigin,
    /// The last journal is open; its boot owns the machine.
    Open { journal: JournalId, last: ObjectNo },
    /// A release without successor closed the path (failed over, or removed).
    Closed {
        journal: JournalId,
        number: ObjectNo,
    },
    /// The walk cannot go on. See [`PathWalk::damage`].
    Broken,
}

/// Something on the path that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Damage {
    /// An object does not decode; what it held is not known.
    #[error("journal {journal}, {number}: does not decode")]
    Object {
        journal: JournalId,
        number: ObjectNo,
    },
    /// An object was listed and is gone.
    #[error("journal {journal}, {number}: listed, then not found")]
    Vanished {
        journal: JournalId,
        number: ObjectNo,
    },
    /// A seal or release names a journal whose level is not higher.
    #[error("journal {journal}, {number}: names a successor whose level is not higher")]
    LevelDoesNotRise {
        journal: JournalId,
        number: ObjectNo,
    },
    /// A seal disagrees with the objects before it.
    #[error("journal {journal}: its seal disagrees with the objects before it")]
    SealDisagrees { journal: JournalId },
    /// Objects were deleted by retention, which this build cannot follow.
    #[error("journal {journal}: was pruned; use an everpoint that reads manifests")]
    Pruned { journal: JournalId },
    /// The origin does not decode, or belongs to another machine or vault.
    #[error("the origin of the machine does not decode")]
    Origin,
}

/// The number of a journal's first object.
const FIRST: ObjectNo = ObjectNo::ZERO.next();

#[derive(Debug)]
enum At {
    Origin,
    Listing(Entry),
    Reading(Reading),
    Done(PathEnd),
}

/// Where a walk enters a journal.
#[derive(Clone, Copy, Debug)]
struct Entry {
    journal: JournalId,
    /// The first of its objects that is wanted.
    first: ObjectNo,
    /// It must reach to here.
    known: ObjectNo,
    /// Checksum of the object before the first.
    previous: Option<ObjectChecksum>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    journal: JournalId,
    next: ObjectNo,
    /// The end of the gapless run that was listed.
    listed: ObjectNo,
    /// Checksum of the object before `next`, if that one decoded.
    previous: Option<ObjectChecksum>,
    /// Where two neighbours disagreed: the prefix that ended there. A seal may still follow.
    ended: Option<Prefix>,
}

/// The end of a prefix, and the checksum of its last object if that one decoded.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    last: ObjectNo,
    checksum: Option<ObjectChecksum>,
}

impl PathWalk {
    /// A walk that begins at the machine's origin.
    pub const fn new(machine: MachineId) -> Self {
        Self {
            machine,
            at: At::Origin,
            damage: Vec::new(),
        }
    }

    /// A walk that begins at an object that is known to be part of the machine's path. It is asked for, and handed
    /// back as part of it: where the machine left the journal in it, the walk follows.
    pub fn from(machine: MachineId, journal: JournalId, number: ObjectNo) -> Self {
        let previous = (number == FIRST).then(ObjectChecksum::default);
        let entry = Entry {
            journal,
            first: number,
            known: number,
            previous,
        };
        Self {
            machine,
            at: At::Listing(entry),
            damage: Vec::new(),
        }
    }

    /// A walk that goes on behind what a manifest has folded.
    pub fn behind(machine: MachineId, folded: &FoldedTo) -> Self {
        let entry = Entry {
            journal: folded.journal,
            first: folded.number.next(),
            known: folded.number,
            previous: Some(folded.checksum),
        };
        Self {
            machine,
            at: At::Listing(entry),
            damage: Vec::new(),
        }
    }

    /// What the walk needs; `None` when it is done.
    pub fn need(&self) -> Option<Need> {
        match &self.at {
            At::Origin => Some(Need::Origin),
            At::Listing(entry) => Some(Need::Listing(entry.journal)),
            At::Reading(at) => Some(Need::Object(at.journal, at.next)),
            At::Done(_) => None,
        }
    }

    /// The objects that the walk will ask for next, as far as it knows: `need` and those behind it
    /// in the same journal. For a driver that reads ahead.
    pub fn ahead(&self) -> Option<(JournalId, ObjectNo, ObjectNo)> {
        match &self.at {
            At::Reading(at) => Some((at.journal, at.next, at.listed)),
            _ => None,
        }
    }

    /// How it ended; `None` while something is needed.
    pub fn end(&self) -> Option<PathEnd> {
        match self.at {
            At::Done(end) => Some(end),
            _ => None,
        }
    }

    /// What was not as it should be, in the order found.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The origin object; `None` if there is none, an error if it does not decode.
    ///
    /// # Panics
    ///
    /// If the origin was not what the walk needed.
    pub fn handle_origin(&mut self, origin: Result<Option<&Origin>, ()>) {
        assert!(
            matches!(self.at, At::Origin),
            "the origin was not asked for"
        );
        self.at = match origin {
            Ok(Some(origin)) if origin.machine == self.machine => {
                At::Listing(Entry::whole(origin.journal))
            }
            Ok(None) => At::Done(PathEnd::NoOrigin),
            Ok(Some(_)) | Err(()) => {
                self.damage.push(Damage::Origin);
                At::Done(PathEnd::Broken)
            }
        };
    }

    /// The listing of the journal that was needed.
    ///
    /// # Panics
    ///
    /// If no listing was needed.
    pub fn handle_listing(&mut self, listing: &Listing) {
        let At::Listing(entry) = self.at else {
            panic!("no listing was asked for");
        };
        let (journal, first) = (entry.journal, entry.first);
        if listing.has_end {
            self.damage.push(Damage::Pruned { journal });
            self.at = At::Done(PathEnd::Broken);
            return;
        }
        let listed = match listing.objects.last() {
            Some((last, _)) if planted!(PathOverGap) => *last,
            _ => gapless_run(listing),
        };
        if listed < entry.known && first != FIRST {
            let number = entry.known;
            self.damage.push(Damage::Vanished { journal, number });
            self.at = At::Done(PathEnd::Broken);
            return;
        }
        self.at = At::Reading(Reading {
            journal,
            next: first,
            listed,
            previous: entry.previous,
            ended: None,
        });
        self.stop_at_the_end_of_the_run();
    }

    /// The object that was needed.
    ///
    /// # Panics
    ///
    /// If no object was needed.
    pub fn handle_object(&mut self, read: ObjectRead<'_>) -> Verdict {
        let At::Reading(at) = self.at else {
            panic!("no object was asked for");
        };
        let (journal, number) = (at.journal, at.next);
        let verdict = match read {
            ObjectRead::Data(data) => return self.handle_data(at, data),
            ObjectRead::Seal(seal) => {
                self.handle_seal(at, seal);
                return Verdict::Skip;
            }
            ObjectRead::Damaged => {
                if at.ended.is_none() {
                    self.damage.push(Damage::Object { journal, number });
                }
                Verdict::Skip
            }
            ObjectRead::Missing => {
                self.damage.push(Damage::Vanished { journal, number });
                self.at = At::Done(PathEnd::Broken);
                return Verdict::Skip;
            }
        };
        self.step(at, None);
        verdict
    }

    fn handle_data(&mut self, at: Reading, data: &DataIndex) -> Verdict {
        if at.ended.is_some() {
            self.step(at, Some(data.checksum));
            return Verdict::Skip;
        }
        let disagrees = at
            .previous
            .is_some_and(|previous| previous != data.header.previous);
        if disagrees {
            // The prefix ends before this object (R4): its writer had another past. Nothing from here
            // on was ever committed; a seal behind it leads on all the same.
            let ended = Some(Prefix {
                last: ObjectNo(at.next.0 - 1),
                checksum: at.previous,
            });
            self.step(Reading { ended, ..at }, Some(data.checksum));
            return Verdict::Skip;
        }
        let release = data
            .index
            .releases
            .iter()
            .find(|release| release.machine == self.machine);
        match release {
            None => self.step(at, Some(data.checksum)),
            Some(Release {
                successor: None, ..
            }) => {
                self.at = At::Done(PathEnd::Closed {
                    journal: at.journal,
                    number: at.next,
                });
            }
            Some(Release {
                successor: Some(successor),
                ..
            }) => self.go_on_in(at, *successor),
        }
        Verdict::Fold
    }

    fn handle_seal(&mut self, at: Reading, seal: &Seal) {
        let run = Prefix {
            last: ObjectNo(at.next.0 - 1),
            checksum: at.previous,
        };
        if !at.ended.unwrap_or(run).is_stated_by(seal) {
            self.damage.push(Damage::SealDisagrees {
                journal: at.journal,
            });
        }
        self.go_on_in(at, seal.successor);
    }

    fn go_on_in(&mut self, at: Reading, successor: JournalId) {
        if successor.level <= at.journal.level {
            self.damage.push(Damage::LevelDoesNotRise {
                journal: at.journal,
                number: at.next,
            });
            self.at = At::Done(PathEnd::Broken);
        } else {
            self.at = At::Listing(Entry::whole(successor));
        }
    }

    fn step(&mut self, at: Reading, previous: Option<ObjectChecksum>) {
        self.at = At::Reading(Reading {
            next: at.next.next(),
            previous,
            ..at
        });
        self.stop_at_the_end_of_the_run();
    }

    fn stop_at_the_end_of_the_run(&mut self) {
        if let At::Reading(at) = self.at
            && at.listed < at.next
        {
            self.at = At::Done(PathEnd::Open {
                journal: at.journal,
                last: at.ended.map_or(at.listed, |prefix| prefix.last),
            });
        }
    }
}

impl Entry {
    /// A journal from its first object on.
    fn whole(journal: JournalId) -> Self {
        Self {
            journal,
            first: FIRST,
            known: ObjectNo::ZERO,
            previous: Some(ObjectChecksum::default()),
        }
    }
}

impl Prefix {
    fn is_stated_by(&self, seal: &Seal) -> bool {
        let agrees = self.checksum.is_none_or(|sum| sum == seal.last_checksum);
        seal.prefix_end == self.last && agrees
    }
}

/// The last number of the run from 1 without gaps; zero when 1 is missing.
pub fn gapless_run(listing: &Listing) -> ObjectNo {
    let mut run = ObjectNo::ZERO;
    for (number, _) in &listing.objects {
        if *number == run.next() {
            run = *number;
        } else {
            reached!(GapInListing);
            break;
        }
    }
    run
}

#[cfg(test)]
mod tests;
