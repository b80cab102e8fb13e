//! What a machine's task has beside the core for one disk: the way back to the agent, and the task
//! that answers compares.

use std::sync::Arc;

use everpoint_units::{GenerationId, MachineId};
use everpoint_wire::{Compare, ToAgent};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;

use super::outbox::Outbox;
use crate::compare::{self, CompareSender};
use crate::compare_core::Compared;
use crate::machine_core::Excess;
use crate::shared::Shared;

/// See the module.
pub(crate) struct DiskWays {
    pub(crate) outbox: Option<Outbox>,
    compare: Option<(GenerationId, CompareSender)>,
    /// The newest generation of which something is committed.
    pub(crate) committed_generation: watch::Sender<Option<GenerationId>>,
}

impl DiskWays {
    pub(crate) fn new(committed: Option<GenerationId>) -> Self {
        Self {
            outbox: None,
            compare: None,
            committed_generation: watch::Sender::new(committed),
        }
    }

    pub(crate) fn begin_session(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
        self.compare = None;
    }

    pub(crate) fn end_session(&mut self) {
        self.outbox = None;
        self.compare = None;
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
        let Some(outbox) = &self.outbox else {
            return Ok(());
        };
        let known = self
            .compare
            .as_ref()
            .filter(|(of, _)| *of == about.generation);
        let sender = match known {
            Some((_, sender)) => sender.clone(),
            None => {
                let committed = self.committed_generation.subscribe();
                let answers = outbox.answers();
                let order = (machine, about);
                let sender = compare::spawn(Arc::clone(shared), order, committed, answers);
                self.compare = Some((about.generation, sender.clone()));
                sender
            }
        };
        match sender.try_send(compare) {
            // One that ended was of a stream that ended.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Excess::Compares),
        }
    }
}
