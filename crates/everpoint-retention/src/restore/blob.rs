//! A point as a fixed VHD in Azure: a page blob, made anew or from a replica, or a managed disk that waits for its
//! bytes.
//!
//! The footer is written last, so that what is half made is no VHD. A blob that this made, and that did not become
//! what it was to be, is removed; nothing else ever is. A kill leaves such a blob behind, without a footer.

mod copy;
mod error;

use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::vhd;
use everpoint_replica::{
    AzurePages, Fence, Ground, PageError, PageTarget, Properties, Refusal, TARGET_LEN_MAX, Upload,
    UploadConfig, UploadError, Uploaded,
};
use everpoint_units::{ByteLen, ByteOffset, DiskId, Level, MachineId, Seq, WallTime};
use everpoint_vault::Vault;
use serde::Serialize;

use super::fetch::{Poured, Sink};
use super::plan::DiskPlan;
use super::{
    ImageFormat, Progress, RestoreConfig, RestoreError, Restoring, WantedDisk, locate, wanted_disks,
};
use crate::machine::{DamageNote, Reads, Subject};
use crate::plain;
use crate::point::At;

pub use copy::bring_to_point;
pub use error::BlobError;

pub(super) use copy::{expect_its, expect_mark, last_page, mark_of};
pub(super) use error::kind_of_upload;

/// How long the first request to a blob is repeated: whoever waits may have mistyped the account. Unit:
/// milliseconds.
const FIRST_PATIENCE_MS: u64 = 30_000;
/// Farther than any upload raises a fence.
const RAISES_MAX: u64 = 1 << 20;

/// Which disk, and when.
#[derive(Clone, Debug)]
pub struct DiskAt {
    pub disk: DiskId,
    /// Its machine, where it is known: saves a search through the vault.
    pub machine: Option<MachineId>,
    pub at: At,
}

/// Where it becomes a VHD.
#[derive(Clone, Debug)]
pub enum BlobTarget {
    /// A blob that does not exist.
    New(AzurePages),
    /// A blob that does not exist, as a copy of a replica in the same account; only what differs is sent.
    FromReplica {
        blob: AzurePages,
        replica: AzurePages,
    },
    /// A managed disk that was created for an upload of just this length.
    Disk(AzurePages),
}

/// A disk that was restored to a blob.
#[derive(Clone, Debug, Serialize)]
pub struct BlobRestored {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    #[serde(serialize_with = "plain::seq")]
    pub seq: Seq,
    /// Capture time of the newest change in it.
    #[serde(serialize_with = "plain::time_if_any")]
    pub time: Option<WallTime>,
    #[serde(serialize_with = "plain::text")]
    pub disk: DiskId,
    pub name: String,
    /// Where it lies.
    pub target: String,
    /// Of the disk; the VHD is longer.
    #[serde(serialize_with = "plain::bytes")]
    pub size_bytes: ByteLen,
    /// Data verified.
    #[serde(serialize_with = "plain::bytes")]
    pub data_bytes: ByteLen,
    /// Bytes of frames read from the vault.
    #[serde(serialize_with = "plain::bytes")]
    pub read_bytes: ByteLen,
    /// Bytes put into the blob, what was repeated and the footer included.
    #[serde(serialize_with = "plain::bytes")]
    pub put_bytes: ByteLen,
    /// Bytes cleared in the blob.
    #[serde(serialize_with = "plain::bytes")]
    pub cleared_bytes: ByteLen,
    /// What of the replica was not known to be as at the point; none where no replica was copied.
    pub changed_bytes: Option<u64>,
    /// What is damaged in the machine's history. The blob does not need it; a later point might.
    pub damage: Vec<DamageNote>,
}

/// One disk at its point, found in the vault.
struct Prepared<'a> {
    restoring: Restoring<'a>,
    disk: WantedDisk,
}

