//! What a window of writes needs of a replica: loads from a seed, of which page plans are made.
//!
//! | load | disk | writes |
//! |---|---|---|
//! | `small` | 512 MiB | 8 KiB, anywhere |
//! | `mixed` | 8 GiB | by count 40 % of 4 KiB, 30 % of 8, 10 % of 16, 15 % of 64 and 5 % of 1 MiB; 90 % of them in the first 5 % of the disk; 5 % are zeroes; 10 % change nothing |
//!
//! Both write 20 MB a second, at multiples of 4 KiB. What changes nothing is found by its digest before a plan is made,
//! so it is written and not needed. A window is what is gathered before requests are made.

use everpoint_reduction::{Need, RunMap};
use everpoint_units::{Extent, Lba, SECTOR_LEN};

/// All writes begin and end at multiples of it. Unit: bytes.
pub const PIECE_LEN: u64 = 4 << 10;
const BYTES_PER_S: u64 = 20_000_000;
const MIB: u64 = 1 << 20;

/// What one window wrote.
#[derive(Clone, Debug)]
pub struct Window {
    pub writes: Vec<(Extent, Need)>,
    /// Unit: bytes.
    pub written: u64,
    /// Unit: bytes.
    pub disk_len: u64,
}

/// Numbers from a seed. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64).
struct Random(u64);

impl Window {
    /// What it needs, later writes over earlier ones.
    pub fn needs(&self) -> RunMap<Need> {
        let mut needs = RunMap::new();
        for (extent, need) in &self.writes {
            needs.insert_joined(*extent, *need);
        }
        needs
    }

    /// All of the disk, as something that is at hand.
    pub fn all_known(&self) -> RunMap<()> {
        let mut known = RunMap::new();
        known.insert(extent(0, self.disk_len), ());
        known
    }
}

/// A window of `small`.
pub fn small(seed: u64, seconds: u64) -> Window {
    const LEN: u64 = 8 << 10;
    const DISK_LEN: u64 = 512 * MIB;
    let mut random = Random(seed);
    gather(DISK_LEN, seconds, || {
        let at = random.below(DISK_LEN / LEN) * LEN;
        (at, LEN, Some(Need::Data))
    })
}

/// A window of `mixed`.
pub fn mixed(seed: u64, seconds: u64) -> Window {
    const DISK_LEN: u64 = 8_192 * MIB;
    const HOT_LEN: u64 = DISK_LEN / 20 / PIECE_LEN * PIECE_LEN;
    let mut random = Random(seed);
    gather(DISK_LEN, seconds, || {
        let len = match random.below(100) {
            0..40 => 4 << 10,
            40..70 => 8 << 10,
            70..80 => 16 << 10,
            80..95 => 64 << 10,
            _ => MIB,
        };
        let within = if random.below(10) < 9 {
            HOT_LEN
        } else {
            DISK_LEN
        };
        let at = random.below((within - len) / PIECE_LEN + 1) * PIECE_LEN;
        let need = match random.below(100) {
            0..5 => Some(Need::Zero),
            5..15 => None,
            _ => Some(Need::Data),
        };
        (at, len, need)
    })
}

/// Writes until so many seconds' bytes are written: where, how long, and what they need, if they change anything.
fn gather(
    disk_len: u64,
    seconds: u64,
    mut write: impl FnMut() -> (u64, u64, Option<Need>),
) -> Window {
    let mut window = Window {
        writes: Vec::new(),
        written: 0,
        disk_len,
    };
    while window.written < seconds * BYTES_PER_S {
        let (at, len, need) = write();
        window.written += len;
        if let Some(need) = need {
            window.writes.push((extent(at, at + len), need));
        }
    }
    window
}

fn extent(start: u64, end: u64) -> Extent {
    let sector = |at: u64| Lba::new(at / SECTOR_LEN).expect("on the disk");
    Extent::between(sector(start), sector(end)).expect("not empty")
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; the bias is far below what a figure shows.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_window_and_another_gives_another() {
        let [one, same, other] = [1, 1, 2].map(|seed| mixed(seed, 1));
        assert_eq!(one.writes, same.writes);
        assert_ne!(one.writes, other.writes);
    }

    #[test]
    fn mixed_is_mixed_as_it_says() {
        let window = mixed(3, 600);
        let count = |wanted: &dyn Fn(&(Extent, Need)) -> bool| {
            let found = window.writes.iter().filter(|write| wanted(write)).count();
            found * 1_000 / window.writes.len()
        };
        let long = count(&|(extent, _)| extent.byte_len().0 == MIB);
        let zero = count(&|(_, need)| *need == Need::Zero);
        let hot = count(&|(extent, _)| extent.end().sector() * SECTOR_LEN <= window.disk_len / 20);
        assert!((45..=55).contains(&long), "{long}");
        assert!(
            (50..=60).contains(&zero),
            "{zero}: 5 of the 90 that change something"
        );
        assert!(
            (895..=915).contains(&hot),
            "{hot}: 90 %, and 5 % of the rest"
        );
    }
}
