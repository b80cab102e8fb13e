//! Servers in turn, and answers that count or do not.

use everpoint_capture::{GuestChange, LossReason, OrderLimits, QueueState, Stamp};
use everpoint_units::{DiskId, Extent, GenerationId, JournalId, Lba};
use everpoint_wire::DiskState;

use super::*;

fn answer(vault: u8, level: u64) -> HelloAnswer {
    HelloAnswer {
        protocol: PROTOCOL,
        vault: VaultId([vault; 16]),
        journal: JournalId {
            level: Level(level),
            random: [0; 16],
        },
        highest_seq: Seq::ZERO,
        clock: WallTime(0),
        disks: Vec::new(),
    }
}

const PINNED: SessionState = SessionState {
    vault: Some(VaultId([1; 16])),
    highest_epoch: Level(5),
};

fn order(until: u64) -> WriteOrder {
    WriteOrder::new(
        OrderLimits::default(),
        Reservation::new(Seq::ZERO, Seq(until)),
    )
}

fn seconds(count: u64) -> Moment {
    Moment::default().after(Duration::from_secs(count))
}

#[test]
fn a_round_tries_each_server_once_and_then_waits() {
    let mut core = SessionCore::new(3);
    for index in 0..3 {
        assert_eq!(core.attempt(seconds(1)), Attempt::Server(index));
        core.handle_failed(seconds(1), 1.0);
    }
    let until = seconds(1).after(BACKOFF_FROM);
    assert_eq!(core.attempt(seconds(1)), Attempt::Until(until));
    assert_eq!(core.attempt(until), Attempt::Server(0));
}

#[test]
fn the_server_of_the_last_session_is_tried_first_and_the_round_begins_there() {
    let mut core = SessionCore::new(3);
    assert_eq!(core.attempt(seconds(1)), Attempt::Server(0));
    core.handle_failed(seconds(1), 0.0);
    assert_eq!(core.attempt(seconds(1)), Attempt::Server(1));
    core.handle_ended(seconds(2), 0.0);
    for index in [1, 2, 0] {
        assert_eq!(core.attempt(seconds(2)), Attempt::Server(index));
        core.handle_failed(seconds(2), 1.0);
    }
    assert!(matches!(core.attempt(seconds(2)), Attempt::Until(_)));
}

#[test]
fn rounds_without_success_wait_longer_up_to_a_limit_and_a_session_ends_that() {
    let mut core = SessionCore::new(1);
    let mut now = Moment::default();
    let mut waits = Vec::new();
    for _ in 0..40 {
        assert_eq!(core.attempt(now), Attempt::Server(0));
        core.handle_failed(now, 1.0);
        let Attempt::Until(until) = core.attempt(now) else {
            panic!("a round is over");
        };
        waits.push(until.since(now));
        now = until;
    }
    assert_eq!(waits[..3], [1, 2, 4].map(|times| BACKOFF_FROM * times));
    assert_eq!(waits.last(), Some(&BACKOFF_TO));
    assert_eq!(core.attempt(now), Attempt::Server(0));
    let ended = now.after(SESSION_MIN);
    core.handle_ended(ended, 1.0);
    let until = ended.after(BACKOFF_FROM);
    assert_eq!(core.attempt(ended), Attempt::Until(until));
}

#[test]
fn a_session_that_ends_at_once_is_an_attempt() {
    let mut core = SessionCore::new(1);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let now = core.next_at;
        assert_eq!(core.attempt(now), Attempt::Server(0));
        core.handle_ended(now, 1.0);
        waits.push(core.next_at.since(now));
    }
    assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
}

#[test]
fn jitter_takes_anything_off_a_wait() {
    for round in [0, 3, 8, 40, u32::MAX] {
        let limit = backoff(round, 1.0);
        assert!(limit <= BACKOFF_TO);
        assert_eq!(backoff(round, 0.0), Duration::ZERO);
        assert!(backoff(round, 0.5) < limit);
    }
}

#[test]
fn another_vault_and_a_lower_epoch_are_refused() {
    let check = |answer: HelloAnswer| Admission::check(&answer, PINNED);
    assert!(check(answer(1, 5)).is_ok());
    assert!(matches!(
        check(answer(2, 6)),
        Err(AnswerError::Vault { .. })
    ));
    assert!(matches!(
        check(answer(1, 4)),
        Err(AnswerError::OldEpoch { .. })
    ));
}

#[test]
fn a_message_that_is_no_answer_of_this_protocol_gives_no_session() {
    let other = HelloAnswer {
        protocol: PROTOCOL + 1,
        ..answer(1, 1)
    };
    let other = answer_of(ToAgent::HelloAnswer(other));
    assert_eq!(other, Err(AnswerError::Unexpected));
    let refused = ToAgent::Refusal {
        reason: RefusalReason::Busy,
        text: "later".to_owned(),
    };
    assert!(matches!(
        answer_of(refused),
        Err(AnswerError::Refused { .. })
    ));
    assert!(answer_of(ToAgent::HelloAnswer(answer(1, 1))).is_ok());
}

