//! Mounted points: they read as they restore, ask the vault for little, and never give a byte that is damaged.

use std::num::NonZeroU32;
use std::sync::Arc;

use everpoint_nbd::{Errno, Export as _, ZeroFlags};
use everpoint_retention::{
    At, DiskAt, ErrorKind, MountConfig, MountError, MountExport, MountedPoint, Overlay,
    OverlayPlace, load_machine, mount_point,
};
use everpoint_units::{ByteLen, ByteOffset, DiskId, Extent, Lba, Seq};
use everpoint_vault::{Vault, VaultConfig, faulty};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::images::{disk_at, scratch};
use crate::oracle::{Event, event, play};
use crate::world::{ID, Lie, MACHINE, World, file_vault, memory_vault};

/// The least memory that is allowed: two MiB for frames that are kept, and one fetch at a time.
fn tight() -> MountConfig {
    MountConfig {
        memory_max: ByteLen(4 << 20),
        fetch_count_max: 1,
        read_ahead_max: ByteLen(1 << 20),
    }
}

/// Nothing is read but what is asked for.
fn without_read_ahead() -> MountConfig {
    MountConfig {
        read_ahead_max: ByteLen(0),
        ..MountConfig::default()
    }
}

async fn mount(vault: &Vault, disk: DiskId, at: At, config: &MountConfig) -> MountedPoint {
    let what = DiskAt {
        disk,
        machine: Some(MACHINE),
        at,
    };
    let mounted = mount_point(vault, &what, config, &|_| ()).await;
    mounted.expect("the vault is sound")
}

async fn mount_seq(world: &World, disk: usize, seq: u64, config: &MountConfig) -> MountedPoint {
    mount(
        &world.vault,
        world.disks[disk].id,
        At::Seq(Seq(seq)),
        config,
    )
    .await
}

fn extent(start: u64, sectors: u32) -> Extent {
    let sectors = NonZeroU32::new(sectors).expect("not empty");
    Extent::new(Lba::new(start).expect("small"), sectors).expect("small")
}

/// Any extent of a disk of this size, no longer than a client asks for at once.
fn any_extent(random: &mut SmallRng, sectors: u64) -> Extent {
    let start = random.random_range(0..sectors);
    let longest = if random.random() { 16 } else { 4_096 };
    let count = random.random_range(1..=longest.min(sectors - start));
    extent(start, u32::try_from(count).expect("small"))
}

fn part(bytes: &[u8], extent: Extent) -> &[u8] {
    let at = |lba: Lba| usize::try_from(lba.byte_offset().0).expect("small");
    &bytes[at(extent.start())..at(extent.end())]
}

fn noise(seed: u64, sectors: usize) -> Vec<u8> {
    let mut bytes = vec![0; sectors * 512];
    SmallRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    bytes
}

/// A disk of 16 MiB in frames of one MiB, that do not compress.
async fn world_of_noise(vault: Vault) -> World {
    let mut world = World::new(vault).await;
    world.add_disk("a", 1 << 15);
    for mib in 0..16_u64 {
        world.write(0, mib * 2_048, &noise(mib, 2_048));
        world.close_block(0);
    }
    world.commit_all().await;
    world
}

fn on_threads<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// Every disk, at these points and the newest, reads as the oracle says wherever one looks.
async fn compare(world: &World, picks: &[prop::sample::Index]) -> Result<usize, TestCaseError> {
    let loaded = load_machine(&world.vault, ID, MACHINE).await;
    let loaded = loaded.expect("the vault is sound");
    let last = usize::try_from(world.seq).expect("small");
    let picked = picks.iter().map(|pick| pick.index(last) as u64 + 1);
    let mut points = 0;
    for seq in picked.chain([world.seq]) {
        for (index, disk) in world.disks.iter().enumerate() {
            if loaded.check_point(Some(disk.id), Seq(seq)).is_err() {
                continue;
            }
            points += 1;
            let expected = disk.bytes_at(seq);
            let point = mount_seq(world, index, seq, &tight()).await;
            prop_assert_eq!(point.size, ByteLen(expected.len() as u64));
            let mut random = SmallRng::seed_from_u64(seq);
            for _ in 0..24 {
                let extent = any_extent(&mut random, point.size.0 / 512);
                let read = point.reader.read(extent).await.expect("the vault is sound");
                prop_assert!(
                    read == part(&expected, extent),
                    "{} at {seq}: {extent}",
                    disk.name
                );
            }
        }
    }
    Ok(points)
}

