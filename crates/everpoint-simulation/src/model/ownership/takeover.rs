//! How a machine changes hands: seals made by the product's `Sealing`, ownership by reading the path,
//! releases, and rotation to a next journal.

use std::sync::Arc;

use everpoint_journal::sealing::{Found, SealOrder, Sealing, Step};
use everpoint_units::{ServerId, WallTime};

use super::super::store::{Block, Object, Release, Seal, VAULT, checksum, small};
use super::boots::hang_up;
use super::paths::behind_all;
use super::{FrozenSeal, PathEnd, State, World, follows, image, open_journal, position};

impl World {
    /// Whether a boot may name `successor` as what comes after `journal` (R2).
    pub(crate) fn may_succeed(
        &self,
        state: &State,
        machine: u8,
        journal: u8,
        successor: u8,
    ) -> bool {
        let level = |journal: u8| state.journals[usize::from(journal)].level;
        if self.rules.levels_rise {
            return level(journal) < level(successor);
        }
        !state.paths.0[usize::from(machine)]
            .journals
            .ends_with(&[successor])
    }

    /// Freezes the seal with which `boot` would seal the journal now; `None` where it is sealed.
    pub(crate) fn freeze_seal(
        &self,
        state: &State,
        journal: u8,
        successor: u8,
    ) -> Option<(u8, Seal)> {
        let stored = &state.journals[usize::from(journal)];
        let name = self.name_of(state, journal);
        let mut sealing = Sealing::new(SealOrder {
            vault: VAULT,
            journal: name,
            successor: self.name_above(state, name, successor),
            server: ServerId([1; 16]),
            assignment: 0,
            now: WallTime(0),
        });
        loop {
            match sealing.step() {
                Step::List => sealing.handle_listing(&stored.listing()),
                Step::ReadEnd | Step::Sealed(_) => return None,
                Step::Read(number) => {
                    let object = stored.at(small(number.0)).expect("it was listed");
                    let name_above = |successor| self.name_above(state, name, successor);
                    sealing.handle_read(match &**object {
                        Object::Data(data) => Found::Data {
                            checksum: checksum(data.checksum),
                            previous: checksum(data.previous),
                        },
                        Object::Seal(seal) => Found::Seal(seal.stored(
                            name,
                            small(number.0),
                            name_above(seal.successor),
                        )),
                    });
                }
                Step::Create(seal) => {
                    let number = small(seal.header.number.0);
                    return Some(self.bent(state, journal, number, Seal::of(&seal, successor)));
                }
            }
        }
    }

    /// The seal as it would be with a rule left out.
    fn bent(&self, state: &State, journal: u8, number: u8, seal: Seal) -> (u8, Seal) {
        let stored = &state.journals[usize::from(journal)];
        if !self.rules.seal_in_first_gap {
            let behind = behind_all(stored);
            return (
                behind,
                Seal {
                    prefix_end: behind - 1,
                    ..seal
                },
            );
        }
        if !self.rules.seal_states_prefix {
            let last = stored.data(number - 1);
            let run = Seal {
                prefix_end: number - 1,
                last_checksum: last.map_or(0, |data| data.checksum),
                ..seal
            };
            return (number, run);
        }
        (number, seal)
    }

    /// The boot begins to seal the journal in which the machine's path ends.
    pub(crate) fn choose_seal(&self, state: &mut State, boot: u8, machine: u8) {
        let journal = state.paths.0[usize::from(machine)].last();
        let successor = state.boots[usize::from(boot)].journal;
        let Some((number, seal)) = self.freeze_seal(state, journal, successor) else {
            return;
        };
        let frozen = FrozenSeal {
            journal,
            number,
            seal,
            machine,
        };
        let boot = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        if !boot.seals.contains(&frozen) {
            boot.seals.push(frozen);
        }
    }

    /// A frozen seal arrives at the store; whether its number was free.
    pub(crate) fn put_seal(&self, state: &mut State, boot: u8, seal: u8) -> bool {
        let frozen = state.boots[usize::from(boot)].seals[usize::from(seal)].clone();
        let object = Arc::new(Object::Seal(frozen.seal));
        let journal = Arc::make_mut(&mut state.journals[usize::from(frozen.journal)]);
        if !journal.create(frozen.number, &object) {
            return false;
        }
        self.read_paths(state);
        let sealer = &state.boots[usize::from(boot)];
        if !self.rules.path_is_read && sealer.serves() && sealer.rotating.is_none() {
            self.own(state, boot, frozen.machine);
        }
        true
    }

