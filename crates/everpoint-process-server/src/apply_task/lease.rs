//! The lease under which a target's length is changed: one answer that is lost does not bar its own taker.

use std::sync::{Mutex, PoisonError};

use everpoint_replica::{Fence, LeaseId, PageError, PageTarget, Refusal};
use everpoint_units::ByteLen;

use crate::shared::chain;

/// How long it is taken for. Source: Azure REST reference, "Lease Blob": at least 15 s. Unit: seconds.
const LEASE_S: u32 = 15;

/// What one replica's task takes, one after the other.
///
/// The same is taken again until it was surely given back, or until a change of length was sent under it: whoever has
/// heard no answer holds it perhaps, and is let in. A change of length that was sent may yet land, and is to find that
/// its lease is held no more: so that one is never taken again.
pub(super) struct Lease {
    next: Mutex<Next>,
}

#[derive(Clone, Copy)]
struct Next {
    id: LeaseId,
    /// A change of length was sent under it.
    is_used: bool,
}

impl Lease {
    pub(super) fn new() -> Self {
        let next = Mutex::new(Next::draw());
        Self { next }
    }

    /// Takes it and gives it back: what another had asked for under one of its own comes to nothing from then on.
    pub(super) async fn pass(&self, target: &dyn PageTarget) -> Result<(), PageError> {
        let lease = self.take(target).await?;
        give_back(target, lease).await
    }

    /// Changes the length. The fence is looked at once more under the lease: nobody raises it and measures before the
    /// lease is over.
    pub(super) async fn resize(
        &self,
        target: &dyn PageTarget,
        len: ByteLen,
        fence: Fence,
    ) -> Result<(), Unresized> {
        let lease = self.take(target).await.map_err(Unresized::NotAsked)?;
        let is = target.properties().await.map_err(Unresized::NotAsked)?;
        let resized = match is {
            Some(is) if is.fence == fence => {
                self.set(Next {
                    id: lease,
                    is_used: true,
                });
                target.resize(len, Some(lease)).await
            }
            _ => Err(PageError::Fenced { fence }),
        };
        // One that is not given back ends by itself, or is given back before the next is taken.
        match give_back(target, lease).await {
            Ok(()) => self.set(Next::draw()),
            Err(error) => tracing::debug!(error = chain(&error), "a lease is not given back yet"),
        }
        resized.map_err(Unresized::Asked)
    }

    async fn take(&self, target: &dyn PageTarget) -> Result<LeaseId, PageError> {
        let mut next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_used {
            give_back(target, next.id).await?;
            next = Next::draw();
            self.set(next);
        }
        target.lease(next.id, LEASE_S).await?;
        Ok(next.id)
    }

    fn set(&self, next: Next) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// That it is not held is what is wanted: perhaps it was given back before, and no answer was heard.
async fn give_back(target: &dyn PageTarget, lease: LeaseId) -> Result<(), PageError> {
    match target.release(lease).await {
        Err(PageError::Refused(Refusal::LeaseHeld)) => Ok(()),
        released => released,
    }
}

/// Why a length was not changed, as far as is known.
#[derive(Debug)]
pub(super) enum Unresized {
    /// It was not asked for.
    NotAsked(PageError),
    Asked(PageError),
}

impl Next {
    fn draw() -> Self {
        Self {
            id: LeaseId(rand::random()),
            is_used: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use everpoint_replica::{FaultyPages, MemoryPages, PageFault};
    use everpoint_units::Level;

    use super::*;

    const LEN: ByteLen = ByteLen(1 << 20);
    const LONGER: ByteLen = ByteLen(2 << 20);
    const OTHER: LeaseId = LeaseId(1);

    async fn target() -> (FaultyPages<MemoryPages>, Fence) {
        let target = FaultyPages::new(MemoryPages::new());
        let fence = Fence::first_of(Level(1)).unwrap();
        target.create(LEN, fence).await.unwrap();
        (target, fence)
    }

    async fn len(target: &FaultyPages<MemoryPages>) -> ByteLen {
        target.properties().await.unwrap().unwrap().len
    }

    #[tokio::test]
    async fn whoever_has_heard_no_answer_is_let_in_again() {
        let (target, _) = target().await;
        let lease = Lease::new();
        target.queue([Some(PageFault::AnswerLost)]);
        assert!(matches!(
            lease.pass(&target).await,
            Err(PageError::Unknown { .. })
        ));
        assert!(target.lease(OTHER, LEASE_S).await.is_err(), "it is held");
        lease.pass(&target).await.unwrap();

        target.queue([None, Some(PageFault::Lost)]);
        lease.pass(&target).await.unwrap_err();
        lease.pass(&target).await.unwrap();
        target.lease(OTHER, LEASE_S).await.unwrap();
    }

    #[tokio::test]
    async fn another_ones_lease_is_in_the_way() {
        let (target, fence) = target().await;
        let lease = Lease::new();
        target.lease(OTHER, LEASE_S).await.unwrap();
        for _ in 0..2 {
            let refused = lease.pass(&target).await.unwrap_err();
            assert!(matches!(refused, PageError::Refused(Refusal::LeaseHeld)));
        }
        let refused = lease.resize(&target, LONGER, fence).await.unwrap_err();
        assert!(matches!(refused, Unresized::NotAsked(_)));
        assert_eq!(len(&target).await, LEN);
        target.release(OTHER).await.unwrap();
        lease.pass(&target).await.unwrap();
    }

    #[tokio::test]
    async fn a_length_that_lands_late_finds_its_lease_gone_whatever_became_of_it() {
        for release in [None, Some(PageFault::Lost), Some(PageFault::AnswerLost)] {
            let (target, fence) = target().await;
            let lease = Lease::new();
            target.queue([None, Some(PageFault::Late), release]);
            let late = lease.resize(&target, LONGER, fence).await.unwrap_err();
            assert!(matches!(late, Unresized::Asked(PageError::Unknown { .. })));
            lease.take(&target).await.unwrap();
            // A lease of the same task is held while the late one lands.
            assert_eq!(target.land().await, Some(false));
            assert_eq!(len(&target).await, LEN);
            lease.resize(&target, LONGER, fence).await.unwrap();
            assert_eq!(len(&target).await, LONGER);
        }
    }

    #[tokio::test]
    async fn under_a_fence_that_is_over_no_length_is_changed() {
        let (target, fence) = target().await;
        let lease = Lease::new();
        let next = target.raise(fence.next().unwrap()).await.unwrap();
        let fenced = lease.resize(&target, LONGER, fence).await.unwrap_err();
        assert!(matches!(fenced, Unresized::Asked(PageError::Fenced { .. })));
        assert_eq!(len(&target).await, LEN);
        lease.resize(&target, LONGER, next).await.unwrap();
        assert_eq!(len(&target).await, LONGER);
    }
}
