//! The digest map against the bytes of a plain disk.

use proptest::prelude::*;

use super::*;
use crate::sample::{KEY, Stream, extent, record, sections};

const PIECES: usize = 12;
const SECTORS: usize = PIECES * 8;

fn change() -> impl Strategy<Value = Change> {
    let extents = (0..80_u64, 1..17_u32).prop_map(|(start, len)| extent(start, len));
    let aligned = (0..10_u64, 1..3_u32).prop_map(|(start, len)| extent(start * 8, len * 8));
    prop_oneof![
        3 => extents.clone().prop_map(Change::Data),
        4 => aligned.clone().prop_map(Change::Data),
        1 => extents.prop_map(Change::Zero),
        2 => aligned.prop_map(Change::Discard),
        1 => (1..96_u64).prop_map(|sectors| Change::Resize { sectors }),
    ]
}

fn piece_of(disk: &[u8], piece: usize) -> &[u8] {
    &disk[piece * PIECE_LEN..][..PIECE_LEN]
}

/// The map of a disk of four pieces with these changes, one `Seq` each.
fn map_of(changes: Vec<Change>) -> DigestMap {
    let records: Vec<_> = (1..).zip(changes).map(|(seq, c)| record(seq, c)).collect();
    let block = Stream::new(1).block(1_000, records);
    let mut map = DigestMap::new(KEY, 0, 4);
    map.fold(&sections(&[block])[0]);
    map
}

#[test]
fn a_copy_on_nothing_begins_with_zeroes_and_one_on_a_position_with_what_was_there() {
    let written = PlainDigest::of(&[1; PIECE_LEN]);
    let zero = PlainDigest::of(&[0; PIECE_LEN]);
    let base = Some(Stream::new(1).tail);
    for (base, is_empty) in [(None, true), (base, false)] {
        let map = map_of(vec![
            Change::Data(extent(8, 8)),
            Change::ResyncBegin { base },
        ]);
        assert_eq!(map.differs(1, written), is_empty, "{base:?}");
        assert_eq!(map.differs(1, zero), !is_empty, "{base:?}");
    }
}

#[test]
fn a_window_covers_the_pieces_between_its_ends_and_no_others() {
    let map = DigestMap::new(KEY, 10, 4);
    for (first, count, covers) in [
        (10, 4, true),
        (11, 3, true),
        (13, 1, true),
        (9, 2, false),
        (11, 4, false),
        (14, 1, false),
        (u64::MAX, 2, false),
    ] {
        assert_eq!(map.covers(first, count), covers, "{count} from {first}");
    }
}

proptest! {
    /// Never "equal" for a piece that differs; "equal" for each piece that was last written whole.
    #[test]
    fn no_piece_that_differs_is_called_equal(
        changes in prop::collection::vec(change(), 1..40),
        window in 0..6_u64,
        count in 1..=PIECES,
    ) {
        let records: Vec<_> = (1..).zip(changes).map(|(seq, c)| record(seq, c)).collect();
        let mut disk = vec![0_u8; SECTORS * 512];
        let mut known = [true; PIECES];
        let mut past = vec![disk.clone()];
        for record in &records {
            let (range, fill) = match record.change {
                Change::Data(at) => (at.start().sector()..at.end().sector(), record.seq.0),
                Change::Resize { sectors } => (sectors..SECTORS as u64, 0),
                ref other => {
                    let at = other.extent().expect("zero or discard");
                    (at.start().sector()..at.end().sector(), 0)
                }
            };
            for (piece, known) in known.iter_mut().enumerate() {
                let (start, end) = (piece as u64 * 8, piece as u64 * 8 + 8);
                let is_zero = piece_of(&disk, piece).iter().all(|byte| *byte == 0);
                if range.start <= start && end <= range.end {
                    *known = true;
                } else if range.start < end && start < range.end {
                    *known &= fill == 0 && is_zero;
                }
            }
            let bytes = |sector: u64| usize::try_from(sector).expect("small") * 512;
            disk[bytes(range.start)..bytes(range.end)].fill(fill.to_le_bytes()[0]);
            past.push(disk.clone());
        }

        let block = Stream::new(1).block(1_000, records);
        let mut map = DigestMap::new(KEY, window, count);
        map.fold(&sections(&[block])[0]);
        for piece in window..(window + count as u64).min(PIECES as u64) {
            let at = usize::try_from(piece).expect("small");
            let bytes = piece_of(&disk, at);
            let differs = map.differs(piece, PlainDigest::of(bytes));
            prop_assert!(!differs || !known[at], "piece {} is known and equal", piece);
            for old in past.iter().map(|disk| piece_of(disk, at)) {
                let differs = map.differs(piece, PlainDigest::of(old));
                prop_assert!(differs || old == bytes, "piece {} is not as it was", piece);
            }
            let other = vec![0xee; PIECE_LEN];
            prop_assert!(map.differs(piece, PlainDigest::of(&other)), "piece {}", piece);
        }
    }
}
