//! The log as its user sees it, and the three threads behind it.
//!
//! | thread | does | waits for |
//! |---|---|---|
//! | writer | one write and one sync a batch, then answers | records |
//! | gatherer | checksums and copies the next batch while the writer syncs | records |
//! | keeper | zeroes files, gives them headers, frees settled ones | space, settlements |
//!
//! Threads of their own, because each blocks in the kernel for as long as the disk takes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use everpoint_units::ByteLen;

use crate::append::Append;
use crate::batch::Batch;
use crate::bell::Woken;
use crate::config::LogOwner;
use crate::engine::{CommitFault, Engine, RandomBits, Stage, Usage};
use crate::error::{Damage, IoFault, Poisoned};
use crate::reader::{self, LogReader};
use crate::recovery::{self, RecoveredBoot, Wanted};
use crate::storage::Storage;
use crate::storage::system::SystemStorage;
use crate::{AppendError, CacheLogConfig, LogPosition, OpenError, ReadError};

/// The process server's cache log: one directory, held exclusively.
///
/// Dropping it is like a crash that loses nothing synced: waiting appends are answered `Closed`, and
/// the next boot finds everything that was acknowledged. [`close`](Self::close) ends it cleanly.
///
/// The log proves its own past: each batch notes what was synced before it, and when nothing comes
/// for `mark_after` a mark does, so that a later loss of synced bytes is told from a torn tail. Only
/// the last batch before a crash has no such proof.
#[derive(Debug)]
pub struct CacheLog {
    engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What earlier boots left. Its files stay until everything in them is settled
/// ([`CacheLog::free_through`]).
#[derive(Debug)]
pub struct Recovered {
    /// Oldest first; boots that left no block are not among them.
    pub boots: Vec<RecoveredBoot>,
    /// What `accepts_damage` let pass.
    pub damage: Vec<Damage>,
    engine: Arc<Engine>,
}

impl CacheLog {
    /// Opens a directory: recovers it, then starts the log. Reads every recovered file once, at the
    /// speed of the disk.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(
        directory: &Path,
        config: &CacheLogConfig,
        owner: LogOwner,
        random: RandomBits,
    ) -> Result<(Self, Recovered), OpenError> {
        config.check()?;
        let storage = Arc::new(SystemStorage::open(directory, config.direct)?);
        Self::open_on(storage, config, owner, random)
    }

    /// The same on any storage; bounds of the configuration are not tested.
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
            threads: Mutex::new(Vec::new()),
        };
        log.start(config)?;
        Ok((log, recovered))
    }

    /// Appends one encoded change block, given in pieces: 1 byte to
    /// [`PAYLOAD_LEN_MAX`](everpoint_format::cache_log::PAYLOAD_LEN_MAX) together. Records lie in
    /// the log in the order of these calls. The future answers when the record is synced; it waits
    /// as long as there is no space, and never fails for that.
    ///
    /// The queue holds what it is given: its memory is the caller's, who takes blocks from a byte
    /// budget and heeds [`has_room`](Self::has_room).
    pub fn append(&self, pieces: impl IntoIterator<Item = Bytes>) -> Append {
        self.engine.append(pieces.into_iter().collect())
    }

    /// Whether a record appended now would be written without waiting for space or a long queue.
    pub fn has_room(&self) -> bool {
        self.engine.health().borrow().has_room
    }

    /// Waits until [`has_room`](Self::has_room), or until the log has ended.
    pub async fn wait_for_room(&self) {
        let mut health = self.engine.health();
        // The sender lives as long as `self`.
        let _ = health.wait_for(|health| health.has_room).await;
    }

    /// Waits until the log fails for ever. The process then ends: only a new one, which reads the
    /// medium, knows what was kept.
    pub async fn poisoned(&self) -> Poisoned {
        let mut health = self.engine.health();
        loop {
            if let Some(poisoned) = health.borrow_and_update().poisoned {
                return poisoned;
            }
            // The sender lives as long as `self`.
            let _ = health.changed().await;
        }
    }

    /// Frees the files whose every record lies at or below `position`. Call it with committed
    /// positions only: what is freed cannot be recovered.
    pub fn free_through(&self, position: LogPosition) {
        self.engine.settle(position);
    }

    /// Reads the records from the one that begins at `from` on, while others are appended. Blocking.
    pub fn reader(&self, from: LogPosition) -> LogReader {
        LogReader::new(Arc::clone(&self.engine), from, None)
    }

    /// Reads the record that begins at `position`. Blocking.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; `Freed` also when no record begins there.
    pub fn read(&self, position: LogPosition) -> Result<Bytes, ReadError> {
        reader::read_one(&self.engine, position)
    }

    /// How full the log is.
    pub fn usage(&self) -> Usage {
        self.engine.usage()
    }

    /// Takes no more appends, writes what is queued as far as there is room, notes on the medium
    /// that all was synced, and stops. Appends without room are answered `Closed`.
    ///
    /// # Errors
    ///
    /// `Poisoned` when the log has failed before or fails now.
    pub async fn close(&self) -> Result<(), AppendError> {
        self.engine.stop(Stage::Draining);
        let mut health = self.engine.health();
        // The sender lives as long as `self`.
        let _ = health.wait_for(|health| health.is_closed).await;
        let poisoned = health.borrow().poisoned;
        poisoned.map_or(Ok(()), |poisoned| Err(poisoned.into()))
    }

    fn start(&self, config: &CacheLogConfig) -> Result<(), OpenError> {
        let (mark_after, retry_after) = (config.mark_after, config.space_retry_after);
        self.spawn("cache-log-writer", move |engine| {
            run_writer(engine, mark_after, retry_after);
        })?;
        self.spawn("cache-log-gatherer", run_gatherer)?;
        self.spawn("cache-log-keeper", move |engine| {
            run_keeper(engine, retry_after);
        })
    }

    fn spawn(
        &self,
        name: &str,
        run: impl FnOnce(&Engine) + Send + 'static,
    ) -> Result<(), OpenError> {
        let engine = Arc::clone(&self.engine);
        let thread = std::thread::Builder::new()
            .name(String::from(name))
            .spawn(move || run(&engine))
            .map_err(|error| OpenError::Thread {
                source: IoFault::from(error),
            })?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(thread);
        Ok(())
    }
}

