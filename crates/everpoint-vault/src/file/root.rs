//! The root of a `file://` vault: found once, then recognised at every request.
//!
//! An unmounted vault leaves an empty directory under its path, a renamed one leaves nothing, a restored one
//! leaves another directory. Commits into any of these would be lost, so each request begins by opening the
//! path anew and each create ends by looking where the path leads now. The handle is not kept: it would keep the
//! filesystem from being unmounted.
//!
//! A filesystem that comes back under another device number (a loop device, a hot-plugged disk, btrfs) is
//! another root until the next open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::backend::Fault;
use crate::error::{Cause, OpenError};
use crate::file::network;
use crate::file::not_done;
use crate::file::syncs::Syncs;

/// Access to the vault's directories: owner and group, less what the umask takes.
pub(super) const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);

/// How directories are opened: for reading, which is what a sync of one needs.
pub(super) const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The root as it was found at open.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    identity: Identity,
}

/// Which directory it is. The time of birth tells apart a directory that got the inode number of a deleted
/// one; not every filesystem has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: Option<(i64, u32)>,
}

impl Root {
    /// Recognises the directory at `path` from now on, and refuses one that cannot be a vault.
    pub(super) fn open(path: &Path) -> Result<(Self, OwnedFd), OpenError> {
        let root = || path.to_owned();
        let handle = match rustix::fs::open(path, DIRECTORY_FLAGS, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Err(OpenError::Missing { root: root() }),
            Err(Errno::NOTDIR) => return Err(OpenError::NotADirectory { root: root() }),
            Err(error) => return Err(unavailable("open", path, error)),
        };
        refuse_network(path, &handle)?;
        let identity =
            Identity::of_handle(&handle).map_err(|error| unavailable("stat", path, error))?;
        let root = Self {
            path: path.to_owned(),
            identity,
        };
        Ok((root, handle))
    }

    /// A handle to the root, if its path still leads there.
    pub(super) fn enter(&self) -> Result<OwnedFd, Fault> {
        let handle = match rustix::fs::open(&self.path, DIRECTORY_FLAGS, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Fault::NotDone(self.moved())),
            Err(error) => return Err(not_done("open", self.path.clone(), error)),
        };
        match Identity::of_handle(&handle) {
            Ok(identity) if identity == self.identity => Ok(handle),
            Ok(_) => Err(Fault::NotDone(self.moved())),
            Err(error) => Err(not_done("stat", self.path.clone(), error)),
        }
    }

    /// Whether the path still leads to the root, asked after something was done there.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match Identity::of_path(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Err(Fault::Unknown(self.moved())),
            Err(error) => Err(Fault::Unknown(Cause::File {
                operation: "stat",
                path: self.path.clone(),
                source: error.into(),
            })),
        }
    }

    fn moved(&self) -> Cause {
        Cause::RootMoved {
            root: self.path.clone(),
        }
    }
}

impl Identity {
    fn of_handle(handle: &OwnedFd) -> rustix::io::Result<Self> {
        Self::of(handle, Path::new(""), AtFlags::EMPTY_PATH)
    }

    fn of_path(path: &Path) -> rustix::io::Result<Self> {
        Self::of(CWD, path, AtFlags::empty())
    }

    fn of(directory: impl AsFd, path: &Path, flags: AtFlags) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found: Statx = rustix::fs::statx(directory, path, flags, wanted)?;
        let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: has_birth.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
        })
    }
}

/// Makes the root and its parents where they are missing, and syncs the entries that lead to it, also those
/// that were found: an earlier start may have died before its sync.
pub(super) fn make(root: &Path, syncs: &Syncs) -> Result<(), OpenError> {
    let mut missing = Vec::new();
    let mut deepest = root;
    while let Err(error) = rustix::fs::statx(CWD, deepest, AtFlags::empty(), StatxFlags::TYPE) {
        match (error, deepest.parent()) {
            (Errno::NOENT, Some(parent)) => {
                missing.push(deepest);
                deepest = parent;
            }
            (Errno::NOTDIR, _) => return Err(OpenError::NotADirectory { root: root.into() }),
            (error, _) => return Err(unavailable("stat", deepest, error)),
        }
    }
    let handle = match rustix::fs::open(deepest, DIRECTORY_FLAGS, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOTDIR) => return Err(OpenError::NotADirectory { root: root.into() }),
        Err(error) => return Err(unavailable("open", deepest, error)),
    };
    // Before anything is made there.
    refuse_network(root, &handle)?;
    for directory in missing.iter().rev() {
        match rustix::fs::mkdir(*directory, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(unavailable("make", directory, error)),
        }
    }
    let made_in = missing.last().copied().and_then(Path::parent);
    let device = device_of(root)?;
    for parent in root.ancestors().skip(1) {
        // Above a mount point lie entries that are the operator's.
        if device_of(parent)? != device {
            break;
        }
        match rustix::fs::open(parent, DIRECTORY_FLAGS, Mode::empty()) {
            Ok(handle) => syncs.directory(&handle, parent).map_err(sync_failed)?,
            // Who may not read a parent is not who made the entry in it.
            Err(Errno::ACCESS) if made_in.is_none_or(|made_in| !parent.starts_with(made_in)) => {}
            Err(error) => return Err(unavailable("open", parent, error)),
        }
    }
    Ok(())
}

fn device_of(path: &Path) -> Result<(u32, u32), OpenError> {
    let identity = Identity::of_path(path).map_err(|error| unavailable("stat", path, error))?;
    Ok(identity.device)
}

/// Refuses what lies behind a network, and names in the log what lies in memory.
fn refuse_network(root: &Path, handle: &OwnedFd) -> Result<(), OpenError> {
    let filesystem =
        rustix::fs::fstatfs(handle).map_err(|error| unavailable("statfs", root, error))?;
    match network::refused(filesystem.f_type) {
        Some(filesystem) => Err(OpenError::NetworkFilesystem {
            root: root.to_owned(),
            filesystem,
        }),
        None => {
            if network::is_in_memory(filesystem.f_type) {
                tracing::info!(
                    ?root,
                    "this vault lies in memory: it survives no power loss"
                );
            }
            Ok(())
        }
    }
}

fn sync_failed(fault: Fault) -> OpenError {
    match fault {
        Fault::SyncFailed(failure) => OpenError::SyncFailed(failure),
        fault => OpenError::Unavailable {
            source: fault.into_cause(),
        },
    }
}

fn unavailable(operation: &'static str, path: &Path, error: impl Into<io::Error>) -> OpenError {
    OpenError::Unavailable {
        source: Cause::File {
            operation,
            path: path.to_owned(),
            source: error.into(),
        },
    }
}
