//! The worlds that are explored: those in which all rules hold, and those in which one is left out.

mod left_out;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::Model;

use super::explore::{Limits, Outcome, explore};
use super::ownership::World;
use super::{
    agents, condemned, disks, folding, group, listing, manifests, origin, pruning, replica,
};

pub use left_out::{left_out, left_out_in_vain};

/// States that each search of the test command makes at most.
const SHORT: Limits = Limits {
    generated_max: 600_000,
    threads: 1,
};
/// The same, of the long run: enough for those that close.
const LONG: Limits = Limits {
    generated_max: 16_500_000,
    threads: 2,
};
/// And for those that do not.
const BOUNDED: Limits = Limits {
    generated_max: 8_500_000,
    threads: 2,
};

/// A world that is to be explored.
pub struct Planned {
    pub name: &'static str,
    /// How large it is, and how many states are made at most.
    pub bounds: String,
    explore: Box<dyn Fn() -> Outcome>,
}

impl Planned {
    fn new<M>(name: &'static str, limits: Limits, model: M) -> Self
    where
        M: Model + Clone + Send + Sync + 'static,
        M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
        M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
    {
        Self {
            name,
            bounds: format!("at most {} states made", limits.generated_max),
            explore: Box::new(move || explore(name, model.clone(), limits)),
        }
    }

    fn of_world(name: &'static str, limits: Limits, world: World) -> Self {
        let size = world.bounds();
        let planned = Self::new(name, limits, world);
        Self {
            bounds: format!("{size}; {}", planned.bounds),
            ..planned
        }
    }

    /// Explores it.
    pub fn explore(&self) -> Outcome {
        (self.explore)()
    }
}

/// Worlds for the test command.
pub fn short_worlds() -> Vec<Planned> {
    let world = |name, world: World| Planned::of_world(name, SHORT, world);
    let mut worlds = own_models(SHORT);
    let small = World::healing;
    worlds.extend([
        world("ownership: hand-over", small().releases(1).seals(1)),
        world("ownership: seals", small().seals(2).crashes(1)),
        world("ownership: release to nobody", small().closings(1).seals(1)),
        world("ownership: resumed", small().resumes(1).seals(1)),
        world("ownership: both lives running", small().clones(1).seals(1)),
        world(
            "ownership: rotation, resumed",
            small().journals(3).rotations(1).resumes(1),
        ),
        world(
            "ownership: deletion and a sleeping reader",
            small().deletions(1).seals(1).readers(1),
        ),
    ]);
    worlds
}

/// Worlds for the long run.
pub fn long_worlds() -> Vec<Planned> {
    let mut worlds = own_models(LONG);
    let more = agents::Agents {
        writes: 3,
        sessions: 4,
        rules: agents::Rules::ALL,
    };
    worlds.push(Planned::new(
        "agents: more writes and sessions",
        BOUNDED,
        more,
    ));
    worlds.extend(pruning_further());
    worlds.extend(of_two_journals());
    worlds.extend(of_more_journals());
    worlds
}

fn pruning_further() -> Vec<Planned> {
    let one_worker = pruning::Pruning {
        machines: 2,
        readers: 1,
        ..pruning::Pruning::SMALL
    };
    let exactly = pruning::Pruning {
        holds: pruning::Holds::Exactly,
        ..one_worker
    };
    let two_workers = pruning::Pruning {
        workers: 2,
        ..one_worker
    };
    let two_readers = pruning::Pruning {
        machines: 1,
        readers: 2,
        jobs: 2,
        ..two_workers
    };
    vec![
        Planned::new("pruning: two machines, a reader", LONG, one_worker),
        Planned::new("pruning: the same, exact holds", LONG, exactly),
        Planned::new("pruning: two machines, two workers", BOUNDED, two_workers),
        Planned::new("pruning: two workers, two readers", BOUNDED, two_readers),
    ]
}

fn of_two_journals() -> Vec<Planned> {
    let world = |name, world: World| Planned::of_world(name, LONG, world);
    let bounded = |name, world: World| Planned::of_world(name, BOUNDED, world);
    let small = World::healing;
    vec![
        world(
            "ownership: release, deletion, reader",
            small().deletions(1).releases(1).seals(1).readers(1),
        ),
        world(
            "ownership: resumed, deletion",
            small().deletions(1).resumes(1).seals(1),
        ),
        world("ownership: both lives running", small().clones(1).seals(1)),
        bounded(
            "ownership: both lives running, deletion",
            small().deletions(1).clones(1).seals(1),
        ),
        bounded(
            "ownership: two writes, resumed",
            small().writes(2).resumes(1).seals(1),
        ),
    ]
}

fn of_more_journals() -> Vec<Planned> {
    let world = |name, world: World| Planned::of_world(name, BOUNDED, world);
    let three = || World::healing().journals(3);
    let four = || World::healing().journals(4);
    vec![
        world(
            "ownership: crash, two seals, deletion",
            three().crashes(1).deletions(1).seals(2),
        ),
        world(
            "ownership: resumed, two seals, deletion",
            three().deletions(1).resumes(1).seals(2),
        ),
        world(
            "ownership: both lives, rotation, deletion",
            three().deletions(1).clones(1).seals(1).rotations(1),
        ),
        world(
            "ownership: rotation, resumed, seals",
            four().rotations(1).resumes(1).seals(1),
        ),
        world(
            "ownership: to nobody, crash, seals, deletion",
            three().closings(1).crashes(1).seals(1).deletions(1),
        ),
        world(
            "ownership: four journals in a row",
            four().objects(1).seals(3).crashes(1),
        ),
        world(
            "ownership: every crash, 4 journals",
            four()
                .writes(2)
                .objects(3)
                .generations(4)
                .crashes(1)
                .losses(1)
                .agent_crashes(1)
                .deletions(1)
                .seals(2),
        ),
        world(
            "ownership: two machines, release, deletion",
            three().machines(2).deletions(1).releases(1).seals(1),
        ),
        world(
            "ownership: 2 machines, 3 servers",
            four()
                .machines(2)
                .servers(3)
                .writes(2)
                .objects(3)
                .crashes(1)
                .rotations(1)
                .deletions(1)
                .releases(2)
                .closings(1)
                .seals(2),
        ),
    ]
}

/// The models beside ownership.
fn own_models(limits: Limits) -> Vec<Planned> {
    let listing = listing::Listings {
        objects: 3,
        rules: listing::Rules::ALL,
    };
    let folding = folding::Folding {
        rules: folding::Rules::ALL,
    };
    let origins = origin::Origins {
        rules: origin::Rules::ALL,
    };
    let disks = disks::Disks {
        writes: 3,
        rules: disks::Rules::ALL,
    };
    let agents = agents::Agents {
        writes: 2,
        sessions: 3,
        rules: agents::Rules::ALL,
    };
    let manifests = manifests::Manifests {
        rules: manifests::Rules::ALL,
    };
    let small = pruning::Pruning::SMALL;
    let shared = pruning::Pruning {
        machines: 2,
        ..small
    };
    let workers = pruning::Pruning {
        workers: 2,
        jobs: 2,
        ..small
    };
    let held = pruning::Pruning {
        readers: 1,
        ..small
    };
    let held_exactly = pruning::Pruning {
        holds: pruning::Holds::Exactly,
        ..held
    };
    let condemned = |resumes| condemned::Condemned {
        objects: 2,
        resumes,
        rules: condemned::Rules::ALL,
    };
    let replica = replica::Replica {
        rules: replica::Rules::ALL,
    };
    let group = group::Group {
        rules: group::Rules::ALL,
    };
    vec![
        Planned::new("listing: pages, two sealers, deletion", limits, listing),
        Planned::new("folding: part of a journal, two lives", limits, folding),
        Planned::new("origin: two servers at once", limits, origins),
        Planned::new("disks: two, one order, one cut", limits, disks),
        Planned::new("agents: rolled back, both lives running", limits, agents),
        Planned::new("manifests: two workers", limits, manifests),
        Planned::new("pruning: two machines share objects", limits, shared),
        Planned::new("pruning: two workers", limits, workers),
        Planned::new("pruning: a reader that holds", limits, held),
        Planned::new("pruning: a reader, exact holds", limits, held_exactly),
        Planned::new("condemned lists: two journals", limits, condemned(false)),
        Planned::new("condemned lists: a life resumed", limits, condemned(true)),
        Planned::new("replica: two servers, late puts", limits, replica),
        Planned::new("group points: two members, two marks", limits, group),
    ]
}