fn check(
    events: &[Event],
    picks: &[prop::sample::Index],
    reduces: bool,
) -> Result<(), TestCaseError> {
    on_threads(async {
        let mut world = World::new(memory_vault().await).await;
        if reduces {
            world.reduce();
        }
        play(&mut world, events).await;
        let points = compare(&world, picks).await?;
        prop_assert!(0 < points, "the newest state is always a point");
        Ok(())
    })
}

/// What a guest does to a writable mount.
#[derive(Clone, Debug)]
enum Guest {
    Write {
        at: u64,
        sectors: u32,
        fill: u8,
    },
    Zero {
        at: u64,
        sectors: u32,
        no_hole: bool,
    },
    Trim {
        at: u64,
        sectors: u32,
    },
    Flush,
}

const GUEST_SECTORS: u64 = 6_000;

fn guest() -> impl Strategy<Value = Guest> {
    let place = || (0..GUEST_SECTORS - 300, 1..300_u32);
    prop_oneof![
        4 => (place(), any::<u8>())
            .prop_map(|((at, sectors), fill)| Guest::Write { at, sectors, fill }),
        2 => (place(), any::<bool>())
            .prop_map(|((at, sectors), no_hole)| Guest::Zero { at, sectors, no_hole }),
        1 => place().prop_map(|(at, sectors)| Guest::Trim { at, sectors }),
        1 => Just(Guest::Flush),
    ]
}

async fn play_guest(guests: &[Guest], seed: u64) -> Result<(), TestCaseError> {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", GUEST_SECTORS);
    world.write(0, 100, &noise(1, 2_000));
    let seq = world.write(0, 3_000, &noise(2, 1_000));
    world.commit_all().await;
    let mut plain = world.disks[0].bytes_at(seq);
    let point = mount_seq(&world, 0, seq, &tight()).await;
    let directory = scratch();
    let place = OverlayPlace::Nameless(directory.path().into());
    let overlay = Overlay::create(&place, point.size).expect("there is room");
    let export = MountExport::new(&point, Some(overlay));
    let mut random = SmallRng::seed_from_u64(seed);
    for guest in guests {
        let at = |sector: u64| ByteOffset(sector * 512);
        let mut fill = |sector: u64, bytes: &[u8]| {
            let from = usize::try_from(sector * 512).expect("small");
            plain[from..from + bytes.len()].copy_from_slice(bytes);
        };
        let zeroes = |sectors: u32| vec![0; sectors as usize * 512];
        let done = match *guest {
            Guest::Write {
                at: start,
                sectors,
                fill: byte,
            } => {
                let bytes = vec![byte; sectors as usize * 512];
                fill(start, &bytes);
                export.write(at(start), bytes.into(), false).await
            }
            Guest::Zero {
                at: start,
                sectors,
                no_hole,
            } => {
                fill(start, &zeroes(sectors));
                let flags = ZeroFlags {
                    no_hole,
                    ..ZeroFlags::default()
                };
                export.write_zeroes(at(start), sectors * 512, flags).await
            }
            Guest::Trim { at: start, sectors } => {
                fill(start, &zeroes(sectors));
                export.trim(at(start), sectors * 512, true).await
            }
            Guest::Flush => export.flush().await,
        };
        prop_assert_eq!(done, Ok(()));
        for _ in 0..3 {
            let extent = any_extent(&mut random, GUEST_SECTORS);
            let len = u32::try_from(extent.byte_len().0).expect("small");
            let read = export.read(extent.start().byte_offset(), len).await;
            prop_assert!(read.as_deref() == Ok(part(&plain, extent)), "{extent}");
        }
    }
    let status = export.block_status(ByteOffset(0), 6_000 * 512).await;
    let mut at = 0;
    for run in status.expect("it is always known") {
        let len = run.len as usize;
        let zero = plain[at..at + len].iter().all(|&byte| byte == 0);
        prop_assert!(zero || !run.zero, "{run:?} at {at}");
        at += len;
    }
    prop_assert_eq!(at, plain.len());
    let old = disk_at(&world.vault, world.disks[0].id, seq).await;
    prop_assert!(old.expect("the vault is sound") == world.disks[0].bytes_at(seq));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_point_reads_as_the_oracle_says_wherever_one_looks(
        events in prop::collection::vec(event(), 1..120),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 3),
        reduces in any::<bool>(),
    ) {
        check(&events, &picks, reduces)?;
    }

    #[test]
    fn a_writable_mount_is_a_plain_array_of_bytes_and_the_vault_stays_as_it_was(
        guests in prop::collection::vec(guest(), 1..40),
        seed in any::<u64>(),
    ) {
        on_threads(play_guest(&guests, seed))?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_equal_the_restored_image_also_where_kept_frames_have_to_go() {
    let world = world_of_noise(memory_vault().await).await;
    let image = disk_at(&world.vault, world.disks[0].id, world.seq)
        .await
        .unwrap();
    let point = mount_seq(&world, 0, world.seq, &tight()).await;
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..200 {
        let extent = any_extent(&mut random, 1 << 15);
        let read = point.reader.read(extent).await.unwrap();
        assert!(read == part(&image, extent), "{extent}");
        assert!(point.reader.stats().kept <= ByteLen(2 << 20));
    }
    let stats = point.reader.stats();
    assert!(100 < stats.evicted_count, "{stats:?}");
}

#[tokio::test]
async fn a_cold_read_asks_the_vault_once_and_a_hot_one_not_at_all() {
    let mut world = world_of_noise(memory_vault().await).await;
    // An index that no single request brings.
    for at in 0..3_000 {
        world.write(0, at * 8, &noise(at, 8));
    }
    world.commit_all().await;
    let (vault, faults) = faulty::wrap(&world.vault, &VaultConfig::default());
    let at = At::Latest;
    let point = mount(&vault, world.disks[0].id, at, &without_read_ahead()).await;
    let expected = world.disks[0].bytes_at(world.seq);
    // The place in a frame of many small writes, and one in a frame of one long one.
    for sector in [8_000, 30_000] {
        let extent = extent(sector, 8);
        let before = faults.seen_reads();
        assert!(point.reader.read(extent).await.unwrap() == part(&expected, extent));
        assert_eq!(faults.seen_reads() - before, 1, "cold, at {sector}");
        assert!(point.reader.read(extent).await.unwrap() == part(&expected, extent));
        assert_eq!(faults.seen_reads() - before, 1, "hot, at {sector}");
    }
    faults.outage(true);
    assert!(
        point.reader.read(extent(30_008, 8)).await.is_ok(),
        "of a frame that is kept"
    );
}

#[tokio::test]
async fn what_was_never_written_is_read_without_the_vault() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 1 << 20);
    world.write(0, 1_000, &noise(1, 8));
    world.commit_all().await;
    let (vault, faults) = faulty::wrap(&world.vault, &VaultConfig::default());
    let at = At::Latest;
    let point = mount(&vault, world.disks[0].id, at, &MountConfig::default()).await;
    faults.outage(true);
    let read = point.reader.read(extent(2_000, 4_096)).await.unwrap();
    assert!(read.iter().all(|&byte| byte == 0));
}

