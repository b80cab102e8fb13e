//! When the core has something to say by time alone: never at once while it waits for an answer.

use everpoint_replica::{Fence, Remedy};
use everpoint_units::{ByteLen, Level, Moment};

use super::super::fold::ObjectFold;
use super::super::*;
use super::days::{followed, limits};
use super::histories::History;
use crate::test_blocks::DISK;

const NOW: Moment = Moment(1_000_000_000);
const AGAIN: Remedy = Remedy::Again { after: None };

fn core() -> ApplyCore {
    ApplyCore::new(followed(), Level(1), limits())
}

/// Answers everything well, up to where objects are wanted.
fn claim(core: &mut ApplyCore) {
    let mut target: Option<(ByteLen, Fence)> = None;
    while let Some(effect) = core.poll(NOW) {
        match effect {
            Effect::Look => {
                let looked = match target {
                    None => Looked::Nothing,
                    Some((len, fence)) => Looked::Target { len, fence },
                };
                core.handle_look(Ok(looked), NOW);
            }
            Effect::Create { len, fence } => {
                target = Some((len, fence));
                core.handle_created(Ok(()), NOW);
            }
            Effect::Raise { to } => {
                target = target.map(|(len, _)| (len, to));
                core.handle_raised(Ok(to), NOW);
            }
            Effect::Lease => core.handle_leased(Ok(()), NOW),
            Effect::ReadMark { .. } => core.handle_mark(Ok(MarkFound::Nothing), NOW),
            Effect::PutMark { .. } | Effect::Wipe { .. } => core.handle_done(Ok(()), NOW),
            Effect::Follow { .. } => (),
            effect => panic!("{effect:?}"),
        }
    }
    assert!(core.wants_object());
}

/// Hands in the first object of a disk, which is empty: all of it is to be cleared.
fn hand_in(core: &mut ApplyCore) {
    let history = History::new();
    let object = &history.objects[0];
    let fold = ObjectFold::of(DISK, core.stands(), &object.sections);
    assert_eq!(fold.runs().count(), 0);
    core.handle_object(object.journal, object.number, fold, Vec::new(), NOW);
}

#[test]
fn after_a_pause_nothing_is_due_until_the_answer_is_there() {
    let mut core = core();
    assert_eq!(core.poll(NOW), Some(Effect::Look));
    core.handle_look(Err(AGAIN), NOW);
    assert_eq!(core.poll(NOW), None);
    let at = core.poll_timeout().expect("it is looked again");
    assert!(NOW < at);
    assert_eq!(core.poll(at), Some(Effect::Look));
    assert_eq!((core.poll(at), core.poll_timeout()), (None, None));
}

#[test]
fn a_window_that_is_due_waits_for_the_object_that_is_fetched_and_for_nothing_else() {
    let mut core = core();
    claim(&mut core);
    hand_in(&mut core);
    let due = core.poll_timeout().expect("the window ends");
    core.begin_object();
    assert_eq!((core.poll(due), core.poll_timeout()), (None, None));
    core.handle_no_object();
    assert_eq!(core.poll_timeout(), Some(due));
    assert!(matches!(core.poll(due), Some(Effect::Work { .. })));
    assert_eq!((core.poll(due), core.poll_timeout()), (None, None));
}

#[test]
fn what_cannot_be_made_is_asked_for_again_after_a_pause_that_grows() {
    let mut core = core();
    let (mut now, mut pauses) = (NOW, Vec::new());
    while pauses.len() < 3 {
        match core.poll(now) {
            Some(Effect::Look) => core.handle_look(Ok(Looked::Nothing), now),
            Some(Effect::Create { .. }) => core.handle_created(Err(Remedy::RaiseFence), now),
            Some(effect) => panic!("{effect:?}"),
            None => {
                let at = core.poll_timeout().expect("it is tried again");
                pauses.push(at.since(now));
                now = at;
            }
        }
    }
    let first = limits().back_off_min;
    assert_eq!(pauses, [first, first * 2, first * 4]);
}

#[test]
fn a_step_that_gets_on_lets_the_next_begin_with_a_short_pause() {
    let mut core = core();
    let (first, fence) = (limits().back_off_min, Fence::first_of(Level(1)));
    let fence = fence.expect("a low level");
    let target = Looked::Target {
        len: ByteLen(1 << 20),
        fence,
    };
    let mut now = NOW;
    let pause = |core: &mut ApplyCore, now: &mut Moment| {
        assert_eq!(core.poll(*now), None);
        let at = core.poll_timeout().expect("it is tried again");
        let pause = at.since(*now);
        *now = at;
        pause
    };
    for times in [1, 2, 4] {
        assert_eq!(core.poll(now), Some(Effect::Look));
        core.handle_look(Err(AGAIN), now);
        assert_eq!(pause(&mut core, &mut now), first * times);
    }
    // Another's lease: each time it is looked and the fence raised before it is asked for.
    let mut raised = fence;
    for times in [1, 2, 4] {
        assert_eq!(core.poll(now), Some(Effect::Look));
        core.handle_look(Ok(target), now);
        let Some(Effect::Raise { to }) = core.poll(now) else {
            panic!("the fence is raised");
        };
        assert!(raised < to);
        raised = to;
        core.handle_raised(Ok(to), now);
        assert_eq!(core.poll(now), Some(Effect::Lease));
        core.handle_leased(Err(Remedy::Report), now);
        assert_eq!(pause(&mut core, &mut now), first * times);
    }
}

#[test]
fn a_target_that_is_gone_is_made_and_filled_anew() {
    let mut core = core();
    claim(&mut core);
    hand_in(&mut core);
    let due = core.poll_timeout().expect("the window ends");
    let Some(Effect::Work { index, .. }) = core.poll(due) else {
        panic!("an empty disk is cleared");
    };
    core.handle_work(index, Err(Remedy::Report), due);
    assert_eq!(core.report().state, ApplyState::Blocked(None));
    let later = core.poll_timeout().expect("it is looked again");
    let mut forgotten = Vec::new();
    loop {
        match core.poll(later) {
            Some(Effect::Forget { window }) => forgotten.push(window),
            Some(Effect::Look) => core.handle_look(Ok(Looked::Nothing), later),
            Some(Effect::Create { fence, .. }) => {
                let had = Fence::first_of(Level(1)).expect("a low level");
                assert!(had < fence, "what is under way to the old one is fenced");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(forgotten.len(), 2, "what was collected counts for nothing");
}
