//! A process server as a whole: how it starts, what runs, how it stops.
//!
//! ```text
//! start:  state ─▶ vault ─▶ new journal noted ─▶ cache log recovered ─▶ old journals sealed
//!         ─▶ cached tail taken up again ─▶ agents let in
//! stop:   agents out ─▶ everything cached is committed ─▶ log closed
//! ```

mod start;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use everpoint_transport::{ByteBudget, CloseReason, Listener};
use everpoint_units::{JournalId, ServerId, VaultId};
use everpoint_vault::Vault;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::commit_task::Command;
use crate::metrics::{self, Fill};
use crate::session;
use crate::shared::{Ended, Shared};

pub use start::StartError;

/// How often gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// A running process server. Dropping it is like a crash: nothing acknowledged is lost.
pub struct ProcessServer {
    shared: Arc<Shared>,
    local_address: SocketAddr,
    stopping: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    tasks: JoinSet<()>,
    drain_timeout: Duration,
}

/// How a server stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stopped {
    /// Everything cached is committed.
    Drained,
    /// Something is cached and not committed; the next start commits it.
    LeftInLog,
}

impl ProcessServer {
    /// Where agents connect.
    pub const fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Its id.
    pub fn server_id(&self) -> ServerId {
        self.shared.server
    }

    /// The id of its vault.
    pub fn vault_id(&self) -> VaultId {
        self.shared.header.vault
    }

    /// The vault that it writes.
    pub fn vault(&self) -> &Vault {
        &self.shared.vault
    }

    /// The journal that is written now.
    pub fn journal(&self) -> JournalId {
        self.shared.journal()
    }

    /// Most bytes of buffers that were ever held, and what may be held. Unit: bytes.
    pub fn memory_high_water(&self) -> (usize, usize) {
        let sum = |of: fn(&ByteBudget) -> usize| self.shared.budgets().map(of).sum();
        (sum(ByteBudget::high_water), sum(ByteBudget::capacity))
    }

    /// Waits until the server ends by itself, which it does only for a reason.
    pub async fn ended(&self) -> Arc<Ended> {
        self.shared.ended().await
    }

    /// Lets the agents go, commits what is cached, and ends.
    pub async fn stop(mut self) -> Stopped {
        self.stopping.send_replace(true);
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!(%error, "the task that accepts agents failed");
        }
        let drained = timeout(self.drain_timeout, self.drain()).await.is_ok();
        if let Err(error) = self.shared.log.close().await {
            tracing::error!(%error, "the cache log did not close");
        }
        self.end_tasks().await;
        if drained {
            Stopped::Drained
        } else {
            Stopped::LeftInLog
        }
    }

    /// Ends at once, as a crash would: nothing is drained. When this returns, another server can start
    /// on the same directories.
    pub async fn abort(mut self) {
        self.accepting.abort();
        // It was aborted, or had failed before.
        let _ = (&mut self.accepting).await;
        self.end_tasks().await;
        // What runs on a thread of its own cannot be stopped, and has the directories until it is done.
        while 1 < Arc::strong_count(&self.shared) {
            tokio::task::yield_now().await;
        }
    }

    async fn end_tasks(&mut self) {
        // First who asks the machines' tasks, then these.
        self.tasks.shutdown().await;
        self.shared.halt();
        self.shared.tasks.wait().await;
    }

    /// Waits until nothing is on its way to the log, and everything in it is committed.
    async fn drain(&self) {
        loop {
            let (reply, answer) = oneshot::channel();
            let sent = self.shared.commands.send(Command::Drain { reply }).await;
            if sent.is_err() || answer.await.is_err() {
                // The commit ended: nothing more will be committed. The caller's time-out counts.
                return std::future::pending().await;
            }
            let queued = self.shared.log.usage().queued.0;
            if queued == 0 && self.shared.backlog.is_empty() {
                return;
            }
        }
    }
}

impl Drop for ProcessServer {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.shared.halt();
        self.accepting.abort();
    }
}

/// Accepts agents until the server stops.
async fn accept(shared: Arc<Shared>, mut listener: Listener, mut stopping: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    loop {
        // Every arm is cancel-safe; handshakes live in the listener.
        tokio::select! {
            () = told(&mut stopping) => break,
            why = shared.ended() => {
                tracing::error!(%why, "the server ends");
                let reason = match *why {
                    Ended::Fenced { .. } => CloseReason::Fenced,
                    _ => CloseReason::Internal,
                };
                listener.shutdown(reason).await;
                sessions.shutdown().await;
                return;
            }
            Some(_) = sessions.join_next() => (),
            link = listener.accept() => match link {
                Some(link) => {
                    sessions.spawn(session::serve(Arc::clone(&shared), link));
                }
                None => break,
            }
        }
    }
    listener.shutdown(CloseReason::Shutdown).await;
    sessions.shutdown().await;
}

/// Waits until the server is told to stop, or dropped.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Sets the gauges, for ever.
async fn set_gauges(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(GAUGES_EVERY);
    loop {
        ticks.tick().await;
        let usage = shared.log.usage();
        let now = shared.clock.now();
        let since = shared.progress.borrow().waiting_since;
        if let Some(replicas) = &shared.replicas {
            metrics::replica_traffic(&replicas.traffic_today(), &replicas.prices);
        }
        metrics::fill(Fill {
            log: usage.used.0,
            log_quota: usage.quota.0,
            memory: shared.memory_used(),
            backlog: shared.backlog.waiting(),
            waiting: since.map_or(Duration::ZERO, |since| now.since(since)),
        });
    }
}
