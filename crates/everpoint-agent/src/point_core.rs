//! Whether an instant can be marked, and what a disk's own words belong to. Pure.
//!
//! What is known of a disk may be a moment old: it can have lost its order since, and have begun the
//! next generation too. So a level copy is spoken of together with the generation that is level, and
//! an instant is marked only if that is what the order still writes: a mark in a generation that is
//! not level would be no point.

use everpoint_capture::{BookmarkError, DiskSlot, QueueState, Stamp, WriteOrder};
use everpoint_format::record::Consistency;
use everpoint_units::{GenerationId, Seq};

/// A disk whose copy was level when it was last heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LevelDisk {
    pub slot: DiskSlot,
    /// The generation that is level.
    pub generation: GenerationId,
}

/// Marks this instant in the write order of all disks, which are `disks`, under `name`.
///
/// # Errors
///
/// See [`BookmarkError`]; nothing has changed.
pub fn mark(
    order: &mut WriteOrder,
    disks: &[LevelDisk],
    name: &str,
    stamp: Stamp,
) -> Result<Seq, BookmarkError> {
    let is_current = |disk: &LevelDisk| {
        let state = order.figures(disk.slot).map(|figures| figures.state);
        let generation = disk.generation;
        state == Some(QueueState::Ordered { generation })
    };
    if !disks.iter().all(is_current) {
        return Err(BookmarkError::Unordered);
    }
    order.bookmark(name, Consistency::Crash, stamp)
}

#[cfg(test)]
mod tests {
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
}
