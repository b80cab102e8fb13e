//! What a machine's task has beside the core for one disk: the way back to the agent, and the task
//! that answers compares.

use std::sync::Arc;

use everpoint_units::{GenerationId, MachineId};
use everpoint_wire::{Compare, ToAgent};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;

use super::outbox::Outbox;
use crate::compare::Comparer;
use crate::compare_core::Compared;
use crate::machine_core::Excess;
use crate::shared::Shared;

/// See the module.
pub(crate) struct DiskWays {
    pub(crate) outbox: Option<Outbox>,
    comparer: Option<Comparer>,
    /// The newest generation of which something is committed.
    pub(crate) committed_generation: watch::Sender<Option<GenerationId>>,
}

impl DiskWays {
    pub(crate) fn new(committed: Option<GenerationId>) -> Self {
        Self {
            outbox: None,
            comparer: None,
            committed_generation: watch::Sender::new(committed),
        }
    }

    pub(crate) fn begin_session(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
        self.comparer = None;
    }

    pub(crate) fn end_session(&mut self) {
        self.outbox = None;
        self.comparer = None;
    }

    /// A block of this generation was taken: nobody asks about an earlier one any more.
    pub(crate) fn handle_generation(&mut self, newest: GenerationId) {
        self.comparer = self
            .comparer
            .take()
            .filter(|known| known.generation() == newest);
    }

    pub(crate) fn answer(&self, answer: ToAgent) -> Result<(), Excess> {
        match &self.outbox {
            Some(outbox) if !outbox.answer(answer) => Err(Excess::Answers),
            _ => Ok(()),
        }
    }

    /// Answers a compare, in a task of its own.
    pub(crate) fn compare(
        &mut self,
        shared: &Arc<Shared>,
        machine: MachineId,
        about: Compared,
        compare: Compare,
    ) -> Result<(), Excess> {
        self.handle_generation(about.generation);
        let Some(outbox) = &self.outbox else {
            return Ok(());
        };
        let comparer = self.comparer.get_or_insert_with(|| {
            let committed = self.committed_generation.subscribe();
            Comparer::start(
                Arc::clone(shared),
                (machine, about),
                committed,
                outbox.answers(),
            )
        });
        match comparer.ask(compare) {
            // One that ended was of a stream that ended.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Excess::Compares),
        }
    }
}

#[cfg(test)]
mod tests;
