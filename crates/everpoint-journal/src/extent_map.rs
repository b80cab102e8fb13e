//! Which bytes a disk has at a `Seq`: the fold of its records, newest wins.
//!
//! The map holds one entry for each run of sectors that one record still gives; what it does not
//! hold reads as zeroes. An entry names the record, not the bytes: object, section, block, record,
//! and how far into the record it begins. Memory follows the number of such runs, not the disk.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

use everpoint_format::Change;
use everpoint_format::index::Section;
use everpoint_units::{Extent, Lba, Seq};

/// Sectors, half-open. A disk's end may move, so they may reach beyond any disk.
pub type Sectors = Range<u64>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ExtentMap {
    through: Seq,
    /// By first sector; values do not overlap.
    runs: BTreeMap<u64, Run>,
}

/// Sectors that one record gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    pub extent: Extent,
    pub source: RecordPlace,
    /// How far into the record's extent the run begins. Unit: sectors.
    pub skip: u64,
}

/// A record of the disk: the `object`-th that was folded, and where in its index.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordPlace {
    pub object: u32,
    pub section: u32,
    pub block: u32,
    pub record: u32,
}

impl ExtentMap {
    /// An empty map that will hold the disk as of `through`.
    pub const fn new(through: Seq) -> Self {
        Self {
            through,
            runs: BTreeMap::new(),
        }
    }

    /// Folds one section of the disk, in path order. `object` counts the objects that the caller
    /// folds, `section` is the section's place in that object's index.
    pub fn fold(&mut self, section: &Section, object: u32, section_index: u32) {
        for (block, entry) in (0_u32..).zip(&section.blocks) {
            for (record, change) in (0_u32..).zip(&entry.records) {
                if self.through < change.seq {
                    continue;
                }
                let source = RecordPlace {
                    object,
                    section: section_index,
                    block,
                    record,
                };
                match change.change {
                    Change::Data(extent) | Change::Reference { extent, .. } => {
                        self.cut_out(extent.start(), extent.end());
                        let run = Run {
                            extent,
                            source,
                            skip: 0,
                        };
                        self.runs.insert(extent.start().sector(), run);
                    }
                    Change::Zero(extent) | Change::Discard(extent) => {
                        self.cut_out(extent.start(), extent.end());
                    }
                    // What lies beyond a smaller end is gone, also when the disk grows again.
                    Change::Resize { sectors } | Change::DiskBegin { sectors, .. } => {
                        let end = Lba::new(sectors).unwrap_or(Lba::MAX);
                        self.cut_out(end, Lba::MAX);
                    }
                    // A generation that builds on nothing begins with an empty disk.
                    Change::ResyncBegin { base: None } => self.runs.clear(),
                    Change::Bookmark { .. }
                    | Change::ResyncBegin { base: Some(_) }
                    | Change::ResyncComplete
                    | Change::DiskEnd => (),
                }
            }
        }
    }

    /// The runs, rising by sector.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Sectors that hold data. Unit: sectors.
    pub fn data_sectors(&self) -> u64 {
        self.runs
            .values()
            .map(|run| u64::from(run.extent.sectors().get()))
            .sum()
    }

    /// Removes what lies in `[start, end)`, keeping the parts of runs that reach out of it.
    fn cut_out(&mut self, start: Lba, end: Lba) {
        let (start, end) = (start.sector(), end.sector());
        if end <= start {
            return;
        }
        let before = self.runs.range(..start).next_back().map(|(_, run)| *run);
        if let Some(run) = before.filter(|run| start < run.extent.end().sector()) {
            let first = run.extent.start().sector();
            self.put_part(run, first, start);
            if end < run.extent.end().sector() {
                self.put_part(run, end, run.extent.end().sector());
            }
        }
        while let Some((&first, &run)) = self.runs.range(start..end).next() {
            self.runs.remove(&first);
            if end < run.extent.end().sector() {
                self.put_part(run, end, run.extent.end().sector());
            }
        }
    }

    /// Puts the part `[from, to)` of `run`.
    fn put_part(&mut self, run: Run, from: u64, to: u64) {
        let sectors = u32::try_from(to - from).ok().and_then(NonZeroU32::new);
        let extent = Lba::new(from)
            .zip(sectors)
            .and_then(|(start, sectors)| Extent::new(start, sectors))
            .expect("a part of an extent is an extent");
        let part = Run {
            extent,
            skip: run.skip + (from - run.extent.start().sector()),
            ..run
        };
        self.runs.insert(from, part);
    }
}

#[cfg(test)]
mod tests;
