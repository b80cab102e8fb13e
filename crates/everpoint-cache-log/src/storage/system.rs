//! The real directory: `openat` below one descriptor, O_NOFOLLOW, an exclusive lock, O_DIRECT where
//! the file system takes it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use everpoint_format::cache_log::RecordAlign;
use everpoint_units::{ByteLen, ByteOffset};
use rustix::fs::{
    Advice, AtFlags, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatxFlags,
};
use rustix::io::Errno;

use super::{Entry, LogFile, Storage};
use crate::buffer::AlignedBuffer;
use crate::config::DirectMode;
use crate::error::{IoFault, Operation, Refusal};
use crate::{FileName, OpenError};

const LOCK: &CStr = c"lock";
const PROBE: &CStr = c"probe";
const PROBE_LEN: usize = 4_096;

/// A directory of the file system. The lock is held until this is dropped.
#[derive(Debug)]
pub struct SystemStorage {
    directory: OwnedFd,
    /// Held, never used: closing it lets go of the lock.
    _lock: OwnedFd,
    /// `None`: through the page cache.
    direct: Option<RecordAlign>,
}

struct SystemFile(OwnedFd);

impl SystemStorage {
    /// Opens and locks a directory; makes it (mode 0700, durable) if its parent exists and it does
    /// not.
    ///
    /// # Errors
    ///
    /// `NotPrivate` when the directory is a symbolic link, another user's, or writable by others;
    /// `InUse` when another process holds it; `Directory` for what the system refuses.
    pub fn open(path: &Path, direct: DirectMode) -> Result<Self, OpenError> {
        make_directory(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let is_symlink = path.is_symlink();
                let refusal = if is_symlink {
                    Refusal::Symlink
                } else {
                    Refusal::NotADirectory
                };
                return Err(not_private(path, refusal));
            }
            Err(error) => return Err(failed(path, Operation::Open, error)),
        };
        let stat =
            rustix::fs::fstat(&directory).map_err(|e| failed(path, Operation::Examine, e))?;
        if let Some(refusal) = ownership_refusal(&stat).or_else(|| exposure(&stat)) {
            return Err(not_private(path, refusal));
        }
        let lock = lock(path, &directory)?;
        let direct = match direct {
            DirectMode::Auto => {
                direct_align(&directory).map_err(|e| failed(path, Operation::Examine, e))?
            }
            DirectMode::Off => None,
        };
        tracing::debug!(direct = direct.is_some(), "cache-log directory opened");
        Ok(Self {
            directory,
            _lock: lock,
            direct,
        })
    }

    /// Whether files pass by the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    fn open_file(&self, name: FileName, flags: OFlags) -> io::Result<OwnedFd> {
        let direct = if self.is_direct() {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let flags = flags | direct | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name.to_string(), flags, private_mode())?;
        Ok(file)
    }

    fn entry(&self, name: FileName) -> io::Result<Entry> {
        let path = name.to_string();
        let stat = rustix::fs::statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW)?;
        let refusal = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => ownership_refusal(&stat)
                .or_else(|| links_refusal(&stat))
                .or_else(|| exposure(&stat)),
            FileType::Symlink => Some(Refusal::Symlink),
            _ => Some(Refusal::NotAFile),
        };
        Ok(Entry {
            name,
            len: ByteLen(u64::try_from(stat.st_size).unwrap_or(0)),
            refusal,
        })
    }
}

impl Storage for SystemStorage {
    fn record_align(&self) -> RecordAlign {
        self.direct.unwrap_or(RecordAlign::Sector512)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok().and_then(FileName::parse);
            if let Some(name) = name {
                entries.push(self.entry(name)?);
            }
        }
        Ok(entries)
    }

    fn create(&self, name: FileName, len: ByteLen) -> io::Result<Box<dyn LogFile>> {
        let file = self.open_file(name, OFlags::CREATE | OFlags::EXCL)?;
        // Tells early when there is no room, and keeps the file in one piece; zeroes are written
        // over it all the same, because an extent that was only allocated costs metadata later.
        match again(|| rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len.0)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Box::new(SystemFile(file))),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: FileName) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(SystemFile(self.open_file(name, OFlags::empty())?)))
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        Ok(rustix::fs::renameat(
            &self.directory,
            from,
            &self.directory,
            to,
        )?)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let name = name.to_string();
        Ok(rustix::fs::unlinkat(
            &self.directory,
            name,
            AtFlags::empty(),
        )?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }
}

