//! Where a restore may write: examined before anything is read from the vault.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use everpoint_units::ByteLen;
use everpoint_vault::Vault;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::usage::{is_locked, is_mount_point, is_same_file, loop_of, mount_of};
use super::{ImageFormat, RestoreRequest};
use crate::error::ErrorKind;
use crate::machine::Subject;

/// A place that may be written to.
#[derive(Debug)]
pub(super) enum Output {
    /// A file that does not exist yet, or may be replaced.
    File { path: PathBuf, replaces: bool },
    /// A block device, opened exclusively.
    Device {
        path: PathBuf,
        file: File,
        len: ByteLen,
    },
    /// A directory for one image a disk.
    Directory {
        path: PathBuf,
        exists: bool,
        replaces: bool,
    },
}

/// Why an output is refused.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It exists, and nobody said that it may be replaced.
    #[error("{path:?} exists: name another output, or allow it to be overwritten")]
    Exists { path: PathBuf },
    /// A block device, and it was not named as one that may be overwritten.
    #[error(
        "{path:?} is a block device: to overwrite it, name exactly this path as the one to overwrite by force"
    )]
    DeviceNotForced { path: PathBuf },
    /// Forced, but it is no block device.
    #[error("{path:?} is no block device: only those are overwritten by force")]
    ForcedButNoDevice { path: PathBuf },
    /// A directory where a file is meant.
    #[error("{path:?} is a directory: name a file in it")]
    IsADirectory { path: PathBuf },
    /// Something else where a directory is meant.
    #[error("{path:?} is no directory: all disks of a machine need one")]
    NotADirectory { path: PathBuf },
    /// A link, a pipe, a terminal, a socket.
    #[error("{path:?} is {what}: name a file or a block device itself")]
    NotAFile { path: PathBuf, what: &'static str },
    /// The path names no file.
    #[error("{path:?} names no file")]
    NoName { path: PathBuf },
    /// There is no such directory to create it in.
    #[error("{path:?} is no directory: create it first")]
    NoParent { path: PathBuf },
    /// It would become part of the vault.
    #[error("{path:?} is inside the vault {vault:?}: nothing may be put there")]
    InsideVault { path: PathBuf, vault: PathBuf },
    /// It is what is protected.
    #[error("{path:?} is {source_path:?}, a protected disk: restore it elsewhere")]
    IsSource { path: PathBuf, source_path: PathBuf },
    /// It is mounted.
    #[error("{path:?} is mounted at {at:?}: unmount it first")]
    Mounted { path: PathBuf, at: PathBuf },
    /// A loop device shows it.
    #[error("{path:?} is in use by {by:?}: detach that first")]
    BacksLoop { path: PathBuf, by: PathBuf },
    /// Another process has it.
    #[error("{path:?} is in use by another process, or by another device built on it")]
    InUse { path: PathBuf },
    /// The device is shorter than the disk.
    #[error("{path:?} has {} bytes, the disk has {}", have.0, need.0)]
    TooSmall {
        path: PathBuf,
        have: ByteLen,
        need: ByteLen,
    },
    /// A footer at the end of a device would lie anywhere.
    #[error("{path:?} is a block device: a VHD is a file; restore raw, or to a file")]
    VhdOnDevice { path: PathBuf },
    /// The operating system refused to say.
    #[error("{operation} {path:?}")]
    Unexamined {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl OutputError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unexamined { .. } => ErrorKind::Io,
            _ => ErrorKind::Usage,
        }
    }
}

/// Says whether and how the request's output may be written to. Nothing is changed yet.
///
/// # Errors
///
/// See [`OutputError`].
pub(super) fn examine(vault: &Vault, request: &RestoreRequest) -> Result<Output, OutputError> {
    let is_machine = matches!(request.subject, Subject::Machine(_));
    let path = &request.output;
    let found = match fs::symlink_metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(unexamined("examine", path, source)),
    };
    if is_machine {
        examine_directory(vault, request, found)
    } else {
        examine_file(vault, request, found)
    }
}

fn examine_directory(
    vault: &Vault,
    request: &RestoreRequest,
    found: Option<Metadata>,
) -> Result<Output, OutputError> {
    let path = &request.output;
    if let Some(path) = &request.force_overwrite {
        return Err(OutputError::ForcedButNoDevice { path: path.clone() });
    }
    let Some(found) = found else {
        let path = below_its_parent(path)?;
        refuse_vault(vault, &path)?;
        return Ok(Output::Directory {
            path,
            exists: false,
            replaces: false,
        });
    };
    let is_directory = found.is_dir() || fs::metadata(path).is_ok_and(|found| found.is_dir());
    let path = path.clone();
    if !is_directory {
        return Err(OutputError::NotADirectory { path });
    }
    let path = path
        .canonicalize()
        .map_err(|source| unexamined("resolve", &path, source))?;
    refuse_vault(vault, &path)?;
    let mut entries = fs::read_dir(&path).map_err(|source| unexamined("list", &path, source))?;
    if entries.next().is_some() && !request.overwrite {
        return Err(OutputError::Exists { path });
    }
    Ok(Output::Directory {
        path,
        exists: true,
        replaces: request.overwrite,
    })
}

