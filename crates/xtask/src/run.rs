//! Child processes: shown before they start, run in the workspace, and failed on by name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Where Debian keeps programs that are not on an ordinary user's PATH (mke2fs, losetup).
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// How often a child with a deadline is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The cargo that runs this program, or the one on the PATH.
#[must_use]
pub fn cargo_path() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A command in the root of the workspace, with the system's folders on its PATH.
///
/// What `cargo run` tells the program that it runs is taken out of the environment: build scripts would
/// take it for changed input and build again.
pub fn command(workspace: &Workspace, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .current_dir(&workspace.root)
        .env("PATH", search_path());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(says_what_cargo_runs) {
            command.env_remove(name);
        }
    }
    command
}

/// A cargo command in the root of the workspace.
pub fn cargo<const N: usize>(workspace: &Workspace, args: [&str; N]) -> Command {
    let mut cargo = command(workspace, PathBuf::from(cargo_path()));
    cargo.args(args);
    cargo
}

fn says_what_cargo_runs(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_BIN_")
        || matches!(
            name,
            "CARGO_MANIFEST_DIR"
                | "CARGO_MANIFEST_PATH"
                | "CARGO_CRATE_NAME"
                | "CARGO_PRIMARY_PACKAGE"
                | "OUT_DIR"
        )
}

/// PATH with the system's own folders at its end.
fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path)
        .filter(|folder| !folder.as_os_str().is_empty())
        .chain(SYSTEM_FOLDERS.map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or(path)
}

/// The program `name` on the PATH or in the system's folders.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Runs to the end, with its output passed through.
///
/// # Errors
///
/// When it cannot start or does not succeed; the message is the command line.
pub fn run(mut command: Command) -> Result<()> {
    let line = command_line(&command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot start: {line}"))?;
    succeeded(status, &line)
}

/// Runs to the end and answers with what it wrote to its standard output.
///
/// # Errors
///
/// When it cannot start, does not succeed, or writes what is not UTF-8.
pub fn stdout_of(mut command: Command) -> Result<String> {
    let line = command_line(&command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start: {line}"))?;
    succeeded(output.status, &line)?;
    String::from_utf8(output.stdout).with_context(|| format!("does not write text: {line}"))
}

/// Runs quietly for at most `limit`; a child that takes longer is ended.
///
/// # Errors
///
/// When it cannot start, does not succeed, or takes longer. The message ends with the last line that it wrote.
pub fn run_within(mut command: Command, limit: Duration) -> Result<()> {
    let line = command_line(&command);
    let log = tempfile::tempfile().context("cannot make a temporary file")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start: {line}"))?;
    match wait_within(child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(_) => bail!("failed: {line}: {}", last_line(log)),
        None => bail!("took longer than {} s: {line}", limit.as_secs()),
    }
}

fn wait_within(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn last_line(mut log: std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    if log.rewind().is_err() || log.read_to_string(&mut text).is_err() {
        return "(its output cannot be read)".into();
    }
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.unwrap_or("(it wrote nothing)").trim().to_owned()
}

fn succeeded(status: ExitStatus, line: &str) -> Result<()> {
    if !status.success() {
        bail!("failed ({status}): {line}");
    }
    Ok(())
}

/// The command as one could type it.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_its_arguments() {
        let error = run(Command::new("false")).unwrap_err().to_string();
        assert!(
            error.starts_with("failed (exit status: 1): false"),
            "{error}"
        );
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "exit 3"]);
        let error = run(shell).unwrap_err().to_string();
        assert_eq!(error, "failed (exit status: 3): sh -c exit 3");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let begun = Instant::now();
        let error = run_within(sleep, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_quiet_command_fails_with_the_last_thing_that_it_said() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo first; echo 'no such host' >&2; exit 1"]);
        let error = run_within(shell, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().ends_with(": no such host"), "{error}");
    }

    #[test]
    fn programs_in_the_system_folders_are_found_whatever_the_path_is() {
        assert!(find("mke2fs").is_some());
        assert!(find("no-such-program").is_none());
    }

    #[test]
    fn what_cargo_tells_the_program_that_it_runs_is_not_handed_on() {
        assert!(says_what_cargo_runs("CARGO_PKG_NAME"));
        assert!(says_what_cargo_runs("CARGO_MANIFEST_DIR"));
        assert!(!says_what_cargo_runs("CARGO_HOME"));
        assert!(!says_what_cargo_runs("CARGO_TARGET_DIR"));
    }
}
