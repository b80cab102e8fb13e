//! Whether a directory can be mounted on, and what it is now.

use std::fs::{File, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::mount::FuseMountError;

/// The kernel's door.
pub(crate) const DEVICE: &str = "/dev/fuse";
/// The programs that mount for users, the newer one first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// Where they lie if not on the search path.
const HELPER_FOLDERS: [&str; 2] = ["/sbin", "/bin"];

/// A filesystem, as the kernel numbers it while it is mounted: major and minor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FilesystemId(u32, u32);

impl FilesystemId {
    /// The one that a directory belongs to. The filesystem itself is not asked.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(CWD, directory, flags, StatxFlags::empty())?;
        Ok(Self(found.stx_dev_major, found.stx_dev_minor))
    }
}

/// The directory must be there and empty: what lies in it could not be seen meanwhile.
pub(crate) fn check_directory(directory: &Path) -> Result<(), FuseMountError> {
    let path = directory.to_path_buf();
    let mut entries = match read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(FuseMountError::Missing { path });
        }
        Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
            return Err(FuseMountError::NotADirectory { path });
        }
        Err(source) => return Err(FuseMountError::Directory { path, source }),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(FuseMountError::NotEmpty { path }),
    }
}

/// Whether the kernel's door is there and opens.
pub(crate) fn check_device(device: &Path) -> Result<(), FuseMountError> {
    match File::options().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Err(FuseMountError::NoDevice),
        Err(source) => Err(FuseMountError::Device { source }),
    }
}

/// Where such a program may lie.
pub(crate) fn helper_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    folders.chain(HELPER_FOLDERS.map(PathBuf::from)).collect()
}

/// Whether somebody mounts: root does it alone, others by a program that lies in one of these folders.
pub(crate) fn check_helper(
    is_root: bool,
    mut folders: impl Iterator<Item = PathBuf>,
) -> Result<(), FuseMountError> {
    let has_one = |folder: PathBuf| HELPERS.iter().any(|name| folder.join(name).is_file());
    if is_root || folders.any(has_one) {
        Ok(())
    } else {
        Err(FuseMountError::NoHelper)
    }
}
