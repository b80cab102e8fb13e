//! Reading a machine's path: the product's `PathWalk` over the small vault, and R14 beside it.

use std::sync::Arc;

use everpoint_format::origin::Origin;
use everpoint_journal::path::{Damage, Need, ObjectRead, PathWalk, Verdict};
use everpoint_journal::path::{PathEnd as WalkEnd, gapless_run};
use everpoint_units::{JournalId, WallTime};

use super::super::store::{
    self, Object, Seal, VAULT, journal_id, journal_index, machine_id, small,
};
use super::{Path, PathEnd, Placed, State, World};

/// What one journal holds of a machine, and what comes after it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) blocks: Vec<Placed>,
    pub(crate) next: Next,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    Journal(u8),
    Open,
    Closed,
    Broken,
}

impl World {
    /// The machine's whole history, from its manifest on.
    pub(crate) fn path(&self, state: &State, machine: u8) -> Path {
        let manifest = &state.manifests[usize::from(machine)];
        let mut path = Path {
            blocks: manifest.blocks.clone(),
            journals: manifest.passed.clone(),
            end: PathEnd::Open,
        };
        let mut at = manifest.next;
        loop {
            if path.journals.contains(&at) {
                path.end = PathEnd::Broken;
                return path;
            }
            path.journals.push(at);
            let part = self.part(state, machine, at);
            path.blocks.extend(part.blocks);
            match part.next {
                Next::Journal(next) => at = next,
                Next::Open => return path,
                Next::Closed => {
                    path.end = PathEnd::Closed;
                    return path;
                }
                Next::Broken => {
                    path.end = PathEnd::Broken;
                    return path;
                }
            }
        }
    }

    /// One journal, read by the product's walk as if the machine's path began there.
    pub(crate) fn part(&self, state: &State, machine: u8, journal: u8) -> Part {
        let stored = &state.journals[usize::from(journal)];
        if !self.rules.release_inside_prefix
            && let Some(part) = self.part_to_any_release(state, machine, journal)
        {
            return part;
        }
        let name = self.name_of(state, journal);
        let origin = Origin {
            vault: VAULT,
            machine: machine_id(machine),
            journal: name,
            created_at: WallTime(0),
            made_from: None,
        };
        let mut walk = PathWalk::new(machine_id(machine));
        walk.handle_origin(Ok(Some(&origin)));
        walk.handle_listing(&stored.listing());
        let mut blocks = Vec::new();
        while let Some(Need::Object(at, number)) = walk.need()
            && at == name
        {
            let number = small(number.0);
            let object = stored.at(number).expect("it was listed");
            if self.read(state, &mut walk, name, number, object) == Verdict::Fold
                && let Object::Data(data) = &**object
            {
                let own = data.blocks.iter().filter(|block| block.machine == machine);
                blocks.extend(own.map(|block| (journal, number, *block)));
            }
        }
        let ends_early = |(number, seal): (u8, Seal)| seal.prefix_end + 1 < number;
        let next = if !self.rules.sealed_leads_on && stored.seals().any(ends_early) {
            Next::Open
        } else {
            self.next(state, &walk, journal)
        };
        Part { blocks, next }
    }

    /// Hands one object to the walk.
    fn read(
        &self,
        state: &State,
        walk: &mut PathWalk,
        name: JournalId,
        number: u8,
        object: &Arc<Object>,
    ) -> Verdict {
        let above = |successor| self.name_above(state, name, successor);
        match &**object {
            Object::Data(data) => {
                let journal = &state.journals[usize::from(journal_index(name))];
                // Nobody compares: every object seems to follow the one before it. Where a seal states
                // the run, nobody compares once it is there.
                let sealed = journal.seals().next().is_some();
                let compared =
                    self.rules.neighbours_agree && (self.rules.seal_states_prefix || !sealed);
                let previous = match journal.data(number - 1) {
                    Some(before) if !compared => before.checksum,
                    _ => data.previous,
                };
                let index = data.index(name, number, previous, above);
                walk.handle_object(ObjectRead::Data(&index))
            }
            Object::Seal(seal) => {
                let seal = seal.stored(name, number, above(seal.successor));
                walk.handle_object(ObjectRead::Seal(&seal))
            }
        }
    }

    /// What comes after the journal that the walk has read.
    fn next(&self, state: &State, walk: &PathWalk, journal: u8) -> Next {
        match (walk.damage(), walk.need(), walk.end()) {
            ([], Some(Need::Listing(next)), _) => Next::Journal(journal_index(next)),
            ([], _, Some(WalkEnd::Open { .. })) => Next::Open,
            ([], _, Some(WalkEnd::Closed { .. })) => Next::Closed,
            // R14, which the product has not yet: nothing of the machine is here any more.
            ([Damage::Pruned { .. }], ..) => {
                let end = state.journals[usize::from(journal)].end;
                Next::Journal(end.expect("it was listed").1.successor)
            }
            _ => Next::Broken,
        }
    }

    /// R3 left out: the first release anywhere in the journal counts.
    fn part_to_any_release(&self, state: &State, machine: u8, journal: u8) -> Option<Part> {
        let stored = &state.journals[usize::from(journal)];
        let listing = stored.listing();
        let prefix = small(gapless_run(&listing).0);
        let of_machine = |number: u8| {
            let release = stored.data(number)?.release?;
            (release.machine == machine).then_some((number, release.successor))
        };
        let (end, successor) = (1..=stored.top()).find_map(of_machine)?;
        let numbers = 1..=end.min(prefix);
        let blocks = numbers.flat_map(|number| {
            let blocks = stored.data(number).map_or(&[][..], |data| &data.blocks);
            let own = blocks.iter().filter(|block| block.machine == machine);
            own.map(move |block| (journal, number, *block))
        });
        Some(Part {
            blocks: blocks.collect(),
            next: successor.map_or(Next::Closed, Next::Journal),
        })
    }

    /// The journal's name as the vault has it.
    pub(crate) fn name_of(&self, state: &State, journal: u8) -> JournalId {
        let level = state.journals[usize::from(journal)].level;
        journal_id(u64::from(level), journal)
    }

    /// The name of what comes after `before`; with R2 left out, one whose level seems to rise.
    pub(crate) fn name_above(&self, state: &State, before: JournalId, journal: u8) -> JournalId {
        if self.rules.levels_rise {
            return self.name_of(state, journal);
        }
        journal_id(before.level.0 + 1, journal)
    }

    /// Reads both paths again after the vault or a manifest changed, and holds them against what was
    /// there before.
    pub(crate) fn read_paths(&self, state: &mut State) {
        for machine in 0..self.machines {
            let now = self.path(state, machine);
            let before = &mut state.paths.0[usize::from(machine)];
            if !now.blocks.starts_with(&before.blocks) {
                state.broken.get_or_insert("a reader went back");
            }
            if !now.journals.starts_with(&before.journals) {
                state.broken.get_or_insert("a path forked");
            }
            if now.end == PathEnd::Broken {
                // Nothing is damaged in these worlds.
                state.broken.get_or_insert("a path cannot be followed");
            }
            if before.end == PathEnd::Closed && now.end != PathEnd::Closed {
                state.broken.get_or_insert("a closed path went on");
            }
            *before = Arc::new(now);
        }
    }
}

/// The number behind everything that is listed.
pub(crate) fn behind_all(journal: &store::Journal) -> u8 {
    journal.top() + 1
}
