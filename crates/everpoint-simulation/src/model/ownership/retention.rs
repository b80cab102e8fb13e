//! Folding, deleting and sleeping readers (R13, R14). The product has no rule for these yet: the model has
//! them by itself.

use std::sync::Arc;

use super::paths::Next;
use super::{Reader, State, World};

impl World {
    /// Whether the manifest's next journal has a successor, so that it can be folded whole.
    pub(crate) fn may_fold(&self, state: &State, machine: u8) -> bool {
        let path = &state.paths.0[usize::from(machine)];
        let manifest = &state.manifests[usize::from(machine)];
        let after = path.journals.get(manifest.passed.len() + 1);
        !manifest.passed.contains(&manifest.next) && after.is_some()
    }

    /// A next manifest whose position is past one more journal.
    pub(crate) fn fold(&self, state: &mut State, machine: u8) {
        let manifest = Arc::clone(&state.manifests[usize::from(machine)]);
        let part = self.part(state, machine, manifest.next);
        let Next::Journal(next) = part.next else {
            return;
        };
        let manifest = Arc::make_mut(&mut state.manifests[usize::from(machine)]);
        manifest.passed.push(manifest.next);
        manifest.blocks.extend(part.blocks);
        manifest.next = next;
        self.read_paths(state);
    }

    /// Whether retention may delete in the journal (R13).
    pub(crate) fn may_delete(&self, state: &State, journal: u8) -> bool {
        let stored = &state.journals[usize::from(journal)];
        let sealed = stored.end.is_some() || stored.seals().next().is_some();
        let passed = |machine: u8| {
            let manifest = &state.manifests[usize::from(machine)];
            manifest.passed.contains(&journal)
        };
        let mut named = (0..self.machines).filter(|machine| stored.names(*machine));
        let all_passed = if self.rules.every_manifest_passed {
            named.all(passed)
        } else {
            named.any(passed)
        };
        (sealed || !self.rules.only_sealed_deleted) && all_passed
    }

    /// Creates `end`, a copy of the seal that counts.
    pub(crate) fn create_end(&self, state: &mut State, journal: u8) {
        let stored = Arc::make_mut(&mut state.journals[usize::from(journal)]);
        let counts = stored.seals().next();
        stored.end = counts;
        self.read_paths(state);
    }

    pub(crate) fn delete(&self, state: &mut State, journal: u8, number: u8) {
        let stored = Arc::make_mut(&mut state.journals[usize::from(journal)]);
        stored.objects[usize::from(number) - 1] = None;
        stored.deleted = true;
        self.read_paths(state);
    }

    /// A reader reads the newest manifest.
    pub(crate) fn begin_reading(&self, state: &mut State, machine: u8) {
        let manifest = &state.manifests[usize::from(machine)];
        state.reader = Some(Arc::new(Reader {
            machine,
            manifest_number: manifest.passed.len(),
            passed: manifest.passed.clone(),
            at: manifest.next,
            blocks: manifest.blocks.clone(),
            owed: state.acknowledged[usize::from(machine)],
        }));
    }

    /// The reader wakes and reads one journal.
    pub(crate) fn read_on(&self, state: &mut State) {
        let reader = state.reader.take().expect("somebody reads");
        let manifest = Arc::clone(&state.manifests[usize::from(reader.machine)]);
        if reader.passed.contains(&reader.at) {
            return;
        }
        let has_end = state.journals[usize::from(reader.at)].end.is_some();
        let moved = manifest.passed.len() != reader.manifest_number;
        if self.rules.manifest_read_again && has_end && moved {
            state.reader = Some(Arc::new(Reader {
                manifest_number: manifest.passed.len(),
                passed: manifest.passed.clone(),
                at: manifest.next,
                blocks: manifest.blocks.clone(),
                ..*reader
            }));
            return;
        }
        let part = self.part(state, reader.machine, reader.at);
        let mut reader = Arc::unwrap_or_clone(reader);
        reader.blocks.extend(part.blocks);
        reader.passed.push(reader.at);
        match part.next {
            Next::Journal(next) => {
                reader.at = next;
                state.reader = Some(Arc::new(reader));
            }
            Next::Open | Next::Closed | Next::Broken => self.judge(state, &reader),
        }
    }

    /// What the reader saw must be the beginning of what is there, and hold what it was owed.
    fn judge(&self, state: &mut State, reader: &Reader) {
        let path = Arc::clone(&state.paths.0[usize::from(reader.machine)]);
        let is_prefix =
            path.blocks.starts_with(&reader.blocks) && path.journals.starts_with(&reader.passed);
        if !is_prefix {
            state
                .broken
                .get_or_insert("a sleeping reader saw another history");
        }
        if reader.owed & !super::image(&reader.blocks) != 0 {
            state
                .broken
                .get_or_insert("a sleeping reader missed what was acknowledged before");
        }
    }
}
