//! What goes on, what an object covers, and what settles the log.

use std::time::Duration;

use everpoint_format::cache_log::LogFileNo;
use everpoint_units::{ByteOffset, Level};

use super::*;
use crate::test_blocks::{DISK, OTHER_DISK, next, opening};

const LIMITS: CommitLimits = CommitLimits {
    interval: Duration::from_secs(2),
    object_len_target: 1 << 20,
    in_flight_max: 2,
};
const NOW: Moment = Moment(0);
const WRITER: Writer = Writer {
    vault: VaultId([5; 16]),
    server: ServerId([6; 16]),
};

const fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [9; 16],
    }
}

fn at(offset: u64) -> LogPosition {
    LogPosition::new(LogFileNo(1), ByteOffset(offset))
}

fn core() -> CommitCore {
    CommitCore::new(journal(1), LIMITS)
}

fn join(core: &mut CommitCore, offset: u64, block: &ChangeBlock) {
    join_at(core, offset, block, NOW);
}

fn join_at(core: &mut CommitCore, offset: u64, block: &ChangeBlock, now: Moment) {
    core.handle_stands(block.header().disk, None);
    assert!(core.goes_on(block));
    core.push(at(offset), block, Vec::new(), now);
}

fn freeze(core: &mut CommitCore) -> ObjectNo {
    frozen(core).header.number
}

fn frozen(core: &mut CommitCore) -> DataObject {
    assert!(!core.hurry(NOW), "something waits");
    assert!(core.wants_freeze(NOW));
    core.freeze(WRITER, WallTime(0))
}

fn commit(core: &mut CommitCore, number: ObjectNo) -> Vec<Covers> {
    core.handle_stored(number);
    assert!(matches!(core.poll(), Some(Effect::AskForEnd { after }) if after == number));
    assert!(core.poll().is_none(), "the question is open");
    core.handle_end_absent(number);
    match core.poll() {
        Some(Effect::Committed { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_object_covers_the_newest_block_of_each_disk_and_the_log_through_its_last() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    let (two, other) = (next(&one, 5), opening(OTHER_DISK, 8, None, 3));
    for (offset, block) in [(10, &one), (20, &other), (30, &two)] {
        join(&mut core, offset, block);
    }
    let number = freeze(&mut core);
    let covers = commit(&mut core, number).remove(0);
    assert_eq!(covers.through, Some(at(30)));
    let positions = covers.disks.values().map(|disk| disk.position);
    let newest = [two.header().position(), other.header().position()];
    assert_eq!(positions.collect::<Vec<_>>(), newest);
    assert!(core.is_settled() && core.hurry(NOW));
}

#[test]
fn only_what_continues_its_disks_commits_goes_on() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    let (two, three) = (next(&one, 5), next(&next(&one, 5), 6));
    core.handle_stands(DISK, Some(one.header().position()));
    assert!(core.goes_on(&two));
    assert!(!core.goes_on(&one), "it is committed");
    assert!(!core.goes_on(&three), "one is missing");
    let stands = Some(one.header().position());
    assert!(core.goes_on(&opening(DISK, 8, stands, 5)));
    let elsewhere = Some(two.header().position());
    assert!(!core.goes_on(&opening(DISK, 8, elsewhere, 5)));
}

#[test]
fn what_is_discarded_settles_the_log_at_once_only_when_nothing_before_it_waits() {
    let mut core = core();
    assert_eq!(core.discard(at(10)), Some(at(10)));
    join(&mut core, 20, &opening(DISK, 7, None, 1));
    assert_eq!(core.discard(at(30)), None);
    let number = freeze(&mut core);
    assert_eq!(core.discard(at(40)), None, "an object is on its way");
    let covers = commit(&mut core, number).remove(0);
    assert_eq!(covers.through, Some(at(30)));
    assert_eq!(core.discard(at(50)), Some(at(50)));
}

#[test]
fn a_new_journal_begins_at_one_with_what_was_in_the_batch() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    join(&mut core, 10, &one);
    let number = freeze(&mut core);
    join(&mut core, 20, &next(&one, 5));
    commit(&mut core, number);
    core.begin_journal(journal(2), NOW);
    let number = freeze(&mut core);
    assert_eq!((core.journal(), number), (journal(2), ObjectNo(1)));
    let covers = commit(&mut core, number).remove(0);
    assert_eq!(covers.through, Some(at(20)));
}

#[test]
#[should_panic(expected = "every frozen object is committed first")]
fn no_journal_is_left_while_an_object_is_on_its_way() {
    let mut core = core();
    join(&mut core, 10, &opening(DISK, 7, None, 1));
    freeze(&mut core);
    core.begin_journal(journal(2), NOW);
}

#[test]
fn a_batch_takes_blocks_until_their_bytes_and_records_reach_the_target() {
    let block = opening(DISK, 7, None, 1);
    let header = block.header();
    let len = (header.encoded_len() + header.opened_len()) as u64;
    for (object_len_target, takes) in [(len + 1, true), (len, false)] {
        let limits = CommitLimits {
            object_len_target,
            ..LIMITS
        };
        let mut core = CommitCore::new(journal(1), limits);
        assert!(core.takes());
        join(&mut core, 10, &block);
        assert_eq!(core.takes(), takes);
        assert_eq!(core.wants_freeze(NOW), !takes, "what is full goes at once");
        freeze(&mut core);
        assert!(core.takes(), "the next batch is empty");
    }
}

#[test]
fn a_batch_is_due_when_its_oldest_block_has_waited_the_interval() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    let (begun, later) = (Moment(5), Moment(7));
    assert_eq!(core.poll_timeout(), None);
    join_at(&mut core, 10, &one, begun);
    join_at(&mut core, 20, &next(&one, 5), later);
    let due = begun.after(LIMITS.interval);
    assert_eq!(core.poll_timeout(), Some(due));
    assert!(!core.wants_freeze(Moment(due.0 - 1)));
    assert!(core.wants_freeze(due));
}

