//! When a point is there.

use everpoint_capture::{LossReason, OrderLimits, Reservation};
use everpoint_units::Moment;

use super::*;

const STAMP: Stamp = Stamp {
    now: Moment(5),
    at: everpoint_units::WallTime(6),
};

fn begin(order: &mut WriteOrder, slot: DiskSlot, number: u8) -> LevelDisk {
    let generation = GenerationId([number; 16]);
    let begun = order.begin_generation(slot, generation, Vec::new(), STAMP);
    begun.expect("reserved");
    LevelDisk { slot, generation }
}

#[test]
fn an_instant_is_marked_only_in_the_generations_that_are_level() {
    let seqs = Reservation::new(Seq::ZERO, Seq(1_000));
    let mut order = WriteOrder::new(OrderLimits::default(), seqs);
    let (first, second) = (order.attach(), order.attach());
    let disks = [begin(&mut order, first, 1), begin(&mut order, second, 2)];
    let good = mark(&mut order, &disks, "good", STAMP);
    assert_eq!(good.map(|mark| mark.seq), Ok(Seq(1)));

    assert!(order.lose_order(second, LossReason::LocalError, STAMP.now));
    let unordered = Err(BookmarkError::Unordered);
    assert_eq!(mark(&mut order, &disks, "lost", STAMP), unordered);
    begin(&mut order, second, 3);
    assert_eq!(mark(&mut order, &disks, "too early", STAMP), unordered);
    assert_eq!(order.newest(), Seq(1), "nothing has changed");

    order.detach(second);
    assert_eq!(mark(&mut order, &disks, "gone", STAMP), unordered);
    let one = mark(&mut order, &disks[..1], "one", STAMP);
    assert_eq!(one.map(|mark| mark.seq), Ok(Seq(2)));
}

#[test]
fn a_mark_is_committed_when_the_cut_reaches_it_in_unbroken_generations() {
    let seqs = Reservation::new(Seq::ZERO, Seq(1_000));
    let mut order = WriteOrder::new(OrderLimits::default(), seqs);
    let (first, second) = (order.attach(), order.attach());
    let disks = [begin(&mut order, first, 1), begin(&mut order, second, 2)];
    let mark = mark(&mut order, &disks, "good", STAMP).expect("in order");
    assert_eq!(mark.fate(&order, Seq::ZERO), Fate::Open);
    assert_eq!(mark.fate(&order, mark.seq), Fate::Committed);
    assert_eq!(mark.fate(&order, Seq(900)), Fate::Committed);
}

#[test]
fn a_cut_that_a_later_generation_raised_does_not_commit_a_mark() {
    let seqs = Reservation::new(Seq::ZERO, Seq(1_000));
    let mut order = WriteOrder::new(OrderLimits::default(), seqs);
    let (first, second) = (order.attach(), order.attach());
    let disks = [begin(&mut order, first, 1), begin(&mut order, second, 2)];
    let mark = mark(&mut order, &disks, "cached only", STAMP).expect("in order");
    let end = end(&mut order, disks[1], STAMP).expect("in order");
    let other = Mark {
        seq: mark.seq,
        disks: vec![disks[0]],
    };

    assert!(order.lose_order(second, LossReason::PositionUnknown, STAMP.now));
    assert_eq!(mark.fate(&order, Seq::ZERO), Fate::Lost);
    begin(&mut order, second, 3);
    let raised = order.newest();
    assert!(mark.seq <= raised && end.seq <= raised);
    assert_eq!(mark.fate(&order, raised), Fate::Lost);
    assert_eq!(end.fate(&order, raised), Fate::Lost);
    assert_eq!(other.fate(&order, raised), Fate::Committed);

    order.detach(first);
    assert_eq!(other.fate(&order, raised), Fate::Lost, "nobody feeds it");
}
