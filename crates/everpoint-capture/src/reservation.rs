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
mod tests {
    use super::*;

    #[test]
    fn nothing_above_the_durable_mark_is_handed_out() {
        let mut reservation = Reservation::new(Seq(10), Seq(13));
        assert_eq!(reservation.take(2), Some(Seq(11)));
        assert_eq!(reservation.take(2), None);
        assert_eq!(reservation.take(1), Some(Seq(13)));
        assert_eq!(reservation.take(1), None);
        reservation.extend(Seq(14));
        assert_eq!(reservation.take(1), Some(Seq(14)));
    }

    #[test]
    fn a_mark_is_wanted_a_step_before_it_is_needed() {
        let until = Reservation::mark_after(Seq::ZERO).expect("far from the end");
        let mut reservation = Reservation::new(Seq::ZERO, until);
        assert_eq!(reservation.wanted(), None);
        reservation.take(RESERVE_STEP).expect("reserved");
        assert_eq!(reservation.wanted(), None);
        reservation.take(1).expect("reserved");
        let wanted = reservation.wanted().expect("less than a step is left");
        assert_eq!(wanted, Seq(RESERVE_STEP + 1 + 2 * RESERVE_STEP));
        reservation.extend(wanted);
        assert_eq!(reservation.wanted(), None);
    }

    #[test]
    fn a_late_answer_does_not_move_the_mark_back() {
        let mut reservation = Reservation::new(Seq::ZERO, Seq(100));
        reservation.extend(Seq(50));
        assert!(reservation.covers(Seq(100)));
        assert!(reservation.raise(Seq(90)));
        assert!(!reservation.raise(Seq(80)));
        assert_eq!(reservation.take(1), Some(Seq(91)));
    }
}
