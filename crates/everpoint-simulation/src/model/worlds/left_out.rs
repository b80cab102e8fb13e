//! One rule left out in each world, the smallest in which that is seen.

use super::super::explore::Limits;
use super::super::ownership::{EndQuestion, Rules, World};
use super::super::{
    agents, condemned, disks, folding, group, listing, manifests, origin, pruning, replica,
};
use super::Planned;

/// One thread, so that the trace found is a shortest one.
const LIMITS: Limits = Limits {
    generated_max: 8_000_000,
    threads: 1,
};
/// For searches that are to find nothing.
const LIMITS_IN_VAIN: Limits = Limits {
    generated_max: 1_500_000,
    threads: 1,
};

/// Each rule left out once: something must fail. The name is the rule.
pub fn left_out() -> Vec<Planned> {
    let mut all = owning();
    all.extend(committing());
    all.extend(deleting());
    all.extend(reading());
    all.extend(agents_and_disks());
    all.extend(retention());
    all.extend(deleting_with_places());
    all.extend(holding());
    all.extend(replicas());
    all.extend(groups());
    all
}

/// Rules without which nothing was found to fail. R12 keeps an agent from sessions in vain with a server
/// that is fenced and does not know. R5's second listing, and `end` with it, keep a sealer from a create
/// in vain: a number that was emptied takes its seal, but `end` counts, and creating a seal makes nobody
/// owner (R6).
pub fn left_out_in_vain() -> Vec<Planned> {
    let epochs = World::healing().journals(3).seals(2).agent_crashes(1);
    let epochs = epochs.without(|rules| rules.epochs_refused = false);
    let listing = |rules| listing::Listings { objects: 3, rules };
    let mut with_listing = listing::Rules::ALL;
    with_listing.end_with_listing = false;
    let mut again = listing::Rules::ALL;
    again.again_from_start = false;
    vec![
        Planned::new("R12 lower epochs are refused", LIMITS_IN_VAIN, epochs),
        Planned::new(
            "R5 `end` comes with the listing",
            LIMITS_IN_VAIN,
            listing(with_listing),
        ),
        Planned::new(
            "R5 listed again from the start",
            LIMITS_IN_VAIN,
            listing(again),
        ),
    ]
}

fn of(name: &'static str, world: World, leave_out: fn(&mut Rules)) -> Planned {
    Planned::new(name, LIMITS, world.without(leave_out))
}

fn owning() -> Vec<Planned> {
    let small = World::small;
    let three = || small().journals(3);
    let two_writes = || small().writes(2);
    let healing = World::healing;
    vec![
        of("R2 levels rise", healing().journals(3).seals(3), |rules| {
            rules.levels_rise = false;
        }),
        of(
            "R3 only a release inside the prefix",
            small().releases(1).seals(1),
            |rules| rules.release_inside_prefix = false,
        ),
        of(
            "R4 neighbours agree",
            two_writes().resumes(1).seals(1),
            |rules| rules.neighbours_agree = false,
        ),
        of(
            "R4 a seal states the prefix",
            two_writes().resumes(1).seals(1),
            |rules| rules.seal_states_prefix = false,
        ),
        of(
            "R4 a seal leads on behind a disagreement",
            healing().resumes(1).seals(1),
            |rules| rules.sealed_leads_on = false,
        ),
        of(
            "R5 the seal goes into the first gap",
            healing().writes(2).seals(1),
            |rules| rules.seal_in_first_gap = false,
        ),
        of(
            "R6 the path is read after the seal",
            three().seals(2).deletions(1),
            |rules| rules.path_is_read = false,
        ),
        of(
            "R6 a rotation compares",
            three().rotations(1).resumes(1),
            |rules| rules.rotation_compares = false,
        ),
        of(
            "R7 what is cached goes in before the release",
            small().releases(1),
            |rules| rules.release_comes_last = false,
        ),
        of(
            "R7 released for ever",
            small().releases(1).seals(1),
            |rules| rules.released_for_ever = false,
        ),
    ]
}

