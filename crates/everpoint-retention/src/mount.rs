//! Mounting: one disk as of one `Seq`, served as a block device or a file while its bytes are still in the vault.
//!
//! ```text
//! NBD client ─▶ export ─┬─▶ overlay: what was written since, in a local file
//! FUSE ─▶ file ─▶┘      └─▶ reader ─▶ run map: which frame gives these sectors
//!                              │
//!                              └─▶ kept frames, or one ranged read of the vault, verified
//! ```
//!
//! The machine's indexes are read once, before anything is served, as a restore reads them; of frames nothing is.
//! All that a reader needs to find *and verify* a frame is resolved then (`run_map`). The other way, indexes read on
//! demand and kept, needs up to four requests for a cold read (an index may be longer than what one request brings),
//! and one index for each frame in the worst case. So a cold read costs one request a frame.
//!
//! Nothing here changes a vault: what is written goes to a file of this machine.

mod export;
mod file;
mod frame_cache;
mod overlay;
mod overlay_map;
mod read_ahead;
mod reader;
mod run_map;

use everpoint_format::vault::VaultHeader;
use everpoint_units::{ByteLen, ByteOffset, DiskId, Extent, MachineId, SECTOR_LEN, Seq, WallTime};
use everpoint_vault::frames::IntegrityError;
use everpoint_vault::history::{HistoryError, read_objects};
use everpoint_vault::{ObjectName, ReadError, Vault};
use futures::StreamExt as _;

use crate::error::{ErrorKind, LoadError, kind_of_history, kind_of_read};
use crate::layers::found_at;
use crate::machine::{DamageNote, LoadedMachine, Reads, Subject};
use crate::point::PointError;
use crate::restore::{DiskAt, Progress, locate, of_layers, same_object};
use run_map::Mapping;

pub use export::MountExport;
pub use file::MountFile;
pub use overlay::{Overlay, OverlayError, OverlayPlace};
pub use reader::{PointReader, ReaderStats};

/// What one fetch may take: a frame as stored, and as unpacked. Unit: bytes.
const FETCH_LEN_MAX: u64 = 2 << 20;
/// Least room for frames that are kept. Unit: bytes.
const CACHE_MIN: u64 = 2 << 20;

/// Limits of a mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountConfig {
    /// Memory for frames, in flight and kept; at least 2 MiB for each fetch and 2 MiB more, at most 64 GiB. What the
    /// map of runs takes comes on top: at most 120 bytes for each run of sectors that one write gives.
    pub memory_max: ByteLen,
    /// Fetches in flight; 1 to 256.
    pub fetch_count_max: usize,
    /// How far to look ahead of a sequential reader, within a quarter of what is kept; 0 switches it off, at most
    /// 1 GiB.
    pub read_ahead_max: ByteLen,
}

/// A point that can be read.
#[derive(Debug)]
pub struct MountedPoint {
    pub machine: MachineId,
    pub disk: DiskId,
    pub name: String,
    pub seq: Seq,
    /// Capture time of the newest change in it.
    pub time: Option<WallTime>,
    pub size: ByteLen,
    /// What is damaged in the machine's history. The point does not need it; a later point might.
    pub damage: Vec<DamageNote>,
    pub reader: PointReader,
}

