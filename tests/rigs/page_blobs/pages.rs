//! The pages of one blob: sparse, shared with its snapshots chunk by chunk, each sector marked with its write.
//!
//! A chunk is 64 KiB, 128 sectors, so that which of them were written is one `u128`. A sector that is not there
//! reads as zeroes. Copies share chunks until one of them is written to. Each sector carries the number of the
//! write that put it there: two versions differ where these numbers do, even where the bytes are the same, as
//! Azure counts changes. A sector counts as cleared since a snapshot when the snapshot has it and this has not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// The smallest piece that can be written. Unit: bytes.
pub(super) const SECTOR_LEN: u64 = 512;
/// One chunk. Unit: bytes.
const CHUNK_LEN: u64 = CHUNK_SECTORS as u64 * SECTOR_LEN;
const CHUNK_SECTORS: u32 = u128::BITS;

/// The content of a page blob, or of one of its snapshots. Cloning it copies no bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pages {
    len: u64,
    /// The last write's number.
    write: u64,
    /// Each of them holds one sector at least.
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

/// What happened to an extent since a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Written,
    Cleared,
}

#[derive(Clone, PartialEq)]
struct Chunk {
    /// Zeroes where no sector is.
    bytes: Box<[u8]>,
    /// A bit for each sector that is there, the lowest first.
    present: u128,
    /// The write that put each of them there.
    writes: [u64; CHUNK_SECTORS as usize],
}

/// Reads pieces one after the other as if they were one.
struct Pieces<'a> {
    front: &'a [u8],
    rest: &'a [Bytes],
}

impl Pages {
    /// Nothing but room. Unit of `len`: bytes.
    pub(super) fn new(len: u64) -> Self {
        Self {
            len,
            ..Self::default()
        }
    }

    /// Unit: bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes pieces one after the other, from `start` on.
    ///
    /// # Panics
    ///
    /// When they are not whole sectors of this blob.
    pub(super) fn write(&mut self, start: u64, pieces: &[Bytes]) {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let end = start + len as u64;
        self.check(&(start..end));
        self.write += 1;
        let mut pieces = Pieces {
            front: &[],
            rest: pieces,
        };
        for (index, within) in chunks_of(start..end) {
            let chunk = self.chunks.entry(index).or_default();
            if within == whole() && Arc::get_mut(chunk).is_none() {
                // A snapshot keeps the old one, of which nothing would be left in a copy.
                *chunk = Arc::default();
            }
            let chunk = Arc::make_mut(chunk);
            pieces.read(&mut chunk.bytes[bytes_of(&within)]);
            chunk.present |= mask(&within);
            chunk.writes[sectors_of(&within)].fill(self.write);
        }
    }

    /// Forgets what is in an extent.
    ///
    /// # Panics
    ///
    /// When it is not whole sectors of this blob.
    pub(super) fn clear(&mut self, extent: Range<u64>) {
        self.check(&extent);
        self.forget(extent);
    }

    /// Cuts the end off, or adds room there. Unit: bytes.
    ///
    /// # Panics
    ///
    /// When it is not whole sectors.
    pub(super) fn resize(&mut self, len: u64) {
        assert!(len.is_multiple_of(SECTOR_LEN), "not whole sectors: {len}");
        if len < self.len {
            self.forget(len..self.len);
        }
        self.len = len;
    }

    /// The bytes of an extent, which may begin and end inside of sectors.
    ///
    /// # Panics
    ///
    /// When it ends past the end.
    pub(super) fn read(&self, extent: Range<u64>) -> Vec<u8> {
        assert!(extent.end <= self.len, "{extent:?} of {}", self.len);
        let mut bytes = vec![0; index(extent.end - extent.start)];
        for (at, chunk) in self.chunks.range(chunk_indexes(&extent)) {
            let first = at * CHUNK_LEN;
            let start = extent.start.max(first);
            let end = extent.end.min(first + CHUNK_LEN);
            let target = index(start - extent.start)..index(end - extent.start);
            let source = index(start - first)..index(end - first);
            bytes[target].copy_from_slice(&chunk.bytes[source]);
        }
        bytes
    }

