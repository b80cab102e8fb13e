//! Which digests a disk's pieces have, for a compare: a window of pieces, folded record by record.
//!
//! A piece that was never written, or zeroed whole, has the digest of zeroes. A piece that was
//! written in part has none that is known, and counts as different.

use everpoint_format::Change;
use everpoint_format::digest::whole_pieces;
use everpoint_format::digest::{DigestKey, PIECE_LEN, PIECE_SECTORS, PieceDigest, PlainDigest};
use everpoint_format::index::Section;
use everpoint_marks::{planted, reached};
use everpoint_units::Extent;

/// See the module.
#[derive(Clone, Debug)]
pub struct DigestMap {
    key: DigestKey,
    zero: PieceDigest,
    first_piece: u64,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Piece {
    Zero,
    Known(PieceDigest),
    Unknown,
}

impl DigestMap {
    /// Memory of one piece. Unit: bytes.
    pub const PIECE_COST: usize = size_of::<Piece>();

    /// A window of `count` pieces from `first_piece`, all zero.
    pub fn new(key: DigestKey, first_piece: u64, count: usize) -> Self {
        Self {
            key,
            zero: key.digest(&[0; PIECE_LEN]),
            first_piece,
            pieces: vec![Piece::Zero; count],
        }
    }

    /// Whether the window holds these pieces.
    pub fn covers(&self, first_piece: u64, count: usize) -> bool {
        let end = first_piece.checked_add(count as u64);
        let own_end = self.first_piece + self.pieces.len() as u64;
        self.first_piece <= first_piece && end.is_some_and(|end| end <= own_end)
    }

    /// Folds one section of the disk, in path order.
    pub fn fold(&mut self, section: &Section) {
        for block in &section.blocks {
            let mut digests = block.digests.iter();
            for record in &block.records {
                match record.change {
                    Change::Data(extent) | Change::Reference { extent, .. } => {
                        self.fold_data(extent, &mut digests);
                    }
                    Change::Zero(extent) | Change::Discard(extent) => self.fold_zero(extent),
                    Change::Resize { sectors } => self.zero_from(sectors),
                    // A generation that builds on nothing begins with an empty disk.
                    Change::ResyncBegin { base: None } => self.pieces.fill(Piece::Zero),
                    _ => (),
                }
            }
        }
    }

    /// Whether the piece differs from `plain`, or is not known.
    ///
    /// # Panics
    ///
    /// If the window does not hold the piece.
    pub fn differs(&self, piece: u64, plain: PlainDigest) -> bool {
        let sealed = self.key.seal(plain);
        match self.pieces[self.index(piece).expect("the caller asked `covers`")] {
            Piece::Zero => sealed != self.zero,
            Piece::Known(digest) => sealed != digest,
            Piece::Unknown => {
                reached!(PieceUnknown);
                !planted!(UnknownPieceEqual)
            }
        }
    }

    fn fold_data<'a>(
        &mut self,
        extent: Extent,
        digests: &mut impl Iterator<Item = &'a PieceDigest>,
    ) {
        self.mark_edges(extent, |_| Piece::Unknown);
        let (first, count) = whole_pieces(extent);
        let first = first.sector() / PIECE_SECTORS;
        for piece in first..first + count as u64 {
            let digest = digests
                .next()
                .expect("an index holds a digest for each whole piece");
            if let Some(index) = self.index(piece) {
                self.pieces[index] = Piece::Known(*digest);
            }
        }
    }

    fn fold_zero(&mut self, extent: Extent) {
        // Zeroing part of a piece that is zero leaves it zero.
        self.mark_edges(extent, |old| match old {
            Piece::Zero => Piece::Zero,
            _ => Piece::Unknown,
        });
        let (first, count) = whole_pieces(extent);
        let first = first.sector() / PIECE_SECTORS;
        self.zero_pieces(first, first + count as u64);
    }

    fn zero_from(&mut self, sectors: u64) {
        if !sectors.is_multiple_of(PIECE_SECTORS)
            && let Some(index) = self.index(sectors / PIECE_SECTORS)
            && self.pieces[index] != Piece::Zero
        {
            self.pieces[index] = Piece::Unknown;
        }
        self.zero_pieces(sectors.div_ceil(PIECE_SECTORS), u64::MAX);
    }

    fn zero_pieces(&mut self, from: u64, to: u64) {
        let own_end = self.first_piece + self.pieces.len() as u64;
        for piece in from.max(self.first_piece)..to.min(own_end) {
            let index = self.index(piece).expect("clipped to the window");
            self.pieces[index] = Piece::Zero;
        }
    }

    /// Changes the pieces at both ends that the extent covers in part.
    fn mark_edges(&mut self, extent: Extent, change: impl Fn(Piece) -> Piece) {
        let (start, end) = (extent.start().sector(), extent.end().sector());
        let edges = [start, end]
            .into_iter()
            .filter(|edge| !edge.is_multiple_of(PIECE_SECTORS));
        for edge in edges {
            if let Some(index) = self.index(edge / PIECE_SECTORS) {
                self.pieces[index] = change(self.pieces[index]);
            }
        }
    }

    fn index(&self, piece: u64) -> Option<usize> {
        let index = usize::try_from(piece.checked_sub(self.first_piece)?).ok()?;
        (index < self.pieces.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests;
