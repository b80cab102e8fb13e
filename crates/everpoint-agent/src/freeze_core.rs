//! When filesystems are frozen and thawed, by whom, and what is said of it. Pure.
//!
//! Two processes stand between a freeze and a filesystem that stays frozen:
//!
//! ```text
//! agent ──freeze, thaw──▶ freezer ──arm, disarm──▶ guard
//!       ◀──frozen, held──         ◀────armed──────
//! ```
//!
//! The freezer freezes and thaws, and thaws at once when the agent or the guard is gone or the deadline
//! passes. The guard is armed before anything is frozen. It thaws when the freezer is gone, or when the deadline
//! passes and the freezer, which may stand still, has not said that all is thawed.
//!
//! Each filesystem is thawed for itself: one whose freeze hangs lets its thaw hang too, and the others do not wait for it.
//!
//! The freezer says *held* only if each of its thaws found its filesystem frozen, and the last ended before the deadline.
//! The guard's deadline is never before the freezer's, so that nobody thawed in between: what was marked
//! between *frozen* and *held* lies in the freeze.

pub mod words;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use everpoint_units::Moment;

use words::{Answer, Step, Trouble};

/// Rounds of syncs before a freeze, at most.
const SYNC_ROUNDS_MAX: u32 = 10;
/// A round that took no more than this part of the longest hold leaves little for the freeze to write.
const SYNC_SHORT_PART: u32 = 10;
/// What the freeze itself writes takes about as long as the last round took, and nobody can thaw meanwhile: more
/// than this part of the longest hold is not risked.
const SYNC_LONG_PART: u32 = 2;
/// How soon a thaw that did not succeed is tried again; the guard also tries what is not frozen yet.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(5);

/// The freezer's decisions.
#[derive(Debug)]
pub struct FreezerCore {
    /// How many filesystems there are.
    count: usize,
    state: State,
    actions: VecDeque<Action>,
}

/// The guard's decisions for one filesystem, from armed until thawed.
#[derive(Clone, Copy, Debug)]
pub struct GuardCore {
    /// When to thaw next. None: it was thawed.
    look: Option<Moment>,
    freezer_is_gone: bool,
}

/// How a thaw ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ThawEnd {
    WasFrozen,
    WasNot,
    /// Nobody knows. It may still be frozen.
    Failed,
}

/// What the freezer hears.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The agent wants all filesystems frozen for so long at most.
    Freeze { hold_max: Duration },
    /// A sync took so long.
    Synced(Result<Duration, i32>),
    /// The guard is armed, or why it is not.
    Armed(Result<(), Trouble>),
    /// A freeze ended.
    Froze(Result<(), i32>),
    /// The agent wants all filesystems thawed.
    Thaw,
    /// None of those that were to be thawed is frozen; whether all were until then.
    Thawed { was_frozen: bool },
    /// The agent has ended.
    AgentGone,
    /// The guard has ended.
    GuardGone,
    /// Time went by.
    Tick,
}

/// What the freezer does. Those that are answered by an event are answered before the next is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Answered by [`Event::Synced`].
    Sync(usize),
    /// Answered by [`Event::Armed`].
    Arm {
        hold_max: Duration,
    },
    /// Answered by [`Event::Froze`].
    Freeze(usize),
    /// The first so many, each for itself. Answered by [`Event::Thawed`].
    Thaw(usize),
    Disarm,
    Say(Answer),
    /// Nobody is left to work for.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Resting,
    Syncing {
        hold_max: Duration,
        round: u32,
        index: usize,
        took: Duration,
    },
    Arming {
        until: Moment,
    },
    Freezing {
        hold: Hold,
        index: usize,
    },
    Frozen {
        hold: Hold,
    },
    Thawing {
        hold: Hold,
        why: Why,
    },
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    begun: Moment,
    until: Moment,
}

/// Why it is thawed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    Asked,
    Late,
    Failed(Trouble),
    AgentGone,
    GuardGone,
}

/// The order in which filesystems are frozen. The deepest goes first: what it writes while it
/// is frozen may end in a file of one above it.
pub fn freeze_order(mut filesystems: Vec<PathBuf>) -> Vec<PathBuf> {
    filesystems.sort_by_key(|path| Reverse(path.components().count()));
    filesystems
}

