//! Plans with made-up bugs are found in their smallest form.

use super::*;
use crate::world::plan::FaultKind;

/// A large plan: two servers, three disks, many faults of several classes.
fn large() -> Plan {
    let fits =
        |plan: &Plan| plan.shape.servers == 2 && plan.shape.disks == 3 && 12 < plan.faults.len();
    let plans = (0..10_000).map(Plan::of);
    plans
        .into_iter()
        .find(fits)
        .expect("a large plan among many")
}

/// Fails with `text` where `bug` shows.
fn fails(bug: impl Fn(&Plan) -> bool, text: &str) -> impl FnMut(&Plan) -> Option<String> {
    move |plan| bug(plan).then(|| text.to_owned())
}

/// Whether the plan has a fault of the same kind at whatever moment, of whatever length.
fn has(plan: &Plan, class: usize) -> bool {
    plan.faults.iter().any(|fault| fault.kind.class() == class)
}

#[test]
fn two_faults_and_two_disks_are_what_is_left_of_a_large_plan() {
    let plan = large();
    let classes: Vec<usize> = plan.faults.iter().map(|fault| fault.kind.class()).collect();
    let a = classes[0];
    let b = *classes.iter().rfind(|class| **class != a).expect("another");
    let bug = |plan: &Plan| has(plan, a) && has(plan, b) && 2 <= plan.shape.disks;
    let shrunk = shrink(&plan, RUNS_MAX, fails(bug, "lost")).expect("it fails");

    let left: Vec<usize> = shrunk
        .plan
        .faults
        .iter()
        .map(|fault| fault.kind.class())
        .collect();
    assert!(left == [a, b] || left == [b, a], "{left:?}");
    let shape = shrunk.plan.shape;
    assert_eq!((shape.servers, shape.disks, shape.sectors), (1, 2, 8));
    let rates = [
        shape.unknown_per_mille,
        shape.late_per_mille,
        shape.corrupt_per_million,
        shape.local_error_per_mille,
    ];
    assert_eq!(rates, [0; 4]);
    assert!(
        shape.healed_at.0 % HORIZON_STEP == 0,
        "{:?}",
        shape.healed_at
    );
    assert!(shrunk.runs < 300, "{} runs", shrunk.runs);
}

#[test]
fn a_bug_that_needs_nothing_is_left_with_nothing() {
    let shrunk = shrink(&large(), RUNS_MAX, fails(|_| true, "lost")).expect("it fails");
    assert_eq!(shrunk.plan.faults, []);
    assert_eq!(shrunk.plan.shape.healed_at, Moment(HORIZON_STEP));
}

#[test]
fn a_fault_of_the_second_server_keeps_that_server() {
    let mut plan = large();
    let kind = FaultKind::SyncError { server: 1 };
    plan.faults.push(Fault {
        at: Moment(plan.shape.healed_at.0 - 1),
        kind,
    });
    let bug = |plan: &Plan| plan.faults.iter().any(|fault| fault.kind == kind);
    let shrunk = shrink(&plan, RUNS_MAX, fails(bug, "lost")).expect("it fails");
    assert_eq!(shrunk.plan.shape.servers, 2);
    assert_eq!(shrunk.plan.faults.len(), 1);
}

#[test]
fn every_fault_stays_that_the_bug_needs_however_many_they_are() {
    let plan = large();
    let mut wanted: Vec<FaultKind> = Vec::new();
    for fault in plan.faults.iter().step_by(3) {
        // Two that are the same are one to the bug.
        if !wanted.contains(&fault.kind) {
            wanted.push(fault.kind);
        }
    }
    let bug = |plan: &Plan| {
        let there = |kind: &FaultKind| plan.faults.iter().any(|fault| fault.kind == *kind);
        wanted.iter().all(there)
    };
    let shrunk = shrink(&plan, RUNS_MAX, fails(bug, "lost")).expect("it fails");
    let left: Vec<FaultKind> = shrunk.plan.faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(left.len(), wanted.len());
    assert!(wanted.iter().all(|kind| left.contains(kind)), "{left:?}");
}

#[test]
fn the_horizon_is_the_earliest_that_fails() {
    let bug = |plan: &Plan| 3_210_000_000 <= plan.shape.healed_at.0;
    let shrunk = shrink(&large(), RUNS_MAX, fails(bug, "not level")).expect("it fails");
    assert_eq!(shrunk.plan.shape.healed_at, Moment(3_300_000_000));
}

#[test]
fn another_broken_promise_is_not_taken_for_this_one() {
    let two_bugs = |plan: &Plan| {
        let crowd = 2 <= plan.shape.disks;
        Some(if crowd { "disk 2 is lost" } else { "it panics" }.to_owned())
    };
    let shrunk = shrink(&large(), RUNS_MAX, two_bugs).expect("it fails");
    assert_eq!(shrunk.plan.shape.disks, 2);
    assert_eq!(shrunk.violation, "disk 2 is lost");
}

#[test]
fn numbers_and_what_values_look_like_inside_make_no_other_class() {
    let class_of =
        |sector: u64| class(&format!("seed 7, at {sector}.5 s: sector {sector} is lost"));
    assert_eq!(class_of(1), class_of(23_456));
    assert_eq!(
        class("disk 3f0a at 12: broken"),
        class("disk 77 at 9: broken")
    );
    assert_eq!(class("path: [1, 2]"), class("path: [Fork { at: 9 }]"));
    assert_ne!(class("disk 1 is lost"), class("disk 1 does not restore"));
}

#[test]
fn a_search_ends_when_its_runs_are_used_up() {
    let mut runs = 0;
    let shrunk = shrink(&large(), 10, |_| {
        runs += 1;
        Some("lost".to_owned())
    });
    assert_eq!(shrunk.expect("it fails").runs, 10);
    assert_eq!(runs, 10);
}

#[test]
fn a_plan_that_breaks_nothing_is_not_shrunk() {
    assert!(shrink(&large(), RUNS_MAX, |_| None).is_none());
}

#[test]
fn every_simplification_comes_to_an_end() {
    for seed in 0..50 {
        for simpler in SIMPLER {
            let mut plan = Plan::of(seed);
            let mut steps = 0;
            while let Some(simple) = simpler(&plan) {
                assert_ne!(simple, plan, "seed {seed}");
                plan = simple;
                steps += 1;
                assert!(steps < 100, "seed {seed}");
            }
        }
    }
}

#[test]
fn moments_become_round_and_stay_in_order() {
    let plan = large();
    let kinds: Vec<FaultKind> = plan.faults.iter().take(2).map(|fault| fault.kind).collect();
    let bug = |plan: &Plan| {
        let at = |kind| plan.faults.iter().find(|fault| fault.kind == kind);
        match (at(kinds[0]), at(kinds[1])) {
            (Some(first), Some(second)) => first.at <= second.at,
            _ => false,
        }
    };
    let shrunk = shrink(&plan, RUNS_MAX, fails(bug, "lost")).expect("it fails");
    let moments: Vec<u64> = shrunk.plan.faults.iter().map(|fault| fault.at.0).collect();
    assert!(
        moments.is_sorted() && moments.iter().all(|at| at % 1_000_000 == 0),
        "{moments:?}"
    );
}
