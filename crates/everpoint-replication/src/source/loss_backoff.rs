//! How long a new generation waits after order was lost.
//!
//! A load that is more than the link carries loses order again before the copy is level. Without a
//! wait it would begin several generations a second, each in vain, and each a mark in the vault.

use std::time::Duration;

/// The first wait, doubled each time up to the second.
const FROM: Duration = Duration::from_millis(500);
const TO: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LossBackoff {
    /// Generations in a row that were lost before they were level.
    count: u32,
}

impl LossBackoff {
    /// Order was lost, of a copy that was level or not. How long the next generation waits.
    pub(crate) fn handle_lost(&mut self, was_level: bool) -> Duration {
        if was_level {
            self.count = 0;
            return Duration::ZERO;
        }
        let doubled = FROM.saturating_mul(1 << self.count.min(16));
        self.count = self.count.saturating_add(1);
        doubled.min(TO)
    }
}

#[cfg(test)]
mod tests;