impl LogFile for SystemFile {
    fn write(&self, bytes: &[u8], at: ByteOffset) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let offset = at.0 + written as u64;
            match again(|| rustix::io::pwrite(&self.0, &bytes[written..], offset))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => written += count,
            }
        }
        Ok(())
    }

    fn read(&self, into: &mut [u8], at: ByteOffset) -> io::Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let offset = at.0 + filled as u64;
            match again(|| rustix::io::pread(&self.0, &mut into[filled..], offset))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

/// Repeats what a signal interrupted before it did anything. Never used for a sync.
fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    let made = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(failed(path, Operation::Create, error)),
    };
    if made {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(parent, flags, Mode::empty())
            .and_then(rustix::fs::fsync)
            .map_err(|error| failed(path, Operation::SyncDirectory, error))?;
    }
    Ok(())
}

fn lock(path: &Path, directory: &OwnedFd) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(directory, LOCK, flags, private_mode())
        .map_err(|error| failed(path, Operation::Lock, error))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(OpenError::InUse {
            path: PathBuf::from(path),
        }),
        Err(error) => Err(failed(path, Operation::Lock, error)),
    }
}

/// Whether a file here takes O_DIRECT, and with which alignment: asked of the kernel (statx, Linux
/// 6.1; 4,096 where it does not say), then tried.
fn direct_align(directory: &OwnedFd) -> rustix::io::Result<Option<RecordAlign>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let probe = match rustix::fs::openat(directory, PROBE, flags | OFlags::DIRECT, private_mode()) {
        Ok(probe) => probe,
        Err(Errno::INVAL) => {
            remove_probe(directory)?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let align = tried_align(&probe);
    remove_probe(directory)?;
    Ok(align)
}

fn tried_align(probe: &OwnedFd) -> Option<RecordAlign> {
    let align = match rustix::fs::statx(probe, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            match stat.stx_dio_offset_align {
                1..=512 => RecordAlign::Sector512,
                513..=4_096 => RecordAlign::Sector4096,
                _ => return None,
            }
        }
        _ => RecordAlign::Sector4096,
    };
    let block = AlignedBuffer::zeroed(PROBE_LEN);
    match again(|| rustix::io::pwrite(probe, &block, 0)) {
        Ok(PROBE_LEN) => Some(align),
        _ => None,
    }
}

fn remove_probe(directory: &OwnedFd) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, PROBE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn private_mode() -> Mode {
    Mode::RUSR | Mode::WUSR
}

fn ownership_refusal(stat: &Stat) -> Option<Refusal> {
    let uid = stat.st_uid;
    (uid != rustix::process::geteuid().as_raw()).then_some(Refusal::Owner { uid })
}

fn links_refusal(stat: &Stat) -> Option<Refusal> {
    #[expect(
        clippy::useless_conversion,
        reason = "the type of the link count differs between architectures"
    )]
    let count = u64::from(stat.st_nlink);
    (count != 1).then_some(Refusal::HardLinks { count })
}

fn exposure(stat: &Stat) -> Option<Refusal> {
    let mode = stat.st_mode;
    (mode & 0o022 != 0).then_some(Refusal::WritableByOthers { mode })
}

fn not_private(path: &Path, refusal: Refusal) -> OpenError {
    OpenError::NotPrivate {
        path: PathBuf::from(path),
        refusal,
    }
}

fn failed(path: &Path, operation: Operation, error: Errno) -> OpenError {
    OpenError::Directory {
        path: PathBuf::from(path),
        operation,
        source: IoFault::from(io::Error::from(error)),
    }
}

#[cfg(test)]
mod tests;
