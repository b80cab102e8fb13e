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
    assert_eq!(mark(&mut order, &disks, "good", STAMP), Ok(Seq(1)));

    assert!(order.lose_order(second, LossReason::LocalError, STAMP.now));
    let unordered = Err(BookmarkError::Unordered);
    assert_eq!(mark(&mut order, &disks, "lost", STAMP), unordered);
    begin(&mut order, second, 3);
    assert_eq!(mark(&mut order, &disks, "too early", STAMP), unordered);
    assert_eq!(order.newest(), Seq(1), "nothing has changed");

    order.detach(second);
    assert_eq!(mark(&mut order, &disks, "gone", STAMP), unordered);
    assert_eq!(mark(&mut order, &disks[..1], "one", STAMP), Ok(Seq(2)));
}