#[test]
fn vault_and_epoch_are_durable_before_anything_else_and_once() {
    let mut order = order(1 << 30);
    let fresh = SessionState::default();
    let mut admission = Admission::check(&answer(1, 5), fresh).expect("the first contact");
    assert_eq!(
        admission.step(&mut order, Moment(1)),
        Step::Remember(PINNED)
    );
    assert_eq!(
        admission.step(&mut order, Moment(1)),
        Step::Remember(PINNED)
    );
    admission.handle_remembered();
    let open = Step::Open {
        epoch: Level(5),
        lost: Vec::new(),
    };
    assert_eq!(admission.step(&mut order, Moment(1)), open);
    let again = Admission::check(&answer(1, 5), PINNED).expect("the same");
    assert_eq!(again.step(&mut order, Moment(2)), open);
    let higher = Admission::check(&answer(1, 6), PINNED).expect("it may rise");
    let risen = PINNED.risen_to(Level(6));
    assert_eq!(
        higher.step(&mut order, Moment(2)),
        Step::Remember(risen),
        "a higher epoch is remembered too"
    );
    assert_eq!(PINNED.risen_to(Level(4)), PINNED);
}

#[test]
fn the_order_goes_on_above_whatever_any_disk_states_and_only_after_a_reservation() {
    let mut order = order(100);
    let slot = order.attach();
    let stamp = Stamp::default();
    let opening = order.begin_generation(slot, GenerationId([1; 16]), Vec::new(), stamp);
    opening.expect("reserved");
    let mut answer = answer(1, 5);
    answer.highest_seq = Seq(50);
    answer.disks = vec![DiskState {
        disk: DiskId([2; 16]),
        committed: None,
        cached: None,
        complete_through: Seq(200),
        level: false,
    }];
    let admission = Admission::check(&answer, PINNED).expect("sound");
    let Step::Reserve(mark) = admission.step(&mut order, Moment(1)) else {
        panic!("200 is not reserved");
    };
    assert!(Seq(200) < mark);
    order.extend_reservation(mark);
    let opened = admission.step(&mut order, Moment(1));
    let lost = vec![slot];
    assert_eq!(
        opened,
        Step::Open {
            epoch: Level(5),
            lost
        }
    );
    let state = order.figures(slot).expect("attached").state;
    let reason = LossReason::SeqsBehind;
    assert!(matches!(state, QueueState::Lost { reason: found, .. } if found == reason));
    assert_eq!(order.newest(), Seq(200));
}

#[test]
fn a_server_that_knows_less_costs_no_order() {
    let mut order = order(1 << 30);
    let slot = order.attach();
    let begun = order.begin_generation(slot, GenerationId([1; 16]), Vec::new(), Stamp::default());
    begun.expect("reserved");
    let lba = |sector| Lba::new(sector).expect("small");
    let extent = Extent::between(lba(0), lba(8)).expect("not empty");
    let _ = order.push(slot, Stamp::default(), GuestChange::Zero(extent));
    let admission = Admission::check(&answer(1, 5), PINNED).expect("sound");
    let lost = Vec::new();
    let epoch = Level(5);
    assert_eq!(
        admission.step(&mut order, Moment(1)),
        Step::Open { epoch, lost }
    );
}

#[test]
fn a_position_that_nothing_can_follow_is_refused_before_anything_is_remembered() {
    let mut insane = answer(1, 9);
    insane.highest_seq = SEQ_MAX;
    assert!(Admission::check(&insane, PINNED).is_ok());
    for stated in [SEQ_MAX.next(), Seq(u64::MAX)] {
        insane.highest_seq = stated;
        assert_eq!(
            Admission::check(&insane, PINNED).err(),
            Some(AnswerError::Seq { stated })
        );
    }
}

#[test]
fn a_clock_is_measured_in_the_middle_of_the_round_trip() {
    let (asked, answered) = (WallTime(1_000), WallTime(3_000));
    assert_eq!(clock_offset(asked, answered, WallTime(2_500)), 500);
    assert_eq!(clock_offset(asked, answered, WallTime(500)), -1_500);
    assert_eq!(clock_offset(asked, answered, WallTime(u64::MAX)), 0);
}

#[test]
fn more_streams_are_announced_than_there_are_disks_up_to_the_limit() {
    assert_eq!(announcement(0), SPARE_STREAMS);
    assert_eq!(announcement(3), 3 + SPARE_STREAMS);
    assert_eq!(announcement(u32::MAX) as usize, DISKS_MAX);
}
