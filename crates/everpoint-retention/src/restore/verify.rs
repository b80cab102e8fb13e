//! Whether a replica holds what its mark says, page by page, from the vault alone.
//!
//! Everything through the object that the mark names has to be there. What objects behind it touched may be there
//! already, and is not compared. A page blob is compared as it was at one moment, in a snapshot that is removed
//! again; a file should have no writer meanwhile.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use everpoint_format::name;
use everpoint_format::replica::Mark;
use everpoint_format::vhd::{self, FOOTER_LEN};
use everpoint_replica::{AzurePages, PageTarget as _, Refusal};
use everpoint_units::{ByteLen, DiskId, MachineId, SECTOR_LEN, Seq};
use everpoint_vault::Vault;
use everpoint_vault::history::read_header;
use serde::Serialize;

use super::blob::{
    BlobError, expect_its, expect_mark, failed, first_asks, found, last_page, mark_of, shown,
};
use super::compare::{Comparing, Found, Source};
use super::fetch::Sink;
use super::plan::DiskPlan;
use super::{ImageFormat, Progress, RestoreConfig, RestoreError, Restoring, WantedDisk, locate};
use crate::machine::{Reads, Subject};
use crate::plain;

/// Where a replica lies.
#[derive(Clone, Debug)]
pub enum ReplicaPlace {
    /// A page blob.
    Blob(AzurePages),
    /// A VHD.
    File(PathBuf),
}

/// What a replica holds, and whether it does.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaReport {
    pub replica: String,
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    #[serde(serialize_with = "plain::text")]
    pub disk: DiskId,
    /// The last object that is in it, by its name in the vault.
    pub object: String,
    /// No change of the disk at or below this is missing.
    #[serde(serialize_with = "plain::seq")]
    pub through: Seq,
    /// Whether it is a state of the disk.
    pub is_level: bool,
    #[serde(serialize_with = "plain::bytes")]
    pub size_bytes: ByteLen,
    /// Data of the vault that it was held against; everything else should be zero.
    #[serde(serialize_with = "plain::bytes")]
    pub data_bytes: ByteLen,
    /// Not compared: the vault has something newer there, which the replica may have, too.
    #[serde(serialize_with = "plain::bytes")]
    pub newer_bytes: ByteLen,
    #[serde(serialize_with = "plain::bytes")]
    pub differing_bytes: ByteLen,
    /// The first of them.
    pub differing: Vec<Differing>,
}

/// A place where a replica differs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Differing {
    /// Unit: bytes.
    pub at: u64,
    /// Unit: bytes.
    pub len: u64,
}

/// Compares a replica of a disk with the vault.
///
/// # Errors
///
/// Why there is no answer. That it differs is one.
pub async fn verify_replica(
    vault: &Vault,
    disk: DiskId,
    place: &ReplicaPlace,
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<ReplicaReport, RestoreError> {
    config.check()?;
    let verifying = Verifying {
        vault,
        disk,
        config,
        progress,
    };
    match place {
        ReplicaPlace::Blob(blob) => verifying.blob(blob).await,
        ReplicaPlace::File(path) => verifying.file(path.clone()).await,
    }
}

struct Verifying<'a> {
    vault: &'a Vault,
    disk: DiskId,
    config: &'a RestoreConfig,
    progress: &'a (dyn Fn(&Progress) + Send + Sync),
}

