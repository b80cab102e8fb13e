//! A disk in a file or on a block device.
//!
//! Buffered by default: small reads and writes are done on the guest's own thread, since they end in
//! the page cache; large ones, and syncs, on threads that may block. With `direct`, reads and writes go
//! through the kernel's completion ring, where there is one.
//!
//! A failed sync is remembered: the kernel may have dropped what it could not write, and would call
//! the next sync a success. From then on every flush fails, until the agent is started again and
//! reads what the disk really holds.

mod ring;
mod syncs;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everpoint_units::{ByteLen, Extent, Lba, SECTOR_LEN};
use futures::future::BoxFuture;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom, fallocate, fdatasync, flock};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use serde::{Deserialize, Serialize};

use self::ring::Ring;
use self::syncs::{SyncError, Syncs};
use super::{
    DiskSource, RUNS_MAX, SourceError, SourceFacts, SourceOpenError, ZeroMode, check_size,
};
use crate::config::DiskConfig;
use crate::resync_core::Run;

/// Longest request that is done on the guest's own thread. Unit: bytes. Copying this much into the
/// page cache takes as long as handing it to another thread.
const INLINE_LEN_MAX: usize = 64 << 10;
/// How much is written at a time where zeroes have to be written. Unit: bytes.
const ZERO_PIECE_LEN: usize = 1 << 20;
/// Alignment of buffers for direct I/O. Unit: bytes. The largest that file systems ask for.
const ALIGN: usize = 4_096;

/// How long a file that somebody has may take to be free, and how often to look.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(2);
const CLAIM_AGAIN: Duration = Duration::from_millis(20);

/// See the module.
pub(crate) struct FileSource {
    inner: Arc<Inner>,
    /// For `direct`, where the kernel has one.
    ring: Option<Ring>,
}

struct Inner {
    file: Arc<File>,
    facts: SourceFacts,
    regular: bool,
    direct: bool,
    /// The kernel says at once whether a read would wait.
    has_nowait: AtomicBool,
    /// Holes can be punched, and read as zeroes.
    can_punch: AtomicBool,
    syncs: Syncs,
}

/// What a file looks like when nobody has touched it since.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceIdentity {
    device: u64,
    inode: u64,
    size: u64,
    /// Times of the last change of content, and of anything. Unit: seconds, nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileSource {
    pub(crate) fn open(config: &DiskConfig) -> Result<Self, SourceOpenError> {
        let path = PathBuf::from(&config.source);
        let failed = |operation| {
            let path = path.clone();
            move |source| SourceOpenError::Io {
                path,
                operation,
                source,
            }
        };
        let found = std::fs::metadata(&path).map_err(failed("cannot be found"))?;
        let regular = found.file_type().is_file();
        if !regular && !found.file_type().is_block_device() {
            return Err(SourceOpenError::Kind { path });
        }
        // On a block device O_EXCL fails where the device is mounted or otherwise claimed.
        let exclusive = if regular {
            OFlags::empty()
        } else {
            OFlags::EXCL
        };
        let direct = if config.direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let flags = i32::try_from((exclusive | direct | OFlags::CLOEXEC).bits());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(flags.expect("open flags fit an i32"));
        let claimed = claim(&options, &path);
        let file = match claimed {
            Some(file) => file.map_err(failed("cannot be opened for writing"))?,
            None => return Err(SourceOpenError::InUse { path }),
        };
        let own = if regular {
            512
        } else {
            logical_block_size(&device_of(&found))
        };
        let block_size = config.block_size.unwrap_or(own);
        if block_size < own {
            let source_name = config.source.clone();
            return Err(SourceOpenError::BlockSize {
                source_name,
                needed: own,
            });
        }
        let size = rustix::fs::seek(&file, SeekFrom::End(0))
            .map_err(|error| failed("its size cannot be asked for")(error.into()))?;
        let size = ByteLen(size);
        check_size(config, size, block_size)?;
        let inner = Inner {
            file: Arc::new(file),
            facts: SourceFacts {
                size,
                block_size,
                zeroes_fast: true,
            },
            regular,
            direct: config.direct,
            has_nowait: AtomicBool::new(!config.direct),
            can_punch: AtomicBool::new(regular || can_unmap(&device_of(&found))),
            syncs: Syncs::default(),
        };
        inner.probe(config, &path)?;
        let ring = if config.direct {
            Ring::start()
                .inspect_err(|error| {
                    tracing::info!(%error, "no completion ring: direct requests have a thread each");
                })
                .ok()
        } else {
            None
        };
        Ok(Self {
            inner: Arc::new(inner),
            ring,
        })
    }

    /// Runs what may wait for a device on a thread that may.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, SourceError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, SourceError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&inner)).await;
            // Only a runtime that is going down drops a task that never ran.
            done.unwrap_or_else(|_| {
                let source = io::ErrorKind::Interrupted.into();
                Err(SourceError::io("the request")(source))
            })
        })
    }
}

