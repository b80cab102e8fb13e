//! BLAKE3 of many pieces side by side, as many as the processor's vectors are wide.
//!
//! A piece is four chunks of BLAKE3, which fill a quarter of a vector of sixteen lanes; hashed by
//! itself it takes more than twice the time. Here the first chunks of sixteen pieces are one step,
//! then their second chunks, and so on up each piece's tree:
//!
//! ```text
//!        root              step 6, of all sixteen
//!      ┌──┴──┐
//!    parent parent         step 5, thirty-two at once
//!    ┌─┴─┐ ┌─┴─┐
//!    0   1 2   3           steps 1 to 4: one chunk of each piece
//! ```
//!
//! `blake3` has no documented call for this. What is used is the step that its own `hash` is made of,
//! marked as unstable; so the workspace pins the crate to one version, and the tests compare.

use blake3::IncrementCounter;
use blake3::platform::Platform;

use super::{DIGEST_LEN, PIECE_LEN, PlainDigest};

/// Pieces of one step: the lanes of the widest vectors that the crate knows (AVX-512).
pub(super) const LANES: usize = 16;
/// Fewer are faster one by one: their own four chunks fill a vector of four.
const LANES_MIN: usize = 4;

const CHUNK_LEN: usize = 1_024;
const CHUNKS: usize = PIECE_LEN / CHUNK_LEN;
const PARENT_LEN: usize = 2 * DIGEST_LEN;

/// The specification's initial chaining value and flags (BLAKE3, 2.1 and table 3).
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

/// Adds the digests of `pieces`, at most [`LANES`], in order.
pub(super) fn push_digests(pieces: &[&[u8; PIECE_LEN]], digests: &mut Vec<PlainDigest>) {
    if pieces.len() < LANES_MIN {
        digests.extend(pieces.iter().map(|piece| PlainDigest::of(*piece)));
        return;
    }
    let platform = Platform::detect();
    let count = pieces.len();
    let mut chunks = [[0; DIGEST_LEN * LANES]; CHUNKS];
    for (index, out) in chunks.iter_mut().enumerate() {
        let mut inputs = [&[0; CHUNK_LEN]; LANES];
        for (input, piece) in inputs.iter_mut().zip(pieces) {
            *input = &piece.as_chunks().0[index];
        }
        let (inputs, number) = (&inputs[..count], index as u64);
        let one = IncrementCounter::No;
        platform.hash_many(inputs, &IV, number, one, 0, CHUNK_START, CHUNK_END, out);
    }
    let [first, second, third, fourth] = &chunks;
    let mut parents = [0; DIGEST_LEN * 2 * LANES];
    let inputs = joined(first, second, count).chain(joined(third, fourth, count));
    hash_parents(platform, inputs.collect(), PARENT, &mut parents);
    let (left, right) = parents.split_at(DIGEST_LEN * count);
    let mut roots = [0; DIGEST_LEN * 2 * LANES];
    let inputs = joined(left, right, count).collect();
    hash_parents(platform, inputs, PARENT | ROOT, &mut roots);
    let (roots, _) = roots.as_chunks();
    digests.extend(roots[..count].iter().map(|root| PlainDigest(*root)));
}

/// Left and right child of each of `count` nodes.
fn joined<'a>(
    left: &'a [u8],
    right: &'a [u8],
    count: usize,
) -> impl Iterator<Item = [u8; PARENT_LEN]> + 'a {
    let (left, right) = (
        left.as_chunks::<DIGEST_LEN>().0,
        right.as_chunks::<DIGEST_LEN>().0,
    );
    left.iter().zip(right).take(count).map(|(left, right)| {
        let mut node = [0; PARENT_LEN];
        node[..DIGEST_LEN].copy_from_slice(left);
        node[DIGEST_LEN..].copy_from_slice(right);
        node
    })
}

fn hash_parents(platform: Platform, nodes: Vec<[u8; PARENT_LEN]>, flags: u8, out: &mut [u8]) {
    let inputs: Vec<&[u8; PARENT_LEN]> = nodes.iter().collect();
    platform.hash_many(&inputs, &IV, 0, IncrementCounter::No, flags, 0, 0, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that differ from each other in every chunk.
    fn pieces(count: usize) -> Vec<[u8; PIECE_LEN]> {
        let piece = |seed: usize| {
            std::array::from_fn(|at| (seed * 31 + at * 7 + at / CHUNK_LEN).to_le_bytes()[0])
        };
        (0..count).map(piece).collect()
    }

    #[test]
    fn any_number_of_pieces_has_the_digests_that_each_has_alone() {
        for count in 0..=LANES {
            let pieces = pieces(count);
            let mut digests = Vec::new();
            push_digests(&pieces.iter().collect::<Vec<_>>(), &mut digests);
            let alone: Vec<_> = pieces.iter().map(|piece| PlainDigest::of(piece)).collect();
            assert_eq!(digests, alone, "{count} pieces");
        }
    }
}
