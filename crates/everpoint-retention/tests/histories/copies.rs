//! Copies of replicas: from whatever state a replica can be in to whatever point, and replicas held against the
//! vault.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::replica::{Applied, Mark};
use everpoint_format::vhd;
use everpoint_replica::{Fence, MemoryPages, PageTarget as _};
use everpoint_retention::{
    At, BlobError, BlobRestored, DiskAt, ErrorKind, ReplicaPlace, RestoreError, bring_to_point,
    load_machine, verify_replica,
};
use everpoint_units::{ByteLen, ByteOffset, Level, Seq, VaultId, WallTime};
use proptest::prelude::*;

use crate::images::{scratch, tight};
use crate::oracle::{Event, event, play};
use crate::world::{Disk, ID, MACHINE, Past, World, memory_vault};

/// A replica's bytes: the disk, and the last page.
struct Replica {
    bytes: Vec<u8>,
    mark: Mark,
    /// Sectors that a later object touched.
    later: Vec<bool>,
}

/// Bytes as a `usize`.
fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

impl Replica {
    /// What a server may have left that had applied everything through commit `at`, and some of what was committed
    /// later; `None` where the disk was not begun there. `chance` says of each later change whether it is there.
    fn at(world: &World, disk: usize, at: usize, mut chance: u64) -> Option<Self> {
        let (journal, number, closed) = &world.commits[at];
        let closed = closed.get(disk).copied().filter(|closed| 0 < *closed)?;
        let disk = &world.disks[disk];
        let mut bytes = disk.bytes_at(closed);
        let sectors = bytes.len() as u64 / 512;
        let size = bytes.len();
        bytes.resize(small(vhd::padded_size(ByteLen(size as u64)).0), 0);
        let mut later = vec![false; bytes.len() / 512];
        for (_, past) in disk.past.iter().filter(|(seq, _)| closed < *seq) {
            chance = chance.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let is_there = chance & 1 == 1;
            // Parts of it, too.
            let halved = |len: usize| {
                if chance & 2 == 2 {
                    len / 1_024 * 512
                } else {
                    len
                }
            };
            let (start, new) = match past {
                Past::Bytes(start, new) => (small(*start), new.clone()),
                Past::Zero(start, len) => (small(*start), vec![0; small(*len)]),
                Past::Size(sectors) => {
                    let start = small(*sectors * 512).min(bytes.len());
                    later[start / 512..].fill(true);
                    (start, vec![0; size.saturating_sub(start)])
                }
            };
            let end = (start + new.len()).min(bytes.len());
            if start < end {
                later[start / 512..end / 512].fill(true);
                let end = start + halved(end.min(size).saturating_sub(start));
                if is_there {
                    bytes[start..end].copy_from_slice(&new[..end - start]);
                }
            }
        }
        let mark = Mark {
            vault: ID,
            machine: MACHINE,
            disk: disk.id,
            sectors,
            applied: Some(Applied {
                journal: *journal,
                number: *number,
                position: None,
                through: Seq(closed),
                is_level: chance & 4 == 4,
            }),
        };
        bytes.extend(mark.encode(WallTime(0)));
        Some(Self { bytes, mark, later })
    }

    async fn pages(&self) -> MemoryPages {
        let pages = MemoryPages::new();
        let fence = Fence::first_of(Level(3)).expect("low");
        let len = ByteLen(self.bytes.len() as u64);
        pages.create(len, fence).await.expect("created");
        for (index, chunk) in self.bytes.chunks(4 << 20).enumerate() {
            let at = ByteOffset(index as u64 * (4 << 20));
            let chunk = Bytes::copy_from_slice(chunk).into();
            pages.put(at, &chunk, fence).await.expect("put");
        }
        pages
    }
}

async fn content(pages: &MemoryPages) -> Vec<u8> {
    let properties = pages.properties().await.expect("in memory");
    let len = properties.expect("it exists").len.0;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        let at = bytes.len() as u64;
        let part = pages.read(ByteOffset(at), ByteLen((len - at).min(4 << 20)), None);
        bytes.extend(part.await.expect("in memory"));
    }
    bytes
}

/// The VHD of a disk at a `Seq`, but for the time in its footer.
fn expected(disk: &Disk, seq: u64, time: Option<WallTime>) -> Vec<u8> {
    let mut bytes = disk.bytes_at(seq);
    let size = vhd::padded_size(ByteLen(bytes.len() as u64));
    bytes.resize(small(size.0), 0);
    bytes.extend(vhd::fixed_footer(size, disk.id.0, time.unwrap_or_default()));
    bytes
}

async fn bring(
    world: &World,
    disk: &Disk,
    seq: u64,
    pages: &MemoryPages,
) -> Result<BlobRestored, RestoreError> {
    let what = DiskAt {
        disk: disk.id,
        machine: None,
        at: At::Seq(Seq(seq)),
    };
    let copy = Arc::new(pages.clone());
    bring_to_point(&world.vault, &what, copy, &tight(), &|_| ()).await
}

async fn verify(world: &World, disk: usize, replica: &Replica, path: &Path) -> (u64, Vec<u64>) {
    std::fs::write(path, &replica.bytes).expect("our own directory");
    let place = ReplicaPlace::File(path.to_owned());
    let disk = world.disks[disk].id;
    let report = verify_replica(&world.vault, disk, &place, &tight(), &|_| ()).await;
    let report = report.expect("the vault is sound");
    let places = report.differing.iter().map(|place| place.at);
    (report.differing_bytes.0, places.collect())
}

