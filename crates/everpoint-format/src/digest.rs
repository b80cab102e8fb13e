//! Digests of disk content: what an agent and a server compare, what a reader verifies.
//!
//! The disk is cut into pieces of 4 KiB at multiples of 4 KiB. A piece's plain digest is its BLAKE3;
//! the stored one is keyed BLAKE3, under the vault's digest key, of the plain one. So a server can
//! compare what an agent sends without holding the bytes, and nobody without the key can ask a vault
//! whether it holds a given content.

use std::fmt;

use everpoint_units::{Extent, Lba, SECTOR_LEN};

mod side_by_side;

/// Length of a piece. Unit: bytes.
pub const PIECE_LEN: usize = 4_096;
/// Length of a piece. Unit: sectors.
pub const PIECE_SECTORS: u64 = PIECE_LEN as u64 / SECTOR_LEN;
/// Length of a digest. Unit: bytes.
pub const DIGEST_LEN: usize = 32;

/// BLAKE3 of a piece's bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PlainDigest(pub [u8; DIGEST_LEN]);

/// Keyed BLAKE3 of a [`PlainDigest`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PieceDigest(pub [u8; DIGEST_LEN]);

/// A vault's key for digests.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct DigestKey(pub [u8; 32]);

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

impl PlainDigest {
    /// The digest of one piece.
    pub fn of(piece: &[u8]) -> Self {
        Self(*blake3::hash(piece).as_bytes())
    }

    /// The digests of many pieces, in order: less than half the time of one after the other.
    pub fn of_all<'a>(pieces: impl IntoIterator<Item = &'a [u8; PIECE_LEN]>) -> Vec<Self> {
        let mut pieces = pieces.into_iter();
        let mut digests = Vec::with_capacity(pieces.size_hint().0);
        let mut step = Vec::with_capacity(side_by_side::LANES);
        loop {
            step.clear();
            step.extend(pieces.by_ref().take(side_by_side::LANES));
            if step.is_empty() {
                return digests;
            }
            side_by_side::push_digests(&step, &mut digests);
        }
    }
}

impl DigestKey {
    /// What the vault stores for a plain digest.
    pub fn seal(&self, plain: PlainDigest) -> PieceDigest {
        PieceDigest(*blake3::keyed_hash(&self.0, &plain.0).as_bytes())
    }

    /// The digest of one piece's bytes.
    pub fn digest(&self, piece: &[u8]) -> PieceDigest {
        self.seal(PlainDigest::of(piece))
    }

    /// The digests of many pieces, in order.
    pub fn digest_all<'a>(
        &self,
        pieces: impl IntoIterator<Item = &'a [u8; PIECE_LEN]>,
    ) -> Vec<PieceDigest> {
        let plain = PlainDigest::of_all(pieces).into_iter();
        plain.map(|plain| self.seal(plain)).collect()
    }
}

/// The pieces that `extent` covers whole, as sectors: first piece start, and how many.
pub fn whole_pieces(extent: Extent) -> (Lba, usize) {
    let first = extent.start().sector().next_multiple_of(PIECE_SECTORS);
    let end = extent.end().sector() / PIECE_SECTORS * PIECE_SECTORS;
    let count = usize::try_from(end.saturating_sub(first) / PIECE_SECTORS)
        .expect("an extent has fewer pieces than sectors, and those fit 32 bits");
    let first = Lba::new(first).unwrap_or(Lba::MAX);
    (first, count)
}

/// Where in an extent's bytes its first whole piece begins. Unit: bytes.
pub fn piece_offset(extent: Extent) -> usize {
    let (first, _) = whole_pieces(extent);
    usize::try_from((first.sector() - extent.start().sector()) * SECTOR_LEN)
        .expect("less than one piece")
}

/// Every piece that `extent` covers whole; `bytes` is the extent's content.
pub fn pieces(extent: Extent, bytes: &[u8]) -> &[[u8; PIECE_LEN]] {
    let (_, count) = whole_pieces(extent);
    let bytes = bytes.get(piece_offset(extent)..).unwrap_or_default();
    let (pieces, _) = bytes.as_chunks();
    &pieces[..count.min(pieces.len())]
}

/// Digests of every piece that `extent` covers whole; `bytes` is the extent's content.
pub fn piece_digests(key: &DigestKey, extent: Extent, bytes: &[u8]) -> Vec<PieceDigest> {
    key.digest_all(pieces(extent, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, end: u64) -> Extent {
        let lba = |sector| Lba::new(sector).expect("small");
        Extent::between(lba(start), lba(end)).expect("not empty")
    }

    #[test]
    fn only_pieces_covered_whole_have_a_digest() {
        let count = |start, end| whole_pieces(extent(start, end)).1;
        assert_eq!(count(0, 8), 1);
        assert_eq!(count(1, 9), 0);
        assert_eq!(count(1, 17), 1);
        assert_eq!(count(7, 8), 0);
        assert_eq!(count(3, 5), 0);
        assert_eq!(piece_offset(extent(1, 17)), 7 * 512);
    }

    #[test]
    fn a_stored_digest_depends_on_key_and_content() {
        let (a, b) = (DigestKey([1; 32]), DigestKey([2; 32]));
        let piece = [7; PIECE_LEN];
        assert_eq!(a.digest(&piece), a.seal(PlainDigest::of(&piece)));
        assert_ne!(a.digest(&piece), b.digest(&piece));
        assert_ne!(a.digest(&piece), a.digest(&[8; PIECE_LEN]));
        let mut bytes = vec![9; 7 * 512];
        bytes.extend(piece);
        bytes.extend([9; 512]);
        let digests = piece_digests(&a, extent(1, 17), &bytes);
        assert_eq!(digests, [a.digest(&piece)]);
    }

    #[test]
    fn many_pieces_have_the_digests_that_each_has_alone() {
        let mut bytes = vec![0; 40 * PIECE_LEN];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at / 512 * 37 + at).to_le_bytes()[0];
        }
        let key = DigestKey([3; 32]);
        let (pieces, _) = bytes.as_chunks::<PIECE_LEN>();
        let alone: Vec<_> = pieces.iter().map(|piece| key.digest(piece)).collect();
        assert_eq!(piece_digests(&key, extent(0, 320), &bytes), alone);
    }
}
