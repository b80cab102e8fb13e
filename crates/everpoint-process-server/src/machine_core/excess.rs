//! What is too much of what is allowed: an agent that goes beyond loses its connection.

use std::time::Duration;

use everpoint_format::Change;
use everpoint_format::change::{ChangeBlock, RECORD_COUNT_MAX};
use everpoint_transport::CloseReason;
use everpoint_units::Moment;

use crate::rate_core::Rate;

/// Bookmarks of a disk at once: two blocks of nothing else, so that no block is refused for ever.
const BOOKMARKS_BURST: u32 = 8_192;
const _: () = assert!(RECORD_COUNT_MAX <= BOOKMARKS_BURST as usize);
/// And one more after this time.
const BOOKMARKS_EACH: Duration = Duration::from_millis(50);
/// Bytes of blocks of a disk that are not taken, in a row and within a session, at most. What an agent
/// has sent before it hears of the first refusal is bounded by windows of 8 MiB on either side.
const UNTAKEN_LEN_MAX: u64 = 64 << 20;

/// What was too much.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Excess {
    #[error("too many answers are left unread")]
    Answers,
    #[error("too many compares at a time")]
    Compares,
    #[error("too many bookmarks in too short a time")]
    Bookmarks,
    #[error("blocks that were refused go on coming")]
    Untaken,
}

/// What one disk's agent has done of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    bookmarks: Rate,
    untaken: u64,
}

impl Excess {
    /// What the connection is closed with.
    pub const fn reason(self) -> CloseReason {
        match self {
            Self::Answers | Self::Compares | Self::Bookmarks => CloseReason::Limit,
            Self::Untaken => CloseReason::Stale,
        }
    }
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            bookmarks: Rate::new(BOOKMARKS_BURST, BOOKMARKS_EACH),
            untaken: 0,
        }
    }

    /// A session began: what an earlier one sent in vain was another's doing.
    pub(super) const fn handle_session(&mut self) {
        self.untaken = 0;
    }

    /// Whether a block may be looked at.
    pub(super) fn allows(&self, block: &ChangeBlock, now: Moment) -> Result<(), Excess> {
        if self.bookmarks.allows(bookmarks(block), now) {
            Ok(())
        } else {
            Err(Excess::Bookmarks)
        }
    }

    /// A block was taken.
    pub(super) fn taken(&mut self, block: &ChangeBlock, now: Moment) {
        self.untaken = 0;
        self.bookmarks.count(bookmarks(block), now);
    }

    /// A block was not taken: it was there already, or cannot follow.
    pub(super) fn untaken(&mut self, block: &ChangeBlock) -> Result<(), Excess> {
        self.untaken += block.bytes().len() as u64;
        if self.untaken <= UNTAKEN_LEN_MAX {
            Ok(())
        } else {
            Err(Excess::Untaken)
        }
    }
}

fn bookmarks(block: &ChangeBlock) -> u32 {
    let records = block.records().iter();
    let marks = records.filter(|record| matches!(record.change, Change::Bookmark { .. }));
    u32::try_from(marks.count()).expect("a block has at most 4,096 records")
}

#[cfg(test)]
mod tests;
