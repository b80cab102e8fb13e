//! What is cached and not yet handed to the commit: a queue that is the cache log itself.
//!
//! Blocks come in log order and leave in log order. While memory allows, their bytes stay here; when
//! it does not, they are dropped and read again from the log when their turn comes. So the backlog
//! is bounded by the log's quota on disk, and by a share of the byte budget in memory.
//!
//! ```text
//! log:      ┌── read again ──┐
//!  … freed │ a b c d e f g h i j k │ newest
//!           └ cursor     └ in memory: only when nothing before them was dropped
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use everpoint_cache_log::LogPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    state: Mutex<State>,
    arrived: Notify,
    memory_max: usize,
}

/// A block and where it lies in the log.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) position: LogPosition,
    pub(crate) block: ChangeBlock,
    /// Made at ingest; `None` for blocks that were read again.
    pub(crate) digests: Option<Vec<PieceDigest>>,
}

/// What the commit takes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// This block.
    Block(Box<Cached>),
    /// The next one that was dropped, in the log from `from` on if none was read again yet; tell
    /// [`Backlog::read_again`] which it was.
    ReadAgain { from: LogPosition },
}

#[derive(Debug, Default)]
struct State {
    in_memory: VecDeque<Cached>,
    memory: usize,
    /// Blocks whose bytes were dropped; everything in the log from the first to the last is read
    /// again, and what comes meanwhile is dropped too.
    dropped: Option<Dropped>,
    /// Payload bytes that wait, in memory or not. Unit: bytes.
    waiting: u64,
}

#[derive(Clone, Copy, Debug)]
struct Dropped {
    first: LogPosition,
    last: LogPosition,
}

impl Cached {
    /// Unit: bytes.
    const fn memory_len(&self) -> usize {
        let header = self.block.header();
        header.encoded_len() + header.opened_len()
    }
}

impl Backlog {
    /// An empty backlog that keeps at most `memory_max` bytes of blocks. Unit: bytes.
    pub(crate) fn new(memory_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            memory_max,
        }
    }

    /// A block became durable. Called in log order.
    pub(crate) fn push(&self, cached: Cached) {
        let mut state = self.lock();
        let memory = cached.memory_len();
        state.waiting += cached.block.bytes().len() as u64;
        if let Some(dropped) = &mut state.dropped {
            dropped.last = cached.position;
        } else if state.memory + memory <= self.memory_max {
            state.memory += memory;
            state.in_memory.push_back(cached);
        } else {
            state.dropped = Some(Dropped {
                first: cached.position,
                last: cached.position,
            });
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Everything in the log from `first` to `last`, `len` bytes, was found there by a boot. Called
    /// before anything is pushed.
    pub(crate) fn recovered(&self, first: LogPosition, last: LogPosition, len: u64) {
        let mut state = self.lock();
        state.dropped = Some(Dropped { first, last });
        state.waiting += len;
        drop(state);
        self.arrived.notify_one();
    }

    /// What comes next; waits until there is something. Cancel-safe.
    pub(crate) async fn next(&self) -> Next {
        loop {
            let arrived = self.arrived.notified();
            if let Some(next) = self.try_next() {
                return next;
            }
            arrived.await;
        }
    }

    fn try_next(&self) -> Option<Next> {
        let mut state = self.lock();
        if let Some(cached) = state.in_memory.pop_front() {
            let len = cached.block.bytes().len();
            state.memory -= cached.memory_len();
            state.waiting = state.waiting.saturating_sub(len as u64);
            return Some(Next::Block(Box::new(cached)));
        }
        state.dropped.map(|dropped| Next::ReadAgain {
            from: dropped.first,
        })
    }

    /// A dropped block, of `len` bytes at `position`, was read again. Returns whether it was the
    /// last: the next ones are in memory.
    pub(crate) fn read_again(&self, position: LogPosition, len: usize) -> bool {
        let mut state = self.lock();
        state.waiting = state.waiting.saturating_sub(len as u64);
        let was_last = state
            .dropped
            .is_some_and(|dropped| dropped.last <= position);
        if was_last {
            state.dropped = None;
        }
        was_last
    }

    /// Bytes that wait for their commit. Unit: bytes.
    pub(crate) fn waiting(&self) -> u64 {
        self.lock().waiting
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.in_memory.is_empty() && state.dropped.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