    /// The same, but for what lies outside of an extent: cheap to take while others wait.
    #[must_use]
    pub(super) fn part(&self, extent: &Range<u64>) -> Self {
        let chunks = self.chunks.range(chunk_indexes(extent));
        Self {
            len: self.len,
            write: self.write,
            chunks: chunks.map(|(at, chunk)| (*at, chunk.clone())).collect(),
        }
    }

    /// The extents inside of `within` that were written: sorted, disjoint, none that touch. Unit: bytes.
    pub(super) fn written(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let within = self.whole_sectors(within);
        let mut found = Vec::new();
        for (at, chunk) in self.chunks.range(chunk_indexes(&within)) {
            let present = chunk.present & mask_in_chunk(*at, &within);
            for extent in runs(*at, present) {
                push(&mut found, extent, Change::Written);
            }
        }
        found.into_iter().map(|(extent, _)| extent).collect()
    }

    /// What changed inside of `within` since an older version: sorted, disjoint. Unit: bytes.
    pub(super) fn changed(&self, since: &Self, within: Range<u64>) -> Vec<(Range<u64>, Change)> {
        let within = self.whole_sectors(within);
        let indexes = chunk_indexes(&within);
        let mut places: BTreeSet<u64> = BTreeSet::new();
        for chunks in [&self.chunks, &since.chunks] {
            places.extend(chunks.range(indexes.clone()).map(|(at, _)| *at));
        }
        let mut found = Vec::new();
        for at in places {
            let (new, old) = (self.chunks.get(&at), since.chunks.get(&at));
            if let (Some(new), Some(old)) = (new, old)
                && Arc::ptr_eq(new, old)
            {
                continue;
            }
            let asked = mask_in_chunk(at, &within);
            let (written, cleared) = differences(new.map(AsRef::as_ref), old.map(AsRef::as_ref));
            let written = runs(at, written & asked).map(|extent| (extent, Change::Written));
            let cleared = runs(at, cleared & asked).map(|extent| (extent, Change::Cleared));
            let mut here: Vec<_> = written.chain(cleared).collect();
            here.sort_by_key(|(extent, _)| extent.start);
            for (extent, change) in here {
                push(&mut found, extent, change);
            }
        }
        found
    }

    fn forget(&mut self, extent: Range<u64>) {
        let touched: Vec<u64> = self
            .chunks
            .range(chunk_indexes(&extent))
            .map(|(at, _)| *at)
            .collect();
        for at in touched {
            let gone = mask_in_chunk(at, &extent);
            let chunk = self.chunks.get_mut(&at).expect("listed a moment ago");
            if chunk.present & !gone == 0 {
                self.chunks.remove(&at);
            } else if chunk.present & gone != 0 {
                let chunk = Arc::make_mut(chunk);
                let gone = extent.start.max(at * CHUNK_LEN)..extent.end.min((at + 1) * CHUNK_LEN);
                let within = gone.start - at * CHUNK_LEN..gone.end - at * CHUNK_LEN;
                chunk.bytes[bytes_of(&within)].fill(0);
                chunk.present &= !mask(&within);
            }
        }
    }

    /// The sectors of this blob that an extent touches. Unit: bytes.
    fn whole_sectors(&self, extent: Range<u64>) -> Range<u64> {
        let end = extent.end.min(self.len).next_multiple_of(SECTOR_LEN);
        extent.start / SECTOR_LEN * SECTOR_LEN..end
    }

