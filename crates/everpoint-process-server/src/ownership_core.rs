//! Whether this server serves a machine, by where the machine's path leads (R3, R6).
//!
//! The own journal is looked at before the path is read and after it: it may have been rotated between
//! the two, and then the path is read again. A machine without a path gets an origin that names the own
//! journal; whoever was faster counts, which the next reading shows.
//!
//! Who brings a replica forward only asks whether the path still leads to this server ([`Leads`]), and gives up
//! where it does not: any journal of this server's is good enough for that.
//!
//! Pure.

use everpoint_journal::path::PathEnd;
use everpoint_marks::{planted, reached};
use everpoint_units::{JournalId, Level};

/// How often a machine's path is read before its agent is sent away to come again.
pub const ROUNDS_MAX: u32 = 4;

/// One machine that somebody asks for.
#[derive(Debug, Default)]
pub struct OwnershipCore {
    rounds: u32,
}

/// What to do with a path that was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Serve the machine, as its history says.
    Serve,
    /// Read the path again.
    ReadAgain,
    /// Create an origin that names the own journal, and whatever comes of it read the path again.
    CreateOrigin,
    /// Do not serve it.
    Refuse(NotServed),
}

/// Who leads a machine, as its path says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leads {
    /// This server, in a journal of this level.
    Here { level: Level },
    /// Somebody else, or nobody.
    Elsewhere,
}

/// Why a path does not lead here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotServed {
    #[error("the machine is owned by journal {journal}; connect to its server, or take it over")]
    Elsewhere { journal: JournalId },
    #[error("the machine was failed over or removed; protect it as a new one")]
    Closed,
    #[error("the machine's history is damaged: run `everpoint check`")]
    Damaged,
    #[error("the machine's origin was not settled in {ROUNDS_MAX} rounds")]
    Unsettled,
}

impl OwnershipCore {
    /// A path was read, while the own journal was `before` and then `now`.
    pub fn handle_read(&mut self, end: PathEnd, before: JournalId, now: JournalId) -> Claim {
        self.rounds += 1;
        let again = |claim| match self.rounds {
            ROUNDS_MAX.. => Claim::Refuse(NotServed::Unsettled),
            _ => claim,
        };
        match end {
            PathEnd::Open { journal, .. } if journal == before => Claim::Serve,
            PathEnd::Open { .. } if planted!(OwnedWithoutPath) => Claim::Serve,
            PathEnd::Open { .. } if before != now => {
                reached!(PathReadAgain);
                again(Claim::ReadAgain)
            }
            PathEnd::Open { journal, .. } => {
                reached!(OwnedElsewhere);
                if 1 < self.rounds {
                    reached!(OriginTaken);
                }
                Claim::Refuse(NotServed::Elsewhere { journal })
            }
            PathEnd::Closed { .. } => Claim::Refuse(NotServed::Closed),
            PathEnd::Broken => Claim::Refuse(NotServed::Damaged),
            PathEnd::NoOrigin => {
                reached!(OriginWanted);
                again(Claim::CreateOrigin)
            }
        }
    }
}

impl Leads {
    /// As the path says that ends so; `None` where it does not say. `is_own` says whether a journal is this server's, the
    /// one that it is about to go on in among them, and has to be asked after the path was read: a journal is noted
    /// before anything names it.
    pub fn of(end: PathEnd, is_own: impl FnOnce(JournalId) -> bool) -> Option<Self> {
        match end {
            PathEnd::Open { journal, .. } if is_own(journal) => {
                let level = journal.level;
                Some(Self::Here { level })
            }
            PathEnd::Broken => None,
            PathEnd::Open { .. } | PathEnd::Closed { .. } | PathEnd::NoOrigin => {
                Some(Self::Elsewhere)
            }
        }
    }
}

#[cfg(test)]
mod tests;
