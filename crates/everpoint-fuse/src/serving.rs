//! Limits, and the requests that are under way.
//!
//! ```text
//! kernel ─▶ session's thread ─▶ a place ─▶ a task: memory, the file ─▶ answer
//!                │
//!                └─▶ a write: memory first, because its bytes are here already
//! ```
//!
//! What reads hold and what writes hold are counted apart: a read may wait for whatever is far away, and no write
//! waits for its memory. The thread pushes back on the kernel in two cases: as many requests are under way as may
//! be, or writes hold all that they may.

use std::sync::Arc;

use everpoint_units::{ByteLen, SECTOR_LEN};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest read or write that is agreed with the kernel. Unit: bytes. Source: 256 pages, the most that it gives
/// unless it was told otherwise (`fs.fuse.max_pages_limit`).
pub(crate) const REQUEST_LEN_MAX: u32 = 1 << 20;
/// What such a request takes in memory: whole sectors, wherever it begins. Unit: bytes.
const REQUEST_TAKES_MAX: u64 = REQUEST_LEN_MAX as u64 + 2 * SECTOR_LEN;
/// Of the memory, this part is for writes.
const WRITES_PART: u64 = 4;

/// Limits of a mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FuseConfig {
    /// Requests that were taken from the kernel and have no answer yet; 1 to 4,096.
    pub request_count_max: u16,
    /// Memory of requests under way, three quarters of it for reads; 8 MiB to 1 GiB. The buffer into which requests
    /// are read comes on top.
    pub bytes_max: ByteLen,
}

/// What is under way, and may be.
#[derive(Debug)]
pub(crate) struct Serving {
    places: Arc<Semaphore>,
    place_count: u32,
    read_bytes: Bytes,
    write_bytes: Bytes,
}

/// A part of the memory.
#[derive(Debug)]
struct Bytes {
    left: Arc<Semaphore>,
    max: u32,
}

/// A place, or a part of the memory; given back when it is dropped.
pub(crate) type Taken = OwnedSemaphorePermit;

/// Nothing is served any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Closed;

impl Default for FuseConfig {
    fn default() -> Self {
        Self {
            request_count_max: 256,
            bytes_max: ByteLen(64 << 20),
        }
    }
}

impl FuseConfig {
    /// The first limit that is outside its bounds: name, value, least, most.
    pub(crate) fn wrong(&self) -> Option<(&'static str, u64, u64, u64)> {
        let count = u64::from(self.request_count_max);
        let limits = [
            ("request_count_max", count, 1, 4_096),
            ("bytes_max", self.bytes_max.0, 8 << 20, 1 << 30),
        ];
        let mut limits = limits.into_iter();
        limits.find(|(_, value, min, max)| !(min..=max).contains(&value))
    }
}

impl Serving {
    /// By limits that are inside their bounds.
    pub(crate) fn new(config: &FuseConfig) -> Self {
        let place_count = u32::from(config.request_count_max);
        let writes = config.bytes_max.0 / WRITES_PART;
        Self {
            places: Arc::new(Semaphore::new(usize::from(config.request_count_max))),
            place_count,
            read_bytes: Bytes::new(config.bytes_max.0 - writes),
            write_bytes: Bytes::new(writes),
        }
    }

    /// A place for one more request, when there is one.
    pub(crate) async fn place(&self) -> Result<Taken, Closed> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.map_err(|_| Closed)
    }

    /// Memory for what is read, when there is some.
    pub(crate) async fn for_reading(&self, len: u64) -> Taken {
        self.read_bytes.take(len).await
    }

    /// Memory for what is to be written, when there is some.
    pub(crate) async fn for_writing(&self, len: u64) -> Taken {
        self.write_bytes.take(len).await
    }

    /// Waits until everything that is under way has its answer. What comes later finds no place.
    pub(crate) async fn close(&self) {
        let all = self.places.acquire_many(self.place_count).await;
        self.places.close();
        drop(all);
    }
}

impl Bytes {
    fn new(max: u64) -> Self {
        let max = u32::try_from(max).expect("the limits are checked");
        Self {
            left: Arc::new(Semaphore::new(max as usize)),
            max,
        }
    }

    async fn take(&self, len: u64) -> Taken {
        // The kernel keeps to what was agreed; if it did not, one request at a time would be served.
        debug_assert!(len <= REQUEST_TAKES_MAX, "{len} B in one request");
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.max);
        let taken = Arc::clone(&self.left).acquire_many_owned(len).await;
        taken.expect("the memory is never closed")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_limit_outside_its_bounds_is_named() {
        assert_eq!(FuseConfig::default().wrong(), None);
        let none = FuseConfig {
            request_count_max: 0,
            ..FuseConfig::default()
        };
        assert_eq!(none.wrong(), Some(("request_count_max", 0, 1, 4_096)));
        let little = FuseConfig {
            bytes_max: ByteLen(1),
            ..FuseConfig::default()
        };
        assert_eq!(little.wrong().map(|(key, ..)| key), Some("bytes_max"));
    }

    #[test]
    fn reads_that_wait_take_no_memory_from_writes() {
        let serving = Serving::new(&FuseConfig {
            bytes_max: ByteLen(8 << 20),
            ..FuseConfig::default()
        });
        let mut held = Vec::new();
        for _ in 0..6 {
            let Poll::Ready(taken) = poll(pin!(serving.for_reading(1 << 20))) else {
                panic!("three quarters are for reads");
            };
            held.push(taken);
        }
        assert!(poll(pin!(serving.for_reading(512))).is_pending());
        assert!(poll(pin!(serving.for_writing(1 << 20))).is_ready());
        held.pop();
        assert!(poll(pin!(serving.for_reading(512))).is_ready());
    }

    #[test]
    fn closing_waits_for_what_is_under_way_and_lets_nothing_in() {
        let serving = Serving::new(&FuseConfig {
            request_count_max: 2,
            ..FuseConfig::default()
        });
        let Poll::Ready(Ok(first)) = poll(pin!(serving.place())) else {
            panic!("there are two");
        };
        let mut close = pin!(serving.close());
        assert!(poll(close.as_mut()).is_pending());
        let mut late = pin!(serving.place());
        assert!(poll(late.as_mut()).is_pending());
        drop(first);
        assert!(poll(close.as_mut()).is_ready());
        assert!(matches!(poll(late), Poll::Ready(Err(Closed))));
    }
}
