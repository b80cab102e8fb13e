//! A fixed VHD on a local filesystem as a target.
//!
//! The file is `<stem>.<level in 10 digits>.vhd`: an owner of a higher level never writes into a file that a living
//! process has open. It locks the newest file; if nobody else has it locked, it takes it over under its own level's
//! name; if somebody has, it copies it, end first, because the end says how far the rest is. From then on the other
//! one writes into a file that has no name.
//!
//! What was acknowledged is synced. The counter of the fence is not stored: no write outlives the process that makes
//! it. There are no snapshots.
//!
//! After one sync that failed nothing of the file is trusted any more: which pages were lost, and whose, nobody knows.
//! No write to it is acknowledged, it becomes `<stem>.failed` in place of an older one, and there is no target until
//! one is created. Where it cannot be set aside, this value refuses everything, and tries that again first each time.
//! Another process, or a later value of this one, may still go on with the file: what was acknowledged before lasts,
//! a mark among it too, and whoever goes on from a mark writes again whatever came later.

mod copy;
mod durable;
mod name;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset, Level};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use tokio::sync::RwLock;

use crate::error::{Cause, PageError, Refusal};
use crate::fence::Fence;
use crate::target::{
    CLEAR_LEN_MAX, CopyState, LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages, Properties,
    SnapshotId, TARGET_LEN_MAX, expect_pages,
};

use durable::{Disk, Durable, Kernel, NotDurable};

/// A fixed VHD. Clones are the same one.
#[derive(Clone, Debug)]
pub struct VhdFile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    stem: String,
    disk: Arc<dyn Disk>,
    /// Writes share it from the look at the fence on; whoever changes the fence, the length or the file is alone.
    /// Whoever waits to be alone comes before later writes.
    writes: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    /// Why there is none, if a sync of it failed.
    lost: Option<Refusal>,
    lease: Option<LeaseId>,
}

/// The file while this process has it locked.
#[derive(Clone, Debug)]
struct Open {
    file: Arc<Durable>,
    path: PathBuf,
    fence: Fence,
    len: u64,
}

impl VhdFile {
    /// The VHD of this stem in a directory, whether it exists or not.
    #[must_use]
    pub fn new(dir: &Path, stem: impl Into<String>) -> Self {
        Self::on(Arc::new(Kernel), dir, stem)
    }

