//! What is shown: the trait that a disk implements, and the facts about its file.
//!
//! Contract between the mount and a [`FixedFile`]:
//!
//! - Every request lies inside the file. Nothing is changed that is not [`FileInfo::writable`].
//! - Requests run side by side. Two that overlap may run at once, unless one of them changes parts of sectors.
//! - A future that was polled is polled to its end, also when whoever asked is gone. Only the end of the runtime
//!   drops one in the middle.

use std::future::Future;
use std::time::SystemTime;

use bytes::Bytes;
use everpoint_units::{ByteLen, Extent};
use rustix::io::Errno;

/// Something that is shown as one file.
pub trait FixedFile: Send + Sync + 'static {
    /// The facts. Asked once.
    fn describe(&self) -> FileInfo;

    /// Reads all of the extent.
    fn read(&self, extent: Extent) -> impl Future<Output = Result<Bytes, Errno>> + Send;

    /// Writes `data` over the extent, which is as long.
    fn write(&self, extent: Extent, data: Bytes) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Makes the extent read as zeroes; with `keep` it stays allocated.
    fn zero(&self, extent: Extent, keep: bool) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Makes every write durable whose success was returned before this call.
    fn flush(&self) -> impl Future<Output = Result<(), Errno>> + Send;

    /// What holds data from the extent's start on: consecutive, none empty, at least one, whole sectors. May end
    /// before the extent does.
    fn runs(&self, extent: Extent) -> impl Future<Output = Result<Vec<Run>, Errno>> + Send;
}

/// The facts about a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileInfo {
    /// Its name in the directory.
    pub name: String,
    /// Its length, which never changes; whole sectors.
    pub size: ByteLen,
    /// How much of it holds data. Tools look for holes where this is less than its length.
    pub allocated: ByteLen,
    /// Whether it can be written to.
    pub writable: bool,
    /// When it was changed last, as it is told; never another.
    pub modified: SystemTime,
}

/// A run of bytes that is one or the other. To call a hole data is always true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    pub len: ByteLen,
    /// Nothing is there: it reads as zeroes.
    pub is_hole: bool,
}

impl FileInfo {
    /// Whether the name can stand in a directory.
    pub(crate) fn has_a_name(&self) -> bool {
        let name = self.name.as_str();
        let is_a_way = name == "." || name == "..";
        (1..=255).contains(&name.len()) && !is_a_way && !name.contains(['/', '\0'])
    }
}
