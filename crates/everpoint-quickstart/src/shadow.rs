//! The disk as the load knows it: an image in memory, made of nothing but what was written.

use everpoint_units::{ByteLen, Extent, Lba, SECTOR_LEN};

use crate::stamp::{SECTOR, is_zero};

/// A disk's contents in memory. It takes as much memory as was ever written to.
#[derive(Debug)]
pub(crate) struct Shadow {
    image: Vec<u8>,
}

/// BLAKE3 of a whole image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Digest(pub [u8; 32]);

/// What a disk gave back is not what was written to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the disk does not give back what was written at {at}")]
pub struct WrongRead {
    /// The first sector that differs.
    pub at: Lba,
}

impl Shadow {
    /// An empty disk.
    ///
    /// # Panics
    ///
    /// If `len` does not fit into memory's addresses.
    pub(crate) fn new(len: ByteLen) -> Self {
        let len = usize::try_from(len.0).expect("the caller bounds the size");
        Self {
            image: vec![0; len],
        }
    }

    /// Takes over a write that has completed.
    pub(crate) fn write(&mut self, extent: Extent, payload: &[u8]) {
        self.bytes_mut(extent).copy_from_slice(payload);
    }

    /// Takes over a zero that has completed.
    pub(crate) fn zero(&mut self, extent: Extent) {
        self.bytes_mut(extent).fill(0);
    }

    /// Compares what was read with what was written.
    ///
    /// # Errors
    ///
    /// [`WrongRead`].
    pub(crate) fn compare(&self, extent: Extent, read: &[u8]) -> Result<(), WrongRead> {
        let differs = |(_, expected, found): &(u64, &[u8], &[u8])| expected != found;
        match self.sectors(extent, read).find(differs) {
            None => Ok(()),
            Some((sector, ..)) => Err(wrong(sector)),
        }
    }

    /// What a discard of `extent` did, by what is read there afterwards: `None` if nothing changed, else
    /// the run of sectors that are zeroes now.
    ///
    /// # Errors
    ///
    /// [`WrongRead`] if a sector is neither what it was nor zeroes.
    pub(crate) fn discarded(
        &self,
        extent: Extent,
        read: &[u8],
    ) -> Result<Option<Extent>, WrongRead> {
        let mut changed: Option<(u64, u64)> = None;
        for (sector, expected, found) in self.sectors(extent, read) {
            if expected == found {
                continue;
            }
            if !is_zero(found) {
                return Err(wrong(sector));
            }
            let first = changed.map_or(sector, |(first, _)| first);
            changed = Some((first, sector + 1));
        }
        let Some((first, end)) = changed else {
            return Ok(None);
        };
        // A discard is carried out on one run: what lies between two zeroed sectors is zeroes too.
        let inside = |sector: u64| (first..end).contains(&sector);
        let mut within = self.sectors(extent, read);
        match within.find(|(sector, _, found)| inside(*sector) && !is_zero(found)) {
            Some((sector, ..)) => Err(wrong(sector)),
            None => Ok(Extent::between(lba(first), lba(end))),
        }
    }

    /// BLAKE3 of the whole image.
    pub(crate) fn digest(&self) -> Digest {
        Digest(*blake3::hash(&self.image).as_bytes())
    }

    /// The whole image.
    pub(crate) fn image(&self) -> &[u8] {
        &self.image
    }

    fn bytes_mut(&mut self, extent: Extent) -> &mut [u8] {
        let start = byte_index(extent.start().sector());
        let end = byte_index(extent.end().sector());
        &mut self.image[start..end]
    }

    /// Sector by sector: its index, what was written, what was read.
    fn sectors<'a>(
        &'a self,
        extent: Extent,
        read: &'a [u8],
    ) -> impl Iterator<Item = (u64, &'a [u8], &'a [u8])> {
        let start = extent.start().sector();
        let expected = &self.image[byte_index(start)..byte_index(extent.end().sector())];
        assert_eq!(
            expected.len(),
            read.len(),
            "the answer has the length that was asked for"
        );
        let pairs = expected.chunks_exact(SECTOR).zip(read.chunks_exact(SECTOR));
        (start..)
            .zip(pairs)
            .map(|(sector, (expected, found))| (sector, expected, found))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn wrong(sector: u64) -> WrongRead {
    WrongRead { at: lba(sector) }
}

fn lba(sector: u64) -> Lba {
    Lba::new(sector).expect("inside an image that fits into memory")
}

fn byte_index(sector: u64) -> usize {
    usize::try_from(sector * SECTOR_LEN).expect("inside an image that fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, end: u64) -> Extent {
        Extent::between(lba(start), lba(end)).expect("not empty")
    }

    fn shadow() -> Shadow {
        let mut shadow = Shadow::new(ByteLen(16 * SECTOR_LEN));
        shadow.write(extent(2, 6), &[7; 4 * SECTOR]);
        shadow
    }

    #[test]
    fn writes_and_zeroes_change_their_extents_alone() {
        let mut shadow = shadow();
        shadow.zero(extent(4, 5));
        let marks: Vec<u8> = shadow
            .image()
            .chunks(SECTOR)
            .map(|sector| sector[0])
            .collect();
        assert_eq!(marks, [0, 0, 7, 7, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_digest_is_that_of_the_whole_image() {
        let shadow = shadow();
        assert_eq!(shadow.digest().0, *blake3::hash(shadow.image()).as_bytes());
        assert_ne!(
            shadow.digest(),
            Shadow::new(ByteLen(16 * SECTOR_LEN)).digest()
        );
    }

    #[test]
    fn a_read_is_compared_sector_by_sector() {
        let shadow = shadow();
        let mut read = [[0; SECTOR], [7; SECTOR], [7; SECTOR]].concat();
        assert_eq!(shadow.compare(extent(1, 4), &read), Ok(()));
        read[SECTOR * 2] = 8;
        assert_eq!(
            shadow.compare(extent(1, 4), &read),
            Err(WrongRead { at: lba(3) })
        );
    }

    #[test]
    fn a_discard_is_known_by_what_is_read_afterwards() {
        let shadow = shadow();
        let as_before = [[7; SECTOR]; 4].concat();
        assert_eq!(shadow.discarded(extent(2, 6), &as_before), Ok(None));
        let whole = [[0; SECTOR]; 4].concat();
        assert_eq!(
            shadow.discarded(extent(2, 6), &whole),
            Ok(Some(extent(2, 6)))
        );
        let inner = [[7; SECTOR], [0; SECTOR], [0; SECTOR], [7; SECTOR]].concat();
        assert_eq!(
            shadow.discarded(extent(2, 6), &inner),
            Ok(Some(extent(3, 5)))
        );
    }

    #[test]
    fn a_discard_that_leaves_anything_else_is_wrong() {
        let shadow = shadow();
        let other = [[7; SECTOR], [0; SECTOR], [9; SECTOR], [7; SECTOR]].concat();
        assert_eq!(
            shadow.discarded(extent(2, 6), &other),
            Err(WrongRead { at: lba(4) })
        );
        let gap = [[0; SECTOR], [7; SECTOR], [0; SECTOR], [0; SECTOR]].concat();
        assert_eq!(
            shadow.discarded(extent(2, 6), &gap),
            Err(WrongRead { at: lba(3) })
        );
    }
}
