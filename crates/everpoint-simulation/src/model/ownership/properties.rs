//! What must hold in every state, what must come about somewhere, and how a world heals.

use std::sync::Arc;

use stateright::Property;

use super::super::store::small;
use super::{Path, PathEnd, Placed, State, World, follows};

pub(crate) const DIRTY: &str = "cleared dirty bits are readable";
pub(crate) const ACKNOWLEDGED: &str = "what a boot could call committed is readable";
pub(crate) const IN_PATH: &str = "nothing is called committed outside the path";
pub(crate) const PREFIX: &str = "every view is a prefix of the writes";
pub(crate) const FOLLOWS: &str = "each block of a path follows the one before it";
pub(crate) const NO_WAY_BACK: &str = "no reader goes back, no path forks or breaks";
pub(crate) const HEALS: &str = "everything is committed once faults stop";

pub(crate) fn all() -> Vec<Property<World>> {
    let mut properties = vec![
        Property::always(DIRTY, |world: &World, state: &State| {
            (0..world.machines).all(|machine| dirty_bits_hold(state, machine))
        }),
        Property::always(ACKNOWLEDGED, |world: &World, state: &State| {
            (0..world.machines).all(|machine| {
                let index = usize::from(machine);
                state.acknowledged[index] & !state.paths.0[index].image() == 0
            })
        }),
        Property::always(IN_PATH, |world: &World, state: &State| {
            (0..world.machines).all(|machine| world.acknowledged_lie_in_path(state, machine))
        }),
        Property::always(PREFIX, |world: &World, state: &State| {
            let mut paths = state.paths.0[..usize::from(world.machines)].iter();
            paths.all(|path| (u16::from(path.image()) + 1).is_power_of_two())
        }),
        Property::always(FOLLOWS, |world: &World, state: &State| {
            let mut paths = state.paths.0[..usize::from(world.machines)].iter();
            paths.all(|path| blocks_follow(&path.blocks))
        }),
        Property::always(NO_WAY_BACK, |_, state: &State| state.broken.is_none()),
        Property::always(HEALS, |world: &World, state: &State| {
            !world.heals || world.heals_from(state)
        }),
    ];
    properties.extend(reached());
    properties
}

/// What worlds come to somewhere, so that a search that finds nothing is seen to have looked.
fn reached() -> Vec<Property<World>> {
    vec![
        Property::sometimes("fenced", |_, state: &State| {
            state.boots.iter().any(|boot| boot.commit.is_fenced())
        }),
        Property::sometimes("void behind a seal", |_, state: &State| {
            state.journals.iter().any(|journal| {
                let seal = journal.seals().next();
                let is_data = |number| journal.data(number).is_some();
                seal.is_some_and(|(at, _)| (at..=journal.top()).any(is_data))
            })
        }),
        Property::sometimes("two seals in a journal", |_, state: &State| {
            let mut journals = state.journals.iter();
            journals.any(|journal| 1 < journal.seals().count())
        }),
        Property::sometimes("sealed behind a disagreement", |_, state: &State| {
            let mut seals = state.journals.iter().flat_map(|journal| journal.seals());
            seals.any(|(at, seal)| seal.prefix_end + 1 < at)
        }),
        Property::sometimes("created where it was deleted", |_, state: &State| {
            state.journals.iter().any(|journal| {
                let late = |number| journal.data(number).is_some_and(|data| 0 < data.life);
                journal.deleted && (1..=journal.top()).any(late)
            })
        }),
        Property::sometimes("a path of 4 journals", |world: &World, state: &State| {
            any_path(world, state, |path| 3 < path.journals.len())
        }),
        Property::sometimes(
            "left a journal that goes on",
            |world: &World, state: &State| {
                let goes_on = |at: &u8| state.journals[usize::from(*at)].seals().next().is_none();
                any_path(world, state, |path| {
                    let left = path.journals.split_last().expect("a path has a journal").1;
                    left.iter().any(goes_on)
                })
            },
        ),
        Property::sometimes("closed", |world: &World, state: &State| {
            any_path(world, state, |path| path.end == PathEnd::Closed)
        }),
    ]
}

fn any_path(world: &World, state: &State, holds: impl Fn(&Path) -> bool) -> bool {
    let mut paths = state.paths.0[..usize::from(world.machines)].iter();
    paths.any(|path| holds(path))
}

fn blocks_follow(blocks: &[Placed]) -> bool {
    let mut stands = (0, 0);
    blocks.iter().all(|(_, _, block)| {
        let goes_on = follows(stands, block);
        stands = (block.generation, block.number);
        goes_on
    })
}

