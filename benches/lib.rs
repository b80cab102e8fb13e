//! What the benches share: payload that compresses like disk data, and blocks made of it; in modules,
//! the bare stages of the path of a write, what processes have used, and windows of writes to a replica.
//!
//! Real disk data comes from an image of this machine's `/usr` (`cargo xtask image`) where a bench
//! runs the whole product; the micro benches here use text-like bytes from a fixed seed, which LZ4
//! shrinks about as much (2.1), so that they run anywhere.

pub mod direct;
pub mod flags;
pub mod page_loads;
pub mod page_optimum;
pub mod quic;
pub mod stages;
pub mod usage;

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, FrozenBlock, PackedBlock};
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{DiskId, Extent, GenerationId, Lba, MachineId, Seq};

/// Bytes that LZ4 shrinks to about half: runs of words from a small dictionary among noise.
pub fn disk_like(len: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<[u8; 12]> = (0..512)
        .map(|_| {
            let [a, b] = [next().to_le_bytes(), next().to_le_bytes()];
            std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
        })
        .collect();
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        let draw = next();
        if draw % 100 < 62 {
            let index = usize::try_from(draw >> 32).expect("64-bit") % words.len();
            out.extend_from_slice(&words[index]);
        } else {
            out.extend_from_slice(&draw.to_le_bytes());
        }
    }
    out.truncate(len);
    Bytes::from(out)
}

/// Records of `len` bytes each that fill `raw`, one behind the other on the disk.
///
/// # Panics
///
/// If `len` is no whole number of sectors.
pub fn records(raw: &Bytes, len: u64) -> Vec<Record> {
    let sectors = len / 512;
    (0..raw.len() as u64 / len)
        .map(|index| {
            let lba = |at| Lba::new(at).expect("small");
            let extent = Extent::between(lba(index * sectors), lba((index + 1) * sectors));
            Record {
                seq: Seq(index + 1),
                ends_request: true,
                change: Change::Data(extent.expect("whole sectors")),
            }
        })
        .collect()
}

/// Numbers a packed block as the first of a generation.
pub fn freeze(packed: PackedBlock) -> FrozenBlock {
    packed.freeze(BlockPlace {
        machine: MachineId([1; 16]),
        disk: DiskId([2; 16]),
        after: DiskPosition::start_of(GenerationId([3; 16])),
        complete_through: Seq(1 << 20),
    })
}

/// One block of `raw` in records of `len` bytes.
pub fn block(raw: &Bytes, len: u64) -> FrozenBlock {
    freeze(PackedBlock::pack(
        records(raw, len),
        raw.clone(),
        Captured::default(),
    ))
}
