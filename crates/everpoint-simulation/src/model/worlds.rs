//! The worlds that are explored: those in which all rules hold, and those in which one is left out.

use super::explore::{Limits, Outcome, explore};
use super::ownership::{EndQuestion, Faults, Rules, World};
use super::{agents, condemned, disks, folding, group, listing, manifests, origin, replica};

/// A world that is to be explored.
pub struct Planned {
    pub name: &'static str,
    run: Box<dyn Fn(Limits) -> Outcome>,
    limits: Limits,
}

/// A world in which one rule is left out, so that something must fail.
pub struct LeftOut {
    /// The rule, as the design numbers it.
    pub rule: &'static str,
    pub world: Planned,
}

impl Planned {
    /// Explores it.
    pub fn explore(&self) -> Outcome {
        (self.run)(self.limits)
    }

    /// Most states that it makes.
    pub const fn generated_max(&self) -> usize {
        self.limits.generated_max
    }
}

macro_rules! planned {
    ($name:literal, $generated_max:expr, $threads:expr, $model:expr) => {{
        let model = $model;
        Planned {
            name: $name,
            run: Box::new(move |limits| explore($name, model.clone(), limits)),
            limits: Limits {
                generated_max: $generated_max,
                threads: $threads,
            },
        }
    }};
}

/// No faults; each world names those that it has.
const NONE: Faults = Faults {
    crashes: 0,
    losses: 0,
    agent_crashes: 0,
    deletions: 0,
    releases: 0,
    closings: 0,
    resumes: 0,
    clones: 0,
    seals: 0,
    rotations: 0,
    readers: 0,
};

/// Two servers, a journal each, one machine, one write.
const SMALL: World = World {
    machines: 1,
    servers: 2,
    writes: 1,
    journals: 2,
    objects: 2,
    in_flight: 2,
    generations: 3,
    faults: NONE,
    rules: Rules::ALL,
    heals: false,
};

/// Worlds for the test command: small ones that are exhausted.
pub fn short_worlds() -> Vec<Planned> {
    let mut worlds = own_models(1);
    worlds.extend(short_ownership());
    worlds
}

/// Worlds for the long run.
pub fn long_worlds() -> Vec<Planned> {
    let mut worlds = own_models(2);
    worlds.extend(long_ownership());
    worlds
}

/// The models beside ownership; all of them close.
fn own_models(threads: usize) -> Vec<Planned> {
    vec![
        planned!("listing: pages, two sealers, deletion", 2_000_000, threads, listing::Listings {
            objects: 3,
            rules: listing::Rules::ALL,
        }),
        planned!("folding: part of a journal, two lives", 4_000_000, threads, folding::Folding {
            rules: folding::Rules::ALL,
        }),
        planned!("origin: two servers at once", 1_000_000, threads, origin::Origins {
            rules: origin::Rules::ALL,
        }),
        planned!("disks: two, one order, one cut", 1_000_000, threads, disks::Disks {
            writes: 3,
            rules: disks::Rules::ALL,
        }),
        planned!("agents: rolled back, both lives running", 2_000_000, threads, agents::Agents {
            rules: agents::Rules::ALL,
        }),
        planned!("manifests: two workers", 4_000_000, threads, manifests::Manifests {
            rules: manifests::Rules::ALL,
        }),
        planned!("condemned lists: two journals", 4_000_000, threads, condemned::Condemned {
            objects: 3,
            resumes: false,
            rules: condemned::Rules::ALL,
        }),
        planned!("condemned lists: a life resumed", 4_000_000, threads, condemned::Condemned {
            objects: 2,
            resumes: true,
            rules: condemned::Rules::ALL,
        }),
        planned!("replica: two servers, late puts", 8_000_000, threads, replica::Replica {
            rules: replica::Rules::ALL,
        }),
        planned!("group points: two members, two marks", 1_000_000, threads, group::Group {
            rules: group::Rules::ALL,
        }),
    ]
}

macro_rules! world {
    ($($field:ident : $value:expr),* ; faults { $($fault:ident : $count:expr),* }) => {
        World {
            $($field: $value,)*
            faults: Faults { $($fault: $count,)* ..NONE },
            ..SMALL
        }
    };
}

fn short_ownership() -> Vec<Planned> {
    vec![
        planned!("ownership: release", 600_000, 1, world! {
            heals: true; faults { releases: 1, seals: 1 }
        }),
        planned!("ownership: seals", 600_000, 1, world! {
            heals: true; faults { seals: 2, crashes: 1 }
        }),
        planned!("ownership: release to nobody", 600_000, 1, world! {
            heals: true; faults { closings: 1, seals: 1 }
        }),
        planned!("ownership: resumed", 600_000, 1, world! {
            heals: true; faults { resumes: 1, seals: 1 }
        }),
        planned!("ownership: both lives running", 600_000, 1, world! {
            heals: true; faults { clones: 1, seals: 1 }
        }),
        planned!("ownership: rotation, resumed", 600_000, 1, world! {
            journals: 3, heals: true; faults { rotations: 1, resumes: 1 }
        }),
        planned!("ownership: deletion and a sleeping reader", 600_000, 1, world! {
            heals: true; faults { deletions: 1, seals: 1, readers: 1 }
        }),
    ]
}

