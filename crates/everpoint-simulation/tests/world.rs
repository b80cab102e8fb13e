//! The simulated world, briefly: seeds run clean, the same seed does the same, faults really happen, and
//! what once failed stays mended. The many seeds are `cargo xtask simulate`'s.

use everpoint_simulation::world::plan::KINDS;
use everpoint_simulation::{Plan, run};

/// Seeds that found a bug in the product.
const FOUND: &str = include_str!("../../../tests/seeds/found.txt");

#[test]
fn seeds_run_clean_and_every_kind_of_fault_happens() {
    let mut happened = [0; KINDS.len()];
    let (mut small, mut restores) = (0, 0);
    for seed in 0..200 {
        let outcome = run(&Plan::of(seed), None);
        assert_eq!(outcome.violation, None);
        for (sum, count) in happened.iter_mut().zip(outcome.faults) {
            *sum += count;
        }
        small += outcome.small_faults;
        restores += outcome.restores;
    }
    for (kind, count) in KINDS.iter().zip(happened) {
        assert!(0 < count, "{kind} never happened");
    }
    assert!(0 < small && 5_000 < restores, "{small}, {restores}");
}

#[test]
fn a_seed_does_the_same_every_time_and_another_does_not() {
    let hashes: Vec<u64> = (0..10)
        .map(|seed| run(&Plan::of(seed), None).hash)
        .collect();
    let again: Vec<u64> = (0..10)
        .map(|seed| run(&Plan::of(seed), None).hash)
        .collect();
    assert_eq!(hashes, again);
    for pair in hashes.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
}

#[test]
fn a_story_changes_nothing() {
    let plan = Plan::of(7);
    let mut lines = 0;
    let told = run(&plan, Some(&mut |_| lines += 1));
    assert_eq!(told.hash, run(&plan, None).hash);
    assert!(0 < lines);
}

#[test]
fn what_once_failed_stays_mended() {
    let mut count = 0;
    for line in FOUND.lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().expect("a seed a line");
        let seed = seed.parse().expect("a number");
        assert_eq!(run(&Plan::of(seed), None).violation, None);
        count += 1;
    }
    assert!(0 < count, "there are some");
}
