//! Images in any order, over faults: what lies there in the end is the image, and a failure ends in what it was.

use proptest::prelude::*;

use super::*;
use crate::faulty::{FaultyPages, PageFault};
use crate::memory::MemoryPages;
use everpoint_units::Level;

const LEN: u64 = 3 * PIECE_LEN + 4_096;

fn fence() -> Fence {
    Fence::first_of(Level(1)).unwrap()
}

fn config() -> UploadConfig {
    UploadConfig {
        memory_max: ByteLen(UPLOAD_MEMORY_MIN),
        request_count_max: 3,
        patience_ms_max: 60_000,
        delay_ms_first: 1,
        delay_ms_max: 2,
    }
}

async fn target() -> FaultyPages<MemoryPages> {
    let target = FaultyPages::new(MemoryPages::new());
    target.create(ByteLen(LEN), fence()).await.unwrap();
    target
}

async fn content(target: &dyn PageTarget) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < LEN {
        let at = ByteOffset(all.len() as u64);
        let len = ByteLen((LEN - at.0).min(PIECE_LEN));
        all.extend(target.read(at, len, None).await.unwrap());
    }
    all
}

fn upload(target: &FaultyPages<MemoryPages>, ground: Ground) -> Upload {
    Upload::new(Arc::new(target.clone()), fence(), ground, config())
}

fn page(byte: u8) -> Bytes {
    vec![byte; 4_096].into()
}

/// Parts of a random image: disjoint, in a random order; some are zero.
fn parts() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let cuts = prop::collection::btree_set(0..LEN / 512, 2..60);
    (cuts, any::<u64>()).prop_flat_map(|(cuts, seed)| {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let parts: Vec<_> = cuts
            .windows(2)
            .enumerate()
            .filter(|(index, _)| (seed >> (index % 60)) & 3 != 0)
            .map(|(index, pair)| {
                let len = usize::try_from((pair[1] - pair[0]).min(3_000) * 512).unwrap();
                let byte = u8::try_from(index % 5).unwrap();
                (pair[0] * 512, vec![byte; len])
            })
            .collect();
        Just(parts).prop_shuffle()
    })
}

fn fault() -> impl Strategy<Value = Option<PageFault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(PageFault::Lost)),
        1 => Just(Some(PageFault::AnswerLost)),
        1 => Just(Some(PageFault::Late)),
        1 => Just(Some(PageFault::Busy { after: None })),
    ]
}

fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_image_arrives_whole_in_any_order_and_over_faults(
        parts in parts(),
        faults in prop::collection::vec(fault(), 0..40),
        over_pages in any::<bool>(),
    ) {
        run(async {
            let target = target().await;
            let mut image = vec![0; usize::try_from(LEN).unwrap()];
            let ground = if over_pages { Ground::Pages } else { Ground::Zeroes };
            if over_pages {
                target.put(ByteOffset(0), &page(9).into(), fence()).await.unwrap();
                image[..4_096].fill(9);
            }
            target.queue(faults);
            let mut upload = upload(&target, ground);
            for (at, bytes) in parts {
                let from = usize::try_from(at).unwrap();
                image[from..from + bytes.len()].copy_from_slice(&bytes);
                upload.write(ByteOffset(at), &bytes.into()).await.unwrap();
                prop_assert!(upload.held() <= UPLOAD_MEMORY_MIN);
            }
            upload.settle().await.unwrap();
            prop_assert!(content(&target).await == image, "settled");
            // What nobody waits for any more lands under its old fence, or changes nothing.
            while target.land().await.is_some() {}
            prop_assert!(content(&target).await == image, "late");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn zeroes_cost_nothing_where_zeroes_are() {
    let target = target().await;
    let mut upload = upload(&target, Ground::Zeroes);
    let mut bytes = vec![0; 1 << 20];
    bytes[700_000] = 1;
    upload.write(ByteOffset(0), &bytes.into()).await.unwrap();
    upload.settle().await.unwrap();
    assert_eq!(upload.done().put, ByteLen(4_096));
    assert_eq!(upload.done().requests, 1);
}

#[tokio::test]
async fn the_last_page_is_put_when_all_else_lies_there() {
    let target = target().await;
    let mut upload = upload(&target, Ground::Zeroes);
    for piece in 0..3 {
        let at = ByteOffset(piece * PIECE_LEN);
        upload.write(at, &page(1)).await.unwrap();
    }
    target.queue([Some(PageFault::Refused(Refusal::LeaseHeld))]);
    let refused = upload.finish(ByteOffset(LEN - 4_096), page(2)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::LeaseHeld));
    let last = target.read(ByteOffset(LEN - 4_096), ByteLen(4_096), None);
    assert_eq!(last.await.unwrap(), page(0));
}

#[tokio::test]
async fn a_fence_that_somebody_else_raised_ends_it() {
    let target = target().await;
    let mut upload = upload(&target, Ground::Zeroes);
    let other = Fence::first_of(Level(2)).unwrap();
    target.raise(other).await.unwrap();
    upload.write(ByteOffset(0), &page(1)).await.unwrap();
    let ended = upload.settle().await.unwrap_err();
    assert!(matches!(ended, UploadError::Taken { .. }), "{ended}");
    assert_eq!(ended.remedy(), Remedy::LookWhoLeads);
    assert!(content(&target).await.iter().all(|&byte| byte == 0));
}

#[tokio::test]
async fn patience_ends() {
    let target = target().await;
    let mut impatient = config();
    impatient.patience_ms_max = 0;
    let mut upload = Upload::new(Arc::new(target.clone()), fence(), Ground::Zeroes, impatient);
    target.queue([Some(PageFault::Busy { after: None })]);
    upload.write(ByteOffset(0), &page(1)).await.unwrap();
    let ended = upload.settle().await.unwrap_err();
    assert!(matches!(ended, UploadError::GaveUp { .. }), "{ended}");
}

#[tokio::test]
async fn cleared_is_what_was_to_be_cleared() {
    let target = target().await;
    let full: Pages = page(9).into();
    target.put(ByteOffset(4_096), &full, fence()).await.unwrap();
    target.queue([Some(PageFault::AnswerLost)]);
    let mut upload = upload(&target, Ground::Pages);
    upload.clear(ByteOffset(4_608), ByteLen(512)).await.unwrap();
    upload.settle().await.unwrap();
    let read = target.read(ByteOffset(4_096), ByteLen(1_536), None);
    let read = read.await.unwrap();
    assert!(read[..512] == [9; 512] && read[512..1_024] == [0; 512] && read[1_024..] == [9; 512]);
    assert_eq!(upload.fence(), fence().next().unwrap());
}

/// A create whose answer was lost is one's own if the fence is; another's blob is never taken for it.
#[tokio::test]
async fn what_exists_after_a_lost_answer_is_told_apart_by_its_fence() {
    use crate::error::Cause;
    use crate::target::{LeaseId, PageRange, Properties, SnapshotId};
    use async_trait::async_trait;

    /// Carries a create out, or has somebody else's there, and says that it does not know.
    #[derive(Debug)]
    struct Forgetful(MemoryPages, Fence);

    #[async_trait]
    impl PageTarget for Forgetful {
        async fn properties(&self) -> Result<Option<Properties>, PageError> {
            self.0.properties().await
        }
        async fn create(&self, len: ByteLen, _: Fence) -> Result<(), PageError> {
            self.0.create(len, self.1).await?;
            Err(Cause::Injected.into())
        }
        async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
            self.0.raise(to).await
        }
        async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
            self.0.put(at, pages, fence).await
        }
        async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
            self.0.clear(at, len, fence).await
        }
        async fn read(
            &self,
            at: ByteOffset,
            len: ByteLen,
            snapshot: Option<&SnapshotId>,
        ) -> Result<Bytes, PageError> {
            self.0.read(at, len, snapshot).await
        }
        async fn ranges(&self, of: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
            self.0.ranges(of).await
        }
        async fn changed_since(&self, at: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
            self.0.changed_since(at).await
        }
        async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
            self.0.resize(len, lease).await
        }
        async fn lease(&self, lease: LeaseId, seconds: u32) -> Result<(), PageError> {
            self.0.lease(lease, seconds).await
        }
        async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
            self.0.release(lease).await
        }
        async fn snapshot(&self) -> Result<SnapshotId, PageError> {
            self.0.snapshot().await
        }
        async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError> {
            self.0.forget(snapshot).await
        }
    }

    let own = Forgetful(MemoryPages::new(), fence());
    let len = ByteLen(LEN);
    config().create(&own, len, fence()).await.unwrap();
    let foreign = Forgetful(MemoryPages::new(), fence().next().unwrap());
    let refused = config().create(&foreign, len, fence()).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::Exists));
}