#[test]
fn a_change_waits_until_its_object_is_committed() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    let (begun, later) = (Moment(5), Moment(7));
    assert_eq!(core.waiting_since(), None);
    join_at(&mut core, 10, &one, begun);
    assert_eq!(core.waiting_since(), Some(begun));
    let number = freeze(&mut core);
    join_at(&mut core, 20, &next(&one, 5), later);
    assert_eq!(core.waiting_since(), Some(begun), "it is on its way");
    commit(&mut core, number);
    assert_eq!(core.waiting_since(), Some(later));
    let number = freeze(&mut core);
    commit(&mut core, number);
    assert_eq!(core.waiting_since(), None);
}

#[test]
fn where_a_disks_commits_stand_is_told_once_and_from_then_on_known() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    assert!(!core.knows(DISK));
    join(&mut core, 10, &one);
    assert!(core.knows(DISK) && !core.knows(OTHER_DISK));
    core.handle_stands(DISK, None);
    assert!(core.goes_on(&next(&one, 5)), "what joined since counts");
}

#[test]
fn an_unanswered_question_for_the_end_is_asked_again_and_nothing_is_committed_meanwhile() {
    let mut core = core();
    join(&mut core, 10, &opening(DISK, 7, None, 1));
    let number = freeze(&mut core);
    core.handle_stored(number);
    for _ in 0..2 {
        assert!(matches!(core.poll(), Some(Effect::AskForEnd { after }) if after == number));
        assert!(core.poll().is_none());
        core.handle_end_unknown();
    }
    assert!(!core.is_settled());
}

#[test]
fn a_journal_that_is_over_takes_freezes_and_commits_nothing() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    join(&mut core, 10, &one);
    let number = freeze(&mut core);
    join(&mut core, 20, &next(&one, 5));
    core.handle_stored(number);
    assert!(core.takes() && core.poll_timeout().is_some() && !core.is_fenced());
    core.handle_fenced();
    assert!(core.is_fenced() && !core.takes());
    assert!(core.poll().is_none(), "what was stored may be another's");
    let long_after = NOW.after(LIMITS.interval * 100);
    assert_eq!(core.poll_timeout(), None);
    assert!(!core.wants_freeze(long_after));
}

#[test]
fn an_object_names_the_one_before_it_and_the_first_of_a_journal_names_none() {
    let mut core = core();
    let one = opening(DISK, 7, None, 1);
    let (two, three) = (next(&one, 5), next(&next(&one, 5), 6));
    let mut before = ObjectChecksum::default();
    for (offset, block) in [(10, &one), (20, &two)] {
        join(&mut core, offset, block);
        let object = frozen(&mut core);
        assert_eq!(object.header.previous, before);
        before = object.checksum;
        commit(&mut core, object.header.number);
    }
    core.begin_journal(journal(2), NOW);
    join(&mut core, 30, &three);
    let object = frozen(&mut core);
    assert_eq!(object.header.previous, ObjectChecksum::default());
}

#[test]
fn what_a_new_journal_begins_with_is_due_an_interval_later() {
    let mut core = core();
    let later = Moment(9);
    core.begin_journal(journal(2), later);
    assert_eq!(core.poll_timeout(), None, "nothing waits");
    join(&mut core, 10, &opening(DISK, 7, None, 1));
    core.begin_journal(journal(3), later);
    let due = later.after(LIMITS.interval);
    assert_eq!(core.poll_timeout(), Some(due));
    assert!(core.wants_freeze(due));
}

#[test]
fn a_seal_is_the_own_one_only_if_it_states_the_last_number_and_checksum() {
    let mut core = core();
    join(&mut core, 10, &opening(DISK, 7, None, 1));
    let object = frozen(&mut core);
    commit(&mut core, object.header.number);
    let own = Seal {
        header: ObjectHeader {
            number: ObjectNo(2),
            previous: object.checksum,
            ..object.header
        },
        prefix_end: ObjectNo(1),
        last_checksum: object.checksum,
        successor: journal(2),
    };
    assert!(core.wrote_all_of(&own));
    for prefix_end in [ObjectNo(0), ObjectNo(2)] {
        assert!(!core.wrote_all_of(&Seal { prefix_end, ..own }));
    }
    let last_checksum = ObjectChecksum([8; 32]);
    assert!(!core.wrote_all_of(&Seal {
        last_checksum,
        ..own
    }));
}