async fn check(
    events: &[Event],
    picks: &[(prop::sample::Index, prop::sample::Index, u64)],
    reduces: bool,
) -> Result<(), TestCaseError> {
    let mut world = World::new(memory_vault().await).await;
    if reduces {
        world.reduce();
    }
    play(&mut world, events).await;
    let loaded = load_machine(&world.vault, ID, MACHINE).await;
    let loaded = loaded.expect("the vault is sound");
    let directory = scratch();
    let path = directory.path().join("replica.vhd");
    for (commit, point, chance) in picks {
        let commit = commit.index(world.commits.len());
        let seq = point.index(small(world.seq)) as u64 + 1;
        for (index, disk) in world.disks.iter().enumerate() {
            let Some(mut replica) = Replica::at(&world, index, commit, *chance) else {
                continue;
            };
            if loaded.check_point(Some(disk.id), Seq(seq)).is_ok() {
                let pages = replica.pages().await;
                let brought = bring(&world, disk, seq, &pages)
                    .await
                    .expect("the vault is sound");
                let expected = expected(disk, seq, brought.time);
                prop_assert!(content(&pages).await == expected, "{} at {seq}", disk.name);
                let changed = brought
                    .changed_bytes
                    .expect("a copy was brought to the point");
                prop_assert!(brought.put_bytes.0 <= changed + 512);
            }
            let (differing, places) = verify(&world, index, &replica, &path).await;
            prop_assert!(differing == 0, "{} differs at {places:?}", disk.name);
            let sector = small(*chance) % replica.later.len();
            replica.bytes[sector * 512 + 100] ^= 4;
            let found = verify(&world, index, &replica, &path).await;
            let told = match replica.later[sector] {
                true => (0, Vec::new()),
                false => (512, vec![sector as u64 * 512]),
            };
            prop_assert_eq!(found, told);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_of_a_replica_becomes_any_point_and_is_what_the_vault_says(
        events in prop::collection::vec(event(), 1..80),
        picks in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u64)>(), 3),
        reduces in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(check(&events, &picks, reduces))?;
    }
}

/// A disk, and a replica of its only object.
async fn sample() -> (World, Replica) {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 4_096);
    world.write(0, 8, &[7; 4_096]);
    world.commit_all().await;
    let replica = Replica::at(&world, 0, 0, 0).expect("the disk is begun");
    (world, replica)
}

#[tokio::test]
async fn only_what_changed_is_put() {
    let (mut world, replica) = sample().await;
    let point = world.seq;
    world.write(0, 1_000, &[8; 1_024]);
    world.zero(0, 8, 1, false);
    world.commit_all().await;
    let pages = replica.pages().await;
    let disk = &world.disks[0];
    let brought = bring(&world, disk, point, &pages).await.unwrap();
    assert_eq!(brought.changed_bytes, Some(1_024 + 512));
    // One sector of data, and the footer.
    assert_eq!(brought.put_bytes, ByteLen(1_024));
    assert!(content(&pages).await == expected(disk, point, brought.time));
}

#[tokio::test]
async fn a_replica_of_which_nothing_is_known_is_refused_with_what_it_is() {
    type Spoil = fn(&mut Mark);
    let cases: [(Spoil, &str, ErrorKind); 5] = [
        (
            |mark| mark.vault = VaultId([8; 16]),
            "another vault",
            ErrorKind::Usage,
        ),
        (
            |mark| mark.disk.0[3] ^= 1,
            "follows another disk",
            ErrorKind::Usage,
        ),
        (
            |mark| mark.applied = None,
            "not filled yet",
            ErrorKind::Incomplete,
        ),
        (
            |mark| mark.applied.as_mut().expect("applied").number.0 += 1,
            "not in the machine's path",
            ErrorKind::Usage,
        ),
        (
            |mark| mark.sectors *= 2,
            "does not say what it holds",
            ErrorKind::Incomplete,
        ),
    ];
    for (spoil, said, kind) in cases {
        let (world, mut replica) = sample().await;
        spoil(&mut replica.mark);
        let at = replica.bytes.len() - 512;
        replica.bytes.truncate(at);
        replica.bytes.extend(replica.mark.encode(WallTime(0)));
        let pages = replica.pages().await;
        let refused = bring(&world, &world.disks[0], world.seq, &pages).await;
        let refused = refused.expect_err(said);
        assert!(matches!(refused, RestoreError::Blob(_)), "{refused}");
        assert!(refused.to_string().contains(said), "{refused}");
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(content(&pages).await == replica.bytes, "it was left alone");
    }
}

#[tokio::test]
async fn a_damaged_mark_is_damage() {
    let (world, mut replica) = sample().await;
    let at = replica.bytes.len() - 512;
    replica.bytes[at + 120] ^= 1;
    let pages = replica.pages().await;
    let refused = bring(&world, &world.disks[0], world.seq, &pages).await;
    let refused = refused.unwrap_err();
    let is_mark = matches!(refused, RestoreError::Blob(BlobError::Mark { .. }));
    assert!(
        is_mark && refused.kind() == ErrorKind::Integrity,
        "{refused}"
    );
}
