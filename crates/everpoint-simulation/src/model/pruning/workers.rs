//! Workers: each makes manifests, and deletes by what it listed.

use super::{
    Item, Layer, MACHINES_MAX, Manifest, Name, PIECES, Place, Pruning, State, Step, Work, names,
};

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Worker {
    pub(super) phase: Phase,
    jobs_left: u8,
    /// The machine, number and content of the manifest that it makes.
    making: Option<(usize, u8, Manifest)>,
    /// What it listed of each machine: the highest number and that manifest.
    newest: [Option<(u8, Manifest)>; MACHINES_MAX],
    /// What holds named when it listed them.
    holds: Vec<u8>,
    /// The older manifests of machine 0 that they kept.
    held: Vec<(u8, Manifest)>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Phase {
    Idle,
    Listed,
    Sent,
    /// It lists the manifests of each machine.
    Collecting,
    Deleting,
}

impl Worker {
    pub(super) const fn new(jobs_left: u8) -> Self {
        Self {
            phase: Phase::Idle,
            jobs_left,
            making: None,
            newest: [None; MACHINES_MAX],
            holds: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Every manifest that keeps something of the machine: the newest, and those that are held.
    fn keeping(&self, machine: usize) -> impl Iterator<Item = Manifest> {
        let newest = self.newest[machine].map(|(_, manifest)| manifest);
        let held = self.held.iter().filter(move |_| machine == 0);
        newest
            .into_iter()
            .chain(held.map(|(_, manifest)| *manifest))
    }
}

impl State {
    fn hold_numbers(&self) -> Vec<u8> {
        let mut holds: Vec<u8> = self
            .readers
            .iter()
            .filter_map(|reader| reader.hold())
            .collect();
        holds.sort_unstable();
        holds
    }
}

impl Pruning {
    pub(super) fn worker_steps(&self, state: &State, index: usize, steps: &mut Vec<Step>) {
        let worker = &state.workers[index];
        match worker.phase {
            Phase::Idle if worker.jobs_left == 0 => return,
            Phase::Idle => {
                let room = |machine: &usize| state.machines[*machine].highest() < self.numbers_max;
                let begin = (0..self.machines).filter(room);
                steps.extend(begin.map(|machine| Step::Begin(index, machine)));
                steps.push(Step::Collect(index));
                return;
            }
            Phase::Listed => {
                let (machine, _, base) = worker.making.expect("it was listed");
                let works = works(machine, &base).into_iter();
                steps.extend(works.map(|work| Step::Make(index, work)));
                return;
            }
            Phase::Sent => steps.push(Step::HearOfCreate(index)),
            Phase::Collecting => {
                let listed = worker.newest.iter().flatten().count();
                steps.push(if listed < self.machines {
                    Step::ListManifests(index)
                } else {
                    Step::ListHolds(index)
                });
            }
            Phase::Deleting => self.deletions(state, index, steps),
        }
        steps.push(Step::Stop(index));
    }

    pub(super) fn work(&self, state: &mut State, step: Step) {
        match step {
            Step::Begin(index, machine) => {
                let number = state.machines[machine].highest();
                let base = state.machines[machine].manifest(number);
                let base = base.expect("it was listed");
                self.begin(state, index, Phase::Listed);
                state.workers[index].making = Some((machine, number + 1, base));
            }
            Step::Collect(index) => self.begin(state, index, Phase::Collecting),
            Step::Make(index, work) => self.make(state, index, work),
            Step::HearOfCreate(index) => self.hear_of_create(state, index),
            Step::ListManifests(index) => self.list_manifests(state, index),
            Step::ListHolds(index) => self.list_holds(state, index),
            Step::Stop(index) => state.stop(index),
            _ => (),
        }
    }

    fn begin(&self, state: &mut State, index: usize, phase: Phase) {
        let holds = state.hold_numbers();
        let worker = &mut state.workers[index];
        worker.phase = phase;
        worker.jobs_left -= 1;
        if !self.rules.holds_listed_last {
            worker.holds = holds;
        }
    }

    /// Uploads what is new and sends the create. What it would repack may be gone by now: then it gives up.
    fn make(&self, state: &mut State, index: usize, work: Work) {
        let worker = &mut state.workers[index];
        let (machine, number, base) = worker.making.expect("it was listed");
        let maker = (u8::try_from(index).expect("few workers"), worker.jobs_left);
        let maker = if self.rules.names_are_fresh {
            maker
        } else {
            (0, 0)
        };
        let name = Name { number, maker };
        let mut places = base.layer.map_or([None; PIECES], |layer| layer.places);
        match work {
            Work::Keep => (),
            Work::Fold(without) => {
                let wanted = |piece: &usize| names(*piece, machine) && without != Some(*piece);
                let wanted = (0..PIECES).filter(wanted);
                wanted.for_each(|piece| places[piece] = Some(Place::Journal));
            }
            Work::Prune(piece) => places[piece] = None,
            Work::Repack(piece) => {
                if !state.objects[piece] {
                    state.stop(index);
                    return;
                }
                places[piece] = Some(Place::Pack(name));
                let packs = &mut state.machines[machine].packs;
                if packs.iter().all(|(pack, _)| *pack != name) {
                    packs.push((name, piece));
                }
            }
        }
        let layer = match work {
            Work::Keep => base.layer,
            _ if places == [None; PIECES] => None,
            _ => Some(Layer { name, places }),
        };
        let manifest = Manifest {
            passed: true,
            layer,
        };
        let stored = &mut state.machines[machine];
        if let Some(layer) = layer
            && work != Work::Keep
            && !stored.layers.contains(&layer)
        {
            stored.layers.push(layer);
        }
        stored.sent.push((number, manifest));
        let worker = &mut state.workers[index];
        worker.making = Some((machine, number, manifest));
        worker.phase = Phase::Sent;
    }

    fn hear_of_create(&self, state: &mut State, index: usize) {
        let making = state.workers[index].making;
        let (machine, number, manifest) = making.expect("it was sent");
        state.machines[machine].create(number, manifest);
        let own = state.machines[machine].manifest(number) == Some(manifest);
        if !own {
            state.stop(index);
            return;
        }
        let worker = &mut state.workers[index];
        worker.phase = Phase::Collecting;
        if !self.rules.listed_again {
            worker.newest[machine] = Some((number, manifest));
        }
    }

    /// Lists the next machine's manifests. Whose own manifest is not the highest has lost (R17).
    fn list_manifests(&self, state: &mut State, index: usize) {
        let worker = &mut state.workers[index];
        let next = worker.newest.iter().position(Option::is_none);
        let machine = next.expect("a machine is left");
        let stored = &state.machines[machine];
        let highest = stored.highest();
        let lost = |(own, number, _): (usize, u8, Manifest)| own == machine && number < highest;
        if worker.making.is_some_and(lost) {
            state.stop(index);
            return;
        }
        let manifest = stored.manifest(highest).expect("it was listed");
        worker.newest[machine] = Some((highest, manifest));
    }

    fn list_holds(&self, state: &mut State, index: usize) {
        let holds = state.hold_numbers();
        let worker = &mut state.workers[index];
        if self.rules.holds_listed_last {
            worker.holds = holds;
        }
        let stored = &state.machines[0];
        let (newest, _) = worker.newest[0].expect("it was listed");
        let kept = |number: &u8| {
            let mut holds = worker.holds.iter();
            *number < newest && holds.any(|named| self.holds.keep(*named, *number))
        };
        let held = stored.numbers().filter(kept);
        worker.held = held
            .filter_map(|number| Some((number, stored.manifest(number)?)))
            .collect();
        worker.making = None;
        worker.holds.clear();
        worker.phase = Phase::Deleting;
    }

    /// What a worker deletes by what it listed; it may have slept since.
    fn deletions(&self, state: &State, index: usize, steps: &mut Vec<Step>) {
        let worker = &state.workers[index];
        for (machine, stored) in state.machines.iter().enumerate() {
            let (newest, _) = worker.newest[machine].expect("it was listed");
            let old = |name: Name| name.number <= newest || !self.rules.only_older_names;
            let held = |number: &u8| {
                let mut held = worker.held.iter();
                self.rules.held_manifests_kept && machine == 0 && held.any(|(had, _)| had == number)
            };
            let numbers = stored.numbers().filter(|number| *number < newest);
            let numbers = numbers.filter(|number| !held(number));
            steps.extend(numbers.map(|number| Step::Delete(Item::Manifest(machine, number))));
            let linked = |linked: &dyn Fn(&Manifest) -> bool| {
                let mut keeping = worker.keeping(machine);
                if self.rules.held_links_kept {
                    keeping.any(|manifest| linked(&manifest))
                } else {
                    keeping.next().is_some_and(|newest| linked(&newest))
                }
            };
            for layer in stored
                .layers
                .iter()
                .copied()
                .filter(|layer| old(layer.name))
            {
                if !linked(&|manifest| manifest.layer == Some(layer)) {
                    steps.push(Step::Delete(Item::Layer(machine, layer)));
                }
            }
            for (name, _) in stored.packs.iter().copied().filter(|pack| old(pack.0)) {
                if !linked(&|manifest| manifest.has_place_in(name)) {
                    steps.push(Step::Delete(Item::Pack(machine, name)));
                }
            }
        }
        self.object_deletions(state, worker, steps);
    }

    fn object_deletions(&self, state: &State, worker: &Worker, steps: &mut Vec<Step>) {
        let passed = |machine: usize| {
            let (_, newest) = worker.newest[machine].expect("it was listed");
            newest.passed
        };
        let mut machines = 0..self.machines;
        let newest_passed = if self.rules.every_machine_passed {
            machines.all(passed)
        } else {
            machines.any(passed)
        };
        let mut held = worker.held.iter();
        let held_passed = !self.rules.held_tail_kept || held.all(|(_, held)| held.passed);
        let linked = |piece: usize| {
            let mut machines = 0..self.machines;
            machines.any(|machine| {
                let mut keeping = worker.keeping(machine).enumerate();
                keeping.any(|(index, manifest)| {
                    let counts = if index == 0 {
                        self.rules.every_machine_unlinked
                    } else {
                        self.rules.held_links_kept
                    };
                    counts && manifest.place(piece) == Some(Place::Journal)
                })
            })
        };
        let there = (0..PIECES).filter(|piece| state.objects[*piece]);
        let dead = there.filter(|piece| newest_passed && held_passed && !linked(*piece));
        for piece in dead {
            steps.push(if state.end || !self.rules.end_first {
                Step::Delete(Item::Object(piece))
            } else {
                Step::CreateEnd
            });
        }
    }
}

impl State {
    /// The worker dies, or has done enough.
    fn stop(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        *worker = Worker::new(worker.jobs_left);
    }
}

/// What can be done on a manifest.
fn works(machine: usize, base: &Manifest) -> Vec<Work> {
    let named = (0..PIECES).filter(|piece| names(*piece, machine));
    if !base.passed {
        let folds = named.map(|piece| Work::Fold(Some(piece)));
        return folds.chain([Work::Fold(None)]).collect();
    }
    let pieces = named.flat_map(|piece| match base.place(piece) {
        None => [None, None],
        Some(Place::Pack(_)) => [Some(Work::Prune(piece)), None],
        Some(Place::Journal) => [Some(Work::Prune(piece)), Some(Work::Repack(piece))],
    });
    pieces.flatten().chain([Work::Keep]).collect()
}
