//! One disk's part of the queue: how full a block gets, what is told of it, and whose turn it is.

use everpoint_format::DiskPosition;
use everpoint_format::change::{BlockPlace, ChangeBlock, ENCODED_LEN_MAX, HEADER_LEN};
use everpoint_format::record::RECORD_LEN;
use everpoint_units::{DiskId, MachineId};

use super::*;
use crate::batch::Batch;
use crate::disk_queue::BLOCK_CHARGE;

/// Room for records and texts in a block that a reader takes. Unit: bytes.
const AREA: usize = ENCODED_LEN_MAX - RAW_LEN_MAX - HEADER_LEN;

fn discard(start: u64, sectors: u64) -> GuestChange {
    let lba = |sector| Lba::new(sector).expect("small");
    GuestChange::Discard(Extent::between(lba(start), lba(start + sectors)).expect("not empty"))
}

/// What a reader finds in the block that becomes of `batch`.
fn read_back(batch: Batch) -> Vec<Record> {
    let packed = batch.pack(0, &mut PackScratch::default());
    let frozen = packed.block.freeze(BlockPlace {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        after: DiskPosition::start_of(packed.generation),
        complete_through: packed.complete_through,
    });
    let block = ChangeBlock::decode(frozen.to_bytes()).expect("short enough to be read");
    block.records().to_vec()
}

/// Takes all that is due at `stamp`: how many records each block has for its reader.
fn read_all(order: &mut WriteOrder, stamp: Stamp) -> Vec<usize> {
    let batches = std::iter::from_fn(|| take(order, stamp));
    batches.map(|batch| read_back(batch).len()).collect()
}

#[test]
fn a_discard_is_queued_and_comes_out_where_it_was_pushed() {
    let (mut order, slot) = begun();
    let before = order.used();
    let seqs = [zero(0, 8), discard(8, 16), zero(0, 1)]
        .map(|change| queued(order.push(slot, at(1), change)));
    assert_eq!(order.used(), before + 3 * RECORD_CHARGE);
    let batch = take(&mut order, at(6)).expect("due");
    let found: Vec<_> = batch.records().iter().map(|record| record.seq).collect();
    assert_eq!(found, seqs);
    let GuestChange::Discard(extent) = discard(8, 16) else {
        unreachable!("a discard is one");
    };
    assert_eq!(batch.records()[1].change, Change::Discard(extent));
}

#[test]
fn a_block_takes_names_up_to_the_last_byte_that_its_reader_takes() {
    let long = 255;
    let count = AREA / (RECORD_LEN + long);
    let rest = AREA % (RECORD_LEN + long);
    for (last, blocks) in [
        (rest - RECORD_LEN, vec![count + 1]),
        (rest - RECORD_LEN + 1, vec![count, 1]),
    ] {
        let (mut order, _) = begun();
        for len in std::iter::repeat_n(long, count).chain([last]) {
            let name = "n".repeat(len);
            order
                .bookmark(&name, Consistency::Crash, at(1))
                .expect("reserved");
        }
        assert_eq!(read_all(&mut order, at(6)), blocks);
    }
}

#[test]
fn a_block_takes_positions_that_resyncs_build_on_up_to_what_its_reader_takes() {
    let (mut order, slot) = begun();
    let full = AREA / (RECORD_LEN + 32);
    for _ in 0..=full {
        let base = Some(DiskPosition::start_of(G2));
        order
            .push_own(slot, G1, at(1), Change::ResyncBegin { base }, None)
            .expect("current");
    }
    assert_eq!(read_all(&mut order, at(6)), [full, 1]);
}

#[test]
fn disks_that_all_have_full_blocks_take_turns() {
    let (mut order, first) = begun();
    let second = order.attach();
    begin(&mut order, second, G2);
    for slot in [first, second] {
        queued(order.push(slot, at(1), data(0, 4 * MIB)));
    }
    let slots: Vec<_> =
        std::iter::from_fn(|| order.take_batch(at(1)).map(|(slot, _)| slot)).collect();
    assert_eq!(slots.len(), 8);
    assert!(slots.windows(2).all(|pair| pair[0] != pair[1]), "{slots:?}");
}

#[test]
fn what_is_freed_calls_for_a_statement_only_from_a_quiet_disk_in_order_that_can_say_more() {
    let frozen = |more: bool| {
        let (mut order, slot) = begun();
        let other = order.attach();
        begin(&mut order, other, G2);
        for millis in [10, 20] {
            queued(order.push(slot, at(millis), data(0, 512)));
            assert!(take(&mut order, at(millis + 5)).is_some());
            order.handle_frozen(slot, 100);
        }
        if more {
            queued(order.push(other, at(30), data(0, 512)));
        }
        (order, slot)
    };
    let (mut order, slot) = frozen(true);
    assert!(!order.handle_freed(slot, 1, 100), "one is on its way");
    assert!(order.handle_freed(slot, 1, 100));

    let (mut order, slot) = frozen(false);
    assert!(!order.handle_freed(slot, 2, 200), "it has said all");

    let (mut order, slot) = frozen(true);
    order.lose_order(slot, LossReason::LocalError, at(40).now);
    assert!(!order.handle_freed(slot, 2, 200), "it has nothing to say");
}

