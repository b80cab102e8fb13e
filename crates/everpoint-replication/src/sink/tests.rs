//! What a sink takes, refuses and promises.

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, PackedBlock};
use everpoint_format::record::Record;
use everpoint_units::{Extent, MachineId};
use proptest::prelude::*;

use super::*;

const DISK: DiskId = DiskId([2; 16]);
const SECTORS: u64 = 100;

fn record(seq: u64, change: Change) -> Record {
    Record {
        seq: Seq(seq),
        ends_request: true,
        change,
    }
}

fn zero(seq: u64, end: u64) -> Record {
    let lba = |sector| Lba::new(sector).expect("small");
    let extent = Extent::between(lba(end - 1), lba(end)).expect("one sector");
    record(seq, Change::Zero(extent))
}

fn begin(seq: u64, base: Option<DiskPosition>) -> Vec<Record> {
    let disk = Change::DiskBegin {
        sectors: SECTORS,
        block_size: 512,
        name: "disk".into(),
    };
    vec![
        record(seq, disk),
        record(seq + 1, Change::ResyncBegin { base }),
    ]
}

fn block(after: DiskPosition, complete_through: u64, records: Vec<Record>) -> ChangeBlock {
    let frozen = PackedBlock::pack(records, Bytes::new(), Captured::default()).freeze(BlockPlace {
        machine: MachineId([1; 16]),
        disk: DISK,
        after,
        complete_through: Seq(complete_through),
    });
    ChangeBlock::decode(frozen.to_bytes()).expect("just frozen")
}

fn start(generation: u8) -> DiskPosition {
    DiskPosition::start_of(GenerationId([generation; 16]))
}

/// A sink that holds blocks 1 and 2 of generation 7, complete through 10.
fn holding_two() -> (Sink, Vec<ChangeBlock>) {
    let mut sink = Sink::new(DISK);
    let first = block(start(7), 5, begin(1, None));
    let second = block(first.header().position(), 10, vec![zero(6, 1)]);
    for block in [&first, &second] {
        assert_eq!(sink.handle_block(block), Verdict::Append);
    }
    (sink, vec![first, second])
}

#[test]
fn blocks_in_order_are_taken_and_repeated_ones_are_answered() {
    let (mut sink, blocks) = holding_two();
    assert_eq!(sink.handle_block(&blocks[0]), Verdict::Duplicate);
    assert_eq!(sink.handle_block(&blocks[1]), Verdict::Duplicate);
    let received = sink.received().expect("two blocks");
    assert_eq!(
        (received.complete_through, received.sectors),
        (Seq(10), SECTORS)
    );
}

#[test]
fn a_gap_is_told_once_until_it_is_filled() {
    let (mut sink, blocks) = holding_two();
    let third = block(blocks[1].header().position(), 20, vec![]);
    let fourth = block(third.header().position(), 30, vec![]);
    assert_eq!(sink.handle_block(&fourth), Verdict::Refuse(Refusal::Gap));
    assert_eq!(sink.handle_block(&fourth), Verdict::Ignore);
    sink.handle_session();
    assert_eq!(sink.handle_block(&fourth), Verdict::Refuse(Refusal::Gap));
    assert_eq!(sink.handle_block(&third), Verdict::Append);
    assert_eq!(sink.handle_block(&fourth), Verdict::Append);
}

#[test]
fn the_right_number_with_the_wrong_chain_is_a_gap() {
    let (mut sink, blocks) = holding_two();
    let twin = block(blocks[0].header().position(), 11, vec![zero(7, 9)]);
    assert_eq!(sink.handle_block(&twin), Verdict::Refuse(Refusal::Gap));
    let after_twin = block(twin.header().position(), 20, vec![]);
    sink.handle_session();
    assert_eq!(
        sink.handle_block(&after_twin),
        Verdict::Refuse(Refusal::Gap)
    );
}

#[test]
fn a_generation_must_build_on_what_is_held() {
    let (mut sink, blocks) = holding_two();
    let held = blocks[1].header().position();
    let on = |base| block(start(8), 20, vec![record(15, Change::ResyncBegin { base })]);
    let older = Some(blocks[0].header().position());
    assert_eq!(
        sink.handle_block(&on(older)),
        Verdict::Refuse(Refusal::WrongBase)
    );
    sink.handle_session();
    assert_eq!(
        sink.handle_block(&on(None)),
        Verdict::Refuse(Refusal::WrongBase)
    );
    let taken = on(Some(held));
    assert_eq!(sink.handle_block(&taken), Verdict::Append);
    assert!(!sink.received().expect("taken").level);
    // The old generation is over.
    let late = block(held, 30, vec![]);
    assert_eq!(sink.handle_block(&late), Verdict::Refuse(Refusal::Stale));
}

#[test]
fn a_disk_that_is_not_known_must_begin() {
    let mut sink = Sink::new(DISK);
    let first = block(start(7), 5, begin(1, None));
    let second = block(first.header().position(), 10, vec![]);
    assert_eq!(sink.handle_block(&second), Verdict::Refuse(Refusal::Gap));
    let on_something = block(start(9), 5, begin(1, Some(start(3))));
    sink.handle_session();
    assert_eq!(
        sink.handle_block(&on_something),
        Verdict::Refuse(Refusal::WrongBase)
    );
    let nothing = block(start(9), 5, vec![]);
    assert_eq!(
        sink.handle_block(&nothing),
        Verdict::Violation(Violation::Beginning)
    );
    assert_eq!(sink.handle_block(&first), Verdict::Append);
}

