//! The promises of the order, one by one, and over whole histories.

use std::collections::BTreeMap;

use everpoint_format::PackScratch;
use everpoint_format::change::RECORD_COUNT_MAX;
use proptest::prelude::*;

use super::*;

mod queue;

const MIB: u64 = 1 << 20;
const G1: GenerationId = GenerationId([1; 16]);
const G2: GenerationId = GenerationId([2; 16]);
const WALL: WallTime = WallTime(1_000);

fn at(millis: u64) -> Stamp {
    Stamp {
        now: Moment(millis * 1_000_000),
        at: WALL.shifted(i64::try_from(millis).expect("small") * 1_000),
    }
}

fn order() -> WriteOrder {
    let until = Reservation::mark_after(Seq::ZERO).expect("far from the end");
    WriteOrder::new(OrderLimits::default(), Reservation::new(Seq::ZERO, until))
}

/// An order with one disk that keeps order and whose opening was taken.
fn begun() -> (WriteOrder, DiskSlot) {
    let mut order = order();
    let slot = order.attach();
    begin(&mut order, slot, G1);
    (order, slot)
}

fn begin(order: &mut WriteOrder, slot: DiskSlot, generation: GenerationId) {
    let opening = vec![Change::ResyncBegin { base: None }];
    order
        .begin_generation(slot, generation, opening, at(0))
        .expect("reserved");
    let batch = take(order, at(0)).expect("an opening does not wait");
    assert_eq!(batch.records().len(), 1);
    settle(order, slot, 1);
}

fn take(order: &mut WriteOrder, stamp: Stamp) -> Option<Batch> {
    order.take_batch(stamp).map(|(_, batch)| batch)
}

/// Freezes and frees `count` batches of `slot`.
fn settle(order: &mut WriteOrder, slot: DiskSlot, count: u64) {
    for _ in 0..count {
        order.handle_frozen(slot, 100);
    }
    order.handle_freed(slot, count, 100 * count);
}

fn data(start: u64, bytes: u64) -> GuestChange {
    let lba = |sector| Lba::new(sector).expect("small");
    GuestChange::Data {
        extent: Extent::between(lba(start), lba(start + bytes / SECTOR_LEN)).expect("not empty"),
        payload: Bytes::from(vec![7; usize::try_from(bytes).expect("small")]),
    }
}

fn zero(start: u64, sectors: u64) -> GuestChange {
    let lba = |sector| Lba::new(sector).expect("small");
    GuestChange::Zero(Extent::between(lba(start), lba(start + sectors)).expect("not empty"))
}

fn queued(pushed: Pushed) -> Seq {
    match pushed {
        Pushed::Queued { seq, .. } => seq,
        other => panic!("not queued: {other:?}"),
    }
}

#[test]
fn a_block_goes_out_five_milliseconds_after_its_first_change() {
    let (mut order, slot) = begun();
    let pushed = order.push(slot, at(10), data(0, 4_096));
    assert!(matches!(pushed, Pushed::Queued { wake: true, .. }));
    let pushed = order.push(slot, at(14), data(8, 4_096));
    assert!(matches!(pushed, Pushed::Queued { wake: false, .. }));
    assert!(take(&mut order, at(14)).is_none());
    assert_eq!(order.deadline(), Some(at(15).now));
    let batch = take(&mut order, at(15)).expect("due");
    assert_eq!(batch.records().len(), 2);
    assert_eq!((batch.first_at, batch.last_at), (at(10).at, at(14).at));
    assert_eq!(batch.complete_through, order.newest());
    assert!(take(&mut order, at(100)).is_none());
    assert_eq!(order.deadline(), None);
}

