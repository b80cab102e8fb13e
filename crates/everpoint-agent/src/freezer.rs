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
mod thawers;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::FreezeError;
use crate::freeze_core::words::{Answer, Order, Step, Trouble};
use crate::freezer::mounts::Mounts;
use crate::freezer::thawers::thaw_surely;

pub use process::run_freezer;
pub(crate) use script::{ScriptSpec, run_script};

/// Until a freezer can be asked.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Until everything unwritten is written before a freeze.
const SYNC_TIME_MAX: Duration = Duration::from_secs(60);
/// What an answer takes beside what it tells of.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Errors of a thaw after which the agent itself does not try again.
const THAW_TRIES_MAX: u32 = 200;

/// See the module.
pub(crate) struct Freezer {
    filesystems: Vec<PathBuf>,
    hold_max: Duration,
    /// None while an answer is awaited: who stops waiting lets it go, which thaws.
    running: Option<Running>,
}

/// A freezer that runs. Dropped, it hears that nobody is left, thaws and ends.
struct Running {
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    /// None only while this is dropped.
    child: Option<Child>,
    filesystems: Vec<PathBuf>,
    hold_max: Duration,
    /// Something may be frozen: it was asked to, and has not said that all is thawed.
    may_hold: bool,
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
        running.may_hold = true;
        match running.ask(Order::Freeze { hold_max }, within).await {
            Some(Answer::Frozen) => Ok(Frozen {
                freezer: self,
                running,
            }),
            answer => Err(self.failed(answer, running)),
        }
    }

    async fn begin(&self) -> Result<Running, FreezeError> {
        let mut command = Command::from(process::command(&self.filesystems, false));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(FreezeError::NoProcess)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.expect("both were asked for");
        let mut running = Running {
            to,
            from: BufReader::new(from).lines(),
            child: Some(child),
            filesystems: self.filesystems.clone(),
            hold_max: self.hold_max,
            may_hold: false,
        };
        match running.answer(START_TIME_MAX).await {
            Some(Answer::Ready) => Ok(running),
            Some(Answer::Failed(trouble)) => Err(self.told(trouble)),
            _ => Err(FreezeError::Lost),
        }
    }

    /// Why there is no answer, or not the one that was hoped for. A freezer that is still itself is kept.
    fn failed(&mut self, answer: Option<Answer>, running: Running) -> FreezeError {
        let error = match answer {
            Some(Answer::Late) => FreezeError::Late {
                deadline: self.hold_max,
            },
            Some(Answer::Failed(trouble)) => self.told(trouble),
            _ => return FreezeError::Lost,
        };
        self.running = Some(running);
        error
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
            answer => Err(self.freezer.failed(answer, self.running)),
        }
    }
}

impl Running {
    fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
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
        let answer = Answer::parse(&line.ok()?.ok()??)?;
        if matches!(
            answer,
            Answer::Held { .. } | Answer::Late | Answer::Failed(_) | Answer::Unguarded
        ) {
            self.may_hold = false;
        }
        Some(answer)
    }
}

impl Drop for Running {
    /// Its pipe ends with this. Without a runtime there is nobody to wait for it, and its end is as good.
    fn drop(&mut self) {
        let (child, runtime) = (self.child.take(), Handle::try_current());
        if let (Some(child), Ok(runtime)) = (child, runtime) {
            let filesystems = std::mem::take(&mut self.filesystems);
            let (within, may_hold) = (self.hold_max + ANSWER_TIME_MAX, self.may_hold);
            runtime.spawn(reap(child, within, move || {
                if may_hold {
                    thaw_all(filesystems);
                }
            }));
        }
    }
}

/// Waits for a freezer that was let go. One that does not end in time is killed; one that did not end by itself may
/// have left something frozen, which `thaw` is for: its guard does so too, unless both are gone.
async fn reap(mut child: Child, within: Duration, thaw: impl FnOnce()) {
    let ended = timeout(within, child.wait()).await;
    match ended {
        Ok(Ok(status)) if status.success() => return,
        Ok(_) => {}
        Err(_) => {
            // It may have ended just now.
            let _ = child.start_kill();
        }
    }
    thaw();
    // It is buried when it is gone; who hangs in the kernel is not waited for.
    let _ = child.wait().await;
}

/// Thaws whatever is frozen, each filesystem on a thread of its own. Nobody waits for them.
fn thaw_all(filesystems: Vec<PathBuf>) {
    thread::spawn(move || {
        let Ok(mounts) = Mounts::open(&filesystems) else {
            return;
        };
        let mounts = Arc::new(mounts);
        for index in 0..filesystems.len() {
            let mounts = Arc::clone(&mounts);
            // That it was not frozen is what is hoped for.
            thread::spawn(move || thaw_surely(|| mounts.thaw(index), Some(THAW_TRIES_MAX)));
        }
    });
}

#[cfg(test)]
mod tests;
