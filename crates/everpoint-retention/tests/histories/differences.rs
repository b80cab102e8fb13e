//! Which extents differ between two points: with their bytes one becomes the other, and no more is named than was
//! written.

use everpoint_retention::{At, ChangedExtent, PointDiff, RestoreError, diff_points, load_machine};
use everpoint_units::{ByteLen, ByteOffset, DiskId, Seq};
use everpoint_vault::Vault;
use proptest::prelude::*;

use crate::oracle::{Event, event, play};
use crate::world::{ID, MACHINE, World, memory_vault};

async fn diff(vault: &Vault, disk: DiskId, from: u64, to: u64) -> Result<PointDiff, RestoreError> {
    let points = (&At::Seq(Seq(from)), &At::Seq(Seq(to)));
    diff_points(vault, disk, Some(MACHINE), points, &|_| ()).await
}

fn extent(sector: u64, sectors: u64, is_zero: bool) -> ChangedExtent {
    ChangedExtent {
        at: ByteOffset(sector * 512),
        len: ByteLen(sectors * 512),
        is_zero,
    }
}

#[tokio::test]
async fn what_was_written_zeroed_or_cut_off_is_named_and_nothing_else() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    world.write(0, 0, &[1; 512 * 8]);
    let before = world.write(0, 40, &[2; 512 * 8]);
    world.commit_all().await;
    world.write(0, 4, &[3; 512 * 2]);
    world.write(0, 6, &[4; 512 * 2]);
    world.zero(0, 44, 2, false);
    let middle = world.zero(0, 60, 2, true);
    world.commit_all().await;
    let after = world.resize(0, 42);
    world.commit_all().await;
    let disk = world.disks[0].id;

    let found = diff(&world.vault, disk, before, middle).await.unwrap();
    // Sectors that read as zeroes before and after are no change.
    assert_eq!(
        found.extents.unwrap(),
        [extent(4, 4, false), extent(44, 2, true)]
    );
    assert_eq!(
        (found.changed_bytes.0, found.zeroed_bytes.0),
        (3_072, 1_024)
    );
    assert_eq!(found.extent_count, 2);
    assert_eq!((found.from.seq, found.to.seq), (Seq(before), Seq(middle)));

    let back = diff(&world.vault, disk, middle, before).await.unwrap();
    assert_eq!(
        back.extents.unwrap(),
        [extent(4, 4, false), extent(44, 2, false)]
    );

    let cut = diff(&world.vault, disk, middle, after).await.unwrap();
    assert_eq!(
        cut.extents.unwrap(),
        [extent(42, 2, true), extent(46, 2, true)]
    );
    assert_eq!(
        (cut.from_size_bytes.0, cut.to_size_bytes.0),
        (64 * 512, 42 * 512)
    );

    let none = diff(&world.vault, disk, after, after).await.unwrap();
    assert_eq!((none.extent_count, none.changed_bytes), (0, ByteLen(0)));
}

#[tokio::test]
async fn what_is_no_point_is_refused() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    let inside = world.write_part(0, 0, &[1; 512], false);
    let end = world.write_part(0, 1, &[1; 512], true);
    world.commit_all().await;
    let disk = world.disks[0].id;
    let refused = diff(&world.vault, disk, inside, end).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Point(_)), "{refused}");
    let refused = diff(&world.vault, disk, end, end + 1_000)
        .await
        .unwrap_err();
    assert!(matches!(refused, RestoreError::Point(_)), "{refused}");
}

/// Lays the bytes that `to` has in the extents over `from`: how a copy is brought from one point to the other.
fn patched(found: &PointDiff, from: &[u8], to: &[u8]) -> Result<Vec<u8>, TestCaseError> {
    let mut image = from.to_vec();
    image.resize(to.len(), 0);
    for extent in found.extents.iter().flatten() {
        let start = usize::try_from(extent.at.0).expect("small");
        let end = start + usize::try_from(extent.len.0).expect("small");
        let (start, end) = (start.min(to.len()), end.min(to.len()));
        let bytes = &to[start..end];
        prop_assert!(!extent.is_zero || bytes.iter().all(|byte| *byte == 0));
        image[start..end].copy_from_slice(bytes);
    }
    Ok(image)
}

fn check(events: &[Event], picks: &[prop::sample::Index]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(memory_vault().await).await;
        play(&mut world, events).await;
        let loaded = load_machine(&world.vault, ID, MACHINE).await;
        let loaded = loaded.expect("the vault is sound");
        let last = usize::try_from(world.seq).expect("small");
        let mut seqs: Vec<_> = picks
            .iter()
            .map(|pick| pick.index(last) as u64 + 1)
            .collect();
        seqs.push(world.seq);
        let mut compared = 0;
        for disk in &world.disks {
            let points = seqs.iter().copied();
            let points = points.filter(|&seq| loaded.check_point(Some(disk.id), Seq(seq)).is_ok());
            let points: Vec<_> = points.collect();
            for &from in &points {
                for &to in &points {
                    let found = diff(&world.vault, disk.id, from, to).await;
                    let found = found.expect("both are points");
                    let (was, is) = (disk.bytes_at(from), disk.bytes_at(to));
                    prop_assert!(patched(&found, &was, &is)? == is, "{from} to {to}");
                    compared += 1;
                }
            }
        }
        prop_assert!(0 < compared, "the newest state is always a point");
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_the_bytes_of_its_extents_one_point_becomes_the_other(
        events in prop::collection::vec(event(), 1..100),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        check(&events, &picks)?;
    }
}
