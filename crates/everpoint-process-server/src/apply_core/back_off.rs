//! How long the core waits before it tries again: longer each time that the same step fails, and never long where it
//! gets on.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use super::Step;

/// Pauses from one bound to the other, doubling while one step fails again and again.
///
/// A claim is many requests, and each may fail in a storm: what one of them had to wait is no reason to let the next
/// wait longer.
#[derive(Debug)]
pub(super) struct BackOff {
    min: Duration,
    max: Duration,
    next: Duration,
    failed: Option<Discriminant<Step>>,
}

impl BackOff {
    pub(super) const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
            failed: None,
        }
    }

    /// The step failed: how long to wait.
    pub(super) fn pause(&mut self, step: Step) -> Duration {
        let failed = Some(discriminant(&step));
        if self.failed != failed {
            self.next = self.min;
        }
        self.failed = failed;
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// Something of a window went well.
    pub(super) const fn begin_anew(&mut self) {
        self.next = self.min;
        self.failed = None;
    }
}