    fn check(&self, extent: &Range<u64>) {
        let is_whole =
            extent.start.is_multiple_of(SECTOR_LEN) && extent.end.is_multiple_of(SECTOR_LEN);
        assert!(is_whole, "not whole sectors: {extent:?}");
        assert!(extent.end <= self.len, "{extent:?} of {}", self.len);
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            bytes: vec![0; index(CHUNK_LEN)].into(),
            present: 0,
            writes: [0; CHUNK_SECTORS as usize],
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Chunk({:#x})", self.present)
    }
}

impl Pieces<'_> {
    /// Fills `target` with what comes next.
    fn read(&mut self, mut target: &mut [u8]) {
        while !target.is_empty() {
            while self.front.is_empty() {
                let (front, rest) = self.rest.split_first().expect("as long as was counted");
                (self.front, self.rest) = (front, rest);
            }
            let len = self.front.len().min(target.len());
            let (now, later) = target.split_at_mut(len);
            let (front, rest) = self.front.split_at(len);
            now.copy_from_slice(front);
            (target, self.front) = (later, rest);
        }
    }
}

/// The sectors that were written, and those that were cleared, from `old` to `new`.
fn differences(new: Option<&Chunk>, old: Option<&Chunk>) -> (u128, u128) {
    let (Some(new), Some(old)) = (new, old) else {
        let present = |chunk: Option<&Chunk>| chunk.map_or(0, |chunk| chunk.present);
        return (present(new), present(old));
    };
    let same = new.writes.iter().zip(&old.writes).enumerate();
    let same = same.filter(|(_, (new, old))| new == old);
    let same = same.fold(0, |mask, (sector, _)| mask | 1_u128 << sector);
    let written = new.present & !(old.present & same);
    (written, old.present & !new.present)
}

/// Adds an extent, to the last one when the two touch.
fn push(found: &mut Vec<(Range<u64>, Change)>, extent: Range<u64>, change: Change) {
    match found.last_mut() {
        Some((last, same)) if last.end == extent.start && *same == change => last.end = extent.end,
        _ => found.push((extent, change)),
    }
}

/// The extents of a chunk whose bits are set. Unit: bytes.
fn runs(at: u64, mut present: u128) -> impl Iterator<Item = Range<u64>> {
    let byte = move |sector: u32| at * CHUNK_LEN + u64::from(sector) * SECTOR_LEN;
    std::iter::from_fn(move || {
        if present == 0 {
            return None;
        }
        let start = present.trailing_zeros();
        let len = (present >> start).trailing_ones();
        present &= !ones(start, len);
        Some(byte(start)..byte(start + len))
    })
}

fn ones(start: u32, len: u32) -> u128 {
    u128::MAX
        .checked_shr(u128::BITS - len)
        .map_or(0, |ones| ones << start)
}

/// An extent as parts of chunks: which chunk, and where in it. Unit: bytes.
fn chunks_of(extent: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    chunk_indexes(&extent).map(move |at| {
        let first = at * CHUNK_LEN;
        let start = extent.start.max(first) - first;
        (at, start..extent.end.min(first + CHUNK_LEN) - first)
    })
}

fn chunk_indexes(extent: &Range<u64>) -> Range<u64> {
    let start = extent.start / CHUNK_LEN;
    start..extent.end.div_ceil(CHUNK_LEN).max(start)
}

fn whole() -> Range<u64> {
    0..CHUNK_LEN
}

/// The bits of the sectors of the chunk at `at` that lie in an extent of the blob.
fn mask_in_chunk(at: u64, extent: &Range<u64>) -> u128 {
    let first = at * CHUNK_LEN;
    let start = extent.start.clamp(first, first + CHUNK_LEN) - first;
    let end = extent.end.clamp(first, first + CHUNK_LEN) - first;
    if start < end { mask(&(start..end)) } else { 0 }
}

/// The bits of the sectors of an extent of a chunk.
fn mask(within: &Range<u64>) -> u128 {
    let sectors = sectors_of(within);
    let bit = |sector| u32::try_from(sector).expect("128 sectors at most");
    ones(bit(sectors.start), bit(sectors.len()))
}

fn sectors_of(within: &Range<u64>) -> Range<usize> {
    index(within.start / SECTOR_LEN)..index(within.end / SECTOR_LEN)
}

fn bytes_of(within: &Range<u64>) -> Range<usize> {
    index(within.start)..index(within.end)
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("this is a 64-bit system")
}

#[cfg(test)]
mod tests;
