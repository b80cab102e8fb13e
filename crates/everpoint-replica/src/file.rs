//! A fixed VHD on a local filesystem as a target.
//!
//! The file is `<stem>.<level in 10 digits>.vhd`: an owner of a higher level never writes into a file that a living
//! process has open. It locks the newest file; if nobody else has it locked, it takes it over under its own level's
//! name; if somebody has, it copies it, end first, because the end says how far the rest is. From then on the other
//! one writes into a file that has no name.
//!
//! What was acknowledged is synced. The counter of the fence is not stored: no write outlives the process that makes
//! it. There are no snapshots.

mod copy;
mod name;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};

use crate::error::{Cause, PageError, Refusal};
use crate::fence::Fence;
use crate::target::{
    CLEAR_LEN_MAX, CopyState, LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages, Properties,
    SnapshotId, TARGET_LEN_MAX, expect_pages,
};

/// A fixed VHD. Clones are the same one.
#[derive(Clone, Debug)]
pub struct VhdFile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    stem: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    lease: Option<u64>,
    lease_count: u64,
}

/// The file while this process has it locked.
#[derive(Clone, Debug)]
struct Open {
    file: Arc<File>,
    path: PathBuf,
    fence: Fence,
    len: u64,
}

impl VhdFile {
    /// The VHD of this stem in a directory, whether it exists or not.
    #[must_use]
    pub fn new(dir: &Path, stem: impl Into<String>) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            stem: stem.into(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Where it lies now; `None` where there is none.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn path(&self) -> io::Result<Option<PathBuf>> {
        if let Some(open) = &self.shared.lock().open {
            return Ok(Some(open.path.clone()));
        }
        let newest = name::newest(&self.shared.dir, &self.shared.stem)?;
        Ok(newest.map(|(_, path)| path))
    }

    /// Does something on a thread that may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Shared) -> Result<T, PageError> + Send + 'static,
    ) -> Result<T, PageError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || act(&shared)).await;
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down: nobody hears the answer.
            Err(_) => Err(Cause::Answer {
                what: "the runtime is going down",
            }
            .into()),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, if this process has it.
    fn open(&self) -> Result<Open, PageError> {
        self.lock()
            .open
            .clone()
            .ok_or_else(|| Refusal::Missing.into())
    }

    /// The file, if writes under `fence` are taken and these bytes are in it.
    fn writable(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<Open, PageError> {
        let open = self.open()?;
        if open.fence != fence {
            return Err(PageError::Fenced { fence });
        }
        open.expect_inside(at, len)?;
        Ok(open)
    }

    fn properties(&self) -> Result<Option<Properties>, PageError> {
        let state = self.lock();
        let (len, fence) = match &state.open {
            Some(open) => (open.len, open.fence),
            None => {
                let newest = name::newest(&self.dir, &self.stem).map_err(file("readdir"))?;
                let Some((level, path)) = newest else {
                    return Ok(None);
                };
                let len = path.metadata().map_err(file("stat"))?.len();
                (len, Fence::first_of(level).unwrap_or_default())
            }
        };
        Ok(Some(Properties {
            len: ByteLen(len),
            fence,
            copy: CopyState::Done,
            is_leased: state.lease.is_some(),
        }))
    }

    fn create(&self, len: u64, fence: Fence) -> Result<(), PageError> {
        let mut state = self.lock();
        let newest = name::newest(&self.dir, &self.stem).map_err(file("readdir"))?;
        if newest.is_some() || state.open.is_some() {
            return Err(Refusal::Exists.into());
        }
        let path = name::path(&self.dir, &self.stem, fence.level());
        let created = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let created = created.map_err(file("create"))?;
        expect_alone(&created)?;
        created.set_len(len).map_err(file("truncate"))?;
        created.sync_all().map_err(file("fsync"))?;
        copy::sync_dir(&self.dir).map_err(file("fsync"))?;
        state.open = Some(Open {
            file: Arc::new(created),
            path,
            fence,
            len,
        });
        Ok(())
    }

    fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        let mut state = self.lock();
        if let Some(open) = &mut state.open {
            if open.fence.level() < to.level() {
                let path = name::path(&self.dir, &self.stem, to.level());
                copy::rename(&open.path, &path).map_err(file("rename"))?;
                open.path = path;
            }
            open.fence = open.fence.max(to);
            return Ok(open.fence);
        }
        let newest = name::newest(&self.dir, &self.stem).map_err(file("readdir"))?;
        let (level, path) = newest.ok_or(Refusal::Missing)?;
        if to.level() < level {
            return Ok(Fence::first_of(level).unwrap_or_default());
        }
        let own = name::path(&self.dir, &self.stem, to.level());
        let opened = File::options().read(true).write(true).open(&path);
        let mut opened = opened.map_err(file("open"))?;
        match expect_alone(&opened) {
            Ok(()) if path != own => copy::rename(&path, &own).map_err(file("rename"))?,
            Ok(()) => {}
            // The same level is this server's own: another process of it, or none of ours.
            Err(error) if path == own => return Err(error),
            Err(_) => {
                opened = copy::copy(&opened, &own).map_err(file("copy"))?;
                expect_alone(&opened)?;
                std::fs::remove_file(&path).map_err(file("unlink"))?;
                copy::sync_dir(&self.dir).map_err(file("fsync"))?;
            }
        }
        let len = opened.metadata().map_err(file("stat"))?.len();
        state.open = Some(Open {
            file: Arc::new(opened),
            path: own,
            fence: to,
            len,
        });
        Ok(to)
    }

    fn resize(&self, len: u64, lease: Option<&LeaseId>) -> Result<(), PageError> {
        let mut state = self.lock();
        if state.lease.map(|held| held.to_string()).as_ref() != lease.map(|lease| &lease.0) {
            return Err(Refusal::LeaseHeld.into());
        }
        let open = state.open.as_mut().ok_or(Refusal::Missing)?;
        open.file.set_len(len).map_err(file("truncate"))?;
        open.file.sync_all().map_err(file("fsync"))?;
        open.len = len;
        Ok(())
    }
}

