//! What is held is always let go, and *held* is said only of what was.

use proptest::prelude::*;

use super::*;

const HOLD: Duration = Duration::from_millis(300);
const FREEZE: Event = Event::Freeze { hold_max: HOLD };
const SHORT: Event = Event::Synced(Ok(Duration::ZERO));

fn at(millis: u64) -> Moment {
    Moment(millis * 1_000_000)
}

fn actions(core: &mut FreezerCore) -> Vec<Action> {
    std::iter::from_fn(|| core.poll()).collect()
}

/// Everything frozen at the start of time.
fn frozen(count: usize) -> FreezerCore {
    let mut core = FreezerCore::new(count);
    core.handle(FREEZE, at(0));
    for _ in 0..count {
        core.handle(SHORT, at(0));
    }
    core.handle(Event::Armed(Ok(())), at(0));
    for _ in 0..count {
        core.handle(Event::Froze(Ok(())), at(0));
    }
    assert_eq!(actions(&mut core).pop(), Some(Action::Say(Answer::Frozen)));
    core
}

#[test]
fn the_guard_is_armed_after_the_sync_and_before_the_first_freeze() {
    let mut core = FreezerCore::new(1);
    core.handle(FREEZE, at(0));
    assert_eq!(actions(&mut core), [Action::Sync(0)]);
    core.handle(SHORT, at(5));
    assert_eq!(actions(&mut core), [Action::Arm { hold_max: HOLD }]);
    core.handle(Event::Armed(Ok(())), at(6));
    assert_eq!(actions(&mut core), [Action::Freeze(0)]);
}

#[test]
fn a_long_sync_is_followed_by_another_and_a_freeze_that_would_take_as_long_is_not_begun() {
    for (took, then) in [
        (HOLD / 2, Action::Arm { hold_max: HOLD }),
        (HOLD, Action::Disarm),
    ] {
        let mut core = FreezerCore::new(1);
        core.handle(FREEZE, at(0));
        let mut rounds = 0;
        let last = loop {
            match core.poll() {
                Some(Action::Sync(0)) => rounds += 1,
                other => break other,
            }
            core.handle(Event::Synced(Ok(took)), at(0));
        };
        assert_eq!((rounds, last), (SYNC_ROUNDS_MAX, Some(then)));
    }
}

#[test]
fn all_are_thawed_at_once_and_held_is_said_last() {
    let mut core = frozen(2);
    core.handle(Event::Thaw, at(10));
    assert_eq!(actions(&mut core), [Action::Thaw(2)]);
    core.handle(Event::Thawed { was_frozen: true }, at(12));
    let held = Answer::Held { micros: 12_000 };
    assert_eq!(actions(&mut core), [Action::Disarm, Action::Say(held)]);
}

#[test]
fn a_thaw_that_finds_nothing_frozen_or_ends_too_late_is_late() {
    for (was_frozen, ends) in [(false, 10), (true, 300)] {
        let mut core = frozen(1);
        core.handle(Event::Thaw, at(9));
        core.handle(Event::Thawed { was_frozen }, at(ends));
        let said = actions(&mut core);
        assert_eq!(said.last(), Some(&Action::Say(Answer::Late)), "{ends}");
    }
}

#[test]
fn whoever_goes_and_whatever_comes_late_all_is_thawed_at_once() {
    for (event, when, last) in [
        (Event::AgentGone, 1, Action::End),
        (Event::GuardGone, 1, Action::End),
        (Event::Tick, 300, Action::Say(Answer::Late)),
    ] {
        let mut core = frozen(1);
        core.handle(event, at(when));
        assert_eq!(actions(&mut core), [Action::Thaw(1)], "{event:?}");
        core.handle(Event::Thawed { was_frozen: true }, at(when));
        assert_eq!(actions(&mut core).pop(), Some(last), "{event:?}");
    }
}

#[test]
fn one_that_cannot_be_frozen_lets_the_others_go() {
    let mut core = FreezerCore::new(2);
    core.handle(FREEZE, at(0));
    core.handle(SHORT, at(0));
    core.handle(SHORT, at(0));
    core.handle(Event::Armed(Ok(())), at(0));
    core.handle(Event::Froze(Ok(())), at(0));
    let _ = actions(&mut core);
    core.handle(Event::Froze(Err(16)), at(0));
    assert_eq!(actions(&mut core), [Action::Thaw(1)]);
    core.handle(Event::Thawed { was_frozen: true }, at(0));
    let trouble = Trouble::new(Step::Freeze, 1, 16);
    let said = Action::Say(Answer::Failed(trouble));
    assert_eq!(actions(&mut core), [Action::Disarm, said]);
}

#[test]
fn a_freeze_that_takes_too_long_is_let_go() {
    let mut core = FreezerCore::new(2);
    core.handle(FREEZE, at(0));
    core.handle(SHORT, at(0));
    core.handle(SHORT, at(0));
    core.handle(Event::Armed(Ok(())), at(0));
    let _ = actions(&mut core);
    core.handle(Event::Froze(Ok(())), at(300));
    assert_eq!(actions(&mut core), [Action::Thaw(1)]);
}

