//! Blocks for the tests of cores.

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, ChangeBlock, PackedBlock};
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{DiskId, GenerationId, MachineId, Seq};

pub(crate) const MACHINE: MachineId = MachineId([1; 16]);
pub(crate) const DISK: DiskId = DiskId([2; 16]);
pub(crate) const OTHER_DISK: DiskId = DiskId([3; 16]);

/// A block of the machine's with one record a `Seq`, the last of which it is complete through.
pub(crate) fn block(disk: DiskId, after: DiskPosition, changes: Vec<(u64, Change)>) -> ChangeBlock {
    let through = changes.last().map_or(Seq::ZERO, |(seq, _)| Seq(*seq));
    let record = |(seq, change)| Record {
        seq: Seq(seq),
        ends_request: true,
        change,
    };
    let records = changes.into_iter().map(record).collect();
    let packed = PackedBlock::pack(records, Bytes::new(), Captured::default());
    let frozen = packed.freeze(BlockPlace {
        machine: MACHINE,
        disk,
        after,
        complete_through: through,
    });
    ChangeBlock::decode(frozen.to_bytes()).expect("just frozen")
}

/// The first block of a generation that builds on `base`, with `Seq` `seq` and the next.
pub(crate) fn opening(
    disk: DiskId,
    generation: u8,
    base: Option<DiskPosition>,
    seq: u64,
) -> ChangeBlock {
    let begin = Change::DiskBegin {
        sectors: 100,
        block_size: 512,
        name: "disk".into(),
    };
    let after = DiskPosition::start_of(GenerationId([generation; 16]));
    let changes = vec![(seq, begin), (seq + 1, Change::ResyncBegin { base })];
    block(disk, after, changes)
}

/// A block behind `before` with one change of `seq`.
pub(crate) fn next(before: &ChangeBlock, seq: u64) -> ChangeBlock {
    let header = before.header();
    let change = Change::Resize { sectors: 100 };
    block(header.disk, header.position(), vec![(seq, change)])
}
