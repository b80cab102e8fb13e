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

proptest! {
    /// Never "equal" for a piece that differs; "equal" for each piece that was last written whole.
    #[test]
    fn no_piece_that_differs_is_called_equal(
        changes in prop::collection::vec(change(), 1..40),
        window in 0..6_u64,
    ) {
        let records: Vec<_> = (1..).zip(changes).map(|(seq, c)| record(seq, c)).collect();
        let mut disk = vec![0_u8; SECTORS * 512];
        let mut known = [true; PIECES];
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
                if range.start <= start && end <= range.end {
                    *known = true;
                } else if range.start < end && start < range.end {
                    *known = false;
                }
            }
            let bytes = |sector: u64| usize::try_from(sector).expect("small") * 512;
            disk[bytes(range.start)..bytes(range.end)].fill(fill.to_le_bytes()[0]);
        }

        let block = Stream::new(1).block(1_000, records);
        let mut map = DigestMap::new(KEY, window, PIECES);
        map.fold(&sections(&[block])[0]);
        prop_assert!(map.covers(window, PIECES) && !map.covers(window, PIECES + 1));
        for piece in window..PIECES as u64 {
            let at = usize::try_from(piece).expect("small");
            let bytes = &disk[at * PIECE_LEN..][..PIECE_LEN];
            let differs = map.differs(piece, PlainDigest::of(bytes));
            prop_assert!(!differs || !known[at], "piece {} is known and equal", piece);
            let other = vec![0xee; PIECE_LEN];
            prop_assert!(map.differs(piece, PlainDigest::of(&other)), "piece {}", piece);
        }
    }
}