#[test]
fn what_no_correct_agent_sends_is_a_violation_and_leaves_no_trace() {
    let (sink, blocks) = holding_two();
    let held = blocks[1].header().position();
    for (violation, bad) in [
        (Violation::Order, block(held, 20, vec![zero(10, 1)])),
        (Violation::Order, block(held, 9, vec![])),
        (Violation::Order, block(held, u64::MAX, vec![])),
        (
            Violation::Range,
            block(held, 20, vec![zero(11, SECTORS + 1)]),
        ),
    ] {
        let mut sink = sink.clone();
        assert_eq!(sink.handle_block(&bad), Verdict::Violation(violation));
        let good = block(held, 20, vec![zero(11, SECTORS)]);
        assert_eq!(sink.handle_block(&good), Verdict::Append);
    }
    let mut other = Sink::new(DiskId([3; 16]));
    assert_eq!(
        other.handle_block(&blocks[0]),
        Verdict::Violation(Violation::ForeignDisk)
    );
}

#[test]
fn marks_count_blocks_of_the_newest_generation_only() {
    let (mut sink, blocks) = holding_two();
    let generation = GenerationId([7; 16]);
    sink.handle_cached(blocks[0].header().position());
    sink.handle_cached(blocks[1].header().position());
    sink.handle_committed(blocks[0].header().position());
    assert_eq!(sink.marks(), Some((generation, BlockNo(2), BlockNo(1))));
    let base = Some(blocks[1].header().position());
    let next = block(start(8), 20, vec![record(15, Change::ResyncBegin { base })]);
    assert_eq!(sink.handle_block(&next), Verdict::Append);
    let newest = GenerationId([8; 16]);
    assert_eq!(sink.marks(), Some((newest, BlockNo(0), BlockNo(0))));
    sink.handle_committed(blocks[1].header().position());
    sink.handle_cached(next.header().position());
    assert_eq!(sink.marks(), Some((newest, BlockNo(1), BlockNo(0))));
    assert_eq!(sink.cached(), Some(next.header().position()));
    assert_eq!(sink.committed(), Some(blocks[1].header().position()));
}

#[test]
fn a_block_may_complete_nothing_more_and_everything_up_to_the_last_seq_there_is() {
    let (mut sink, blocks) = holding_two();
    let same = block(blocks[1].header().position(), 10, vec![]);
    assert_eq!(sink.handle_block(&same), Verdict::Append);
    let all = block(same.header().position(), SEQ_MAX.0, vec![]);
    assert_eq!(sink.handle_block(&all), Verdict::Append);
    let through = sink.received().expect("taken").complete_through;
    assert_eq!(through, SEQ_MAX);
}

#[test]
fn a_disk_from_the_vault_takes_the_generation_that_builds_on_it_and_no_older_one() {
    let (sink, blocks) = holding_two();
    let mut resumed = Sink::resume(DISK, sink.received().expect("two blocks"));
    let base = Some(blocks[1].header().position());
    let next = block(start(8), 20, vec![record(15, Change::ResyncBegin { base })]);
    assert_eq!(resumed.handle_block(&next), Verdict::Append);
    let older = resumed.handle_block(&blocks[0]);
    assert_eq!(older, Verdict::Refuse(Refusal::Stale));
}

#[test]
#[should_panic]
fn a_block_is_never_committed_before_it_is_cached() {
    let (mut sink, blocks) = holding_two();
    sink.handle_committed(blocks[0].header().position());
}

#[test]
fn a_disk_from_the_vault_goes_on_where_its_history_ends() {
    let (sink, blocks) = holding_two();
    let mut resumed = Sink::resume(DISK, sink.received().expect("two blocks"));
    assert_eq!(resumed.handle_block(&blocks[0]), Verdict::Duplicate);
    let third = block(blocks[1].header().position(), 20, vec![]);
    assert_eq!(resumed.handle_block(&third), Verdict::Append);
    assert_eq!(
        resumed.marks(),
        Some((GenerationId([7; 16]), BlockNo(2), BlockNo(2)))
    );
}

proptest! {
    /// Whatever order the blocks of a stream come in, and however often: what is taken is the
    /// stream's beginning, in order, each block once.
    #[test]
    fn what_is_taken_is_a_prefix_of_what_was_sent(
        order in prop::collection::vec(0..12_usize, 0..80),
    ) {
        let mut stream = vec![block(start(7), 5, begin(1, None))];
        for number in 1..12_u64 {
            let after = stream.last().expect("not empty").header().position();
            let records = vec![zero(number * 10, 1 + number)];
            stream.push(block(after, number * 10, records));
        }
        let mut sink = Sink::new(DISK);
        let mut taken = 0;
        for index in order {
            match sink.handle_block(&stream[index]) {
                Verdict::Append => {
                    prop_assert_eq!(index, taken);
                    taken += 1;
                }
                Verdict::Duplicate => prop_assert!(index < taken),
                Verdict::Refuse(Refusal::Gap) | Verdict::Ignore => prop_assert!(taken < index),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let received = sink.received().map(|received| received.position.block_no.0);
        prop_assert_eq!(received.unwrap_or(0), taken as u64);
    }
}
