//! What wakes a thread: rings are counted, so that one that comes between a look and a wait is heard.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One thread waits on it, others ring.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rings: Mutex<u64>,
    heard: Condvar,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    Rung,
    TimedOut,
}

impl Bell {
    /// Wakes the waiter, or keeps its next wait from sleeping.
    pub(crate) fn ring(&self) {
        *self.lock() += 1;
        self.heard.notify_one();
    }

    /// Rings so far. Ask before looking for work; then a ring after the look ends the wait.
    pub(crate) fn rings(&self) -> u64 {
        *self.lock()
    }

    /// Waits for a ring after the first `seen`, at most `timeout` if there is one.
    pub(crate) fn wait(&self, seen: u64, timeout: Option<Duration>) -> Woken {
        let rings = self.lock();
        let is_silent = |rings: &mut u64| *rings == seen;
        match timeout {
            None => {
                drop(
                    self.heard
                        .wait_while(rings, is_silent)
                        .unwrap_or_else(PoisonError::into_inner),
                );
                Woken::Rung
            }
            Some(timeout) => {
                let (rings, _) = self
                    .heard
                    .wait_timeout_while(rings, timeout, is_silent)
                    .unwrap_or_else(PoisonError::into_inner);
                if *rings == seen {
                    Woken::TimedOut
                } else {
                    Woken::Rung
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard_and_silence_times_out() {
        let bell = Bell::default();
        let seen = bell.rings();
        bell.ring();
        assert_eq!(bell.wait(seen, None), Woken::Rung);
        let moment = Some(Duration::from_millis(1));
        assert_eq!(bell.wait(bell.rings(), moment), Woken::TimedOut);
        assert_eq!(bell.wait(seen, moment), Woken::Rung);
    }
}
