//! The sweep against a disk that is a plain array.

use everpoint_format::change::{Frame, FrameSeal};
use everpoint_format::layer::FrameHome;
use everpoint_format::layer::page::{DigestSeal, Version};
use everpoint_units::{ManifestNo, RetentionId};
use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 64;

/// Sectors that a change gave, all of its record or zeroes.
fn given(start: u64, end: u64, copy: u32, seq: u64, has_bytes: bool) -> Given {
    let pack = RetentionId {
        number: ManifestNo(1),
        random: [1; 16],
    };
    let bytes = has_bytes.then(|| GivenBytes {
        home: FrameHome::Pack(pack),
        frame_at: 0,
        frame: Frame {
            lz4: false,
            stored_len: 1 << 20,
            raw_len: 1 << 20,
            crc: 0,
            seal: FrameSeal::default(),
        },
        record_sectors: u32::try_from(end - start).expect("small"),
        lead: 0,
        raw_at: 1_024,
        seal: DigestSeal([0; 16]),
    });
    let seq = Seq(seq);
    let version = Version { copy, seq };
    Given {
        sectors: start..end,
        version,
        bytes,
    }
}

fn swept(through: u64, mut all: Vec<Given>, disk_sectors: u64) -> Vec<Found> {
    all.sort_by_key(|given| (given.sectors.start, given.version));
    let mut sweep = Sweep::new(Seq(through));
    all.into_iter().for_each(|given| sweep.push(given));
    sweep.finish();
    sweep.take(disk_sectors)
}

/// Sectors, `Seq` and lead of each.
fn told(found: &[Found]) -> Vec<(Sectors, u64, u32)> {
    let told = found.iter();
    told.map(|found| (found.sectors.clone(), found.seq.0, found.bytes.lead))
        .collect()
}

#[test]
fn a_record_is_told_once_and_cut_at_the_disks_end() {
    let all = vec![
        given(0, 16, 0, 5, true),
        // Hidden by what is newer, so that nothing is cut there.
        given(4, 8, 0, 3, true),
        given(8, 9, 0, 4, false),
    ];
    assert_eq!(told(&swept(9, all.clone(), SECTORS)), [(0..16, 5, 0)]);
    assert_eq!(told(&swept(9, all.clone(), 10)), [(0..10, 5, 0)]);
    assert_eq!(told(&swept(4, all, SECTORS)), [(4..8, 3, 0)]);
    assert_eq!(told(&swept(9, vec![given(20, 24, 0, 1, true)], 20)), []);
}

#[test]
fn parts_of_a_record_are_told_apart_where_another_lies_between() {
    let all = vec![given(0, 8, 0, 1, true), given(2, 4, 0, 2, true)];
    let expected = [(0..2, 1, 0), (2..4, 2, 0), (4..8, 1, 4)];
    assert_eq!(told(&swept(9, all, SECTORS)), expected);
    // One that has the same `Seq` in another copy is another.
    let all = vec![given(0, 8, 0, 1, true), given(8, 16, 1, 1, true)];
    let expected = [(0..8, 1, 0), (8..16, 1, 0)];
    assert_eq!(told(&swept(9, all, SECTORS)), expected);
}

#[test]
fn what_is_hidden_for_good_is_not_held() {
    let mut sweep = Sweep::new(Seq(1_000));
    sweep.push(given(0, u64::from(u32::MAX), 1, 900, false));
    for at in 1..500 {
        sweep.push(given(at, at + 8, 0, at, true));
        assert_eq!(sweep.open.len(), 1);
    }
    // One that reaches further is seen again behind it.
    sweep.push(given(600, u64::from(u32::MAX) + 8, 0, 1, false));
    assert_eq!(sweep.open.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_sector_has_the_highest_version_that_counts(
        changes in prop::collection::vec((0..SECTORS, 1..20_u64, 0..3_u32, any::<bool>()), 0..24),
        through in 0..30_u64,
        end in 1..SECTORS + 20,
    ) {
        let all = (1..).zip(changes);
        let all = all.map(|(seq, (start, len, copy, has_bytes))| {
            given(start, start + len, copy, seq, has_bytes)
        });
        let all: Vec<_> = all.collect();
        let found = swept(through, all.clone(), end);
        let mut disk = vec![None; 100];
        for found in &found {
            prop_assert!(found.sectors.start < found.sectors.end && found.sectors.end <= end);
            for at in found.sectors.clone() {
                let lead = u64::from(found.bytes.lead) + at - found.sectors.start;
                let before = disk[usize::try_from(at).expect("small")].replace((found.seq, lead));
                prop_assert!(before.is_none(), "told twice: {}", at);
            }
        }
        for at in 0..100 {
            let over = all.iter().filter(|given| {
                at < end && given.version.seq.0 <= through && given.sectors.contains(&at)
            });
            let top = over.max_by_key(|given| given.version);
            let top = top.filter(|given| given.bytes.is_some());
            let expected = top.map(|given| (given.version.seq, at - given.sectors.start));
            prop_assert_eq!(disk[usize::try_from(at).expect("small")], expected, "sector {}", at);
        }
    }
}
