//! Which part of a disk a resync does what with. Pure.

use bytes::Bytes;
use everpoint_capture::is_zero;
use everpoint_format::Change;
use everpoint_format::digest::PIECE_SECTORS;
use everpoint_units::{Extent, Lba, SECTOR_LEN};

use super::{OwnChange, Run};

/// A part of the disk, whole pieces but for the end of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Segment {
    /// Nothing is allocated.
    Hole(Extent),
    /// Something may be.
    Data(Extent),
}

/// An extent inside a disk.
///
/// # Panics
///
/// If it would be empty.
pub(super) fn extent(start: u64, end: u64) -> Extent {
    let lba = |sector| Lba::new(sector).expect("inside a disk");
    Extent::between(lba(start), lba(end)).expect("a part of a disk is not empty")
}

/// Cuts `window`, which begins with a piece, by what was said about its allocation. A hole shrinks to
/// the pieces that it covers whole. Returns where the next window begins too: what was said may end
/// early.
pub(super) fn segments(window: Extent, runs: &[Run]) -> (Vec<Segment>, u64) {
    let (start, window_end) = (window.start().sector(), window.end().sector());
    let told = runs
        .last()
        .map_or(window_end, |run| run.extent.end().sector());
    // Never stand still, and begin the next window with a piece.
    let reached = if told < window_end {
        let whole = told / PIECE_SECTORS * PIECE_SECTORS;
        whole.max(start + PIECE_SECTORS).min(window_end)
    } else {
        window_end
    };
    let mut list = Vec::new();
    let mut at = start;
    for run in runs.iter().filter(|run| run.hole) {
        let from = run
            .extent
            .start()
            .sector()
            .next_multiple_of(PIECE_SECTORS)
            .max(at);
        let to = match run.extent.end().sector() {
            end if window_end <= end => window_end,
            end => end / PIECE_SECTORS * PIECE_SECTORS,
        };
        let to = to.min(reached);
        if from < to {
            if at < from {
                list.push(Segment::Data(extent(at, from)));
            }
            list.push(Segment::Hole(extent(from, to)));
            at = to;
        }
    }
    if at < reached {
        list.push(Segment::Data(extent(at, reached)));
    }
    (list, reached)
}

/// Cuts an extent at multiples of `sectors` of the disk.
pub(super) fn steps(whole: Extent, sectors: u64) -> impl Iterator<Item = Extent> {
    let (mut at, end) = (whole.start().sector(), whole.end().sector());
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let from = at;
            at = ((at / sectors + 1) * sectors).min(end);
            extent(from, at)
        })
    })
}

/// The number of the piece that an extent begins with.
pub(super) fn first_piece(extent: Extent) -> u64 {
    extent.start().sector() / PIECE_SECTORS
}

/// The runs of pieces that differ, or of which nothing was said.
pub(super) fn differing(whole: Extent, differs: &[u8]) -> Vec<Extent> {
    let first = first_piece(whole);
    let differs = |piece: u64| {
        let index = piece - first;
        let byte = usize::try_from(index / 8)
            .ok()
            .and_then(|at| differs.get(at));
        byte.is_none_or(|byte| byte >> (index % 8) & 1 == 1)
    };
    let mut runs: Vec<Extent> = Vec::new();
    for step in steps(whole, PIECE_SECTORS) {
        let part = step.sectors().get() < u32::try_from(PIECE_SECTORS).expect("eight");
        if part || differs(first_piece(step)) {
            match runs.last_mut() {
                Some(last) if last.end() == step.start() => {
                    *last = extent(last.start().sector(), step.end().sector());
                }
                _ => runs.push(step),
            }
        }
    }
    runs
}

/// What to queue for an extent that holds `bytes`: its runs of pieces, zeroes apart. Without
/// `with_zeroes` they are left out: nobody holds anything else there.
pub(super) fn changes(whole: Extent, bytes: &Bytes, with_zeroes: bool) -> Vec<OwnChange> {
    let mut runs: Vec<(bool, Extent)> = Vec::new();
    let (mut from, mut data) = (0, 0);
    for step in steps(whole, PIECE_SECTORS) {
        let len = byte_len(step);
        let zero = is_zero(&bytes[from..from + len]);
        data += if zero { 0 } else { len };
        from += len;
        match runs.last_mut() {
            Some((same, last)) if *same == zero => {
                *last = extent(last.start().sector(), step.end().sector());
            }
            _ => runs.push((zero, step)),
        }
    }
    // A slice keeps its whole buffer in memory, and only the slice is charged.
    let sparse = data < bytes.len() / 2;
    let piece = |run: Extent| {
        let from = byte_len_between(whole.start(), run.start());
        let slice = from..from + byte_len(run);
        if sparse {
            Bytes::copy_from_slice(&bytes[slice])
        } else {
            bytes.slice(slice)
        }
    };
    let queued = runs.into_iter().filter(|(zero, _)| with_zeroes || !zero);
    queued
        .map(|(zero, run)| match zero {
            true => (Change::Zero(run), None),
            false => (Change::Data(run), Some(piece(run))),
        })
        .collect()
}

fn byte_len(extent: Extent) -> usize {
    usize::try_from(extent.byte_len().0).expect("a part that was read fits in memory")
}

fn byte_len_between(from: Lba, to: Lba) -> usize {
    usize::try_from((to.sector() - from.sector()) * SECTOR_LEN).expect("inside a buffer")
}

#[cfg(test)]
mod tests {
    use everpoint_format::digest::PIECE_LEN;
    use proptest::prelude::*;

    use super::*;

