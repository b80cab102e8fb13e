//! The golden site: files that an older version left behind, and what every later version has to find in them.
//!
//! ```text
//! golden/expected.json   what is to be found: points, digests of the sources, the uncommitted tail
//! golden/vault/          the vault
//! golden/server/         the state directory of the server that was killed
//! golden/server-log/     its cache log, with blocks that no vault had yet
//! ```
//!
//! Tests work on copies: a server writes to all three.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Digests of all disks of a machine at one instant, as hexadecimal digits, by the disks' ids.
pub type Images = BTreeMap<String, String>;

/// What is to be found.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The version that made the files.
    pub made_by: String,
    pub server: String,
    pub machine: String,
    pub disks: Vec<ExpectedDisk>,
    /// Journals in the vault, sealed or not.
    pub journal_count: u64,
    /// Instants that the vault has, in their order.
    pub points: Vec<ExpectedPoint>,
    pub tail: ExpectedTail,
}

/// A disk of the machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedDisk {
    pub id: String,
    pub name: String,
    pub size_bytes: u64,
    pub block_size: u32,
}

/// An instant, with the digests of the sources at that instant.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPoint {
    /// How it is asked for: a bookmark's name, or `seq:N`.
    pub at: String,
    pub seq: u64,
    pub images: Images,
}

/// What only the cache log has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedTail {
    /// Bytes of the log, as the server was configured.
    pub log_quota: u64,
    pub log_file_len: u64,
    /// The newest instant: a bookmark.
    pub newest: ExpectedPoint,
    pub disks: Vec<ExpectedBlocks>,
}

/// Blocks of one disk that are cached and not committed: all above the one up to the other.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedBlocks {
    pub disk: String,
    pub generation: String,
    pub committed_block: u64,
    pub cached_block: u64,
}

/// Where the files lie.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Reads what is to be found.
///
/// # Errors
///
/// When it is not there, or has keys that this version does not know.
pub fn expected() -> Result<Expected> {
    let path = folder().join("expected.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let expected: Expected = serde_json::from_str(&text)?;
    ensure!(!expected.points.is_empty() && !expected.disks.is_empty());
    Ok(expected)
}

/// BLAKE3 of a whole file, as hexadecimal digits.
///
/// # Errors
///
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(blake3::hash(&bytes).to_string())
}

/// Copies the files of a folder, and of those in it, to a folder that is not there yet. `keeps` says of each
/// name whether it is copied. No mode is kept, as in git.
///
/// # Errors
///
/// When the system refuses.
pub fn copy(from: &Path, to: &Path, keeps: &impl Fn(&str) -> bool) -> Result<()> {
    let copying = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir(to).with_context(copying)?;
    for entry in fs::read_dir(from).with_context(copying)? {
        let entry = entry.with_context(copying)?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(keeps) {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target, keeps)?;
        } else {
            fs::write(&target, fs::read(entry.path())?).with_context(copying)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_is_kept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/data"), "data").unwrap();
        fs::write(from.join("a/lock"), "").unwrap();
        copy(&from, &to, &|name| name != "lock").unwrap();
        assert_eq!(fs::read(to.join("a/b/data")).unwrap(), b"data");
        assert!(!to.join("a/lock").exists());
        assert!(copy(&from, &to, &|_| true).is_err(), "it is there already");
    }
}
