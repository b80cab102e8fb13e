//! Which sectors of a writable mount were written, and which are those of the point. Pure.
//!
//! One bit a sector, in chunks of a MiB of disk; a chunk that was written whole takes no bits. So a mount that
//! wrote a terabyte takes at most 300 MB here, and one that wrote it in order 50 MB. What was zeroed or discarded is
//! written too: the overlay's file has a hole there, which reads as zeroes.

use std::collections::BTreeMap;

use crate::restore::Sectors;

/// Unit: sectors.
const CHUNK_SECTORS: u64 = 2_048;
const WORD_COUNT: usize = 32;
const WORD_BITS: u64 = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OverlayMap {
    chunks: BTreeMap<u64, Chunk>,
}

/// Where sectors are read from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    Point,
    Overlay,
}

#[derive(Debug)]
enum Chunk {
    Whole,
    Part(Box<[u64; WORD_COUNT]>),
}

impl OverlayMap {
    /// These sectors are the overlay's from now on.
    pub(super) fn mark(&mut self, sectors: Sectors) {
        for (index, inside) in chunks_of(sectors) {
            if inside.end - inside.start == CHUNK_SECTORS {
                self.chunks.insert(index, Chunk::Whole);
                continue;
            }
            let empty = || Chunk::Part(Box::new([0; WORD_COUNT]));
            let chunk = self.chunks.entry(index).or_insert_with(empty);
            let Chunk::Part(words) = chunk else {
                continue;
            };
            for sector in inside {
                let (word, bit) = bit_of(sector);
                words[word] |= bit;
            }
            if words.iter().all(|&word| word == u64::MAX) {
                *chunk = Chunk::Whole;
            }
        }
    }

    /// Where each of these sectors is read from: rising, without gaps, neighbours differ.
    pub(super) fn spans(&self, sectors: Sectors) -> Vec<(Sectors, Origin)> {
        let mut spans = Vec::new();
        for (index, inside) in chunks_of(sectors) {
            let base = index * CHUNK_SECTORS;
            match self.chunks.get(&index) {
                None => push(&mut spans, shifted(&inside, base), Origin::Point),
                Some(Chunk::Whole) => push(&mut spans, shifted(&inside, base), Origin::Overlay),
                Some(Chunk::Part(words)) => {
                    for sector in inside {
                        let (word, bit) = bit_of(sector);
                        let origin = if words[word] & bit == 0 {
                            Origin::Point
                        } else {
                            Origin::Overlay
                        };
                        push(&mut spans, shifted(&(sector..sector + 1), base), origin);
                    }
                }
            }
        }
        spans
    }

    /// All sectors of the overlay, rising.
    pub(super) fn written(&self) -> Vec<Sectors> {
        let spans = self.chunks.keys().flat_map(|index| {
            let base = index * CHUNK_SECTORS;
            self.spans(base..base + CHUNK_SECTORS)
        });
        let mut written = Vec::new();
        for (sectors, origin) in spans.filter(|(_, origin)| *origin == Origin::Overlay) {
            push(&mut written, sectors, origin);
        }
        written.into_iter().map(|(sectors, _)| sectors).collect()
    }
}

/// The chunks of some sectors, and which sectors of each, counted from its first.
fn chunks_of(sectors: Sectors) -> impl Iterator<Item = (u64, Sectors)> {
    let chunks = sectors.start / CHUNK_SECTORS..sectors.end.div_ceil(CHUNK_SECTORS);
    chunks.map(move |index| {
        let base = index * CHUNK_SECTORS;
        let end = sectors.end.min(base + CHUNK_SECTORS);
        (index, sectors.start.max(base) - base..end - base)
    })
}

fn bit_of(sector: u64) -> (usize, u64) {
    let word = usize::try_from(sector / WORD_BITS).expect("a chunk has few words");
    (word, 1 << (sector % WORD_BITS))
}

const fn shifted(sectors: &Sectors, base: u64) -> Sectors {
    sectors.start + base..sectors.end + base
}

fn push(spans: &mut Vec<(Sectors, Origin)>, sectors: Sectors, origin: Origin) {
    match spans.last_mut() {
        Some((last, of_last)) if *of_last == origin && last.end == sectors.start => {
            last.end = sectors.end;
        }
        _ => spans.push((sectors, origin)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Three chunks, the last not whole. Unit: sectors.
    const SECTORS: u64 = 2 * CHUNK_SECTORS + 100;

    fn sectors() -> impl Strategy<Value = Sectors> {
        let any = (0..SECTORS, 0..SECTORS).prop_map(|(a, b)| a.min(b)..a.max(b) + 1);
        let short = (0..SECTORS - 20, 1..20_u64).prop_map(|(start, len)| start..start + len);
        prop_oneof![1 => any, 3 => short]
    }

    proptest! {
        #[test]
        fn it_is_a_plain_array_of_sectors(
            marked in prop::collection::vec(sectors(), 0..24),
            asked in sectors(),
        ) {
            let mut map = OverlayMap::default();
            let mut plain = vec![Origin::Point; usize::try_from(SECTORS).expect("small")];
            let range = |sectors: &Sectors| {
                let at = |sector| usize::try_from(sector).expect("small");
                at(sectors.start)..at(sectors.end)
            };
            for sectors in marked {
                plain[range(&sectors)].fill(Origin::Overlay);
                map.mark(sectors);
            }
            let spans = map.spans(asked.clone());
            let mut at = asked.start;
            for (index, (sectors, origin)) in spans.iter().enumerate() {
                prop_assert_eq!(sectors.start, at);
                prop_assert!(sectors.start < sectors.end);
                prop_assert!(index == 0 || spans[index - 1].1 != *origin);
                prop_assert!(plain[range(sectors)].iter().all(|plain| plain == origin));
                at = sectors.end;
            }
            prop_assert_eq!(at, asked.end);
            let mut written = vec![Origin::Point; plain.len()];
            for sectors in map.written() {
                written[range(&sectors)].fill(Origin::Overlay);
            }
            prop_assert!(written == plain);
        }
    }

    #[test]
    fn a_chunk_that_is_written_whole_takes_no_bits() {
        let mut map = OverlayMap::default();
        for sector in 0..CHUNK_SECTORS {
            map.mark(sector..sector + 1);
        }
        map.mark(CHUNK_SECTORS..3 * CHUNK_SECTORS);
        assert!(
            map.chunks
                .values()
                .all(|chunk| matches!(chunk, Chunk::Whole))
        );
        assert_eq!(map.written().len(), 1);
    }
}