fn committing() -> Vec<Planned> {
    let small = World::small;
    vec![
        of(
            "R9 an existing object is compared",
            small().seals(1),
            |rules| rules.existing_compared = false,
        ),
        of(
            "R10 committed moves without gaps",
            small().writes(2).seals(1),
            |rules| rules.gapless = false,
        ),
        of(
            "R10 `end` is asked for: never",
            small().in_flight(1).deletions(1).seals(1).resumes(1),
            |rules| rules.end_question = EndQuestion::Never,
        ),
        of(
            "R10 `end` is asked for: at hello only",
            small().deletions(1).seals(1).resumes(1),
            |rules| rules.end_question = EndQuestion::AtHello,
        ),
        of(
            "R11 what was inherited is stated",
            World::healing().seals(1),
            |rules| rules.inherited_stated = false,
        ),
    ]
}

fn deleting() -> Vec<Planned> {
    let two_machines = || World::small().machines(2);
    let reader = || World::small().deletions(1).seals(1).readers(1);
    vec![
        of(
            "R13 only sealed journals",
            two_machines().deletions(2).releases(1).seals(1),
            |rules| {
                rules.only_sealed_deleted = false;
                rules.end_first = false;
                rules.end_question = EndQuestion::Never;
            },
        ),
        of(
            "R13 every manifest has passed",
            two_machines().deletions(1).seals(1),
            |rules| rules.every_manifest_passed = false,
        ),
        of("R13 `end` comes first", reader(), |rules| {
            rules.end_first = false;
            rules.end_question = EndQuestion::Never;
        }),
        of("R14 the manifest is read again", reader(), |rules| {
            rules.manifest_read_again = false;
        }),
    ]
}

/// One of the small models without one of its rules.
macro_rules! without {
    ($name:literal, $model:ident::$type:ident { $($size:ident: $count:expr),* }, $rule:ident) => {{
        let mut rules = $model::Rules::ALL;
        rules.$rule = false;
        Planned::new($name, LIMITS, $model::$type { $($size: $count,)* rules })
    }};
}

#[rustfmt::skip]
fn reading() -> Vec<Planned> {
    vec![
        without!("R5 a name that was taken is looked at", listing::Listings { objects: 2 }, taken_is_looked_at),
        without!("a position keeps its checksum", folding::Folding {}, checksum_kept),
        without!("only the prefix is folded", folding::Folding {}, only_prefix_folded),
        without!("R13 nothing is deleted in a live journal", folding::Folding {}, nothing_deleted),
        without!("an origin that is there is followed", origin::Origins {}, taken_is_followed),
    ]
}

#[rustfmt::skip]
fn agents_and_disks() -> Vec<Planned> {
    vec![
        without!("complete_through is true", disks::Disks { writes: 3 }, promises_hold),
        without!("order and place are one step", disks::Disks { writes: 3 }, order_and_place_together),
        without!("the cut is the least of the disks'", disks::Disks { writes: 3 }, cut_is_least),
        without!("empty blocks lift the cut", disks::Disks { writes: 3 }, empty_blocks),
        without!("what the server changed is sent again", agents::Agents { writes: 3, sessions: 4 }, changed_after_sent),
        without!("what is sent again is dirty again", agents::Agents { writes: 3, sessions: 4 }, sent_again_is_dirty),
        without!("an agent goes on in its own past only", agents::Agents { writes: 3, sessions: 4 }, own_past_only),
        without!("bits are cleared when committed", agents::Agents { writes: 3, sessions: 4 }, cleared_when_committed),
        without!("bits are cleared when flushed", agents::Agents { writes: 3, sessions: 4 }, cleared_when_flushed),
    ]
}

