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
    core.handle_stands(block.header().disk, None);
    assert!(core.goes_on(block));
    core.push(at(offset), block, Vec::new(), NOW);
}

fn freeze(core: &mut CommitCore) -> ObjectNo {
    assert!(!core.hurry(NOW), "something waits");
    assert!(core.wants_freeze(NOW));
    core.freeze(WRITER, WallTime(0)).header.number
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
