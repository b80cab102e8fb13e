//! One budget of bytes that every buffer is taken from, so that memory has a limit whatever peers do.
//!
//! A [`ByteBudget`] is a semaphore whose permits are bytes. Whoever wants to hold bytes takes them
//! first and keeps the [`Taken`] as long as the bytes live; dropping it gives them back. Waiting is
//! fair: first come, first served, so that a large request is not overtaken for ever by small ones.
//! [`Taken::charge`] ties a buffer and its charge together, which is how payload travels: the last
//! clone of the `Bytes` to go returns the charge.
//!
//! What this leaves out: it counts what is declared to it. The allocator's own overhead, stacks and
//! socket buffers in the kernel are not in it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

/// Largest single request. Unit: bytes.
pub const TAKE_LEN_MAX: usize = u32::MAX as usize;

/// A shared limit on bytes held. Cheap to clone; all clones are the same budget.
#[derive(Clone)]
pub struct ByteBudget {
    inner: Arc<Inner>,
}

/// Bytes that are held. Dropping it gives them back.
#[must_use = "dropping it gives the bytes back at once"]
pub struct Taken {
    budget: Arc<Inner>,
    len: usize,
}

/// Why bytes can never be had, however long one waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{wanted} bytes can never be had from a budget that gives {max} at once")]
pub struct TakeError {
    /// What was asked for. Unit: bytes.
    pub wanted: usize,
    /// What one request can have at most. Unit: bytes.
    pub max: usize,
}

struct Inner {
    permits: Semaphore,
    capacity: usize,
    used: AtomicUsize,
    high_water: AtomicUsize,
}

/// A buffer and its charge; the buffer goes first.
struct Charged<B> {
    buffer: B,
    _taken: Taken,
}

impl ByteBudget {
    /// A budget with nothing taken. Unit: bytes.
    ///
    /// # Panics
    ///
    /// If `capacity` is above 2^60, which no machine has.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity <= 1 << 60, "a budget of at most 2^60 bytes");
        Self {
            inner: Arc::new(Inner {
                permits: Semaphore::new(capacity),
                capacity,
                used: AtomicUsize::new(0),
                high_water: AtomicUsize::new(0),
            }),
        }
    }

    /// What can be held in all. Unit: bytes.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// What is held now. Unit: bytes; never above [`ByteBudget::capacity`].
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Acquire)
    }

    /// What could be taken now if nobody waited. Unit: bytes.
    pub fn available(&self) -> usize {
        self.inner.capacity - self.used()
    }

    /// The most that was ever held at once. Unit: bytes; never above [`ByteBudget::capacity`].
    pub fn high_water(&self) -> usize {
        self.inner.high_water.load(Ordering::Acquire)
    }

    /// Takes `len` bytes if they are free now and nobody waits for them.
    pub fn try_take(&self, len: usize) -> Option<Taken> {
        let count = u32::try_from(len).ok()?;
        self.inner.permits.try_acquire_many(count).ok()?.forget();
        Some(Taken::counted(&self.inner, len))
    }

    /// Takes `len` bytes, waiting its turn. Dropping the future gives up the place in the queue; it
    /// borrows nothing, so that it can be kept and polled again instead.
    ///
    /// # Errors
    ///
    /// [`TakeError`] if `len` is more than the budget ever gives; ask for less.
    pub fn take(
        &self,
        len: usize,
    ) -> impl Future<Output = Result<Taken, TakeError>> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        async move {
            let max = inner.capacity.min(TAKE_LEN_MAX);
            let count = u32::try_from(len)
                .ok()
                .filter(|_| len <= max)
                .ok_or(TakeError { wanted: len, max })?;
            let permits = inner.permits.acquire_many(count).await;
            permits.expect("the semaphore is never closed").forget();
            Ok(Taken::counted(&inner, len))
        }
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteBudget")
            .field("capacity", &self.capacity())
            .field("used", &self.used())
            .field("high_water", &self.high_water())
            .finish()
    }
}

impl Taken {
    fn counted(budget: &Arc<Inner>, len: usize) -> Self {
        let used = budget.used.fetch_add(len, Ordering::AcqRel) + len;
        budget.high_water.fetch_max(used, Ordering::AcqRel);
        Self {
            budget: Arc::clone(budget),
            len,
        }
    }

