//! The log without threads: whoever owns it takes its steps, one by one, in any order. For a simulated
//! world, in which everything happens on one thread and in virtual time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::append::Append;
use crate::batch::Batch;
use crate::config::LogOwner;
use crate::engine::{CommitFault, Engine, RandomBits, Stage, Usage};
use crate::log::{Recovered, recover};
use crate::reader::LogReader;
use crate::storage::Storage;
use crate::{CacheLogConfig, LogPosition, OpenError};

/// See the module. The steps are those of the log's three threads.
pub struct SteppedLog {
    engine: Arc<Engine>,
    /// What the file system had no space for.
    held: Mutex<Option<Batch>>,
}

impl fmt::Debug for SteppedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SteppedLog").field(&self.engine).finish()
    }
}

/// What a step of the writer came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// Nothing waits, or nothing that there is a file for.
    Nothing,
    /// A batch was written and synced, and its appends were answered.
    Synced,
    /// The file system is full. The batch is kept; the next step tries it again.
    OutOfSpace,
    /// The log has failed for ever.
    Poisoned,
}

impl SteppedLog {
    /// Recovers a directory and opens a log on it; bounds of the configuration are not tested.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_on(
        storage: Arc<dyn Storage>,
        config: &CacheLogConfig,
        owner: LogOwner,
        random: RandomBits,
    ) -> Result<(Self, Recovered), OpenError> {
        let (engine, recovered) = recover(storage, config, owner, random)?;
        let log = Self {
            engine,
            held: Mutex::default(),
        };
        Ok((log, recovered))
    }

    /// See [`CacheLog::append`](crate::CacheLog::append).
    pub fn append(&self, pieces: impl IntoIterator<Item = Bytes>) -> Append {
        self.engine.append(pieces.into_iter().collect())
    }

    /// One step of the writer: one batch.
    pub fn write(&self) -> Written {
        let held = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match held.or_else(|| self.engine.next_batch()) {
            Some(batch) => self.commit(batch),
            None if self.engine.stage() == Stage::Open => Written::Nothing,
            None => Written::Poisoned,
        }
    }

    /// One step of the writer when nothing came for a while: notes that the last batch was synced.
    pub fn mark(&self) -> Written {
        self.engine
            .mark()
            .map_or(Written::Nothing, |batch| self.commit(batch))
    }

    fn commit(&self, batch: Batch) -> Written {
        match self.engine.commit(batch) {
            Ok(()) => Written::Synced,
            Err(CommitFault::Poisoned) => Written::Poisoned,
            Err(CommitFault::OutOfSpace(batch)) => {
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(*batch);
                Written::OutOfSpace
            }
        }
    }

    /// One step of the keeper: zeroes a file, gives one a header, or frees one. `false` when there was
    /// nothing to do.
    pub fn keep(&self) -> bool {
        self.engine.keep_files()
    }

    /// Whether the file system had no space for a file.
    pub fn is_space_denied(&self) -> bool {
        self.engine.is_space_denied()
    }

    /// Asks for space again.
    pub fn retry_space(&self) {
        self.engine.retry_space();
    }

    /// See [`CacheLog::has_room`](crate::CacheLog::has_room).
    pub fn has_room(&self) -> bool {
        self.engine.health().borrow().has_room
    }

    /// See [`CacheLog::free_through`](crate::CacheLog::free_through).
    pub fn free_through(&self, position: LogPosition) {
        self.engine.settle(position);
    }

    /// See [`CacheLog::reader`](crate::CacheLog::reader).
    pub fn reader(&self, from: LogPosition) -> LogReader {
        LogReader::new(Arc::clone(&self.engine), from, None)
    }

    /// How full the log is.
    pub fn usage(&self) -> Usage {
        self.engine.usage()
    }
}
