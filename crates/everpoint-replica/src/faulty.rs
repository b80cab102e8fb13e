//! Faults in front of any target: answers that are lost, writes that land late, throttling, refusals.
//!
//! The test says which fault the next requests meet; nothing is random here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};

use crate::error::{Cause, PageError, Refusal};
use crate::fence::Fence;
use crate::target::{LeaseId, PageRange, PageTarget, Pages, Properties, SnapshotId};

/// What happens to one request that changes the target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PageFault {
    /// It never arrives; nobody says so.
    Lost,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// There is no answer, and it lands when [`FaultyPages::land`] is called.
    Late,
    /// It is refused with a pause.
    Busy { after: Option<Duration> },
    /// A person has to look.
    Refused(Refusal),
}

/// A target with faults in front of it. Clones share them.
#[derive(Clone)]
pub struct FaultyPages<T> {
    target: T,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    faults: VecDeque<Option<PageFault>>,
    late: VecDeque<Write>,
}

/// A request that changes the target.
#[derive(Clone, Debug)]
enum Write {
    Raise(Fence),
    Put(ByteOffset, Pages, Fence),
    Clear(ByteOffset, ByteLen, Fence),
    Resize(ByteLen, Option<LeaseId>),
    Lease(LeaseId, u32),
    Release(LeaseId),
}

impl<T: PageTarget> FaultyPages<T> {
    /// No faults yet.
    pub fn new(target: T) -> Self {
        Self {
            target,
            shared: Arc::default(),
        }
    }

    /// What the next requests that change the target meet, one each; `None` is no fault.
    pub fn queue(&self, faults: impl IntoIterator<Item = Option<PageFault>>) {
        self.lock().faults.extend(faults);
    }

    /// Lets the oldest late write land, under its own fence; whether there was one and it took effect.
    pub async fn land(&self) -> Option<bool> {
        let write = self.lock().late.pop_front()?;
        Some(self.carry_out(&write).await.is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out(&self, write: &Write) -> Result<Option<Fence>, PageError> {
        match write {
            Write::Raise(to) => self.target.raise(*to).await.map(Some),
            Write::Put(at, pages, fence) => {
                self.target.put(*at, pages, *fence).await.map(|()| None)
            }
            Write::Clear(at, len, fence) => {
                self.target.clear(*at, *len, *fence).await.map(|()| None)
            }
            Write::Resize(len, lease) => self.target.resize(*len, *lease).await.map(|()| None),
            Write::Lease(lease, seconds) => {
                self.target.lease(*lease, *seconds).await.map(|()| None)
            }
            Write::Release(lease) => self.target.release(*lease).await.map(|()| None),
        }
    }

    async fn meet(&self, write: Write) -> Result<Option<Fence>, PageError> {
        let unknown = || PageError::from(Cause::Injected);
        let fault = self.lock().faults.pop_front().flatten();
        match fault {
            None => self.carry_out(&write).await,
            Some(PageFault::Lost) => Err(unknown()),
            Some(PageFault::AnswerLost) => {
                // Whatever its outcome is, nobody hears of it.
                let _ = self.carry_out(&write).await;
                Err(unknown())
            }
            Some(PageFault::Late) => {
                self.lock().late.push_back(write);
                Err(unknown())
            }
            Some(PageFault::Busy { after }) => Err(PageError::Busy { after }),
            Some(PageFault::Refused(refusal)) => Err(refusal.into()),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for FaultyPages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyPages")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: PageTarget> PageTarget for FaultyPages<T> {
    async fn properties(&self) -> Result<Option<Properties>, PageError> {
        self.target.properties().await
    }

    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        self.target.create(len, fence).await
    }

    async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        let now = self.meet(Write::Raise(to)).await?;
        Ok(now.expect("raising answers with the fence"))
    }

    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
        let put = Write::Put(at, pages.clone(), fence);
        self.meet(put).await.map(|_| ())
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        self.meet(Write::Clear(at, len, fence)).await.map(|_| ())
    }

    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError> {
        self.target.read(at, len, snapshot).await
    }

    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
        self.target.ranges(snapshot).await
    }