#[test]
fn a_block_is_full_at_one_mebibyte_or_at_4096_records() {
    let (mut order, slot) = begun();
    for index in 0..256 {
        let pushed = order.push(slot, at(1), data(index * 8, 4_096));
        let wake = matches!(pushed, Pushed::Queued { wake: true, .. });
        assert_eq!(wake, index == 0 || index == 255);
    }
    let batch = take(&mut order, at(1)).expect("full");
    assert_eq!(batch.raw_len(), RAW_LEN_MAX);
    for index in 0..RECORD_COUNT_MAX as u64 {
        order.push(slot, at(1), zero(index, 1));
    }
    let batch = take(&mut order, at(1)).expect("full");
    assert_eq!(batch.records().len(), RECORD_COUNT_MAX);
    assert!(take(&mut order, at(1)).is_none());
}

#[test]
fn a_write_that_does_not_fit_closes_the_block_before_it() {
    let (mut order, slot) = begun();
    order.push(slot, at(1), data(0, 4_096));
    order.push(slot, at(1), data(8, MIB));
    let first = take(&mut order, at(1)).expect("closed");
    let second = take(&mut order, at(1)).expect("full");
    assert_eq!(first.raw_len(), 4_096);
    assert_eq!(first.complete_through, first.records()[0].seq);
    assert_eq!(second.raw_len(), RAW_LEN_MAX);
}

#[test]
fn a_long_request_is_several_changes_and_only_the_last_ends_it() {
    let (mut order, slot) = begun();
    let before = order.newest();
    let last = queued(order.push(slot, at(1), data(16, 2 * MIB + 512)));
    assert_eq!(last, Seq(before.0 + 3));
    let mut records = Vec::new();
    while let Some(batch) = take(&mut order, at(6)) {
        records.extend_from_slice(batch.records());
    }
    let facts: Vec<_> = records
        .iter()
        .map(|record| {
            let extent = record.change.extent().expect("data");
            (
                record.seq.0 - before.0,
                extent.start().sector(),
                record.ends_request,
            )
        })
        .collect();
    assert_eq!(facts, [(1, 16, false), (2, 2_064, false), (3, 4_112, true)]);
}

#[test]
fn names_of_bookmarks_never_make_a_block_too_long() {
    let (mut order, slot) = begun();
    let name = "n".repeat(255);
    for _ in 0..2_000 {
        order
            .bookmark(&name, Consistency::Crash, at(1))
            .expect("reserved");
    }
    let mut count = 0;
    while let Some(batch) = take(&mut order, at(6)) {
        count += batch.records().len();
        let packed = batch.pack(0, &mut PackScratch::default()).block;
        let area = packed.encoded_len() - everpoint_format::change::HEADER_LEN;
        assert!(area <= 192 << 10, "{area}");
    }
    assert_eq!(count, 2_000);
    settle(&mut order, slot, 0);
}

#[test]
fn a_bookmark_has_one_seq_in_the_queue_of_every_disk() {
    let (mut order, first) = begun();
    let second = order.attach();
    begin(&mut order, second, G2);
    let seq = order
        .bookmark("b", Consistency::Crash, at(1))
        .expect("reserved");
    let mut holders = Vec::new();
    while let Some((slot, batch)) = order.take_batch(at(6)) {
        let records = batch.records();
        assert_eq!((records.len(), records[0].seq), (1, seq));
        assert!(records[0].ends_request);
        holders.push(slot);
    }
    assert_eq!(holders.len(), 2);
    assert!(holders.contains(&first) && holders.contains(&second));
}

#[test]
fn a_bookmark_that_one_disk_would_lack_is_in_none() {
    let (mut order, first) = begun();
    let second = order.attach();
    let mark = |order: &mut WriteOrder| order.bookmark("b", Consistency::Crash, at(1));
    assert_eq!(mark(&mut order), Err(BookmarkError::Unordered));
    assert!(take(&mut order, at(6)).is_none());
    order.detach(second);
    assert!(mark(&mut order).is_ok());
    order.lose_order(first, LossReason::LocalError, at(2).now);
    assert_eq!(mark(&mut order), Err(BookmarkError::Unordered));
}