impl FreezerCore {
    /// One for `count` filesystems, none of them frozen.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn new(count: usize) -> Self {
        assert!(0 < count, "there is something to freeze");
        Self {
            count,
            state: State::Resting,
            actions: VecDeque::new(),
        }
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to say [`Event::Tick`].
    pub const fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Frozen { hold } => Some(hold.until),
            _ => None,
        }
    }

    /// Takes an event. What comes at a time that it does not belong to is left alone.
    pub fn handle(&mut self, event: Event, now: Moment) {
        match (self.state, event) {
            (State::Over, _) => {}
            (State::Resting, Event::Freeze { hold_max }) => self.sync(hold_max, 0),
            (
                State::Syncing {
                    hold_max,
                    round,
                    index,
                    took,
                },
                Event::Synced(synced),
            ) => match synced {
                Ok(more) => self.synced(hold_max, round, index, took + more, now),
                Err(number) => self.give_up(Trouble::new(Step::Sync, index, number)),
            },
            (State::Arming { until }, Event::Armed(armed)) => match armed {
                Ok(()) => self.freeze(Hold { begun: now, until }, 0),
                Err(trouble) => self.give_up(trouble),
            },
            (State::Freezing { hold, index }, Event::Froze(froze)) => {
                self.froze(hold, index, froze, now);
            }
            (State::Frozen { hold }, Event::Thaw) => {
                let why = if now < hold.until {
                    Why::Asked
                } else {
                    Why::Late
                };
                self.thaw(hold, self.count, why);
            }
            (State::Frozen { hold }, Event::Tick) if hold.until <= now => {
                self.thaw(hold, self.count, Why::Late);
            }
            (State::Frozen { hold }, Event::AgentGone) => {
                self.thaw(hold, self.count, Why::AgentGone);
            }
            (State::Frozen { hold }, Event::GuardGone) => {
                self.thaw(hold, self.count, Why::GuardGone);
            }
            (State::Thawing { hold, why }, Event::Thawed { was_frozen }) => {
                self.thawed(hold, was_frozen, why, now);
            }
            (_, Event::AgentGone) => self.end(),
            (_, Event::GuardGone) => {
                self.actions.push_back(Action::Say(Answer::Unguarded));
                self.end();
            }
            _ => {}
        }
    }

    fn sync(&mut self, hold_max: Duration, round: u32) {
        self.state = State::Syncing {
            hold_max,
            round,
            index: 0,
            took: Duration::ZERO,
        };
        self.actions.push_back(Action::Sync(0));
    }

    fn synced(
        &mut self,
        hold_max: Duration,
        round: u32,
        index: usize,
        took: Duration,
        now: Moment,
    ) {
        let next = index + 1;
        if next < self.count {
            self.state = State::Syncing {
                hold_max,
                round,
                index: next,
                took,
            };
            self.actions.push_back(Action::Sync(next));
        } else if hold_max / SYNC_SHORT_PART < took && round + 1 < SYNC_ROUNDS_MAX {
            // What was written meanwhile is less each time, and the freeze writes it while everybody waits.
            self.sync(hold_max, round + 1);
        } else if hold_max / SYNC_LONG_PART < took {
            self.give_up(Trouble::new(Step::Busy, index, 0));
        } else {
            // From before the guard is told, so that it is never the earlier of the two.
            let until = now.after(hold_max);
            self.state = State::Arming { until };
            self.actions.push_back(Action::Arm { hold_max });
        }
    }

    fn freeze(&mut self, hold: Hold, index: usize) {
        self.state = State::Freezing { hold, index };
        self.actions.push_back(Action::Freeze(index));
    }

    fn froze(&mut self, hold: Hold, index: usize, froze: Result<(), i32>, now: Moment) {
        let held = index + usize::from(froze.is_ok());
        match froze {
            Err(number) => {
                let trouble = Trouble::new(Step::Freeze, index, number);
                self.thaw(hold, held, Why::Failed(trouble));
            }
            Ok(()) if hold.until <= now => self.thaw(hold, held, Why::Late),
            Ok(()) if held < self.count => self.freeze(hold, held),
            Ok(()) => {
                self.state = State::Frozen { hold };
                self.actions.push_back(Action::Say(Answer::Frozen));
            }
        }
    }

    fn thaw(&mut self, hold: Hold, held: usize, why: Why) {
        if held == 0 {
            self.thawed(hold, true, why, hold.begun);
        } else {
            self.state = State::Thawing { hold, why };
            self.actions.push_back(Action::Thaw(held));
        }
    }

    fn thawed(&mut self, hold: Hold, was_frozen: bool, why: Why, now: Moment) {
        self.actions.push_back(Action::Disarm);
        let answer = match why {
            Why::Failed(trouble) => Answer::Failed(trouble),
            Why::AgentGone => return self.end(),
            Why::GuardGone => {
                self.actions.push_back(Action::Say(Answer::Unguarded));
                return self.end();
            }
            Why::Asked if was_frozen && now < hold.until => Answer::Held {
                micros: micros(now.since(hold.begun)),
            },
            Why::Asked | Why::Late => Answer::Late,
        };
        self.actions.push_back(Action::Say(answer));
        self.state = State::Resting;
    }

    fn give_up(&mut self, trouble: Trouble) {
        self.actions.push_back(Action::Disarm);
        self.actions.push_back(Action::Say(Answer::Failed(trouble)));
        self.state = State::Resting;
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.actions.push_back(Action::End);
    }
}

impl GuardCore {
    /// From now on the filesystem may be frozen, for so long at most.
    pub fn new(hold_max: Duration, now: Moment) -> Self {
        Self {
            look: Some(now.after(hold_max)),
            freezer_is_gone: false,
        }
    }

    /// When to thaw. None: never again.
    pub const fn deadline(&self) -> Option<Moment> {
        self.look
    }

    /// Whether to thaw now.
    pub fn is_due(&self, now: Moment) -> bool {
        self.look.is_some_and(|look| look <= now)
    }

    /// Nobody freezes any more, and nobody else thaws what was frozen.
    pub const fn freezer_gone(&mut self, now: Moment) {
        self.freezer_is_gone = true;
        if self.look.is_some() {
            self.look = Some(now);
        }
    }

    /// A thaw ended. To have found it frozen once is enough: the next freeze may be somebody else's.
    pub fn note(&mut self, end: ThawEnd, now: Moment) {
        let is_over = match end {
            ThawEnd::WasFrozen => true,
            // The freezer may be in the middle of it.
            ThawEnd::WasNot => self.freezer_is_gone,
            ThawEnd::Failed => false,
        };
        self.look = (!is_over).then(|| now.after(TRY_AGAIN));
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