    async fn changed_since(&self, snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
        self.target.changed_since(snapshot).await
    }

    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
        self.meet(Write::Resize(len, lease)).await.map(|_| ())
    }

    async fn lease(&self, lease: LeaseId, seconds: u32) -> Result<(), PageError> {
        self.meet(Write::Lease(lease, seconds)).await.map(|_| ())
    }

    async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        self.meet(Write::Release(lease)).await.map(|_| ())
    }

    async fn snapshot(&self) -> Result<SnapshotId, PageError> {
        self.target.snapshot().await
    }

    async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError> {
        self.target.forget(snapshot).await
    }
}

#[cfg(test)]
mod tests {
    use everpoint_units::Level;

    use super::*;
    use crate::contract;
    use crate::error::Remedy;
    use crate::memory::MemoryPages;

    const LEN: ByteLen = ByteLen(1 << 20);
    const AT: ByteOffset = ByteOffset(4_096);

    async fn created() -> (FaultyPages<MemoryPages>, Fence) {
        let faulty = FaultyPages::new(MemoryPages::new());
        let fence = Fence::first_of(Level(1)).unwrap();
        faulty.create(LEN, fence).await.unwrap();
        (faulty, fence)
    }

    fn filled(byte: u8) -> Pages {
        Bytes::from(vec![byte; 512]).into()
    }

    async fn byte(target: &impl PageTarget) -> u8 {
        target.read(AT, ByteLen(512), None).await.unwrap()[0]
    }

    #[tokio::test]
    async fn without_faults_it_keeps_the_contract() {
        contract::check(&FaultyPages::new(MemoryPages::new())).await;
    }

    #[tokio::test]
    async fn a_late_put_lands_over_newer_bytes_unless_the_fence_was_raised() {
        for raises in [false, true] {
            let (faulty, mut fence) = created().await;
            faulty.queue([Some(PageFault::Late)]);
            let lost = faulty.put(AT, &filled(1), fence).await.unwrap_err();
            assert_eq!(lost.remedy(), Remedy::RaiseFence);
            if raises {
                fence = fence.next().unwrap();
                assert_eq!(faulty.raise(fence).await.unwrap(), fence);
            }
            faulty.put(AT, &filled(2), fence).await.unwrap();
            assert_eq!(faulty.land().await, Some(!raises));
            assert_eq!(byte(&faulty).await, if raises { 2 } else { 1 });
            assert_eq!(faulty.land().await, None);
        }
    }

    #[tokio::test]
    async fn whether_it_was_carried_out_does_not_show() {
        let (faulty, fence) = created().await;
        faulty.queue([Some(PageFault::Lost), Some(PageFault::AnswerLost), None]);
        let lost = faulty.put(AT, &filled(1), fence).await.unwrap_err();
        assert_eq!(byte(&faulty).await, 0);
        let answer_lost = faulty.put(AT, &filled(2), fence).await.unwrap_err();
        assert_eq!(byte(&faulty).await, 2);
        assert_eq!(lost.to_string(), answer_lost.to_string());
        faulty.put(AT, &filled(3), fence).await.unwrap();
        assert_eq!(byte(&faulty).await, 3);
    }

    #[tokio::test]
    async fn what_is_refused_is_not_carried_out() {
        let (faulty, fence) = created().await;
        let after = Some(Duration::from_secs(3));
        faulty.queue([
            Some(PageFault::Busy { after }),
            Some(PageFault::Refused(Refusal::LeaseHeld)),
        ]);
        let busy = faulty.put(AT, &filled(1), fence).await.unwrap_err();
        assert_eq!(busy.remedy(), Remedy::Again { after });
        let refused = faulty.put(AT, &filled(1), fence).await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Report);
        assert_eq!(byte(&faulty).await, 0);
    }
}
