//! Whether an instant can be marked, what a disk's own words belong to, and what becomes of both. Pure.
//!
//! What is known of a disk may be a moment old: it can have lost its order since, and have begun the
//! next generation too. So a level copy is spoken of together with the generation that is level, and
//! an instant is marked only if that is what the order still writes: a mark in a generation that is
//! not level would be no point.
//!
//! The server's cut alone does not say that a mark is committed: a server that lost what it cached is
//! given a new generation, whose `Seq`s are higher, and the cut passes the mark that went under. Only
//! in generations that go on unbroken has everything at or below the cut been committed.

use everpoint_capture::{BookmarkError, DiskSlot, NotCurrent, QueueState, Stamp, WriteOrder};
use everpoint_format::Change;
use everpoint_format::record::Consistency;
use everpoint_units::{GenerationId, Seq};

/// A disk whose copy was level when it was last heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LevelDisk {
    pub slot: DiskSlot,
    /// The generation that is level.
    pub generation: GenerationId,
}

/// What was recorded at one `Seq`, and the generations that it was recorded in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    pub seq: Seq,
    pub disks: Vec<LevelDisk>,
}

/// What has become of a [`Mark`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is on its way.
    Open,
    /// The vault has it.
    Committed,
    /// A disk lost the order that it was recorded in: it may have gone under, and nothing will tell.
    Lost,
}

impl LevelDisk {
    /// Whether the order still writes the generation that is level.
    fn is_current(&self, order: &WriteOrder) -> bool {
        let state = order.figures(self.slot).map(|figures| figures.state);
        let generation = self.generation;
        state == Some(QueueState::Ordered { generation })
    }
}

impl Mark {
    /// What has become of it. `cut`: the server's, read before `order` was looked at; a younger one may
    /// be that of generations which the look did not see.
    pub fn fate(&self, order: &WriteOrder, cut: Seq) -> Fate {
        if !self.disks.iter().all(|disk| disk.is_current(order)) {
            Fate::Lost
        } else if cut < self.seq {
            Fate::Open
        } else {
            Fate::Committed
        }
    }
}

/// Marks this instant in the write order of all disks, which are `disks`, under `name`.
///
/// # Errors
///
/// See [`BookmarkError`]; nothing has changed.
pub fn mark(
    order: &mut WriteOrder,
    disks: &[LevelDisk],
    name: &str,
    stamp: Stamp,
) -> Result<Mark, BookmarkError> {
    if !disks.iter().all(|disk| disk.is_current(order)) {
        return Err(BookmarkError::Unordered);
    }
    let seq = order.bookmark(name, Consistency::Crash, stamp)?;
    let disks = disks.to_vec();
    Ok(Mark { seq, disks })
}

/// The same for an application that holds still, as long as [`WriteOrder::end_bookmark`] is not told otherwise:
/// nothing leaves the queue until then.
///
/// # Errors
///
/// See [`BookmarkError`]; nothing has changed.
pub fn begin_app_mark(
    order: &mut WriteOrder,
    disks: &[LevelDisk],
    name: &str,
    stamp: Stamp,
) -> Result<Mark, BookmarkError> {
    if !disks.iter().all(|disk| disk.is_current(order)) {
        return Err(BookmarkError::Unordered);
    }
    let seq = order.begin_bookmark(name, Consistency::App, stamp)?;
    let disks = disks.to_vec();
    Ok(Mark { seq, disks })
}

/// Records the end of a disk that no guest uses any more.
///
/// # Errors
///
/// See [`NotCurrent`].
pub fn end(order: &mut WriteOrder, disk: LevelDisk, stamp: Stamp) -> Result<Mark, NotCurrent> {
    let seq = order.push_own(disk.slot, disk.generation, stamp, Change::DiskEnd, None)?;
    let disks = vec![disk];
    Ok(Mark { seq, disks })
}

#[cfg(test)]
mod tests;
