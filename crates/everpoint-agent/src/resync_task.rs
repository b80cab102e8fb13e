//! Initial sync and resync of one disk, beside the guest's writes: does what its [`ResyncCore`] wants.
//!
//! The queue sets the pace: a read waits until there is room, and most of the room is the guests'.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use everpoint_capture::{LockMode, NotCurrent};
use everpoint_format::Change;
use everpoint_units::{Extent, GenerationId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::blocking::blocking;
use crate::disk::Disk;
use crate::disk_core::effect::{Answer, Question};
use crate::disk_source::SourceError;
use crate::machine::RoomTaken;
use crate::resync_core::{Need, ResyncCore, digests};
use crate::splitter::chain;

/// See the module.
pub(crate) struct Resync {
    pub(crate) disk: Arc<Disk>,
    pub(crate) generation: GenerationId,
    pub(crate) core: ResyncCore,
    /// Questions to the server, by way of the disk's task.
    pub(crate) ask: mpsc::Sender<Question>,
    pub(crate) answered: mpsc::Receiver<Answer>,
    /// For what is read next.
    pub(crate) room: Option<RoomTaken>,
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
    pub(crate) async fn run(mut self) {
        let began = Instant::now();
        let disk = self.disk.id;
        match self.walk().await {
            Ok(()) => {
                tracing::info!(%disk, seconds = began.elapsed().as_secs_f64(), "resync complete");
            }
            Err(error) => tracing::info!(%disk, %error, "resync ended early"),
        }
    }

    async fn walk(&mut self) -> Result<(), Stopped> {
        let disk = Arc::clone(&self.disk);
        let clock = disk.machine.clock;
        loop {
            let need = self.core.need(clock.now());
            self.publish();
            match need {
                Need::Until(moment) => sleep_until(clock.instant(moment)).await,
                Need::Room { len } => {
                    self.room = Some(disk.machine.resync_room(len).await);
                    self.core.handle_room();
                }
                Need::Allocation(window) => match disk.source().allocation(window).await {
                    Ok(runs) => self.core.handle_allocation(&runs),
                    Err(error) => self.handle_failed(&error),
                },
                Need::Digests(extent) => self.compare(extent).await?,
                Need::Hole(extent) => self.hole(extent).await?,
                Need::Copy(extent) => self.copy(extent).await?,
                Need::Answer => {
                    let answer = self.answered.recv().await;
                    self.core.handle_answer(answer.ok_or(NotCurrent)?);
                }
                Need::Settle(extent) => {
                    let gate = &disk.splitter.gate;
                    drop(gate.acquire(extent, LockMode::Shared).await);
                    self.core.handle_settled();
                }
                Need::Complete => return self.push(Change::ResyncComplete, None),
            }
        }
    }

    async fn compare(&mut self, extent: Extent) -> Result<(), Stopped> {
        let bytes = match self.disk.source().read(extent).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.handle_failed(&error);
                return Ok(());
            }
        };
        let digests = blocking(move || digests(&bytes)).await;
        if let Some(question) = self.core.handle_digests(digests) {
            self.ask.send(question).await.map_err(|_| NotCurrent)?;
        }
        Ok(())
    }

    async fn hole(&mut self, extent: Extent) -> Result<(), Stopped> {
        let disk = Arc::clone(&self.disk);
        let _turn = disk.splitter.gate.acquire(extent, LockMode::Shared).await;
        let runs = disk.source().allocation(extent).await;
        self.room = None;
        match self.core.handle_hole(runs.as_deref().ok()) {
            Some(change) => self.push(change, None),
            None => Ok(()),
        }
    }

    async fn copy(&mut self, extent: Extent) -> Result<(), Stopped> {
        let disk = Arc::clone(&self.disk);
        let _turn = disk.splitter.gate.acquire(extent, LockMode::Shared).await;
        match disk.source().read(extent).await {
            Ok(bytes) => {
                let changes = self.core.handle_copied(&bytes);
                self.room = None;
                for (change, piece) in changes {
                    self.push(change, piece)?;
                }
            }
            Err(error) => self.handle_failed(&error),
        }
        Ok(())
    }

    fn push(&self, change: Change, piece: Option<Bytes>) -> Result<(), Stopped> {
        let machine = &self.disk.machine;
        let stamp = machine.clock.stamp();
        machine
            .order()
            .push_own(self.disk.slot, self.generation, stamp, change, piece)?;
        machine.packer.notify_one();
        Ok(())
    }

    fn handle_failed(&mut self, error: &SourceError) {
        if !self.core.is_failing() {
            let (disk, error) = (self.disk.id, chain(error));
            tracing::error!(%disk, error, "the resync cannot read the disk, and goes on trying");
        }
        self.core.handle_failed(self.disk.machine.clock.now());
        self.room = None;
        self.publish();
    }

    /// Shows how far it has come.
    fn publish(&self) {
        let progress = &self.disk.progress;
        progress.done.store(self.core.done(), Relaxed);
        progress.failing.store(self.core.is_failing(), Relaxed);
    }
}