/// Why a point cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A limit is outside its bounds.
    #[error("mount setting {key} is {value}, it must be {min} to {max}")]
    Config {
        key: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
    /// The machine's history could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The vault gave no answer.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The instant is no recovery point.
    #[error(transparent)]
    Point(#[from] PointError),
    /// An index in the vault is not what was written.
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
}

/// Why bytes of a point cannot be had. Other extents may be whole.
#[derive(Debug, thiserror::Error)]
pub enum PointReadError {
    /// Bytes in the vault are not what was written.
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
    /// A frame holds other content than its index says.
    #[error("{object}, frame at {}: the digests of {extent} differ", frame_at.0)]
    Digests {
        object: ObjectName,
        frame_at: ByteOffset,
        /// What the record covers.
        extent: Extent,
    },
    /// The vault gave no answer.
    #[error("{object} cannot be read")]
    Unread {
        object: ObjectName,
        source: ReadError,
    },
}

/// Opens a point: reads the machine's history, and finds out where each sector of the disk lies.
///
/// # Errors
///
/// See [`MountError`].
pub async fn mount_point(
    vault: &Vault,
    what: &DiskAt,
    config: &MountConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<MountedPoint, MountError> {
    let done = mount_reading(vault, what, config, progress, Reads::Layers).await;
    let Err(MountError::History(error)) = &done else {
        return done;
    };
    let Some(note) = of_layers(error) else {
        return done;
    };
    let mut mounted = mount_reading(vault, what, config, progress, Reads::Journals).await?;
    mounted.damage.push(note);
    Ok(mounted)
}

async fn mount_reading(
    vault: &Vault,
    what: &DiskAt,
    config: &MountConfig,
    progress: &(dyn Fn(&Progress) + Send + Sync),
    reads: Reads,
) -> Result<MountedPoint, MountError> {
    config.check()?;
    let (header, loaded, _) =
        locate::<MountError>(vault, Subject::Disk(what.disk), what.machine, reads).await?;
    let seq = loaded.resolve(Some(what.disk), &what.at)?;
    let history = &loaded.history().disks()[&what.disk];
    let size = ByteLen(history.sectors_at(seq) * SECTOR_LEN);
    let mapping = map_runs(vault, &header, &loaded, (what.disk, seq), progress);
    let (id, manifest) = (header.vault, loaded.manifest());
    let sectors = size.0 / SECTOR_LEN;
    let layered = found_at(vault, id, manifest, (what.disk, seq), sectors).await?;
    let map = mapping.await?.finish(loaded.machine(), layered, size);
    Ok(MountedPoint {
        machine: loaded.machine(),
        disk: what.disk,
        name: history.name.clone(),
        seq,
        time: loaded.history().time_of(seq),
        size,
        damage: loaded.damage().to_vec(),
        reader: PointReader::new(vault.clone(), header.digest_key, map, config),
    })
}

/// Folds every index of the machine that may say something about the disk at or below the point.
async fn map_runs(
    vault: &Vault,
    header: &VaultHeader,
    loaded: &LoadedMachine,
    (disk, seq): (DiskId, Seq),
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Mapping, MountError> {
    let mut mapping = Mapping::new(seq, header.digest_key);
    let walked: Vec<_> = loaded.objects_up_to(seq).collect();
    let names = walked.iter().map(|object| (object.journal, object.number));
    let mut objects = read_objects(vault, header.vault, names);
    for (count, object) in walked.iter().enumerate() {
        let read = objects.next().await;
        let (_, _, found) = read.expect("one answer for each name")?;
        let data = same_object(object, found)?;
        for (index, section) in (0_u32..).zip(&data.index.sections) {
            let is_own = section.machine == loaded.machine() && section.disk == disk;
            if is_own && loaded.is_folded(disk, object.ordinal, index) {
                mapping.fold(section, object, index);
            }
        }
        progress(&Progress {
            disk,
            disk_index: 0,
            disk_count: 1,
            planned_count: count + 1,
            plan_count: walked.len(),
            done: ByteLen(0),
            total: ByteLen(0),
        });
    }
    Ok(mapping)
}

impl Default for MountConfig {
    fn default() -> Self {
        Self {
            memory_max: ByteLen(256 << 20),
            fetch_count_max: 16,
            read_ahead_max: ByteLen(16 << 20),
        }
    }
}

impl MountConfig {
    /// What is left for frames that are kept.
    fn cache_max(&self) -> ByteLen {
        ByteLen(self.memory_max.0 - count(self.fetch_count_max) * FETCH_LEN_MAX)
    }

    fn check(&self) -> Result<(), MountError> {
        let fetch_count = count(self.fetch_count_max);
        let memory_min = fetch_count.saturating_mul(FETCH_LEN_MAX);
        let memory_min = memory_min.saturating_add(CACHE_MIN);
        for (key, value, min, max) in [
            ("fetch_count_max", fetch_count, 1, 256),
            ("memory_max", self.memory_max.0, memory_min, 64 << 30),
            ("read_ahead_max", self.read_ahead_max.0, 0, 1 << 30),
        ] {
            if !(min..=max).contains(&value) {
                return Err(MountError::Config {
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

impl MountError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } => ErrorKind::Usage,
            Self::Load(source) => source.kind(),
            Self::History(source) => kind_of_history(source),
            Self::Point(source) => source.kind(),
            Self::Integrity(_) => ErrorKind::Integrity,
        }
    }
}

impl PointReadError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Integrity(_) | Self::Digests { .. } => ErrorKind::Integrity,
            Self::Unread { source, .. } => kind_of_read(source),
        }
    }

    /// The object that it is about.
    pub const fn object(&self) -> &ObjectName {
        match self {
            Self::Integrity(source) => source.object(),
            Self::Digests { object, .. } | Self::Unread { object, .. } => object,
        }
    }
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