#[test]
fn nothing_leaves_the_queue_until_a_bookmark_is_proven() {
    let (mut order, slot) = begun();
    order.push(slot, at(1), data(0, 512));
    let begun = order.begin_bookmark("b", Consistency::App, at(2));
    let seq = begun.expect("reserved");
    order.push(slot, at(3), data(8, 512));
    assert!(take(&mut order, at(100)).is_none());
    assert_eq!(order.deadline(), None);
    order.end_bookmark(true);
    let batch = take(&mut order, at(100)).expect("due long since");
    let place = batch.records().iter().map(|record| record.seq);
    assert!(place.eq([Seq(seq.0 - 1), seq, seq.next()]), "in its place");
}

#[test]
fn a_bookmark_without_proof_was_never_there() {
    let (mut order, first) = begun();
    let second = order.attach();
    begin(&mut order, second, G2);
    order.push(first, at(1), data(0, 512));
    let used = order.used();
    let seq = order.begin_bookmark("b", Consistency::App, at(2));
    let seq = seq.expect("reserved");
    for index in 0..RECORD_COUNT_MAX as u64 {
        order.push(first, at(3), data(8 * index, 512));
    }
    order.end_bookmark(false);
    let grown = order.used() - used;
    assert_eq!(grown, RECORD_COUNT_MAX as u64 * (512 + RECORD_CHARGE));
    let mut count = 0;
    while let Some((slot, batch)) = order.take_batch(at(100)) {
        assert!(batch.records().iter().all(|record| record.seq != seq));
        assert!(slot == first || batch.records().is_empty());
        count += batch.records().len();
        settle(&mut order, slot, 1);
    }
    assert_eq!(count, RECORD_COUNT_MAX + 1);
    assert_eq!(order.used(), 0);
}

#[test]
fn a_bookmark_whose_disk_lost_order_can_be_taken_back_all_the_same() {
    let (mut order, slot) = begun();
    let begun = order.begin_bookmark("b", Consistency::App, at(1));
    begun.expect("reserved");
    order.lose_order(slot, LossReason::LocalError, at(2).now);
    order.end_bookmark(false);
    assert_eq!(order.used(), 0);
}

#[test]
fn an_idle_disk_states_the_newest_seq_once_and_then_is_silent() {
    let (mut order, busy) = begun();
    let idle = order.attach();
    begin(&mut order, idle, G2);
    order.push(busy, at(100), data(0, 512));
    let (slot, _) = order.take_batch(at(105)).expect("due");
    assert_eq!(slot, busy);
    assert!(order.take_batch(at(105)).is_none());
    let due = order.deadline().expect("the idle disk is behind");
    assert_eq!(due, at(110).now);
    let (slot, batch) = order.take_batch(at(110)).expect("due");
    assert_eq!(slot, idle);
    assert_eq!(
        (batch.records().len(), batch.complete_through),
        (0, order.newest())
    );
    settle(&mut order, busy, 1);
    settle(&mut order, idle, 1);
    assert!(order.take_batch(at(10_000)).is_none());
    assert_eq!(order.deadline(), None);
}

#[test]
fn statements_of_an_idle_disk_wait_for_each_other_and_for_their_interval() {
    let (mut order, busy) = begun();
    let idle = order.attach();
    begin(&mut order, idle, G2);
    let mut statements = 0;
    for millis in 100..400 {
        order.push(busy, at(millis), data(0, 512));
        while let Some((slot, _)) = order.take_batch(at(millis)) {
            statements += u32::from(slot == idle);
            order.handle_frozen(slot, 100);
            order.handle_freed(slot, 1, 100);
        }
    }
    assert!((5..=7).contains(&statements), "{statements} in 300 ms");
}

#[test]
fn an_idle_disk_states_nothing_while_its_last_statement_is_on_its_way() {
    let (mut order, busy) = begun();
    let idle = order.attach();
    begin(&mut order, idle, G2);
    let mut slots = Vec::new();
    for millis in [100, 110, 1_000, 1_010, 2_000] {
        order.push(busy, at(millis), data(0, 512));
        slots.extend(std::iter::from_fn(|| {
            order.take_batch(at(millis + 6)).map(|(slot, _)| slot)
        }));
    }
    let statements = slots.iter().filter(|&&slot| slot == idle).count();
    assert_eq!(statements, 1);
    order.handle_frozen(idle, 100);
    assert!(
        order.take_batch(at(3_000)).is_none(),
        "frozen is not cached"
    );
    assert!(order.handle_freed(idle, 1, 100), "now the next one is due");
}

