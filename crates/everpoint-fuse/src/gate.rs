//! The range lock of the file for tasks: ask, wait for one's turn, hold, let go.
//!
//! The mutex inside is held for a walk over the writes in flight, never across I/O.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use everpoint_capture::{LockMode, LockTicket, RangeLock};
use everpoint_units::Extent;
use tokio::sync::oneshot;

/// See the module.
#[derive(Default)]
pub(crate) struct RangeGate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lock: RangeLock,
    waiting: HashMap<LockTicket, oneshot::Sender<()>>,
}

/// The right to an extent, until it is dropped.
#[must_use = "dropping it lets the extent go"]
pub(crate) struct Turn<'a> {
    gate: &'a RangeGate,
    ticket: LockTicket,
}

impl RangeGate {
    /// Waits until the extent may be used. Turns are given in the order in which the futures are
    /// first polled. Cancel-safe: dropped early, the place in the line is given up.
    pub(crate) async fn acquire(&self, extent: Extent, mode: LockMode) -> Turn<'_> {
        let (turn, wait) = {
            let mut state = self.state();
            let (ticket, granted) = state.lock.acquire(extent, mode);
            let wait = (!granted).then(|| {
                let (sender, wait) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                wait
            });
            (Turn { gate: self, ticket }, wait)
        };
        if let Some(wait) = wait {
            // The sender goes with the ticket, which is ours.
            let _ = wait.await;
        }
        turn
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let state = &mut *self.gate.state();
        let State { lock, waiting } = state;
        waiting.remove(&self.ticket);
        lock.release(self.ticket, |granted| {
            if let Some(sender) = waiting.remove(&granted) {
                // A waiter that is gone releases its own ticket.
                let _ = sender.send(());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use everpoint_units::Lba;

    use super::*;

    fn extent(start: u64, end: u64) -> Extent {
        let lba = |sector| Lba::new(sector).expect("small");
        Extent::between(lba(start), lba(end)).expect("not empty")
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn overlapping_writes_take_turns_in_the_order_in_which_they_asked() {
        let gate = RangeGate::default();
        let mut first = pin!(gate.acquire(extent(0, 8), LockMode::Exclusive));
        let mut second = pin!(gate.acquire(extent(4, 12), LockMode::Exclusive));
        let mut third = pin!(gate.acquire(extent(6, 7), LockMode::Shared));
        let Poll::Ready(turn) = poll(first.as_mut()) else {
            panic!("nobody else is there");
        };
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(turn);
        assert!(poll(third.as_mut()).is_pending());
        let Poll::Ready(turn) = poll(second.as_mut()) else {
            panic!("it is the next");
        };
        drop(turn);
        assert!(poll(third.as_mut()).is_ready());
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let gate = RangeGate::default();
        let mut first = pin!(gate.acquire(extent(0, 8), LockMode::Exclusive));
        let Poll::Ready(turn) = poll(first.as_mut()) else {
            panic!("nobody else is there");
        };
        {
            let mut second = pin!(gate.acquire(extent(0, 8), LockMode::Exclusive));
            assert!(poll(second.as_mut()).is_pending());
        }
        drop(turn);
        let state = gate.state();
        assert_eq!((state.lock.request_count(), state.waiting.len()), (0, 0));
    }
}
