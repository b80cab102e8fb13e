//! A child process that is always reaped: started, signalled, waited for with a deadline, its output kept.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::rigs::wait;

/// How much of an output is shown when a test fails. Unit: bytes.
const TAIL_LEN: u64 = 8 << 10;

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it prints is added to the file `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or the log not be opened.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options().append(true).create(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}: {:?}", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            ended: None,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless it has ended.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.poll()?.is_some() {
            return Ok(());
        }
        // Not reaped yet, so the id is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child has an id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, within, async || self.poll()).await
    }

    /// Kills it, and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(ended) = self.poll()? {
            return Ok(ended);
        }
        self.child.kill()?;
        let ended = self.child.wait()?;
        self.ended = Some(ended);
        Ok(ended)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{} cannot be ended: {error:#}", self.name);
        }
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({error})"),
    }
}

/// A command that is run to its end.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` to its end, quietly; it is killed when that takes too long.
///
/// # Errors
///
/// When it cannot be started or does not end in time; not when it fails.
pub async fn finish(mut command: Command, within: Duration) -> Result<Finished> {
    let program = PathBuf::from(command.get_program());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let ended = tokio::time::timeout(within, running.wait_with_output()).await;
    let output = ended.with_context(|| format!("{}: no end within {within:?}", program.display()));
    let output = output??;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Finished {
    /// What it printed.
    ///
    /// # Errors
    ///
    /// When it did not succeed, with what it said.
    pub fn succeeded(self, what: &str) -> Result<String> {
        anyhow::ensure!(
            self.status.success(),
            "{what}: {}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("60");
        command
    }

    #[tokio::test]
    async fn a_killed_child_is_reaped_and_says_by_what() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = Process::start("a sleeper", sleeper(), &log).unwrap();
        assert_eq!(process.poll().unwrap(), None);
        process.signal(Signal::TERM).unwrap();
        let ended = process.ended(SOON).await.unwrap();
        assert_eq!(ended.signal(), Some(15));
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.kill().unwrap(), ended);
    }

    #[tokio::test]
    async fn a_log_keeps_what_a_child_prints() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2"]);
        let mut process = Process::start("a printer", command, &log).unwrap();
        assert!(process.ended(SOON).await.unwrap().success());
        assert_eq!(tail(&log), "one\ntwo\n");
    }

    #[tokio::test]
    async fn a_command_that_fails_or_takes_too_long_is_told_apart() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        let failed = finish(command, SOON).await.unwrap();
        assert_eq!(failed.status.code(), Some(3));
        let error = failed.succeeded("it").unwrap_err().to_string();
        assert!(error.contains("why"), "{error}");
        assert!(finish(sleeper(), Duration::ZERO).await.is_err());
    }
}
