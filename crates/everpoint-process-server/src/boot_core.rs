//! What a boot does before it lets agents in, and in which order.
//!
//! ```text
//! list journals ─▶ note an own one (R1, R2) ─▶ recover the log ─▶ seal the earlier ones, naming it (R5)
//!    ─▶ forget them ─▶ take up the tail where paths lead here (R6, R11) ─▶ serve
//! ```
//!
//! The own journal is written down durably before anything names it, so that whatever this boot leaves
//! open a later one finds. The log is recovered before anything is sealed: a log that cannot be read
//! ends the start while the earlier journal is still whole.
//!
//! Pure: the driver does what [`BootCore::step`] says and tells what came of it.

use std::collections::VecDeque;

use everpoint_marks::{planted, reached};
use everpoint_units::{JournalId, Level};

/// See the module.
#[derive(Debug)]
pub struct BootCore {
    earlier: VecDeque<JournalId>,
    at: BootStep,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BootStep {
    /// List the vault's journals; answer with [`BootCore::handle_listed`].
    ListJournals,
    /// Make it durable that this server opened that journal; [`BootCore::handle_done`], as below.
    Note { journal: JournalId },
    /// Open the cache log for that journal and recover what is in it.
    RecoverLog { journal: JournalId },
    /// Read an earlier journal's last object from the medium, and seal the journal.
    Seal {
        earlier: JournalId,
        successor: JournalId,
    },
    /// Make it durable that no other journal of this server is open.
    Forget { all_but: JournalId },
    /// Read the recovered tail: each block goes to its machine, if this server owns it.
    TakeUp { journal: JournalId },
    /// Let agents in.
    Serve { journal: JournalId },
}

impl BootCore {
    /// A boot of a server that had written down `earlier`.
    pub fn new(earlier: &[JournalId]) -> Self {
        Self {
            earlier: earlier.iter().copied().collect(),
            at: BootStep::ListJournals,
        }
    }

    /// What to do next.
    pub const fn step(&self) -> BootStep {
        self.at
    }

    /// The vault's journals; `random` makes the new one's name.
    ///
    /// # Panics
    ///
    /// If they were not asked for.
    pub fn handle_listed(&mut self, journals: &[JournalId], random: [u8; 16]) {
        assert_eq!(self.at, BootStep::ListJournals);
        let highest = |known: &[JournalId]| known.iter().map(|journal| journal.level).max();
        let own = highest(self.earlier.make_contiguous());
        if own.is_some() && own < highest(journals) {
            reached!(LevelOfTheVault);
        }
        let journals = match planted!(LevelBelowVault) {
            true => &[],
            false => journals,
        };
        let known = journals.iter().chain(&self.earlier);
        let journal = next_journal(known.map(|journal| journal.level), random);
        self.at = BootStep::Note { journal };
    }

    /// The step was done.
    ///
    /// # Panics
    ///
    /// If the step has an answer, or is the last.
    pub fn handle_done(&mut self) {
        self.at = match self.at {
            BootStep::Note { journal } => BootStep::RecoverLog { journal },
            BootStep::RecoverLog { journal }
            | BootStep::Seal {
                successor: journal, ..
            } => self.seal_next(journal),
            BootStep::Forget { all_but } => BootStep::TakeUp { journal: all_but },
            BootStep::TakeUp { journal } => BootStep::Serve { journal },
            BootStep::ListJournals | BootStep::Serve { .. } => panic!("nothing was to be done"),
        };
    }

    fn seal_next(&mut self, successor: JournalId) -> BootStep {
        if planted!(EarlierNotSealed) {
            self.earlier.clear();
        }
        if 1 < self.earlier.len() {
            reached!(SeveralJournalsSealed);
        }
        match self.earlier.pop_front() {
            Some(earlier) => BootStep::Seal { earlier, successor },
            None => BootStep::Forget { all_but: successor },
        }
    }
}

/// A journal above every level that is known (R2).
pub fn next_journal(known: impl IntoIterator<Item = Level>, random: [u8; 16]) -> JournalId {
    let highest = known.into_iter().max().unwrap_or_default();
    JournalId {
        level: Level(highest.0 + 1),
        random,
    }
}

#[cfg(test)]
mod tests;
