//! The cheapest page plan there is, found the slow way: every place, every end, no short cuts.
//!
//! It works on pieces, not sectors: where all needs and the limit of a put are whole pieces, so are the requests of some
//! cheapest plan, since each begins at the first thing that is needed and not covered.

use everpoint_reduction::{Costs, Need, PageOp, RunMap, Source};
use everpoint_units::SECTOR_LEN;

use crate::page_loads::PIECE_LEN;

const PIECE_SECTORS: u64 = PIECE_LEN / SECTOR_LEN;

/// What a plan asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bill {
    pub puts: u64,
    pub clears: u64,
    /// Of gaps that are not at hand: one for each put that has any.
    pub reads: u64,
    /// Of puts. Unit: bytes.
    pub bytes: u64,
}

/// The best from some place on.
#[derive(Clone, Copy, Debug, Default)]
struct Best {
    cost: u64,
    bill: Bill,
}

impl Bill {
    /// What a plan asks for.
    pub fn of(ops: &[PageOp]) -> Self {
        let mut bill = Self::default();
        for op in ops {
            match op {
                PageOp::Clear { .. } => bill.clears += 1,
                PageOp::Put { extent, parts } => {
                    let reads = parts.iter().any(|part| part.source == Source::Target);
                    bill.puts += 1;
                    bill.reads += u64::from(reads);
                    bill.bytes += extent.byte_len().0;
                }
            }
        }
        bill
    }

    /// All requests.
    pub const fn requests(&self) -> u64 {
        self.puts + self.clears + self.reads
    }

    /// Mean length of a put. Unit: bytes.
    pub const fn put_len_mean(&self) -> u64 {
        match self.puts {
            0 => 0,
            puts => self.bytes / puts,
        }
    }

    /// Unit: bytes that could be sent instead.
    pub const fn cost(&self, costs: &Costs) -> u64 {
        (self.puts + self.clears) * costs.request + self.reads * costs.read + self.bytes
    }
}

/// What the cheapest plan asks for, where all gaps are at hand or none is.
///
/// # Panics
///
/// If needs or the limit are not whole pieces.
pub fn cheapest(needs: &RunMap<Need>, gaps_are_at_hand: bool, costs: &Costs) -> Bill {
    assert!(costs.put_sectors_max.is_multiple_of(PIECE_SECTORS));
    let pieces = pieces(needs);
    let mut best = vec![Best::default(); pieces.len() + 1];
    for at in (0..pieces.len()).rev() {
        best[at] = match pieces[at] {
            None => best[at + 1],
            Some(_) => from(at, &pieces, &best, gaps_are_at_hand, costs),
        };
    }
    best[0].bill
}

/// What each piece needs.
fn pieces(needs: &RunMap<Need>) -> Vec<Option<Need>> {
    let mut pieces = Vec::new();
    for (extent, need) in needs.iter() {
        let ends = [extent.start().sector(), extent.end().sector()];
        let [start, end] = ends.map(|sector| {
            assert!(sector.is_multiple_of(PIECE_SECTORS), "whole pieces");
            usize::try_from(sector / PIECE_SECTORS).expect("fewer pieces than memory")
        });
        pieces.resize(start, None);
        pieces.resize(end, Some(need));
    }
    pieces
}

/// The best from a piece that is needed and not covered.
fn from(
    at: usize,
    pieces: &[Option<Need>],
    best: &[Best],
    gaps_are_at_hand: bool,
    costs: &Costs,
) -> Best {
    let longest = usize::try_from(costs.put_sectors_max / PIECE_SECTORS).expect("a put fits");
    let mut found = Best {
        cost: u64::MAX,
        ..Best::default()
    };
    let mut reads = 0;
    let (mut cost, mut len) = (costs.request, 0);
    for (piece, rest) in pieces[at..].iter().zip(&best[at + 1..]).take(longest) {
        if piece.is_none() && !gaps_are_at_hand && reads == 0 {
            reads = 1;
            cost += costs.read;
        }
        cost += PIECE_LEN;
        len += PIECE_LEN;
        if cost + rest.cost < found.cost {
            found = Best {
                cost: cost + rest.cost,
                bill: Bill {
                    puts: rest.bill.puts + 1,
                    reads: rest.bill.reads + reads,
                    bytes: rest.bill.bytes + len,
                    ..rest.bill
                },
            };
        }
    }
    for (piece, rest) in pieces[at..].iter().zip(&best[at + 1..]) {
        if *piece != Some(Need::Zero) {
            break;
        }
        if costs.request + rest.cost < found.cost {
            found = Best {
                cost: costs.request + rest.cost,
                bill: Bill {
                    clears: rest.bill.clears + 1,
                    ..rest.bill
                },
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use everpoint_reduction::plan;
    use everpoint_units::{Extent, Lba};

    use super::*;

    const COSTS: Costs = Costs {
        request: 5 * PIECE_LEN,
        read: 3 * PIECE_LEN,
        put_sectors_max: 8 * PIECE_SECTORS,
    };

    fn needs(runs: &[(u64, u64, Need)]) -> RunMap<Need> {
        let mut needs = RunMap::new();
        for (start, end, need) in runs {
            let lba = |piece: u64| Lba::new(piece * PIECE_SECTORS).unwrap();
            let extent = Extent::between(lba(*start), lba(*end)).unwrap();
            needs.insert_joined(extent, *need);
        }
        needs
    }

    #[test]
    fn the_cheapest_is_what_a_person_finds() {
        // Two runs with a gap of three: one put of five pieces, or two with a request more; a read makes it dearer.
        let near = needs(&[(2, 3, Need::Data), (6, 7, Need::Data)]);
        let one = Bill {
            puts: 1,
            bytes: 5 * PIECE_LEN,
            ..Bill::default()
        };
        assert_eq!(cheapest(&near, true, &COSTS), one);
        let two = Bill {
            puts: 2,
            bytes: 2 * PIECE_LEN,
            ..Bill::default()
        };
        assert_eq!(cheapest(&near, false, &COSTS), two);
        // Zeroes longer than a put may be: one clear.
        let zeroes = needs(&[(0, 30, Need::Zero)]);
        let clear = Bill {
            clears: 1,
            ..Bill::default()
        };
        assert_eq!(cheapest(&zeroes, true, &COSTS), clear);
        assert_eq!(cheapest(&RunMap::new(), true, &COSTS), Bill::default());
    }

    #[test]
    fn where_every_gap_counts_the_plan_is_the_cheapest() {
        let some = needs(&[
            (0, 2, Need::Data),
            (3, 9, Need::Data),
            (9, 12, Need::Zero),
            (14, 30, Need::Data),
            (31, 60, Need::Zero),
        ]);
        let planned = Bill::of(&plan(&some, &RunMap::<()>::new(), &COSTS));
        let best = cheapest(&some, false, &COSTS);
        assert_eq!(planned.cost(&COSTS), best.cost(&COSTS));
    }
}
