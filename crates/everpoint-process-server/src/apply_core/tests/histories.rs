//! Objects of a small disk, and what the disk is behind each.

use everpoint_format::index::{BlockEntry, Section};
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{Extent, GenerationId, JournalId, Lba, Level, ObjectNo, Seq};

use crate::test_blocks::{DISK, block};

/// Sectors of the disk at first.
pub(super) const SECTORS: u64 = 3_000;

/// The machine's path: objects, and the disk behind each.
pub(super) struct History {
    pub(super) objects: Vec<Object>,
    /// What each sector was last written by, by object: the first is before all.
    pub(super) states: Vec<Vec<u64>>,
    position: Option<DiskPosition>,
    journal: JournalId,
    number: u64,
    seq: u64,
    generation: u8,
}

pub(super) struct Object {
    pub(super) journal: JournalId,
    pub(super) number: ObjectNo,
    pub(super) sections: Vec<Section>,
    pub(super) is_level: bool,
    pub(super) through: Seq,
}

/// A source of random numbers. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

pub(super) fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [7; 16],
    }
}

impl History {
    /// A disk that begins, empty and level.
    pub(super) fn new() -> Self {
        let mut history = Self {
            objects: Vec::new(),
            states: vec![vec![0; usize::try_from(SECTORS).unwrap()]],
            position: None,
            journal: journal(0),
            number: 0,
            seq: 0,
            generation: 0,
        };
        history.begin_again(None);
        history
    }

    /// A server of this level goes on.
    pub(super) fn rotate(&mut self, level: u64) {
        self.journal = journal(level);
        self.number = 0;
    }

    /// A copy that builds on what there is, or on nothing.
    pub(super) fn begin_again(&mut self, base: Option<DiskPosition>) {
        self.generation += 1;
        let sectors = self.disk().len() as u64;
        let begin = Change::DiskBegin {
            sectors,
            block_size: 512,
            name: "disk".into(),
        };
        let start = DiskPosition::start_of(GenerationId([self.generation; 16]));
        self.push(start, vec![begin, Change::ResyncBegin { base }]);
        if base.is_none() {
            let last = self.states.last_mut().unwrap();
            last.fill(0);
        }
        self.objects.last_mut().unwrap().is_level = false;
        let position = self.position.unwrap();
        self.push(position, vec![Change::ResyncComplete]);
    }

    /// A resync.
    pub(super) fn resync(&mut self) {
        self.begin_again(self.position);
    }

    /// Some changes.
    pub(super) fn go_on(&mut self, random: &mut Random) {
        let count = 1 + random.below(6);
        let mut changes = Vec::new();
        let mut sectors = self.disk().len() as u64;
        for _ in 0..count {
            let start = random.below(sectors);
            let longest = if random.one_in(4) { 900 } else { 24 };
            let len = (1 + random.below(longest)).min(sectors - start);
            let extent = Extent::between(Lba::new(start).unwrap(), Lba::new(start + len).unwrap());
            let extent = extent.unwrap();
            let change = match random.below(16) {
                0..3 => Change::Zero(extent),
                3 => Change::Discard(extent),
                4 if random.one_in(4) => {
                    sectors = 1_000 + random.below(6_000);
                    Change::Resize { sectors }
                }
                _ => Change::Data(extent),
            };
            changes.push(change);
        }
        let position = self.position.unwrap();
        self.push(position, changes);
    }

    /// What a sector of a record is known by: each write is its own.
    pub(super) fn content(record: &Record) -> u64 {
        record.seq.0
    }

    pub(super) fn disk(&self) -> &[u64] {
        self.states.last().unwrap()
    }

    fn push(&mut self, after: DiskPosition, changes: Vec<Change>) {
        let mut disk = self.disk().to_vec();
        let mut records = Vec::new();
        for change in changes {
            self.seq += 1;
            let part = |extent: &Extent| {
                let at = |lba: Lba| usize::try_from(lba.sector()).unwrap();
                at(extent.start())..at(extent.end())
            };
            match &change {
                Change::Data(extent) => disk[part(extent)].fill(self.seq),
                Change::Zero(extent) | Change::Discard(extent) => disk[part(extent)].fill(0),
                Change::Resize { sectors } => disk.resize(usize::try_from(*sectors).unwrap(), 0),
                _ => (),
            }
            records.push(Record {
                seq: Seq(self.seq),
                ends_request: true,
                change,
            });
        }
        let through = Seq(self.seq);
        let made = block(DISK, after, vec![(self.seq, Change::Resize { sectors: 1 })]);
        let mut section = Section::begin(made.header());
        section.blocks.push(BlockEntry {
            records,
            ..BlockEntry::of(&made, 0, Vec::new())
        });
        self.position = Some(section.end());
        self.number += 1;
        self.objects.push(Object {
            journal: self.journal,
            number: ObjectNo(self.number),
            sections: vec![section],
            is_level: true,
            through,
        });
        self.states.push(disk);
    }
}