impl DiskSource for FileSource {
    fn facts(&self) -> &SourceFacts {
        &self.inner.facts
    }

    fn write_now(&self, extent: Extent, data: &Bytes) -> Option<Result<(), SourceError>> {
        let small = data.len() <= INLINE_LEN_MAX && !self.inner.direct;
        small.then(|| self.inner.write(extent, data))
    }

    fn read_now(&self, extent: Extent) -> Option<Result<Bytes, SourceError>> {
        let small = extent.byte_len().0 <= INLINE_LEN_MAX as u64;
        if !small || !self.inner.has_nowait.load(Relaxed) {
            return None;
        }
        self.inner.read_cached(extent)
    }

    fn write(&self, extent: Extent, data: Bytes) -> BoxFuture<'_, Result<(), SourceError>> {
        let Some(ring) = &self.ring else {
            return self.blocking(move |inner| inner.write(extent, &data));
        };
        let (at, _) = place(extent);
        Box::pin(async move {
            let written = ring.write(&self.inner.file, at, data).await;
            written.map_err(SourceError::io("write"))
        })
    }

    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        let Some(ring) = &self.ring else {
            return self.blocking(move |inner| inner.read(extent));
        };
        let (at, len) = place(extent);
        Box::pin(async move {
            let (buffer, from) = aligned(len);
            let read = ring.read(&self.inner.file, at, buffer, from, len).await;
            let buffer = read.map_err(read_failed)?;
            Ok(Bytes::from(buffer).slice(from..from + len))
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        self.blocking(Inner::flush)
    }

    fn zero(&self, extent: Extent, how: ZeroMode) -> BoxFuture<'_, Result<(), SourceError>> {
        self.blocking(move |inner| inner.zero(extent, how))
    }

    fn discard(&self, extent: Extent) -> BoxFuture<'_, Result<bool, SourceError>> {
        self.blocking(move |inner| inner.punch(extent))
    }

    fn allocation(&self, extent: Extent) -> BoxFuture<'_, Result<Vec<Run>, SourceError>> {
        self.blocking(move |inner| inner.allocation(extent))
    }

    fn identity(&self) -> Result<Option<SourceIdentity>, SourceError> {
        if !self.inner.regular || self.inner.syncs.have_failed() {
            return Ok(None);
        }
        let found = self.inner.file.metadata();
        let found = found.map_err(SourceError::io("stat"))?;
        Ok(Some(SourceIdentity {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }
}

impl Inner {
    /// Direct I/O with blocks that are too small fails at the first request: better now.
    fn probe(&self, config: &DiskConfig, path: &Path) -> Result<(), SourceOpenError> {
        let first = Extent::from_bytes(
            everpoint_units::ByteOffset(0),
            ByteLen(u64::from(self.facts.block_size)),
        );
        match self.read(first.expect("a disk has at least one block")) {
            Ok(_) => Ok(()),
            Err(SourceError::Io { source, .. })
                if is(&source, Errno::INVAL) && self.direct && self.facts.block_size == 512 =>
            {
                Err(SourceOpenError::BlockSize {
                    source_name: config.source.clone(),
                    needed: 4_096,
                })
            }
            Err(SourceError::Io { source, .. }) => Err(SourceOpenError::Io {
                path: path.to_owned(),
                operation: "cannot be read",
                source,
            }),
            Err(_) => Err(SourceOpenError::Kind {
                path: path.to_owned(),
            }),
        }
    }

    fn write(&self, extent: Extent, data: &[u8]) -> Result<(), SourceError> {
        let at = extent.start().byte_offset().0;
        let written = self.file.write_all_at(data, at);
        written.map_err(SourceError::io("write"))
    }

    fn read(&self, extent: Extent) -> Result<Bytes, SourceError> {
        let (at, len) = place(extent);
        let (mut buffer, from) = if self.direct {
            aligned(len)
        } else {
            (vec![0; len], 0)
        };
        let read = self.file.read_exact_at(&mut buffer[from..from + len], at);
        read.map_err(read_failed)?;
        Ok(Bytes::from(buffer).slice(from..from + len))
    }

    /// Reads what the page cache has; `None` if it has not all of it.
    fn read_cached(&self, extent: Extent) -> Option<Result<Bytes, SourceError>> {
        let (at, len) = place(extent);
        let mut buffer = vec![0; len];
        let slices = &mut [IoSliceMut::new(&mut buffer)];
        match preadv2(&self.file, slices, at, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == len => Some(Ok(buffer.into())),
            Ok(_) | Err(Errno::AGAIN) => None,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.has_nowait.store(false, Relaxed);
                None
            }
            Err(error) => Some(Err(SourceError::io("read")(error.into()))),
        }
    }

    fn flush(&self) -> Result<(), SourceError> {
        let synced = self.syncs.run(|| fdatasync(&self.file));
        synced.map_err(|error| match error {
            SyncError::Earlier => SourceError::io("an earlier fdatasync")(Errno::IO.into()),
            SyncError::Now(error) => SourceError::io("fdatasync")(error.into()),
        })
    }

    /// Punches a hole. `false`: this file cannot have holes, and nothing has been done.
    fn punch(&self, extent: Extent) -> Result<bool, SourceError> {
        if !self.can_punch.load(Relaxed) {
            return Ok(false);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.fallocate(extent, flags) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.can_punch.store(false, Relaxed);
                if self.regular {
                    return Ok(false);
                }
                // The kernel has dropped what the page cache had of the range before it asked the
                // device: old bytes may be back, and are made zeroes the other way.
                self.zero_allocated(extent, false)?;
                Ok(true)
            }
            Err(error) => Err(SourceError::io("fallocate")(error.into())),
        }
    }

    fn zero(&self, extent: Extent, how: ZeroMode) -> Result<(), SourceError> {
        if how.may_discard && self.punch(extent)? {
            return Ok(());
        }
        self.zero_allocated(extent, how.fast_only)
    }

    /// Makes zeroes that keep their space.
    fn zero_allocated(&self, extent: Extent, fast_only: bool) -> Result<(), SourceError> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match self.fallocate(extent, flags) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if fast_only => Err(SourceError::NotFast),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(extent),
            Err(error) => Err(SourceError::io("fallocate")(error.into())),
        }
    }

    fn fallocate(&self, extent: Extent, flags: FallocateFlags) -> Result<(), Errno> {
        let (at, len) = (extent.start().byte_offset().0, extent.byte_len().0);
        loop {
            match fallocate(&self.file, flags, at, len) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), SourceError> {
        let (buffer, from) = aligned(ZERO_PIECE_LEN);
        let (mut at, mut left) = (extent.start().byte_offset().0, extent.byte_len().0);
        while left != 0 {
            let piece = left.min(ZERO_PIECE_LEN as u64);
            let len = usize::try_from(piece).expect("at most 1 MiB");
            let written = self.file.write_all_at(&buffer[from..from + len], at);
            written.map_err(SourceError::io("write"))?;
            (at, left) = (at + piece, left - piece);
        }
        Ok(())
    }

    /// Asks the file system for holes; where it has no answer everything is data.
    fn allocation(&self, extent: Extent) -> Result<Vec<Run>, SourceError> {
        let whole = vec![Run {
            extent,
            hole: false,
        }];
        if !self.regular {
            return Ok(whole);
        }
        let end = extent.end().byte_offset().0;
        let mut at = extent.start().byte_offset().0;
        let mut runs: Vec<Run> = Vec::new();
        while at < end && runs.len() < RUNS_MAX {
            let data = self.seek(SeekFrom::Data(at), end)?;
            if at < data {
                push_run(&mut runs, at, data, true);
            }
            if data < end && runs.len() < RUNS_MAX {
                let hole = self.seek(SeekFrom::Hole(data), end)?;
                // A file that was shortened meanwhile would make no progress here.
                let hole = if data < hole { hole } else { end };
                push_run(&mut runs, data, hole, false);
                at = hole;
            } else {
                at = data;
            }
        }
        Ok(if runs.is_empty() { whole } else { runs })
    }

    /// Where the next data or hole begins, at most `end`. Rounded to blocks so that a hole is never
    /// said to be larger than it is.
    fn seek(&self, to: SeekFrom, end: u64) -> Result<u64, SourceError> {
        let block = u64::from(self.facts.block_size);
        let found = match rustix::fs::seek(&self.file, to) {
            Ok(found) => found,
            // Behind the last data everything is a hole.
            Err(Errno::NXIO) => end,
            Err(error) => return Err(SourceError::io("lseek")(error.into())),
        };
        let found = match to {
            SeekFrom::Data(_) => found / block * block,
            _ => found.next_multiple_of(block),
        };
        Ok(found.min(end))
    }
}

