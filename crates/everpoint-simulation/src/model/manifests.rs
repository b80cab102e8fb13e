//! Manifests and layers (R16 to R18): retention has no owner, and several work at once.
//!
//! The product has no manifests yet; the model has the rules by itself. A layer is named after the number
//! that its maker meant to create a manifest under. A create that was sent may arrive at any later time.

use stateright::{Model, Property};

const WORKERS: usize = 2;
const NUMBERS_MAX: u8 = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Manifests {
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// R16: a manifest is built on the highest that was listed after all before it.
    pub(crate) name_taken_begins_again: bool,
    /// R17: after the create it lists again, and deletes only as the newest.
    pub(crate) listed_again: bool,
    /// R18: only layers that are named after its number or a lower one.
    pub(crate) only_older_names: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        name_taken_begins_again: true,
        listed_again: true,
        only_older_names: true,
    };
}

/// One bit a layer: see [`layer`].
type Layers = u16;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    /// By number from 1: what the manifest links, where there is one.
    manifests: Vec<Option<Layers>>,
    layers: Layers,
    workers: [Worker; WORKERS],
    /// Creates that were sent: number, links.
    sent: Vec<(u8, Layers)>,
    /// The highest number that there ever was.
    newest: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Worker {
    phase: Phase,
    /// Of the manifest that it works on.
    number: u8,
    links: Layers,
    jobs_left: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Idle,
    Listed,
    Uploaded,
    Sent,
    Won,
    Deleting,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    List(usize),
    Upload(usize),
    /// Adds its layer to those before, or merges all into it.
    Send(usize, bool),
    HearOfCreate(usize),
    ListAgain(usize),
    DeleteLayer(usize, u8),
    DeleteManifest(usize, u8),
    Stop(usize),
    ArriveLate(u8, Layers),
}

/// The layer that a worker uploads for a manifest.
const fn layer(number: u8, worker: usize) -> Layers {
    1 << ((number as usize - 1) * WORKERS + worker)
}

/// The number that a layer is named after.
fn named_after(layer: u8) -> u8 {
    layer / u8::try_from(WORKERS).expect("few workers") + 1
}

impl State {
    fn manifest(&self, number: u8) -> Option<Layers> {
        *self.manifests.get(usize::from(number) - 1)?
    }

    fn highest(&self) -> u8 {
        let numbers = (1..).zip(&self.manifests);
        let there = numbers.filter_map(|(number, manifest)| manifest.map(|_| number));
        there.max().expect("the newest manifest is never deleted")
    }

    fn create(&mut self, number: u8, links: Layers) {
        let index = usize::from(number) - 1;
        if self.manifests.len() <= index {
            self.manifests.resize(index + 1, None);
        }
        if self.manifests[index].is_none() {
            self.manifests[index] = Some(links);
            self.newest = self.newest.max(number);
        }
    }
}

impl Model for Manifests {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let first = layer(1, 0);
        let idle = Worker {
            phase: Phase::Idle,
            number: 0,
            links: 0,
            jobs_left: 2,
        };
        vec![State {
            manifests: vec![Some(first)],
            layers: first,
            workers: [idle; WORKERS],
            sent: Vec::new(),
            newest: 1,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (index, worker) in state.workers.iter().enumerate() {
            match worker.phase {
                Phase::Idle if 0 < worker.jobs_left && state.highest() < NUMBERS_MAX => {
                    steps.push(Step::List(index));
                }
                Phase::Idle => (),
                Phase::Listed => steps.push(Step::Upload(index)),
                Phase::Uploaded => {
                    steps.extend([Step::Send(index, true), Step::Send(index, false)])
                }
                Phase::Sent => steps.push(Step::HearOfCreate(index)),
                Phase::Won => steps.push(Step::ListAgain(index)),
                Phase::Deleting => self.deletions(state, index, steps),
            }
            if worker.phase != Phase::Idle {
                steps.push(Step::Stop(index));
            }
        }
        let absent = state
            .sent
            .iter()
            .filter(|sent| state.manifest(sent.0).is_none());
        steps.extend(absent.map(|(number, links)| Step::ArriveLate(*number, *links)));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let highest = state.highest();
        match step {
            Step::List(index) => {
                let worker = &mut state.workers[index];
                worker.phase = Phase::Listed;
                worker.number = highest + 1;
                worker.links = last.manifest(highest).expect("it was listed");
                worker.jobs_left -= 1;
            }
            Step::Upload(index) => {
                state.layers |= layer(state.workers[index].number, index);
                state.workers[index].phase = Phase::Uploaded;
            }
            Step::Send(index, adds) => {
                let worker = &mut state.workers[index];
                let own = layer(worker.number, index);
                worker.links = if adds { worker.links | own } else { own };
                worker.phase = Phase::Sent;
                state.sent.push((worker.number, worker.links));
            }
            Step::HearOfCreate(index) => self.hear_of_create(&mut state, index),
            Step::ListAgain(index) => {
                let worker = &mut state.workers[index];
                let lost = self.rules.listed_again && worker.number < highest;
                worker.phase = if lost { Phase::Idle } else { Phase::Deleting };
            }
            Step::DeleteLayer(_, layer) => state.layers &= !(1 << layer),
            Step::DeleteManifest(_, number) => state.manifests[usize::from(number) - 1] = None,
            Step::Stop(index) => state.workers[index].phase = Phase::Idle,
            Step::ArriveLate(number, links) => state.create(number, links),
        }
        for worker in &mut state.workers {
            if worker.phase == Phase::Idle {
                (worker.number, worker.links) = (0, 0);
            }
        }
        state.sent.sort_unstable();
        state.sent.dedup();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the newest manifest stays the newest",
                |_, state: &State| state.highest() == state.newest,
            ),
            Property::always(
                "the newest manifest links what is there",
                |_, state: &State| {
                    let links = state.manifest(state.highest()).expect("the highest");
                    links & !state.layers == 0
                },
            ),
            Property::sometimes("a layer was deleted", |_, state: &State| {
                state.layers & layer(1, 0) == 0
            }),
            Property::sometimes("four manifests were made", |_, state: &State| {
                state.newest == NUMBERS_MAX
            }),
        ]
    }
}

impl Manifests {
    fn hear_of_create(&self, state: &mut State, index: usize) {
        let Worker { number, links, .. } = state.workers[index];
        state.create(number, links);
        let own = state.manifest(number) == Some(links);
        let goes_on = own || !self.rules.name_taken_begins_again;
        state.workers[index].phase = if goes_on { Phase::Won } else { Phase::Idle };
    }

    /// What a worker deletes that takes its manifest for the newest; it may have slept since.
    fn deletions(&self, state: &State, index: usize, steps: &mut Vec<Step>) {
        let worker = &state.workers[index];
        for layer in 0..16 {
            let there = state.layers & (1 << layer) != 0;
            let unlinked = worker.links & (1 << layer) == 0;
            let old = named_after(layer) <= worker.number || !self.rules.only_older_names;
            if there && unlinked && old {
                steps.push(Step::DeleteLayer(index, layer));
            }
        }
        let below = (1..worker.number).filter(|number| state.manifest(*number).is_some());
        steps.extend(below.map(|number| Step::DeleteManifest(index, number)));
    }
}
