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

/// The map of a disk with these changes, one `Seq` each.
fn map_of(changes: Vec<Change>) -> ExtentMap {
    let records: Vec<_> = (1..).zip(changes).map(|(seq, c)| record(seq, c)).collect();
    let block = Stream::new(1).block(1_000, records);
    let mut map = ExtentMap::new(Seq(1_000));
    map.fold(&sections(&[block])[0], 0, 0);
    map
}

#[test]
fn the_map_counts_its_runs_and_their_sectors() {
    assert_eq!(map_of(Vec::new()).run_count(), 0);
    let map = map_of(vec![
        Change::Data(extent(0, 8)),
        Change::Zero(extent(2, 2)),
        Change::Data(extent(20, 5)),
    ]);
    assert_eq!((map.run_count(), map.data_sectors()), (3, 11));
}

#[test]
fn a_copy_on_nothing_begins_with_an_empty_disk_and_one_on_a_position_does_not() {
    let before = || Change::Data(extent(0, 8));
    let after = || Change::Data(extent(40, 4));
    let base = Some(Stream::new(1).tail);
    for (base, sectors) in [(None, 4), (base, 12)] {
        let map = map_of(vec![before(), Change::ResyncBegin { base }, after()]);
        assert_eq!(map.data_sectors(), sectors, "{base:?}");
    }
}

#[test]
fn a_disk_that_begins_smaller_or_shrinks_keeps_nothing_beyond_its_end() {
    let begin = Change::DiskBegin {
        sectors: 10,
        block_size: 512,
        name: "disk".into(),
    };
    for shrink in [begin, Change::Resize { sectors: 10 }] {
        let grow = Change::Resize { sectors: 90 };
        let map = map_of(vec![Change::Data(extent(4, 30)), shrink, grow]);
        let runs: Vec<_> = map.runs().map(|run| run.extent).collect();
        assert_eq!(runs, [extent(4, 6)]);
    }
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
