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
//!
//! Pure.

use std::collections::VecDeque;

use everpoint_cache_log::LogPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_marks::{planted, reached};

/// See the module.
#[derive(Debug)]
pub struct BacklogCore {
    in_memory: VecDeque<Cached>,
    /// Unit: bytes.
    memory: usize,
    memory_max: usize,
    /// Blocks whose bytes were dropped; everything in the log from the first to the last is read
    /// again, and what comes meanwhile is dropped too.
    dropped: Option<Dropped>,
    /// Payload bytes that wait, in memory or not. Unit: bytes.
    waiting: u64,
}

/// A block and where it lies in the log.
#[derive(Debug)]
pub struct Cached {
    pub position: LogPosition,
    pub block: ChangeBlock,
    /// Made at ingest; `None` for blocks that were read again.
    pub digests: Option<Vec<PieceDigest>>,
}

/// What the commit takes next.
#[derive(Debug)]
pub enum Next {
    /// This block.
    Block(Box<Cached>),
    /// The next one that was dropped, in the log from `from` on if none was read again yet; tell
    /// [`BacklogCore::read_again`] which it was.
    ReadAgain { from: LogPosition },
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

impl BacklogCore {
    /// An empty backlog that keeps at most `memory_max` bytes of blocks. Unit: bytes.
    pub const fn new(memory_max: usize) -> Self {
        Self {
            in_memory: VecDeque::new(),
            memory: 0,
            memory_max,
            dropped: None,
            waiting: 0,
        }
    }

    /// A block became durable. Called in log order.
    pub fn push(&mut self, cached: Cached) {
        let memory = cached.memory_len();
        self.waiting += cached.block.bytes().len() as u64;
        let fits = self.memory + memory <= self.memory_max;
        let overtakes = planted!(BacklogOvertakes) && fits;
        if let Some(dropped) = self.dropped.as_mut().filter(|_| !overtakes) {
            dropped.last = cached.position;
        } else if fits {
            self.memory += memory;
            self.in_memory.push_back(cached);
        } else {
            reached!(BlockLeftToLog);
            self.dropped = Some(Dropped {
                first: cached.position,
                last: cached.position,
            });
        }
    }

    /// Everything in the log from `first` to `last`, `len` bytes, was found there by a boot. Called
    /// before anything is pushed.
    pub fn recovered(&mut self, first: LogPosition, last: LogPosition, len: u64) {
        if planted!(TailNotCommitted) {
            return;
        }
        self.dropped = Some(Dropped { first, last });
        self.waiting += len;
    }

    /// What comes next, if anything does.
    #[must_use]
    pub fn poll(&mut self) -> Option<Next> {
        if let Some(cached) = self.in_memory.pop_front() {
            let len = cached.block.bytes().len();
            self.memory -= cached.memory_len();
            self.waiting = self.waiting.saturating_sub(len as u64);
            return Some(Next::Block(Box::new(cached)));
        }
        self.dropped.map(|dropped| Next::ReadAgain {
            from: dropped.first,
        })
    }

    /// A dropped block, of `len` bytes at `position`, was read again. Returns whether it was the
    /// last: the next ones are in memory.
    pub fn read_again(&mut self, position: LogPosition, len: usize) -> bool {
        reached!(BlockReadAgain);
        self.waiting = self.waiting.saturating_sub(len as u64);
        let was_last = self.dropped.is_some_and(|dropped| dropped.last <= position);
        if was_last {
            self.dropped = None;
        }
        was_last
    }

    /// Bytes that wait for their commit. Unit: bytes.
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.in_memory.is_empty() && self.dropped.is_none()
    }
}

#[cfg(test)]
mod tests;
