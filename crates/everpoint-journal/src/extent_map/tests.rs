//! The map against a disk that is a plain array.

use everpoint_format::record::Record;
use proptest::prelude::*;

use super::*;
use crate::sample::{Stream, extent, record, sections};

const SECTORS: usize = 96;

/// What a plain array says after the same records: for each sector the `Seq` that wrote it.
fn oracle(records: &[Record], through: u64) -> Vec<u64> {
    let mut disk = vec![0; SECTORS];
    for record in records.iter().filter(|record| record.seq.0 <= through) {
        let (range, value) = match record.change {
            Change::Data(at) => (at.start().sector()..at.end().sector(), record.seq.0),
            Change::Zero(at) | Change::Discard(at) => (at.start().sector()..at.end().sector(), 0),
            Change::Resize { sectors } => (sectors..SECTORS as u64, 0),
            _ => continue,
        };
        for sector in range {
            disk[usize::try_from(sector).expect("small")] = value;
        }
    }
    disk
}

fn change() -> impl Strategy<Value = Change> {
    let extents = (0..64_u64, 1..32_u32).prop_map(|(start, len)| extent(start, len));
    prop_oneof![
        6 => extents.clone().prop_map(Change::Data),
        2 => extents.clone().prop_map(Change::Zero),
        1 => extents.prop_map(Change::Discard),
        1 => (1..96_u64).prop_map(|sectors| Change::Resize { sectors }),
    ]
}

proptest! {
    #[test]
    fn the_map_gives_each_sector_to_the_record_that_wrote_it_last(
        changes in prop::collection::vec(change(), 1..60),
        cut in 0..70_u64,
        blocks in 1..5_usize,
    ) {
        let records: Vec<_> = (1..).zip(changes).map(|(seq, c)| record(seq, c)).collect();
        let mut stream = Stream::new(1);
        let blocks: Vec<_> = records
            .chunks(records.len().div_ceil(blocks))
            .map(|part| stream.block(part.last().expect("not empty").seq.0, part.to_vec()))
            .collect();
        let sections = sections(&blocks);
        let mut map = ExtentMap::new(Seq(cut));
        map.fold(&sections[0], 0, 0);

        let mut disk = vec![0; SECTORS];
        let mut last_end = 0;
        for run in map.runs() {
            let (start, end) = (run.extent.start().sector(), run.extent.end().sector());
            prop_assert!(last_end <= start, "runs overlap");
            last_end = end;
            let entry = &sections[0].blocks[run.source.block as usize];
            let source = &entry.records[run.source.record as usize];
            let whole = source.change.extent().expect("data");
            prop_assert_eq!(whole.start().sector() + run.skip, start);
            prop_assert!(end <= whole.end().sector());
            for sector in start..end {
                disk[usize::try_from(sector).expect("small")] = source.seq.0;
            }
        }
        prop_assert_eq!(disk, oracle(&records, cut));
    }
}
