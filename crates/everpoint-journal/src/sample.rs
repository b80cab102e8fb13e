//! Small histories for the tests of this crate: blocks by hand, sections and objects from them.

use std::num::NonZeroU32;

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, ChangeBlock, FrozenBlock, PackedBlock};
use everpoint_format::data::{DataBuilder, DataIndex};
use everpoint_format::digest::{DigestKey, piece_digests};
use everpoint_format::index::{Release, Section};
use everpoint_format::object::{ObjectChecksum, ObjectHeader};
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{
    DiskId, Extent, GenerationId, JournalId, Lba, Level, MachineId, ObjectNo, Seq, ServerId,
    VaultId, WallTime,
};

pub(crate) const KEY: DigestKey = DigestKey([5; 32]);
pub(crate) const MACHINE: MachineId = MachineId([1; 16]);
pub(crate) const VAULT: VaultId = VaultId([9; 16]);

pub(crate) fn extent(start: u64, sectors: u32) -> Extent {
    let sectors = NonZeroU32::new(sectors).expect("above zero");
    Extent::new(Lba::new(start).expect("small"), sectors).expect("small")
}

pub(crate) fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [u8::try_from(level % 256).expect("below 256"); 16],
    }
}

pub(crate) fn record(seq: u64, change: Change) -> Record {
    Record {
        seq: Seq(seq),
        ends_request: true,
        change,
    }
}

/// One disk's stream as an agent would make it.
pub(crate) struct Stream {
    pub(crate) disk: DiskId,
    pub(crate) tail: DiskPosition,
    clock: u64,
    /// Of the machine's clock in the next blocks.
    pub(crate) clock_offset_us: i64,
}

impl Stream {
    pub(crate) fn new(disk: u8) -> Self {
        Self {
            disk: DiskId([disk; 16]),
            tail: DiskPosition::start_of(GenerationId([disk ^ 0x80; 16])),
            clock: 1_000_000,
            clock_offset_us: 0,
        }
    }

    /// A new generation; what the first block must state as its base.
    pub(crate) fn begin_generation(&mut self, id: u8) -> Option<DiskPosition> {
        let base = self.tail;
        self.tail = DiskPosition::start_of(GenerationId([id; 16]));
        Some(base)
    }

    /// The next block; every sector of its data is filled with the low byte of its record's `Seq`.
    pub(crate) fn block(&mut self, complete_through: u64, records: Vec<Record>) -> ChangeBlock {
        let mut raw = Vec::new();
        for record in &records {
            let len = usize::try_from(record.change.raw_len()).expect("small");
            raw.extend(std::iter::repeat_n(record.seq.0.to_le_bytes()[0], len));
        }
        self.clock += 1_000_000;
        let captured = Captured {
            first: WallTime(self.clock),
            last: WallTime(self.clock),
            clock_offset_us: self.clock_offset_us,
        };
        let frozen: FrozenBlock =
            PackedBlock::pack(records, Bytes::from(raw), captured).freeze(BlockPlace {
                machine: MACHINE,
                disk: self.disk,
                after: self.tail,
                complete_through: Seq(complete_through),
            });
        self.tail = frozen.position();
        ChangeBlock::decode(frozen.to_bytes()).expect("just frozen")
    }

    /// The records with which a fresh disk begins: seqs `first` to `first + 2`.
    pub(crate) fn first_records(first: u64) -> Vec<Record> {
        let begin = Change::DiskBegin {
            sectors: 1_024,
            block_size: 512,
            name: "disk".into(),
        };
        vec![
            record(first, begin),
            record(first + 1, Change::ResyncBegin { base: None }),
            record(first + 2, Change::ResyncComplete),
        ]
    }
}

/// The digests that a server stores with a block.
pub(crate) fn push(builder: &mut DataBuilder, block: &ChangeBlock) {
    let raw = block.header().frame.open(&block.payload()).expect("sound");
    let (mut at, mut digests) = (0, Vec::new());
    for record in block.records() {
        if let Change::Data(extent) = record.change {
            let len = usize::try_from(extent.byte_len().0).expect("small");
            digests.extend(piece_digests(&KEY, extent, &raw[at..at + len]));
            at += len;
        }
    }
    builder.push(block, digests);
}

/// The sections that these blocks make in one object.
pub(crate) fn sections(blocks: &[ChangeBlock]) -> Vec<Section> {
    object(journal(1), 1, ObjectChecksum::default(), blocks, &[])
        .index
        .sections
}

/// A data object.
pub(crate) fn object(
    journal: JournalId,
    number: u64,
    previous: ObjectChecksum,
    blocks: &[ChangeBlock],
    releases: &[Release],
) -> DataIndex {
    let mut builder = DataBuilder::default();
    blocks.iter().for_each(|block| push(&mut builder, block));
    releases
        .iter()
        .for_each(|release| builder.release(*release));
    let object = builder.freeze(ObjectHeader {
        vault: VAULT,
        journal,
        number: ObjectNo(number),
        server: ServerId([3; 16]),
        assignment: 0,
        previous,
        created_at: WallTime(0),
    });
    DataIndex::decode_whole(&object.pieces.concat().into()).expect("just frozen")
}
