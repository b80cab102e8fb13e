//! Bytes that wait to be put, gathered by pieces of 4 MiB of the target.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use everpoint_units::{ByteLen, ByteOffset};

use super::Ground;
use crate::target::{PUT_LEN_MAX, Pages, expect_pages};

/// What one request can carry, at most. Unit: bytes.
pub(super) const PIECE_LEN: u64 = PUT_LEN_MAX;
/// In what steps zeroes are looked for. Unit: bytes.
const PAGE_LEN: usize = 4_096;
/// A gap up to this is filled with zeroes where that is what it holds: dearer than a request is none of its bytes.
/// Unit: bytes.
const GAP_MAX: usize = 32 << 10;

static ZEROES: [u8; GAP_MAX] = [0; GAP_MAX];

/// See the module.
#[derive(Debug)]
pub(super) struct Pieces {
    ground: Ground,
    by_index: BTreeMap<u64, Piece>,
    /// Pieces of which something was taken: their gaps are not known to be zero any more.
    taken: BTreeSet<u64>,
    len: u64,
}

#[derive(Debug, Default)]
struct Piece {
    /// By place; disjoint, none that touch but where a part came before the one that it follows.
    parts: BTreeMap<u64, BytesMut>,
    len: u64,
}

impl Pieces {
    pub(super) const fn new(ground: Ground) -> Self {
        Self {
            ground,
            by_index: BTreeMap::new(),
            taken: BTreeSet::new(),
            len: 0,
        }
    }

    /// What waits. Unit: bytes.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// `bytes` cut where pieces end, without the pages of zeroes that are there already.
    pub(super) fn parts(&self, at: ByteOffset, bytes: &Bytes) -> Vec<(ByteOffset, Bytes)> {
        if bytes.is_empty() {
            return Vec::new();
        }
        expect_pages(at, ByteLen(bytes.len() as u64), u64::MAX);
        let step = match self.ground {
            Ground::Zeroes => PAGE_LEN as u64,
            Ground::Pages => PIECE_LEN,
        };
        let mut parts: Vec<(ByteOffset, Bytes)> = Vec::new();
        let (mut done, mut from) = (0, None);
        while done < bytes.len() {
            let here = at.0 + done as u64;
            let left = usize::try_from(step - here % step).expect("at most 4 MiB");
            let end = bytes.len().min(done + left);
            let is_zero = self.ground == Ground::Zeroes && bytes[done..end] == ZEROES[..end - done];
            let is_piece_end = (at.0 + end as u64).is_multiple_of(PIECE_LEN) || end == bytes.len();
            if !is_zero {
                from.get_or_insert(done);
            }
            let part_end = if is_zero { done } else { end };
            if let Some(first) = from.filter(|_| is_zero || is_piece_end) {
                let place = ByteOffset(at.0 + first as u64);
                parts.push((place, bytes.slice(first..part_end)));
                from = None;
            }
            done = end;
        }
        parts
    }

    /// Keeps a copy of a part, which lies in one piece; says which.
    pub(super) fn insert(&mut self, at: ByteOffset, part: &Bytes) -> u64 {
        let index = at.0 / PIECE_LEN;
        let piece = self.by_index.entry(index).or_default();
        self.len += part.len() as u64;
        piece.len += part.len() as u64;
        let before = piece.parts.range_mut(..at.0).next_back();
        match before.filter(|(start, bytes)| *start + bytes.len() as u64 == at.0) {
            Some((_, bytes)) => bytes.extend_from_slice(part),
            None => {
                piece.parts.insert(at.0, BytesMut::from(&part[..]));
            }
        }
        index
    }

    pub(super) fn is_full(&self, index: u64) -> bool {
        let piece = self.by_index.get(&index);
        piece.is_some_and(|piece| piece.len == PIECE_LEN)
    }

    /// The first piece that is wanted.
    pub(super) fn first(&self, is_wanted: impl Fn(u64) -> bool) -> Option<u64> {
        self.by_index
            .keys()
            .copied()
            .find(|&index| is_wanted(index))
    }

