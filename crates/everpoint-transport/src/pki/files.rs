//! Files with certificates and keys: written whole or not at all, and read with suspicion.
//!
//! A file appears under its name only when its bytes are on the medium: it is written beside its
//! place, synced, moved, and the directory is synced. A key's file has mode 0600 from its first
//! moment. A pair is two files: a crash between them leaves the key without its certificate, never
//! the other way round, and a load says that they do not match.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::KeyPem;

/// Longest PEM file that is read. Unit: bytes; a chain of a few certificates has 4 KiB.
pub const PEM_FILE_LEN_MAX: u64 = 64 * 1024;

const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overwrite {
    /// Leave it, and fail.
    Refuse,
    /// Put the new one in its place.
    Replace,
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is there already, and was not to be replaced.
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    /// The path does not name a file.
    #[error("{} does not name a file", path.display())]
    NotAFile { path: PathBuf },
    /// The filesystem refused.
    #[error("{} could not be written", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Others than its owner can read a private key.
    #[error(
        "{} holds a private key and others can read it (mode {mode:04o}); run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    ReadableByOthers { path: PathBuf, mode: u32 },
    /// Longer than any certificate or key.
    #[error("{} is longer than {PEM_FILE_LEN_MAX} bytes, which no certificate or key is", path.display())]
    TooLong { path: PathBuf },
    /// Not text.
    #[error("{} is not a PEM file", path.display())]
    NotText { path: PathBuf },
    /// The filesystem refused.
    #[error("{} could not be read", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes a certificate and its key.
pub(super) fn write_pair(
    (certificate_path, certificate): (&Path, &str),
    (key_path, key): (&Path, &KeyPem),
    overwrite: Overwrite,
) -> Result<(), WriteError> {
    if overwrite == Overwrite::Refuse {
        // Both are looked at first, so that a refusal leaves no half pair behind.
        for path in [key_path, certificate_path] {
            if path.symlink_metadata().is_ok() {
                return Err(WriteError::Exists {
                    path: path.to_owned(),
                });
            }
        }
    }
    write(key_path, key.expose().as_bytes(), KEY_MODE, overwrite)?;
    write(
        certificate_path,
        certificate.as_bytes(),
        CERTIFICATE_MODE,
        overwrite,
    )
}

/// Reads a file that may be public.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    read_from(open(path)?, path)
}

/// Reads a private key, refusing one that others than its owner can read.
pub(super) fn read_key(path: &Path) -> Result<KeyPem, ReadError> {
    let file = open(path)?;
    // Asked of the open file: the name may mean another one by now.
    let metadata = file.metadata().map_err(|source| ReadError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ReadError::ReadableByOthers {
            path: path.to_owned(),
            mode,
        });
    }
    read_from(file, path).map(KeyPem::new)
}

fn open(path: &Path) -> Result<File, ReadError> {
    File::open(path).map_err(|source| ReadError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_from(file: File, path: &Path) -> Result<String, ReadError> {
    let path = || path.to_owned();
    let mut text = String::new();
    match file.take(PEM_FILE_LEN_MAX + 1).read_to_string(&mut text) {
        Ok(len) if len as u64 > PEM_FILE_LEN_MAX => Err(ReadError::TooLong { path: path() }),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(ReadError::NotText { path: path() })
        }
        Err(source) => Err(ReadError::Io {
            path: path(),
            source,
        }),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32, overwrite: Overwrite) -> Result<(), WriteError> {
    let name = path.file_name().ok_or_else(|| WriteError::NotAFile {
        path: path.to_owned(),
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Unique within the process by the counter and beyond it by the process id; what a crash left
    // behind under the same name is nobody's.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = directory.join(format!(
        ".{}.{}.{count}.new",
        name.display(),
        std::process::id()
    ));
    let written = write_beside(&beside, bytes, mode)
        .and_then(|()| place(&beside, path, overwrite))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|source| {
        // Gone already if it was moved; otherwise it holds a key that nobody asked for.
        let _ = fs::remove_file(&beside);
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::AlreadyExists {
            WriteError::Exists { path }
        } else {
            WriteError::Io { path, source }
        }
    })
}

fn write_beside(beside: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn place(beside: &Path, path: &Path, overwrite: Overwrite) -> io::Result<()> {
    let flags = match overwrite {
        Overwrite::Refuse => RenameFlags::NOREPLACE,
        Overwrite::Replace => RenameFlags::empty(),
    };
    Ok(renameat_with(CWD, beside, CWD, path, flags)?)
}
