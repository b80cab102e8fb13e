//! The source alone, fact by fact; the source against the real sink, in `pair`.

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::change::{BlockPlace, Captured, PackedBlock};
use everpoint_format::record::Record;
use everpoint_units::{ChainValue, DiskId, MachineId, Seq};

use super::*;

mod pair;

const G1: GenerationId = GenerationId([1; 16]);
const G2: GenerationId = GenerationId([2; 16]);
const EPOCH: Level = Level(3);
const NOW: Moment = Moment(1_000);

/// The next block of the source's generation, with `changes` that all have the `Seq`s above `seq`.
fn freeze(source: &mut Source, seq: u64, changes: Vec<Change>, completes_resync: bool) {
    let record = |(seq, change)| Record {
        seq: Seq(seq),
        ends_request: true,
        change,
    };
    let records: Vec<Record> = (seq + 1..).zip(changes).map(record).collect();
    let through = records.last().map_or(Seq(seq), |record| record.seq);
    let place = BlockPlace {
        machine: MachineId([8; 16]),
        disk: DiskId([9; 16]),
        after: source.place().expect("begun"),
        complete_through: through,
    };
    let block = PackedBlock::pack(records, Bytes::new(), Captured::default()).freeze(place);
    let facts = FrozenFacts {
        first: Moment(through.0),
        raw_len: 10,
        completes_resync,
    };
    source.handle_frozen(block, facts);
}

fn write(source: &mut Source, seq: u64) {
    freeze(source, seq - 1, vec![Change::Resize { sectors: 8 }], false);
}

fn drain(source: &mut Source) -> Vec<Action> {
    std::iter::from_fn(|| source.poll_action()).collect()
}

fn send_all(source: &mut Source) -> Vec<DiskPosition> {
    std::iter::from_fn(|| source.next_to_send())
        .map(|block| block.position())
        .collect()
}

/// A source that is linked to an empty server, with the first `count` blocks of [`G1`] sent.
fn begun(count: u64) -> (Source, Vec<DiskPosition>) {
    let mut source = Source::new(EPOCH, NOW);
    source.handle_linked(EPOCH, None, None, NOW);
    source.handle_begun(G1);
    (1..=count).for_each(|seq| write(&mut source, seq));
    let sent = send_all(&mut source);
    assert_eq!(drain(&mut source), []);
    (source, sent)
}

#[test]
fn a_disk_that_the_server_does_not_know_begins_on_nothing() {
    let mut source = Source::new(EPOCH, NOW);
    assert_eq!(source.wanted_generation(), None, "nobody said what is held");
    source.handle_linked(EPOCH, None, None, NOW);
    assert_eq!(
        source.wanted_generation(),
        Some(WantedGeneration {
            base: None,
            reason: ResyncReason::InitialSync
        })
    );
    source.handle_begun(G1);
    assert_eq!(source.wanted_generation(), None);
    assert_eq!(source.place(), Some(DiskPosition::start_of(G1)));
}

#[test]
fn a_disk_that_the_server_knows_better_begins_on_what_it_holds() {
    let held = DiskPosition {
        generation: G2,
        block_no: BlockNo(7),
        chain: ChainValue(1),
    };
    let mut source = Source::new(EPOCH, NOW);
    source.handle_linked(EPOCH, Some(held), Some(held), NOW);
    assert_eq!(drain(&mut source), [], "there was no order to lose");
    assert_eq!(
        source.wanted_generation(),
        Some(WantedGeneration {
            base: Some(held),
            reason: ResyncReason::AgentRestart
        })
    );
}

#[test]
fn a_block_is_held_until_it_is_cached_and_lag_ends_when_it_is_committed() {
    let (mut source, _) = begun(3);
    assert!(!source.is_cached() && !source.is_committed());
    source.handle_watermarks(EPOCH, G1, BlockNo(2), BlockNo(1));
    let [
        Action::Freed {
            count: 2,
            encoded_len,
        },
    ] = drain(&mut source)[..]
    else {
        panic!("two are cached");
    };
    assert!(0 < encoded_len);
    assert_eq!(source.uncommitted_bytes(), 20);
    source.handle_watermarks(EPOCH, G1, BlockNo(3), BlockNo(2));
    assert!(source.is_cached() && !source.is_committed());
    source.handle_watermarks(EPOCH, G1, BlockNo(3), BlockNo(3));
    assert!(source.is_cached() && source.is_committed());
    assert_eq!(source.uncommitted_bytes(), 0);
}

