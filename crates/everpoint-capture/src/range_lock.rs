//! Which requests to one disk may run side by side: readers with readers, writers with nobody that
//! they overlap.
//!
//! Every request waits for exactly those requests that came before it, conflict with it and have not
//! been released: nobody is overtaken by a later one that it conflicts with, and two that do not
//! conflict never wait for each other. So the order in which overlapping writes reach the disk is the
//! order in which they asked, and a waiting writer cannot starve.
//!
//! ```text
//!   acquire ──▶ blocked by 0 ──────────────▶ granted ──▶ release: each later one that
//!          └──▶ blocked by n ──▶ … 0 ──▶ granted         conflicts is blocked by one less
//! ```
//!
//! One list holds the granted and the waiting, and each call walks it once. Requests in flight are
//! few (queue depth times connections), and a walk over a hundred entries costs less than a tree.

use everpoint_marks::{planted, reached};
use everpoint_units::Extent;

/// See the module.
#[derive(Debug, Default)]
pub struct RangeLock {
    entries: Vec<Entry>,
    next_ticket: u64,
}

/// What a request does to its extent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LockMode {
    /// It reads: others may read the same sectors.
    Shared,
    /// It changes: nobody else may touch the same sectors.
    Exclusive,
}

/// Names one request until it is released. Tickets rise in the order of the calls.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LockTicket(u64);

#[derive(Debug)]
struct Entry {
    ticket: LockTicket,
    extent: Extent,
    mode: LockMode,
    /// How many earlier entries conflict with this one; 0: it holds the lock.
    blocked_by: usize,
}

impl RangeLock {
    /// Asks for `extent`. The second value says whether it is granted now; otherwise a later
    /// [`Self::release`] names the ticket.
    pub fn acquire(&mut self, extent: Extent, mode: LockMode) -> (LockTicket, bool) {
        let ticket = LockTicket(self.next_ticket);
        self.next_ticket += 1;
        let blocked_by = self
            .entries
            .iter()
            .filter(|entry| entry.conflicts(extent, mode))
            .count();
        if blocked_by != 0 {
            reached!(LockWaits);
        }
        self.entries.push(Entry {
            ticket,
            extent,
            mode,
            blocked_by,
        });
        (ticket, blocked_by == 0)
    }

    /// Gives up `ticket`, granted or still waiting, and calls `granted` for each request that holds
    /// the lock from now on.
    ///
    /// # Panics
    ///
    /// If the ticket was released before.
    pub fn release(&mut self, ticket: LockTicket, mut granted: impl FnMut(LockTicket)) {
        let at = self
            .entries
            .iter()
            .position(|entry| entry.ticket == ticket)
            .expect("a ticket is released once");
        let gone = self.entries.swap_remove(at);
        for entry in &mut self.entries {
            if gone.ticket < entry.ticket && entry.conflicts(gone.extent, gone.mode) {
                entry.blocked_by -= 1;
                if entry.blocked_by == 0 {
                    granted(entry.ticket);
                }
            }
        }
    }

    /// How many requests hold the lock or wait for it.
    pub fn request_count(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    fn conflicts(&self, extent: Extent, mode: LockMode) -> bool {
        if planted!(SharedLockIgnored) && self.mode != mode {
            return false;
        }
        let changes = self.mode == LockMode::Exclusive || mode == LockMode::Exclusive;
        changes && self.extent.overlaps(extent)
    }
}

#[cfg(test)]
mod tests;
