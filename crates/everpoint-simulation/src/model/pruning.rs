//! Deletion where map layers have places in journal objects (R13, R16 to R18) and readers hold.
//!
//! The product has no manifests yet; the model has the rules by itself. One sealed journal of two objects, the
//! pieces: the first names every machine, the second only machine 0. A machine's manifest has passed the journal or
//! not, and links one layer, which says where each piece is that the machine still keeps: in the journal, or in a
//! pack. Workers fold, prune, repack, and collect; a create that was sent may arrive at any later time, and whoever
//! works, reads or deletes may sleep at any step, for ever.
//!
//! What may be deleted follows from three things, in this order: the newest manifest of every machine, as listed;
//! the holds, listed *after* that; the older manifests that a hold keeps. A manifest that is held keeps what it
//! links, and the journals that it has not passed. So nobody needs to know since when something is not linked. That a
//! taken name begins again (R16) is not left out here: who deletes by what was listed does not need it (`manifests.rs`
//! has it).

mod readers;
mod workers;

use stateright::{Model, Property};

use readers::{Reader, Reading};
use workers::Worker;

const MACHINES_MAX: usize = 2;
const PIECES: usize = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pruning {
    pub(crate) machines: usize,
    pub(crate) workers: usize,
    /// Each reads machine 0.
    pub(crate) readers: usize,
    /// Manifests of each machine.
    pub(crate) numbers_max: u8,
    /// Of each worker: manifests made, or collections.
    pub(crate) jobs: u8,
    pub(crate) holds: Holds,
    pub(crate) rules: Rules,
}

impl Pruning {
    pub(crate) const SMALL: Self = Self {
        machines: 1,
        workers: 1,
        readers: 0,
        numbers_max: 3,
        jobs: 3,
        holds: Holds::From,
        rules: Rules::ALL,
    };
}

/// What a hold keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holds {
    /// Manifests from the number that it names on; its reader reads the highest of them.
    From,
    /// That manifest alone; its reader begins again if another one is the highest by then.
    Exactly,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// R13: the newest manifest of every machine that the journal names has passed it.
    pub(crate) every_machine_passed: bool,
    /// R13: no layer of these manifests has a place in the object.
    pub(crate) every_machine_unlinked: bool,
    /// R13: `end` is created before the first deletion.
    pub(crate) end_first: bool,
    /// R17: after the create it lists again, and deletes only as the newest, by what it listed.
    pub(crate) listed_again: bool,
    /// R18: only layers and packs that are named after the newest manifest's number or a lower one.
    pub(crate) only_older_names: bool,
    /// No two makers give one name.
    pub(crate) names_are_fresh: bool,
    /// A reader lists manifests again after its hold was created.
    pub(crate) listed_after_hold: bool,
    /// A worker lists holds after the manifests that it goes by.
    pub(crate) holds_listed_last: bool,
    /// An older manifest that is held is not deleted.
    pub(crate) held_manifests_kept: bool,
    /// Nor what it links.
    pub(crate) held_links_kept: bool,
    /// Nor what lies in a journal that it has not passed.
    pub(crate) held_tail_kept: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        every_machine_passed: true,
        every_machine_unlinked: true,
        end_first: true,
        listed_again: true,
        only_older_names: true,
        names_are_fresh: true,
        listed_after_hold: true,
        holds_listed_last: true,
        held_manifests_kept: true,
        held_links_kept: true,
        held_tail_kept: true,
    };
}

/// What a layer or a pack is called: the number that its maker meant to create, and who made it in which job, which
/// stands for random bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Name {
    number: u8,
    maker: (u8, u8),
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Place {
    Journal,
    Pack(Name),
}

/// Where each piece is that the layer still has.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Layer {
    name: Name,
    places: [Option<Place>; PIECES],
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Manifest {
    passed: bool,
    layer: Option<Layer>,
}

