//! Sessions, promises and cuts of one machine.

use everpoint_format::Change;
use everpoint_format::index::{BlockEntry, Section};
use everpoint_units::{BlockNo, GenerationId, JournalId, ObjectNo};

use super::*;
use crate::test_blocks::{DISK, MACHINE, OTHER_DISK, block, next, opening};

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

/// What the vault says of the machine once these are committed, in order.
fn history(blocks: &[&ChangeBlock]) -> MachineHistory {
    let journal = JournalId {
        level: Level(1),
        random: [9; 16],
    };
    let mut history = MachineHistory::new(MACHINE);
    for block in blocks {
        let mut section = Section::begin(block.header());
        section.blocks.push(BlockEntry::of(block, 0, Vec::new()));
        history.fold(&section, journal, ObjectNo(1));
    }
    history
}

/// A block behind `before` with which the disk leaves the cuts.
fn ending(before: &ChangeBlock, seq: u64) -> ChangeBlock {
    let header = before.header();
    let changes = vec![(seq, Change::DiskEnd)];
    block(header.disk, header.position(), changes)
}

fn counted(core: &MachineCore) -> Vec<DiskId> {
    core.counted().collect()
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
fn a_disk_is_reported_by_the_name_that_it_begins_with() {
    let (mut core, session) = connected();
    take(&mut core, session, &opening(OTHER_DISK, 8, None, 1));
    let names: Vec<_> = core
        .reports()
        .map(|(id, report)| (id, report.name))
        .collect();
    let named = |id, name: &str| (id, name.to_owned());
    assert_eq!(names, [named(DISK, ""), named(OTHER_DISK, "disk")]);
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

#[test]
fn a_machine_goes_on_where_its_vault_has_it() {
    let one = opening(DISK, 7, None, 1);
    let two = next(&one, 3);
    let other = opening(OTHER_DISK, 8, None, 4);
    let end = ending(&other, 6);
    let history = history(&[&one, &two, &other, &end]);
    assert_eq!(MachineCore::broken(&history).count(), 0);
    let mut core = MachineCore::new(MACHINE, &history);
    assert_eq!(counted(&core), [DISK], "the other has ended");
    assert_eq!(core.committed_cut(), Seq(3));
    for last in [&two, &end] {
        let header = last.header();
        assert_eq!(core.committed(header.disk), Some(header.position()));
        assert_eq!(core.held_through(header.disk), header.complete_through);
    }
    let (id, report) = core.reports().next().expect("two disks");
    assert_eq!(
        (id, report.name.as_str(), report.sectors),
        (DISK, "disk", 100)
    );
    assert_eq!((report.cached, report.committed), (BlockNo(2), BlockNo(2)));
    assert_eq!(report.complete_through, Seq(3));
    let begun = core.begin_session();
    assert_eq!(begun.highest_seq, Seq(6));
    assert!(core.open_disk(begun.session, DISK).is_some());
    take(&mut core, begun.session, &next(&two, 7));
}

#[test]
fn a_disk_whose_history_is_broken_is_named_and_begins_with_nothing() {
    let one = opening(DISK, 7, None, 1);
    let two = next(&one, 3);
    let history = history(&[&one, &next(&two, 4)]);
    let broken: Vec<_> = MachineCore::broken(&history).collect();
    let why = history.disks()[&DISK].broken.expect("one is missing");
    assert_eq!(broken, [(DISK, why.to_string())]);
    let mut core = MachineCore::new(MACHINE, &history);
    assert_eq!(core.committed(DISK), None);
    assert_eq!(core.held_through(DISK), Seq::ZERO);
    assert!(counted(&core).is_empty());
    let session = core.begin_session().session;
    assert!(core.open_disk(session, DISK).is_some());
    take(&mut core, session, &opening(DISK, 9, None, 5));
}

/// Takes a block, and all that it takes to be committed.
fn commit(core: &mut MachineCore, session: SessionId, block: &ChangeBlock) {
    take(core, session, block);
    let header = block.header();
    core.handle_cached(header.disk, header.position());
    core.handle_committed(header.disk, header.position(), header.complete_through);
}

/// The first block of a generation of a disk that the server has.
fn reopening(before: &ChangeBlock, generation: u8, seq: u64) -> ChangeBlock {
    let header = before.header();
    let base = Some(header.position());
    let after = DiskPosition::start_of(GenerationId([generation; 16]));
    let changes = vec![
        (seq, Change::ResyncBegin { base }),
        (seq + 1, Change::Resize { sectors: 100 }),
    ];
    block(header.disk, after, changes)
}

#[test]
fn a_disk_counts_from_its_beginning_until_its_end_is_committed_and_when_it_comes_back() {
    let (mut core, session) = connected();
    assert!(counted(&core).is_empty(), "nothing but open");
    let one = opening(DISK, 7, None, 1);
    commit(&mut core, session, &one);
    assert_eq!(counted(&core), [DISK]);
    let end = ending(&one, 3);
    take(&mut core, session, &end);
    assert_eq!(counted(&core), [DISK], "its end is not committed");
    assert_eq!(core.committed_cut(), Seq(2));
    core.handle_cached(DISK, end.header().position());
    core.handle_committed(DISK, end.header().position(), Seq(3));
    assert!(counted(&core).is_empty());
    take(&mut core, session, &reopening(&end, 9, 4));
    assert_eq!(counted(&core), [DISK]);
}

#[test]
fn the_end_of_a_disk_is_in_the_cut_once_it_is_committed_alone_or_among_others() {
    let (mut core, session) = connected();
    let one = opening(DISK, 7, None, 1);
    let other = opening(OTHER_DISK, 8, None, 3);
    for block in [&one, &other, &next(&other, 20)] {
        commit(&mut core, session, block);
    }
    let end = ending(&one, 21);
    take(&mut core, session, &end);
    assert_eq!(core.committed_cut(), Seq(2), "it waits for the end");
    core.handle_cached(DISK, end.header().position());
    core.handle_committed(DISK, end.header().position(), Seq(21));
    assert_eq!(core.committed_cut(), Seq(20), "and then for the others");

    let (mut core, session) = connected();
    commit(&mut core, session, &one);
    commit(&mut core, session, &ending(&one, 3));
    assert_eq!(core.committed_cut(), Seq(3), "nothing is left to wait for");
}

#[test]
fn the_cut_counts_what_is_committed_and_not_what_is_held() {
    let (mut core, session) = connected();
    let one = opening(DISK, 7, None, 1);
    let two = next(&one, 3);
    for block in [&one, &two] {
        take(&mut core, session, block);
        core.handle_cached(DISK, block.header().position());
    }
    core.handle_committed(DISK, one.header().position(), Seq(2));
    assert_eq!(core.committed_cut(), Seq(2));
    assert_eq!(core.committed(DISK), Some(one.header().position()));
    assert_eq!(core.held_through(DISK), Seq(3));
}

#[test]
fn a_compare_is_about_the_generation_that_the_newest_session_sends() {
    let (mut core, session) = connected();
    assert!(core.compared(session, DISK).is_none(), "nothing is held");
    take(&mut core, session, &opening(DISK, 7, None, 1));
    let about = core.compared(session, DISK).expect("something is held");
    assert_eq!((about.disk, about.sectors), (DISK, 100));
    assert_eq!(about.generation, GenerationId([7; 16]));
}

#[test]
fn a_full_machine_opens_the_disks_that_it_has_and_no_other() {
    let mut core = core();
    let session = core.begin_session().session;
    let disk = |number: usize| DiskId((number as u128).to_le_bytes());
    for number in 0..DISKS_MAX {
        assert!(core.open_disk(session, disk(number)).is_some());
    }
    assert_eq!(core.open_disk(session, disk(DISKS_MAX)), None);
    assert!(core.open_disk(session, disk(0)).is_some());
}

#[test]
fn a_new_session_hears_of_a_refusal_that_an_older_one_heard() {
    let (mut core, session) = connected();
    let one = opening(DISK, 7, None, 1);
    let behind_a_gap = next(&next(&one, 3), 4);
    take(&mut core, session, &one);
    let refused = core.handle_block(session, DISK, &behind_a_gap, NOW);
    assert!(matches!(refused, BlockAnswer::Refused { .. }));
    let session = core.begin_session().session;
    assert!(core.open_disk(session, DISK).is_some());
    assert_eq!(
        core.handle_block(session, DISK, &behind_a_gap, NOW),
        refused
    );
}