    /// The longest piece that is wanted.
    pub(super) fn longest(&self, is_wanted: impl Fn(u64) -> bool) -> Option<u64> {
        let wanted = self.by_index.iter().filter(|(index, _)| is_wanted(**index));
        let longest = wanted.max_by_key(|(_, piece)| piece.len);
        longest.map(|(&index, _)| index)
    }

    /// What waits of a piece, as it is put: rising, disjoint.
    pub(super) fn take(&mut self, index: u64) -> Vec<(ByteOffset, Pages)> {
        let piece = self.by_index.remove(&index).unwrap_or_default();
        self.len -= piece.len;
        let is_untouched = self.taken.insert(index);
        let gap_max = match self.ground {
            Ground::Zeroes if is_untouched => GAP_MAX as u64,
            _ => 0,
        };
        let mut puts: Vec<(ByteOffset, Pages)> = Vec::new();
        for (at, bytes) in piece.parts {
            if let Some((first, pages)) = puts.last_mut() {
                let end = first.0 + pages.len().0;
                if at - end <= gap_max {
                    let gap = usize::try_from(at - end).expect("at most the largest gap");
                    pages.push(Bytes::from_static(&ZEROES[..gap]));
                    pages.push(bytes.freeze());
                    continue;
                }
            }
            puts.push((ByteOffset(at), bytes.freeze().into()));
        }
        puts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(puts: &[(ByteOffset, Pages)]) -> Vec<(u64, u64)> {
        puts.iter()
            .map(|(at, pages)| (at.0, pages.len().0))
            .collect()
    }

    fn parts(ground: Ground, at: u64, bytes: Vec<u8>) -> Vec<(u64, usize)> {
        let parts = Pieces::new(ground).parts(ByteOffset(at), &bytes.into());
        parts.iter().map(|(at, part)| (at.0, part.len())).collect()
    }

    #[test]
    fn pages_of_zeroes_are_left_out_where_zeroes_are() {
        let mut bytes = vec![0; 5 * PAGE_LEN];
        (bytes[0], bytes[3 * PAGE_LEN - 512]) = (1, 1);
        assert_eq!(
            parts(Ground::Zeroes, 512, bytes.clone()),
            [(512, 3_584), (12_288, 4_096)]
        );
        assert_eq!(parts(Ground::Pages, 512, bytes), [(512, 20_480)]);
        assert_eq!(parts(Ground::Zeroes, 0, vec![0; 512]), []);
    }

    #[test]
    fn parts_end_where_pieces_do() {
        for ground in [Ground::Zeroes, Ground::Pages] {
            let at = PIECE_LEN - 512;
            let cut = parts(ground, at, vec![7; PAGE_LEN]);
            assert_eq!(cut, [(at, 512), (PIECE_LEN, 3_584)]);
        }
    }

    #[test]
    fn neighbours_and_small_gaps_go_out_in_one_put() {
        let mut pieces = Pieces::new(Ground::Zeroes);
        for at in [65_536, 0, 512, 9_728] {
            pieces.insert(ByteOffset(at), &Bytes::from(vec![1; 512]));
        }
        assert_eq!(pieces.len(), 2_048);
        assert_eq!(lens(&pieces.take(0)), [(0, 10_240), (65_536, 512)]);
        assert_eq!(pieces.len(), 0);
        // What was a gap may hold bytes by now.
        for at in [1_024, 4_096] {
            pieces.insert(ByteOffset(at), &Bytes::from(vec![1; 512]));
        }
        assert_eq!(lens(&pieces.take(0)), [(1_024, 512), (4_096, 512)]);
    }

    #[test]
    fn over_other_pages_no_gap_is_filled() {
        let mut pieces = Pieces::new(Ground::Pages);
        for at in [0, 512, 2_048] {
            pieces.insert(ByteOffset(at), &Bytes::from(vec![0; 512]));
        }
        assert_eq!(lens(&pieces.take(0)), [(0, 1_024), (2_048, 512)]);
    }
}
