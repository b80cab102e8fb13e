//! How an agent ends: in good order, or at once.

use std::sync::Arc;
use std::time::Duration;

use everpoint_transport::CloseReason;
use everpoint_units::DiskId;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Agent, Inner};
use crate::blocking::blocking;
use crate::disk_source::SourceIdentity;
use crate::disk_task::DiskCommand;
use crate::splitter::chain;
use crate::start_core::{DiskStop, disk_stop};
use crate::state::CleanDisk;

/// How long threads get to end what they are doing.
const THREADS_TIMEOUT: Duration = Duration::from_secs(10);

/// What a stop in good order came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stopped {
    /// Disks that go on at the next start where they stood.
    pub clean: Vec<DiskId>,
    /// Disks that were drained, and are compared at the next start all the same: their source, a block
    /// device or another NBD export, cannot show that nobody wrote to it meanwhile.
    pub unproven: Vec<DiskId>,
    /// Disks that were not drained, or whose stop could not be remembered. They are compared at the
    /// next start.
    pub undrained: Vec<DiskId>,
}

impl Agent {
    /// Stops in good order: guests are answered and their connections ended, the local disks are
    /// flushed, everything captured is committed, and where each disk stands is remembered. What
    /// takes longer than `patience` is left; those disks are compared at the next start.
    pub async fn stop(mut self, patience: Duration) -> Stopped {
        let deadline = Instant::now() + patience;
        let stopped = self.inner.wind_down(deadline).await;
        self.end_threads().await;
        stopped
    }

    /// Ends at once, as a crash would: nothing is waited for and nothing is remembered. For tests
    /// of what a crash costs.
    pub async fn kill(mut self) {
        self.end_threads().await;
    }

    async fn end_threads(&mut self) {
        self.inner.abort_tasks();
        let runtimes = [self.guest.take(), self.background.take()];
        let end = move || {
            for runtime in runtimes.into_iter().flatten() {
                runtime.shutdown_timeout(THREADS_TIMEOUT);
            }
        };
        blocking(end).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.inner.abort_tasks();
        let runtimes = [self.guest.take(), self.background.take()];
        runtimes
            .into_iter()
            .flatten()
            .for_each(Runtime::shutdown_background);
    }
}

impl Inner {
    fn abort_tasks(&self) {
        let mut tasks = self
            .tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.abort_all();
    }

    async fn wind_down(self: &Arc<Self>, deadline: Instant) -> Stopped {
        let machine = self.machine.id;
        tracing::info!(%machine, "agent stops");
        if timeout_at(deadline, self.nbd.shutdown()).await.is_err() {
            tracing::warn!(%machine, "guests did not end in time");
            return self.all_undrained();
        }
        // No more statements of idle disks: where a disk stands must not move behind its answer.
        self.machine.order().silence();
        let waits: Vec<_> = self
            .disks
            .commands()
            .into_iter()
            .map(|(disk, commands)| async move {
                let (reply, drained) = oneshot::channel();
                let asked = commands.send(DiskCommand::Drain(reply)).await;
                // A source that does not answer costs its own proof and no other's.
                let flushed = timeout_at(deadline, disk.source().flush()).await;
                let waited = timeout_at(deadline, drained).await;
                let tail = waited.ok().and_then(Result::ok).flatten();
                let tail = tail.filter(|_| asked.is_ok());
                let flushed = matches!(flushed, Ok(Ok(())));
                let left = disk_stop(tail, flushed, disk.source().identity());
                (disk.id, left)
            })
            .collect();
        let left = futures::future::join_all(waits).await;
        let stopped = self.remember(left).await;
        self.close_link(deadline).await;
        stopped
    }

    /// Remembers where the disks stand that are in good order.
    async fn remember(&self, left: Vec<(DiskId, DiskStop<SourceIdentity>)>) -> Stopped {
        let (mut clean, mut stopped) = (Vec::new(), Stopped::default());
        for (disk, left) in left {
            match left {
                DiskStop::Clean(stood) => clean.push(CleanDisk { disk, stood }),
                DiskStop::Unproven => stopped.unproven.push(disk),
                DiskStop::Undrained => stopped.undrained.push(disk),
            }
        }
        let ids: Vec<DiskId> = clean.iter().map(|clean| clean.disk).collect();
        let (state, machine) = (Arc::clone(&self.state), self.machine.id);
        let saved = blocking(move || state.save_clean(machine, &clean)).await;
        match saved {
            Ok(()) => stopped.clean = ids,
            Err(error) => {
                tracing::error!(error = %chain(&error), "the stop cannot be remembered");
                stopped.undrained.extend(ids);
            }
        }
        tracing::info!(
            %machine,
            clean = stopped.clean.len(),
            unproven = stopped.unproven.len(),
            undrained = stopped.undrained.len(),
            "agent stopped"
        );
        stopped
    }

    fn all_undrained(&self) -> Stopped {
        Stopped {
            undrained: self.disks.all().iter().map(|disk| disk.id).collect(),
            ..Stopped::default()
        }
    }

    /// Says goodbye; who does not hear it in time is left alone.
    async fn close_link(&self, deadline: Instant) {
        let session = self.sessions.borrow().clone();
        if let Some(session) = session {
            session.link.close(CloseReason::Shutdown, "the agent stops");
            let _ = timeout_at(deadline, session.link.closed()).await;
        }
    }
}
