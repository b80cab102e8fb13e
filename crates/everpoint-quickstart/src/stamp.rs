//! What the load writes: every sector says which write put it there, so that a restored image can be
//! read back as a set of writes.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `evpoint` and a NUL |
//! | 8 | 8 | number of the write, from 1 |
//! | 16 | 8 | index of the sector |
//! | 24 | 4 | zero |
//! | 28 | 4 | CRC-32 over the other 508 bytes |
//! | 32 | 480 | filling: half text, half noise, much as on a disk |
//!
//! Numbers are little-endian. A sector is the smallest thing that a guest can write, so a stamp in each
//! of them sees more than one in each 4 KiB block would.

use everpoint_units::{Extent, Lba, SECTOR_LEN};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use crate::history::WriteNo;

/// One sector, as bytes. Unit: bytes.
pub(crate) const SECTOR: usize = 512;
const _: () = assert!(SECTOR as u64 == SECTOR_LEN, "the two are one length");

const MAGIC: [u8; 8] = *b"evpoint\0";
const HEAD_LEN: usize = 32;
const CRC_AT: usize = 28;
/// Length of each pool that fillings are cut from. More than LZ4's window, so that a repetition of a
/// cut is not what makes the data small. Unit: bytes.
const POOL_LEN: usize = 1 << 20;

/// What a sector of an image holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sector {
    /// Zeroes: never written, zeroed or discarded.
    Zero,
    /// Put there by this write, whole.
    Stamped(WriteNo),
    /// Nothing that the load ever wrote at this place.
    Foreign,
}

/// Makes the bytes of writes.
#[derive(Debug)]
pub(crate) struct Filling {
    text: Vec<u8>,
    noise: Vec<u8>,
}

impl Filling {
    /// Pools of text and noise, the same for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut noise = vec![0; POOL_LEN];
        random.fill_bytes(&mut noise);
        let mut text = Vec::with_capacity(POOL_LEN + 32);
        while text.len() < POOL_LEN {
            let word = WORDS[random.random_range(0..WORDS.len())];
            text.extend_from_slice(word.as_bytes());
            text.push(if random.random_ratio(1, 12) {
                b'\n'
            } else {
                b' '
            });
        }
        Self { text, noise }
    }

    /// The bytes of one write: stamped sectors, filled with text or, if `noisy`, with noise.
    pub(crate) fn payload(&self, write: WriteNo, extent: Extent, noisy: bool) -> Vec<u8> {
        let pool = if noisy { &self.noise } else { &self.text };
        let sectors = extent.sectors().get() as usize;
        let mut payload = Vec::with_capacity(sectors * SECTOR);
        // A stride that is prime to the pool's length: neighbours do not hold the same filling.
        let start = write.index().wrapping_mul(7_919);
        for index in 0..sectors {
            let at = (start + index * (SECTOR - HEAD_LEN)) % (POOL_LEN - SECTOR);
            let lba = extent.start().sector() + index as u64;
            push_sector(&mut payload, write, lba, &pool[at..at + SECTOR - HEAD_LEN]);
        }
        payload
    }
}

fn push_sector(payload: &mut Vec<u8>, write: WriteNo, lba: u64, filling: &[u8]) {
    let begin = payload.len();
    payload.extend_from_slice(&MAGIC);
    payload.extend_from_slice(&u64::from(write.0.get()).to_le_bytes());
    payload.extend_from_slice(&lba.to_le_bytes());
    payload.extend_from_slice(&[0; 8]);
    payload.extend_from_slice(filling);
    let crc = crc_of(&payload[begin..]);
    payload[begin + CRC_AT..begin + HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Over everything but the place of the checksum itself.
fn crc_of(sector: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sector[..CRC_AT]);
    hasher.update(&sector[HEAD_LEN..]);
    hasher.finalize()
}

/// Reads one sector.
///
/// # Panics
///
/// If `bytes` is not one sector long.
pub(crate) fn read_sector(bytes: &[u8], lba: Lba) -> Sector {
    let sector: &[u8; SECTOR] = bytes.try_into().expect("callers cut images into sectors");
    if sector[..8] != MAGIC {
        return if is_zero(sector) {
            Sector::Zero
        } else {
            Sector::Foreign
        };
    }
    let word = |at: usize| {
        let word = sector[at..at + 8].try_into();
        u64::from_le_bytes(word.expect("eight bytes inside a sector"))
    };
    let crc = u32::from_le_bytes(sector[CRC_AT..HEAD_LEN].try_into().expect("four bytes"));
    let write = u32::try_from(word(8)).ok().and_then(WriteNo::new);
    match write {
        Some(write) if word(16) == lba.sector() && crc == crc_of(sector) => Sector::Stamped(write),
        _ => Sector::Foreign,
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared in words, which is many times faster than byte by byte.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|&byte| byte == 0)
}

const WORDS: [&str; 24] = [
    "accounts",
    "balance",
    "commit",
    "customer",
    "delivered",
    "epoch",
    "history",
    "index",
    "insert",
    "invoice",
    "journal",
    "ledger",
    "message",
    "number",
    "order",
    "page",
    "payment",
    "queue",
    "record",
    "select",
    "session",
    "stock",
    "update",
    "where",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn extent() -> Extent {
        Extent::between(Lba::new(100).expect("small"), Lba::new(108).expect("small"))
            .expect("not empty")
    }

    fn write(number: u32) -> WriteNo {
        WriteNo::new(number).expect("from 1")
    }

    fn sectors(payload: &[u8]) -> Vec<Sector> {
        let sectors = (100_u64..).zip(payload.chunks_exact(SECTOR));
        sectors
            .map(|(lba, bytes)| read_sector(bytes, Lba::new(lba).expect("small")))
            .collect()
    }

    #[test]
    fn every_sector_of_a_write_names_it() {
        for noisy in [false, true] {
            let payload = Filling::new(1).payload(write(77), extent(), noisy);
            assert_eq!(sectors(&payload), vec![Sector::Stamped(write(77)); 8]);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_foreign() {
        let payload = Filling::new(1).payload(write(77), extent(), false);
        for bit in 0..SECTOR * 8 {
            let mut sector = payload[..SECTOR].to_vec();
            sector[bit / 8] ^= 1 << (bit % 8);
            let lba = Lba::new(100).expect("small");
            assert_eq!(read_sector(&sector, lba), Sector::Foreign, "bit {bit}");
        }
    }

    #[test]
    fn a_sector_in_the_wrong_place_is_foreign() {
        let payload = Filling::new(1).payload(write(77), extent(), false);
        let lba = Lba::new(101).expect("small");
        assert_eq!(read_sector(&payload[..SECTOR], lba), Sector::Foreign);
    }

    #[test]
    fn zeroes_are_seen_as_such_and_one_set_bit_is_not() {
        assert_eq!(read_sector(&[0; SECTOR], Lba::ZERO), Sector::Zero);
        for at in 0..SECTOR {
            let mut sector = [0; SECTOR];
            sector[at] = 1;
            assert_eq!(
                read_sector(&sector, Lba::ZERO),
                Sector::Foreign,
                "byte {at}"
            );
        }
    }

    #[test]
    fn text_compresses_and_noise_does_not() {
        let distinct = |bytes: &[u8]| {
            let mut seen = [false; 256];
            bytes
                .iter()
                .for_each(|&byte| seen[usize::from(byte)] = true);
            seen.iter().filter(|seen| **seen).count()
        };
        let filling = Filling::new(1);
        assert!(distinct(&filling.text) < 32);
        assert_eq!(distinct(&filling.noise), 256);
    }
}
