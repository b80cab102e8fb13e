//! A sliding view of a file for readers: one aligned buffer, read ahead in one piece.

use std::io;

use everpoint_units::ByteOffset;
use rustix::io::Errno;

use crate::buffer::{AlignedBuffer, BUFFER_ALIGN};
use crate::storage::LogFile;

const ALIGN: u64 = BUFFER_ALIGN as u64;

/// Bytes of one file at a time.
pub(crate) struct Window {
    buffer: AlignedBuffer,
    /// Where in the file the buffer begins, a multiple of 4,096.
    start: u64,
    /// Bytes of the buffer that were read.
    len: usize,
    blocks: BadBlocks,
}

/// What becomes of blocks that the medium does not give.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BadBlocks {
    /// The read fails.
    Fail,
    /// They read as zeroes, which are no record.
    Zero,
}

impl Window {
    /// A view that reads `ahead` bytes at a time, and more when more is asked of it.
    pub(crate) fn new(ahead: usize, blocks: BadBlocks) -> Self {
        Self {
            buffer: AlignedBuffer::zeroed(ahead.next_multiple_of(BUFFER_ALIGN)),
            start: 0,
            len: 0,
            blocks,
        }
    }

    /// Forgets what was read: the file is another, or has changed.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// From now on, this becomes of bad blocks.
    pub(crate) fn set_bad_blocks(&mut self, blocks: BadBlocks) {
        self.blocks = blocks;
    }

    /// The file's bytes from `at`: `need` of them or more, fewer only where `limit` is nearer.
    /// `limit` is where the caller's interest ends; the file must reach its next multiple of 4,096.
    pub(crate) fn bytes(
        &mut self,
        file: &dyn LogFile,
        at: u64,
        need: usize,
        limit: u64,
    ) -> io::Result<&[u8]> {
        let wanted = at.saturating_add(need as u64).min(limit);
        let is_held = self.start <= at && wanted <= self.start + self.len as u64;
        if !is_held || self.len == 0 {
            self.slide(file, at, need, limit)?;
        }
        let from = offset_in(self.start, at).min(self.len);
        let until = offset_in(self.start, limit).min(self.len);
        Ok(&self.buffer[from..until.max(from)])
    }

    fn slide(&mut self, file: &dyn LogFile, at: u64, need: usize, limit: u64) -> io::Result<()> {
        let longest = (need + BUFFER_ALIGN).next_multiple_of(BUFFER_ALIGN);
        if self.buffer.len() < longest {
            self.buffer = AlignedBuffer::zeroed(longest);
        }
        self.len = 0;
        self.start = at - at % ALIGN;
        let ahead = limit.next_multiple_of(ALIGN).saturating_sub(self.start);
        let len = usize::try_from(ahead).map_or(self.buffer.len(), |n| n.min(self.buffer.len()));
        match file.read(&mut self.buffer[..len], ByteOffset(self.start)) {
            Ok(()) => {}
            Err(error) if self.blocks == BadBlocks::Zero && is_bad_block(&error) => {
                self.read_block_by_block(file, len)?;
            }
            Err(error) => return Err(error),
        }
        self.len = len;
        Ok(())
    }

    fn read_block_by_block(&mut self, file: &dyn LogFile, len: usize) -> io::Result<()> {
        for block in (0..len).step_by(BUFFER_ALIGN) {
            let into = &mut self.buffer[block..block + BUFFER_ALIGN];
            let at = ByteOffset(self.start + block as u64);
            match file.read(into, at) {
                Ok(()) => {}
                Err(error) if is_bad_block(&error) => {
                    tracing::warn!(offset = at.0, "an unreadable block is taken for zeroes");
                    into.fill(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_bad_block(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

fn offset_in(start: u64, at: u64) -> usize {
    usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX)
}