#[test]
fn after_a_reconnect_it_goes_on_behind_what_the_server_has() {
    let (mut source, sent) = begun(4);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo::ZERO);
    source.handle_unlinked();
    assert_eq!(send_all(&mut source), []);
    source.handle_linked(EPOCH, None, Some(sent[1]), NOW);
    assert_eq!(send_all(&mut source), sent[2..]);
    assert!(!source.wants_generation());
}

#[test]
fn a_server_that_lost_what_it_had_cached_gets_a_new_generation() {
    let (mut source, sent) = begun(4);
    source.handle_watermarks(EPOCH, G1, BlockNo(3), BlockNo(1));
    drain(&mut source);
    source.handle_linked(EPOCH, Some(sent[0]), Some(sent[0]), NOW);
    let actions = drain(&mut source);
    let reason = ResyncReason::PositionUnknown;
    assert_eq!(actions[0], Action::LoseOrder { reason });
    assert!(matches!(actions[1], Action::Freed { count: 1, .. }));
    let base = Some(sent[0]);
    assert_eq!(
        source.wanted_generation(),
        Some(WantedGeneration { base, reason })
    );
    assert_eq!(send_all(&mut source), []);
}

#[test]
fn the_same_number_with_another_chain_is_another_history() {
    let (mut source, sent) = begun(2);
    let clone = DiskPosition {
        chain: ChainValue(sent[1].chain.0 ^ 1),
        ..sent[1]
    };
    source.handle_linked(EPOCH, None, Some(clone), NOW);
    assert_eq!(
        source.wanted_generation().expect("unknown position").base,
        Some(clone)
    );
}

#[test]
fn blocks_of_a_lost_order_are_sent_and_the_next_generation_builds_on_the_last() {
    let (mut source, sent) = begun(2);
    write(&mut source, 3);
    source.handle_order_lost(ResyncReason::QueueOverflow, NOW);
    write(&mut source, 4);
    let rest = send_all(&mut source);
    assert_eq!(rest.len(), 2, "what was taken before the loss is good");
    let wanted = source.wanted_generation().expect("lost");
    assert_eq!(wanted.base, Some(rest[1]));
    assert_eq!(wanted.reason, ResyncReason::QueueOverflow);
    source.handle_begun(G2);
    assert!(!source.has_sent_opening());
    write(&mut source, 5);
    send_all(&mut source);
    assert!(source.has_sent_opening());

    source.handle_watermarks(EPOCH, G2, BlockNo::ZERO, BlockNo::ZERO);
    assert_eq!(
        drain(&mut source),
        [],
        "a mark of 0 says nothing about the old ones"
    );
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo::ZERO);
    assert!(matches!(
        drain(&mut source)[..],
        [Action::Freed { count: 1, .. }]
    ));
    source.handle_watermarks(EPOCH, G2, BlockNo(1), BlockNo(1));
    assert!(matches!(
        drain(&mut source)[..],
        [Action::Freed { count: 4, .. }]
    ));
    assert!(source.is_committed());
    assert!(sent.len() == 2 && !source.is_level());
}

#[test]
fn a_copy_is_level_when_its_completion_is_committed() {
    let (mut source, _) = begun(1);
    freeze(&mut source, 1, vec![Change::ResyncComplete], true);
    send_all(&mut source);
    source.handle_watermarks(EPOCH, G1, BlockNo(2), BlockNo(1));
    assert!(!source.is_level());
    source.handle_watermarks(EPOCH, G1, BlockNo(2), BlockNo(2));
    assert!(source.is_level());
    assert_eq!(source.uncommitted_since(), None);
    source.handle_order_lost(ResyncReason::LocalError, Moment(77));
    assert_eq!(source.uncommitted_since(), Some(Moment(77)));
}

#[test]
fn only_a_generation_after_one_that_was_never_level_waits_and_a_second_loss_of_one_counts_once() {
    let (mut source, _) = begun(1);
    source.handle_order_lost(ResyncReason::QueueOverflow, NOW);
    let wait = source.begins_at().since(NOW);
    assert!(!wait.is_zero());
    source.handle_order_lost(ResyncReason::LocalError, NOW);
    assert_eq!(source.begins_at().since(NOW), wait);
    assert_eq!(
        source.wanted_generation().map(|wanted| wanted.reason),
        Some(ResyncReason::QueueOverflow)
    );
    send_all(&mut source);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    source.handle_begun(G2);
    freeze(&mut source, 1, vec![Change::ResyncComplete], true);
    send_all(&mut source);
    source.handle_watermarks(EPOCH, G2, BlockNo(1), BlockNo(1));
    assert!(source.is_level());
    // Also where the loss is the server's: it does not know this position.
    source.handle_linked(EPOCH, None, None, NOW);
    assert!(source.wants_generation());
    assert_eq!(source.begins_at(), NOW);
}

