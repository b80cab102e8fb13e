//! A target whose requests are counted: for metrics, and for what they cost.
//!
//! A call is one request; only a list of ranges that comes in several parts is more than it counts as. A request that
//! fails is billed too, and counted, unless it never reached the account or the account did not know whose it was. A
//! call that is dropped before its answer is not counted.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};

use crate::error::{PageError, Refusal};
use crate::fence::Fence;
use crate::target::{LeaseId, PageRange, PageTarget, Pages, Properties, SnapshotId};
use crate::traffic::{RequestKind, Traffic, UtcDay};

/// Counters that several targets add to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SharedTraffic(Arc<Mutex<Traffic>>);

/// A target in front of which its requests are counted.
#[derive(Clone)]
pub struct Counted {
    target: Arc<dyn PageTarget>,
    traffic: SharedTraffic,
    today: Arc<dyn Fn() -> UtcDay + Send + Sync>,
}

impl SharedTraffic {
    /// See [`Traffic::record`].
    pub fn record(&self, day: UtcDay, kind: RequestKind, requests: u64, bytes: u64) {
        // Counters are whole after each line that could panic.
        let mut traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.record(day, kind, requests, bytes);
    }

    /// The counters as they are now.
    pub fn now(&self) -> Traffic {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Counted {
    /// Counts what `target` is asked for in `traffic`, on the day that `today` says.
    pub fn new(
        target: Arc<dyn PageTarget>,
        traffic: SharedTraffic,
        today: impl Fn() -> UtcDay + Send + Sync + 'static,
    ) -> Self {
        Self {
            target,
            traffic,
            today: Arc::new(today),
        }
    }

    /// Counts a request that had this outcome, and hands the outcome on.
    fn count<T>(
        &self,
        kind: RequestKind,
        bytes: u64,
        outcome: Result<T, PageError>,
    ) -> Result<T, PageError> {
        if outcome.as_ref().err().is_none_or(is_billed) {
            self.traffic.record((self.today)(), kind, 1, bytes);
        }
        outcome
    }
}

/// Whether a request that failed so is one that the account counts.
const fn is_billed(error: &PageError) -> bool {
    !matches!(
        error,
        PageError::Unreachable { .. }
            | PageError::Refused(Refusal::Credential { .. } | Refusal::Clock { .. })
    )
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl PageTarget for Counted {
    async fn properties(&self) -> Result<Option<Properties>, PageError> {
        self.count(RequestKind::Other, 0, self.target.properties().await)
    }

    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        let created = self.target.create(len, fence).await;
        self.count(RequestKind::Write, 0, created)
    }

    async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        self.count(RequestKind::Other, 0, self.target.raise(to).await)
    }

    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
        let put = self.target.put(at, pages, fence).await;
        self.count(RequestKind::Write, pages.len().0, put)
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        let cleared = self.target.clear(at, len, fence).await;
        self.count(RequestKind::Write, 0, cleared)
    }

    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError> {
        let read = self.target.read(at, len, snapshot).await;
        let answered = read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.count(RequestKind::Read, answered, read)
    }

    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
        let ranges = self.target.ranges(snapshot).await;
        self.count(RequestKind::Other, 0, ranges)
    }

    async fn changed_since(&self, snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
        let changed = self.target.changed_since(snapshot).await;
        self.count(RequestKind::Other, 0, changed)
    }

    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
        let resized = self.target.resize(len, lease).await;
        self.count(RequestKind::Other, 0, resized)
    }

    async fn lease(&self, lease: LeaseId, seconds: u32) -> Result<(), PageError> {
        let leased = self.target.lease(lease, seconds).await;
        self.count(RequestKind::Other, 0, leased)
    }

    async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        self.count(RequestKind::Other, 0, self.target.release(lease).await)
    }

    async fn snapshot(&self) -> Result<SnapshotId, PageError> {
        self.count(RequestKind::Other, 0, self.target.snapshot().await)
    }

    async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError> {
        let forgotten = self.target.forget(snapshot).await;
        self.count(RequestKind::Delete, 0, forgotten)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use everpoint_units::Level;

    use super::*;
    use crate::contract;
    use crate::faulty::{FaultyPages, PageFault};
    use crate::memory::MemoryPages;

    const LEN: ByteLen = ByteLen(1 << 20);
    const AT: ByteOffset = ByteOffset(4_096);

    fn counted(target: impl PageTarget + 'static) -> (Counted, SharedTraffic) {
        let traffic = SharedTraffic::default();
        let counted = Counted::new(Arc::new(target), traffic.clone(), || UtcDay(7));
        (counted, traffic)
    }

    fn fence() -> Fence {
        Fence::first_of(Level(1)).unwrap()
    }

    fn filled(len: usize) -> Pages {
        Bytes::from(vec![1; len]).into()
    }

    /// Requests by kind, bytes in, bytes out, of all days.
    fn sums(traffic: &SharedTraffic) -> ([u64; 4], u64, u64) {
        let mut sums = ([0; 4], 0, 0);
        for (_, day) in traffic.now().days() {
            for (sum, kind) in sums.0.iter_mut().zip(RequestKind::ALL) {
                *sum += day.requests(kind);
            }
            sums.1 += day.bytes_in;
            sums.2 += day.bytes_out;
        }
        sums
    }

    #[tokio::test]
    async fn what_is_counted_keeps_the_contract() {
        contract::check(&counted(MemoryPages::new()).0).await;
        contract::check_snapshots(&counted(MemoryPages::new()).0).await;
        contract::check_differences(&counted(MemoryPages::new()).0).await;
    }

    #[tokio::test]
    async fn every_request_is_counted_as_it_is_billed() {
        let (target, traffic) = counted(MemoryPages::new());
        target.create(LEN, fence()).await.unwrap();
        target.put(AT, &filled(8_192), fence()).await.unwrap();
        target.clear(AT, ByteLen(512), fence()).await.unwrap();
        assert_eq!(sums(&traffic), ([3, 0, 0, 0], 8_192, 0));

        target.read(AT, ByteLen(1_024), None).await.unwrap();
        assert_eq!(sums(&traffic), ([3, 1, 0, 0], 8_192, 1_024));

        target.properties().await.unwrap();
        target.raise(fence()).await.unwrap();
        target.ranges(None).await.unwrap();
        let snapshot = target.snapshot().await.unwrap();
        target.changed_since(&snapshot).await.unwrap();
        let lease = LeaseId(7);
        target.lease(lease, 15).await.unwrap();
        target.resize(LEN, Some(lease)).await.unwrap();
        target.release(lease).await.unwrap();
        assert_eq!(sums(&traffic), ([3, 1, 8, 0], 8_192, 1_024));

        target.forget(&snapshot).await.unwrap();
        assert_eq!(sums(&traffic), ([3, 1, 8, 1], 8_192, 1_024));
    }

    #[tokio::test]
    async fn a_request_that_fails_is_counted_unless_nobody_bills_it() {
        let faulty = FaultyPages::new(MemoryPages::new());
        let (target, traffic) = counted(faulty.clone());
        faulty.create(LEN, fence()).await.unwrap();
        let code = "AuthenticationFailed".to_owned();
        faulty.queue([
            Some(PageFault::Lost),
            Some(PageFault::Busy { after: None }),
            Some(PageFault::Refused(Refusal::Clock { minutes: 20 })),
            Some(PageFault::Refused(Refusal::Credential { code })),
        ]);
        let mut counts = Vec::new();
        for _ in 0..4 {
            target.put(AT, &filled(512), fence()).await.unwrap_err();
            counts.push(sums(&traffic));
        }
        let once = ([1, 0, 0, 0], 512, 0);
        let twice = ([2, 0, 0, 0], 1_024, 0);
        assert_eq!(counts, [once, twice, twice, twice]);
        target.put(AT, &filled(512), Fence::NONE).await.unwrap_err();
        assert_eq!(sums(&traffic), ([3, 0, 0, 0], 1_536, 0));
    }

    #[tokio::test]
    async fn a_request_counts_on_the_day_that_its_answer_comes() {
        let today = Arc::new(AtomicU64::new(7));
        let traffic = SharedTraffic::default();
        let clock = today.clone();
        let target = Counted::new(Arc::new(MemoryPages::new()), traffic.clone(), move || {
            UtcDay(clock.load(Ordering::Relaxed))
        });
        target.properties().await.unwrap();
        today.store(8, Ordering::Relaxed);
        let twin = target.clone();
        twin.properties().await.unwrap();
        twin.properties().await.unwrap();
        let days: Vec<_> = traffic
            .now()
            .days()
            .map(|(day, counted)| (day.0, counted.requests(RequestKind::Other)))
            .collect();
        assert_eq!(days, [(7, 1), (8, 2)]);
    }
}