#[test]
fn a_silenced_order_makes_no_more_statements() {
    let (mut order, busy) = begun();
    let idle = order.attach();
    begin(&mut order, idle, G2);
    order.silence();
    order.push(busy, at(100), data(0, 512));
    let mut slots = Vec::new();
    for millis in [105, 1_000, 1_000_000] {
        slots.extend(std::iter::from_fn(|| {
            order.take_batch(at(millis)).map(|(slot, _)| slot)
        }));
    }
    assert_eq!(slots, [busy]);
}

#[test]
fn a_push_beyond_the_budget_loses_order_drops_the_queue_and_holds_nobody() {
    let (mut order, slot) = begun();
    let max = order.limits().queue_bytes_max;
    let mut pushes = 0;
    let lost = loop {
        match order.push(slot, at(1), data(0, MIB)) {
            Pushed::Queued { .. } => pushes += 1,
            other => break other,
        }
        assert!(order.used() <= max);
    };
    let reason = LossReason::QueueOverflow;
    assert_eq!((lost, pushes), (Pushed::Lost { reason }, 255));
    assert_eq!(order.used(), 0);
    assert_eq!(order.push(slot, at(2), data(0, 512)), Pushed::Ignored);
    let figures = order.figures(slot).expect("attached");
    assert_eq!(
        (figures.ignored_count, figures.ignored_bytes),
        (2, MIB + 512)
    );
    assert_eq!(
        figures.state,
        QueueState::Lost {
            reason,
            since: at(1).now
        }
    );
    assert!(take(&mut order, at(99)).is_none());
    begin(&mut order, slot, G2);
    queued(order.push(slot, at(3), data(0, 512)));
}

#[test]
fn what_was_queued_is_kept_until_somebody_has_time_to_drop_it() {
    let (mut order, slot) = begun();
    let payload = Bytes::from(vec![7; 4_096]);
    let GuestChange::Data { extent, .. } = data(0, 4_096) else {
        unreachable!("data is data");
    };
    let change = GuestChange::Data {
        extent,
        payload: payload.clone(),
    };
    queued(order.push(slot, at(1), change));
    order.lose_order(slot, LossReason::LocalError, at(2).now);
    assert_eq!(order.used(), 0);
    assert!(!payload.is_unique());
    drop(order.take_dropped());
    assert!(payload.is_unique());
}

#[test]
fn one_disk_that_loses_order_leaves_the_others_theirs() {
    let (mut order, first) = begun();
    let second = order.attach();
    begin(&mut order, second, G2);
    queued(order.push(second, at(1), data(0, 512)));
    order.lose_order(first, LossReason::LocalError, at(1).now);
    assert_eq!(order.push(first, at(1), data(0, 512)), Pushed::Ignored);
    queued(order.push(second, at(1), data(0, 512)));
    let (slot, batch) = order.take_batch(at(6)).expect("due");
    assert_eq!((slot, batch.records().len()), (second, 2));
}

#[test]
fn a_resync_leaves_most_of_the_queue_to_guests_but_always_finds_room_in_an_empty_one() {
    let (mut order, slot) = begun();
    let all = order.take_resync_room(1 << 40);
    order.give_back_resync_room(all.expect("nothing else is there"));
    let quarter = order.limits().queue_bytes_max / 4;
    let mut pushed = 0;
    while let Some(room) = order.take_resync_room(MIB) {
        order.give_back_resync_room(room);
        let GuestChange::Data { extent, payload } = data(0, MIB) else {
            unreachable!("data is data");
        };
        let change = Change::Data(extent);
        order
            .push_own(slot, G1, at(1), change, Some(payload))
            .expect("current");
        pushed += 1;
    }
    assert_eq!(pushed, 63);
    assert!(order.used() <= quarter);
    assert!(order.has_generation_room());
}

