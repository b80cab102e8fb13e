//! Which pieces of a disk differ from what its newest generation builds on.
//!
//! A window of the disk's digests is folded from its sections in path order, up to where the generation
//! begins; what it builds on is all that is committed before it. Only sections that follow count, the
//! generation's first too: behind an object that is damaged lies what was built on it, and an earlier boot's
//! log may have brought all of it into the path for the second time. Pure.

use bytes::Bytes;
use everpoint_format::DiskPosition;
use everpoint_format::digest::{DigestKey, PIECE_SECTORS};
use everpoint_format::index::Section;
use everpoint_journal::digest_map::DigestMap;
use everpoint_journal::history::Joins;
use everpoint_marks::reached;
use everpoint_units::{DiskId, GenerationId};
use everpoint_wire::Compare;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub disk: DiskId,
    /// The compare is with what this generation builds on.
    pub generation: GenerationId,
    /// Unit: sectors.
    pub sectors: u64,
}

/// A window of the disk as the generation found it.
#[derive(Debug)]
pub struct CompareCore {
    about: Compared,
    key: DigestKey,
    map: DigestMap,
    first_piece: u64,
    len: usize,
    /// Where what was folded ends.
    stands: Option<DiskPosition>,
    is_broken: bool,
    reached: bool,
}

impl Compared {
    /// How many pieces a window from `first_piece` on has, where `affordable` fit in memory and the
    /// question is about `asked`.
    pub fn window_len(&self, first_piece: u64, affordable: usize, asked: usize) -> usize {
        let pieces = self.sectors.div_ceil(PIECE_SECTORS);
        let pieces = pieces.saturating_sub(first_piece);
        let pieces = usize::try_from(pieces).unwrap_or(usize::MAX);
        pieces.min(affordable).max(asked)
    }
}

impl CompareCore {
    /// A window of `len` pieces from `first_piece` on, to be folded.
    pub fn new(about: Compared, key: DigestKey, first_piece: u64, len: usize) -> Self {
        Self {
            about,
            key,
            map: DigestMap::new(key, first_piece, len),
            first_piece,
            len,
            stands: None,
            is_broken: false,
            reached: false,
        }
    }

    /// Folds a section, in path order; those of other disks, and those from the generation on, count
    /// for nothing.
    pub fn fold(&mut self, section: &Section) {
        if section.disk != self.about.disk || self.reached {
            return;
        }
        match Joins::of(section, self.stands) {
            Joins::BeginsAgain => {
                self.map = DigestMap::new(self.key, self.first_piece, self.len);
                self.is_broken = false;
            }
            Joins::Follows => {}
            Joins::Not => self.is_broken = true,
        }
        if self.is_broken {
            return;
        }
        if section.generation == self.about.generation {
            self.reached = true;
            return;
        }
        self.map.fold(section);
        self.stands = Some(section.end());
    }

    /// Whether the window holds what is asked about.
    pub fn covers(&self, asked: &Compare) -> bool {
        self.map.covers(asked.first_piece, asked.digests.len())
    }

    /// One bit a piece that was asked about, set where it differs or is not known; all of them, where what the
    /// generation builds on is not in the path.
    ///
    /// # Panics
    ///
    /// If the window does not cover the question.
    pub fn differences(&self, asked: &Compare) -> Bytes {
        if !self.reached {
            reached!(CompareWithoutBase);
            return all_differ(asked);
        }
        let mut differs = vec![0_u8; asked.digests.len().div_ceil(8)];
        for (index, (piece, digest)) in (asked.first_piece..).zip(&asked.digests).enumerate() {
            if self.map.differs(piece, *digest) {
                differs[index / 8] |= 1 << (index % 8);
            }
        }
        Bytes::from(differs)
    }
}

/// What is said where nothing can be known: everything differs.
pub fn all_differ(asked: &Compare) -> Bytes {
    Bytes::from(vec![0xff; asked.digests.len().div_ceil(8)])
}

#[cfg(test)]
mod tests;
