//! Commit: order of promises, fences, deadlines.

use proptest::prelude::*;

use super::*;

const LIMITS: CommitLimits = CommitLimits {
    interval: Duration::from_secs(2),
    object_len_target: 1_000,
    in_flight_max: 3,
};
const START: Moment = Moment(0);

fn drain(commit: &mut Commit) -> Vec<Action> {
    std::iter::from_fn(|| commit.poll_action()).collect()
}

fn freeze(commit: &mut Commit) -> ObjectNo {
    commit.handle_block(START, 1_000, true);
    assert!(commit.wants_freeze(START));
    commit.handle_frozen()
}

#[test]
fn committed_waits_for_the_gapless_run_and_for_the_question_after_it() {
    let mut commit = Commit::new(LIMITS);
    let [one, two] = [freeze(&mut commit), freeze(&mut commit)];
    commit.handle_stored(two);
    assert_eq!(drain(&mut commit), [], "one is not stored");
    commit.handle_stored(one);
    assert_eq!(drain(&mut commit), [Action::AskForEnd { after: two }]);
    assert_eq!(commit.committed(), ObjectNo::ZERO);
    commit.handle_end_absent(two);
    assert_eq!(drain(&mut commit), [Action::Committed { through: two }]);
    assert!(commit.is_idle());
}

#[test]
fn what_is_stored_while_a_question_is_under_way_needs_a_question_of_its_own() {
    let mut commit = Commit::new(LIMITS);
    let one = freeze(&mut commit);
    commit.handle_stored(one);
    assert_eq!(drain(&mut commit), [Action::AskForEnd { after: one }]);
    let two = freeze(&mut commit);
    commit.handle_stored(two);
    assert_eq!(drain(&mut commit), []);
    commit.handle_end_absent(one);
    assert_eq!(
        drain(&mut commit),
        [
            Action::Committed { through: one },
            Action::AskForEnd { after: two }
        ]
    );
}

#[test]
fn a_fence_ends_everything_also_what_was_stored() {
    let mut commit = Commit::new(LIMITS);
    let one = freeze(&mut commit);
    commit.handle_stored(one);
    assert_eq!(drain(&mut commit), [Action::AskForEnd { after: one }]);
    commit.handle_fenced();
    assert_eq!(drain(&mut commit), []);
    commit.handle_block(START, 5_000, true);
    assert!(!commit.wants_freeze(Moment(u64::MAX)));
    assert_eq!(commit.committed(), ObjectNo::ZERO);
}

#[test]
fn a_journal_is_over_with_its_fence_and_not_before() {
    let mut commit = Commit::new(LIMITS);
    assert!(!commit.is_fenced());
    commit.handle_fenced();
    assert!(commit.is_fenced());
}

#[test]
fn a_question_without_an_answer_is_asked_again() {
    let mut commit = Commit::new(LIMITS);
    let one = freeze(&mut commit);
    commit.handle_stored(one);
    let question = [Action::AskForEnd { after: one }];
    assert_eq!(drain(&mut commit), question);
    commit.handle_end_unknown();
    assert_eq!(drain(&mut commit), question);
}

#[test]
fn a_commit_is_idle_when_nothing_waits_and_nothing_is_on_its_way() {
    let mut commit = Commit::new(LIMITS);
    assert!(commit.is_idle());
    commit.handle_block(START, 10, false);
    assert!(!commit.is_idle(), "a block waits for company");
    commit.handle_block(START, 1_000, true);
    assert!(!commit.is_idle(), "a batch waits");
    let one = commit.handle_frozen();
    assert!(!commit.is_idle(), "an object is in flight");
    commit.handle_stored(one);
    assert!(!commit.is_idle(), "nobody knows whether it counts");
    assert_eq!(drain(&mut commit), [Action::AskForEnd { after: one }]);
    commit.handle_end_absent(one);
    assert!(commit.is_idle());
}

#[test]
fn a_batch_closes_at_its_length_or_when_its_oldest_change_has_waited() {
    let mut commit = Commit::new(LIMITS);
    commit.handle_block(START, 10, true);
    let deadline = START.after(LIMITS.interval);
    assert_eq!(commit.poll_timeout(), Some(deadline));
    commit.handle_block(Moment(5), 10, true);
    assert_eq!(commit.poll_timeout(), Some(deadline), "the oldest counts");
    assert!(!commit.wants_freeze(Moment(deadline.0 - 1)));
    assert!(commit.wants_freeze(deadline));
    commit.handle_block(Moment(6), 980, true);
    assert!(commit.wants_freeze(Moment(6)));
}

#[test]
fn blocks_that_call_for_nothing_wait_for_company() {
    let mut commit = Commit::new(LIMITS);
    commit.handle_block(START, 0, false);
    assert_eq!(commit.poll_timeout(), None);
    commit.handle_hurry(START);
    assert!(commit.wants_freeze(START));
}

#[test]
fn a_full_pipeline_freezes_no_more_until_something_is_stored() {
    let mut commit = Commit::new(LIMITS);
    let numbers: Vec<_> = (0..LIMITS.in_flight_max)
        .map(|_| freeze(&mut commit))
        .collect();
    commit.handle_block(START, 1_000, true);
    assert!(!commit.wants_freeze(START) && commit.poll_timeout().is_none());
    commit.handle_stored(numbers[0]);
    assert!(commit.wants_freeze(START));
}

#[derive(Clone, Debug)]
enum Event {
    Freeze,
    Store(usize),
    Answer,
    NoAnswer,
}

proptest! {
    #[test]
    fn no_history_commits_what_is_not_stored_and_asked_for(
        events in prop::collection::vec(
            prop_oneof![
                3 => Just(Event::Freeze),
                4 => (0..4_usize).prop_map(Event::Store),
                3 => Just(Event::Answer),
                1 => Just(Event::NoAnswer),
            ],
            0..200,
        ),
    ) {
        let mut commit = Commit::new(LIMITS);
        let (mut in_flight, mut stored) = (Vec::new(), BTreeSet::new());
        let mut asked = None;
        let mut promised = ObjectNo::ZERO;
        for event in events {
            match event {
                Event::Freeze => {
                    commit.handle_block(START, 1_000, true);
                    if commit.wants_freeze(START) {
                        in_flight.push(commit.handle_frozen());
                    }
                }
                Event::Store(index) if index < in_flight.len() => {
                    let number = in_flight.remove(index);
                    stored.insert(number);
                    commit.handle_stored(number);
                }
                Event::Answer => if let Some(after) = asked.take() {
                    commit.handle_end_absent(after);
                },
                Event::NoAnswer => if asked.take().is_some() {
                    commit.handle_end_unknown();
                },
                Event::Store(_) => (),
            }
            for action in drain(&mut commit) {
                match action {
                    Action::AskForEnd { after } => {
                        prop_assert_eq!(asked.replace(after), None);
                        prop_assert!((1..=after.0).all(|n| stored.contains(&ObjectNo(n))));
                    }
                    Action::Committed { through } => {
                        prop_assert!(promised <= through);
                        promised = through;
                    }
                }
            }
        }
    }
}