#[test]
fn resyncs_that_read_at_the_same_time_do_not_find_the_same_room() {
    let (mut order, _) = begun();
    let before = order.used();
    let rooms: Vec<_> = std::iter::from_fn(|| order.take_resync_room(MIB)).collect();
    assert_eq!(rooms.len(), 63);
    assert!(order.used() <= order.limits().queue_bytes_max / 4);
    for room in rooms {
        order.give_back_resync_room(room);
    }
    assert_eq!(order.used(), before);
}

#[test]
fn what_belongs_to_an_earlier_generation_is_not_queued() {
    let (mut order, slot) = begun();
    order.lose_order(slot, LossReason::LocalError, at(1).now);
    let complete = || Change::ResyncComplete;
    assert_eq!(
        order.push_own(slot, G1, at(1), complete(), None),
        Err(NotCurrent)
    );
    begin(&mut order, slot, G2);
    assert_eq!(
        order.push_own(slot, G1, at(1), complete(), None),
        Err(NotCurrent)
    );
    assert!(order.push_own(slot, G2, at(1), complete(), None).is_ok());
}

#[test]
fn seqs_go_on_above_what_the_server_states_and_a_jump_ends_every_order() {
    let (mut order, slot) = begun();
    assert_eq!(order.raise_above(order.newest(), at(1).now), []);
    let stated = Seq(5_000);
    assert!(order.has_reserved_beyond(stated));
    assert!(!order.has_reserved_beyond(Seq(1 << 40)));
    assert_eq!(order.raise_above(stated, at(1).now), [slot]);
    begin(&mut order, slot, G2);
    assert_eq!(queued(order.push(slot, at(2), data(0, 512))), Seq(5_002));
}

#[test]
fn without_a_reserved_seq_a_disk_loses_order_and_a_bookmark_fails() {
    let seqs = Reservation::new(Seq(10), Seq(12));
    let mut order = WriteOrder::new(OrderLimits::default(), seqs);
    let slot = order.attach();
    begin(&mut order, slot, G1);
    queued(order.push(slot, at(1), data(0, 512)));
    let marked = order.bookmark("b", Consistency::Crash, at(1));
    assert_eq!(marked, Err(BookmarkError::NoSeqs(NoSeqs)));
    let reason = LossReason::SeqsExhausted;
    assert_eq!(
        order.push(slot, at(1), data(0, 512)),
        Pushed::Lost { reason }
    );
    assert!(order.wanted_reservation().is_some());
}

#[test]
fn a_detached_disk_gives_back_its_charge_and_takes_nothing_more() {
    let (mut order, slot) = begun();
    order.push(slot, at(1), data(0, 4_096));
    assert!(take(&mut order, at(6)).is_some());
    order.push(slot, at(7), data(0, 4_096));
    order.detach(slot);
    assert_eq!(order.used(), 0);
    assert_eq!(order.push(slot, at(8), data(0, 512)), Pushed::Ignored);
    order.handle_frozen(slot, 100);
    assert!(!order.handle_freed(slot, 1, 100));
}

#[test]
fn what_is_frozen_and_not_freed_is_given_back_with_its_disk_too() {
    let (mut order, slot) = begun();
    order.push(slot, at(1), data(0, 4_096));
    assert!(take(&mut order, at(6)).is_some());
    order.handle_frozen(slot, 100);
    assert!(0 < order.used());
    order.detach(slot);
    assert_eq!(order.used(), 0);
}

#[test]
fn a_queue_may_be_filled_to_its_last_byte() {
    let (mut wide, slot) = begun();
    queued(wide.push(slot, at(1), data(0, 4_096)));
    let limits = OrderLimits {
        queue_bytes_max: wide.used(),
        ..OrderLimits::default()
    };
    let until = Reservation::mark_after(Seq::ZERO).expect("far from the end");
    let mut order = WriteOrder::new(limits, Reservation::new(Seq::ZERO, until));
    let slot = order.attach();
    begin(&mut order, slot, G1);
    queued(order.push(slot, at(1), data(0, 4_096)));
    assert_eq!(order.used(), limits.queue_bytes_max);
}