    /// The boot has read the machine's path and takes what of the cache log continues it (R6, R11).
    pub(crate) fn own(&self, state: &mut State, boot: u8, machine: u8) {
        let of_machine = usize::from(machine);
        let path = Arc::clone(&state.paths.0[of_machine]);
        let owner = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        let log = &mut state.servers[usize::from(owner.server)].cache_log;
        let mut stands = position(&path.blocks);
        let mut tail: Vec<Block> = Vec::new();
        for block in log.iter().filter(|block| block.machine == machine) {
            if follows(stands, block) {
                stands = (block.generation, block.number);
                tail.push(*block);
            }
        }
        log.retain(|block| block.machine != machine || tail.contains(block));
        owner.owned[of_machine] = true;
        owner.inherited[of_machine] = image(&path.blocks);
        owner.positions[of_machine] = stands;
        owner.epochs[of_machine] = if self.rules.levels_rise {
            state.journals[usize::from(owner.journal)].level
        } else {
            small(path.journals.len() as u64)
        };
        for block in tail {
            owner.take(block);
        }
    }

    /// Whether the machine's path leads to the boot and nothing forbids it to own the machine.
    pub(crate) fn may_own(&self, state: &State, boot: u8, machine: u8) -> bool {
        let path = &state.paths.0[usize::from(machine)];
        let boot = &state.boots[usize::from(boot)];
        path.last() == boot.journal
            && path.end == PathEnd::Open
            && !(self.rules.released_for_ever && boot.released[usize::from(machine)])
    }

    /// Freezes the record with which the machine leaves the boot's journal (R7).
    pub(crate) fn release(&self, state: &mut State, boot: u8, machine: u8, successor: Option<u8>) {
        let owner = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        let of_machine = |block: &Block| block.machine == machine;
        let kept: Vec<Block> = owner.pending.iter().copied().filter(of_machine).collect();
        owner.pending.retain(|block| !of_machine(block));
        owner.freeze(Some(Release { machine, successor }));
        kept.into_iter().for_each(|block| owner.take(block));
        owner.owned[usize::from(machine)] = false;
        owner.released[usize::from(machine)] = true;
        let agent = &mut state.agents[usize::from(machine)];
        if agent.boot == Some(boot) {
            Arc::make_mut(agent).boot = None;
        }
    }

    /// The boot settles and seals its own journal, naming a next one of its own.
    pub(crate) fn begin_rotation(&self, state: &mut State, boot: u8) {
        let own = state.boots[usize::from(boot)].journal;
        let level = state.journals[usize::from(own)].level;
        let next = open_journal(state, level + 1);
        let sealed = self.freeze_seal(state, own, next);
        let boot = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        let Some((number, seal)) = sealed else {
            return;
        };
        boot.rotating = Some(small(boot.seals.len() as u64));
        boot.seals.push(FrozenSeal {
            journal: own,
            number,
            seal,
            machine: 0,
        });
    }

    /// The rotating boot learns what lies where its seal should: it goes on, or is fenced.
    pub(crate) fn finish_rotation(&self, state: &mut State, boot: u8) {
        let index = usize::from(boot);
        let rotating = Arc::clone(&state.boots[index]);
        let seal = &rotating.seals[usize::from(rotating.rotating.expect("it rotates"))];
        let journal = &state.journals[usize::from(seal.journal)];
        let stands = journal.at(seal.number).map(|object| &**object);
        let is_own = stands == Some(&Object::Seal(seal.seal));
        let says_own = seal.seal.prefix_end == rotating.frozen_count()
            && seal.seal.last_checksum == rotating.last_checksum();
        // A number that was emptied takes a seal, too: so `end` is asked for behind it.
        let says_own = says_own && journal.end.is_none();
        if !is_own || (self.rules.rotation_compares && !says_own) {
            self.fence(state, boot);
            return;
        }
        let next = self.boot(state, rotating.server, seal.seal.successor);
        let next_index = usize::from(next);
        for machine in 0..self.machines {
            let of_machine = usize::from(machine);
            if !rotating.owned[of_machine] {
                continue;
            }
            let goes_on = Arc::make_mut(&mut state.boots[next_index]);
            goes_on.owned[of_machine] = true;
            goes_on.inherited[of_machine] = self.acknowledged_writes(&rotating, machine);
            goes_on.positions[of_machine] = rotating.positions[of_machine];
            goes_on.epochs[of_machine] = state.journals[usize::from(seal.seal.successor)].level;
        }
        let goes_on = Arc::make_mut(&mut state.boots[next_index]);
        rotating
            .pending
            .iter()
            .for_each(|block| goes_on.take(*block));
        let old = Arc::make_mut(&mut state.boots[index]);
        old.alive = false;
        old.pending.clear();
        old.owned = Default::default();
        hang_up(state, boot);
    }
}
