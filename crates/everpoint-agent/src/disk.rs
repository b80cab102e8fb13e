//! One protected disk, as its tasks and the status see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use everpoint_capture::DiskSlot;
use everpoint_units::DiskId;
use tokio::sync::watch;

use crate::config::DiskConfig;
use crate::disk_core::DiskFacts;
use crate::disk_core::report::{DiskReport, DiskStateWord};
use crate::disk_source::DiskSource;
use crate::machine::Machine;
use crate::splitter::Splitter;

/// See the module.
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) config: DiskConfig,
    pub(crate) slot: DiskSlot,
    pub(crate) machine: Arc<Machine>,
    pub(crate) splitter: Arc<Splitter>,
    pub(crate) progress: Progress,
    pub(crate) report: watch::Sender<DiskReport>,
}

/// How far an initial sync or resync has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Unit: bytes of the disk.
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
    /// The source cannot be read at present.
    pub(crate) failing: AtomicBool,
}

impl Disk {
    pub(crate) fn source(&self) -> &Arc<dyn DiskSource> {
        self.splitter.source()
    }

    /// Size of the disk. Unit: sectors.
    pub(crate) fn sectors(&self) -> u64 {
        let size = self.source().facts().size;
        size.sectors().expect("a disk is whole blocks")
    }

    /// What its decisions need to know.
    pub(crate) fn core_facts(&self) -> DiskFacts {
        DiskFacts {
            machine: self.machine.id,
            disk: self.id,
            sectors: self.sectors(),
            block_size: self.source().facts().block_size,
            name: self.config.name.as_str().into(),
        }
    }

    pub(crate) fn state(&self) -> DiskStateWord {
        self.report
            .borrow()
            .state(self.progress.failing.load(Relaxed))
    }

    /// How old the oldest change is that cannot be restored.
    pub(crate) fn lag(&self) -> Duration {
        // The queue first: what has left it is in the report by then (see `DiskTask::drive`).
        let queued = self.machine.order().figures(self.slot);
        let report = *self.report.borrow();
        let queued = queued.and_then(|figures| figures.oldest);
        report.lag(queued, self.machine.clock.now())
    }
}