#[test]
fn a_generation_that_an_earlier_process_left_goes_on_without_an_opening() {
    let mut order = order();
    let slot = order.attach();
    assert_eq!(order.push(slot, at(1), zero(0, 1)), Pushed::Ignored);
    order.resume_generation(slot, G1);
    let seq = queued(order.push(slot, at(1), zero(0, 1)));
    let batch = take(&mut order, at(6)).expect("its time has come");
    let seqs: Vec<Seq> = batch.records().iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [seq]);
}

#[derive(Clone, Debug)]
enum Step {
    Data { disk: usize, sectors: u64 },
    Zero { disk: usize },
    Bookmark,
    Own { disk: usize },
    Wait { millis: u64 },
    Take,
    Free { disk: usize },
    Lose { disk: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let disk = 0..3_usize;
    prop_oneof![
        8 => (disk.clone(), 1..40_u64).prop_map(|(disk, sectors)| Step::Data { disk, sectors }),
        1 => disk.clone().prop_map(|disk| Step::Data { disk, sectors: 5_000 }),
        2 => disk.clone().prop_map(|disk| Step::Zero { disk }),
        1 => Just(Step::Bookmark),
        1 => disk.clone().prop_map(|disk| Step::Own { disk }),
        4 => (0..8_u64).prop_map(|millis| Step::Wait { millis }),
        5 => Just(Step::Take),
        4 => disk.clone().prop_map(|disk| Step::Free { disk }),
        1 => disk.prop_map(|disk| Step::Lose { disk }),
    ]
}

/// What one disk's batches must be, from what was pushed.
#[derive(Default)]
struct Twin {
    generation: u8,
    /// `Seq`s pushed in this generation and not taken yet.
    waiting: Vec<Seq>,
    complete_through: Seq,
    unfrozen: u64,
    frozen: u64,
}

struct World {
    order: WriteOrder,
    slots: Vec<DiskSlot>,
    twins: BTreeMap<usize, Twin>,
    millis: u64,
    newest: Seq,
}

impl World {
    fn new() -> Self {
        let limits = OrderLimits {
            queue_bytes_max: 6 << 20,
            ..OrderLimits::default()
        };
        let until = Reservation::mark_after(Seq::ZERO).expect("far from the end");
        let mut order = WriteOrder::new(limits, Reservation::new(Seq::ZERO, until));
        let slots: Vec<_> = (0..3).map(|_| order.attach()).collect();
        let twins = (0..3).map(|index| (index, Twin::default())).collect();
        Self {
            order,
            slots,
            twins,
            millis: 0,
            newest: Seq::ZERO,
        }
    }

    /// Begins a generation where there is none and the one before is packed.
    fn begin(&mut self) {
        for (&index, twin) in &mut self.twins {
            let slot = self.slots[index];
            let state = self.order.figures(slot).expect("attached").state;
            let ordered = matches!(state, QueueState::Ordered { .. });
            if ordered || self.order.packing_count(slot) != 0 {
                continue;
            }
            twin.generation += 1;
            let generation = GenerationId([twin.generation; 16]);
            let opening = vec![Change::ResyncBegin { base: None }];
            self.order
                .begin_generation(slot, generation, opening, at(self.millis))
                .expect("reserved");
            self.newest = self.newest.next();
            twin.waiting = vec![self.newest];
        }
    }

    fn push(&mut self, disk: usize, change: GuestChange) {
        let count = change.payload_len().div_ceil(MIB).max(1);
        let twin = self.twins.get_mut(&disk).expect("three disks");
        match self.order.push(self.slots[disk], at(self.millis), change) {
            Pushed::Queued { seq, .. } => {
                assert_eq!(seq, Seq(self.newest.0 + count));
                twin.waiting.extend((self.newest.0 + 1..=seq.0).map(Seq));
                self.newest = seq;
            }
            Pushed::Lost { .. } => twin.waiting.clear(),
            Pushed::Ignored => panic!("every disk keeps order here"),
        }
    }

