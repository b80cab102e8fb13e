//! The clock that gives up a client which stops in the middle of something.
//!
//! It runs only while the server waits for the client and is looked at only then, so requests that
//! flow never touch a timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What a client has to move within one period so as not to count as stalled. Unit: bytes. Ours:
/// about 1 KiB a second in the default minute, less than any line that a disk is served over.
const PROGRESS_MIN: u64 = 64 << 10;

pub(super) struct Stall {
    watch: Watch,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// When a client will have waited too long. Pure.
#[derive(Default)]
struct Watch {
    /// Since when the server has been waiting, and what had moved then.
    waiting: Option<(Instant, u64)>,
}

impl Stall {
    pub(super) fn new() -> Self {
        Self {
            watch: Watch::default(),
            sleep: None,
        }
    }

    /// The server does not wait for the client.
    pub(super) fn relax(&mut self) {
        self.watch.waiting = None;
    }

    /// The server waits for the client; ready when that has lasted for `limit` with less than
    /// [`PROGRESS_MIN`] moved.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        moved_bytes: u64,
    ) -> Poll<()> {
        let due = self.watch.due(Instant::now(), limit, moved_bytes);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            if due < sleep.deadline() {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            // An alarm that was set for an earlier wait proves nothing about this one.
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

impl Watch {
    fn due(&mut self, now: Instant, limit: Duration, moved_bytes: u64) -> Instant {
        let (since, moved_then) = self.waiting.get_or_insert((now, moved_bytes));
        if moved_bytes - *moved_then >= PROGRESS_MIN {
            (*since, *moved_then) = (now, moved_bytes);
        }
        *since + limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const LATER: Duration = Duration::from_secs(59);

    #[test]
    fn a_client_that_moves_enough_has_the_whole_time_again() {
        let mut watch = Watch::default();
        let now = Instant::now();
        assert_eq!(watch.due(now, LIMIT, 1_000), now + LIMIT);
        let later = now + LATER;
        assert_eq!(watch.due(later, LIMIT, 1_000 + PROGRESS_MIN), later + LIMIT);
    }

    #[test]
    fn a_client_that_moves_a_byte_now_and_then_has_not() {
        let mut watch = Watch::default();
        let now = Instant::now();
        watch.due(now, LIMIT, 0);
        assert_eq!(watch.due(now + LATER, LIMIT, PROGRESS_MIN - 1), now + LIMIT);
    }

    #[test]
    fn a_new_wait_begins_anew() {
        let mut stall = Stall::new();
        let now = Instant::now();
        stall.watch.due(now, LIMIT, 0);
        stall.relax();
        let later = now + LATER;
        assert_eq!(stall.watch.due(later, LIMIT, 1), later + LIMIT);
    }
}
