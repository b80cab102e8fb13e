//! Every world holds, and every rule is needed. With `--nocapture` each search says what it found.

use super::{Outcome, Planned, Totals, left_out, left_out_in_vain, short_worlds};

/// Distinct states that the test command is to see at least.
const DISTINCT_MIN: usize = 100_000;

fn explore(worlds: &[Planned]) -> Vec<Outcome> {
    let explored = worlds.iter().map(|world| {
        let outcome = world.explore();
        println!("{outcome}");
        outcome
    });
    explored.collect()
}

#[test]
fn every_world_holds() {
    let outcomes = explore(&short_worlds());
    for outcome in &outcomes {
        assert!(
            outcome.violation.is_none(),
            "{outcome}: {:#?}",
            outcome.violation
        );
        // Each ownership world comes to what its faults lead to; together they do in the long run.
        let all_reached = outcome.not_reached.is_empty();
        let of_many = outcome.name.starts_with("ownership") || !outcome.closed;
        assert!(all_reached || of_many, "{outcome:?}");
    }
    let totals = Totals::of(&outcomes);
    assert!(DISTINCT_MIN < totals.distinct, "{totals:?}");
}

#[test]
fn without_any_one_rule_something_fails() {
    for outcome in explore(&left_out()) {
        assert!(outcome.violation.is_some(), "{outcome}");
    }
}

/// Should one of these fail one day, its rule is needed, and belongs to the others.
#[test]
fn some_rules_are_for_what_no_model_has() {
    for outcome in explore(&left_out_in_vain()) {
        assert!(outcome.violation.is_none(), "{outcome}");
    }
}
