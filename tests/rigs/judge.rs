//! The judge's process, from outside: started, asked for marks, its record read.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_nbd::NbdAddress;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::rigs::history::Tick;
use crate::rigs::record::Record;

/// Longest time for an answer: a sync, and what else the machine is doing.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What a judge is to watch.
#[derive(Clone, Debug)]
pub struct JudgeSpec {
    pub disk: NbdAddress,
    /// Control sockets.
    pub agent: PathBuf,
    pub server: PathBuf,
    pub record: PathBuf,
    pub seed: u64,
    /// Unit: bytes a second.
    pub rate_max: u64,
}

/// A running judge; it is killed when this is dropped.
#[derive(Debug)]
pub struct Judge {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    record: PathBuf,
}

impl Judge {
    /// Starts the judge; its guest begins to write at once.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(spec: &JudgeSpec, log: &Path) -> Result<Self> {
        let mut command = Command::new(xtask::built::program("everpoint-test-judge"));
        command.arg("--disk").arg(spec.disk.to_string());
        command.arg("--agent").arg(&spec.agent);
        command.arg("--server").arg(&spec.server);
        command.arg("--record").arg(&spec.record);
        command.arg("--seed").arg(spec.seed.to_string());
        command.arg("--rate-max").arg(spec.rate_max.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the judge")?;
        let orders = child.stdin.take().context("it was piped")?;
        let answers = child.stdout.take().context("it was piped")?;
        Ok(Self {
            child,
            orders,
            answers: BufReader::new(answers).lines(),
            record: spec.record.clone(),
        })
    }

    /// The tick that comes next, once everything before it is on the medium.
    ///
    /// # Errors
    ///
    /// When the judge has ended, which it does when a request of its guest fails.
    pub async fn mark(&mut self) -> Result<Tick> {
        let asked = async {
            self.orders.write_all(b"mark\n").await?;
            self.answers.next_line().await
        };
        let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
        let answer = answer.context("the judge does not answer")?;
        let answer = answer.context("the judge has ended")?;
        let answer = answer.context("the judge has ended")?;
        Ok(Tick(answer.parse()?))
    }

    /// Its record up to a mark.
    ///
    /// # Errors
    ///
    /// When it does not make sense.
    pub fn record(&self, mark: Tick) -> Result<Record> {
        Record::read(&self.record, mark)
    }

    /// Lets it end.
    ///
    /// # Errors
    ///
    /// When a request of its guest failed.
    pub async fn finish(mut self) -> Result<()> {
        drop(self.orders);
        let ended = tokio::time::timeout(ANSWER_MAX, self.child.wait()).await;
        let ended = ended.context("the judge does not end")??;
        ensure!(ended.success(), "the judge failed: {ended}");
        Ok(())
    }
}
