//! Sessions, promises and cuts of one machine.

use everpoint_units::BlockNo;

use super::*;
use crate::test_blocks::{DISK, MACHINE, OTHER_DISK, next, opening};

const NOW: Moment = Moment(0);
const EPOCH: Level = Level(4);

fn core() -> MachineCore {
    MachineCore::new(MACHINE, &MachineHistory::new(MACHINE))
}

/// A core with a session in which both disks are open.
fn connected() -> (MachineCore, SessionId) {
    let mut core = core();
    let session = core.begin_session().session;
    for disk in [DISK, OTHER_DISK] {
        assert!(core.open_disk(session, disk).is_some());
    }
    (core, session)
}

fn take(core: &mut MachineCore, session: SessionId, block: &ChangeBlock) {
    let disk = block.header().disk;
    let answer = core.handle_block(session, disk, block, NOW);
    assert_eq!(answer, BlockAnswer::Append);
}

#[test]
fn only_the_newest_session_counts() {
    let (mut core, old) = connected();
    let new = core.begin_session().session;
    let first = opening(DISK, 7, None, 1);
    assert_eq!(
        core.handle_block(old, DISK, &first, NOW),
        BlockAnswer::Nothing
    );
    assert_eq!(core.open_disk(old, DISK), None);
    assert_eq!(core.handle_corrupt(old, DISK), BlockAnswer::Nothing);
    assert!(core.compared(old, DISK).is_none());
    assert!(core.open_disk(new, DISK).is_some());
    take(&mut core, new, &first);
    assert_eq!(
        core.begin_session().highest_seq,
        Seq(2),
        "what was taken counts for the next session"
    );
}

#[test]
fn nothing_behind_a_violation_is_looked_at() {
    let (mut core, session) = connected();
    let first = opening(DISK, 7, None, 1);
    let foreign = core.handle_block(session, OTHER_DISK, &first, NOW);
    assert_eq!(
        foreign,
        BlockAnswer::Close(Fault::Violation(Violation::ForeignDisk))
    );
    assert_eq!(
        core.handle_block(session, DISK, &first, NOW),
        BlockAnswer::Nothing
    );
}

#[test]
fn a_refusal_names_what_is_held_and_a_duplicate_is_answered_with_marks() {
    let (mut core, session) = connected();
    let first = opening(DISK, 7, None, 1);
    let (second, third) = (next(&first, 3), next(&next(&first, 3), 4));
    take(&mut core, session, &first);
    let refused = BlockAnswer::Refused {
        reason: RefuseReason::Gap,
        tail: Some(first.header().position()),
    };
    let gap = core.handle_block(session, DISK, &third, NOW);
    assert_eq!(gap, refused);
    let echo = core.handle_block(session, DISK, &third, NOW);
    assert_eq!(echo, BlockAnswer::Nothing, "it was said once");
    take(&mut core, session, &second);
    let again = core.handle_block(session, DISK, &first, NOW);
    assert_eq!(again, BlockAnswer::Marks);
}

#[test]
fn the_cut_is_the_least_of_the_disks_that_count() {
    let (mut core, session) = connected();
    let one = opening(DISK, 7, None, 1);
    let other = opening(OTHER_DISK, 8, None, 3);
    for block in [&one, &other] {
        take(&mut core, session, block);
        core.handle_cached(block.header().disk, block.header().position());
    }
    assert_eq!(core.committed_cut(), Seq::ZERO, "nothing is committed");
    core.handle_committed(DISK, one.header().position(), Seq(2));
    assert_eq!(core.committed_cut(), Seq::ZERO, "the other disk is not");
    core.handle_committed(OTHER_DISK, other.header().position(), Seq(4));
    assert_eq!(core.committed_cut(), Seq(2));
    let marks = core.watermarks(DISK, EPOCH).expect("something is held");
    assert_eq!((marks.cached, marks.committed), (BlockNo(1), BlockNo(1)));
    assert_eq!((marks.committed_cut, marks.epoch), (Seq(2), EPOCH));
}

#[test]
fn a_new_session_is_promised_what_is_durable_and_not_what_is_on_its_way_to_the_log() {
    let (mut core, session) = connected();
    let first = opening(DISK, 7, None, 1);
    let second = next(&first, 3);
    take(&mut core, session, &first);
    take(&mut core, session, &second);
    core.handle_cached(DISK, first.header().position());
    let session = core.begin_session().session;
    let state = core.open_disk(session, DISK).expect("the newest session");
    assert_eq!(state.cached, Some(first.header().position()));
    assert_eq!(state.complete_through, Seq(3), "no `Seq` is used twice");
    let again = core.handle_block(session, DISK, &second, NOW);
    assert_eq!(again, BlockAnswer::Marks);
}

#[test]
fn a_recovered_block_counts_only_where_it_goes_on() {
    let mut core = core();
    let first = opening(DISK, 7, None, 1);
    let second = next(&first, 3);
    assert!(!core.recover(&second), "the first is missing");
    assert!(core.recover(&first) && core.recover(&second));
    let session = core.begin_session();
    let held = second.header().position();
    assert_eq!(session.highest_seq, Seq(3));
    let state = session.disks[0];
    assert_eq!((state.cached, state.committed), (Some(held), None));
}