/// Restores one disk to Azure.
///
/// # Errors
///
/// See [`RestoreError`].
pub async fn restore_to_blob(
    vault: &Vault,
    what: &DiskAt,
    to: &BlobTarget,
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<BlobRestored, RestoreError> {
    config.check()?;
    match to {
        BlobTarget::New(blob) => {
            expect_free(blob).await?;
            let prepared = Prepared::new(vault, what, config, progress).await?;
            prepared.make(blob).await
        }
        BlobTarget::Disk(disk) => {
            let found = found(disk, &shown(disk)).await?;
            let prepared = Prepared::new(vault, what, config, progress).await?;
            let (have, need) = (found.len, prepared.len()?);
            if have != need {
                return Err(BlobError::Length { have, need }.into());
            }
            prepared.fill_disk(disk, found.fence).await
        }
        BlobTarget::FromReplica { blob, replica } => {
            expect_free(blob).await?;
            copy::restore(vault, what, (blob, replica), config, progress).await
        }
    }
}

impl<'a> Prepared<'a> {
    async fn new(
        vault: &'a Vault,
        what: &DiskAt,
        config: &'a RestoreConfig,
        progress: &'a (dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Self, RestoreError> {
        let subject = Subject::Disk(what.disk);
        let (header, loaded, disk) =
            locate::<RestoreError>(vault, subject, what.machine, Reads::Journals).await?;
        let seq = loaded.resolve(disk, &what.at)?;
        let machine = loaded.machine();
        let mut wanted = wanted_disks(&loaded, disk, seq);
        let disk = wanted.pop().ok_or(RestoreError::NoDisks { machine, seq })?;
        let restoring = Restoring {
            vault,
            header,
            config,
            loaded,
            seq,
            format: ImageFormat::Vhd,
            progress,
        };
        Ok(Self { restoring, disk })
    }

    /// How long the VHD is, footer included.
    fn len(&self) -> Result<ByteLen, BlobError> {
        let need = ByteLen(vhd::padded_size(self.disk.size).0 + vhd::FOOTER_LEN as u64);
        if TARGET_LEN_MAX < need.0 {
            return Err(BlobError::TooLong { need });
        }
        Ok(need)
    }

    /// Makes a blob and fills it.
    async fn make(&self, blob: &AzurePages) -> Result<BlobRestored, RestoreError> {
        let shown = shown(blob);
        let plan = self.restoring.plan(&self.disk).await?;
        let fence = fence_of_a_new_one();
        let created = self.asks().create(blob, self.len()?, fence).await;
        created.map_err(|error| match error.refusal() {
            Some(Refusal::Exists) => exists(blob).into(),
            _ => failed(&shown)(error),
        })?;
        let made = self.fill(Arc::new(blob.clone()), fence, plan, &shown).await;
        if made.is_err() {
            discard(blob, fence).await;
        }
        made
    }

    /// Fills a managed disk. What an earlier attempt left in it is cleared.
    async fn fill_disk(
        &self,
        disk: &AzurePages,
        fence: Fence,
    ) -> Result<BlobRestored, RestoreError> {
        let shown = shown(disk);
        let failed = failed(&shown);
        let plan = self.restoring.plan(&self.disk).await?;
        let target: Arc<dyn PageTarget> = Arc::new(disk.clone());
        let fence = self.take(&*target, fence).await.map_err(&failed)?;
        let left = self.asks().ask(|| target.ranges(None)).await;
        let mut upload = self.upload(Arc::clone(&target), fence, Ground::Pages);
        for range in left
            .map_err(&failed)?
            .iter()
            .filter(|range| !range.is_clear)
        {
            let cleared = upload.clear(range.at, range.len).await;
            cleared.map_err(&failed)?;
        }
        upload.settle().await.map_err(&failed)?;
        self.fill(target, upload.fence(), plan, &shown).await
    }

    /// Fills a target that is all zeroes.
    async fn fill(
        &self,
        target: Arc<dyn PageTarget>,
        fence: Fence,
        plan: DiskPlan,
        shown: &str,
    ) -> Result<BlobRestored, RestoreError> {
        let mut upload = self.upload(target, fence, Ground::Zeroes);
        let poured = self.pour(plan, &mut upload, shown).await?;
        let uploaded = self.finish(&mut upload, shown).await?;
        Ok(self.restored(shown, poured, uploaded, None))
    }

    async fn pour(
        &self,
        plan: DiskPlan,
        upload: &mut Upload,
        shown: &str,
    ) -> Result<Poured, RestoreError> {
        let failed = failed(shown);
        let sink = Sink::Upload(upload, &failed);
        let taken = self.restoring.config.upload_memory();
        self.restoring.pour(&self.disk, plan, sink, taken).await
    }

    /// Writes the footer behind everything else.
    async fn finish(&self, upload: &mut Upload, shown: &str) -> Result<Uploaded, RestoreError> {
        let size = vhd::padded_size(self.disk.size);
        let time = self.time().unwrap_or_default();
        let footer = vhd::fixed_footer(size, self.disk.disk.0, time);
        let footer = Bytes::copy_from_slice(&footer);
        let finished = upload.finish(ByteOffset(size.0), footer).await;
        finished.map_err(failed(shown))
    }

    fn upload(&self, target: Arc<dyn PageTarget>, fence: Fence, ground: Ground) -> Upload {
        Upload::new(target, fence, ground, self.asks())
    }

    fn asks(&self) -> UploadConfig {
        UploadConfig {
            memory_max: self.restoring.config.upload_memory(),
            ..UploadConfig::default()
        }
    }

    /// Raises the fence of a target above what it is: from there on it is ours.
    async fn take(&self, target: &dyn PageTarget, above: Fence) -> Result<Fence, UploadError> {
        let next = above.next();
        let next = next.or_else(|| Fence::first_of(Level(above.level().0 + 1)));
        let to = next.ok_or(UploadError::Taken { fence: above })?;
        let fence = self.asks().ask(|| target.raise(to)).await?;
        match fence == to {
            true => Ok(fence),
            false => Err(UploadError::Taken { fence }),
        }
    }

    fn time(&self) -> Option<WallTime> {
        let restoring = &self.restoring;
        restoring.loaded.history().time_of(restoring.seq)
    }

    fn restored(
        &self,
        shown: &str,
        poured: Poured,
        uploaded: Uploaded,
        changed: Option<ByteLen>,
    ) -> BlobRestored {
        BlobRestored {
            machine: self.restoring.loaded.machine(),
            seq: self.restoring.seq,
            time: self.time(),
            disk: self.disk.disk,
            name: self.disk.name.clone(),
            target: shown.to_owned(),
            size_bytes: self.disk.size,
            data_bytes: poured.data,
            read_bytes: poured.read,
            put_bytes: uploaded.put,
            cleared_bytes: uploaded.cleared,
            changed_bytes: changed.map(|changed| changed.0),
            damage: self.restoring.loaded.damage().to_vec(),
        }
    }
}

/// A blob as an operator writes it.
pub(super) fn shown(blob: &AzurePages) -> String {
    format!("az://{}/{}", blob.container(), blob.name())
}

pub(super) fn failed(shown: &str) -> impl Fn(UploadError) -> RestoreError + use<> {
    let shown = shown.to_owned();
    move |source| RestoreError::Target {
        target: shown.clone(),
        source,
    }
}

fn exists(blob: &AzurePages) -> BlobError {
    BlobError::Exists { blob: shown(blob) }
}

/// How somebody is asked for the first time.
pub(super) fn first_asks() -> UploadConfig {
    UploadConfig {
        patience_ms_max: FIRST_PATIENCE_MS,
        ..UploadConfig::default()
    }
}

/// What a target is that has to be there.
pub(super) async fn found(
    target: &dyn PageTarget,
    shown: &str,
) -> Result<Properties, RestoreError> {
    let found = first_asks().ask(|| target.properties()).await;
    let found = found.map_err(failed(shown))?;
    found.ok_or_else(|| failed(shown)(PageError::from(Refusal::Missing).into()))
}

/// Nothing is written where something is.
async fn expect_free(blob: &AzurePages) -> Result<(), RestoreError> {
    let found = first_asks().ask(|| blob.properties()).await;
    match found.map_err(failed(&shown(blob)))? {
        None => Ok(()),
        Some(_) => Err(exists(blob).into()),
    }
}

/// A fence that no other writer has: whoever asks a blob for it knows whether that is one's own.
fn fence_of_a_new_one() -> Fence {
    let first = Fence::first_of(Level(1)).expect("a low level");
    let own = first.number() + u64::from(rand::random::<u32>() >> 1);
    Fence::from_number(own).expect("of the same level")
}

/// Removes a blob that was made here with this fence, unless it is somebody else's by now.
async fn discard(blob: &AzurePages, made_with: Fence) {
    let asks = first_asks();
    let removed = async {
        let Some(found) = asks.ask(|| blob.properties()).await? else {
            return Ok(());
        };
        let raised = found.fence.number().checked_sub(made_with.number());
        if raised.is_none_or(|raised| RAISES_MAX <= raised) {
            let fence = found.fence;
            return Err(UploadError::Taken { fence });
        }
        asks.ask(|| blob.remove()).await
    };
    if let Err(error) = removed.await
        && !matches!(error.refusal(), Some(Refusal::Missing))
    {
        let blob = shown(blob);
        tracing::warn!(%blob, %error, "a half-made blob cannot be removed: it has no footer; remove it");
    }
}
