//! What the load does next: a mix of requests as a busy disk sees them.
//!
//! | share | request | sizes |
//! |---|---|---|
//! | 84 % | write, one in 30 with FUA | 512 B to 1 MiB, mostly 4 and 8 KiB |
//! | 4 % | write zeroes, one in 30 with FUA | 4 KiB to 1 MiB |
//! | 3 % | discard | 4 KiB to 1 MiB |
//! | 2 % | flush | |
//! | 7 % | read, compared with what was written | as writes |
//!
//! Half of the requests fall on a sixteenth of the disk, so that much is written over and over; one write in
//! four is not aligned to its own size, but to sectors.

use everpoint_units::{ByteLen, Extent, Lba, SECTOR_LEN};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Longest request. Unit: bytes.
pub(crate) const REQUEST_LEN_MAX: u64 = 1 << 20;

/// One request in how many demands to be durable when it is answered.
const FUA_ONE_IN: u32 = 30;
/// One payload in how many is noise that no compression makes smaller.
const NOISE_ONE_IN: u32 = 4;

/// A request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Request {
    /// Data; incompressible where `noisy`.
    Write {
        extent: Extent,
        noisy: bool,
        fua: bool,
    },
    /// Zeroes.
    Zero { extent: Extent, fua: bool },
    /// The bytes are not needed.
    Discard { extent: Extent },
    /// Bytes to compare.
    Read { extent: Extent },
    /// Everything that was answered becomes durable.
    Flush,
}

/// Draws requests, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Mix {
    random: StdRng,
    sectors: u64,
}

impl Mix {
    /// Requests for a disk of this size.
    ///
    /// # Panics
    ///
    /// If the disk is not larger than one request.
    pub(crate) fn new(seed: u64, size: ByteLen) -> Self {
        assert!(REQUEST_LEN_MAX < size.0, "the disk has room for a request");
        Self {
            random: StdRng::seed_from_u64(seed),
            sectors: size.0 / SECTOR_LEN,
        }
    }

    /// The next request.
    pub(crate) fn draw(&mut self) -> Request {
        let fua = self.random.random_ratio(1, FUA_ONE_IN);
        match self.random.random_range(0..100) {
            0..84 => {
                let sectors = self.write_sectors();
                Request::Write {
                    extent: self.place(sectors),
                    noisy: self.random.random_ratio(1, NOISE_ONE_IN),
                    fua,
                }
            }
            84..88 => Request::Zero {
                extent: self.wide(),
                fua,
            },
            88..91 => Request::Discard {
                extent: self.wide(),
            },
            91..93 => Request::Flush,
            _ => {
                let sectors = self.write_sectors();
                Request::Read {
                    extent: self.place(sectors),
                }
            }
        }
    }

    /// Length of a write or a read. Unit: sectors.
    fn write_sectors(&mut self) -> u64 {
        match self.random.random_range(0..100) {
            0..5 => 1,
            5..8 => 2,
            8..48 => 8,
            48..70 => 16,
            70..80 => 32,
            80..90 => 128,
            90..93 => 512,
            93..94 => REQUEST_LEN_MAX / SECTOR_LEN,
            _ => self.random.random_range(1..64),
        }
    }

    /// An extent of 4 KiB times a power of two.
    fn wide(&mut self) -> Extent {
        let sectors = 8 << self.random.random_range(0..=8);
        self.place(sectors)
    }

    fn place(&mut self, sectors: u64) -> Extent {
        let room = self.sectors - sectors;
        let hot = (self.sectors / 16).clamp(1, room);
        let limit = if self.random.random() { hot } else { room };
        let start = self.random.random_range(0..=limit);
        let aligned = start - start % sectors.next_power_of_two();
        let start = if self.random.random_ratio(1, 4) {
            start
        } else {
            aligned
        };
        let lba = |sector| Lba::new(sector).expect("inside the disk");
        Extent::between(lba(start), lba(start + sectors)).expect("not empty, and short")
    }
}

impl Request {
    /// What it touches; `None` for a flush.
    pub(crate) const fn extent(&self) -> Option<Extent> {
        match self {
            Self::Write { extent, .. }
            | Self::Zero { extent, .. }
            | Self::Discard { extent }
            | Self::Read { extent } => Some(*extent),
            Self::Flush => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ByteLen = ByteLen(16 << 20);

    fn drawn() -> Vec<Request> {
        let mut mix = Mix::new(7, SIZE);
        (0..20_000).map(|_| mix.draw()).collect()
    }

    #[test]
    fn every_request_lies_on_the_disk() {
        let extents: Vec<_> = drawn().iter().filter_map(Request::extent).collect();
        assert!(extents.len() > 19_000);
        for extent in extents {
            assert!(extent.end().byte_offset().0 <= SIZE.0, "{extent}");
            assert!(extent.byte_len().0 <= REQUEST_LEN_MAX, "{extent}");
        }
    }

    #[test]
    fn every_kind_of_request_and_the_smallest_and_largest_size_occur() {
        let drawn = drawn();
        let count = |is: fn(&Request) -> bool| drawn.iter().filter(|request| is(request)).count();
        assert!(count(|r| matches!(r, Request::Write { fua: true, .. })) > 300);
        assert!(count(|r| matches!(r, Request::Write { noisy: true, .. })) > 3_000);
        assert!(count(|r| matches!(r, Request::Zero { .. })) > 500);
        assert!(count(|r| matches!(r, Request::Discard { .. })) > 400);
        assert!(count(|r| matches!(r, Request::Read { .. })) > 1_000);
        assert!(count(|r| matches!(r, Request::Flush)) > 200);
        let lens: Vec<u64> = drawn
            .iter()
            .filter_map(|request| Some(request.extent()?.byte_len().0))
            .collect();
        assert_eq!(lens.iter().min(), Some(&SECTOR_LEN));
        assert_eq!(lens.iter().max(), Some(&REQUEST_LEN_MAX));
    }

    #[test]
    fn the_same_seed_draws_the_same_requests() {
        assert_eq!(drawn(), drawn());
    }
}
