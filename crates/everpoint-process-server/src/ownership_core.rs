//! Whether this server serves a machine, by where the machine's path leads (R3, R6).
//!
//! The own journal is looked at before the path is read and after it: it may have been rotated between
//! the two, and then the path is read again. A machine without a path gets an origin that names the own
//! journal; whoever was faster counts, which the next reading shows.
//!
//! Pure.

use everpoint_journal::path::PathEnd;
use everpoint_marks::{planted, reached};
use everpoint_units::JournalId;

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

#[cfg(test)]
mod tests;
