//! The agent's end of its freezer: started, asked, and started again when it is gone.
//!
//! ```text
//! agent ─pipes─▶ freezer ─pipes─▶ guard          each a process; the end of a pipe is a word too
//! ```

mod lines;
mod mounts;
pub(crate) mod places;
mod process;
mod script;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::blocking::blocking;
use crate::error::FreezeError;
use crate::freeze_core::words::{Answer, Order, Step, Trouble};
use crate::freezer::mounts::Mounts;

pub use process::run_freezer;
pub(crate) use script::{ScriptSpec, run_script};

/// Until a freezer can be asked.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Until everything unwritten is written before a freeze.
const SYNC_TIME_MAX: Duration = Duration::from_secs(60);
/// What an answer takes beside what it tells of.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Freezer {
    filesystems: Vec<PathBuf>,
    hold_max: Duration,
    /// None while an answer is awaited: who stops waiting kills it, which thaws.
    running: Option<Running>,
}

struct Running {
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    /// Killed when it is dropped.
    child: Child,
}

/// All filesystems are frozen, until this is thawed or dropped, or the deadline passes.
pub(crate) struct Frozen<'a> {
    freezer: &'a mut Freezer,
    running: Running,
}

impl Freezer {
    /// `filesystems`: in the order of freezing.
    pub(crate) const fn new(filesystems: Vec<PathBuf>, hold_max: Duration) -> Self {
        Self {
            filesystems,
            hold_max,
            running: None,
        }
    }

    /// Starts the processes.
    pub(crate) async fn start(&mut self) -> Result<(), FreezeError> {
        let running = self.begin().await?;
        self.running = Some(running);
        Ok(())
    }

    /// Freezes all filesystems, for as long as the deadline allows.
    pub(crate) async fn freeze(&mut self) -> Result<Frozen<'_>, FreezeError> {
        let mut kept = self.running.take();
        kept.take_if(|running| running.has_ended());
        let mut running = match kept {
            Some(running) => running,
            None => self.begin().await?,
        };
        let hold_max = self.hold_max;
        let within = SYNC_TIME_MAX + hold_max + ANSWER_TIME_MAX;
        match running.ask(Order::Freeze { hold_max }, within).await {
            Some(Answer::Frozen) => Ok(Frozen {
                freezer: self,
                running,
            }),
            answer => Err(self.failed(answer, running).await),
        }
    }

    async fn begin(&self) -> Result<Running, FreezeError> {
        let mut command = Command::from(process::command(&self.filesystems, false));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = command.kill_on_drop(true).spawn();
        let mut child = spawned.map_err(FreezeError::NoProcess)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.expect("both were asked for");
        let mut running = Running {
            to,
            from: BufReader::new(from).lines(),
            child,
        };
        match running.answer(START_TIME_MAX).await {
            Some(Answer::Ready) => Ok(running),
            Some(Answer::Failed(trouble)) => Err(self.told(trouble)),
            _ => Err(FreezeError::Lost),
        }
    }

    /// Why there is no answer, or not the one that was hoped for. A freezer that is still itself is kept.
    async fn failed(&mut self, answer: Option<Answer>, running: Running) -> FreezeError {
        let error = match answer {
            Some(Answer::Late) => FreezeError::Late {
                deadline: self.hold_max,
            },
            Some(Answer::Failed(trouble)) => self.told(trouble),
            _ => {
                drop(running);
                self.thaw_all().await;
                return FreezeError::Lost;
            }
        };
        self.running = Some(running);
        error
    }

    /// Thaws whatever is frozen, after the freezer was lost: its guard does so too, unless both are gone.
    async fn thaw_all(&self) {
        let filesystems = self.filesystems.clone();
        blocking(move || {
            if let Ok(mounts) = Mounts::open(&filesystems) {
                for index in (0..filesystems.len()).rev() {
                    // That it was not frozen is what is hoped for.
                    let _ = mounts.thaw(index);
                }
            }
        })
        .await;
    }

    fn told(&self, trouble: Trouble) -> FreezeError {
        let path = self.filesystems.get(trouble.index).cloned();
        let path = path.unwrap_or_default();
        let source = io::Error::from_raw_os_error(trouble.number);
        match trouble.step {
            Step::Lock => FreezeError::Lock(source),
            Step::Guard => FreezeError::NoProcess(source),
            Step::Open => FreezeError::Open { path, source },
            Step::Root => FreezeError::NoMount { path },
            Step::Sync => FreezeError::Sync { path, source },
            Step::Busy => FreezeError::Busy {
                deadline: self.hold_max,
            },
            Step::Freeze => FreezeError::Freeze { path, source },
        }
    }
}

impl Frozen<'_> {
    /// Thaws all, and says for how long they were held if all of them were until now.
    pub(crate) async fn thaw(mut self) -> Result<Duration, FreezeError> {
        let within = self.freezer.hold_max + ANSWER_TIME_MAX;
        match self.running.ask(Order::Thaw, within).await {
            Some(Answer::Held { micros }) => {
                self.freezer.running = Some(self.running);
                Ok(Duration::from_micros(micros))
            }
            answer => Err(self.freezer.failed(answer, self.running).await),
        }
    }
}

impl Running {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    async fn ask(&mut self, order: Order, within: Duration) -> Option<Answer> {
        self.to
            .write_all(format!("{order}\n").as_bytes())
            .await
            .ok()?;
        self.answer(within).await
    }

    async fn answer(&mut self, within: Duration) -> Option<Answer> {
        let line = timeout(within, self.from.next_line()).await;
        Answer::parse(&line.ok()?.ok()??)
    }
}
