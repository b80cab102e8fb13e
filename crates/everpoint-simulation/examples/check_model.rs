//! The long run of the model check: every world, and every rule left out. `cargo xtask model` keeps what
//! this prints, and what it counts: `check_model [--record FILE]`.

use std::process::ExitCode;

use everpoint_simulation::model::{
    Outcome, Planned, Totals, left_out, left_out_in_vain, long_worlds,
};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let record = match &args[..] {
        [] => None,
        [flag, path] if flag == "--record" => Some(path.clone()),
        _ => {
            eprintln!("check_model [--record FILE]");
            return ExitCode::from(2);
        }
    };
    let worlds = long_worlds();
    println!("Bounds of the worlds.\n");
    for world in &worlds {
        println!("{:<44} {}", world.name, world.bounds);
    }
    let heading = Outcome::heading();
    println!("\nAll rules hold: nothing may fail.\n\n{heading}");
    let mut outcomes = Vec::new();
    for world in worlds {
        let outcome = world.explore();
        println!("{outcome}");
        report(&outcome);
        outcomes.push(outcome);
    }
    let totals = Totals::of(&outcomes);
    println!(
        "\n{} worlds, {} closed: {} distinct states, {} generated",
        totals.worlds, totals.closed, totals.distinct, totals.generated
    );
    println!(
        "\nOne rule left out: something must fail.\n\n{}",
        Outcome::heading()
    );
    let kept = explore_each(&left_out());
    println!(
        "\nOne rule left out, and nothing found to fail: what these are for no model here has.\n\n{}",
        Outcome::heading()
    );
    let in_vain = explore_each(&left_out_in_vain());
    if let Some(path) = record {
        let counted = json!({
            "worlds": counted(&outcomes),
            "rules_left_out": counted(&kept),
            "rules_left_out_in_vain": counted(&in_vain),
        });
        if let Err(error) = std::fs::write(&path, format!("{counted:#}\n")) {
            eprintln!("cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    let all_fail = Totals::of(&kept).violated == kept.len();
    if totals.violated == 0 && all_fail {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn explore_each(worlds: &[Planned]) -> Vec<Outcome> {
    let explored = worlds.iter().map(|world| {
        let outcome = world.explore();
        println!("{outcome}");
        outcome
    });
    explored.collect()
}

/// What a record has of searches.
fn counted(outcomes: &[Outcome]) -> Vec<Value> {
    let counted = outcomes.iter().map(|outcome| {
        json!({
            "name": outcome.name,
            "distinct": outcome.distinct,
            "generated": outcome.generated,
            "depth": outcome.depth,
            "exhausted": outcome.closed,
            "fails": outcome.violation.as_ref().map(|violation| violation.property),
        })
    });
    counted.collect()
}

/// What a search found that is to be looked at.
fn report(outcome: &Outcome) {
    if let Some(found) = &outcome.violation {
        found.steps.iter().for_each(|step| println!("    {step}"));
    }
    if !outcome.not_reached.is_empty() {
        println!("    not reached: {}", outcome.not_reached.join(", "));
    }
}
