//! A point from a replica: a copy that the service makes, and what differs from it sent.
//!
//! ```text
//! snapshot of the replica ─▶ its mark ─▶ the machine's path, read after it ─▶ what may differ
//!          └─▶ copied by the service ─▶ without the last page ─▶ brought to the point ─▶ footer
//! ```
//!
//! A replica holds everything through the object that its mark names, and may hold parts of anything that was
//! committed by the time of the snapshot; all of that is in the path, which is read later.

use std::sync::Arc;
use std::time::Duration;

use everpoint_format::replica::Mark;
use everpoint_format::vhd::FOOTER_LEN;
use everpoint_replica::{AzurePages, CopyState, Ground, PageTarget, Refusal, SnapshotId};
use everpoint_units::{ByteLen, ByteOffset, DiskId, SECTOR_LEN, VaultId};
use everpoint_vault::Vault;
use everpoint_vault::history::read_header;

use super::error::is_unknown;
use super::{BlobError, BlobRestored, DiskAt, Prepared, discard, failed, first_asks, found, shown};
use crate::machine::LoadedMachine;
use crate::restore::plan::CopyPlan;
use crate::restore::{Progress, RestoreConfig, RestoreError};

/// Length of the last page. Unit: bytes.
const PAGE_LEN: u64 = FOOTER_LEN as u64;
/// How often a copy is asked how far it is: ever less often.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Makes a blob from a replica.
pub(super) async fn restore(
    vault: &Vault,
    what: &DiskAt,
    (blob, replica): (&AzurePages, &AzurePages),
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<BlobRestored, RestoreError> {
    let shown = shown(replica);
    let len = found(replica, &shown).await?.len;
    // Taken twice, one would stay: so what may have been taken is told, and not taken again.
    let snapshot = first_asks().ask_once(|| replica.snapshot()).await;
    let snapshot = snapshot.map_err(failed(&shown))?;
    let of = Snapshot {
        replica,
        id: &snapshot,
        len,
    };
    let restored = of.restore(vault, what, blob, config, progress).await;
    let forgotten = first_asks().ask(|| replica.forget(&snapshot)).await;
    if let Err(error) = forgotten
        && !matches!(error.refusal(), Some(Refusal::Missing))
    {
        let snapshot = &snapshot.0;
        tracing::warn!(replica = shown, snapshot, %error, "a snapshot cannot be removed: remove it");
    }
    restored
}

/// Brings a copy of a replica, which nobody else writes to, to a point. Its last page says what it holds.
///
/// # Errors
///
/// See [`RestoreError`].
pub async fn bring_to_point(
    vault: &Vault,
    what: &DiskAt,
    copy: Arc<dyn PageTarget>,
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<BlobRestored, RestoreError> {
    config.check()?;
    let shown = "the copy";
    let len = found(&*copy, shown).await?.len;
    let mark = last_page(&*copy, None, len, shown).await?;
    let (prepared, plan) = prepare(vault, what, (&mark, shown), config, progress).await?;
    prepared.rewrite(plan, copy, shown).await
}

/// A replica as it stays.
struct Snapshot<'a> {
    replica: &'a AzurePages,
    id: &'a SnapshotId,
    len: ByteLen,
}

impl Snapshot<'_> {
    async fn restore(
        &self,
        vault: &Vault,
        what: &DiskAt,
        blob: &AzurePages,
        config: &RestoreConfig,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<BlobRestored, RestoreError> {
        let of = shown(self.replica);
        let mark = last_page(self.replica, Some(self.id), self.len, &of).await?;
        let (prepared, plan) = prepare(vault, what, (&mark, &of), config, progress).await?;
        prepared.len()?;
        let name = shown(blob);
        let begun = first_asks()
            .ask_once(|| blob.begin_copy(self.replica, self.id))
            .await;
        begun.map_err(|source| match source.refusal() {
            Some(Refusal::Exists) => super::exists(blob).into(),
            _ if is_unknown(&source) => {
                let blob = name.clone();
                BlobError::CopyUnknown { blob, source }.into()
            }
            _ => failed(&name)(source),
        })?;
        // The service gives a copy the fence of what it was made from.
        let made_with = found(blob, &name).await.map(|found| found.fence);
        let made = async {
            self.until_copied(blob, &name).await?;
            prepared.rewrite(plan, Arc::new(blob.clone()), &name).await
        };
        let made = made.await;
        if made.is_err()
            && let Ok(made_with) = made_with
        {
            discard(blob, made_with).await;
        }
        made
    }

    async fn until_copied(&self, blob: &AzurePages, name: &str) -> Result<(), RestoreError> {
        let replica = || shown(self.replica);
        let mut pause = LOOK_FIRST;
        loop {
            let found = found(blob, name).await?;
            match found.copy {
                CopyState::Done if found.len == self.len => return Ok(()),
                CopyState::Done => return Err(BlobError::Resized { replica: replica() }.into()),
                CopyState::Failed => {
                    return Err(BlobError::CopyFailed { replica: replica() }.into());
                }
                CopyState::Pending { .. } => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

/// Finds the point, and what of a replica with this mark may differ from it.
async fn prepare<'a>(
    vault: &'a Vault,
    what: &DiskAt,
    (mark, shown): (&Mark, &str),
    config: &'a RestoreConfig,
    progress: &'a (dyn Fn(&Progress) + Send + Sync),
) -> Result<(Prepared<'a>, CopyPlan), RestoreError> {
    let header = read_header(vault).await?;
    let what = DiskAt {
        machine: Some(mark.machine),
        ..what.clone()
    };
    expect_its(mark, header.vault, what.disk, shown)?;
    let prepared = Prepared::new(vault, &what, config, progress).await?;
    let through = expect_mark(mark, &prepared.restoring.loaded, shown)?;
    let plan = prepared.restoring.plan_over_copy(&prepared.disk, through);
    let plan = plan.await?;
    Ok((prepared, plan))
}

/// Checks that a replica follows this disk of this vault.
///
/// # Errors
///
/// [`BlobError`] with what it follows.
pub(in crate::restore) fn expect_its(
    mark: &Mark,
    vault: VaultId,
    disk: DiskId,
    shown: &str,
) -> Result<(), BlobError> {
    let replica = || shown.to_owned();
    if mark.vault != vault {
        return Err(BlobError::OtherVault {
            replica: replica(),
            found: mark.vault,
        });
    }
    if mark.disk != disk {
        return Err(BlobError::OtherDisk {
            replica: replica(),
            found: mark.disk,
        });
    }
    Ok(())
}

/// How many of the machine's objects a replica with this mark holds whole.
///
/// # Errors
///
/// [`BlobError`] where that cannot be known.
pub(in crate::restore) fn expect_mark(
    mark: &Mark,
    loaded: &LoadedMachine,
    shown: &str,
) -> Result<u32, BlobError> {
    let replica = shown.to_owned();
    let Some(applied) = &mark.applied else {
        return Err(BlobError::NotFilled { replica });
    };
    if !loaded.damage().is_empty() {
        return Err(BlobError::Unsure { replica });
    }
    let (journal, number) = (applied.journal, applied.number);
    let through = loaded.count_through(journal, number);
    through.ok_or(BlobError::NotInPath {
        replica,
        journal,
        number,
    })
}

/// The mark in the last page of a target of this length.
///
/// # Errors
///
/// When it cannot be read, or is none.
pub(in crate::restore) async fn last_page(
    target: &dyn PageTarget,
    snapshot: Option<&SnapshotId>,
    len: ByteLen,
    shown: &str,
) -> Result<Mark, RestoreError> {
    let no_mark = || BlobError::NoMark {
        replica: shown.to_owned(),
    };
    let at = len.0.checked_sub(PAGE_LEN).ok_or_else(no_mark)?;
    let (at, page_len) = (ByteOffset(at), ByteLen(PAGE_LEN));
    let page = first_asks()
        .ask(|| target.read(at, page_len, snapshot))
        .await;
    let page = page.map_err(failed(shown))?;
    Ok(mark_of(&page, len, shown)?)
}

/// The mark in a last page.
pub(in crate::restore) fn mark_of(
    page: &[u8],
    len: ByteLen,
    shown: &str,
) -> Result<Mark, BlobError> {
    let replica = || shown.to_owned();
    let page = page.first_chunk();
    let mark = page.map(Mark::decode).transpose();
    let mark = mark.map_err(|source| BlobError::Mark {
        replica: replica(),
        source,
    })?;
    let mark = mark.flatten();
    let its = mark.filter(|mark| Mark::target_len(mark.sectors) == len);
    its.ok_or_else(|| BlobError::NoMark { replica: replica() })
}

impl Prepared<'_> {
    /// Brings a copy of a replica to the point.
    async fn rewrite(
        &self,
        plan: CopyPlan,
        copy: Arc<dyn PageTarget>,
        shown: &str,
    ) -> Result<BlobRestored, RestoreError> {
        let failed = failed(shown);
        let (was, len) = (found(&*copy, shown).await?, self.len()?);
        let fence = self.take(&*copy, was.fence).await.map_err(&failed)?;
        let mut upload = self.upload(Arc::clone(&copy), fence, Ground::Pages);
        // From here on it is no replica, and no VHD either.
        let last = ByteOffset(was.len.0 - PAGE_LEN);
        upload
            .clear(last, ByteLen(PAGE_LEN))
            .await
            .map_err(&failed)?;
        upload.settle().await.map_err(&failed)?;
        if was.len != len {
            let resized = self.asks().ask(|| copy.resize(len, None)).await;
            resized.map_err(&failed)?;
        }
        // What lies behind the old end is zero.
        let end = last.0 / SECTOR_LEN;
        for sectors in &plan.clears {
            let (from, to) = (sectors.start, sectors.end.min(end));
            if from < to {
                let at = ByteOffset(from * SECTOR_LEN);
                let cleared = upload.clear(at, ByteLen((to - from) * SECTOR_LEN)).await;
                cleared.map_err(&failed)?;
            }
        }
        let poured = self.pour(plan.puts, &mut upload, shown).await?;
        let uploaded = self.finish(&mut upload, shown).await?;
        Ok(self.restored(shown, poured, uploaded, Some(plan.changed)))
    }
}
