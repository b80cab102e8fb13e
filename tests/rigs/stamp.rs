//! Blocks that say which write put them there.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `kill-tst` |
//! | 8 | 4 | number of the write, from 1 |
//! | 12 | 4 | index of the block on the disk |
//! | 16 | 4 | CRC-32 over the other 4,092 bytes |
//! | 20 | 4,076 | filling |
//!
//! Numbers are little-endian. This knows nothing of the system under test.

/// Unit: bytes.
pub const BLOCK_LEN: usize = 4096;

const MAGIC: [u8; 8] = *b"kill-tst";
const CRC_AT: usize = 16;
const HEAD_LEN: usize = 20;

/// What a block of an image shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    /// Zeroes: never written.
    Nothing,
    /// Put there by this write, whole.
    Write(u32),
    /// What no write put there.
    Foreign,
}

/// The payload of write `number` to `count` blocks from `first` on. One in four is noise, which no
/// compression makes smaller; the rest is text.
pub fn payload(number: u32, first: u32, count: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(count as usize * BLOCK_LEN);
    let is_noise = number.is_multiple_of(4);
    let mut noise = u64::from(number) << 32 | 1;
    for block in first..first + count {
        let begin = payload.len();
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&number.to_le_bytes());
        payload.extend_from_slice(&block.to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        if is_noise {
            // Xorshift (Marsaglia 2003), thirteen, seven, seventeen.
            while payload.len() < begin + BLOCK_LEN {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                payload.extend_from_slice(&noise.to_le_bytes());
            }
            payload.truncate(begin + BLOCK_LEN);
        } else {
            let line = format!("write {number:>10} put this into block {block:>10}; ");
            let filling = line.bytes().cycle().take(BLOCK_LEN - HEAD_LEN);
            payload.extend(filling);
        }
        let crc = crc_of(&payload[begin..]);
        payload[begin + CRC_AT..begin + HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
    }
    payload
}

/// What the block at `index` of an image shows; a short last block is foreign.
pub fn read_block(bytes: &[u8], index: u32) -> Shown {
    if bytes.iter().all(|byte| *byte == 0) {
        return Shown::Nothing;
    }
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(word))
    };
    match (word(8), word(12), word(CRC_AT)) {
        (Some(number), Some(block), Some(crc))
            if bytes.len() == BLOCK_LEN
                && bytes.starts_with(&MAGIC)
                && block == index
                && 0 < number
                && crc == crc_of(bytes) =>
        {
            Shown::Write(number)
        }
        _ => Shown::Foreign,
    }
}

/// Over everything but the place of the checksum itself.
fn crc_of(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..CRC_AT]);
    hasher.update(&block[HEAD_LEN..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_a_write_names_it_and_its_place() {
        for number in [1, 3, 4, u32::MAX] {
            let payload = payload(number, 100, 3);
            assert_eq!(payload.len(), 3 * BLOCK_LEN);
            for (index, block) in (100..).zip(payload.chunks(BLOCK_LEN)) {
                assert_eq!(read_block(block, index), Shown::Write(number));
                assert_eq!(read_block(block, index + 1), Shown::Foreign);
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_foreign() {
        let payload = payload(9, 5, 1);
        for bit in 0..BLOCK_LEN * 8 {
            let mut block = payload.clone();
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_block(&block, 5), Shown::Foreign, "bit {bit}");
        }
    }

    #[test]
    fn zeroes_show_nothing_and_half_a_block_is_foreign() {
        assert_eq!(read_block(&[0; BLOCK_LEN], 0), Shown::Nothing);
        assert_eq!(read_block(&payload(1, 0, 1)[..512], 0), Shown::Foreign);
        assert_eq!(read_block(&[1], 0), Shown::Foreign);
    }
}
