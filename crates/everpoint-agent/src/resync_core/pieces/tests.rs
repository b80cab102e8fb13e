//! Which pieces are read, asked about and sent.

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