fn dirty_bits_hold(state: &State, machine: u8) -> bool {
    let index = usize::from(machine);
    let agent = &state.agents[index];
    let written = (1_u8 << agent.written) - 1;
    written & !agent.dirty & !state.paths.0[index].image() == 0
}

impl World {
    fn acknowledged_lie_in_path(&self, state: &State, machine: u8) -> bool {
        let path = &state.paths.0[usize::from(machine)];
        state.boots.iter().all(|boot| {
            let blocks = self.acknowledged_blocks(boot, machine);
            blocks.iter().all(|placed| path.blocks.contains(placed))
        })
    }

    /// Whether one server, left alone with a store that answers, commits everything that was written.
    fn heals_from(&self, state: &State) -> bool {
        let mut state = state.clone();
        let calm = Self {
            journals: 60,
            objects: 60,
            in_flight: self.in_flight,
            ..self.clone()
        };
        (0..24).any(|_| calm.heal_once(&mut state).unwrap_or(false))
    }

    /// One round: `None` when it must begin again, else whether everything is committed.
    fn heal_once(&self, state: &mut State) -> Option<bool> {
        let boot = self.living_boot(state);
        for machine in 0..self.machines {
            self.take_machine(state, boot, machine)?;
        }
        for machine in 0..self.machines {
            if state.boots[usize::from(boot)].owned[usize::from(machine)] {
                self.connect(state, machine, boot);
                while self.send(state, machine) {}
                self.hear_cached(state, machine);
            }
        }
        self.commit_all(state, boot);
        if state.boots[usize::from(boot)].commit.is_fenced() {
            return None;
        }
        for machine in 0..self.machines {
            self.hear_committed(state, machine, boot);
        }
        Some((0..self.machines).all(|machine| {
            let path = &state.paths.0[usize::from(machine)];
            let agent = &state.agents[usize::from(machine)];
            let all = (1_u8 << agent.written) - 1;
            path.end == PathEnd::Closed || (agent.dirty == 0 && path.image() == all)
        }))
    }

    /// The first server's boot, started anew where it cannot go on.
    fn living_boot(&self, state: &mut State) -> u8 {
        let now = state.servers[0].boot;
        let goes_on = now.filter(|boot| {
            let boot = &state.boots[usize::from(*boot)];
            boot.serves() && boot.rotating.is_none()
        });
        goes_on.unwrap_or_else(|| {
            self.restart(state, 0, false);
            state.servers[0].boot.expect("just started")
        })
    }

    /// The boot comes to own the machine; `None` when it must begin again.
    fn take_machine(&self, state: &mut State, boot: u8, machine: u8) -> Option<()> {
        let index = usize::from(machine);
        let known = &state.boots[usize::from(boot)];
        let path = Arc::clone(&state.paths.0[index]);
        if known.owned[index] || path.end == PathEnd::Closed {
            return Some(());
        }
        let own = known.journal;
        if path.last() == own && known.released[index] && self.rules.released_for_ever {
            // The release may not have arrived: it is sent until it has.
            self.commit_all(state, boot);
            return None;
        }
        if path.last() != own {
            let left = path.journals.contains(&own);
            if left || !self.may_succeed(state, machine, path.last(), own) {
                self.kill(state, boot);
                return None;
            }
            self.choose_seal(state, boot, machine);
            let seals = state.boots[usize::from(boot)].seals.len();
            for seal in 0..small(seals as u64) {
                self.put_seal(state, boot, seal);
            }
        }
        if !self.may_own(state, boot, machine) {
            return None;
        }
        self.own(state, boot, machine);
        Some(())
    }

    /// Freezes what is pending, stores everything, and hears the answers.
    fn commit_all(&self, state: &mut State, boot: u8) {
        let index = usize::from(boot);
        for _ in 0..8 {
            let known = Arc::clone(&state.boots[index]);
            if !known.serves() {
                return;
            }
            for number in (1..=known.frozen_count()).filter(|number| !known.is_stored(*number)) {
                if state.boots[index].serves() {
                    self.store(state, boot, number);
                }
            }
            while state.boots[index].asked.is_some() {
                self.answer(state, boot);
            }
            if state.boots[index].serves() && state.boots[index].wants_freeze() {
                Arc::make_mut(&mut state.boots[index]).freeze(None);
            }
        }
        self.read_paths(state);
    }
}