    /// What is held. Unit: bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Parts with `len` bytes, which the result holds from now on; `None`, and nothing changes, if
    /// that is more than is held.
    pub fn split(&mut self, len: usize) -> Option<Self> {
        self.len = self.len.checked_sub(len)?;
        Some(Self {
            budget: Arc::clone(&self.budget),
            len,
        })
    }

    /// Holds what `other` held as well.
    ///
    /// # Panics
    ///
    /// If the two come from different budgets.
    pub fn merge(&mut self, mut other: Self) {
        assert!(
            Arc::ptr_eq(&self.budget, &other.budget),
            "merged charges come from one budget"
        );
        self.len += std::mem::take(&mut other.len);
    }

    /// Ties the charge to `buffer`: it is given back when the last clone or slice of the result is
    /// dropped. Copies nothing.
    pub fn charge(self, buffer: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Charged {
            buffer,
            _taken: self,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.len > 0 {
            // In this order `used` never exceeds the capacity: the next taker counts up only after
            // it has the permits.
            self.budget.used.fetch_sub(self.len, Ordering::AcqRel);
            self.budget.permits.add_permits(self.len);
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").field(&self.len).finish()
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Charged<B> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_is_dropped_comes_back_and_the_high_water_mark_stays() {
        let budget = ByteBudget::new(100);
        let first = budget.try_take(60).expect("free");
        assert!(budget.try_take(41).is_none());
        let second = budget.try_take(40).expect("free");
        assert_eq!((budget.used(), budget.available()), (100, 0));
        drop(first);
        drop(second);
        assert_eq!((budget.used(), budget.high_water()), (0, 100));
        assert!(budget.try_take(100).is_some());
    }

    #[test]
    fn the_queue_is_served_in_order_and_nobody_jumps_it() {
        let budget = ByteBudget::new(10);
        let held = budget.try_take(8).expect("free");
        let mut large = pin!(budget.take(9));
        let mut small = pin!(budget.take(1));
        assert!(poll_once(large.as_mut()).is_pending());
        assert!(
            poll_once(small.as_mut()).is_pending(),
            "one byte is free, but it is not this one's turn"
        );
        assert!(budget.try_take(1).is_none(), "nor anybody else's");
        drop(held);
        let Poll::Ready(Ok(large)) = poll_once(large.as_mut()) else {
            panic!("nine are free and it is first");
        };
        assert_eq!(large.len(), 9);
        assert!(poll_once(small.as_mut()).is_ready());
    }

    #[test]
    fn a_waiter_that_leaves_lets_the_next_one_through() {
        let budget = ByteBudget::new(10);
        let _held = budget.try_take(5).expect("free");
        let mut small = pin!(budget.take(5));
        {
            let mut large = pin!(budget.take(10));
            assert!(poll_once(large.as_mut()).is_pending());
            assert!(poll_once(small.as_mut()).is_pending());
        }
        assert!(poll_once(small.as_mut()).is_ready());
        assert_eq!(budget.used(), 5, "the result was dropped with its poll");
    }

    #[test]
    fn what_can_never_be_had_is_an_error_and_not_a_wait() {
        let budget = ByteBudget::new(10);
        let wait = poll_once(pin!(budget.take(11)));
        let Poll::Ready(Err(error)) = wait else {
            panic!("must not wait");
        };
        assert_eq!(
            error,
            TakeError {
                wanted: 11,
                max: 10
            }
        );
        let large = ByteBudget::new(1 << 40);
        assert!(poll_once(pin!(large.take(1 << 33))).is_ready());
        assert!(large.try_take(1 << 33).is_none());
    }

    #[test]
    fn charges_split_and_merge_without_losing_a_byte() {
        let budget = ByteBudget::new(100);
        let mut whole = budget.try_take(100).expect("free");
        let part = whole.split(30).expect("held");
        assert!(whole.split(71).is_none());
        assert_eq!((whole.len(), part.len(), budget.used()), (70, 30, 100));
        drop(part);
        assert_eq!(budget.used(), 70);
        whole.merge(budget.try_take(20).expect("free"));
        assert_eq!((whole.len(), budget.used()), (90, 90));
        drop(whole);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_charged_buffer_gives_back_with_its_last_slice() {
        let budget = ByteBudget::new(100);
        let bytes = budget.try_take(5).expect("free").charge(b"hello".to_vec());
        let slice = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&slice[..], budget.used()), (&b"el"[..], 5));
        drop(slice);
        assert_eq!(budget.used(), 0);
    }
}
