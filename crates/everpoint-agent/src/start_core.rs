//! How a disk begins at a start, and what a stop leaves of it. Pure.
//!
//! A clean stop is believed for one start, and only if the source is as it was left. Everything else
//! is compared in full: that costs time, never data.

use everpoint_capture::{DiskSlot, WriteOrder};
use everpoint_format::DiskPosition;
use everpoint_replication::source::Source;
use everpoint_units::{Level, Moment};

/// Where a stop left a disk, and what its source was then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stood<I> {
    pub tail: DiskPosition,
    pub source: I,
}

/// What a stop came to for one disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskStop<I> {
    /// It goes on at the next start where it stood, once this is remembered.
    Clean(Stood<I>),
    /// It was drained, and its source cannot show that nobody writes to it meanwhile.
    Unproven,
    /// Something that was captured may not be committed, or not be on the disk.
    Undrained,
}

/// Whether a disk goes on where an earlier process left it. `found` is what its source is now; `None`
/// where nothing can tell.
pub fn resumed<I: PartialEq>(stood: Option<&Stood<I>>, found: Option<&I>) -> Option<DiskPosition> {
    let stood = stood.filter(|stood| found == Some(&stood.source))?;
    Some(stood.tail)
}

/// Gives a disk its place in the machine's order. One that is not resumed begins a generation as soon
/// as a server of `epoch` or higher says what it holds.
pub fn begin_disk(
    order: &mut WriteOrder,
    epoch: Level,
    resumed: Option<DiskPosition>,
    now: Moment,
) -> (DiskSlot, Source) {
    let slot = order.attach();
    let source = match resumed {
        Some(tail) => {
            order.resume_generation(slot, tail.generation);
            Source::resume(epoch, tail)
        }
        None => Source::new(epoch, now),
    };
    (slot, source)
}

/// What a stop comes to for a disk that no guest uses any more. `drained` is its position if it was
/// drained in good order; `source` tells what the source is, as in [`resumed`], if that can be said.
pub fn disk_stop<I, E>(
    drained: Option<DiskPosition>,
    flushed: bool,
    source: Result<Option<I>, E>,
) -> DiskStop<I> {
    let drained = drained.filter(|_| flushed);
    match (drained, source) {
        (Some(tail), Ok(Some(source))) => DiskStop::Clean(Stood { tail, source }),
        (Some(_), Ok(None)) => DiskStop::Unproven,
        (None, _) | (Some(_), Err(_)) => DiskStop::Undrained,
    }
}

#[cfg(test)]
mod tests;
