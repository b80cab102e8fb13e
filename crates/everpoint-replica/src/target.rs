//! What a replica's target can do, whoever does it.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset, SECTOR_LEN};

use crate::error::PageError;
use crate::fence::Fence;

/// Most bytes of one put. Source: Azure REST reference, "Put Page". Unit: bytes.
pub const PUT_LEN_MAX: u64 = 4 << 20;
/// Most bytes of one clear: the whole of the largest target. Unit: bytes.
pub const CLEAR_LEN_MAX: u64 = TARGET_LEN_MAX;
/// Largest target. Source: Azure, "Scalability and performance targets for Blob storage": page blobs of 8 TiB.
/// Unit: bytes.
pub const TARGET_LEN_MAX: u64 = 8 << 40;
/// Longest lease that ends by itself. Source: Azure REST reference, "Lease Blob". Unit: seconds.
pub const LEASE_S_MAX: u32 = 60;

/// Bytes to be put: pieces one after the other, never copied together.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    pieces: Vec<Bytes>,
    len: u64,
}

/// What a target is, as it is now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Properties {
    /// Unit: bytes.
    pub len: ByteLen,
    /// Whose writes are taken.
    pub fence: Fence,
    /// A copy that goes on, or how the last one ended.
    pub copy: CopyState,
    /// Somebody holds a lease.
    pub is_leased: bool,
}

/// How far a copy is that another target was begun with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyState {
    /// Nothing was copied here, or all of it was.
    Done,
    /// So much of so much. Unit: bytes.
    Pending { copied: u64, total: u64 },
    /// It will not be completed.
    Failed,
}

/// Bytes that were written, or in a comparison with a snapshot: that were written or cleared since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PageRange {
    pub at: ByteOffset,
    pub len: ByteLen,
    /// They read as zeroes now.
    pub is_clear: bool,
}

/// A state of the target that stays, as the target names it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SnapshotId(pub String);

/// A lease, named by who takes it: drawn at random, and shown as the GUID that Azure wants.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct LeaseId(pub u128);

/// One target: a sparse array of 512-byte pages, written in place.
///
/// No method repeats anything. What an error means for the next step says [`PageError::remedy`].
#[async_trait]
pub trait PageTarget: fmt::Debug + Send + Sync {
    /// What it is; `None` where there is none.
    async fn properties(&self) -> Result<Option<Properties>, PageError>;

    /// Makes it, all zeroes, with this fence; refused where one is ([`Refusal::Exists`](crate::Refusal::Exists)).
    /// `len` is whole sectors, at most [`TARGET_LEN_MAX`].
    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError>;

    /// Raises the fence to `to`, unless it is higher already; returns what it is then. From then on no write
    /// with a lower one takes effect, whenever it was sent.
    async fn raise(&self, to: Fence) -> Result<Fence, PageError>;

    /// Writes `pages` at `at`, if the target's fence is `fence`. On success they are durable.
    ///
    /// # Panics
    ///
    /// Where [`expect_pages`] does.
    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError>;

    /// Makes `len` bytes read as zeroes, if the target's fence is `fence`. Whole sectors.
    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError>;

    /// Reads `len` bytes, at most [`PUT_LEN_MAX`], as they are now or were in a snapshot.
    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError>;

    /// What was ever written and not cleared: rising, disjoint.
    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError>;

    /// What was written or cleared since the snapshot: rising, disjoint. Equal bytes count as written.
    async fn changed_since(&self, snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError>;

    /// Changes its length. Who holds a lease must say it. What is cut off is gone.
    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError>;

    /// Takes this lease for `seconds`, 15 to [`LEASE_S_MAX`], from now on, if no other is held
    /// ([`Refusal::LeaseHeld`](crate::Refusal::LeaseHeld)). Who has heard no answer asks for the same again.
    async fn lease(&self, lease: LeaseId, seconds: u32) -> Result<(), PageError>;

    /// Gives a lease back; refused where that one is not held
    /// ([`Refusal::LeaseHeld`](crate::Refusal::LeaseHeld)).
    async fn release(&self, lease: LeaseId) -> Result<(), PageError>;

    /// Keeps the present state under a name of its own.
    async fn snapshot(&self) -> Result<SnapshotId, PageError>;

    /// Forgets a snapshot.
    async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError>;
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.0 >> 64, self.0 & u128::from(u64::MAX));
        let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
        let (d, e) = (low >> 48, low & 0xffff_ffff_ffff);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

impl Pages {
    /// `pieces` one after the other; empty ones are left out.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut pages = Self::default();
        pages.extend(pieces);
        pages
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len() as u64;
            self.pieces.push(piece);
        }
    }

    /// How many bytes. Unit: bytes.
    pub const fn len(&self) -> ByteLen {
        ByteLen(self.len)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, none empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl Extend<Bytes> for Pages {
    fn extend<T: IntoIterator<Item = Bytes>>(&mut self, pieces: T) {
        pieces.into_iter().for_each(|piece| self.push(piece));
    }
}

impl From<Bytes> for Pages {
    fn from(piece: Bytes) -> Self {
        Self::new([piece])
    }
}

/// Holds a write against what every target takes: whole sectors, not empty, at most `len_max`.
///
/// # Panics
///
/// If it is not that: whoever plans writes plans them so.
pub fn expect_pages(at: ByteOffset, len: ByteLen, len_max: u64) {
    let whole = at.0.is_multiple_of(SECTOR_LEN) && len.0.is_multiple_of(SECTOR_LEN);
    assert!(whole, "{at} and {len} are not whole sectors");
    assert!(0 < len.0 && len.0 <= len_max, "{len} at {at} at once");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shown_as_a_guid() {
        let lease = LeaseId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(lease.to_string(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(
            LeaseId(1).to_string(),
            "00000000-0000-0000-0000-000000000001"
        );
    }
}
