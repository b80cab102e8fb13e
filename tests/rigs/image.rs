//! Images on disk: their digests, piece by piece, and where two of them differ.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Length of a piece. Unit: bytes.
const PIECE_LEN: usize = 1 << 20;

/// BLAKE3 of each MiB of an image.
#[derive(Clone, Eq, PartialEq)]
pub struct ImageDigest {
    len: u64,
    pieces: Vec<blake3::Hash>,
}

/// Where two images differ first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Difference {
    /// One is longer. Unit: bytes.
    Length(u64, u64),
    /// The piece at this offset. Unit: bytes; how many pieces differ in all.
    Piece { at: u64, count: usize },
}

impl ImageDigest {
    /// Reads an image or a block device.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut digest = Self {
            len: 0,
            pieces: Vec::new(),
        };
        each_piece(path, |piece| {
            digest.len += piece.len() as u64;
            digest.pieces.push(blake3::hash(piece));
        })?;
        Ok(digest)
    }

    /// One digest of the whole.
    pub fn whole(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.len.to_le_bytes());
        for piece in &self.pieces {
            hasher.update(piece.as_bytes());
        }
        hasher.finalize()
    }

    /// Where `other` differs; `None` if it does not.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        if self.len != other.len {
            return Some(Difference::Length(self.len, other.len));
        }
        let pairs = self.pieces.iter().zip(&other.pieces).enumerate();
        let mut differing = pairs.filter(|(_, (a, b))| a != b).map(|(index, _)| index);
        let first = differing.next()?;
        Some(Difference::Piece {
            at: (first * PIECE_LEN) as u64,
            count: 1 + differing.count(),
        })
    }

    /// That `other` is the same.
    ///
    /// # Errors
    ///
    /// Where it differs.
    pub fn expect_same(&self, other: &Self, what: &str) -> Result<()> {
        match self.difference(other) {
            None => Ok(()),
            Some(difference) => anyhow::bail!("{what}: not the same: {difference:?}"),
        }
    }
}

/// Calls `visit` with each MiB of an image; the last piece may be shorter.
///
/// # Errors
///
/// When it cannot be read.
pub fn each_piece(path: &Path, mut visit: impl FnMut(&[u8])) -> Result<()> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let mut filled = 0;
        while filled < PIECE_LEN {
            match file.read(&mut piece[filled..]).with_context(reading)? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        visit(&piece[..filled]);
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.len, self.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> ImageDigest {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        ImageDigest::of(file.path()).unwrap()
    }

    #[test]
    fn a_single_changed_byte_is_found_with_its_piece() {
        let mut bytes = vec![7; 3 * PIECE_LEN + 100];
        let before = digest(&bytes);
        bytes[2 * PIECE_LEN + 17] ^= 1;
        let at = 2 * PIECE_LEN as u64;
        let after = digest(&bytes);
        assert_eq!(before.difference(&before.clone()), None);
        assert_eq!(
            before.difference(&after),
            Some(Difference::Piece { at, count: 1 })
        );
        assert_ne!(before.whole(), after.whole());
        assert!(before.expect_same(&after, "it").is_err());
    }

    #[test]
    fn a_longer_image_is_not_the_same() {
        let (short, long) = (digest(&[0; 512]), digest(&[0; 1_024]));
        assert_eq!(
            short.difference(&long),
            Some(Difference::Length(512, 1_024))
        );
    }
}