impl Verifying<'_> {
    async fn blob(&self, blob: &AzurePages) -> Result<ReplicaReport, RestoreError> {
        let shown = shown(blob);
        let len = found(blob, &shown).await?.len;
        let snapshot = first_asks().ask_once(|| blob.snapshot()).await;
        let snapshot = snapshot.map_err(failed(&shown))?;
        let verified = async {
            let mark = last_page(blob, Some(&snapshot), len, &shown).await?;
            let source = Source::Pages {
                target: Arc::new(blob.clone()),
                snapshot: Some(snapshot.clone()),
                shown: shown.clone(),
            };
            self.compare(&shown, &mark, source).await
        };
        let verified = verified.await;
        let forgotten = first_asks().ask(|| blob.forget(&snapshot)).await;
        if let Err(error) = forgotten
            && !matches!(error.refusal(), Some(Refusal::Missing))
        {
            let snapshot = &snapshot.0;
            tracing::warn!(replica = shown, snapshot, %error, "a snapshot cannot be removed: remove it");
        }
        verified
    }

    async fn file(&self, path: PathBuf) -> Result<ReplicaReport, RestoreError> {
        let shown = path.display().to_string();
        let failed = |operation, source| RestoreError::File {
            operation,
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(|source| failed("open", source))?;
        let metadata = file.metadata().map_err(|source| failed("stat", source))?;
        let len = metadata.len();
        let at = len.checked_sub(FOOTER_LEN as u64);
        let at = at.ok_or_else(|| BlobError::NoMark {
            replica: shown.clone(),
        })?;
        let mut page = [0; FOOTER_LEN];
        let read = file.read_exact_at(&mut page, at);
        read.map_err(|source| failed("read", source))?;
        let mark = mark_of(&page, ByteLen(len), &shown)?;
        let file = Arc::new(file);
        self.compare(&shown, &mark, Source::File { file, path })
            .await
    }

    async fn compare(
        &self,
        shown: &str,
        mark: &Mark,
        source: Source,
    ) -> Result<ReplicaReport, RestoreError> {
        let header = read_header(self.vault).await?;
        expect_its(mark, header.vault, self.disk, shown)?;
        let subject = Subject::Disk(self.disk);
        let (header, loaded, _) =
            locate::<RestoreError>(self.vault, subject, Some(mark.machine), Reads::Journals)
                .await?;
        let through = expect_mark(mark, &loaded, shown)?;
        let applied = mark.applied.expect("it was expected");
        let size = ByteLen(mark.sectors * SECTOR_LEN);
        let name = loaded.history().disks().get(&self.disk);
        let disk = WantedDisk {
            disk: self.disk,
            name: name.map(|disk| disk.name.clone()).unwrap_or_default(),
            size,
            index: 0,
            count: 1,
        };
        let restoring = Restoring {
            vault: self.vault,
            header,
            config: self.config,
            loaded,
            seq: Seq(u64::MAX),
            format: ImageFormat::Vhd,
            progress: self.progress,
        };
        let mut standing = restoring.standing(&disk, through).await?;
        if standing.sectors != mark.sectors {
            return Err(BlobError::OtherSize {
                replica: shown.to_owned(),
                found: size,
                expected: ByteLen(standing.sectors * SECTOR_LEN),
            }
            .into());
        }
        let sectors = vhd::padded_size(size).0 / SECTOR_LEN;
        standing.later.cut_off(sectors);
        let newer = ByteLen(standing.later.sectors() * SECTOR_LEN);
        let plan = DiskPlan::of(&standing.map, Vec::new(), size, standing.index_count);
        let given = plan.given();
        let comparing = Arc::new(Comparing {
            source,
            loose: standing.later,
            found: Mutex::default(),
        });
        comparing.compare_zeroes(sectors, &given).await?;
        // Each task holds one read of the replica, too.
        let taken = self.config.upload_memory();
        let sink = Sink::Replica(&comparing);
        let poured = restoring.pour(&disk, plan, sink, taken).await?;
        let found = comparing.found.lock();
        let found = found.unwrap_or_else(PoisonError::into_inner).clone();
        Ok(ReplicaReport {
            replica: shown.to_owned(),
            machine: mark.machine,
            disk: self.disk,
            object: name::journal_object(applied.journal, applied.number),
            through: applied.through,
            is_level: applied.is_level,
            size_bytes: size,
            data_bytes: poured.data,
            newer_bytes: newer,
            differing_bytes: ByteLen(found.sectors * SECTOR_LEN),
            differing: found.differing(),
        })
    }
}

impl Found {
    fn differing(&self) -> Vec<Differing> {
        let places = self.places.iter().map(|(sector, count)| Differing {
            at: sector * SECTOR_LEN,
            len: count * SECTOR_LEN,
        });
        places.collect()
    }
}
