//! Fixed VHD footer: the last 512 bytes of a fixed VHD, big-endian.
//!
//! ```text
//! offset  size  field
//!      0     8  cookie          "conectix"
//!      8     4  features        2 (reserved, always set)
//!     12     4  file version    0x00010000
//!     16     8  data offset     all ones: fixed
//!     24     4  time stamp      seconds since 2000-01-01 UTC
//!     28     4  creator         "win ": see below
//!     32     4  creator version 0x00010000
//!     36     4  creator host    "Wi2k", as readers expect
//!     40     8  original size   bytes
//!     48     8  current size    bytes
//!     56     4  geometry        cylinders (2), heads (1), sectors a track (1)
//!     60     4  disk type       2: fixed
//!     64     4  checksum        one's complement of the sum of all other bytes
//!     68    16  unique id
//!     84     1  saved state     0
//!     85   427  reserved        0
//! ```
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0. The geometry cannot express
//! every size, so readers such as qemu take `current size` instead, but only from creators that they
//! know; hence Hyper-V's. Azure wants whole MiB.

use everpoint_units::{ByteLen, WallTime};

/// Length of the footer. Unit: bytes.
pub const FOOTER_LEN: usize = 512;
/// What a VHD's size is rounded up to, as Azure wants it. Unit: bytes.
pub const SIZE_STEP: u64 = 1 << 20;

const SECONDS_FROM_1970_TO_2000: u64 = 946_684_800;

/// The size of the VHD's disk: whole MiB.
pub fn padded_size(disk: ByteLen) -> ByteLen {
    ByteLen(disk.0.next_multiple_of(SIZE_STEP))
}

/// The footer of a fixed VHD whose disk has `size` bytes.
pub fn fixed_footer(size: ByteLen, unique_id: [u8; 16], created_at: WallTime) -> [u8; FOOTER_LEN] {
    let mut out = [0; FOOTER_LEN];
    let seconds = (created_at.0 / 1_000_000).saturating_sub(SECONDS_FROM_1970_TO_2000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    out[0..8].copy_from_slice(b"conectix");
    out[8..12].copy_from_slice(&2_u32.to_be_bytes());
    out[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    out[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
    out[24..28].copy_from_slice(&seconds.to_be_bytes());
    out[28..32].copy_from_slice(b"win ");
    out[32..36].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    out[36..40].copy_from_slice(b"Wi2k");
    out[40..48].copy_from_slice(&size.0.to_be_bytes());
    out[48..56].copy_from_slice(&size.0.to_be_bytes());
    out[56..60].copy_from_slice(&geometry(size));
    out[60..64].copy_from_slice(&2_u32.to_be_bytes());
    out[68..84].copy_from_slice(&unique_id);
    seal(&mut out);
    out
}

/// Makes the checksum that of the other bytes.
pub(crate) fn seal(footer: &mut [u8; FOOTER_LEN]) {
    footer[64..68].fill(0);
    let sum: u32 = footer.iter().map(|&byte| u32::from(byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
}

/// When the footer says that it was made: whole seconds, none before 2000.
pub(crate) fn created_at(footer: &[u8; FOOTER_LEN]) -> WallTime {
    let seconds = u32::from_be_bytes(*footer[24..].first_chunk().expect("four bytes"));
    WallTime((SECONDS_FROM_1970_TO_2000 + u64::from(seconds)) * 1_000_000)
}

/// Cylinders, heads and sectors a track. Source: the specification's appendix "CHS Calculation".
fn geometry(size: ByteLen) -> [u8; 4] {
    let total = (size.0 / 512).min(65_535 * 16 * 255);
    let (sectors, heads, cylinders_times_heads);
    if 65_535 * 16 * 63 <= total {
        (sectors, heads) = (255, 16);
        cylinders_times_heads = total / sectors;
    } else {
        let mut s = 17;
        let mut ch = total / s;
        let mut h = ch.div_ceil(1_024).max(4);
        if h * 1_024 <= ch || 16 < h {
            (s, h) = (31, 16);
            ch = total / s;
        }
        if h * 1_024 <= ch {
            (s, h) = (63, 16);
            ch = total / s;
        }
        (sectors, heads, cylinders_times_heads) = (s, h, ch);
    }
    let cylinders = u16::try_from(cylinders_times_heads / heads).unwrap_or(u16::MAX);
    let [high, low] = cylinders.to_be_bytes();
    let byte = |value: u64| u8::try_from(value).expect("at most 255 by the rule above");
    [high, low, byte(heads), byte(sectors)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::golden;

    #[test]
    fn golden_footer_of_a_1_gib_disk() {
        let footer = fixed_footer(ByteLen(1 << 30), [7; 16], WallTime(1_767_225_600_000_000));
        golden("vhd-footer.bin", &footer);
    }

    #[test]
    fn the_checksum_makes_all_bytes_sum_to_what_the_specification_says() {
        let footer = fixed_footer(ByteLen(5 << 20), [9; 16], WallTime(0));
        let stored = u32::from_be_bytes(*footer[64..].first_chunk().expect("four bytes"));
        let others = footer[..64].iter().chain(&footer[68..]);
        let sum: u32 = others.map(|&byte| u32::from(byte)).sum();
        assert_eq!(stored, !sum);
    }

    #[test]
    fn sizes_are_rounded_up_to_whole_mib() {
        assert_eq!(padded_size(ByteLen(1)), ByteLen(1 << 20));
        assert_eq!(padded_size(ByteLen(3 << 20)), ByteLen(3 << 20));
    }
}