fn long_ownership() -> Vec<Planned> {
    vec![]
}

macro_rules! left_out {
    ($rule:literal, $model:expr) => {
        LeftOut {
            rule: $rule,
            world: planned!($rule, 8_000_000, 1, $model),
        }
    };
}

/// Each rule left out once, in a world where that is seen soon.
pub fn left_out() -> Vec<LeftOut> {
    let mut all = ownership_left_out();
    all.extend(others_left_out());
    all
}

fn without(change: impl Fn(&mut Rules)) -> Rules {
    let mut rules = Rules::ALL;
    change(&mut rules);
    rules
}

fn ownership_left_out() -> Vec<LeftOut> {
    vec![
        left_out!("R2 levels rise", world! {
            journals: 3, heals: true, rules: without(|r| r.levels_rise = false); faults { seals: 3 }
        }),
        left_out!("R3 only a release inside the prefix", world! {
            rules: without(|r| r.release_inside_prefix = false); faults { releases: 1, seals: 1 }
        }),
        left_out!("R4 neighbours agree", world! {
            writes: 2, rules: without(|r| r.neighbours_agree = false); faults { resumes: 1, seals: 1 }
        }),
        left_out!("R4 a seal states the prefix", world! {
            writes: 2, rules: without(|r| r.seal_states_prefix = false); faults { resumes: 1, seals: 1 }
        }),
        left_out!("R4 a seal leads on behind a disagreement", world! {
            writes: 2, heals: true, rules: without(|r| r.sealed_leads_on = false); faults { resumes: 1, seals: 1 }
        }),
        left_out!("R5 the seal goes into the first gap", world! {
            writes: 2, heals: true, rules: without(|r| r.seal_in_first_gap = false); faults { seals: 1 }
        }),
        left_out!("R6 the path is read after the seal", world! {
            journals: 3, rules: without(|r| r.path_is_read = false); faults { seals: 2, deletions: 1 }
        }),
        left_out!("R6 a rotation compares", world! {
            journals: 3, rules: without(|r| r.rotation_compares = false); faults { rotations: 1, resumes: 1 }
        }),
        left_out!("R7 what is cached goes in before the release", world! {
            rules: without(|r| r.release_comes_last = false); faults { releases: 1 }
        }),
        left_out!("R7 released for ever", world! {
            rules: without(|r| r.released_for_ever = false); faults { releases: 1, seals: 1 }
        }),
        left_out!("R9 an existing object is compared", world! {
            rules: without(|r| r.existing_compared = false); faults { seals: 1 }
        }),
        left_out!("R10 committed moves without gaps", world! {
            writes: 2, rules: without(|r| r.gapless = false); faults { seals: 1 }
        }),
        left_out!("R10 `end` is asked for: never", world! {
            in_flight: 1, rules: without(|r| r.end_question = EndQuestion::Never); faults { deletions: 1, seals: 1, resumes: 1 }
        }),
        left_out!("R10 `end` is asked for: at hello only", world! {
            rules: without(|r| r.end_question = EndQuestion::AtHello); faults { deletions: 1, seals: 1, resumes: 1 }
        }),
        left_out!("R11 what was inherited is stated", world! {
            heals: true, rules: without(|r| r.inherited_stated = false); faults { seals: 1 }
        }),
        left_out!("R12 lower epochs are refused", world! {
            journals: 3, rules: without(|r| r.epochs_refused = false); faults { seals: 2, agent_crashes: 1 }
        }),
        left_out!("R13 only sealed journals", world! {
            machines: 2, rules: without(|r| {
                r.only_sealed_deleted = false;
                r.end_first = false;
                r.end_question = EndQuestion::Never;
            }); faults { deletions: 2, releases: 1, seals: 1 }
        }),
        left_out!("R13 every manifest has passed", world! {
            machines: 2, rules: without(|r| r.every_manifest_passed = false); faults { deletions: 1, seals: 1 }
        }),
        left_out!("R13 `end` comes first", world! {
            rules: without(|r| {
                r.end_first = false;
                r.end_question = EndQuestion::Never;
            }); faults { deletions: 1, seals: 1, readers: 1 }
        }),
        left_out!("R14 the manifest is read again", world! {
            rules: without(|r| r.manifest_read_again = false); faults { deletions: 1, seals: 1, readers: 1 }
        }),
    ]
}

fn others_left_out() -> Vec<LeftOut> {
    vec![]
}