/// The vault's part of one machine.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Machine {
    /// By number from 1.
    manifests: Vec<Option<Manifest>>,
    layers: Vec<Layer>,
    /// And the piece that each has.
    packs: Vec<(Name, usize)>,
    /// Creates that were sent.
    sent: Vec<(u8, Manifest)>,
    /// The highest number that there ever was.
    newest: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    objects: [bool; PIECES],
    end: bool,
    machines: Vec<Machine>,
    workers: Vec<Worker>,
    readers: Vec<Reader>,
    pack_deleted: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// A worker begins a manifest of a machine.
    Begin(usize, usize),
    /// It uploads what is new and sends the create.
    Make(usize, Work),
    HearOfCreate(usize),
    /// It begins to collect, without a manifest of its own.
    Collect(usize),
    ListManifests(usize),
    ListHolds(usize),
    CreateEnd,
    Delete(Item),
    Stop(usize),
    ArriveLate(usize, u8, Manifest),
    /// A reader lists manifests.
    List(usize),
    CreateHold(usize),
    ListAgain(usize),
    ReadManifest(usize),
    ReadLayer(usize),
    ReadPiece(usize, usize),
    EndHold(usize),
    Lapse(usize),
}

/// What the next manifest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    /// Takes the journal in, but for a piece that is already to be forgotten.
    Fold(Option<usize>),
    /// Links what the one before linked.
    Keep,
    /// Forgets a piece.
    Prune(usize),
    /// Moves a piece from the journal into a pack.
    Repack(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Item {
    Object(usize),
    Manifest(usize, u8),
    Layer(usize, Layer),
    Pack(usize, Name),
}

/// Whether an object of the journal names the machine.
const fn names(piece: usize, machine: usize) -> bool {
    piece == 0 || machine == 0
}

impl Machine {
    fn manifest(&self, number: u8) -> Option<Manifest> {
        *self.manifests.get(usize::from(number) - 1)?
    }

    fn numbers(&self) -> impl Iterator<Item = u8> {
        let numbers = (1..).zip(&self.manifests);
        numbers.filter_map(|(number, manifest)| manifest.map(|_| number))
    }

    fn highest(&self) -> u8 {
        let highest = self.numbers().max();
        highest.expect("the newest manifest is never deleted")
    }

    fn create(&mut self, number: u8, manifest: Manifest) {
        let index = usize::from(number) - 1;
        if self.manifests.len() <= index {
            self.manifests.resize(index + 1, None);
        }
        self.manifests[index].get_or_insert(manifest);
        self.newest = self.newest.max(number);
    }
}

impl Manifest {
    fn place(&self, piece: usize) -> Option<Place> {
        self.layer.and_then(|layer| layer.places[piece])
    }

    fn has_place_in(&self, name: Name) -> bool {
        (0..PIECES).any(|piece| self.place(piece) == Some(Place::Pack(name)))
    }
}

impl State {
    /// The piece whose bytes are found there.
    fn bytes_at(&self, machine: usize, piece: usize, place: Place) -> Option<usize> {
        match place {
            Place::Journal => self.objects[piece].then_some(piece),
            Place::Pack(name) => {
                let packs = &self.machines[machine].packs;
                let pack = packs.iter().find(|(pack, _)| *pack == name);
                pack.map(|(_, piece)| *piece)
            }
        }
    }

    /// Whether all that the manifest stands for is there: what it links, and the journal if it has not passed it.
    fn is_whole(&self, machine: usize, manifest: &Manifest) -> bool {
        if !manifest.passed {
            let mut pieces = (0..PIECES).filter(|piece| names(*piece, machine));
            // Where `end` stands nothing of the journal counts that no manifest has (R14).
            return !self.end && pieces.all(|piece| self.objects[piece]);
        }
        let Some(layer) = manifest.layer else {
            return true;
        };
        let layer_there = self.machines[machine].layers.contains(&layer);
        let mut places = (0..PIECES).filter_map(|piece| Some((piece, layer.places[piece]?)));
        layer_there && places.all(|(piece, at)| self.bytes_at(machine, piece, at) == Some(piece))
    }

    fn delete(&mut self, item: Item) {
        match item {
            Item::Object(piece) => self.objects[piece] = false,
            Item::Manifest(machine, number) => {
                self.machines[machine].manifests[usize::from(number) - 1] = None;
            }
            Item::Layer(machine, layer) => {
                self.machines[machine].layers.retain(|had| *had != layer);
            }
            Item::Pack(machine, name) => {
                self.machines[machine].packs.retain(|had| had.0 != name);
                self.pack_deleted = true;
            }
        }
    }
}

impl Model for Pruning {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let first = Manifest {
            passed: false,
            layer: None,
        };
        let machine = Machine {
            manifests: vec![Some(first)],
            newest: 1,
            ..Machine::default()
        };
        vec![State {
            objects: [true; PIECES],
            end: false,
            machines: vec![machine; self.machines],
            workers: vec![Worker::new(self.jobs); self.workers],
            readers: vec![Reader::default(); self.readers],
            pack_deleted: false,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for worker in 0..self.workers {
            self.worker_steps(state, worker, steps);
        }
        for reader in 0..self.readers {
            Self::reader_steps(state, reader, steps);
        }
        for (machine, stored) in state.machines.iter().enumerate() {
            let absent = |sent: &&(u8, Manifest)| stored.manifest(sent.0).is_none();
            let late = stored.sent.iter().filter(absent);
            steps.extend(
                late.map(|(number, manifest)| Step::ArriveLate(machine, *number, *manifest)),
            );
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Begin(..)
            | Step::Make(..)
            | Step::HearOfCreate(_)
            | Step::Collect(_)
            | Step::ListManifests(_)
            | Step::ListHolds(_)
            | Step::Stop(_) => self.work(&mut state, step),
            Step::CreateEnd => state.end = true,
            Step::Delete(item) => state.delete(item),
            Step::ArriveLate(machine, number, manifest) => {
                state.machines[machine].create(number, manifest);
            }
            _ => self.read(&mut state, step),
        }
        for machine in &mut state.machines {
            machine.layers.sort_unstable();
            machine.packs.sort_unstable();
            machine.sent.sort_unstable();
            machine.sent.dedup();
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(
                "the newest manifest stays the newest",
                |_, state: &State| {
                    let mut machines = state.machines.iter();
                    machines.all(|machine| machine.highest() == machine.newest)
                },
            ),
            Property::always(
                "what the newest manifests link is there",
                |_, state: &State| {
                    let mut machines = state.machines.iter().enumerate();
                    machines.all(|(machine, stored)| {
                        let newest = stored.manifest(stored.highest()).expect("the highest");
                        state.is_whole(machine, &newest)
                    })
                },
            ),
            Property::always("where an object is gone `end` is", |_, state: &State| {
                state.end || state.objects.iter().all(|object| *object)
            }),
            Property::always("readers read what is true", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::sometimes("one object is deleted alone", |_, state: &State| {
                state.objects == [false, true]
            }),
            Property::sometimes("all objects are deleted", |_, state: &State| {
                state.objects == [false, false]
            }),
            Property::sometimes("a pack is deleted", |_, state: &State| state.pack_deleted),
        ];
        if 0 < self.readers {
            properties.extend([
                Property::sometimes("a hold outlasts its manifest", |_, state: &State| {
                    let newest = state.machines[0].newest;
                    let mut readers = state.readers.iter();
                    readers.any(
                        |reader| matches!(reader.reading, Reading::Done(number) if number < newest),
                    )
                }),
                Property::sometimes("a hold lapses and its reader fails", |_, state: &State| {
                    let failed = |reader: &Reader| reader.reading == Reading::Failed;
                    state.readers.iter().any(failed)
                }),
            ]);
        }
        properties
    }
}