#[test]
fn a_completion_of_an_order_that_was_lost_meanwhile_does_not_count() {
    let (mut source, _) = begun(1);
    source.handle_order_lost(ResyncReason::QueueOverflow, NOW);
    freeze(&mut source, 1, vec![Change::ResyncComplete], true);
    send_all(&mut source);
    source.handle_watermarks(EPOCH, G1, BlockNo(2), BlockNo(2));
    assert!(!source.is_level());
}

#[test]
fn a_block_without_changes_is_no_lag() {
    let (mut source, _) = begun(1);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    freeze(&mut source, 9, Vec::new(), false);
    assert!(source.is_committed() && !source.is_cached());
}

#[test]
fn a_refusal_is_answered_from_the_tail_and_its_echoes_are_not() {
    let (mut source, sent) = begun(5);
    source.handle_refused(Some(sent[0]), false, NOW);
    assert_eq!(send_all(&mut source), sent[1..]);
    for _ in 0..3 {
        source.handle_refused(Some(sent[0]), true, NOW);
        assert_eq!(send_all(&mut source), [], "these were on their way");
    }
    source.handle_refused(Some(sent[0]), true, NOW);
    assert_eq!(send_all(&mut source), sent[1..], "this one was not");
}

#[test]
fn a_tail_that_is_not_durable_frees_nothing() {
    let (mut source, sent) = begun(3);
    source.handle_refused(Some(sent[1]), false, NOW);
    assert_eq!(drain(&mut source), []);
    source.handle_linked(EPOCH, None, Some(sent[0]), NOW);
    assert_eq!(send_all(&mut source), sent[1..]);
}

#[test]
fn a_block_that_is_refused_again_and_again_is_given_up() {
    let (mut source, sent) = begun(3);
    for _ in 0..2 {
        source.handle_refused(Some(sent[0]), false, NOW);
        assert!(!source.wants_generation());
        assert_eq!(send_all(&mut source), sent[1..]);
    }
    source.handle_refused(Some(sent[0]), false, NOW);
    let wanted = source.wanted_generation().expect("given up");
    assert_eq!(
        (wanted.base, wanted.reason),
        (Some(sent[0]), ResyncReason::Refused)
    );
    let reason = ResyncReason::Refused;
    assert_eq!(drain(&mut source)[0], Action::LoseOrder { reason });
}

#[test]
fn a_refusal_may_name_the_newest_block_and_none_that_was_never_sent() {
    let (mut source, sent) = begun(3);
    source.handle_refused(Some(sent[2]), false, NOW);
    assert_eq!(drain(&mut source), [], "all that was sent is there");

    let (mut source, _) = begun(1);
    write(&mut source, 2);
    let never_sent = source.place();
    source.handle_refused(never_sent, false, NOW);
    let fault = Fault::NeverSent;
    assert_eq!(drain(&mut source), [Action::CloseLink { fault }]);
}

#[test]
fn what_the_server_closed_the_link_for_is_not_sent_again() {
    let (mut source, sent) = begun(3);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    drain(&mut source);
    source.handle_accused(NOW);
    let reason = ResyncReason::Refused;
    let actions = drain(&mut source);
    assert_eq!(actions[0], Action::LoseOrder { reason });
    assert!(matches!(actions[1], Action::Freed { count: 2, .. }));
    source.handle_linked(EPOCH, Some(sent[0]), Some(sent[1]), NOW);
    let base = Some(sent[1]);
    assert_eq!(
        source.wanted_generation(),
        Some(WantedGeneration { base, reason })
    );
    assert_eq!(send_all(&mut source), []);
}