#[test]
fn the_guard_thaws_after_the_deadline_until_it_was_found_frozen_once() {
    let mut guard = GuardCore::new(HOLD, at(10));
    assert_eq!(guard.deadline(), Some(at(310)));
    assert!(!guard.is_due(at(309)) && guard.is_due(at(310)));
    for (end, look) in [
        (ThawEnd::WasNot, Some(at(315))),
        (ThawEnd::Failed, Some(at(315))),
        (ThawEnd::WasFrozen, None),
    ] {
        guard.note(end, at(310));
        assert_eq!(guard.deadline(), look, "{end:?}");
    }
    guard.freezer_gone(at(400));
    assert!(!guard.is_due(at(400)));
}

#[test]
fn the_guard_thaws_what_a_freezer_left_at_once_until_it_is_known_to_be_thawed() {
    let mut guard = GuardCore::new(HOLD, at(0));
    guard.freezer_gone(at(1));
    assert!(guard.is_due(at(1)));
    guard.note(ThawEnd::Failed, at(1));
    assert_eq!(guard.deadline(), Some(at(6)));
    guard.note(ThawEnd::WasNot, at(6));
    assert_eq!(guard.deadline(), None);
}

#[test]
fn the_deepest_filesystem_is_frozen_first() {
    let paths = ["/srv", "/srv/db/log", "/srv/db"].map(PathBuf::from);
    let order = freeze_order(paths.to_vec());
    assert_eq!(order, ["/srv/db/log", "/srv/db", "/srv"].map(PathBuf::from));
}

#[test]
fn every_word_reads_back_as_it_was_said() {
    let orders = [
        Order::Freeze { hold_max: HOLD },
        Order::Thaw,
        Order::Arm { hold_max: HOLD },
        Order::Disarm,
    ];
    for order in orders {
        assert_eq!(Order::parse(&order.to_string()), Some(order));
    }
    let answers = [
        Answer::Ready,
        Answer::Armed,
        Answer::Frozen,
        Answer::Held { micros: 7 },
        Answer::Late,
        Answer::Unguarded,
        Answer::Failed(Trouble::new(Step::Root, 3, -1)),
    ];
    for answer in answers {
        assert_eq!(Answer::parse(&answer.to_string()), Some(answer));
    }
    assert_eq!(Order::parse("freeze"), None);
    assert_eq!(Answer::parse("failed somewhere 1 2"), None);
}

use super::words::Order;

fn events() -> impl Strategy<Value = (Event, u64)> {
    let event = prop_oneof![
        3 => Just(FREEZE),
        3 => Just(Event::Thaw),
        2 => Just(Event::Tick),
        1 => Just(Event::AgentGone),
        1 => Just(Event::GuardGone),
    ];
    (event, 0..400_u64)
}

proptest! {
    /// Against a world that counts what is frozen: whatever happens, nothing is held without an armed guard, nothing
    /// is held at rest, at the end or beyond the deadline's tick, and *held* is true.
    #[test]
    fn nothing_is_held_that_nobody_lets_go(
        events in prop::collection::vec(events(), 1..30),
        refuses in prop::collection::vec(any::<bool>(), 64),
        steps in prop::collection::vec(0..200_u64, 64),
    ) {
        let mut core = FreezerCore::new(2);
        let (mut now, mut is_frozen, mut armed_at) = (0, [false; 2], None);
        let (mut refuses, mut steps) = (refuses.into_iter().cycle(), steps.into_iter().cycle());
        for (event, later) in events {
            now += later;
            core.handle(event, at(now));
            while let Some(action) = core.poll() {
                let event = match action {
                    Action::Sync(_) => Some(SHORT),
                    Action::Arm { .. } => {
                        armed_at = Some(now);
                        Some(Event::Armed(Ok(())))
                    }
                    Action::Freeze(index) => {
                        prop_assert!(armed_at.is_some() && !is_frozen[index]);
                        let refused = refuses.next() == Some(true);
                        now += steps.next().unwrap_or(0);
                        is_frozen[index] = !refused;
                        Some(Event::Froze(if refused { Err(16) } else { Ok(()) }))
                    }
                    Action::Thaw(held) => {
                        now += steps.next().unwrap_or(0) / 20;
                        let was_frozen = is_frozen[..held].iter().all(|frozen| *frozen);
                        is_frozen[..held].fill(false);
                        Some(Event::Thawed { was_frozen })
                    }
                    Action::Disarm => {
                        prop_assert_eq!(is_frozen, [false; 2]);
                        armed_at = None;
                        None
                    }
                    Action::Say(Answer::Frozen) => {
                        prop_assert_eq!(is_frozen, [true; 2]);
                        None
                    }
                    Action::Say(Answer::Held { micros }) => {
                        prop_assert!(micros < 300_000);
                        None
                    }
                    Action::Say(_) => None,
                    Action::End => {
                        prop_assert_eq!(is_frozen, [false; 2]);
                        None
                    }
                };
                if let Some(event) = event {
                    core.handle(event, at(now));
                }
            }
            if is_frozen != [false; 2] {
                prop_assert!(core.deadline().is_some(), "a tick ends it");
            }
        }
    }
}
