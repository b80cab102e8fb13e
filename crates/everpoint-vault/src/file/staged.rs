//! Staged files: objects that are being written and do not exist yet.
//!
//! All lie in one directory beside `v1/`, under the last segment of the object's name, a dot and 16 random
//! hexadecimal digits. One directory, so that listings never meet them and a start finds what a crash left without
//! walking the vault.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::Fault;
use crate::file::not_done;
use crate::file::root::{DIRECTORY_FLAGS, DIRECTORY_MODE};

/// The directory of staged files, below the root of a `file://` vault. A file in it is an object whose
/// create has begun and not ended, or was cut off by a crash.
pub const STAGED_DIRECTORY: &str = "staged";

/// Access to the vault's files: owner and group, less what the umask takes.
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// A staged file, locked; its name goes when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    directory: OwnedFd,
    name: String,
    file: File,
}

impl Staged {
    /// An empty staged file for an object whose name ends in `leaf`.
    pub(super) fn create(root: impl AsFd, leaf: &str) -> Result<Self, Fault> {
        let name = format!("{leaf}.{:016x}", rand::random::<u64>());
        let path = || PathBuf::from(STAGED_DIRECTORY).join(&name);
        let directory = open_directory(root)
            .map_err(|error| not_done("open", STAGED_DIRECTORY.into(), error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &name, flags, FILE_MODE)
            .map_err(|error| not_done("create", path(), error))?;
        let staged = Self {
            directory,
            name,
            file: file.into(),
        };
        // Told apart from what a crash left by the lock, which dies with its process.
        rustix::fs::flock(&staged.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| not_done("lock", staged.path(), error))?;
        Ok(staged)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// For messages; relative to the root.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(STAGED_DIRECTORY).join(&self.name)
    }

    /// Gives the file its name; EXIST if that is taken, NOENT if somebody removed the staged name.
    pub(super) fn link(&self, directory: impl AsFd, leaf: &str) -> rustix::io::Result<()> {
        rustix::fs::linkat(
            &self.directory,
            &self.name,
            directory,
            leaf,
            AtFlags::empty(),
        )
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            tracing::debug!(name = self.name, %error, "a staged file stays");
        }
    }
}

/// Removes the staged files whose writer is dead. Not being able to is no reason not to start.
pub(super) fn clear(root: impl AsFd) {
    let opened = rustix::fs::openat(&root, STAGED_DIRECTORY, DIRECTORY_FLAGS, Mode::empty());
    let directory = match opened {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return,
        Err(error) => {
            tracing::debug!(%error, "staged files are not cleared");
            return;
        }
    };
    let entries = match Dir::read_from(&directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::debug!(%error, "staged files are not cleared");
            return;
        }
    };
    let mut count = 0_u64;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if entry.file_type().is_dir() {
            continue;
        }
        match clear_one(&directory, name) {
            Ok(()) => count += 1,
            // Its writer lives, or has just ended.
            Err(Errno::WOULDBLOCK | Errno::NOENT) => {}
            Err(error) => tracing::debug!(?name, %error, "a staged file stays"),
        }
    }
    if 0 < count {
        tracing::info!(count, "removed staged files that a crash left");
    }
}

fn clear_one(directory: &OwnedFd, name: &std::ffi::CStr) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::unlinkat(directory, name, AtFlags::empty())
}

/// Opens the directory of staged files, made where it is missing. It need not survive anything.
fn open_directory(root: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat(&root, STAGED_DIRECTORY, DIRECTORY_FLAGS, Mode::empty());
    match open() {
        Err(Errno::NOENT) => {}
        outcome => return outcome,
    }
    match rustix::fs::mkdirat(&root, STAGED_DIRECTORY, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => open(),
        Err(error) => Err(error),
    }
}
