//! Everything that the page of figures counts, one thing after the other: hours, on a machine that has
//! nothing else to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{fuzz, model, mutants, planted, simulate};

/// Seeds of one record: what is lost at most when the machine stops.
const SEEDS_OF_RECORD: u64 = 100_000;
/// How long each fuzz target is run.
const FUZZ_TIME: Duration = Duration::from_secs(60);
/// Mutants come to an end before that.
const MUTANTS_TIME: Duration = Duration::from_secs(10 * 3_600);

/// A kind of run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Step {
    /// Fresh seeds of the simulated world
    Simulate,
    /// Bugs that are planted
    Planted,
    /// Places that have to be reached
    Marks,
    /// The models
    Model,
    /// Fuzz targets, a minute each
    Fuzz,
    /// Wrong changes to the cores
    Mutants,
}

/// Seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub from: u64,
    pub count: u64,
}

/// Takes the steps, or all, each to its end even if one before it fails. Each leaves its records.
///
/// # Errors
///
/// When one fails: the message says which.
pub fn run(workspace: &Workspace, steps: &[Step], seeds: Seeds) -> Result<()> {
    let steps = match steps {
        [] => Step::value_variants(),
        chosen => chosen,
    };
    let mut failed = Vec::new();
    for (number, step) in (1..).zip(steps) {
        println!("== {step:?}, {number} of {}", steps.len());
        let begun = Instant::now();
        let done = step.take(workspace, seeds);
        println!("== {step:?}: {} s", begun.elapsed().as_secs());
        if let Err(error) = done {
            eprintln!("error: {error:#}");
            failed.push(format!("{step:?}"));
        }
    }
    if failed.is_empty() {
        println!("`cargo xtask reliability-report` makes the page of it");
        return Ok(());
    }
    bail!("not as it should be: {}", failed.join(", "));
}

impl Step {
    fn take(self, workspace: &Workspace, seeds: Seeds) -> Result<()> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Simulate => {
                for (from, count) in parts_of(seeds)? {
                    let args = format!("--seeds {count} --from {from}");
                    let args: Vec<&str> = args.split(' ').collect();
                    let args: Vec<String> = words(&args);
                    simulate::simulate(workspace, &args)?;
                }
            }
            Self::Planted => planted::hunt(workspace, &[])?,
            Self::Marks => {
                let args: Vec<String> = words(&["--marks"]);
                planted::hunt(workspace, &args)?;
            }
            Self::Model => println!("kept in {}", model::run(workspace)?.display()),
            Self::Fuzz => println!("{}", fuzz::run(workspace, &[], FUZZ_TIME)?),
            Self::Mutants => {
                let order = mutants::Order {
                    time: MUTANTS_TIME,
                    ..mutants::Order::default()
                };
                println!("{}", mutants::run(workspace, &order)?);
            }
        }
        Ok(())
    }
}

/// The seeds in parts, as first seed and count.
fn parts_of(seeds: Seeds) -> Result<Vec<(u64, u64)>> {
    let end = seeds.from.checked_add(seeds.count);
    let end = end.context("there are no seeds beyond 2^64")?;
    let step = usize::try_from(SEEDS_OF_RECORD).expect("small");
    let parts = (seeds.from..end).step_by(step);
    Ok(parts
        .map(|from| (from, SEEDS_OF_RECORD.min(end - from)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_seed_once() {
        let seeds = |from, count| Seeds { from, count };
        let parts = parts_of(seeds(7, 250_000)).unwrap();
        assert_eq!(parts, [(7, 100_000), (100_007, 100_000), (200_007, 50_000)]);
        assert_eq!(parts_of(seeds(0, 100_000)).unwrap(), [(0, 100_000)]);
        assert_eq!(parts_of(seeds(0, 0)).unwrap(), []);
        assert!(parts_of(seeds(u64::MAX, 2)).is_err());
    }
}
