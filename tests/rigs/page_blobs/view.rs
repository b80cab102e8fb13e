//! What a test sees of a blob without asking for it over the wire.

use std::collections::BTreeMap;
use std::ops::Range;

use super::blob::{Blob, Content, LoggedWrite, Version};

/// A blob as it was when it was looked at, or one of its snapshots. Cloning it copies no pages.
#[derive(Clone, Debug)]
pub struct BlobView {
    version: Version,
    snapshots: BTreeMap<String, Version>,
    writes: Vec<LoggedWrite>,
}

impl BlobView {
    pub(super) fn new(blob: Blob) -> Self {
        Self {
            version: blob.current,
            snapshots: blob.snapshots,
            writes: blob.writes,
        }
    }

    /// Unit: bytes.
    pub fn len(&self) -> u64 {
        self.version.content.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a page blob; it is a block blob otherwise.
    pub fn is_page_blob(&self) -> bool {
        matches!(self.version.content, Content::Pages(_))
    }

    /// Exact bytes, zeroes where nothing is.
    ///
    /// # Panics
    ///
    /// When they are not all in the blob.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        match &self.version.content {
            Content::Pages(pages) => pages.read(offset..offset + len),
            Content::Block(bytes) => {
                let index = |at| usize::try_from(at).expect("it is in memory");
                bytes[index(offset)..index(offset + len)].to_vec()
            }
        }
    }

    /// All of it.
    pub fn content(&self) -> Vec<u8> {
        self.read(0, self.len())
    }

    pub fn sequence_number(&self) -> u64 {
        self.version.sequence_number
    }

    pub fn etag(&self) -> &str {
        &self.version.etag
    }

    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.version.traits.metadata
    }

    /// The extents that were written: sorted, disjoint, none that touch. Unit: bytes.
    pub fn written(&self) -> Vec<Range<u64>> {
        match &self.version.content {
            Content::Pages(pages) => pages.written(0..pages.len()),
            Content::Block(bytes) => std::iter::once(0..bytes.len() as u64).collect(),
        }
    }

    /// The names of its snapshots, the oldest first.
    pub fn snapshots(&self) -> Vec<String> {
        self.snapshots.keys().cloned().collect()
    }

    /// One of its snapshots.
    pub fn snapshot(&self, id: &str) -> Option<Self> {
        let version = self.snapshots.get(id)?.clone();
        Some(Self {
            version,
            snapshots: BTreeMap::new(),
            writes: Vec::new(),
        })
    }

    /// The writes of pages in the order in which they were done, if the server logs them.
    pub fn writes(&self) -> &[LoggedWrite] {
        &self.writes
    }
}