#[rustfmt::skip]
fn retention() -> Vec<Planned> {
    vec![
        without!("R15 object 1 refers to nothing", condemned::Condemned { objects: 2, resumes: false }, first_refers_to_nothing),
        without!("R15 lists are read after object 1", condemned::Condemned { objects: 2, resumes: false }, read_after_first),
        without!("R15 lists are obeyed", condemned::Condemned { objects: 2, resumes: false }, lists_obeyed),
        without!("R15 every journal states the list", condemned::Condemned { objects: 2, resumes: false }, stated_by_all),
        without!("R15 what was referred to is looked for again", condemned::Condemned { objects: 2, resumes: false }, marked_again),
        without!("R16 a name that was taken begins again", manifests::Manifests {}, name_taken_begins_again),
        without!("R17 lists again", manifests::Manifests {}, listed_again),
        without!("R18 only layers named below", manifests::Manifests {}, only_older_names),
    ]
}

fn pruned(
    name: &'static str,
    world: pruning::Pruning,
    leave_out: fn(&mut pruning::Rules),
) -> Planned {
    let mut rules = pruning::Rules::ALL;
    leave_out(&mut rules);
    Planned::new(name, LIMITS, pruning::Pruning { rules, ..world })
}

fn deleting_with_places() -> Vec<Planned> {
    let small = pruning::Pruning::SMALL;
    let two_machines = pruning::Pruning {
        machines: 2,
        ..small
    };
    let two_workers = pruning::Pruning {
        workers: 2,
        jobs: 2,
        ..small
    };
    vec![
        pruned("R13 every machine has passed", two_machines, |rules| {
            rules.every_machine_passed = false;
        }),
        pruned("R13 no layer has a place in it", two_machines, |rules| {
            rules.every_machine_unlinked = false;
        }),
        pruned("R13 `end` comes first, by objects", two_machines, |rules| {
            rules.end_first = false;
        }),
        pruned("R17 lists again, by objects", two_workers, |rules| {
            rules.listed_again = false;
        }),
        pruned("R18 only named below, by objects", two_workers, |rules| {
            rules.only_older_names = false;
        }),
        pruned("a pack's name is given once", two_workers, |rules| {
            rules.names_are_fresh = false;
        }),
    ]
}

fn holding() -> Vec<Planned> {
    let from = pruning::Pruning {
        readers: 1,
        ..pruning::Pruning::SMALL
    };
    let exactly = pruning::Pruning {
        holds: pruning::Holds::Exactly,
        ..from
    };
    vec![
        pruned("hold: manifests are listed after it", from, |rules| {
            rules.listed_after_hold = false;
        }),
        pruned("hold: the same, exact holds", exactly, |rules| {
            rules.listed_after_hold = false;
        }),
        pruned("hold: holds are listed last", from, |rules| {
            rules.holds_listed_last = false;
        }),
        pruned("hold: it keeps manifests", from, |rules| {
            rules.held_manifests_kept = false;
        }),
        pruned("hold: it keeps what they link", from, |rules| {
            rules.held_links_kept = false;
        }),
        pruned("hold: it keeps what is not folded", from, |rules| {
            rules.held_tail_kept = false;
        }),
        pruned("hold: exact, it keeps manifests", exactly, |rules| {
            rules.held_manifests_kept = false;
        }),
        pruned("hold: exact, it keeps what they link", exactly, |rules| {
            rules.held_links_kept = false;
        }),
        pruned("hold: exact, what is not folded", exactly, |rules| {
            rules.held_tail_kept = false;
        }),
    ]
}

#[rustfmt::skip]
fn replicas() -> Vec<Planned> {
    vec![
        without!("replica: puts are conditional", replica::Replica {}, puts_are_conditional),
        without!("replica: raised after an ambiguous result", replica::Replica {}, raised_after_ambiguous),
        without!("replica: raised by the owner only", replica::Replica {}, raised_by_owner_only),
        without!("replica: raised with max", replica::Replica {}, raised_with_max),
    ]
}

#[rustfmt::skip]
fn groups() -> Vec<Planned> {
    vec![
        without!("group: all hold before the release", group::Group {}, all_held_before_release),
        without!("group: only who still holds confirms", group::Group {}, confirms_only_holding),
        without!("group: a mark is held once", group::Group {}, mark_held_once),
        without!("group: all confirm", group::Group {}, all_confirm),
    ]
}
