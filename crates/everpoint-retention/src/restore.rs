//! Restoring: one disk, or all disks of a machine, as of one `Seq`, from the vault alone.
//!
//! ```text
//! walk ──▶ point ──▶ plan: which record gives each sector ──▶ per object: frames still needed
//!                                                                 │ ranged reads, several in flight
//!        staged file ◀── write what is not zero ◀── verify ◀── decompress
//!        sync, then into place                        │
//!        page blob or managed disk ◀── upload ◀───────┤
//!        replica ◀── compare ◀────────────────────────┘
//! ```
//!
//! The order of writes is settled by the plan, so frames are fetched, opened and written in any order: what
//! they give never overlaps. A batch of frames is written only after every frame's checksum and the digest
//! of every piece that is used have been compared.

mod blob;
mod changes;
mod compare;
mod diff;
mod fetch;
mod image;
mod output;
mod plan;
mod pour;
mod staged;
mod usage;
mod verify;

use std::path::PathBuf;

use everpoint_format::vault::VaultHeader;
use everpoint_replica::UploadError;
use everpoint_units::{ByteLen, DiskId, MachineId, SECTOR_LEN, Seq, WallTime};
use everpoint_vault::frames::IntegrityError;
use everpoint_vault::history::{HistoryError, read_header};
use everpoint_vault::{ObjectName, ReadError, Vault};
use serde::Serialize;

use crate::error::{ErrorKind, LoadError, kind_of_history, kind_of_read};
use crate::machine::{DamageNote, LoadedMachine, Reads, Subject, find_machine, load_reading};
use crate::plain;
use crate::point::{At, PointError};

pub(crate) use changes::{Changes, Sectors, sectors_of};
pub(crate) use fetch::same_object;

pub use blob::{BlobError, BlobRestored, BlobTarget, DiskAt, bring_to_point, restore_to_blob};
pub use diff::{ChangedExtent, PointDiff, diff_points};
pub use output::OutputError;
pub use verify::{Differing, ReplicaPlace, ReplicaReport, verify_replica};

/// What to restore, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    pub subject: Subject,
    /// The disk's machine, where it is known: saves a search through the vault.
    pub machine: Option<MachineId>,
    pub at: At,
    pub format: ImageFormat,
    /// For a disk a file or a block device, for a machine a directory.
    pub output: PathBuf,
    /// Replace what is there.
    pub overwrite: bool,
    /// The block device that may be overwritten; must be `output`, letter by letter.
    pub force_overwrite: Option<PathBuf>,
    /// Files and devices that are protected on this machine: none of them is ever an output.
    pub sources: Vec<PathBuf>,
}

/// What an image looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ImageFormat {
    /// The disk's bytes and nothing else.
    Raw,
    /// Fixed VHD, as Azure takes it: whole MiB, and a footer.
    Vhd,
}

/// Limits of a restore.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RestoreConfig {
    /// Memory for what is read, unpacked and not yet written; 96 MiB to 64 GiB. What the plan takes comes on
    /// top: about 100 bytes for each run of sectors that one write gives.
    pub memory_max: ByteLen,
    /// Reads in flight; 1 to 256. More than the default helps where the vault is far away.
    pub fetch_count_max: usize,
    /// Threads that unpack, verify and write; 1 to 64.
    pub thread_count_max: usize,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    pub disk: DiskId,
    /// From 0.
    pub disk_index: usize,
    pub disk_count: usize,
    /// Indexes read to find out which record gives each sector, and how many there are.
    pub planned_count: usize,
    pub plan_count: usize,
    /// Bytes of data verified and written, and how many there are; 0 while the plan is made.
    pub done: ByteLen,
    pub total: ByteLen,
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    #[serde(serialize_with = "plain::seq")]
    pub seq: Seq,
    /// Capture time of the newest change in it.
    #[serde(serialize_with = "plain::time_if_any")]
    pub time: Option<WallTime>,
    pub disks: Vec<RestoredDisk>,
    /// What is damaged in the machine's history. The images do not need it; a later point might.
    pub damage: Vec<DamageNote>,
}

