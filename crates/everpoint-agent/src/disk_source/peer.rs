//! What a disk behind NBD is known to hold, decided: what a lost connection may have taken with it,
//! and which bytes read as zeroes. Pure.
//!
//! A flush covers the changes that had succeeded before it began, and no other: a peer may carry out
//! a change that is in flight before the flush or after it. So changes are counted, and a flush vouches
//! for the count that it began with.

use everpoint_nbd::Allocation;
use everpoint_units::{Extent, Lba, SECTOR_LEN};

use super::RUNS_MAX;
use crate::resync_core::Run;

#[cfg(test)]
mod tests;

/// What was changed, what a flush made durable, and what the guest has to be told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Counts each change twice: before it is sent, and when it has succeeded.
    written: u64,
    /// The highest value of `written` that a successful flush began with.
    flushed: u64,
    /// Connections that were lost and made again.
    losses: u64,
    /// The last loss that may have taken something unflushed along. 0: none did.
    harm: u64,
    /// The last loss that a flush has told of.
    told: u64,
}

/// On which connection something goes on: how many were lost before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Epoch(u64);

/// A flush that has been asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    told: u64,
}

/// A flush that may be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushing {
    covers: u64,
}

/// Something is gone that the guest believes to be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Gone;

impl Ledger {
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// The connection that there is now.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.losses)
    }

    /// A change is about to be sent.
    pub(super) fn begin_change(&mut self) {
        self.written += 1;
    }

    /// A change that went over the connection of `epoch` has succeeded. An answer that is looked at
    /// only after another connection was made comes too late: the peer may have lost the change
    /// since, and the loss was judged without it.
    pub(super) fn end_change(&mut self, epoch: Epoch) -> Result<(), Gone> {
        self.written += 1;
        if epoch == self.epoch() {
            Ok(())
        } else {
            Err(Gone)
        }
    }

    /// The connection was lost, and there is another one.
    pub(super) fn reconnected(&mut self) {
        self.losses += 1;
        if self.flushed < self.written {
            self.harm = self.losses;
        }
    }

    /// The guest asks for a flush. To be called before anything is waited for.
    pub(super) fn ask_flush(&self) -> Asked {
        Asked { told: self.told }
    }

    /// The flush has a connection. It fails instead of being sent if something was lost that nobody
    /// had been told of when it was asked for: of two flushes side by side, both fail.
    pub(super) fn begin_flush(&mut self, asked: Asked) -> Result<Flushing, Gone> {
        if asked.told < self.harm {
            self.told = self.harm;
            return Err(Gone);
        }
        Ok(Flushing {
            covers: self.written,
        })
    }

    /// The flush has succeeded.
    pub(super) fn end_flush(&mut self, flushing: Flushing) {
        self.flushed = self.flushed.max(flushing.covers);
    }
}

/// The runs of `extent` that `found` tells of, merged, in whole blocks of `block_size`, at most
/// [`RUNS_MAX`]. Peers tell of any number of bytes: a block that does not read as zeroes whole is
/// data, and so is what no answer reaches.
pub(super) fn runs(extent: Extent, block_size: u32, found: &[Allocation]) -> Vec<Run> {
    let block = u64::from(block_size);
    let (start, end) = (extent.start().byte_offset().0, extent.end().byte_offset().0);
    let mut runs = Vec::new();
    // Up to here everything has been told. Whole blocks.
    let mut told = start;
    // Where the peer's bytes are. Unit: bytes.
    let mut at = start;
    for same in found.chunk_by(|one, next| one.zero == next.zero) {
        let from = at;
        at = same
            .iter()
            .fold(at, |at, status| at + u64::from(status.len))
            .min(end);
        // Only what reads as zeroes is a hole to us.
        if !same[0].zero {
            continue;
        }
        let (first, last) = (from.next_multiple_of(block), at / block * block);
        if first < last {
            push_run(&mut runs, told, first, false);
            push_run(&mut runs, first, last, true);
            told = last;
        }
    }
    push_run(&mut runs, told, at.next_multiple_of(block).min(end), false);
    runs.truncate(RUNS_MAX);
    if runs.is_empty() {
        runs.push(Run {
            extent,
            hole: false,
        });
    }
    runs
}

/// Pushes a run unless it is empty. Unit: bytes, whole sectors.
fn push_run(runs: &mut Vec<Run>, from: u64, to: u64, hole: bool) {
    let lba = |at| Lba::new(at / SECTOR_LEN).expect("inside the disk");
    if let Some(extent) = Extent::between(lba(from), lba(to)) {
        runs.push(Run { extent, hole });
    }
}
