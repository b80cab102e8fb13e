//! A machine's origin: two servers hear of a new machine at once, and each would have its path begin in
//! its own journal. The path is read by the product's `PathWalk`.
//!
//! An origin that was sent may arrive at any later time, also after its sender's death.

use everpoint_format::origin::Origin as Stored;
use everpoint_journal::path::{Listing, Need, PathEnd, PathWalk};
use everpoint_units::WallTime;
use stateright::{Model, Property};

use super::store::{VAULT, journal_id, journal_index, machine_id};

const SERVERS: u8 = 2;
/// Boots of both servers together; each has a journal of its own, with its number.
const BOOTS_MAX: u8 = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Origins {
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A name that is taken is another's origin, and is followed.
    pub(crate) taken_is_followed: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        taken_is_followed: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    origin: Option<u8>,
    /// Successor of each journal that is sealed; journals are numbered as boots are.
    sealed: Vec<Option<u8>>,
    boots: Vec<Boot>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Boot {
    server: u8,
    alive: bool,
    phase: Phase,
    /// It has frozen a block of the machine.
    wrote: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Knows,
    SentOrigin,
    Created,
    Owns,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Read(u8),
    SendOrigin(u8),
    ArriveLate(u8),
    HearOfCreate(u8),
    Write(u8),
    /// The server's next boot seals the journal of the one before.
    Restart(u8),
    /// A boot takes another's journal over.
    TakeOver(u8, u8),
}

impl Origins {
    /// Where the machine's path ends, by the product's walk.
    fn path_end(state: &State) -> Option<u8> {
        let origin = state.origin.map(|journal| Stored {
            vault: VAULT,
            machine: machine_id(1),
            journal: name(journal),
            created_at: WallTime(0),
            made_from: None,
        });
        let mut walk = PathWalk::new(machine_id(1));
        walk.handle_origin(Ok(origin.as_ref()));
        while let Some(Need::Listing(journal)) = walk.need() {
            // Journals hold no objects here but seals; a sealed one is left through its successor.
            match state.sealed[usize::from(journal_index(journal))] {
                Some(successor) => {
                    let next = Stored {
                        journal: name(successor),
                        ..origin.expect("the walk has begun")
                    };
                    walk = PathWalk::new(machine_id(1));
                    walk.handle_origin(Ok(Some(&next)));
                }
                None => walk.handle_listing(&Listing::default()),
            }
        }
        match walk.end() {
            Some(PathEnd::Open { journal, .. }) => Some(journal_index(journal)),
            _ => None,
        }
    }
}

const fn name(journal: u8) -> everpoint_units::JournalId {
    journal_id(journal as u64 + 1, journal)
}

impl Model for Origins {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let boot = |server| Boot {
            server,
            alive: true,
            phase: Phase::Knows,
            wrote: false,
        };
        vec![State {
            origin: None,
            sealed: vec![None; usize::from(SERVERS)],
            boots: (0..SERVERS).map(boot).collect(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let room = state.boots.len() < usize::from(BOOTS_MAX);
        for (index, boot) in (0..).zip(&state.boots) {
            if boot.phase == Phase::SentOrigin && state.origin.is_none() {
                steps.push(Step::ArriveLate(index));
            }
            if !boot.alive {
                continue;
            }
            match boot.phase {
                Phase::Knows if state.origin.is_none() => steps.push(Step::SendOrigin(index)),
                Phase::SentOrigin => steps.push(Step::HearOfCreate(index)),
                Phase::Knows | Phase::Created => (),
                Phase::Owns if !boot.wrote => steps.push(Step::Write(index)),
                Phase::Owns => (),
            }
            if boot.phase != Phase::Owns && boot.phase != Phase::SentOrigin {
                steps.push(Step::Read(index));
            }
            if room {
                steps.push(Step::Restart(index));
            }
            let open = |journal: &u8| state.sealed[usize::from(*journal)].is_none();
            let others = (0..index).filter(open);
            steps.extend(others.map(|journal| Step::TakeOver(index, journal)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Read(boot) => {
                let own = Self::path_end(last) == Some(boot);
                let phase = if own { Phase::Owns } else { Phase::Knows };
                state.boots[usize::from(boot)].phase = phase;
            }
            Step::SendOrigin(boot) => state.boots[usize::from(boot)].phase = Phase::SentOrigin,
            Step::ArriveLate(boot) => state.origin = Some(boot),
            Step::HearOfCreate(boot) => {
                let stands = *state.origin.get_or_insert(boot);
                let phase = match self.rules.taken_is_followed {
                    false => Phase::Owns,
                    true if stands == boot => Phase::Created,
                    true => Phase::Knows,
                };
                state.boots[usize::from(boot)].phase = phase;
            }
            Step::Write(boot) => state.boots[usize::from(boot)].wrote = true,
            Step::Restart(boot) => {
                let next = u8::try_from(state.boots.len()).expect("few boots");
                let old = &mut state.boots[usize::from(boot)];
                old.alive = false;
                let server = old.server;
                state.sealed[usize::from(boot)].get_or_insert(next);
                state.sealed.push(None);
                state.boots.push(Boot {
                    server,
                    alive: true,
                    phase: Phase::Knows,
                    wrote: false,
                });
            }
            Step::TakeOver(boot, journal) => {
                state.sealed[usize::from(journal)] = Some(boot);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("who begins to write is in the path", |_, state: &State| {
                let mut path = Vec::new();
                let mut at = state.origin;
                while let Some(journal) = at {
                    path.push(journal);
                    at = state.sealed[usize::from(journal)];
                }
                let mut writers = (0..).zip(&state.boots).filter(|(_, boot)| boot.wrote);
                writers.all(|(journal, _)| path.contains(&journal))
            }),
            Property::always("at most one unsealed owner", |_, state: &State| {
                let owners = (0_usize..).zip(&state.boots).filter(|(journal, boot)| {
                    boot.phase == Phase::Owns && state.sealed[*journal].is_none()
                });
                owners.count() <= 1
            }),
            Property::sometimes("the origin of a dead boot counts", |_, state: &State| {
                let origin = state.origin.map(usize::from);
                origin.is_some_and(|origin| !state.boots[origin].alive)
            }),
        ]
    }
}
