//! Initial sync and resync of one disk, beside the guest's writes.
//!
//! ```text
//!  window of the disk ── holes? ──▶ hole: nothing to do (first copy), or zeroes under the lock
//!        │
//!        └─ data ─▶ first copy: read under the lock, queue what is not zero
//!                   compare:    read, send digests, and for pieces that differ: read again under
//!                               the lock, queue
//! ```
//!
//! New writes of the guest go into the same generation from its beginning, so only what was on the
//! disk before matters here. Whatever this queues was read under the range lock and got its `Seq`
//! before the lock was let go: it stands in the order where it was true.
//!
//! The queue sets the pace: a read waits until there is room, and most of the room is the guests'.

mod pieces;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use everpoint_capture::{LockMode, NotCurrent};
use everpoint_format::Change;
use everpoint_units::{Extent, GenerationId, SECTOR_LEN};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::blocking::blocking;
use crate::compare_book::CompareRequest;
use crate::disk::Disk;
use crate::disk_source::SourceError;
use crate::splitter::chain;

use pieces::{Segment, changes, differing, digests, segments, steps};

/// How much of the disk is asked for holes at a time. Unit: sectors (64 MiB).
const WINDOW_SECTORS: u64 = (64 << 20) / SECTOR_LEN;
/// How much is compared in one question. Unit: sectors (1 MiB): 8 KiB of digests.
const COMPARE_SECTORS: u64 = (1 << 20) / SECTOR_LEN;
/// How much is read under the lock at a time. Unit: sectors (256 KiB): a guest's write to it waits
/// for so long a read at most.
const COPY_SECTORS: u64 = (256 << 10) / SECTOR_LEN;
/// Questions that wait for their answer.
const IN_FLIGHT_MAX: usize = 32;
/// How long a failed read stands before the next attempt: this, doubled up to the second.
const RETRY_FROM: Duration = Duration::from_millis(250);
const RETRY_TO: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Resync {
    pub(crate) disk: Arc<Disk>,
    pub(crate) generation: GenerationId,
    /// Whether there is something to compare with.
    pub(crate) compare: Option<mpsc::Sender<CompareRequest>>,
    /// Unit: bytes a second.
    pub(crate) rate_max: Option<u64>,
}

/// A resync that goes on.
struct Running {
    resync: Resync,
    in_flight: VecDeque<(Extent, oneshot::Receiver<Bytes>)>,
    /// When the next read may begin.
    next_read: Instant,
}

/// Why a resync ended early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    /// Order was lost again, or the disk's task is gone.
    #[error("the generation is over")]
    NotCurrent(#[from] NotCurrent),
}

impl Resync {
    /// Walks the disk from end to end; ends with the record that says "level", or when the
    /// generation is over. May be dropped at any await.
    pub(crate) async fn run(self) {
        let disk = Arc::clone(&self.disk);
        let began = Instant::now();
        let running = Running {
            in_flight: VecDeque::new(),
            next_read: began,
            resync: self,
        };
        match running.walk().await {
            Ok(()) => {
                tracing::info!(disk = %disk.id, seconds = began.elapsed().as_secs_f64(), "resync complete");
            }
            Err(error) => tracing::info!(disk = %disk.id, %error, "resync ended early"),
        }
    }
}

impl Running {
    async fn walk(mut self) -> Result<(), Stopped> {
        let sectors = self.resync.disk.sectors();
        let mut at = 0;
        while at < sectors {
            let end = (at + WINDOW_SECTORS).min(sectors);
            let window = pieces::extent(at, end);
            let runs = self.read(|disk| disk.source().allocation(window)).await;
            let (list, reached) = segments(window, &runs);
            for segment in list {
                self.segment(segment).await?;
            }
            at = reached;
        }
        while !self.in_flight.is_empty() {
            self.oldest_answer().await?;
        }
        self.push(Change::ResyncComplete, None)
    }

    async fn segment(&mut self, segment: Segment) -> Result<(), Stopped> {
        match segment {
            Segment::Hole(extent) if self.resync.compare.is_none() => self.done(extent),
            Segment::Hole(extent) => {
                self.hole(extent).await?;
                self.done(extent);
            }
            Segment::Data(extent) if self.resync.compare.is_none() => {
                for step in steps(extent, COPY_SECTORS) {
                    self.pace(step).await;
                    self.copy(step).await?;
                    self.done(step);
                }
            }
            Segment::Data(extent) => {
                for step in steps(extent, COMPARE_SECTORS) {
                    self.pace(step).await;
                    self.compare(step).await?;
                }
            }
        }
        Ok(())
    }