/// Opens a file that nobody else has; `None`: somebody has it. What an agent that has just ended handed to the
/// kernel may still be on its way to the disk, and holds the file until it is there.
fn claim(options: &OpenOptions, path: &Path) -> Option<io::Result<File>> {
    let deadline = Instant::now() + CLAIM_TIME_MAX;
    loop {
        match options.open(path) {
            Ok(file) => {
                if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return Some(Ok(file));
                }
            }
            Err(error) if is(&error, Errno::BUSY) => {}
            Err(error) => return Some(Err(error)),
        }
        if deadline <= Instant::now() {
            return None;
        }
        std::thread::sleep(CLAIM_AGAIN);
    }
}

fn push_run(runs: &mut Vec<Run>, from: u64, to: u64, hole: bool) {
    let lba = |at| Lba::new(at / SECTOR_LEN).expect("inside the disk");
    let extent = Extent::between(lba(from), lba(to)).expect("not empty, inside the request");
    runs.push(Run { extent, hole });
}

/// Zeroes, and where in them `len` bytes begin that direct I/O takes.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0; len + ALIGN];
    let from = buffer.as_ptr().align_offset(ALIGN);
    (buffer, from)
}

fn read_failed(error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SourceError::Short,
        _ => SourceError::io("read")(error),
    }
}

fn place(extent: Extent) -> (u64, usize) {
    let len = usize::try_from(extent.byte_len().0).expect("requests fit in memory");
    (extent.start().byte_offset().0, len)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// Where sysfs tells of a block device.
fn device_of(found: &Metadata) -> PathBuf {
    let (major, minor) = (
        rustix::fs::major(found.rdev()),
        rustix::fs::minor(found.rdev()),
    );
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// What the device itself takes. Unit: bytes.
fn logical_block_size(device: &Path) -> u32 {
    let size = queue_limit(device, "logical_block_size");
    size.and_then(|size| size.try_into().ok()).unwrap_or(512)
}

/// Whether the device makes zeroes by itself, which is what the kernel demands of one that is to have
/// holes. Where nothing is said, the first attempt tells.
fn can_unmap(device: &Path) -> bool {
    queue_limit(device, "write_zeroes_max_bytes") != Some(0)
}

/// A number that sysfs tells of a device's queue; a partition's is its disk's.
fn queue_limit(device: &Path, name: &str) -> Option<u64> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    read(device.join("queue").join(name)).or_else(|| read(device.join("../queue").join(name)))
}

#[cfg(test)]
mod tests;
