//! Which content each sector has, of versions that come by sector: the highest at or below a `Seq` counts.
//!
//! One pass from the first sector to the last. Versions rise by first sector, as the pages of a layer, or of several
//! merged, have them; held are those alone that reach over the sector at hand.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use everpoint_units::Seq;

use crate::extent_map::Sectors;
use crate::versions::{Given, GivenBytes};

/// See the module.
#[derive(Debug)]
pub struct Sweep {
    through: Seq,
    /// Up to where everything was said.
    at: u64,
    open: BinaryHeap<Open>,
    found: Vec<Found>,
}

/// Sectors that one record gives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    pub sectors: Sectors,
    pub seq: Seq,
    pub copy: u32,
    /// Its `lead` is that of the first of these sectors.
    pub bytes: GivenBytes,
}

/// A version that reaches over the sector at hand; the highest first.
#[derive(Debug)]
struct Open(Given);

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Open {}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Open {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.version.cmp(&other.0.version)
    }
}

impl Sweep {
    /// Nothing said yet; versions above `through` do not count.
    pub const fn new(through: Seq) -> Self {
        Self {
            through,
            at: 0,
            open: BinaryHeap::new(),
            found: Vec::new(),
        }
    }

    /// The next version, whose first sector is not below that of the one before.
    ///
    /// # Panics
    ///
    /// If it is.
    pub fn push(&mut self, given: Given) {
        if self.through < given.version.seq {
            return;
        }
        self.say_up_to(given.sectors.start);
        assert!(self.at <= given.sectors.start, "versions come by sector");
        let hides =
            |top: &Open| given.version < top.0.version && given.sectors.end <= top.0.sectors.end;
        if self.open.peek().is_some_and(hides) {
            return;
        }
        self.open.push(Open(given));
    }

    /// What was found since this was asked last, rising by sector: of a disk that has so many.
    pub fn take(&mut self, disk_sectors: u64) -> Vec<Found> {
        let mut found = std::mem::take(&mut self.found);
        found.retain_mut(|found| {
            found.sectors.end = found.sectors.end.min(disk_sectors);
            found.sectors.start < found.sectors.end
        });
        found
    }

    /// There are no more versions.
    pub fn finish(&mut self) {
        self.say_up_to(u64::MAX);
    }

    /// Says what every sector below `end` has.
    fn say_up_to(&mut self, end: u64) {
        while self.at < end {
            while self
                .open
                .peek()
                .is_some_and(|top| top.0.sectors.end <= self.at)
            {
                self.open.pop();
            }
            let Some(Open(top)) = self.open.peek() else {
                self.at = end;
                return;
            };
            // What lies below it is told once it ends.
            let until = top.sectors.end.min(end);
            let sectors = self.at..until;
            if let Some(bytes) = top.bytes {
                let skipped = sectors.start - top.sectors.start;
                let lead = bytes.lead + u32::try_from(skipped).expect("inside a record");
                let bytes = GivenBytes { lead, ..bytes };
                let (seq, copy) = (top.version.seq, top.version.copy);
                self.say(Found {
                    sectors,
                    seq,
                    copy,
                    bytes,
                });
            }
            self.at = until;
        }
    }

    /// Adds to what was found last where it goes on.
    fn say(&mut self, next: Found) {
        if let Some(last) = self.found.last_mut()
            && last.sectors.end == next.sectors.start
            && (last.seq, last.copy) == (next.seq, next.copy)
            && u64::from(last.bytes.lead) + (last.sectors.end - last.sectors.start)
                == u64::from(next.bytes.lead)
        {
            last.sectors.end = next.sectors.end;
        } else {
            self.found.push(next);
        }
    }
}

#[cfg(test)]
mod tests;
