//! The filesystems that are frozen: opened by the roots of their mounts, frozen and thawed by the kernel's two calls.
//!
//! They are opened before anything is frozen and closed after the thaw, so that an idle agent keeps nobody from
//! unmounting, and a frozen filesystem is never looked up.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, fstat, open, statx, syncfs};
use rustix::io::{Errno, Result};
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

use crate::freeze_core::words::{Step, Trouble};

/// `linux/fs.h`: `_IOWR('X', 119, int)`; the argument is not used.
const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
/// `linux/fs.h`: `_IOWR('X', 120, int)`; the argument is not used.
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// See the module.
#[derive(Debug)]
pub(crate) struct Mounts {
    roots: Vec<OwnedFd>,
}

impl Mounts {
    /// Opens the roots.
    ///
    /// # Errors
    ///
    /// Which is not there, or is no root of a mount.
    pub(crate) fn open(paths: &[PathBuf]) -> std::result::Result<Self, Trouble> {
        let mut roots = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let trouble = |step, error: Errno| Trouble::new(step, index, error.raw_os_error());
            let root = open_directory(path).map_err(|error| trouble(Step::Open, error))?;
            match is_root(&root) {
                Ok(true) => roots.push(root),
                Ok(false) => return Err(trouble(Step::Root, Errno::INVAL)),
                Err(error) => return Err(trouble(Step::Open, error)),
            }
        }
        Ok(Self { roots })
    }

    /// The device that each lies on, as files on it say too.
    pub(crate) fn devices(&self) -> Result<Vec<u64>> {
        let devices = self.roots.iter().map(|root| Ok(fstat(root)?.st_dev));
        devices.collect()
    }

    /// Writes what is unwritten.
    pub(crate) fn sync(&self, index: usize) -> Result<()> {
        syncfs(&self.roots[index])
    }

    /// Lets every change wait.
    pub(crate) fn freeze(&self, index: usize) -> Result<()> {
        call::<FIFREEZE>(&self.roots[index])
    }

    /// Lets changes go on. An error of `EINVAL` says that it was not frozen.
    pub(crate) fn thaw(&self, index: usize) -> Result<()> {
        call::<FITHAW>(&self.roots[index])
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
}

fn is_root(directory: &OwnedFd) -> Result<bool> {
    let found = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn call<const OPCODE: Opcode>(root: &OwnedFd) -> Result<()> {
    // SAFETY: both calls take no argument and touch no memory of this process.
    #[expect(unsafe_code, reason = "the kernel's call has no wrapper")]
    unsafe {
        ioctl(root, NoArg::<OPCODE>::new())
    }
}
