//! The backlog ([`crate::backlog_core`]) between the task that logs and the task that commits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use everpoint_cache_log::LogPosition;
use tokio::sync::Notify;

use crate::backlog_core::BacklogCore;
pub(crate) use crate::backlog_core::{Cached, Next};

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    core: Mutex<BacklogCore>,
    arrived: Notify,
}

impl Backlog {
    /// An empty backlog that keeps at most `memory_max` bytes of blocks. Unit: bytes.
    pub(crate) fn new(memory_max: usize) -> Self {
        Self {
            core: Mutex::new(BacklogCore::new(memory_max)),
            arrived: Notify::new(),
        }
    }

    /// See [`BacklogCore::push`].
    pub(crate) fn push(&self, cached: Cached) {
        self.lock().push(cached);
        self.arrived.notify_one();
    }

    /// See [`BacklogCore::recovered`].
    pub(crate) fn recovered(&self, first: LogPosition, last: LogPosition, len: u64) {
        self.lock().recovered(first, last, len);
        self.arrived.notify_one();
    }

    /// What comes next; waits until there is something. Cancel-safe.
    pub(crate) async fn next(&self) -> Next {
        loop {
            let arrived = self.arrived.notified();
            if let Some(next) = self.lock().poll() {
                return next;
            }
            arrived.await;
        }
    }

    /// See [`BacklogCore::read_again`].
    pub(crate) fn read_again(&self, position: LogPosition, len: usize) -> bool {
        self.lock().read_again(position, len)
    }

    /// Bytes that wait for their commit. Unit: bytes.
    pub(crate) fn waiting(&self) -> u64 {
        self.lock().waiting()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BacklogCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
