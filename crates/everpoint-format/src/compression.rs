//! Payloads: LZ4 blocks, made once by the agent, or raw where LZ4 does not shrink them.

use bytes::Bytes;

use crate::DecodeError;

const WHAT: &str = "payload";

/// Memory that packing works in, kept from block to block: memory that is given back and taken anew costs
/// more for its first touches than a checksum of what is in it. At most twice the longest payload.
#[derive(Debug, Default)]
pub struct PackScratch {
    /// Pieces of a payload, side by side.
    gathered: Vec<u8>,
    packed: Vec<u8>,
}

impl PackScratch {
    /// Compresses what `pieces` hold one after the other. Returns what is to be stored, and whether that
    /// is compressed: what would not become shorter is stored as it is, and one piece alone is then not
    /// copied.
    pub fn pack(&mut self, pieces: &[Bytes]) -> (Bytes, bool) {
        let raw = match pieces {
            [one] => one.as_ref(),
            pieces => {
                self.gathered.clear();
                for piece in pieces {
                    self.gathered.extend_from_slice(piece);
                }
                &self.gathered
            }
        };
        let longest = lz4_flex::block::get_maximum_output_size(raw.len());
        if self.packed.len() < longest {
            self.packed.resize(longest, 0);
        }
        let len = lz4_flex::block::compress_into(raw, &mut self.packed)
            .expect("the buffer has the length that the codec asked for");
        if len < raw.len() {
            return (Bytes::copy_from_slice(&self.packed[..len]), true);
        }
        let stored = match pieces {
            [one] => one.clone(),
            _ => Bytes::copy_from_slice(raw),
        };
        (stored, false)
    }
}

/// Decompresses into a fresh buffer of exactly `raw_len` bytes, which the caller has bounded.
///
/// # Errors
///
/// `Invalid` when the block is malformed or gives more or fewer bytes than it claims.
pub fn decompress_exact(packed: &[u8], raw_len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut raw = vec![0; raw_len];
    match lz4_flex::block::decompress_into(packed, &mut raw) {
        Ok(len) if len == raw_len => Ok(raw),
        Ok(_) => Err(DecodeError::Invalid {
            what: WHAT,
            rule: "decompresses to fewer bytes than it claims",
        }),
        Err(_) => Err(DecodeError::Invalid {
            what: WHAT,
            rule: "is no LZ4 block of the length that it claims",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_payload_left_in_the_scratch_is_in_none_that_follows() {
        let mut scratch = PackScratch::default();
        let plain = |len: usize, byte| Bytes::from(vec![byte; len]);
        // Every byte value in an order that repeats nothing LZ4 could use.
        let mut state = 1_u32;
        let mut noise = |len: usize| -> Bytes {
            let step = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            };
            (0..len).map(step).collect()
        };
        let payloads = [
            vec![plain(1 << 20, 7)],
            vec![noise(4_096), noise(512)],
            vec![noise(8_192)],
            vec![plain(4_096, 1), noise(512), plain(4_096, 2)],
            vec![],
            vec![plain(512, 3), plain(512, 4)],
        ];
        for pieces in payloads {
            let raw = pieces.concat();
            let (stored, lz4) = scratch.pack(&pieces);
            let opened = if lz4 {
                assert!(stored.len() < raw.len());
                decompress_exact(&stored, raw.len()).expect("its own work")
            } else {
                stored.to_vec()
            };
            assert_eq!(opened, raw);
            let fresh = PackScratch::default().pack(&pieces);
            assert_eq!(fresh, (stored, lz4), "as from new memory");
        }
    }
}
