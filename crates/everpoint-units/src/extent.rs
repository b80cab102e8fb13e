//! Positions on a disk: which sector, which byte, and the one way from the first to the second.
//!
//! A guest write names bytes, a change names 512-byte sectors, a page blob names bytes again. Each
//! has its own type here, and only a named method crosses over.

use std::fmt;
use std::num::NonZeroU32;

/// Bytes in one sector: the smallest unit of a change, and the smallest write a page blob accepts.
pub const SECTOR_LEN: u64 = 512;

/// Longest extent. Unit: sectors. 2^31 sectors are 1 TiB, so that `end` of any extent and its byte
/// length stay far from overflow.
pub const EXTENT_SECTORS_MAX: u32 = 1 << 31;

/// A run of sectors on one disk, half-open and never empty.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Extent {
    start: Lba,
    sectors: NonZeroU32,
}

/// Logical block address: the index of a sector on one disk. Unit: 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lba(u64);

/// Distance from the start of a disk, file or object. Unit: bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ByteOffset(pub u64);

/// Size of something. Unit: bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ByteLen(pub u64);

impl Extent {
    /// Builds an extent, or returns `None` if it is longer than [`EXTENT_SECTORS_MAX`] or its end
    /// would pass [`Lba::MAX`].
    pub fn new(start: Lba, sectors: NonZeroU32) -> Option<Self> {
        let end = start.0.checked_add(u64::from(sectors.get()))?;
        (end <= Lba::MAX.0 && sectors.get() <= EXTENT_SECTORS_MAX)
            .then_some(Self { start, sectors })
    }

    /// Builds an extent from two sector indexes, `start` inside and `end` after; `None` if it would
    /// be empty or too long.
    pub fn between(start: Lba, end: Lba) -> Option<Self> {
        let sectors = u32::try_from(end.0.checked_sub(start.0)?).ok()?;
        Self::new(start, NonZeroU32::new(sectors)?)
    }

    /// Builds an extent from bytes; `None` if either is not whole sectors, or `len` is zero or too
    /// long.
    pub fn from_bytes(at: ByteOffset, len: ByteLen) -> Option<Self> {
        if !at.0.is_multiple_of(SECTOR_LEN) || !len.0.is_multiple_of(SECTOR_LEN) {
            return None;
        }
        let sectors = u32::try_from(len.0 / SECTOR_LEN).ok()?;
        Self::new(Lba::new(at.0 / SECTOR_LEN)?, NonZeroU32::new(sectors)?)
    }

    /// The first sector inside.
    pub const fn start(self) -> Lba {
        self.start
    }

    /// The first sector after.
    pub const fn end(self) -> Lba {
        Lba(self.start.0 + self.sectors.get() as u64)
    }

    /// How many sectors are inside.
    pub const fn sectors(self) -> NonZeroU32 {
        self.sectors
    }

    /// How many bytes are inside.
    pub const fn byte_len(self) -> ByteLen {
        ByteLen(self.sectors.get() as u64 * SECTOR_LEN)
    }

    /// Whether the two share a sector.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The sectors that both hold, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(
            self.start.max(other.start),
            Lba(self.end().0.min(other.end().0)),
        )
    }
}

impl Lba {
    /// The first sector of a disk.
    pub const ZERO: Self = Self(0);
    /// The largest address whose byte offset fits in an `i64`, which is what file systems take.
    pub const MAX: Self = Self(i64::MAX as u64 / SECTOR_LEN);

    /// Builds an address, or returns `None` past [`Lba::MAX`].
    pub fn new(sector: u64) -> Option<Self> {
        (sector <= Self::MAX.0).then_some(Self(sector))
    }

    /// The sector index, for encoding and display only; arithmetic goes through [`Extent`].
    pub const fn sector(self) -> u64 {
        self.0
    }

    /// Where this sector begins, in bytes. Cannot overflow, by [`Lba::MAX`].
    pub const fn byte_offset(self) -> ByteOffset {
        ByteOffset(self.0 * SECTOR_LEN)
    }
}

impl ByteLen {
    /// Whole sectors in this length, or `None` if it does not end on one.
    pub fn sectors(self) -> Option<u64> {
        self.0
            .is_multiple_of(SECTOR_LEN)
            .then_some(self.0 / SECTOR_LEN)
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lba:{}", self.0)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.sectors)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, end: u64) -> Extent {
        Extent::between(Lba(start), Lba(end)).expect("test passes a good extent")
    }

    #[test]
    fn an_extent_refuses_an_end_past_the_last_address() {
        let one = NonZeroU32::MIN;
        assert!(Extent::new(Lba::MAX, one).is_none());
        let last = Lba::new(Lba::MAX.sector() - 1).expect("one below MAX");
        assert_eq!(
            Extent::new(last, one).expect("ends exactly at MAX").end(),
            Lba::MAX
        );
    }

    #[test]
    fn bytes_that_are_not_whole_sectors_make_no_extent() {
        for (at, len) in [(1, 512), (512, 511), (0, 0)] {
            assert_eq!(Extent::from_bytes(ByteOffset(at), ByteLen(len)), None);
        }
        assert_eq!(
            Extent::from_bytes(ByteOffset(1_024), ByteLen(512)),
            Some(extent(2, 3))
        );
    }

    #[test]
    fn neighbours_do_not_overlap_and_have_no_intersection() {
        assert!(!extent(0, 8).overlaps(extent(8, 16)));
        assert_eq!(extent(0, 8).intersection(extent(8, 16)), None);
        assert_eq!(extent(0, 9).intersection(extent(8, 16)), Some(extent(8, 9)));
    }
}
