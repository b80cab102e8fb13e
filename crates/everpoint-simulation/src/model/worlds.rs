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
    let mut worlds = own_models(600_000, 1);
    worlds.extend(short_ownership());
    worlds
}

/// Worlds for the long run.
pub fn long_worlds() -> Vec<Planned> {
    let mut worlds = own_models(30_000_000, 2);
    worlds.push(planned!(
        "agents: more writes and sessions",
        LONG,
        2,
        agents::Agents {
            writes: 3,
            sessions: 4,
            rules: agents::Rules::ALL,
        }
    ));
    worlds.extend(long_ownership());
    worlds
}

/// The models beside ownership, each with as many states as it is given.
fn own_models(generated_max: usize, threads: usize) -> Vec<Planned> {
    vec![
        planned!(
            "listing: pages, two sealers, deletion",
            generated_max,
            threads,
            listing::Listings {
                objects: 3,
                rules: listing::Rules::ALL,
            }
        ),
        planned!(
            "folding: part of a journal, two lives",
            generated_max,
            threads,
            folding::Folding {
                rules: folding::Rules::ALL,
            }
        ),
        planned!(
            "origin: two servers at once",
            generated_max,
            threads,
            origin::Origins {
                rules: origin::Rules::ALL,
            }
        ),
        planned!(
            "disks: two, one order, one cut",
            generated_max,
            threads,
            disks::Disks {
                writes: 3,
                rules: disks::Rules::ALL,
            }
        ),
        planned!(
            "agents: rolled back, both lives running",
            generated_max,
            threads,
            agents::Agents {
                writes: 2,
                sessions: 3,
                rules: agents::Rules::ALL,
            }
        ),
        planned!(
            "manifests: two workers",
            generated_max,
            threads,
            manifests::Manifests {
                rules: manifests::Rules::ALL,
            }
        ),
        planned!(
            "condemned lists: two journals",
            generated_max,
            threads,
            condemned::Condemned {
                objects: 2,
                resumes: false,
                rules: condemned::Rules::ALL,
            }
        ),
        planned!(
            "condemned lists: a life resumed",
            generated_max,
            threads,
            condemned::Condemned {
                objects: 2,
                resumes: true,
                rules: condemned::Rules::ALL,
            }
        ),
        planned!(
            "replica: two servers, late puts",
            generated_max,
            threads,
            replica::Replica {
                rules: replica::Rules::ALL,
            }
        ),
        planned!(
            "group points: two members, two marks",
            generated_max,
            threads,
            group::Group {
                rules: group::Rules::ALL,
            }
        ),
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
        planned!(
            "ownership: hand-over",
            600_000,
            1,
            world! {
                heals: true; faults { releases: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: seals",
            600_000,
            1,
            world! {
                heals: true; faults { seals: 2, crashes: 1 }
            }
        ),
        planned!(
            "ownership: release to nobody",
            600_000,
            1,
            world! {
                heals: true; faults { closings: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: resumed",
            600_000,
            1,
            world! {
                heals: true; faults { resumes: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: both lives running",
            600_000,
            1,
            world! {
                heals: true; faults { clones: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: rotation, resumed",
            600_000,
            1,
            world! {
                journals: 3, heals: true; faults { rotations: 1, resumes: 1 }
            }
        ),
        planned!(
            "ownership: deletion and a sleeping reader",
            600_000,
            1,
            world! {
                heals: true; faults { deletions: 1, seals: 1, readers: 1 }
            }
        ),
    ]
}

/// States that each bounded world of the long run makes.
const LONG: usize = 12_000_000;

fn long_ownership() -> Vec<Planned> {
    let mut worlds = long_one_machine();
    worlds.extend(long_more());
    worlds
}

fn long_one_machine() -> Vec<Planned> {
    vec![
        planned!(
            "ownership: release, deletion, reader",
            LONG,
            2,
            world! {
                heals: true; faults { deletions: 1, releases: 1, seals: 1, readers: 1 }
            }
        ),
        planned!(
            "ownership: crash, two seals, deletion",
            LONG,
            2,
            world! {
                journals: 3, heals: true; faults { crashes: 1, deletions: 1, seals: 2 }
            }
        ),
        planned!(
            "ownership: resumed, deletion",
            LONG,
            2,
            world! {
                heals: true; faults { deletions: 1, resumes: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: resumed, two seals, deletion",
            LONG,
            2,
            world! {
                journals: 3, heals: true; faults { deletions: 1, resumes: 1, seals: 2 }
            }
        ),
        planned!(
            "ownership: both lives running, deletion",
            LONG,
            2,
            world! {
                heals: true; faults { deletions: 1, clones: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: both lives, rotation, deletion",
            LONG,
            2,
            world! {
                journals: 3, heals: true; faults { deletions: 1, clones: 1, seals: 1, rotations: 1 }
            }
        ),
        planned!(
            "ownership: rotation, resumed, seals",
            LONG,
            2,
            world! {
                journals: 4, heals: true; faults { rotations: 1, resumes: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: to nobody, crash, seals, deletion",
            LONG,
            2,
            world! {
                journals: 3, heals: true; faults { closings: 1, crashes: 1, seals: 1, deletions: 1 }
            }
        ),
    ]
}

fn long_more() -> Vec<Planned> {
    vec![
        planned!(
            "ownership: every crash, 4 journals",
            LONG,
            2,
            world! {
                writes: 2, journals: 4, objects: 3, generations: 4, heals: true;
                faults { crashes: 1, losses: 1, agent_crashes: 1, deletions: 1, seals: 2 }
            }
        ),
        planned!(
            "ownership: four journals in a row",
            LONG,
            2,
            world! {
                journals: 4, objects: 1, heals: true; faults { seals: 3, crashes: 1 }
            }
        ),
        planned!(
            "ownership: two machines, release, deletion",
            LONG,
            2,
            world! {
                machines: 2, journals: 3, heals: true; faults { deletions: 1, releases: 1, seals: 1 }
            }
        ),
        planned!(
            "ownership: 2 machines, 3 servers",
            LONG,
            2,
            world! {
                machines: 2, servers: 3, journals: 4, writes: 2, objects: 3, heals: true;
                faults { deletions: 1, releases: 2, closings: 1, seals: 2, crashes: 1, rotations: 1 }
            }
        ),
    ]
}

macro_rules! left_out {
    ($rule:literal, $model:expr) => {
        left_out!($rule, 8_000_000, $model)
    };
    ($rule:literal, $generated_max:expr, $model:expr) => {
        LeftOut {
            rule: $rule,
            world: planned!($rule, $generated_max, 1, $model),
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
        left_out!(
            "R2 levels rise",
            world! {
                journals: 3, heals: true, rules: without(|r| r.levels_rise = false); faults { seals: 3 }
            }
        ),
        left_out!(
            "R3 only a release inside the prefix",
            world! {
                rules: without(|r| r.release_inside_prefix = false); faults { releases: 1, seals: 1 }
            }
        ),
        left_out!(
            "R4 neighbours agree",
            world! {
                writes: 2, rules: without(|r| r.neighbours_agree = false); faults { resumes: 1, seals: 1 }
            }
        ),
        left_out!(
            "R4 a seal states the prefix",
            world! {
                writes: 2, rules: without(|r| r.seal_states_prefix = false); faults { resumes: 1, seals: 1 }
            }
        ),
        left_out!(
            "R4 a seal leads on behind a disagreement",
            world! {
                writes: 2, heals: true, rules: without(|r| r.sealed_leads_on = false); faults { resumes: 1, seals: 1 }
            }
        ),
        left_out!(
            "R5 the seal goes into the first gap",
            world! {
                writes: 2, heals: true, rules: without(|r| r.seal_in_first_gap = false); faults { seals: 1 }
            }
        ),
        left_out!(
            "R6 the path is read after the seal",
            world! {
                journals: 3, rules: without(|r| r.path_is_read = false); faults { seals: 2, deletions: 1 }
            }
        ),
        left_out!(
            "R6 a rotation compares",
            world! {
                journals: 3, rules: without(|r| r.rotation_compares = false); faults { rotations: 1, resumes: 1 }
            }
        ),
        left_out!(
            "R7 what is cached goes in before the release",
            world! {
                rules: without(|r| r.release_comes_last = false); faults { releases: 1 }
            }
        ),
        left_out!(
            "R7 released for ever",
            world! {
                rules: without(|r| r.released_for_ever = false); faults { releases: 1, seals: 1 }
            }
        ),
        left_out!(
            "R9 an existing object is compared",
            world! {
                rules: without(|r| r.existing_compared = false); faults { seals: 1 }
            }
        ),
        left_out!(
            "R10 committed moves without gaps",
            world! {
                writes: 2, rules: without(|r| r.gapless = false); faults { seals: 1 }
            }
        ),
        left_out!(
            "R10 `end` is asked for: never",
            world! {
                in_flight: 1, rules: without(|r| r.end_question = EndQuestion::Never); faults { deletions: 1, seals: 1, resumes: 1 }
            }
        ),
        left_out!(
            "R10 `end` is asked for: at hello only",
            world! {
                rules: without(|r| r.end_question = EndQuestion::AtHello); faults { deletions: 1, seals: 1, resumes: 1 }
            }
        ),
        left_out!(
            "R11 what was inherited is stated",
            world! {
                heals: true, rules: without(|r| r.inherited_stated = false); faults { seals: 1 }
            }
        ),
        left_out!(
            "R13 only sealed journals",
            world! {
                machines: 2, rules: without(|r| {
                    r.only_sealed_deleted = false;
                    r.end_first = false;
                    r.end_question = EndQuestion::Never;
                }); faults { deletions: 2, releases: 1, seals: 1 }
            }
        ),
        left_out!(
            "R13 every manifest has passed",
            world! {
                machines: 2, rules: without(|r| r.every_manifest_passed = false); faults { deletions: 1, seals: 1 }
            }
        ),
        left_out!(
            "R13 `end` comes first",
            world! {
                rules: without(|r| {
                    r.end_first = false;
                    r.end_question = EndQuestion::Never;
                }); faults { deletions: 1, seals: 1, readers: 1 }
            }
        ),
        left_out!(
            "R14 the manifest is read again",
            world! {
                rules: without(|r| r.manifest_read_again = false); faults { deletions: 1, seals: 1, readers: 1 }
            }
        ),
    ]
}

macro_rules! without {
    ($module:ident, $($field:ident),+) => {
        $module::Rules { $($field: false,)+ ..$module::Rules::ALL }
    };
}

fn others_left_out() -> Vec<LeftOut> {
    let listing = |rules| listing::Listings { objects: 2, rules };
    let folding = |rules| folding::Folding { rules };
    let origins = |rules| origin::Origins { rules };
    let disks = |rules| disks::Disks { writes: 3, rules };
    let agents = |rules| agents::Agents {
        writes: 3,
        sessions: 4,
        rules,
    };
    let manifests = |rules| manifests::Manifests { rules };
    let condemned = |rules| condemned::Condemned {
        objects: 2,
        resumes: false,
        rules,
    };
    let replica = |rules| replica::Replica { rules };
    let group = |rules| group::Group { rules };
    vec![
        left_out!(
            "R5 a name that was taken is looked at",
            listing(without!(listing, taken_is_looked_at))
        ),
        left_out!(
            "a position keeps its checksum",
            folding(without!(folding, checksum_kept))
        ),
        left_out!(
            "only the prefix is folded",
            folding(without!(folding, only_prefix_folded))
        ),
        left_out!(
            "R13 nothing is deleted in a live journal",
            folding(without!(folding, nothing_deleted))
        ),
        left_out!(
            "an origin that is there is followed",
            origins(without!(origin, taken_is_followed))
        ),
        left_out!(
            "complete_through is true",
            disks(without!(disks, promises_hold))
        ),
        left_out!(
            "order and place are one step",
            disks(without!(disks, order_and_place_together))
        ),
        left_out!(
            "the cut is the least of the disks'",
            disks(without!(disks, cut_is_least))
        ),
        left_out!(
            "empty blocks lift the cut",
            disks(without!(disks, empty_blocks))
        ),
        left_out!(
            "what the server changed is sent again",
            agents(without!(agents, changed_after_sent))
        ),
        left_out!(
            "what is sent again is dirty again",
            agents(without!(agents, sent_again_is_dirty))
        ),
        left_out!(
            "an agent goes on in its own past only",
            agents(without!(agents, own_past_only))
        ),
        left_out!(
            "bits are cleared when committed",
            agents(without!(agents, cleared_when_committed))
        ),
        left_out!(
            "bits are cleared when flushed",
            agents(without!(agents, cleared_when_flushed))
        ),
        left_out!(
            "R16 a name that was taken begins again",
            manifests(without!(manifests, name_taken_begins_again))
        ),
        left_out!(
            "R17 lists again",
            manifests(without!(manifests, listed_again))
        ),
        left_out!(
            "R18 only layers named below",
            manifests(without!(manifests, only_older_names))
        ),
        left_out!(
            "R15 object 1 refers to nothing",
            condemned(without!(condemned, first_refers_to_nothing))
        ),
        left_out!(
            "R15 lists are read after object 1",
            condemned(without!(condemned, read_after_first))
        ),
        left_out!(
            "R15 lists are obeyed",
            condemned(without!(condemned, lists_obeyed))
        ),
        left_out!(
            "R15 every journal states the list",
            condemned(without!(condemned, stated_by_all))
        ),
        left_out!(
            "R15 what was referred to is looked for again",
            condemned(without!(condemned, marked_again))
        ),
        left_out!(
            "replica: puts are conditional",
            replica(without!(replica, puts_are_conditional))
        ),
        left_out!(
            "replica: raised after an ambiguous result",
            replica(without!(replica, raised_after_ambiguous))
        ),
        left_out!(
            "replica: raised by the owner only",
            replica(without!(replica, raised_by_owner_only))
        ),
        left_out!(
            "replica: raised with max",
            replica(without!(replica, raised_with_max))
        ),
        left_out!(
            "group: all hold before the release",
            group(without!(group, all_held_before_release))
        ),
        left_out!(
            "group: only who still holds confirms",
            group(without!(group, confirms_only_holding))
        ),
        left_out!(
            "group: a mark is held once",
            group(without!(group, mark_held_once))
        ),
        left_out!("group: all confirm", group(without!(group, all_confirm))),
    ]
}

/// Rules without which nothing was found to fail. R12 keeps an agent from sessions in vain with a server
/// that is fenced and does not know. R5's second listing, and `end` with it, keep a sealer from a create
/// in vain: a number that was emptied takes its seal, but `end` counts, and creating a seal makes nobody
/// owner (R6).
pub fn left_out_in_vain() -> Vec<LeftOut> {
    vec![
        left_out!(
            "R12 lower epochs are refused",
            1_500_000,
            world! {
                journals: 3, heals: true, rules: without(|r| r.epochs_refused = false); faults { seals: 2, agent_crashes: 1 }
            }
        ),
        left_out!(
            "R5 `end` comes with the listing",
            1_500_000,
            listing::Listings {
                objects: 3,
                rules: without!(listing, end_with_listing),
            }
        ),
        left_out!(
            "R5 listed again from the start",
            1_500_000,
            listing::Listings {
                objects: 3,
                rules: without!(listing, again_from_start),
            }
        ),
    ]
}
