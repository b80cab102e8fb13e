//! A plain file as an export, every request done inline: the least that a server can be measured
//! with.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use everpoint_nbd::{Allocation, Errno, Export, ExportInfo, ZeroFlags, ZeroSupport};
use everpoint_units::{ByteLen, ByteOffset};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// A file of fixed size.
pub(crate) struct FileExport {
    file: File,
    size: u64,
}

impl FileExport {
    pub(crate) fn new(file: File) -> Self {
        let size = file.metadata().expect("an open file has a size").len();
        Self { file, size }
    }

    fn sync(&self, wanted: bool) -> Result<(), Errno> {
        if wanted {
            self.file.sync_data().map_err(|e| Errno::from_io(&e))?;
        }
        Ok(())
    }

    fn punch(&self, at: ByteOffset, len: u32, flags: FallocateFlags) -> Result<(), Errno> {
        let flags = flags | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, at.0, u64::from(len)).map_err(|e| Errno::from_io(&e.into()))
    }
}

impl Export for FileExport {
    fn describe(&self) -> ExportInfo {
        let mut info = ExportInfo::disk(ByteLen(self.size));
        info.zeroes = ZeroSupport::Fast;
        info.description = "a plain file".to_owned();
        info
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        let mut data = vec![0; usize::try_from(len).map_err(|_| Errno::Inval)?];
        let read = self.file.read_exact_at(&mut data, at.0);
        read.map_err(|e| Errno::from_io(&e))?;
        Ok(data.into())
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        let written = self.file.write_all_at(&data, at.0);
        written.map_err(|e| Errno::from_io(&e))?;
        self.sync(fua)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.sync(true)
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.punch(at, len, FallocateFlags::PUNCH_HOLE)?;
        self.sync(fua)
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        let how = if flags.no_hole {
            FallocateFlags::ZERO_RANGE
        } else {
            FallocateFlags::PUNCH_HOLE
        };
        self.punch(at, len, how)?;
        self.sync(flags.fua)
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        let data = seek(&self.file, SeekFrom::Data(at.0)).unwrap_or(self.size);
        let (hole, end) = if data > at.0 {
            (true, data)
        } else {
            let end = seek(&self.file, SeekFrom::Hole(at.0)).unwrap_or(self.size);
            (false, end)
        };
        let len = u32::try_from(end - at.0).unwrap_or(len).min(len);
        let zero = hole;
        Ok(vec![Allocation { len, hole, zero }])
    }
}