    fn on(disk: Arc<dyn Disk>, dir: &Path, stem: impl Into<String>) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            stem: stem.into(),
            disk,
            writes: RwLock::new(()),
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
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        let open = state.open.clone();
        open.ok_or_else(|| state.missing().into())
    }

    /// Sets the file aside if a sync of it failed: then there is none.
    fn set_aside(&self, state: &mut State) -> Result<(), Refusal> {
        let Some(open) = &state.open else {
            return Ok(());
        };
        let Some(why) = open.file.failure() else {
            return Ok(());
        };
        let aside = name::failed(&self.dir, &self.stem);
        let renamed = match std::fs::rename(&open.path, &aside) {
            // A later owner took it over, or only the directory is still to be synced.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        };
        if let Err(error) = renamed.and_then(|()| copy::sync_dir(&self.dir)) {
            return Err(Refusal::NotSetAside {
                path: open.path.clone(),
                sync: why.to_owned(),
                rename: error.to_string(),
            });
        }
        state.lost = Some(Refusal::SyncFailed {
            sync: why.to_owned(),
            aside,
        });
        state.open = None;
        Ok(())
    }

    /// What a write comes to whose sync failed, or came after one that failed.
    fn not_durable(&self, state: &mut State) -> PageError {
        match self.set_aside(state) {
            Ok(()) => state.missing().into(),
            Err(refusal) => refusal.into(),
        }
    }

    /// Writes under `fence`, if that is the target's and these bytes are in it, and makes it last.
    fn write(
        &self,
        (at, len): (ByteOffset, ByteLen),
        fence: Fence,
        operation: &'static str,
        act: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), PageError> {
        let _shared = self.writes.blocking_read();
        let open = self.open()?;
        if open.fence != fence {
            return Err(PageError::Fenced { fence });
        }
        open.expect_inside(at, len)?;
        act(open.file.file()).map_err(file(operation))?;
        let synced = open.file.sync(open.file.written());
        synced.map_err(|NotDurable| self.not_durable(&mut self.lock()))
    }

    fn properties(&self) -> Result<Option<Properties>, PageError> {
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        let (len, fence) = match &state.open {
            Some(open) => (open.len, open.fence),
            None => {
                let Some((level, path)) = self.newest()? else {
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

    fn newest(&self) -> Result<Option<(Level, PathBuf)>, PageError> {
        name::newest(&self.dir, &self.stem).map_err(file("readdir"))
    }

    fn create(&self, len: u64, fence: Fence) -> Result<(), PageError> {
        let _alone = self.writes.blocking_write();
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        if state.open.is_some() || self.newest()?.is_some() {
            return Err(Refusal::Exists.into());
        }
        // It has its name only once it is whole.
        let path = name::path(&self.dir, &self.stem, fence.level());
        let part = copy::part_of(&path);
        let created = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part);
        let created = created.map_err(file("create"))?;
        expect_alone(&created)?;
        // Another process of this level may have been faster: then this is its file.
        if self.newest()?.is_some() {
            return Err(Refusal::Exists.into());
        }
        let sized = created.set_len(0).and_then(|()| created.set_len(len));
        sized.map_err(file("truncate"))?;
        let created = Durable::new(created, Arc::clone(&self.disk));
        let synced = created.sync(created.written());
        synced.map_err(|NotDurable| Refusal::SyncFailed {
            sync: created.failure().unwrap_or_default().to_owned(),
            aside: part.clone(),
        })?;
        copy::rename(&part, &path).map_err(file("rename"))?;
        state.set_open(created, path, fence, len);
        Ok(())
    }

    fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        let _alone = self.writes.blocking_write();
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        if let Some(open) = &mut state.open {
            if open.fence.level() < to.level() {
                let path = name::path(&self.dir, &self.stem, to.level());
                std::fs::rename(&open.path, &path).map_err(file("rename"))?;
                // Should the directory not be synced, this name is the one to begin from again.
                open.path = path;
                copy::sync_dir(&self.dir).map_err(file("fsync"))?;
            }
            open.fence = open.fence.max(to);
            return Ok(open.fence);
        }
        let (level, path) = self.newest()?.ok_or_else(|| state.missing())?;
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
        let opened = Durable::new(opened, Arc::clone(&self.disk));
        state.set_open(opened, own, to, len);
        Ok(to)
    }

    fn resize(&self, len: u64, lease: Option<LeaseId>) -> Result<(), PageError> {
        let _alone = self.writes.blocking_write();
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        if state.lease != lease {
            return Err(Refusal::LeaseHeld.into());
        }
        let missing = state.missing();
        let open = state.open.as_mut().ok_or(missing)?;
        let resized = open.file.file().set_len(len);
        resized.map_err(file("truncate"))?;
        open.len = len;
        let synced = open.file.sync(open.file.written());
        synced.map_err(|NotDurable| self.not_durable(&mut state))
    }

    fn lease(&self, lease: LeaseId) -> Result<(), PageError> {
        let mut state = self.lock();
        self.set_aside(&mut state)?;
        if state.lease.is_some_and(|held| held != lease) {
            return Err(Refusal::LeaseHeld.into());
        }
        state.lease = Some(lease);
        Ok(())
    }

    fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        let mut state = self.lock();
        if state.lease != Some(lease) {
            return Err(Refusal::LeaseHeld.into());
        }
        state.lease = None;
        Ok(())
    }
}

impl State {
    fn set_open(&mut self, file: Durable, path: PathBuf, fence: Fence, len: u64) {
        self.lost = None;
        self.open = Some(Open {
            file: Arc::new(file),
            path,
            fence,
            len,
        });
    }

    /// Why there is no file.
    fn missing(&self) -> Refusal {
        self.lost.clone().unwrap_or(Refusal::Missing)
    }
}

impl Open {
    fn expect_inside(&self, at: ByteOffset, len: ByteLen) -> Result<(), PageError> {
        match at.0.checked_add(len.0) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Refusal::TooSmall { at, len }.into()),
        }
    }

    /// What the filesystem keeps blocks for.
    fn ranges(&self) -> io::Result<Vec<PageRange>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        loop {
            let start = match rustix::fs::seek(self.file.file(), SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => return Ok(ranges),
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(self.file.file(), SeekFrom::Hole(start))?;
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
            shared.write((at, pages.len()), fence, "pwrite", |file| {
                let mut at = at.0;
                for piece in pages.pieces() {
                    file.write_all_at(piece, at)?;
                    at += piece.len() as u64;
                }
                Ok(())
            })
        })
        .await
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, len, CLEAR_LEN_MAX);
        self.blocking(move |shared| {
            shared.write((at, len), fence, "fallocate", |file| {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, punch, at.0, len.0)?;
                Ok(())
            })
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
            let read = open.file.file().read_exact_at(&mut bytes, at.0);
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

    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
        expect_pages(ByteOffset(0), len, TARGET_LEN_MAX);
        self.blocking(move |shared| shared.resize(len.0, lease))
            .await
    }

    async fn lease(&self, lease: LeaseId, _seconds: u32) -> Result<(), PageError> {
        self.blocking(move |shared| shared.lease(lease)).await
    }

    async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        self.blocking(move |shared| shared.release(lease)).await
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