    fn take(&mut self) {
        while let Some((slot, batch)) = self.order.take_batch(at(self.millis)) {
            let index = self.slots.iter().position(|&s| s == slot).expect("known");
            let twin = self.twins.get_mut(&index).expect("three disks");
            assert_eq!(batch.generation, GenerationId([twin.generation; 16]));
            let seqs: Vec<Seq> = batch.records().iter().map(|record| record.seq).collect();
            let taken: Vec<Seq> = twin.waiting.drain(..seqs.len()).collect();
            assert_eq!(seqs, taken, "in order, none missing, none twice");
            let next = twin.waiting.first().copied();
            assert!(next.is_none_or(|next| batch.complete_through < next));
            assert!(twin.complete_through <= batch.complete_through);
            if next.is_none() {
                assert_eq!(batch.complete_through, self.newest);
            }
            assert!(!seqs.is_empty() || twin.complete_through < batch.complete_through);
            twin.complete_through = batch.complete_through;
            twin.unfrozen += 1;
        }
    }

    fn free(&mut self, disk: usize) {
        let twin = self.twins.get_mut(&disk).expect("three disks");
        for _ in 0..twin.unfrozen {
            self.order.handle_frozen(self.slots[disk], 1_000);
        }
        twin.frozen += std::mem::take(&mut twin.unfrozen);
        let count = std::mem::take(&mut twin.frozen);
        self.order
            .handle_freed(self.slots[disk], count, count * 1_000);
    }
}

proptest! {
    /// Whatever is pushed, taken, freed and lost in whatever order: every change comes out once, in
    /// order; every statement is true; and in the end nothing is charged.
    #[test]
    fn no_history_loses_a_change_or_states_what_is_not_so(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new();
        for step in steps {
            world.begin();
            match step {
                Step::Data { disk, sectors } => world.push(disk, data(0, sectors * SECTOR_LEN)),
                Step::Zero { disk } => world.push(disk, zero(0, 9)),
                Step::Bookmark => {
                    let stamp = at(world.millis);
                    let seq = world.order.bookmark("b", Consistency::Crash, stamp).expect("reserved");
                    world.newest = seq;
                    world.twins.values_mut().for_each(|twin| twin.waiting.push(seq));
                }
                Step::Own { disk } => {
                    let twin = world.twins.get_mut(&disk).expect("three disks");
                    let generation = GenerationId([twin.generation; 16]);
                    let change = Change::ResyncComplete;
                    let slot = world.slots[disk];
                    let pushed = world.order.push_own(slot, generation, at(world.millis), change, None);
                    world.newest = pushed.expect("current");
                    twin.waiting.push(world.newest);
                }
                Step::Wait { millis } => world.millis += millis,
                Step::Take => world.take(),
                Step::Free { disk } => world.free(disk),
                Step::Lose { disk } => {
                    let now = at(world.millis).now;
                    world.order.lose_order(world.slots[disk], LossReason::LocalError, now);
                    world.twins.get_mut(&disk).expect("three disks").waiting.clear();
                    // Until it is packed, the disk ignores what comes.
                    world.free(disk);
                }
            }
            for disk in 0..3 {
                let ordered = world.order.figures(world.slots[disk]).expect("attached").state;
                if !matches!(ordered, QueueState::Ordered { .. }) {
                    world.free(disk);
                }
            }
            let budget = world.order.limits().queue_bytes_max;
            prop_assert!(world.order.used() <= budget + 150 * 3 * RECORD_CHARGE);
        }
        for _ in 0..3 {
            world.millis += 1_000;
            world.take();
            (0..3).for_each(|disk| world.free(disk));
        }
        prop_assert!(world.twins.values().all(|twin| twin.waiting.is_empty()));
        prop_assert_eq!(world.order.used(), 0);
        prop_assert_eq!(world.order.deadline(), None);
    }
}
