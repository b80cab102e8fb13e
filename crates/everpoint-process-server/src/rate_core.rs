//! How much of something a peer may do in a row, and how fast it may do more. Pure: times come in.

use std::time::Duration;

use everpoint_units::Moment;

/// A rate with a burst. Kept as the moment at which everything that was done will be paid for, so that
/// it takes 16 bytes and no timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// What one costs.
    each: Duration,
    /// Most that can be done at once.
    burst: u32,
    paid_at: Moment,
}

impl Rate {
    /// `burst` at once, and one more each `each` from then on.
    pub(crate) const fn new(burst: u32, each: Duration) -> Self {
        Self {
            each,
            burst,
            paid_at: Moment(0),
        }
    }

    /// Whether `count` more are within the rate now.
    pub(crate) fn allows(&self, count: u32, now: Moment) -> bool {
        let owed = self.paid_at.since(now).saturating_add(self.cost(count));
        owed <= self.cost(self.burst)
    }

    /// Counts `count`, also beyond the rate.
    pub(crate) fn count(&mut self, count: u32, now: Moment) {
        self.paid_at = self.paid_at.max(now).after(self.cost(count));
    }

    fn cost(&self, count: u32) -> Duration {
        self.each.saturating_mul(count)
    }
}

#[cfg(test)]
mod tests;
