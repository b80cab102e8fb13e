//! Whether an instant can be marked, and what a disk's own words belong to. Pure.
//!
//! What is known of a disk may be a moment old: it can have lost its order since, and have begun the
//! next generation too. So a level copy is spoken of together with the generation that is level, and
//! an instant is marked only if that is what the order still writes: a mark in a generation that is
//! not level would be no point.

use everpoint_capture::{BookmarkError, DiskSlot, QueueState, Stamp, WriteOrder};
use everpoint_format::record::Consistency;
use everpoint_units::{GenerationId, Seq};

/// A disk whose copy was level when it was last heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LevelDisk {
    pub slot: DiskSlot,
    /// The generation that is level.
    pub generation: GenerationId,
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
) -> Result<Seq, BookmarkError> {
    let is_current = |disk: &LevelDisk| {
        let state = order.figures(disk.slot).map(|figures| figures.state);
        let generation = disk.generation;
        state == Some(QueueState::Ordered { generation })
    };
    if !disks.iter().all(is_current) {
        return Err(BookmarkError::Unordered);
    }
    order.bookmark(name, Consistency::Crash, stamp)
}

#[cfg(test)]
mod tests;