    fn run(start: u64, end: u64, hole: bool) -> Run {
        Run {
            extent: extent(start, end),
            hole,
        }
    }

    #[test]
    fn a_hole_shrinks_to_whole_pieces_and_the_rest_is_data() {
        let runs = [run(0, 3, false), run(3, 45, true), run(45, 64, false)];
        let (list, reached) = segments(extent(0, 64), &runs);
        assert_eq!(
            list,
            [
                Segment::Data(extent(0, 8)),
                Segment::Hole(extent(8, 40)),
                Segment::Data(extent(40, 64)),
            ]
        );
        assert_eq!(reached, 64);
    }

    #[test]
    fn a_hole_at_the_end_of_a_disk_with_an_odd_end_is_a_hole_to_the_end() {
        let (list, _) = segments(extent(0, 21), &[run(0, 21, true)]);
        assert_eq!(list, [Segment::Hole(extent(0, 21))]);
    }

    #[test]
    fn what_was_told_in_part_goes_on_behind_it_and_never_stands_still() {
        let (list, reached) = segments(extent(0, 64), &[run(0, 19, true)]);
        assert_eq!((list, reached), (vec![Segment::Hole(extent(0, 16))], 16));
        let (list, reached) = segments(extent(0, 64), &[run(0, 3, true)]);
        assert_eq!((list, reached), (vec![Segment::Data(extent(0, 8))], 8));
    }

    #[test]
    fn pieces_of_which_nothing_is_said_differ() {
        let whole = extent(80, 80 + 10 * 8 + 3);
        let all_same = differing(whole, &[0, 0]);
        assert_eq!(
            all_same,
            [extent(160, 163)],
            "the part of a piece at the end"
        );
        let some = differing(whole, &[0b0000_0110]);
        assert_eq!(some, [extent(88, 104), extent(144, 163)]);
    }

    #[test]
    fn zeroes_are_left_out_of_a_first_copy_and_named_in_a_resync() {
        let mut bytes = vec![0; 4 * 4_096];
        bytes[4_096..8_192].fill(7);
        let bytes = Bytes::from(bytes);
        let first: Vec<_> = changes(extent(0, 32), &bytes, false);
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0, Change::Data(extent(8, 16)));
        let resync: Vec<_> = changes(extent(0, 32), &bytes, true);
        let kinds: Vec<_> = resync.into_iter().map(|(change, _)| change).collect();
        assert_eq!(
            kinds,
            [
                Change::Zero(extent(0, 8)),
                Change::Data(extent(8, 16)),
                Change::Zero(extent(16, 32)),
            ]
        );
    }

    #[test]
    fn a_buffer_that_is_queued_whole_is_not_copied_and_a_small_part_does_not_keep_it() {
        let whole = extent(0, 32);
        let full = Bytes::from(vec![7; 4 * PIECE_LEN]);
        let queued = changes(whole, &full, true);
        let piece = queued[0].1.as_ref().expect("data");
        assert_eq!(piece.as_ptr(), full.as_ptr());
        let mut sparse = vec![0; 4 * PIECE_LEN];
        sparse[0] = 7;
        let sparse = Bytes::from(sparse);
        let queued = changes(whole, &sparse, true);
        let piece = queued[0].1.as_ref().expect("data");
        assert_ne!(piece.as_ptr(), sparse.as_ptr());
    }

    proptest! {
        /// Whatever a source says of its allocation, every sector is in exactly one segment, and no
        /// hole is larger than what was said.
        #[test]
        fn segments_cover_what_was_told_once(
            cuts in prop::collection::vec((1..40_u64, any::<bool>()), 1..20),
            sectors in 8..500_u64,
        ) {
            let window = extent(0, sectors);
            let mut runs = Vec::new();
            let mut at = 0;
            for (len, hole) in cuts {
                let end = (at + len).min(sectors);
                if at < end {
                    runs.push(run(at, end, hole));
                }
                at = end;
            }
            let (list, reached) = segments(window, &runs);
            let mut at = 0;
            for segment in list {
                let (Segment::Hole(part) | Segment::Data(part)) = segment;
                prop_assert_eq!(part.start().sector(), at);
                at = part.end().sector();
                if matches!(segment, Segment::Hole(_)) {
                    let said = |sector| runs.iter().any(|run| {
                        run.hole && run.extent.start().sector() <= sector
                            && sector < run.extent.end().sector()
                    });
                    prop_assert!((part.start().sector()..at).all(said));
                }
            }
            prop_assert_eq!(at, reached);
            prop_assert!(0 < reached && reached <= sectors);
        }

        /// What is queued for an extent is what the extent holds.
        #[test]
        fn changes_say_what_the_bytes_are(
            fills in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 1..20),
            tail in 0..8_u64,
        ) {
            let mut bytes: Vec<u8> = fills.iter().flat_map(|&fill| vec![fill; PIECE_LEN]).collect();
            bytes.extend(vec![9; usize::try_from(tail * SECTOR_LEN).expect("small")]);
            let bytes = Bytes::from(bytes);
            let whole = extent(16, 16 + bytes.len() as u64 / SECTOR_LEN);
            let mut image = vec![0xee; bytes.len()];
            for (change, piece) in changes(whole, &bytes, true) {
                let part = change.extent().expect("data or zeroes");
                let from = byte_len_between(whole.start(), part.start());
                let target = &mut image[from..from + byte_len(part)];
                match piece {
                    Some(piece) => target.copy_from_slice(&piece),
                    None => target.fill(0),
                }
            }
            prop_assert_eq!(&image[..], &bytes[..]);
        }
    }
}