    /// Says that a hole reads as zeroes, if it is one still.
    async fn hole(&mut self, extent: Extent) -> Result<(), Stopped> {
        let disk = Arc::clone(&self.resync.disk);
        disk.machine.resync_room(0).await;
        let turn = disk.splitter.gate.acquire(extent, LockMode::Shared).await;
        let runs = disk.source().allocation(extent).await;
        if matches!(runs.as_deref(), Ok([run]) if run.hole && run.extent == extent) {
            return self.push(Change::Zero(extent), None);
        }
        drop(turn);
        for step in steps(extent, COPY_SECTORS) {
            self.copy(step).await?;
        }
        Ok(())
    }

    /// Queues what an extent holds now.
    async fn copy(&mut self, extent: Extent) -> Result<(), Stopped> {
        let disk = Arc::clone(&self.resync.disk);
        disk.machine.resync_room(extent.byte_len().0).await;
        let mut retry = RETRY_FROM;
        loop {
            // A guest waits for the turn, so no failed read is repeated within one.
            let turn = disk.splitter.gate.acquire(extent, LockMode::Shared).await;
            match disk.source().read(extent).await {
                Ok(bytes) => {
                    self.note_read(&Ok(()));
                    let with_zeroes = self.resync.compare.is_some();
                    for (change, piece) in changes(extent, &bytes, with_zeroes) {
                        self.push(change, piece)?;
                    }
                    return Ok(());
                }
                Err(error) => {
                    drop(turn);
                    self.note_read(&Err(error));
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY_TO);
                }
            }
        }
    }

    /// Asks the server about an extent; answers are dealt with in order, some questions later.
    async fn compare(&mut self, extent: Extent) -> Result<(), Stopped> {
        let bytes = self.read(|disk| disk.source().read(extent)).await;
        let digests = blocking(move || digests(&bytes)).await;
        if digests.is_empty() {
            // Less than one piece, at the end of the disk.
            self.copy(extent).await?;
            self.done(extent);
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let request = CompareRequest {
            first_piece: pieces::first_piece(extent),
            digests,
            answer,
        };
        let ask = self
            .resync
            .compare
            .as_ref()
            .expect("there is something to compare with");
        ask.send(request).await.map_err(|_| NotCurrent)?;
        self.in_flight.push_back((extent, answered));
        if IN_FLIGHT_MAX <= self.in_flight.len() {
            self.oldest_answer().await?;
        }
        Ok(())
    }

    async fn oldest_answer(&mut self) -> Result<(), Stopped> {
        if let Some((extent, answer)) = self.in_flight.pop_front() {
            let differs = answer.await.map_err(|_| NotCurrent)?;
            for run in differing(extent, &differs) {
                for step in steps(run, COPY_SECTORS) {
                    self.copy(step).await?;
                }
            }
            self.done(extent);
        }
        Ok(())
    }

    fn push(&self, change: Change, piece: Option<Bytes>) -> Result<(), Stopped> {
        let Resync {
            disk, generation, ..
        } = &self.resync;
        let machine = &disk.machine;
        let stamp = machine.clock.stamp();
        machine
            .order()
            .push_own(disk.slot, *generation, stamp, change, piece)?;
        machine.packer.notify_one();
        Ok(())
    }

    /// Asks the source until it answers; nobody waits meanwhile but this resync.
    async fn read<T>(
        &self,
        ask: impl for<'a> Fn(&'a Disk) -> futures::future::BoxFuture<'a, Result<T, SourceError>>,
    ) -> T {
        let mut retry = RETRY_FROM;
        loop {
            match ask(&self.resync.disk).await {
                Ok(value) => {
                    self.note_read(&Ok(()));
                    return value;
                }
                Err(error) => {
                    self.note_read(&Err(error));
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY_TO);
                }
            }
        }
    }

    fn note_read(&self, read: &Result<(), SourceError>) {
        let failed = self
            .resync
            .disk
            .progress
            .failing
            .swap(read.is_err(), Relaxed);
        if let (Err(error), false) = (read, failed) {
            let (disk, error) = (self.resync.disk.id, chain(error));
            tracing::error!(%disk, error, "the resync cannot read the disk, and goes on trying");
        }
    }

    /// Waits until as much may be read.
    async fn pace(&mut self, extent: Extent) {
        if let Some(rate) = self.resync.rate_max {
            sleep_until(self.next_read).await;
            let seconds = extent.byte_len().0 as f64 / rate as f64;
            let now = Instant::now();
            self.next_read = self.next_read.max(now) + Duration::from_secs_f64(seconds);
        }
    }

    fn done(&self, extent: Extent) {
        let done = &self.resync.disk.progress.done;
        done.fetch_add(extent.byte_len().0, Relaxed);
    }
}