#[test]
fn a_lower_epoch_is_refused_for_ever() {
    let (mut source, sent) = begun(1);
    source.handle_watermarks(Level(4), G1, BlockNo::ZERO, BlockNo::ZERO);
    assert_eq!(source.epoch(), Level(4));
    let fault = Fault::OldEpoch {
        offered: EPOCH,
        seen: Level(4),
    };
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    assert_eq!(drain(&mut source), [Action::CloseLink { fault }]);
    assert!(!source.is_cached(), "what it promised does not count");
    source.handle_linked(EPOCH, Some(sent[0]), Some(sent[0]), NOW);
    assert_eq!(drain(&mut source), [Action::CloseLink { fault }]);
    assert!(!source.is_cached());
}

#[test]
fn marks_of_what_was_never_sent_end_the_link() {
    for (cached, committed, fault) in [
        (2, 0, Fault::NeverSent),
        (u64::MAX, 0, Fault::NeverSent),
        (0, 1, Fault::CommittedAboveCached),
    ] {
        let (mut source, _) = begun(1);
        write(&mut source, 2);
        source.handle_watermarks(EPOCH, G1, BlockNo(cached), BlockNo(committed));
        assert_eq!(drain(&mut source), [Action::CloseLink { fault }]);
    }
}

#[test]
fn a_server_that_begins_with_what_was_never_sent_is_not_listened_to() {
    let (mut source, _) = begun(1);
    write(&mut source, 2);
    let never_sent = source.place();
    source.handle_linked(EPOCH, None, never_sent, NOW);
    let fault = Fault::NeverSent;
    assert_eq!(drain(&mut source), [Action::CloseLink { fault }]);
}

#[test]
fn without_a_link_nothing_is_sent_and_no_mark_counts() {
    let (mut source, _) = begun(1);
    write(&mut source, 2);
    source.handle_unlinked();
    assert_eq!(send_all(&mut source), []);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    assert!(!source.is_cached());
    assert_eq!(drain(&mut source), []);
}

#[test]
fn marks_that_come_late_or_for_a_forgotten_generation_change_nothing() {
    let (mut source, _) = begun(3);
    source.handle_watermarks(EPOCH, G1, BlockNo(3), BlockNo(2));
    drain(&mut source);
    let before = source.marks();
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    source.handle_watermarks(EPOCH, G2, BlockNo(9), BlockNo(9));
    assert_eq!(source.marks(), before);
    assert_eq!(drain(&mut source), []);
}

#[test]
fn a_clean_stop_is_resumed_in_the_same_generation_if_the_server_agrees() {
    let tail = DiskPosition {
        generation: G1,
        block_no: BlockNo(41),
        chain: ChainValue(5),
    };
    let mut source = Source::resume(EPOCH, tail);
    assert!(source.is_level());
    let marks = source.marks().expect("it has a generation");
    let tail_no = tail.block_no;
    assert_eq!(
        (marks.sent, marks.cached, marks.committed),
        (tail_no, tail_no, tail_no)
    );
    write(&mut source, 500);
    source.handle_linked(EPOCH, Some(tail), Some(tail), NOW);
    assert!(!source.wants_generation());
    let sent = send_all(&mut source);
    assert_eq!(sent[0].block_no, BlockNo(42));

    let mut rolled_back = Source::resume(EPOCH, tail);
    rolled_back.handle_linked(EPOCH, None, None, NOW);
    assert!(rolled_back.wants_generation());
    assert!(!rolled_back.is_level());
}

/// A source that lost order after three blocks of [`G1`] and has sent one of [`G2`] since.
fn begun_again() -> (Source, Vec<DiskPosition>) {
    let (mut source, mut sent) = begun(3);
    source.handle_order_lost(ResyncReason::QueueOverflow, NOW);
    source.handle_begun(G2);
    write(&mut source, 4);
    sent.extend(send_all(&mut source));
    (source, sent)
}

#[test]
fn a_generation_that_is_committed_in_part_goes_on_where_the_server_stands_in_it() {
    let (mut source, sent) = begun_again();
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    source.handle_linked(EPOCH, Some(sent[0]), Some(sent[1]), NOW);
    assert!(!source.wants_generation());
    assert_eq!(send_all(&mut source), sent[2..]);
    source.handle_watermarks(EPOCH, G1, BlockNo(3), BlockNo(3));
    assert_eq!(source.uncommitted_bytes(), 10);
    assert!(!source.is_cached());
}

