//! Restoring in tests: into a directory of its own, and back into memory.

use std::path::{Path, PathBuf};

use everpoint_retention::{
    At, ImageFormat, RestoreConfig, RestoreError, RestoreRequest, Restored, Subject, restore,
};
use everpoint_units::{ByteLen, DiskId, Seq};
use everpoint_vault::Vault;

use crate::world::MACHINE;

/// A directory in memory where there is one: what is synced here is read at once and thrown away.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("a directory")
    } else {
        tempfile::tempdir().expect("a directory")
    }
}

pub(crate) fn request(subject: Subject, at: At, output: impl Into<PathBuf>) -> RestoreRequest {
    RestoreRequest {
        subject,
        machine: Some(MACHINE),
        at,
        format: ImageFormat::Raw,
        output: output.into(),
        overwrite: false,
        force_overwrite: None,
        sources: Vec::new(),
    }
}

/// The least memory that is allowed, so that its bound is met.
pub(crate) fn tight() -> RestoreConfig {
    RestoreConfig {
        memory_max: ByteLen(96 << 20),
        fetch_count_max: 3,
        thread_count_max: 2,
    }
}

pub(crate) async fn run(vault: &Vault, request: &RestoreRequest) -> Result<Restored, RestoreError> {
    restore(vault, request, &tight(), &|_| ()).await
}

/// The disk's bytes at a `Seq`, and nothing left in the directory.
pub(crate) async fn disk_at(
    vault: &Vault,
    disk: DiskId,
    seq: u64,
) -> Result<Vec<u8>, RestoreError> {
    let scratch = scratch();
    let output = scratch.path().join("disk.raw");
    let request = request(Subject::Disk(disk), At::Seq(Seq(seq)), &output);
    let restored = run(vault, &request).await;
    let left: Vec<_> = entries(scratch.path());
    match restored {
        Ok(restored) => {
            assert_eq!(restored.seq, Seq(seq));
            assert_eq!(left, ["disk.raw"]);
            Ok(std::fs::read(output).expect("the image"))
        }
        Err(error) => {
            assert_eq!(left, [""; 0], "after {error}");
            Err(error)
        }
    }
}

/// Names in a directory, sorted.
pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
