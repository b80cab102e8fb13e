//! What is said of a disk: where it stands in one word, and how far its copy lies behind. Never better
//! than the truth.

use std::time::Duration;

use everpoint_replication::source::{ResyncReason, SourceMarks};
use everpoint_units::{GenerationId, Moment};

use super::DiskCore;

/// What a disk's core says of it after every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskReport {
    /// It has a stream to a server.
    pub linked: bool,
    /// A generation has to begin.
    pub unordered: bool,
    /// The copy is level, and that is committed.
    pub level: bool,
    /// Why the newest generation began.
    pub reason: Option<ResyncReason>,
    /// Generations begun by this process.
    pub resync_count: u64,
    /// Marks of the newest generation.
    pub marks: Option<SourceMarks>,
    /// Since when something that was frozen is not restorable.
    pub uncommitted_since: Option<Moment>,
    /// Unit: bytes.
    pub uncommitted_bytes: u64,
    /// Unit: bytes, encoded.
    pub unsent_bytes: u64,
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

impl DiskCore {
    /// What is to be said of the disk now.
    pub fn report(&self) -> DiskReport {
        DiskReport {
            linked: self.is_linked(),
            unordered: self.source.wants_generation(),
            level: self.source.is_level(),
            reason: self.begun_because,
            resync_count: self.begun_count,
            marks: self.source.marks(),
            uncommitted_since: self.source.uncommitted_since(),
            uncommitted_bytes: self.source.uncommitted_bytes(),
            unsent_bytes: self.source.unsent_bytes(),
        }
    }
}

impl DiskReport {
    /// The generation whose copy is level; `None` if none is, or its order was lost.
    pub fn level_generation(&self) -> Option<GenerationId> {
        let marks = self.marks.filter(|_| self.level && !self.unordered)?;
        Some(marks.generation)
    }

    /// Where the disk stands. `failing`: its source cannot be read at present.
    pub fn state(&self, failing: bool) -> DiskStateWord {
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

    /// How old the oldest change is that cannot be restored. `queued`: when the oldest was captured that
    /// still waits to be frozen.
    pub fn lag(&self, queued: Option<Moment>, now: Moment) -> Duration {
        let since = self.uncommitted_since.into_iter().chain(queued).min();
        since.map_or(Duration::ZERO, |since| now.since(since))
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
mod tests;