#[test]
fn a_generation_is_forgotten_when_something_after_it_is_committed() {
    let fault = Fault::NeverSent;
    let known = vec![Action::CloseLink { fault }];
    for (generation, committed, answer) in [
        (G1, BlockNo(1), &known),
        (G1, BlockNo(3), &known),
        (G2, BlockNo(1), &Vec::new()),
    ] {
        let (mut source, _) = begun_again();
        source.handle_watermarks(EPOCH, generation, committed, committed);
        assert!(matches!(drain(&mut source)[..], [Action::Freed { .. }]));
        // More than G1 ever had: a lie where it is known, and nothing where it is not.
        source.handle_watermarks(EPOCH, G1, BlockNo(9), BlockNo::ZERO);
        assert_eq!(&drain(&mut source), answer, "{generation:?} {committed:?}");
    }
}

#[test]
fn of_very_many_generations_the_newest_are_remembered_and_imply_the_others() {
    let (mut source, _) = begun(1);
    let mut newest = G1;
    let mut begin_next = |source: &mut Source| {
        newest = GenerationId([newest.0[0] + 1; 16]);
        source.handle_order_lost(ResyncReason::QueueOverflow, NOW);
        source.handle_begun(newest);
        newest
    };
    (1..RUNS_MAX).for_each(|_| {
        begin_next(&mut source);
    });
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo::ZERO);
    assert!(source.is_cached(), "the oldest of them is remembered");

    let newest = begin_next(&mut source);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo(1));
    assert!(!source.is_committed(), "one more, and it is not");
    write(&mut source, 2);
    send_all(&mut source);
    source.handle_watermarks(EPOCH, newest, BlockNo(1), BlockNo(1));
    assert!(source.is_cached() && source.is_committed());
}

#[test]
fn what_is_given_up_is_freed_to_the_byte() {
    let (mut source, _) = begun(0);
    for count in 1..=4 {
        let changes = vec![Change::Resize { sectors: 8 }; count];
        freeze(&mut source, 10 * count as u64, changes, false);
    }
    let sent = std::iter::from_fn(|| source.next_to_send()).take(3);
    let lens: Vec<u64> = sent.map(|block| block.encoded_len() as u64).collect();
    let unsent = source.unsent_bytes();
    assert!(lens[2] < unsent);
    source.handle_watermarks(EPOCH, G1, BlockNo(1), BlockNo::ZERO);
    let freed = |count, encoded_len| Action::Freed { count, encoded_len };
    assert_eq!(drain(&mut source), [freed(1, lens[0])]);

    let reason = ResyncReason::PositionUnknown;
    source.handle_linked(EPOCH, None, None, NOW);
    let rest = lens[1] + lens[2] + unsent;
    let lose = Action::LoseOrder { reason };
    assert_eq!(drain(&mut source), [lose, freed(3, rest)]);
    assert_eq!(source.unsent_bytes(), 0);
    assert!(source.is_cached());
}

#[test]
fn refusals_of_what_was_on_its_way_when_all_was_given_up_do_not_send_the_next_generation_again() {
    let (mut source, sent) = begun(5);
    let unknown = Some(DiskPosition {
        chain: ChainValue(sent[0].chain.0 ^ 1),
        ..sent[0]
    });
    source.handle_refused(unknown, false, NOW);
    assert_eq!(
        drain(&mut source).len(),
        2,
        "order is lost and five are freed"
    );
    source.handle_begun(G2);
    write(&mut source, 6);
    let opening = send_all(&mut source);
    assert_eq!(opening.len(), 1);
    for _ in 0..5 {
        source.handle_refused(unknown, true, NOW);
        assert_eq!(send_all(&mut source), [], "these were on their way");
    }
    source.handle_refused(unknown, true, NOW);
    assert_eq!(send_all(&mut source), opening, "this one was not");
    assert!(!source.wants_generation());
    assert_eq!(drain(&mut source), []);
}

#[test]
fn each_reason_for_a_generation_has_a_word_of_its_own() {
    for (reason, word) in [
        (ResyncReason::InitialSync, "initial-sync"),
        (ResyncReason::AgentRestart, "agent-restart"),
        (ResyncReason::QueueOverflow, "queue-overflow"),
        (ResyncReason::LocalError, "local-error"),
        (ResyncReason::SeqsExhausted, "seqs-exhausted"),
        (ResyncReason::SeqsBehind, "seqs-behind"),
        (ResyncReason::PositionUnknown, "position-unknown"),
        (ResyncReason::Refused, "refused"),
    ] {
        assert_eq!(reason.word(), word);
    }
}