/// One restored disk.
#[derive(Clone, Debug, Serialize)]
pub struct RestoredDisk {
    #[serde(serialize_with = "plain::text")]
    pub disk: DiskId,
    pub name: String,
    #[serde(serialize_with = "plain::path")]
    pub path: PathBuf,
    /// Of the disk; a VHD is longer.
    #[serde(serialize_with = "plain::bytes")]
    pub size_bytes: ByteLen,
    /// Data verified; the rest of the disk is zeroes.
    #[serde(serialize_with = "plain::bytes")]
    pub data_bytes: ByteLen,
    /// Data that is not zero, written to the image.
    #[serde(serialize_with = "plain::bytes")]
    pub written_bytes: ByteLen,
    /// Bytes of frames read from the vault.
    #[serde(serialize_with = "plain::bytes")]
    pub read_bytes: ByteLen,
}

/// Why nothing was restored, or compared. No output has appeared; a block device may hold a part, without its first
/// MiB, and a managed disk, without its footer.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A limit is outside its bounds.
    #[error("restore setting {key} is {value}, it must be {min} to {max}")]
    Config {
        key: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
    /// The output cannot be written to, or must not.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The machine's history could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The vault gave no answer.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The instant is no recovery point.
    #[error(transparent)]
    Point(#[from] PointError),
    /// The machine has no disk at that point.
    #[error("machine {machine} has no disk at {seq}")]
    NoDisks { machine: MachineId, seq: Seq },
    /// Bytes in the vault are not what was written.
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
    /// The vault gave no answer.
    #[error("{object} cannot be read")]
    Read {
        object: ObjectName,
        source: ReadError,
    },
    /// A blob cannot be read or written.
    #[error("{target}")]
    Target { target: String, source: UploadError },
    /// A blob is not what it has to be.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The operating system refused.
    #[error("{operation} {path:?}")]
    File {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// What a restore works with.
struct Restoring<'a> {
    vault: &'a Vault,
    header: VaultHeader,
    config: &'a RestoreConfig,
    loaded: LoadedMachine,
    seq: Seq,
    format: ImageFormat,
    progress: &'a (dyn Fn(&Progress) + Send + Sync),
}

/// One disk to restore.
#[derive(Clone, Debug)]
struct WantedDisk {
    disk: DiskId,
    name: String,
    /// As of the point.
    size: ByteLen,
    index: usize,
    count: usize,
}

/// Restores a disk or a machine. Dropping the future leaves no output behind; what was staged is removed.
///
/// # Errors
///
/// See [`RestoreError`].
pub async fn restore(
    vault: &Vault,
    request: &RestoreRequest,
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Restored, RestoreError> {
    let done = restore_reading(vault, request, config, progress, Reads::Layers).await;
    let Err(RestoreError::History(error)) = &done else {
        return done;
    };
    let Some(note) = of_layers(error) else {
        return done;
    };
    let mut restored = restore_reading(vault, request, config, progress, Reads::Journals).await?;
    restored.damage.push(note);
    Ok(restored)
}

/// What is told of a layer that is damaged or gone: the same can be read from journals.
pub(crate) fn of_layers(error: &HistoryError) -> Option<DamageNote> {
    let is_of_layers = matches!(
        error,
        HistoryError::Layer { .. }
            | HistoryError::LayerGone { .. }
            | HistoryError::LayerUnread { .. }
    );
    is_of_layers.then(|| DamageNote::of_retention(error))
}

async fn restore_reading(
    vault: &Vault,
    request: &RestoreRequest,
    config: &RestoreConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
    reads: Reads,
) -> Result<Restored, RestoreError> {
    config.check()?;
    let output = output::examine(vault, request)?;
    let (header, loaded, disk) =
        locate::<RestoreError>(vault, request.subject, request.machine, reads).await?;
    let machine = loaded.machine();
    let seq = loaded.resolve(disk, &request.at)?;
    let wanted = wanted_disks(&loaded, disk, seq);
    if wanted.is_empty() {
        return Err(RestoreError::NoDisks { machine, seq });
    }
    let restoring = Restoring {
        vault,
        header,
        config,
        loaded,
        seq,
        format: request.format,
        progress,
    };
    let disks = restoring.restore_all(output, wanted).await?;
    Ok(Restored {
        machine,
        seq,
        time: restoring.loaded.history().time_of(seq),
        disks,
        damage: restoring.loaded.damage().to_vec(),
    })
}

/// Loads the history of the machine that is asked about, or has the disk that is.
pub(crate) async fn locate<E: From<HistoryError> + From<LoadError>>(
    vault: &Vault,
    subject: Subject,
    machine: Option<MachineId>,
    reads: Reads,
) -> Result<(VaultHeader, LoadedMachine, Option<DiskId>), E> {
    let header = read_header(vault).await?;
    let (machine, disk) = match (subject, machine) {
        (Subject::Machine(machine), _) => (machine, None),
        (Subject::Disk(disk), Some(machine)) => (machine, Some(disk)),
        (Subject::Disk(disk), None) => (find_machine(vault, header.vault, disk).await?, Some(disk)),
    };
    let loaded = load_reading(vault, header.vault, machine, reads).await?;
    if let Some(disk) = disk {
        loaded.expect_disk(disk)?;
    }
    Ok((header, loaded, disk))
}

fn wanted_disks(loaded: &LoadedMachine, only: Option<DiskId>, seq: Seq) -> Vec<WantedDisk> {
    let disks = loaded.history().disks().iter();
    let alive = disks.filter(|(disk, history)| {
        let is_alive = history.lives_at(seq);
        only.map_or(is_alive, |only| only == **disk)
    });
    let mut wanted: Vec<_> = alive
        .enumerate()
        .map(|(index, (&disk, history))| WantedDisk {
            disk,
            name: history.name.clone(),
            size: ByteLen(history.sectors_at(seq) * SECTOR_LEN),
            index,
            count: 0,
        })
        .collect();
    let count = wanted.len();
    wanted.iter_mut().for_each(|disk| disk.count = count);
    wanted
}

impl Restoring<'_> {
    async fn restore_all(
        &self,
        output: output::Output,
        wanted: Vec<WantedDisk>,
    ) -> Result<Vec<RestoredDisk>, RestoreError> {
        let mut staging = staged::Staging::open(output, self.format, &wanted)?;
        let mut restored = Vec::with_capacity(wanted.len());
        for disk in &wanted {
            let plan = self.plan(disk).await?;
            let image = staging.begin(disk).await?;
            let sink = fetch::Sink::Image(&image);
            let poured = self.pour(disk, plan, sink, ByteLen(0)).await?;
            let time = self.loaded.history().time_of(self.seq);
            let path = staging.complete(disk, image, time).await?;
            restored.push(RestoredDisk {
                disk: disk.disk,
                name: disk.name.clone(),
                path,
                size_bytes: disk.size,
                data_bytes: poured.data,
                written_bytes: poured.written,
                read_bytes: poured.read,
            });
        }
        staging.publish().await?;
        Ok(restored)
    }
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self {
            memory_max: ByteLen(256 << 20),
            fetch_count_max: 16,
            thread_count_max: std::thread::available_parallelism()
                .map_or(2, std::num::NonZero::get)
                .min(8),
        }
    }
}

impl RestoreConfig {
    /// What of the memory an upload takes: as much as what is fetched for it.
    const fn upload_memory(&self) -> ByteLen {
        ByteLen((self.memory_max.0 - fetch::INDEX_MEMORY) / 2)
    }

    fn check(&self) -> Result<(), RestoreError> {
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (key, value, min, max) in [
            ("memory_max", self.memory_max.0, 96 << 20, 64 << 30),
            ("fetch_count_max", count(self.fetch_count_max), 1, 256),
            ("thread_count_max", count(self.thread_count_max), 1, 64),
        ] {
            if !(min..=max).contains(&value) {
                return Err(RestoreError::Config {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

impl RestoreError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } | Self::NoDisks { .. } => ErrorKind::Usage,
            Self::Output(source) => source.kind(),
            Self::Load(source) => source.kind(),
            Self::History(source) => kind_of_history(source),
            Self::Point(source) => source.kind(),
            Self::Integrity(_) => ErrorKind::Integrity,
            Self::Target { source, .. } => blob::kind_of_upload(source),
            Self::Blob(source) => source.kind(),
            Self::Read { source, .. } => kind_of_read(source),
            Self::File { .. } => ErrorKind::Io,
        }
    }
}