fn examine_file(
    vault: &Vault,
    request: &RestoreRequest,
    found: Option<Metadata>,
) -> Result<Output, OutputError> {
    let path = &request.output;
    // A link may lead to a device, as those below /dev/disk do, but never to a file.
    let device = fs::metadata(path).ok();
    if let Some(device) = device.filter(|found| found.file_type().is_block_device()) {
        return examine_device(request, &device);
    }
    if let Some(path) = &request.force_overwrite {
        return Err(OutputError::ForcedButNoDevice { path: path.clone() });
    }
    let canonical = below_its_parent(path)?;
    refuse_vault(vault, &canonical)?;
    let Some(found) = found else {
        refuse_source_names(request, &canonical)?;
        return Ok(Output::File {
            path: canonical,
            replaces: false,
        });
    };
    let path = canonical;
    if found.is_dir() {
        return Err(OutputError::IsADirectory { path });
    }
    if !found.is_file() {
        let what = what_it_is(&found);
        return Err(OutputError::NotAFile { path, what });
    }
    refuse_sources(request, &path, &found)?;
    if !request.overwrite {
        return Err(OutputError::Exists { path });
    }
    if let Some(by) = loop_of(&found) {
        return Err(OutputError::BacksLoop { path, by });
    }
    if is_mount_point(&path) {
        let at = path.clone();
        return Err(OutputError::Mounted { path, at });
    }
    if is_locked(&path) {
        return Err(OutputError::InUse { path });
    }
    Ok(Output::File {
        path,
        replaces: true,
    })
}

fn examine_device(request: &RestoreRequest, found: &Metadata) -> Result<Output, OutputError> {
    let path = request.output.clone();
    refuse_sources(request, &path, found)?;
    if let Some(at) = mount_of(found.rdev()) {
        return Err(OutputError::Mounted { path, at });
    }
    if request.force_overwrite.as_ref() != Some(&path) {
        return Err(OutputError::DeviceNotForced { path });
    }
    if request.format == ImageFormat::Vhd {
        return Err(OutputError::VhdOnDevice { path });
    }
    // Exclusive: the kernel refuses while anything is mounted from it or built on it, partitions included.
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::BUSY) => return Err(OutputError::InUse { path }),
        Err(error) => return Err(unexamined("open", &path, error.into())),
    };
    let len = file
        .seek(SeekFrom::End(0))
        .map_err(|source| unexamined("measure", &path, source))?;
    Ok(Output::Device {
        path,
        file,
        len: ByteLen(len),
    })
}

/// The path with its directory resolved, which must exist.
fn below_its_parent(path: &Path) -> Result<PathBuf, OutputError> {
    let Some(name) = path.file_name() else {
        return Err(OutputError::NoName { path: path.into() });
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(OutputError::NoParent {
            path: parent.into(),
        });
    }
    let parent = parent.canonicalize();
    let parent = parent.map_err(|source| unexamined("resolve", path, source))?;
    Ok(parent.join(name))
}

fn refuse_vault(vault: &Vault, path: &Path) -> Result<(), OutputError> {
    let Some(directory) = vault.url().directory() else {
        return Ok(());
    };
    let directory = directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_path_buf());
    if path.starts_with(&directory) {
        return Err(OutputError::InsideVault {
            path: path.to_path_buf(),
            vault: directory,
        });
    }
    Ok(())
}

/// Refuses an output that is a protected file or device under whatever name.
fn refuse_sources(
    request: &RestoreRequest,
    path: &Path,
    found: &Metadata,
) -> Result<(), OutputError> {
    let is_device = found.file_type().is_block_device();
    for source_path in &request.sources {
        let Ok(source) = fs::metadata(source_path) else {
            continue;
        };
        let is_same = if is_device && source.file_type().is_block_device() {
            source.rdev() == found.rdev()
        } else {
            is_same_file(&source, found)
        };
        if is_same {
            return Err(OutputError::IsSource {
                path: path.to_path_buf(),
                source_path: source_path.clone(),
            });
        }
    }
    Ok(())
}

/// Refuses the name of a protected file that is missing just now.
fn refuse_source_names(request: &RestoreRequest, path: &Path) -> Result<(), OutputError> {
    for source_path in &request.sources {
        if below_its_parent(source_path).is_ok_and(|source| source == path) {
            return Err(OutputError::IsSource {
                path: path.to_path_buf(),
                source_path: source_path.clone(),
            });
        }
    }
    Ok(())
}

fn what_it_is(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    }
}

fn unexamined(operation: &'static str, path: &Path, source: io::Error) -> OutputError {
    OutputError::Unexamined {
        operation,
        path: path.to_path_buf(),
        source,
    }
}
