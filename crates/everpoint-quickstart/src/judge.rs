//! Whether a restored image can be the disk at one instant: its writes are *closed* under "completed
//! before issued".
//!
//! Nobody knows which instant an unmarked `Seq` was on the clock of the load. What must hold all the same:
//! there is a set `C` of writes such that
//!
//! 1. the image is what `C` leaves behind: in each sector stands the last write of `C` that covers it
//!    (their order is known, see [`crate::history`]), and zeroes where there is none;
//! 2. `C` is closed: with a write it holds every write that had completed before that one was issued;
//! 3. `C` lies between the bookmarks: every write that had completed before the bookmark below the `Seq`
//!    is in it, and none that was issued after the bookmark above.
//!
//! Together they refuse a lost write, a torn one, two in the wrong order, one from the future, and bytes
//! that nobody wrote. Without the third an empty image would pass for any instant.
//!
//! # How the set is found
//!
//! A stamp says which write it is; zeroes do not say whether nothing, a zero or a discard put them there.
//! So the smallest candidate is built, and it grows only by what must be in it:
//!
//! - it begins with every write whose stamp is seen, and every write that 3. demands;
//! - closed it is by 2.: with `t` the highest issue in it, everything that had completed before `t`. One
//!   step is enough: what had completed before one of those was complete before `t` too;
//! - where zeroes are seen and the candidate's last write of the sector is a stamped one, a zero or
//!   discard after it must be in any `C`: the first such is added, and the candidate closed again.
//!
//! Every addition is forced, so the candidate is contained in every `C` that satisfies 1. to 3. When nothing
//! is left to add, either it satisfies 1. itself, or no set does: a sector that shows less than the
//! candidate's last write only falls further behind when the set grows.

use everpoint_units::Lba;

use crate::history::{Effect, History, Tick, Write, WriteNo};
use crate::stamp::{SECTOR, Sector, read_sector};

#[cfg(test)]
mod tests;

/// What an image shows, sector by sector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    /// Numbers of writes; [`ZERO`] and [`FOREIGN`] for the rest. Four bytes a sector.
    sectors: Vec<u32>,
}

/// Between which instants a `Seq` lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bounds {
    /// Every write that had completed by then is in the image.
    pub(crate) after: Tick,
    /// No write that was issued later is.
    pub(crate) before: Tick,
}

/// Why an image is the disk at no instant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Violation {
    /// Neither zeroes nor a whole stamped sector of this place.
    #[error("{at} holds bytes that nobody wrote there")]
    Foreign { at: Lba },
    /// A stamp of a write that does not cover the sector, or that never was.
    #[error("{at} shows write {write}, which never was there")]
    NeverThere { at: Lba, write: u32 },
    /// Issued after the bookmark that the `Seq` lies below.
    #[error("{at} shows write {write}, which was issued after the bookmark above")]
    FromTheFuture { at: Lba, write: u32 },
    /// A write that must be there is not.
    #[error("{at} lacks write {missing}: {because}")]
    Missing {
        at: Lba,
        missing: u32,
        because: Because,
    },
}

/// Why a write must be in an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Because {
    /// It had completed before the bookmark below was taken.
    Bookmark,
    /// Another part of it is there.
    Torn,
    /// It had completed before this write was issued, which is there.
    Write(u32),
}

/// An image that holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Holds {
    /// Writes that are in it.
    pub(crate) write_count: usize,
}

const ZERO: u32 = 0;
const FOREIGN: u32 = u32::MAX;

impl Seen {
    /// An image of nothing, to be filled by [`Self::read`].
    pub(crate) fn with_capacity(sectors: usize) -> Self {
        Self {
            sectors: Vec::with_capacity(sectors),
        }
    }

    /// Reads the next bytes of the image.
    ///
    /// # Panics
    ///
    /// If they are not whole sectors.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len() % SECTOR, 0, "images are read in whole sectors");
        for sector in bytes.chunks_exact(SECTOR) {
            let at =
                Lba::new(self.sectors.len() as u64).expect("an image is no longer than a file");
            self.sectors.push(match read_sector(sector, at) {
                Sector::Zero => ZERO,
                Sector::Stamped(write) => write.0.get(),
                Sector::Foreign => FOREIGN,
            });
        }
    }

    /// Writes that the newest image must show and this one does not: lost.
    pub(crate) fn lost(&self, newest: &Self) -> usize {
        let pairs = newest.sectors.iter().zip(&self.sectors);
        let mut lost: Vec<u32> = pairs
            .filter(|(expected, found)| expected != found)
            .map(|(expected, _)| *expected)
            .collect();
        lost.sort_unstable();
        lost.dedup();
        lost.len()
    }
}

/// Judges one image.
///
/// # Errors
///
/// The first [`Violation`] that shows that no set of writes explains the image.
///
/// # Panics
///
/// If the bounds are the wrong way round.
pub(crate) fn judge(history: &History, seen: &Seen, bounds: Bounds) -> Result<Holds, Violation> {
    assert!(
        bounds.after <= bounds.before,
        "bookmarks are passed in their order"
    );
    let mut candidate = Candidate::begin(history, seen, bounds)?;
    loop {
        let last = candidate.leaves_behind();
        let mut waits = Vec::new();
        for (index, (&seen, &last)) in seen.sectors.iter().zip(&last).enumerate() {
            if seen == last || (seen == ZERO && candidate.is_zeroes(last)) {
                continue;
            }
            if seen != ZERO {
                return Err(candidate.missing(index, last));
            }
            waits.push((index, last));
        }
        if waits.is_empty() {
            let write_count = candidate.numbers().count();
            return Ok(Holds { write_count });
        }
        candidate.add_zeroes(&waits)?;
    }
}

