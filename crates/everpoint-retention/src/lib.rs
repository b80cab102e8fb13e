//! The role on the vault alone: lists points, restores and mounts disks, checks a vault.
//!
//! Nothing here needs a server, a catalog or a clock: a vault and its key are enough. Nothing here changes
//! a vault either, but `compact`, which adds to it. What is wrong in a vault is told (where, and which points it costs), never passed on:
//! no byte reaches an output before its frame's checksum and its pieces' digests were compared.
//!
//! | module    | answers                                                             |
//! |-----------|---------------------------------------------------------------------|
//! | `machine` | what a machine's objects say, walked once                           |
//! | `point`   | which instant `latest`, a name, a time or `seq:N` is                |
//! | `listing` | points and disks as data to print                                   |
//! | `restore` | one disk, or all disks of a machine, as of one `Seq`, as images or blobs; what a replica holds; what differs between points |
//! | `mount`   | the same, served as a block device while its bytes are still in the vault |
//! | `compact` | nothing: folds journal indexes into map layers and makes manifests; `role` does it every so often |
//! | `layers`  | what map layers say of a disk |
//! | `check`   | everything in a vault that is not as it should be                   |
//!
//! What prints (ids, instants, positions) is plain data that serialises; how it looks is the caller's.

mod check;
mod compact;
mod compact_core;
mod error;
mod joined;
mod layers;
mod listing;
mod machine;
mod mount;
mod plain;
mod point;
mod restore;
mod role;

pub use check::{CheckProgress, CheckReport, Finding, MachineCheck, Severity, check};
pub use compact::{CompactConfig, CompactError, Compacted, compact};
pub use compact_core::Unfoldable;
pub use error::{ErrorKind, LoadError};
pub use everpoint_vault::frames::IntegrityError;
pub use listing::{
    BookmarkClass, BookmarkEntry, DiskList, DiskState, DiskSummary, Instant, MachineDamage,
    PathState, PointList, Window, list_disks, list_points,
};
pub use machine::{DamageNote, LoadedMachine, Subject, find_machine, load_machine, load_machines};
pub use mount::{
    MountConfig, MountError, MountExport, MountFile, MountedPoint, Overlay, OverlayError,
    OverlayPlace, PointReadError, PointReader, ReaderStats, mount_point,
};
pub use point::{At, NoPoint, ParseAtError, PointError};
pub use restore::{
    BlobError, BlobRestored, BlobTarget, ChangedExtent, Differing, DiskAt, ImageFormat,
    OutputError, PointDiff, Progress, ReplicaPlace, ReplicaReport, RestoreConfig, RestoreError,
    RestoreRequest, Restored, RestoredDisk, bring_to_point, diff_points, restore, restore_to_blob,
    verify_replica,
};
pub use role::{Retention, RetentionConfig, RetentionError, run_retention};
