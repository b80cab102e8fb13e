//! Going on in a new journal: the own one is sealed, naming its successor, when everything frozen is
//! committed (R2, R5).

use std::sync::Arc;

use everpoint_format::object::Seal;
use everpoint_journal::sealing::SealOrder;
use everpoint_units::{JournalId, Level};
use everpoint_vault::Remedy;
use everpoint_vault::history::{HistoryError, seal_journal};

use super::{CommitTask, put};
use crate::blocking::outcome;
use crate::boot_core::next_journal;
use crate::clock::wall_time;
use crate::shared::{BackOff, Ended};
use crate::state::StateError;

/// Why no new journal was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(
        "this server's journal was sealed by another server, or written in by another life of this one"
    )]
    Fenced,
    #[error("the server is stopping")]
    Ending,
    #[error("the journal could not be sealed")]
    Seal(#[source] HistoryError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl CommitTask {
    /// Begins a journal whose level is above `level`, unless the own one's is already.
    pub(super) async fn rotate_above(&mut self, level: Level) -> Result<JournalId, RotateError> {
        let journal = self.core.journal();
        if level < journal.level {
            return Ok(journal);
        }
        self.settle().await?;
        let successor = next_journal([level, journal.level], rand::random());
        self.shared.note_journal(successor)?;
        let order = SealOrder {
            vault: self.shared.header.vault,
            journal,
            successor,
            server: self.shared.server,
            assignment: 0,
            now: wall_time(),
        };
        let mut back_off = BackOff::new();
        let seal = loop {
            match seal_journal(&self.shared.vault, order).await {
                Ok(seal) => break seal,
                Err(error) if error.remedy() == Remedy::Again && !self.shared.has_ended() => {
                    tracing::warn!(%error, "the own journal is not sealed yet");
                    back_off.pause().await;
                }
                Err(error) => return Err(RotateError::Seal(error)),
            }
        };
        if seal.successor != successor || !self.is_all_of_own_journal(&seal).await? {
            self.core.handle_fenced();
            self.shared.end(Ended::Fenced { journal });
            return Err(RotateError::Fenced);
        }
        // The machines' path led to the old journal, and the seal states what we wrote and no more: it
        // leads to the new one now, and this server owns them still (R6).
        tracing::info!(old = %journal, new = %successor, "the journal was rotated");
        self.core.begin_journal(successor, self.shared.clock.now());
        self.shared.progress.send_modify(|progress| {
            progress.journal = successor;
            progress.committed = everpoint_units::ObjectNo::ZERO;
        });
        Ok(successor)
    }

    /// Whether the seal of the own journal, which names our successor, states what we wrote and no more.
    ///
    /// It does not where another life of this server wrote too, because it was resumed from a snapshot or
    /// cloned: what this one holds is then not the path. And it does not count where it went into a number
    /// that was emptied, which `end`, asked for behind it, shows. A new boot reads the path (R6).
    async fn is_all_of_own_journal(&self, seal: &Seal) -> Result<bool, RotateError> {
        if !self.core.wrote_all_of(seal) {
            return Ok(false);
        }
        let (shared, journal) = (Arc::clone(&self.shared), self.core.journal());
        match put::ask_for_end(shared, journal, seal.prefix_end).await {
            put::Done::EndAbsent(_) => Ok(true),
            put::Done::Fenced => Ok(false),
            put::Done::GaveUp | put::Done::Stored(_) | put::Done::Failed(_) => {
                Err(RotateError::Ending)
            }
        }
    }

    /// Waits until every frozen object is committed.
    async fn settle(&mut self) -> Result<(), RotateError> {
        loop {
            self.act();
            if self.core.is_fenced() {
                return Err(RotateError::Fenced);
            }
            if self.core.is_settled() {
                return Ok(());
            }
            match self.puts.join_next().await {
                Some(done) => {
                    let done = outcome(done).await;
                    self.handle_done(done);
                }
                None => return Err(RotateError::Ending),
            }
        }
    }
}