#[tokio::test]
async fn readers_of_one_frame_wait_for_one_fetch() {
    let world = world_of_noise(memory_vault().await).await;
    let (vault, faults) = faulty::wrap(&world.vault, &VaultConfig::default());
    let at = At::Latest;
    let point = mount(&vault, world.disks[0].id, at, &without_read_ahead()).await;
    let expected = world.disks[0].bytes_at(world.seq);
    let before = faults.seen_reads();
    faults.freeze(true);
    let extents = [extent(0, 8), extent(64, 1), extent(2_000, 8)];
    let reads = extents.map(|extent| point.reader.read(extent));
    let mut reads = std::pin::pin!(futures::future::join_all(reads));
    assert!(
        futures::poll!(&mut reads).is_pending(),
        "the vault gives no answer"
    );
    let stats = point.reader.stats();
    assert_eq!((stats.fetch_count, stats.joined_count), (1, 2));
    faults.freeze(false);
    for (read, extent) in reads.await.into_iter().zip(extents) {
        assert!(read.unwrap() == part(&expected, extent), "{extent}");
    }
    assert_eq!(faults.seen_reads() - before, 1);
}

#[tokio::test]
async fn a_fetch_goes_on_when_its_reader_is_gone() {
    let world = world_of_noise(memory_vault().await).await;
    let (vault, faults) = faulty::wrap(&world.vault, &VaultConfig::default());
    let at = At::Latest;
    let point = mount(&vault, world.disks[0].id, at, &without_read_ahead()).await;
    faults.freeze(true);
    {
        let mut read = std::pin::pin!(point.reader.read(extent(0, 8)));
        assert!(futures::poll!(&mut read).is_pending());
    }
    faults.freeze(false);
    point.reader.close().await;
    faults.outage(true);
    assert!(point.reader.read(extent(8, 8)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_one_after_the_other_find_most_of_their_frames_fetched_ahead() {
    let world = world_of_noise(memory_vault().await).await;
    let config = MountConfig {
        read_ahead_max: ByteLen(4 << 20),
        ..MountConfig::default()
    };
    let point = mount_seq(&world, 0, world.seq, &config).await;
    let expected = world.disks[0].bytes_at(world.seq);
    for at in (0..1 << 15).step_by(512) {
        let extent = extent(at, 512);
        assert!(point.reader.read(extent).await.unwrap() == part(&expected, extent));
    }
    let stats = point.reader.stats();
    assert_eq!(stats.fetch_count + stats.ahead_count, 16, "{stats:?}");
    assert!(12 <= stats.ahead_count, "{stats:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_and_never_bytes_and_the_rest_goes_on() {
    let directory = scratch();
    let root = directory.path().join("vault");
    let mut world = World::new(file_vault(&root).await).await;
    world.add_disk("a", 4_096);
    world.write(0, 0, &noise(1, 64));
    world.commit_all().await;
    world.write(0, 100, &noise(2, 64));
    let object = world.commit_all().await;
    let expected = world.disks[0].bytes_at(world.seq);
    let path = root.join(object.as_str());
    let sound = std::fs::read(&path).unwrap();
    let point = mount_seq(&world, 0, world.seq, &tight()).await;
    let export = MountExport::new(&point, None);
    for byte in (0..64 * 512).step_by(97) {
        let mut bytes = sound.clone();
        bytes[128 + byte] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let read = point.reader.read(extent(163, 1)).await.unwrap_err();
        assert_eq!(
            (read.kind(), read.object()),
            (ErrorKind::Integrity, &object)
        );
        let read = export.read(ByteOffset(100 * 512), 512).await;
        assert_eq!(read, Err(Errno::Io));
    }
    let other = extent(0, 64);
    assert!(point.reader.read(other).await.unwrap() == part(&expected, other));
    // An object that is cut off, gone, and as it was again.
    std::fs::write(&path, &sound[..1_000]).unwrap();
    let read = point.reader.read(extent(100, 64)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Integrity);
    std::fs::remove_file(&path).unwrap();
    let read = point.reader.read(extent(100, 64)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Integrity);
    std::fs::write(&path, &sound).unwrap();
    let whole = extent(0, 4_096);
    assert!(point.reader.read(whole).await.unwrap() == expected);
}

#[tokio::test]
async fn an_index_that_says_what_is_not_so_gives_no_bytes() {
    for lie in [Lie::Digests, Lie::FarFrame, Lie::FarBytes] {
        let mut world = World::new(memory_vault().await).await;
        world.reduce();
        world.add_disk("a", 4_096);
        world.write(0, 0, &noise(1, 16));
        world.commit_all().await;
        world.write(0, 64, &noise(1, 16));
        world.write(0, 128, &noise(2, 16));
        world.lie(lie);
        world.commit_all().await;
        let point = mount_seq(&world, 0, world.seq, &tight()).await;
        let read = point.reader.read(extent(64, 16)).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(point.reader.stats().kept, ByteLen(0));
    }
}

#[tokio::test]
async fn a_read_only_export_takes_no_change_and_says_where_nothing_is() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 4_096);
    world.write(0, 8, &noise(1, 8));
    world.write(0, 16, &noise(2, 8));
    world.write(0, 100, &noise(3, 4));
    world.commit_all().await;
    let point = mount_seq(&world, 0, world.seq, &tight()).await;
    let export = Arc::new(MountExport::new(&point, None));
    let info = export.describe();
    assert!(info.read_only && info.multi_conn && info.check().is_ok());
    assert_eq!(info.size, ByteLen(4_096 * 512));
    let change = export
        .write(ByteOffset(0), vec![1; 512].into(), false)
        .await;
    assert_eq!(change, Err(Errno::Perm));
    assert_eq!(export.flush().await, Ok(()));
    let status = export.block_status(ByteOffset(4 * 512), 200 * 512).await;
    let status: Vec<_> = status
        .unwrap()
        .iter()
        .map(|run| (run.len / 512, run.hole, run.zero))
        .collect();
    let expected = [
        (4, true, true),
        (16, false, false),
        (76, true, true),
        (4, false, false),
        (100, true, true),
    ];
    assert_eq!(status, expected);
}

#[tokio::test]
async fn a_setting_outside_its_bounds_is_named_before_anything_is_read() {
    let world = world_of_noise(memory_vault().await).await;
    let (vault, faults) = faulty::wrap(&world.vault, &VaultConfig::default());
    let what = DiskAt {
        disk: world.disks[0].id,
        machine: None,
        at: At::Latest,
    };
    let config = MountConfig {
        memory_max: ByteLen(33 << 20),
        ..MountConfig::default()
    };
    let refused = mount_point(&vault, &what, &config, &|_| ()).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, MountError::Config { key: "memory_max", min, .. } if min == 34 << 20),
        "{refused}"
    );
    assert_eq!((refused.kind(), faults.seen_reads()), (ErrorKind::Usage, 0));
}
