//! What the threads share, and what may still happen to it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::AppendError;
use crate::append::Reply;
use crate::batch::{Assembly, Batch, Waiting, WritableFile};
use crate::error::Poisoned;
use crate::space::Space;

/// What becomes of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    Open,
    /// What was queued is still written if there is room; nothing more is taken.
    Draining,
    /// Nothing more is written.
    Stopped,
}

/// What waiters outside watch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Health {
    pub(crate) has_room: bool,
    pub(crate) poisoned: Option<Poisoned>,
    pub(crate) is_closed: bool,
}

/// Everything that changes while the log runs.
pub(super) struct State {
    pub(super) queue: VecDeque<Waiting>,
    pub(super) queued_len: u64,
    /// Away while someone fills it.
    pub(super) assembly: Option<Assembly>,
    /// Away while the writer has it.
    pub(super) spare_batch: Option<Batch>,
    pub(super) ready: VecDeque<Arc<WritableFile>>,
    pub(super) space: Space,
    pub(super) left_in_file: u64,
    pub(super) is_writer_idle: bool,
    pub(super) is_write_denied: bool,
    pub(super) wants_mark: bool,
    pub(super) stage: Stage,
    pub(super) poisoned: Option<Poisoned>,
    pub(super) is_closed: bool,
    /// What watchers were told last.
    pub(super) reported: Health,
}

impl State {
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        let assembly = self.assembly.as_mut()?;
        let spare = self.spare_batch.take()?;
        Some(assembly.take(spare))
    }

    /// Why nothing is taken any more.
    pub(super) fn refusal(&self) -> Option<AppendError> {
        match (self.poisoned, self.stage) {
            (Some(poisoned), _) => Some(AppendError::Poisoned(poisoned)),
            (None, Stage::Draining | Stage::Stopped) => Some(AppendError::Closed),
            (None, Stage::Open) => None,
        }
    }

    /// Why what was taken is not written any more.
    pub(super) fn refusal_of_written(&self) -> Option<AppendError> {
        match (self.poisoned, self.stage) {
            (Some(poisoned), _) => Some(AppendError::Poisoned(poisoned)),
            (None, Stage::Stopped) => Some(AppendError::Closed),
            (None, Stage::Draining | Stage::Open) => None,
        }
    }

    /// Everyone who waits in the queue or the assembly.
    pub(super) fn drain(&mut self) -> Vec<Reply> {
        let queued = self.queue.drain(..).map(|waiting| waiting.reply);
        let mut replies: Vec<Reply> = queued.collect();
        if let Some(assembly) = self.assembly.take() {
            replies.append(&mut assembly.into_replies());
        }
        self.queued_len = 0;
        replies
    }
}
