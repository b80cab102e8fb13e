//! What a start goes on with, and what not.

use everpoint_capture::{OrderLimits, QueueState, Reservation};
use everpoint_units::{BlockNo, ChainValue, GenerationId, Seq};

use super::*;

const TAIL: DiskPosition = DiskPosition {
    generation: GenerationId([3; 16]),
    block_no: BlockNo(9),
    chain: ChainValue(7),
};

fn order() -> WriteOrder {
    let seqs = Reservation::new(Seq(10), Seq(1_000));
    WriteOrder::new(OrderLimits::default(), seqs)
}

#[test]
fn only_a_source_that_is_as_it_was_left_is_resumed() {
    let stood = Stood {
        tail: TAIL,
        source: 'a',
    };
    assert_eq!(resumed(Some(&stood), Some(&'a')), Some(TAIL));
    assert_eq!(resumed(Some(&stood), Some(&'b')), None);
    assert_eq!(resumed(Some(&stood), None), None, "nothing can tell");
    assert_eq!(resumed(None, Some(&'a')), None, "a crash leaves nothing");
    assert_eq!(resumed::<char>(None, None), None);
}

#[test]
fn a_resumed_disk_keeps_order_at_once_and_another_when_its_generation_begins() {
    let mut order = order();
    let (slot, source) = begin_disk(&mut order, Level(2), Some(TAIL), Moment(5));
    let state = order.figures(slot).expect("attached").state;
    let generation = TAIL.generation;
    assert_eq!(state, QueueState::Ordered { generation });
    assert_eq!(source.place(), Some(TAIL));
    assert!(source.is_level() && !source.wants_generation());

    let (slot, source) = begin_disk(&mut order, Level(2), None, Moment(5));
    let state = order.figures(slot).expect("attached").state;
    assert_eq!(state, QueueState::Unbegun);
    assert!(source.wants_generation());
    assert_eq!(source.uncommitted_since(), Some(Moment(5)));
    assert_eq!(source.epoch(), Level(2));
}

#[test]
fn a_stop_is_clean_when_everything_is_committed_on_the_disk_and_can_be_proved() {
    let stop = |drained, flushed, source| disk_stop::<char, ()>(drained, flushed, source);
    let clean = DiskStop::Clean(Stood {
        tail: TAIL,
        source: 'a',
    });
    assert_eq!(stop(Some(TAIL), true, Ok(Some('a'))), clean);
    assert_eq!(stop(Some(TAIL), true, Ok(None)), DiskStop::Unproven);
    assert_eq!(stop(Some(TAIL), true, Err(())), DiskStop::Undrained);
    assert_eq!(stop(Some(TAIL), false, Ok(Some('a'))), DiskStop::Undrained);
    assert_eq!(stop(None, true, Ok(Some('a'))), DiskStop::Undrained);
    assert_eq!(stop(None, true, Ok(None)), DiskStop::Undrained);
}
