//! What all tasks of a process server use, and how one of them ends the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use everpoint_cache_log::{CacheLog, Poisoned};
use everpoint_format::DecodeError;
use everpoint_format::vault::VaultHeader;
use everpoint_transport::ByteBudget;
use everpoint_units::{JournalId, MachineId, Moment, ObjectNo, ServerId};
use everpoint_vault::Vault;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backlog::Backlog;
use crate::clock::Clock;
use crate::commit_task::Command;
use crate::conduct::Conduct;
use crate::log_task::LogItem;
use crate::registry::Registry;
use crate::replicas::Replicas;
use crate::state::{ServerState, StateError};

/// What opened blocks may take beyond their bytes: 40 blocks of as many records as fit, or 300 of 4 KiB
/// writes. Beside the budget, so that a block that was received never waits for one that was not.
/// Unit: bytes.
const OPENED_MAX: usize = 12 << 20;

/// See the module.
pub(crate) struct Shared {
    pub(crate) vault: Vault,
    pub(crate) header: VaultHeader,
    pub(crate) server: ServerId,
    pub(crate) log: CacheLog,
    pub(crate) backlog: Backlog,
    /// For what comes in: five eighths of the memory.
    pub(crate) budget: ByteBudget,
    /// For what is read again: a quarter.
    pub(crate) commit_budget: ByteBudget,
    /// For the windows of compares: the last eighth. Apart from the others, because a window is held as
    /// long as somebody asks about it, and what comes in must never wait for that.
    pub(crate) compare_budget: ByteBudget,
    /// For what opened blocks take beyond their bytes, until they are in the backlog, which counts it.
    pub(crate) opened: ByteBudget,
    pub(crate) registry: Registry,
    /// Replicas of the disks, where they are wanted.
    pub(crate) replicas: Option<Arc<Replicas>>,
    pub(crate) clock: Clock,
    pub(crate) log_items: mpsc::Sender<LogItem>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) state: Mutex<ServerState>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) machines_max: usize,
    conduct: Mutex<Conduct>,
    /// Blocks that are being opened on other threads: what they are opened into is outside the budget.
    pub(crate) checks: Arc<Semaphore>,
    /// Tasks of machines and compares: they hold this, and this holds the ways to them.
    pub(crate) tasks: TaskTracker,
    halt: CancellationToken,
    ended: watch::Sender<Option<Arc<Ended>>>,
}

/// Where the commit stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// The journal that is written now; its level is the epoch.
    pub(crate) journal: JournalId,
    pub(crate) committed: ObjectNo,
    /// Since when the vault does not answer.
    pub(crate) unreachable_since: Option<Moment>,
    /// Since when the oldest change waits for its commit.
    pub(crate) waiting_since: Option<Moment>,
}