impl Open {
    fn expect_inside(&self, at: ByteOffset, len: ByteLen) -> Result<(), PageError> {
        match at.0.checked_add(len.0) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Refusal::TooSmall { at, len }.into()),
        }
    }

    fn put(&self, at: ByteOffset, pages: &Pages) -> io::Result<()> {
        let mut at = at.0;
        for piece in pages.pieces() {
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        self.file.sync_data()
    }

    fn clear(&self, at: ByteOffset, len: ByteLen) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, punch, at.0, len.0)?;
        self.file.sync_data()
    }

    /// What the filesystem keeps blocks for.
    fn ranges(&self) -> io::Result<Vec<PageRange>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        loop {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => return Ok(ranges),
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
            ranges.push(PageRange {
                at: ByteOffset(start),
                len: ByteLen(end - start),
                is_clear: false,
            });
            at = end;
        }
    }
}

#[async_trait]
impl PageTarget for VhdFile {
    async fn properties(&self) -> Result<Option<Properties>, PageError> {
        self.blocking(Shared::properties).await
    }

    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(ByteOffset(0), len, TARGET_LEN_MAX);
        self.blocking(move |shared| shared.create(len.0, fence))
            .await
    }

    async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        self.blocking(move |shared| shared.raise(to)).await
    }

    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, pages.len(), PUT_LEN_MAX);
        let pages = pages.clone();
        self.blocking(move |shared| {
            let open = shared.writable(at, pages.len(), fence)?;
            open.put(at, &pages).map_err(file("pwrite"))
        })
        .await
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, len, CLEAR_LEN_MAX);
        self.blocking(move |shared| {
            let open = shared.writable(at, len, fence)?;
            open.clear(at, len).map_err(file("fallocate"))
        })
        .await
    }

    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError> {
        expect_pages(at, len, PUT_LEN_MAX);
        if snapshot.is_some() {
            return Err(Refusal::NoSnapshots.into());
        }
        self.blocking(move |shared| {
            let open = shared.open()?;
            open.expect_inside(at, len)?;
            let mut bytes = vec![0; usize::try_from(len.0).expect("at most 4 MiB")];
            let read = open.file.read_exact_at(&mut bytes, at.0);
            read.map_err(file("pread"))?;
            Ok(bytes.into())
        })
        .await
    }

    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
        if snapshot.is_some() {
            return Err(Refusal::NoSnapshots.into());
        }
        self.blocking(|shared| shared.open()?.ranges().map_err(file("lseek")))
            .await
    }

    async fn changed_since(&self, _snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
        Err(Refusal::NoDifference.into())
    }

    async fn resize(&self, len: ByteLen, lease: Option<&LeaseId>) -> Result<(), PageError> {
        expect_pages(ByteOffset(0), len, TARGET_LEN_MAX);
        let lease = lease.cloned();
        self.blocking(move |shared| shared.resize(len.0, lease.as_ref()))
            .await
    }

    async fn lease(&self, _seconds: u32) -> Result<LeaseId, PageError> {
        let mut state = self.shared.lock();
        if state.lease.is_some() {
            return Err(Refusal::LeaseHeld.into());
        }
        state.lease_count += 1;
        state.lease = Some(state.lease_count);
        Ok(LeaseId(state.lease_count.to_string()))
    }

    async fn release(&self, lease: &LeaseId) -> Result<(), PageError> {
        let mut state = self.shared.lock();
        if state.lease.map(|held| held.to_string()).as_ref() != Some(&lease.0) {
            return Err(Refusal::LeaseHeld.into());
        }
        state.lease = None;
        Ok(())
    }

    async fn snapshot(&self) -> Result<SnapshotId, PageError> {
        Err(Refusal::NoSnapshots.into())
    }

    async fn forget(&self, _snapshot: &SnapshotId) -> Result<(), PageError> {
        Err(Refusal::NoSnapshots.into())
    }
}

/// Locks the file, unless somebody has it locked.
fn expect_alone(file: &File) -> Result<(), PageError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Refusal::InUse.into()),
        Err(error) => Err(Cause::File {
            operation: "flock",
            source: error.into(),
        }
        .into()),
    }
}

/// What a failed operation on a file means.
fn file(operation: &'static str) -> impl FnOnce(io::Error) -> PageError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::NoRoom.into(),
        _ => Cause::File { operation, source }.into(),
    }
}

#[cfg(test)]
mod tests;
