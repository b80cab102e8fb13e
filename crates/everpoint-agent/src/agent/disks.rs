//! Disks that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use everpoint_units::{DiskId, GenerationId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Agent, Inner};
use crate::blocking::blocking;
use crate::config::{DiskConfig, IdText};
use crate::disk::{Disk, Progress};
use crate::disk_core::DiskCore;
use crate::disk_core::report::DiskReport;
use crate::disk_source;
use crate::disk_table::DiskEntry;
use crate::disk_task::{DiskTask, DiskTaskParts};
use crate::error::{AddDiskError, DetachError};
use crate::point_core::{Fate, LevelDisk, end};
use crate::splitter::Splitter;
use crate::start_core::{begin_disk, resumed};
use crate::state::{CleanDisk, DisksState, StateError};

/// Batches that wait for a disk's task; more than are ever packed at once.
const BATCH_COUNT_MAX: usize = 64;
/// How long the end of a disk may take to be committed.
const END_TIMEOUT: Duration = Duration::from_secs(60);

impl Agent {
    /// Protects one more disk, now and after a restart.
    ///
    /// # Errors
    ///
    /// See [`AddDiskError`]; nothing has changed then.
    pub async fn attach(&self, disk: DiskConfig) -> Result<(), AddDiskError> {
        self.inner.attach(disk).await
    }

    /// Protects a disk no longer; with `end` its machine's points no longer count it.
    ///
    /// # Errors
    ///
    /// See [`DetachError`].
    pub async fn detach(&self, disk: DiskId, end: bool) -> Result<(), DetachError> {
        self.inner.detach(disk, end).await
    }
}

impl Inner {
    pub(crate) async fn attach(self: &Arc<Self>, config: DiskConfig) -> Result<(), AddDiskError> {
        config
            .check()
            .map_err(|(key, rule)| AddDiskError::Setting { key, rule })?;
        let _alone = self.changing.lock().await;
        let disk = config.id;
        if self.disks.get(disk.0).is_some() {
            return Err(AddDiskError::Attached { disk: disk.0 });
        }
        self.add_disk(config.clone(), None).await?;
        let configured = self.config.disks.iter().any(|known| known.id == disk);
        let remembered = self.change_disks(move |disks| {
            disks.detached.retain(|other| *other != disk);
            disks.attached.retain(|other| other.id != disk);
            if !configured {
                disks.attached.push(config);
            }
        });
        if let Err(error) = remembered.await {
            self.drop_disk(disk.0).await;
            return Err(error.into());
        }
        if self.session.announced.load(Relaxed) < self.disks.count() {
            self.session.restart.notify_one();
        }
        Ok(())
    }

    pub(crate) async fn detach(&self, id: DiskId, end: bool) -> Result<(), DetachError> {
        let _alone = self.changing.lock().await;
        let Some(disk) = self.disks.get(id) else {
            return Err(DetachError::Unknown { disk: id });
        };
        let report = *disk.report.borrow();
        let level = report.level_generation().filter(|_| report.linked);
        if end && level.is_none() {
            let state = disk.state();
            return Err(DetachError::NotProtected { disk: id, state });
        }
        let name = disk.config.name.clone();
        self.nbd.detach(&name).await;
        let ended = match level.filter(|_| end) {
            Some(generation) => self.end_disk(&disk, generation).await,
            None => Ok(()),
        };
        self.drop_disk(id).await;
        self.change_disks(move |disks| {
            disks.attached.retain(|other| other.id.0 != id);
            disks.detached.retain(|other| other.0 != id);
            disks.detached.push(IdText(id));
        })
        .await?;
        tracing::info!(disk = %id, name, end, "disk detached");
        ended
    }

    /// Records the end of a disk that no guest uses any more, in the generation that is level, and
    /// waits until it is committed.
    async fn end_disk(
        &self,
        disk: &Arc<Disk>,
        generation: GenerationId,
    ) -> Result<(), DetachError> {
        let stamp = self.machine.clock.stamp();
        let slot = disk.slot;
        let level = LevelDisk { slot, generation };
        let recorded = end(&mut self.machine.order(), level, stamp);
        let mark = recorded.map_err(|_| DetachError::NotProtected {
            disk: disk.id,
            state: disk.state(),
        })?;
        self.machine.packer.notify_one();
        let began = Instant::now();
        match self.fate(&mark, &[Arc::clone(disk)], END_TIMEOUT).await {
            Fate::Committed => Ok(()),
            Fate::Open | Fate::Lost => Err(DetachError::EndNotCommitted {
                disk: disk.id,
                waited: began.elapsed(),
            }),
        }
    }

    /// Opens a disk and serves it.
    pub(super) async fn add_disk(
        self: &Arc<Self>,
        config: DiskConfig,
        clean: Option<&CleanDisk>,
    ) -> Result<(), AddDiskError> {
        let id = config.id.0;
        let source = disk_source::open(&config, &self.guest).await?;
        let found = source.identity().ok().flatten();
        let resumed = resumed(clean.map(|clean| &clean.stood), found.as_ref());
        let epoch = self.session.report.borrow().epoch;
        let machine = Arc::clone(&self.machine);
        let now = machine.clock.now();
        let (slot, replication) = begin_disk(&mut machine.order(), epoch, resumed, now);
        let splitter = Arc::new(Splitter::new(id, Arc::clone(&machine), slot, source));
        let disk = Arc::new(Disk {
            id,
            slot,
            machine,
            splitter: Arc::clone(&splitter),
            progress: Progress::default(),
            report: watch::Sender::new(DiskReport::default()),
            config,
        });
        if let Err(error) = self.nbd.attach(&disk.config.name, splitter) {
            self.machine.order().detach(slot);
            return Err(error.into());
        }
        let (batches, batch_receiver) = mpsc::channel(BATCH_COUNT_MAX);
        let (commands, command_receiver) = mpsc::channel(1);
        self.routes.add(slot, batches);
        let task = DiskTask::new(DiskTaskParts {
            disk: Arc::clone(&disk),
            core: DiskCore::new(disk.core_facts(), slot, replication),
            batches: batch_receiver,
            commands: command_receiver,
            sessions: self.sessions.subscribe(),
            resync_rate_max: self.config.resync_rate_max,
        });
        tracing::info!(disk = %id, name = disk.config.name, resumed = resumed.is_some(), "disk attached");
        self.disks.add(DiskEntry {
            disk,
            commands,
            task: self.background.spawn(task.run()),
        });
        Ok(())
    }

    /// Lets go of a disk: no export, no queue, no task.
    async fn drop_disk(&self, id: DiskId) {
        let Some(entry) = self.disks.remove(id) else {
            return;
        };
        self.nbd.detach(&entry.disk.config.name).await;
        self.routes.remove(entry.disk.slot);
        entry.task.abort();
        // Aborted, or ended by itself: both are the end.
        let _ = entry.task.await;
        self.machine.order().detach(entry.disk.slot);
        self.machine.room.notify_waiters();
    }

    async fn change_disks(
        &self,
        change: impl FnOnce(&mut DisksState) + Send + 'static,
    ) -> Result<(), StateError> {
        let state = Arc::clone(&self.state);
        blocking(move || {
            let mut disks = state.disks()?;
            change(&mut disks);
            state.save_disks(&disks)
        })
        .await
    }
}
