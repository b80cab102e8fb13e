//! What one object of the path changes on a disk: its records folded, what was written last counts.
//!
//! Data is named by record, not by bytes: whoever has the object fetches them.

use everpoint_format::index::Section;
use everpoint_format::replica::Applied;
use everpoint_format::{Change, DiskPosition};
use everpoint_journal::extent_map::{RecordPlace, Run};
use everpoint_journal::history::Joins;
use everpoint_reduction::{RunMap, RunValue};
use everpoint_units::{DiskId, EXTENT_SECTORS_MAX, Extent, Lba, Seq};

/// Where a disk stands: what the next section is held against.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stands {
    /// Its last block; `None` before the first.
    pub position: Option<DiskPosition>,
    /// Unit: sectors.
    pub sectors: u64,
    /// No change at or below this is missing.
    pub through: Seq,
    /// It is a state of the disk: no copy is being made.
    pub is_level: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ObjectFold {
    pub(super) pieces: RunMap<Folded>,
    pub(super) stands: Stands,
}

/// What sectors become.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Folded {
    /// The bytes of a record, from so many sectors into it on.
    Record {
        place: RecordPlace,
        skip: u64,
    },
    Zero,
}

impl RunValue for Folded {
    fn after(self, sectors: u64) -> Self {
        match self {
            Self::Record { place, skip } => Self::Record {
                place,
                skip: skip + sectors,
            },
            Self::Zero => Self::Zero,
        }
    }
}

impl Stands {
    /// Before the disk's first block.
    pub const fn at_the_beginning(sectors: u64) -> Self {
        Self {
            position: None,
            sectors,
            through: Seq::ZERO,
            is_level: false,
        }
    }

    /// What a mark says.
    pub const fn of(applied: &Applied, sectors: u64) -> Self {
        Self {
            position: applied.position,
            sectors,
            through: applied.through,
            is_level: applied.is_level,
        }
    }
}

impl ObjectFold {
    /// Folds the sections of `disk` in an object, on what stands before it. Sections that do not follow are left out,
    /// as everywhere: a copy that builds on nothing begins again.
    pub fn of<'a>(
        disk: DiskId,
        stands: Stands,
        sections: impl IntoIterator<Item = &'a Section>,
    ) -> Self {
        let mut fold = Self {
            pieces: RunMap::new(),
            stands,
        };
        for (index, section) in (0_u32..).zip(sections) {
            if section.disk == disk && Joins::of(section, fold.stands.position) != Joins::Not {
                fold.section(index, section);
            }
        }
        fold
    }

    /// The data that it needs, rising by sector: disjoint.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.pieces
            .iter()
            .filter_map(|(extent, folded)| match folded {
                Folded::Record { place, skip } => Some(Run {
                    extent,
                    source: place,
                    skip,
                }),
                Folded::Zero => None,
            })
    }

    /// Where the disk stands behind it.
    pub const fn stands(&self) -> Stands {
        self.stands
    }

    fn section(&mut self, index: u32, section: &Section) {
        for (block, entry) in (0_u32..).zip(&section.blocks) {
            for (record, change) in (0_u32..).zip(&entry.records) {
                let place = RecordPlace {
                    object: 0,
                    section: index,
                    block,
                    record,
                };
                self.change(&change.change, place);
            }
            self.stands.through = self.stands.through.max(entry.complete_through);
        }
        self.stands.position = Some(section.end());
    }

    fn change(&mut self, change: &Change, place: RecordPlace) {
        match change {
            Change::Data(extent) | Change::Reference { extent, .. } => {
                if let Some(extent) = self.inside(*extent) {
                    let data = Folded::Record { place, skip: 0 };
                    self.pieces.insert(extent, data);
                }
            }
            Change::Zero(extent) | Change::Discard(extent) => {
                if let Some(extent) = self.inside(*extent) {
                    self.pieces.insert(extent, Folded::Zero);
                }
            }
            Change::Resize { sectors } | Change::DiskBegin { sectors, .. } => self.resize(*sectors),
            // A generation that builds on nothing begins with an empty disk.
            Change::ResyncBegin { base: None } => {
                self.pieces.clear();
                self.zero(0, self.stands.sectors);
                self.stands.is_level = false;
                self.stands.through = Seq::ZERO;
            }
            Change::ResyncBegin { base: Some(_) } => self.stands.is_level = false,
            Change::ResyncComplete => self.stands.is_level = true,
            Change::Bookmark { .. } | Change::DiskEnd => (),
        }
    }

    /// What lies beyond a smaller end is gone, also when the disk grows again.
    fn resize(&mut self, sectors: u64) {
        let had = std::mem::replace(&mut self.stands.sectors, sectors);
        self.zero(sectors, had);
    }

    fn zero(&mut self, from: u64, to: u64) {
        for extent in extents(from, to) {
            self.pieces.insert(extent, Folded::Zero);
        }
    }

    /// The part of an extent that is on the disk. No writer may write past its end; should one have, that is no part
    /// of the disk.
    fn inside(&self, extent: Extent) -> Option<Extent> {
        let end = Lba::new(self.stands.sectors)?.min(extent.end());
        Extent::between(extent.start(), end)
    }
}

/// The sectors from `from` to before `to`, as extents.
pub(super) fn extents(from: u64, to: u64) -> impl Iterator<Item = Extent> {
    let step = u64::from(EXTENT_SECTORS_MAX);
    let count = to.saturating_sub(from).div_ceil(step);
    (0..count).filter_map(move |index| {
        let start = from + index * step;
        let ends = Lba::new(start).zip(Lba::new(to.min(start + step)));
        ends.and_then(|(start, end)| Extent::between(start, end))
    })
}
