//! The long run of the model check: every world explored as far as its limits go, and the log kept.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::record::Recording;
use crate::run::{cargo, command, stdout_of};
use crate::workspace::Workspace;

/// Where the log of the last run is kept, from the root of the workspace.
const LOG: &str = "tests/model.log";

/// Runs the model check, shows what it says as it comes, and keeps it. Returns where.
///
/// # Errors
///
/// When it does not build, a property fails, or a rule that is left out is not missed. The log is not
/// touched then.
pub fn run(workspace: &Workspace) -> Result<PathBuf> {
    let recording = Recording::begin(workspace, "model", &[])?;
    let mut check = cargo(
        workspace,
        [
            "run",
            "--release",
            "--package",
            "everpoint-simulation",
            "--example",
            "check_model",
            "--",
        ],
    );
    let said = recording.of(workspace, |counts| {
        check.arg("--record").arg(counts);
        shown(check)
    })?;
    let path = workspace.root.join(LOG);
    fs::write(&path, heading(workspace)? + &said)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// When, of what and on what it ran.
fn heading(workspace: &Workspace) -> Result<String> {
    let asked = |program: &str, args: &[&str]| {
        let mut asks = command(workspace, program);
        asks.args(args);
        stdout_of(asks)
    };
    let date = asked("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])?;
    let commit = asked("git", &["describe", "--always", "--dirty"])?;
    let cores = thread::available_parallelism()?;
    Ok(format!(
        "The model check, long run: `cargo xtask model`\n{} on {cores} cores, commit {}\n\n",
        date.trim(),
        commit.trim()
    ))
}

/// Runs to the end; each line of its output is shown, and all of them are the answer.
fn shown(mut command: Command) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("its output is piped")?;
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("its output is not text")?;
        println!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the model check failed ({status})");
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn what_a_run_says_is_kept_only_when_it_succeeds() {
        assert_eq!(shown(shell("echo one; echo two")).unwrap(), "one\ntwo\n");
        let error = shown(shell("echo one; exit 1")).unwrap_err().to_string();
        assert!(error.starts_with("the model check failed"), "{error}");
    }
}