impl Drop for CacheLog {
    fn drop(&mut self) {
        self.engine.stop(Stage::Stopped);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A thread that panicked has said so; its waiters hear `Closed`.
            let _ = thread.join();
        }
        self.engine.close(None);
    }
}

impl Recovered {
    /// The oldest block that survived.
    pub fn first(&self) -> Option<LogPosition> {
        self.boots.first().map(|boot| boot.first)
    }

    /// The newest block that survived; once it is settled, nothing of earlier boots is left.
    pub fn last(&self) -> Option<LogPosition> {
        self.boots.last().map(|boot| boot.last)
    }

    /// Payload of all blocks that survived.
    pub fn block_len(&self) -> ByteLen {
        ByteLen(self.boots.iter().map(|boot| boot.block_len.0).sum())
    }

    /// Reads what survived, oldest first, boot after boot; `None` when there is nothing. Blocking;
    /// file by file, in a window of 4 MiB.
    pub fn reader(&self) -> Option<LogReader> {
        let (first, last) = (self.first()?, self.last()?);
        let end = Some(last.file_no().next());
        Some(LogReader::new(Arc::clone(&self.engine), first, end))
    }
}

/// What earlier boots left, and an engine that goes on behind it; nothing runs yet.
pub(crate) fn recover(
    storage: Arc<dyn Storage>,
    config: &CacheLogConfig,
    owner: LogOwner,
    random: RandomBits,
) -> Result<(Arc<Engine>, Recovered), OpenError> {
    let wanted = Wanted {
        owner,
        file_len: config.file_len.0,
        accepts_damage: config.accepts_damage,
    };
    let mut recovery = recovery::recover(&*storage, &wanted)?;
    let boots = std::mem::take(&mut recovery.boots);
    let damage = std::mem::take(&mut recovery.damage);
    let engine = Arc::new(Engine::new(storage, config, owner, recovery, random));
    let recovered = Recovered {
        boots,
        damage,
        engine: Arc::clone(&engine),
    };
    Ok((engine, recovered))
}

/// Writes batches until the log ends.
fn run_writer(engine: &Engine, mark_after: Duration, retry_after: Duration) {
    loop {
        let seen = engine.bells.writer.rings();
        if let Some(batch) = engine.next_batch() {
            if !write(engine, batch, retry_after) {
                break;
            }
            continue;
        }
        match engine.stage() {
            Stage::Open => {}
            Stage::Draining if !engine.is_at_rest() => {
                engine.bells.writer.wait(seen, None);
                continue;
            }
            Stage::Draining => {
                if let Some(mark) = engine.mark() {
                    write(engine, mark, retry_after);
                }
                break;
            }
            Stage::Stopped => break,
        }
        let timeout = engine.wants_mark().then_some(mark_after);
        if engine.bells.writer.wait(seen, timeout) == Woken::TimedOut
            && let Some(mark) = engine.mark()
            && !write(engine, mark, retry_after)
        {
            break;
        }
    }
    engine.close(None);
}

/// Commits a batch, waiting for space as long as the log is open; `false` if the log has ended.
fn write(engine: &Engine, mut batch: Batch, retry_after: Duration) -> bool {
    loop {
        let seen = engine.bells.writer.rings();
        match engine.commit(batch) {
            Ok(()) => return true,
            Err(CommitFault::Poisoned) => return false,
            Err(CommitFault::OutOfSpace(refused)) => batch = *refused,
        }
        if engine.stage() != Stage::Open {
            engine.close(Some(batch));
            return false;
        }
        engine.bells.writer.wait(seen, Some(retry_after));
    }
}

/// Gathers the next batch until the log ends; what is left then, the writer gathers.
fn run_gatherer(engine: &Engine) {
    loop {
        let seen = engine.bells.gatherer.rings();
        if engine.fill() {
            continue;
        }
        if engine.stage() != Stage::Open {
            return;
        }
        engine.bells.gatherer.wait(seen, None);
    }
}

/// Keeps files until the log ends.
fn run_keeper(engine: &Engine, retry_after: Duration) {
    loop {
        let seen = engine.bells.keeper.rings();
        if engine.keep_files() {
            continue;
        }
        if engine.stage() != Stage::Open {
            return;
        }
        let timeout = engine.is_space_denied().then_some(retry_after);
        if engine.bells.keeper.wait(seen, timeout) == Woken::TimedOut {
            engine.retry_space();
        }
    }
}

#[cfg(test)]
mod tests;
