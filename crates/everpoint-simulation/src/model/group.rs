//! A group point exists only by proof: hold and mark, held, release, still holding, then the object.
//!
//! Messages are never lost for good: each that was sent may arrive at any later time, and again. A member
//! lets go by its own deadline at any instant. The point is sound when at some instant every member held
//! under that mark, so that nothing can have happened at one member after another's mark and before its
//! own.

use stateright::{Model, Property};

const MEMBERS: usize = 2;
const MARKS: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The release is sent when every member has reported that it holds.
    pub(crate) all_held_before_release: bool,
    /// A member confirms only while it still holds, without a break, under that mark.
    pub(crate) confirms_only_holding: bool,
    /// A member never holds under a mark again that it let go.
    pub(crate) mark_held_once: bool,
    /// The proof is created when every member has confirmed.
    pub(crate) all_confirm: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        all_held_before_release: true,
        confirms_only_holding: true,
        mark_held_once: true,
        all_confirm: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    members: [Member; MEMBERS],
    /// By mark: what the coordinator has sent and heard.
    marks: [Mark; MARKS as usize],
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Member {
    holding: Option<u8>,
    /// Marks that it held under, one bit each.
    held: u8,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Mark {
    hold_sent: bool,
    release_sent: bool,
    /// Members that said so: sent, and heard by the coordinator.
    held_sent: [bool; MEMBERS],
    held_heard: [bool; MEMBERS],
    confirm_sent: [bool; MEMBERS],
    confirm_heard: [bool; MEMBERS],
    proof: bool,
    /// At some instant all members held under it.
    sound: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    SendHold(u8),
    ArriveHold(u8, usize),
    ArriveHeld(u8, usize),
    SendRelease(u8),
    ArriveRelease(u8, usize),
    ArriveConfirm(u8, usize),
    CreateProof(u8),
    LetGo(usize),
}

impl Model for Group {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            members: Default::default(),
            marks: Default::default(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (number, mark) in (0..).zip(&state.marks) {
            let held = mark.held_heard.iter().all(|heard| *heard);
            let confirmed = mark.confirm_heard.iter().all(|heard| *heard);
            if !mark.hold_sent {
                steps.push(Step::SendHold(number));
                continue;
            }
            if !mark.release_sent && (held || !self.rules.all_held_before_release) {
                steps.push(Step::SendRelease(number));
            }
            let some = mark.confirm_heard.iter().any(|heard| *heard);
            if !mark.proof && (confirmed || (some && !self.rules.all_confirm)) {
                steps.push(Step::CreateProof(number));
            }
            for member in 0..MEMBERS {
                steps.push(Step::ArriveHold(number, member));
                if mark.held_sent[member] && !mark.held_heard[member] {
                    steps.push(Step::ArriveHeld(number, member));
                }
                if mark.release_sent {
                    steps.push(Step::ArriveRelease(number, member));
                }
                if mark.confirm_sent[member] && !mark.confirm_heard[member] {
                    steps.push(Step::ArriveConfirm(number, member));
                }
            }
        }
        let holding = (0..MEMBERS).filter(|member| state.members[*member].holding.is_some());
        steps.extend(holding.map(Step::LetGo));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::SendHold(mark) => state.marks[usize::from(mark)].hold_sent = true,
            Step::ArriveHold(mark, member) => self.hold(&mut state, mark, member),
            Step::ArriveHeld(mark, member) => {
                state.marks[usize::from(mark)].held_heard[member] = true;
            }
            Step::SendRelease(mark) => state.marks[usize::from(mark)].release_sent = true,
            Step::ArriveRelease(mark, member) => {
                let holds = state.members[member].holding == Some(mark);
                if holds || !self.rules.confirms_only_holding {
                    state.marks[usize::from(mark)].confirm_sent[member] = true;
                }
                if holds {
                    state.members[member].holding = None;
                }
            }
            Step::ArriveConfirm(mark, member) => {
                state.marks[usize::from(mark)].confirm_heard[member] = true;
            }
            Step::CreateProof(mark) => state.marks[usize::from(mark)].proof = true,
            Step::LetGo(member) => state.members[member].holding = None,
        }
        for (number, mark) in (0..).zip(&mut state.marks) {
            let mut members = state.members.iter();
            mark.sound |= members.all(|member| member.holding == Some(number));
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a proven point is sound", |_, state: &State| {
                state.marks.iter().all(|mark| mark.sound || !mark.proof)
            }),
            Property::sometimes("a point is proven", |_, state: &State| {
                state.marks.iter().any(|mark| mark.proof)
            }),
            Property::sometimes("sound, and not proven", |_, state: &State| {
                let mut marks = state.marks.iter();
                marks.any(|mark| mark.sound && mark.release_sent && !mark.proof)
            }),
        ]
    }
}

impl Group {
    fn hold(&self, state: &mut State, mark: u8, member: usize) {
        let known = &mut state.members[member];
        let bit = 1 << mark;
        let again = known.held & bit != 0 && self.rules.mark_held_once;
        if known.holding.is_some() || again {
            return;
        }
        known.holding = Some(mark);
        known.held |= bit;
        state.marks[usize::from(mark)].held_sent[member] = true;
    }
}