/// Why a process server stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The journal was sealed by somebody else, or another life of this server wrote in it: its machines
    /// have another owner, or another history than this boot knows.
    #[error(
        "fenced: journal {journal} was sealed or written by somebody else; start this server again: \
         it serves those machines whose paths lead to it then"
    )]
    Fenced { journal: JournalId },
    /// The cache log failed.
    #[error("the cache log failed; start again, so that it is read from the medium")]
    Log(#[source] Poisoned),
    /// A cached block could not be read back for its commit.
    #[error("the cache log cannot be read back")]
    LogRead(#[source] everpoint_cache_log::ReadError),
    /// A cached block does not open, although its checksums hold.
    #[error("a cached block does not open")]
    Block(#[source] DecodeError),
    /// A machine's task is gone, and its blocks are in the log.
    #[error("machine {machine} has blocks in the cache log and is not served; start again")]
    Machine { machine: MachineId },
    /// The vault's medium lost its word.
    #[error("the vault failed; start again, so that it is read from the medium")]
    Vault(#[source] everpoint_vault::CreateError),
    /// The state file could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the server, put together in one place"
    )]
    pub(crate) fn new(
        vault: Vault,
        header: VaultHeader,
        state: ServerState,
        log: CacheLog,
        [budget, commit_budget, compare_budget]: [ByteBudget; 3],
        clock: Clock,
        journal: JournalId,
        log_items: mpsc::Sender<LogItem>,
        commands: mpsc::Sender<Command>,
        machines_max: usize,
        replicas: Option<Arc<Replicas>>,
    ) -> Self {
        let memory_max = budget.capacity() / 4;
        let progress = Progress {
            journal,
            committed: ObjectNo::ZERO,
            unreachable_since: None,
            waiting_since: None,
        };
        Self {
            vault,
            header,
            server: state.server,
            log,
            backlog: Backlog::new(memory_max),
            budget,
            commit_budget,
            compare_budget,
            opened: ByteBudget::new(OPENED_MAX),
            registry: Registry::default(),
            replicas,
            clock,
            log_items,
            commands,
            state: Mutex::new(state),
            progress: watch::Sender::new(progress),
            machines_max,
            conduct: Mutex::default(),
            checks: Arc::new(Semaphore::new(2 * checks_at_once())),
            tasks: TaskTracker::new(),
            halt: CancellationToken::new(),
            ended: watch::Sender::new(None),
        }
    }

    /// The journal that is written now.
    pub(crate) fn journal(&self) -> JournalId {
        self.progress.borrow().journal
    }

    /// Bytes of buffers that are held. Unit: bytes.
    pub(crate) fn memory_used(&self) -> u64 {
        self.sum(ByteBudget::used)
    }

    /// Bytes of buffers that may be held. Unit: bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        self.sum(ByteBudget::capacity)
    }

    fn sum(&self, of: fn(&ByteBudget) -> usize) -> u64 {
        self.budgets().map(|part| of(part) as u64).sum()
    }

    /// The parts of the memory.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = &ByteBudget> {
        let parts = [&self.budget, &self.commit_budget, &self.compare_budget];
        let replicas = self.replicas.as_ref().map(|replicas| &replicas.budget);
        parts.into_iter().chain(replicas)
    }

    /// Ends the server; the first reason counts.
    pub(crate) fn end(&self, why: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(Arc::new(why));
            }
            first
        });
    }

    /// Ends the tasks of machines and compares, wherever they are.
    pub(crate) fn halt(&self) {
        self.halt.cancel();
        self.tasks.close();
    }

    /// Runs a task until it is done or everything is halted.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let halted = self.halt.clone().cancelled_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => (),
                () = halted => (),
            }
        });
    }

    /// Waits until a task ended the server.
    pub(crate) async fn ended(&self) -> Arc<Ended> {
        let mut ended = self.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await;
        let why = why.expect("the sender lives as long as self");
        Arc::clone(why.as_ref().expect("waited for"))
    }

    /// Whether a task ended the server.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// How the agents of each machine behaved.
    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a journal is this server's.
    pub(crate) fn has_noted(&self, journal: JournalId) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        journal == self.journal() || state.journals.contains(&journal)
    }

    /// Notes a journal durably before anything names it.
    pub(crate) fn note_journal(&self, journal: JournalId) -> Result<(), StateError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add(journal)
    }
}

/// Blocks of one agent that are opened at a time: all of the machine for one that is alone, and for
/// several their share.
pub(crate) fn checks_at_once() -> usize {
    std::thread::available_parallelism().map_or(4, |count| count.get().max(4))
}

/// A pause before the next attempt at something that failed: doubling, bounded, with jitter so that
/// many servers do not come back at once.
#[derive(Debug)]
pub(crate) struct BackOff {
    delay: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    pub(crate) const fn new() -> Self {
        Self { delay: Self::FIRST }
    }

    /// Waits, longer each time.
    pub(crate) async fn pause(&mut self) {
        let jittered = self.delay.mul_f64(rand::random_range(0.5..1.0));
        self.delay = (self.delay * 2).min(Self::MAX);
        tokio::time::sleep(jittered).await;
    }
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod testing;
