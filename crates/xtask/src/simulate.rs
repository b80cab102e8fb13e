//! The simulated world from the command line: many seeds, or one as a story.

use anyhow::Result;

use crate::record::Recording;
use crate::run::{cargo, command, run};
use crate::workspace::Workspace;

/// Seeds of the test command: what two processors do in one to four minutes.
const SEEDS_IN_TEST: u64 = 60_000;
/// The name of its records.
const KIND: &str = "simulate";

/// Runs `simulate` of `everpoint-simulation` with these arguments. It prints what it finds, and a run of
/// many seeds leaves a record, whatever it finds.
///
/// # Errors
///
/// When it does not build, or a promise was broken.
pub fn simulate(workspace: &Workspace, args: &[String]) -> Result<()> {
    // Of the whole workspace, so that its features, and with them what is built, are those of the tests.
    run(cargo(
        workspace,
        ["build", "--release", "--workspace", "--example", "simulate"],
    ))?;
    let program = workspace.target.join("release/examples/simulate");
    let mut simulate = command(workspace, program);
    simulate.args(args);
    let recording = Recording::begin(workspace, KIND, args)?;
    simulate.args(["--commit", &recording.version().name()]);
    if args.iter().any(|arg| arg == "--seed") {
        return run(simulate);
    }
    recording.of_program(workspace, simulate)
}

/// The part of the test command: the same seeds every time, so that it fails for a change and not by
/// chance. Fresh ones are the long run's.
///
/// # Errors
///
/// As [`simulate`].
pub fn part(workspace: &Workspace) -> Result<String> {
    let args = ["--seeds".to_owned(), SEEDS_IN_TEST.to_string()];
    simulate(workspace, &args)?;
    Ok(format!("{SEEDS_IN_TEST} seeds"))
}