/// The set of writes that must be in the image, as far as it is known.
struct Candidate<'a> {
    history: &'a History,
    sector_count: usize,
    /// Writes that are in it for their own sake, by index.
    shown: Vec<bool>,
    /// Everything that had completed before this is in it.
    closed_to: Tick,
    /// The write that was issued at `closed_to`; none while that is the bookmark.
    newest: Option<WriteNo>,
    before: Tick,
}

impl<'a> Candidate<'a> {
    fn begin(history: &'a History, seen: &Seen, bounds: Bounds) -> Result<Self, Violation> {
        let sector_count = seen.sectors.len();
        let mut candidate = Self {
            history,
            sector_count,
            shown: vec![false; history.writes().len()],
            // One tick on, so that what completed at the bookmark's own tick counts as before it.
            closed_to: Tick(bounds.after.0.saturating_add(1)),
            newest: None,
            before: bounds.before,
        };
        for (index, &number) in seen.sectors.iter().enumerate() {
            let at = lba(index);
            if number == FOREIGN {
                return Err(Violation::Foreign { at });
            }
            let Some(write) = WriteNo::new(number) else {
                continue;
            };
            let covers = |known: &&Write| {
                let extent = known.extent;
                known.effect == Effect::Stamps && extent.start() <= at && at < extent.end()
            };
            if history.write(write).filter(covers).is_none() {
                return Err(Violation::NeverThere { at, write: number });
            }
            candidate.add(write, at)?;
        }
        Ok(candidate)
    }

    /// Adds a write that must be there, and closes the set.
    fn add(&mut self, number: WriteNo, at: Lba) -> Result<(), Violation> {
        let write = &self.history.writes()[number.index()];
        if self.before < write.issued {
            let write = number.0.get();
            return Err(Violation::FromTheFuture { at, write });
        }
        self.shown[number.index()] = true;
        if self.closed_to < write.issued {
            self.closed_to = write.issued;
            self.newest = Some(number);
        }
        Ok(())
    }

    fn contains(&self, index: usize, write: &Write) -> bool {
        let completed = write.completed.is_some_and(|tick| tick < self.closed_to);
        completed || self.shown[index]
    }

    /// The writes of the set, in the order of their numbers.
    fn numbers(&self) -> impl Iterator<Item = (u32, &'a Write)> {
        let writes = (1_u32..).zip(self.history.writes());
        writes.filter(|(number, write)| self.contains(*number as usize - 1, write))
    }

    /// What the set leaves behind: for each sector the number of its last write.
    fn leaves_behind(&self) -> Vec<u32> {
        let mut last = vec![ZERO; self.sector_count];
        for (number, write) in self.numbers().filter(|(_, w)| w.effect != Effect::Nothing) {
            sectors_mut(&mut last, write).fill(number);
        }
        last
    }

    /// Whether the write of this number leaves zeroes; none leaves them too.
    fn is_zeroes(&self, number: u32) -> bool {
        let write = WriteNo::new(number).and_then(|number| self.history.write(number));
        write.is_none_or(|write| write.effect == Effect::Zeroes)
    }

    /// For sectors that show zeroes where the set's last write is a stamped one: adds the first zero
    /// after it.
    fn add_zeroes(&mut self, waits: &[(usize, u32)]) -> Result<(), Violation> {
        let mut waiting = vec![ZERO; self.sector_count];
        for &(index, last) in waits {
            waiting[index] = last;
        }
        let mut forced = Vec::new();
        for (number, write) in (1_u32..).zip(self.history.writes()) {
            if write.effect != Effect::Zeroes {
                continue;
            }
            let start = lba_index(write.extent.start());
            let sectors = sectors_mut(&mut waiting, write).iter_mut().enumerate();
            let later = sectors.filter(|(_, last)| **last != ZERO && **last < number);
            let mut first = None;
            for (offset, last) in later {
                *last = ZERO;
                first.get_or_insert(start + offset);
            }
            if let Some(index) = first {
                forced.push((number, index));
            }
        }
        if let Some(index) = waiting.iter().position(|&last| last != ZERO) {
            return Err(self.missing(index, waiting[index]));
        }
        for (number, index) in forced {
            let number = WriteNo::new(number).expect("counted from 1");
            self.add(number, lba(index))?;
        }
        Ok(())
    }

    fn missing(&self, index: usize, number: u32) -> Violation {
        let write = WriteNo::new(number).and_then(|number| self.history.write(number));
        let completed = write.and_then(|write| write.completed);
        let in_closure = completed.is_some_and(|tick| tick < self.closed_to);
        let because = match self.newest {
            _ if !in_closure => Because::Torn,
            Some(newest) => Because::Write(newest.0.get()),
            None => Because::Bookmark,
        };
        Violation::Missing {
            at: lba(index),
            missing: number,
            because,
        }
    }
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bookmark => f.write_str("it had completed before the bookmark below"),
            Self::Torn => f.write_str("another part of it is there"),
            Self::Write(write) => {
                write!(
                    f,
                    "it had completed before write {write} was issued, which is there"
                )
            }
        }
    }
}

/// The sectors of a write, as far as the image has them.
fn sectors_mut<'a>(all: &'a mut [u32], write: &Write) -> &'a mut [u32] {
    let end = lba_index(write.extent.end()).min(all.len());
    let start = lba_index(write.extent.start()).min(end);
    &mut all[start..end]
}

fn lba(index: usize) -> Lba {
    Lba::new(index as u64).expect("an image is no longer than a file")
}

fn lba_index(lba: Lba) -> usize {
    usize::try_from(lba.sector()).expect("an image that fits into memory")
}
