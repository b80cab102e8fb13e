//! The kernel's questions, and who answers them.
//!
//! Names and attributes are answered at once, by the session's own thread. Whatever touches bytes is handed to a
//! task of the runtime, so that none waits for another; the answer goes from there.
//!
//! The kernel keeps what it has read and passes every write on before it says that it is done (no write-back
//! cache): what the overlay refuses, the writer hears.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everpoint_units::SECTOR_LEN;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::file::{FileInfo, FixedFile};
use crate::serving::{Closed, REQUEST_LEN_MAX, Serving, Taken};
use crate::whole::{Padded, Sought, WholeSectors};

/// How long the kernel may believe what it was told. Nothing of it ever changes.
const BELIEVED: Duration = Duration::from_secs(24 * 3_600);
/// The file; the directory is the root.
const FILE: INodeNo = INodeNo(2);
/// What a longest name is. Unit: bytes.
const NAME_LEN_MAX: u32 = 255;
/// What tools are told to read at once, at least. Unit: bytes.
const BLOCK_LEN: u32 = 4_096;

/// See the module.
pub(crate) struct Handler<F> {
    shared: Arc<Shared<F>>,
    info: FileInfo,
    /// Who mounts: user and group.
    owner: (u32, u32),
    request_count_max: u16,
    runtime: Handle,
    /// True once the kernel asks no more.
    over: watch::Sender<bool>,
}

struct Shared<F> {
    whole: WholeSectors<F>,
    serving: Arc<Serving>,
}

impl<F: FixedFile> Handler<F> {
    pub(crate) fn new(
        (file, info): (F, FileInfo),
        serving: Arc<Serving>,
        request_count_max: u16,
        over: watch::Sender<bool>,
    ) -> Self {
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let whole = WholeSectors::new(file, info.size);
        Self {
            shared: Arc::new(Shared { whole, serving }),
            info,
            owner,
            request_count_max,
            runtime: Handle::current(),
            over,
        }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (size, blocks, kind, mode, link_count) = match inode {
            INodeNo::ROOT => (0, 0, FileType::Directory, 0o500, 2),
            FILE => {
                let mode = if self.info.writable { 0o600 } else { 0o400 };
                let blocks = self.info.allocated.0 / SECTOR_LEN;
                (self.info.size.0, blocks, FileType::RegularFile, mode, 1)
            }
            _ => return None,
        };
        let time = self.info.modified;
        Some(FileAttr {
            ino: inode,
            size,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: mode,
            nlink: link_count,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK_LEN,
            flags: 0,
        })
    }

    /// A place for a request: the thread goes on when there is one.
    fn place(&self) -> Result<Taken, Closed> {
        self.runtime.block_on(self.shared.serving.place())
    }

    /// Lets a task answer.
    fn spawn<A: Future<Output = ()> + Send + 'static>(
        &self,
        place: Taken,
        answer: impl FnOnce(Arc<Shared<F>>) -> A,
    ) {
        let answer = answer(Arc::clone(&self.shared));
        self.runtime.spawn(async move {
            answer.await;
            drop(place);
        });
    }
}

impl<F: FixedFile> Filesystem for Handler<F> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let written = config.set_max_write(REQUEST_LEN_MAX);
        written.expect("it is below 16 MiB");
        let background = config.set_max_background(self.request_count_max);
        background.expect("it is at least 1");
        // Old kernels have none: direct requests of one program wait for each other there.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn destroy(&mut self) {
        self.over.send_replace(true);
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_it = parent == INodeNo::ROOT && name == OsStr::new(&self.info.name);
        match self.attributes(FILE).filter(|_| is_it) {
            Some(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&BELIEVED, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times may be set, and nothing comes of it; a length may be set to what it is.
    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _archived: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let is_other_size = size.is_some_and(|size| size != self.info.size.0);
        match self.attributes(inode) {
            None => reply.error(Errno::ENOENT),
            Some(_) if is_other_size || mode.or(user).or(group).is_some() => {
                reply.error(Errno::EPERM);
            }
            Some(attributes) => reply.attr(&BELIEVED, &attributes),
        }
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Ok(place) = self.place() else {
            return reply.error(Errno::ESHUTDOWN);
        };
        self.spawn(place, async move |shared| {
            let len = u64::from(len);
            let memory = shared.serving.for_reading(Padded::takes(at, len)).await;
            match shared.whole.read(at, len).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(number(error)),
            }
            drop(memory);
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok(place) = self.place() else {
            return reply.error(Errno::ESHUTDOWN);
        };
        let len = self.shared.whole.inside(at, data.len() as u64);
        let takes = Padded::takes(at, len);
        let memory = self
            .runtime
            .block_on(self.shared.serving.for_writing(takes));
        let inside = usize::try_from(len).map_or(data, |len| &data[..len]);
        let Some(padded) = Padded::new(at, inside) else {
            // As a full disk answers: there is nothing behind its end.
            return reply.error(Errno::ENOSPC);
        };
        let written = u32::try_from(len).expect("no longer than what was agreed");
        self.spawn(place, async move |shared| {
            match shared.whole.write(padded).await {
                Ok(()) => reply.written(written),
                Err(error) => reply.error(number(error)),
            }
            drop(memory);
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // A close. Every write was answered before.
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let Ok(place) = self.place() else {
            return reply.error(Errno::ESHUTDOWN);
        };
        self.spawn(place, async move |shared| {
            match shared.whole.flush().await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(number(error)),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, &self.info.name),
        ];
        for (at, (inode, kind, name)) in (0..).zip(entries) {
            if from <= at && reply.add(inode, at + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let sector_len = u32::try_from(SECTOR_LEN).expect("small");
        let sectors = self.info.size.0 / SECTOR_LEN;
        reply.statfs(sectors, 0, 0, 1, 0, sector_len, NAME_LEN_MAX, sector_len);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let is_inside = self.shared.whole.inside(at, len) == len;
        let keep = if mode == FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE {
            false
        } else if mode.union(FallocateFlags::KEEP_SIZE)
            != FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        {
            // Room is promised to nobody.
            return reply.error(Errno::EOPNOTSUPP);
        } else if is_inside || mode.contains(FallocateFlags::KEEP_SIZE) {
            true
        } else {
            return reply.error(Errno::ENOSPC);
        };
        let Ok(place) = self.place() else {
            return reply.error(Errno::ESHUTDOWN);
        };
        self.spawn(place, async move |shared| {
            match shared.whole.zero(at, len, keep).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(number(error)),
            }
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // Source: lseek(2). The kernel answers the others itself.
        let sought = match whence {
            3 => Sought::Data,
            4 => Sought::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(at) = u64::try_from(at) else {
            return reply.error(Errno::ENXIO);
        };
        let Ok(place) = self.place() else {
            return reply.error(Errno::ESHUTDOWN);
        };
        self.spawn(place, async move |shared| {
            match shared.whole.seek(at, sought).await {
                Ok(found) => reply.offset(found.cast_signed()),
                Err(error) => reply.error(number(error)),
            }
        });
    }

    // What follows there is not, and the kernel remembers it where it may: it asks for nothing of this twice.

    fn getxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _len: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _len: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _given: &[u8],
        _len: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        _from_handle: FileHandle,
        _from_at: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_at: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _mask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _mask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _mask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }

    fn link(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }
}

fn number(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}
