//! One protected disk, as its tasks and the status see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use everpoint_capture::DiskSlot;
use everpoint_replication::source::{ResyncReason, SourceMarks};
use everpoint_units::{DiskId, GenerationId, Moment};
use tokio::sync::watch;

use crate::config::DiskConfig;
use crate::disk_core::DiskFacts;
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

/// What a disk's task says of it after every event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskReport {
    pub(crate) linked: bool,
    /// A generation has to begin.
    pub(crate) unordered: bool,
    /// The copy is level, and that is committed.
    pub(crate) level: bool,
    /// Why the newest generation began.
    pub(crate) reason: Option<ResyncReason>,
    pub(crate) resync_count: u64,
    pub(crate) marks: Option<SourceMarks>,
    pub(crate) uncommitted_since: Option<Moment>,
    /// Unit: bytes.
    pub(crate) uncommitted_bytes: u64,
    /// Unit: bytes, encoded.
    pub(crate) unsent_bytes: u64,
}

/// Where a disk stands, in one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskStateWord {
    /// Every completed write becomes a recovery point.
    Protected,
    /// The first copy is being made.
    InitialSync,
    /// The copy is being compared and brought level.
    Resync,
    /// Changes are not recorded; a resync begins as soon as it can.
    OrderLost,
    /// No server; changes are recorded as long as the queue lasts.
    Disconnected,
    /// The source cannot be read.
    Failed,
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

    /// Since when something captured on this disk is not committed.
    pub(crate) fn uncommitted_since(&self) -> Option<Moment> {
        let reported = self.report.borrow().uncommitted_since;
        let queued = self.machine.order().figures(self.slot);
        let queued = queued.and_then(|figures| figures.oldest);
        reported.into_iter().chain(queued).min()
    }
}

impl DiskReport {
    /// The generation whose copy is level; `None` if none is, or its order was lost.
    pub(crate) fn level_generation(&self) -> Option<GenerationId> {
        let marks = self.marks.filter(|_| self.level && !self.unordered)?;
        Some(marks.generation)
    }

    pub(crate) fn state(&self, failing: bool) -> DiskStateWord {
        let begun = self.marks.is_some();
        if failing {
            DiskStateWord::Failed
        } else if self.unordered && (begun || self.linked || self.resync_count != 0) {
            DiskStateWord::OrderLost
        } else if !self.linked {
            DiskStateWord::Disconnected
        } else if self.level {
            DiskStateWord::Protected
        } else if self.reason == Some(ResyncReason::InitialSync) {
            DiskStateWord::InitialSync
        } else {
            DiskStateWord::Resync
        }
    }
}

impl DiskStateWord {
    /// The word in the control protocol, the command line and its JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::InitialSync => "initial-sync",
            Self::Resync => "resync",
            Self::OrderLost => "order-lost",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_not_level_and_linked_is_called_protected() {
        let level = DiskReport {
            linked: true,
            level: true,
            ..DiskReport::default()
        };
        assert_eq!(level.state(false), DiskStateWord::Protected);
        assert_eq!(level.state(true), DiskStateWord::Failed);
        let unlinked = DiskReport {
            linked: false,
            ..level
        };
        assert_eq!(unlinked.state(false), DiskStateWord::Disconnected);
        let lost = DiskReport {
            unordered: true,
            resync_count: 1,
            ..unlinked
        };
        assert_eq!(lost.state(false), DiskStateWord::OrderLost);
        let behind = DiskReport {
            level: false,
            reason: Some(ResyncReason::AgentRestart),
            ..level
        };
        assert_eq!(behind.state(false), DiskStateWord::Resync);
    }
}