#[test]
fn a_batch_counts_as_being_packed_until_it_is_frozen() {
    let (mut order, slot) = begun();
    queued(order.push(slot, at(1), data(0, 2 * MIB)));
    assert_eq!(order.packing_count(slot), 0, "nothing was taken yet");
    for count in [1, 2] {
        assert!(take(&mut order, at(1)).is_some());
        assert_eq!(order.packing_count(slot), count);
    }
    order.lose_order(slot, LossReason::LocalError, at(2).now);
    for count in [1, 0] {
        order.handle_frozen(slot, 100);
        assert_eq!(order.packing_count(slot), count);
    }
    order.detach(slot);
    assert_eq!(order.packing_count(slot), 0);
}

#[test]
fn the_figures_add_up_what_waits_and_what_is_packed() {
    let (mut order, slot) = begun();
    queued(order.push(slot, at(1), data(0, MIB)));
    assert!(take(&mut order, at(1)).is_some());
    queued(order.push(slot, at(2), data(0, 512)));
    let figures = order.figures(slot).expect("attached");
    assert_eq!(figures.waiting_bytes, MIB + 512 + 2 * RECORD_CHARGE);
    assert_eq!((figures.frozen_bytes, figures.newest), (0, order.newest()));

    order.handle_frozen(slot, 100);
    let figures = order.figures(slot).expect("attached");
    assert_eq!(figures.waiting_bytes, 512 + RECORD_CHARGE);
    assert_eq!(figures.frozen_bytes, 100 + BLOCK_CHARGE);
}

#[test]
fn the_oldest_change_is_the_first_one_not_frozen_and_a_statement_is_no_change() {
    let (mut order, busy) = begun();
    let idle = order.attach();
    begin(&mut order, idle, G2);
    let oldest = |order: &WriteOrder, slot| order.figures(slot).expect("attached").oldest;
    assert_eq!(oldest(&order, busy), None);
    queued(order.push(busy, at(100), data(0, 512)));
    queued(order.push(busy, at(101), data(0, 512)));
    assert_eq!(oldest(&order, busy), Some(at(100).now));
    assert!(take(&mut order, at(105)).is_some());
    queued(order.push(busy, at(106), data(0, 512)));
    assert_eq!(oldest(&order, busy), Some(at(100).now), "being packed");
    order.handle_frozen(busy, 100);
    assert_eq!(oldest(&order, busy), Some(at(106).now));

    // The idle disk states what the busy one has done.
    assert!(take(&mut order, at(106)).is_none());
    while order.take_batch(at(200)).is_some() {}
    assert_eq!(order.packing_count(idle), 1);
    assert_eq!(oldest(&order, idle), None);
    queued(order.push(idle, at(210), data(0, 512)));
    assert_eq!(oldest(&order, idle), Some(at(210).now));
}

#[test]
fn a_generation_has_room_while_no_more_than_half_of_the_queue_is_used() {
    let (mut order, _) = begun();
    let half = order.limits().queue_bytes_max / 2;
    assert!(order.has_generation_room());
    let room = order.take_resync_room(half - RECORD_CHARGE);
    let room = room.expect("nothing else is there");
    assert_eq!(order.used(), half);
    assert!(order.has_generation_room());
    order.give_back_resync_room(room);
    let room = order.take_resync_room(half - RECORD_CHARGE + 1);
    assert!(!order.has_generation_room());
    order.give_back_resync_room(room.expect("nothing else is there"));
    assert!(order.has_generation_room());
}

#[test]
fn an_order_that_is_given_the_mark_it_wants_goes_on_beyond_the_one_before() {
    let (order, _) = begun();
    assert_eq!(order.wanted_reservation(), None, "plenty is left");

    let mut order = WriteOrder::new(OrderLimits::default(), Reservation::new(Seq(10), Seq(11)));
    let slot = order.attach();
    begin(&mut order, slot, G1);
    assert_eq!(
        order.bookmark("b", Consistency::Crash, at(1)),
        Err(BookmarkError::NoSeqs(NoSeqs))
    );
    let wanted = order.wanted_reservation().expect("nothing is left");
    assert!(Seq(11) < wanted);
    order.extend_reservation(wanted);
    assert_eq!(order.wanted_reservation(), None);
    assert!(order.has_reserved_beyond(Seq(11)));
    assert_eq!(queued(order.push(slot, at(1), data(0, 512))), Seq(12));
}

#[test]
fn each_reason_for_a_loss_has_a_word_of_its_own() {
    let words = [
        (LossReason::QueueOverflow, "queue-overflow"),
        (LossReason::LocalError, "local-error"),
        (LossReason::SeqsExhausted, "seqs-exhausted"),
        (LossReason::SeqsBehind, "seqs-behind"),
        (LossReason::PositionUnknown, "position-unknown"),
    ];
    for (reason, word) in words {
        assert_eq!(reason.word(), word);
    }
}
