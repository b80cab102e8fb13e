//! Which `Seq`s may be handed out: those below a mark that is durable.
//!
//! After a crash the machine's order goes on above every `Seq` that may have been used. So the shell
//! makes a mark durable *before* any `Seq` up to it is handed out, in large steps and a step ahead,
//! and a new process begins above the mark that it finds.
//!
//! ```text
//!   newest                 until
//! ────┼──────────────────────┼───────────────▶ Seq
//!     │   may be handed out  │ not before the shell has made a higher mark durable
//! ```

use everpoint_marks::planted;
use everpoint_units::Seq;

/// How far a mark is moved at a time. DESIGN.md section 3. Unit: `Seq`s.
pub const RESERVE_STEP: u64 = 1 << 20;

/// See the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    newest: Seq,
    until: Seq,
}

impl Reservation {
    /// Goes on above `used_until`, the durable mark of the process before (zero for the first);
    /// `until` is the mark that this process has made durable.
    ///
    /// # Panics
    ///
    /// If the mark did not move forward.
    pub fn new(used_until: Seq, until: Seq) -> Self {
        assert!(used_until <= until, "a mark never goes back");
        let newest = match planted!(SeqsGivenTwice) {
            true => Seq(used_until.0.saturating_sub(2 * RESERVE_STEP)),
            false => used_until,
        };
        Self { newest, until }
    }

    /// The mark to make durable so that `newest` can be followed by at least two steps.
    pub fn mark_after(newest: Seq) -> Option<Seq> {
        newest.0.checked_add(2 * RESERVE_STEP).map(Seq)
    }

    /// The last one handed out.
    pub const fn newest(&self) -> Seq {
        self.newest
    }

    /// The mark to make durable now, if less than a step is left.
    pub fn wanted(&self) -> Option<Seq> {
        if RESERVE_STEP <= self.until.0 - self.newest.0 {
            return None;
        }
        Self::mark_after(self.newest)
    }

    /// `until` is durable.
    pub fn extend(&mut self, until: Seq) {
        self.until = self.until.max(until);
    }

    /// Hands out `count` consecutive `Seq`s and returns the first; `None` when they are not reserved.
    pub(crate) fn take(&mut self, count: u64) -> Option<Seq> {
        let first = self.newest.next();
        let newest = Seq(self.newest.0.checked_add(count)?);
        if self.until < newest {
            return None;
        }
        self.newest = newest;
        Some(first)
    }

    /// Goes on above `seq`, which is reserved. False if this was so already.
    pub(crate) fn raise(&mut self, seq: Seq) -> bool {
        assert!(seq <= self.until, "raised above what is durable");
        let rises = self.newest < seq;
        self.newest = self.newest.max(seq);
        rises
    }

    pub(crate) fn covers(&self, seq: Seq) -> bool {
        seq <= self.until
    }
}

#[cfg(test)]
mod tests;
