//! The file operations that the log is made of: few, blocking, and each with one meaning, so that a
//! simulated disk can stand in for the real one.
//!
//! A write is durable after a sync of its file that returned success, a name after a sync of the
//! directory. Until then a crash may keep any part of either, in 512-byte pieces. A sync that failed
//! says nothing about what it covered, ever.

#[cfg(test)]
pub(crate) mod contract;
pub mod memory;
pub mod system;

use std::fmt::Debug;
use std::io;

use everpoint_format::cache_log::RecordAlign;
use everpoint_units::{ByteLen, ByteOffset};

use crate::FileName;
use crate::error::Refusal;

/// One directory that holds one log, held exclusively.
pub trait Storage: Debug + Send + Sync {
    /// The smallest step between two records that it takes writes at.
    fn record_align(&self) -> RecordAlign;

    /// The log's files, in no order; others are passed over.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Creates a file that must not exist, with room for `len` bytes where the system can promise
    /// that.
    ///
    /// # Errors
    ///
    /// As the system gives them; the file may exist after them.
    fn create(&self, name: FileName, len: ByteLen) -> io::Result<Box<dyn LogFile>>;

    /// Opens a file, never through a symbolic link.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    fn open(&self, name: FileName) -> io::Result<Box<dyn LogFile>>;

    /// Gives a file a name that no other has.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    fn rename(&self, from: FileName, to: FileName) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    fn remove(&self, name: FileName) -> io::Result<()>;

    /// Makes every creation, rename and removal so far durable.
    ///
    /// # Errors
    ///
    /// As the system gives them; never to be repeated after one.
    fn sync_directory(&self) -> io::Result<()>;
}

/// One open file. Offsets and lengths are multiples of the storage's alignment, and buffers begin at
/// a multiple of 4,096 in memory; so does every `read`, in both offset and length.
pub trait LogFile: Send + Sync {
    /// Writes all of `bytes` at `at`.
    ///
    /// # Errors
    ///
    /// As the system gives them; any part may have been written.
    fn write(&self, bytes: &[u8], at: ByteOffset) -> io::Result<()>;

    /// Fills `into` from `at`.
    ///
    /// # Errors
    ///
    /// As the system gives them; `UnexpectedEof` where the file ends.
    fn read(&self, into: &mut [u8], at: ByteOffset) -> io::Result<()>;

    /// Makes the contents durable, and the length if contents need it.
    ///
    /// # Errors
    ///
    /// As the system gives them; never to be repeated after one.
    fn sync(&self) -> io::Result<()>;

    /// Forgets what memory holds of the file, so that the next read asks the medium.
    ///
    /// # Errors
    ///
    /// As the system gives them.
    fn drop_cached(&self) -> io::Result<()>;
}

/// A file of the log, as a listing shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub name: FileName,
    pub len: ByteLen,
    /// Why it is not to be trusted, if it is not.
    pub refusal: Option<Refusal>,
}
