//! How far the restorable copy of a disk lies behind the disk, in time and bytes.
//!
//! Keeps one small mark a block from frozen to committed. When a vault is out of reach for days there
//! would be millions; so at [`MARKS_MAX`] neighbours are merged, the older time and the later block
//! kept. What is reported may then be worse than the truth by one merged mark, and is never better.

use std::collections::VecDeque;

use everpoint_units::Moment;

/// Most marks kept. Unit: marks of 24 bytes.
const MARKS_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Lag {
    /// Rising in all fields.
    marks: VecDeque<Mark>,
    /// Bytes of all blocks so far, and of those that are committed.
    written: u64,
    committed: u64,
    gap: Gap,
}

/// Blocks up to `ordinal`, the oldest of which was captured at `first`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ordinal: u64,
    first: Moment,
    /// Bytes of all blocks up to here.
    written: u64,
}

/// Whether something that was committed cannot be restored for want of order.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// No: the copy is level.
    None,
    /// Since then.
    Open(Moment),
    /// Since then, until this block is committed.
    Closing(Moment, u64),
}

impl Lag {
    pub(crate) const fn level() -> Self {
        Self {
            marks: VecDeque::new(),
            written: 0,
            committed: 0,
            gap: Gap::None,
        }
    }

    pub(crate) fn behind(since: Moment) -> Self {
        Self {
            gap: Gap::Open(since),
            ..Self::level()
        }
    }

    pub(crate) fn handle_frozen(&mut self, ordinal: u64, first: Moment, raw_len: u64) {
        self.written += raw_len;
        if self.marks.len() == MARKS_MAX {
            self.merge();
        }
        self.marks.push_back(Mark {
            ordinal,
            first,
            written: self.written,
        });
    }

    fn merge(&mut self) {
        let (firsts, mut seconds) = (&self.marks, VecDeque::with_capacity(MARKS_MAX));
        for pair in 0..MARKS_MAX / 2 {
            seconds.push_back(Mark {
                first: firsts[2 * pair].first,
                ..firsts[2 * pair + 1]
            });
        }
        self.marks = seconds;
    }

    pub(crate) fn handle_completed(&mut self, ordinal: u64) {
        if let Gap::Open(since) = self.gap {
            self.gap = Gap::Closing(since, ordinal);
        }
    }

    pub(crate) fn handle_committed(&mut self, ordinal: u64) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.ordinal <= ordinal) {
            self.committed = mark.written;
        }
        if matches!(self.gap, Gap::Closing(_, at) if at <= ordinal) {
            self.gap = Gap::None;
        }
    }

    pub(crate) fn handle_lost(&mut self, now: Moment) {
        self.gap = Gap::Open(match self.gap {
            Gap::None => now,
            Gap::Open(since) | Gap::Closing(since, _) => since,
        });
    }

    /// Blocks that were not committed never will be.
    pub(crate) fn handle_dropped(&mut self, now: Moment) {
        self.handle_lost(now);
        if let (Some(mark), Gap::Open(since)) = (self.marks.front(), &mut self.gap) {
            *since = mark.first.min(*since);
        }
        self.marks.clear();
        self.committed = self.written;
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.marks.is_empty()
    }

    pub(crate) const fn is_level(&self) -> bool {
        matches!(self.gap, Gap::None)
    }

    pub(crate) fn since(&self) -> Option<Moment> {
        let behind = match self.gap {
            Gap::None => None,
            Gap::Open(since) | Gap::Closing(since, _) => Some(since),
        };
        let oldest = self.marks.front().map(|mark| mark.first);
        behind.into_iter().chain(oldest).min()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.written - self.committed
    }
}

#[cfg(test)]
mod tests;
