//! Damaged vaults: nothing unverified is served, and points that do not need what is damaged stay.

use std::path::PathBuf;

use everpoint_format::record::Consistency;
use everpoint_retention::{
    At, ErrorKind, IntegrityError, Progress, RestoreError, Subject, check, list_points,
    load_machine, restore,
};
use everpoint_units::Seq;
use everpoint_vault::ObjectName;

use crate::images::{disk_at, entries, request, run, scratch, tight};
use crate::world::{ID, Lie, MACHINE, World, file_vault};

/// A world in a directory, whose objects a test can reach behind the vault's back.
struct Reachable {
    world: World,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Reachable {
    async fn new() -> Self {
        let directory = scratch();
        let root = directory.path().join("vault");
        Self {
            world: World::new(file_vault(&root).await).await,
            root,
            _directory: directory,
        }
    }

    fn path(&self, object: &ObjectName) -> PathBuf {
        self.root.join(object.as_str())
    }

    async fn disk_at(&self, seq: u64) -> Result<Vec<u8>, RestoreError> {
        disk_at(&self.world.vault, self.world.disks[0].id, seq).await
    }

    /// Every object of the vault that a history needs.
    fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.root.join("v1")];
        while let Some(path) = left.pop() {
            if path.is_file() {
                found.push(path);
            } else if !path.ends_with("v1/probe") {
                let entries = std::fs::read_dir(path).expect("a directory");
                left.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
        }
        found.sort();
        found
    }
}

fn noise(seed: u32, sectors: usize) -> Vec<u8> {
    let mut state = seed;
    let bytes = (0..sectors * 512).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes.collect()
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).expect("an object");
    bytes[at] ^= 0x01;
    std::fs::write(path, bytes).expect("our own directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_is_refused_or_harmless() {
    let mut at = Reachable::new().await;
    at.world.reduce();
    at.world.add_disk("a", 64);
    at.world.write(0, 0, &noise(1, 1));
    at.world.write(0, 9, &[7; 512]);
    let early = at.world.bookmark("early", Consistency::Crash);
    at.world.commit_all().await;
    at.world.write(0, 16, &noise(1, 1));
    at.world.zero(0, 9, 1, false);
    at.world.commit_all().await;
    at.world.seal_to(2).await;
    let late = at.world.write(0, 32, &noise(2, 8));
    at.world.commit_all().await;
    let expected = [early, late].map(|seq| at.world.disks[0].bytes_at(seq));

    let (mut refused, mut harmless) = (0, 0);
    for path in at.objects() {
        let sound = std::fs::read(&path).unwrap();
        for byte in 0..sound.len() {
            flip(&path, byte);
            for (seq, expected) in [early, late].into_iter().zip(&expected) {
                match at.disk_at(seq).await {
                    Ok(bytes) => {
                        assert!(bytes == *expected, "{path:?} byte {byte} at {seq}");
                        harmless += 1;
                    }
                    Err(error) => {
                        let kind = error.kind();
                        assert_eq!(kind, ErrorKind::Integrity, "{path:?} byte {byte}: {error}");
                        refused += 1;
                    }
                }
            }
            std::fs::write(&path, &sound).unwrap();
        }
    }
    assert!(1_000 < refused, "{refused} refused");
    assert!(1_000 < harmless, "{harmless} harmless");
}

#[tokio::test]
async fn a_damaged_frame_is_named_with_object_and_place_and_leaves_older_points_whole() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 4_096);
    let early = at.world.write(0, 0, &noise(1, 8));
    at.world.commit_all().await;
    let late = at.world.write(0, 100, &noise(2, 8));
    let object = at.world.commit_all().await;
    // The frame of a block that is stored raw begins behind the header of 128 bytes.
    flip(&at.path(&object), 128 + 700);

    let error = at.disk_at(late).await.unwrap_err();
    let expected = format!("{object}, frame at 128");
    assert_eq!(
        (error.to_string(), error.kind()),
        (expected, ErrorKind::Integrity)
    );
    assert!(at.disk_at(early).await.unwrap() == at.world.disks[0].bytes_at(early));

    let report = check(&at.world.vault, false, &|_| ()).await.unwrap();
    assert!(
        report.is_sound(),
        "no frame was looked at: {:?}",
        report.findings
    );
    let report = check(&at.world.vault, true, &|_| ()).await.unwrap();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.object.clone(), finding.at))
        .collect();
    assert_eq!(found, [(Some(object.to_string()), Some(128))]);
    assert!(!report.is_sound());
}

#[tokio::test]
async fn a_frame_that_nothing_needs_any_more_is_neither_read_nor_missed() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 4_096);
    let first = at.world.write(0, 0, &noise(1, 8));
    at.world.close_block(0);
    at.world.write(0, 8, &noise(2, 8));
    let object = at.world.commit_all().await;
    let over = at.world.write(0, 0, &noise(3, 8));
    at.world.commit_all().await;
    flip(&at.path(&object), 128 + 100);

    assert!(at.disk_at(over).await.unwrap() == at.world.disks[0].bytes_at(over));
    assert_eq!(
        at.disk_at(first).await.unwrap_err().kind(),
        ErrorKind::Integrity
    );
}

#[tokio::test]
async fn content_that_differs_from_its_digest_is_refused_although_every_checksum_holds() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    let written = at.world.write(0, 7, &noise(1, 10));
    at.world.lie(Lie::Digests);
    let object = at.world.commit_all().await;
    let error = at.disk_at(written).await.unwrap_err();
    let RestoreError::Integrity(IntegrityError::Digest {
        object: named,
        frame_at,
        raw_at,
        disk_at,
    }) = error
    else {
        panic!("{error}");
    };
    // The only piece that the write covers whole begins at sector 8, one sector into the frame.
    assert_eq!(
        (named, frame_at.0, raw_at.0, disk_at.0),
        (object, 128, 512, 4_096)
    );
    let report = check(&at.world.vault, true, &|_| ()).await.unwrap();
    assert_eq!((report.damage_count, report.findings[0].at), (1, Some(128)));
}

#[tokio::test]
async fn a_piece_that_is_used_in_part_is_verified_whole() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    at.world.write(0, 8, &noise(1, 8));
    at.world.lie(Lie::Digests);
    at.world.commit_all().await;
    let over = at.world.write(0, 9, &noise(2, 7));
    at.world.commit_all().await;
    let error = at.disk_at(over).await.unwrap_err();
    assert!(
        matches!(
            error,
            RestoreError::Integrity(IntegrityError::Digest { .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_reference_to_bytes_that_are_not_there_is_refused_and_others_are_followed() {
    for (lie, named) in [
        (Lie::FarFrame, "the bytes are not there"),
        (Lie::FarBytes, "leaves the frame"),
    ] {
        let mut at = Reachable::new().await;
        at.world.reduce();
        at.world.add_disk("a", 256);
        at.world.write(0, 0, &noise(1, 16));
        at.world.commit_all().await;
        let sound = at.world.write(0, 32, &noise(1, 16));
        at.world.commit_all().await;
        let broken = at.world.write(0, 64, &noise(1, 16));
        at.world.lie(lie);
        at.world.commit_all().await;

        assert!(at.disk_at(sound).await.unwrap() == at.world.disks[0].bytes_at(sound));
        let error = at.disk_at(broken).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains(named), "{error}");
        let report = check(&at.world.vault, true, &|_| ()).await.unwrap();
        assert_eq!(report.damage_count, 1, "{:?}", report.findings);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_while_it_is_read_is_refused() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    at.world.write(0, 0, &noise(1, 8));
    let object = at.world.commit_all().await;
    let mut other = Reachable::new().await;
    other.world.add_disk("a", 64);
    other.world.write(0, 0, &noise(2, 8));
    assert_eq!(other.world.commit_all().await, object);

    // As soon as the plan is made, a sound object of the same name with other content lies there.
    let (from, to) = (other.path(&object), at.path(&object));
    let replace = |progress: &Progress| {
        if progress.planned_count == 1 && progress.total.0 == 0 {
            std::fs::copy(&from, &to).expect("our own directories");
        }
    };
    let scratch = scratch();
    let subject = Subject::Disk(at.world.disks[0].id);
    let request = request(subject, At::Latest, scratch.path().join("image"));
    let outcome = restore(&at.world.vault, &request, &tight(), &replace).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error,
            RestoreError::Integrity(IntegrityError::Replaced { .. })
        ),
        "{error}"
    );
    assert_eq!(entries(scratch.path()), [""; 0]);
}

#[tokio::test]
async fn a_truncated_or_missing_object_costs_the_points_behind_it_and_no_other() {
    for len in [Some(0), Some(100), Some(300), None] {
        let mut at = Reachable::new().await;
        at.world.add_disk("a", 64);
        let early = at.world.write(0, 0, &noise(1, 2));
        at.world.commit_all().await;
        at.world.write(0, 8, &noise(2, 2));
        let object = at.world.commit_all().await;
        let late = at.world.write(0, 16, &noise(3, 2));
        at.world.commit_all().await;
        let path = at.path(&object);
        match len {
            Some(len) => {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..len]).unwrap();
            }
            None => std::fs::remove_file(&path).unwrap(),
        }

        assert!(at.disk_at(early).await.unwrap() == at.world.disks[0].bytes_at(early));
        let error = at.disk_at(late).await.unwrap_err();
        // What follows a gap was never committed, so without the object it is no point at all.
        let kind = if len.is_some() {
            ErrorKind::Integrity
        } else {
            ErrorKind::Usage
        };
        assert_eq!(error.kind(), kind, "{len:?}: {error}");
        let report = check(&at.world.vault, false, &|_| ()).await.unwrap();
        assert_eq!(report.is_sound(), len.is_none(), "{:?}", report.findings);
        assert!(!report.findings.is_empty());
    }
}

#[tokio::test]
async fn latest_is_the_newest_point_that_damage_has_left_and_the_damage_is_told() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    let early = at.world.write(0, 0, &noise(1, 2));
    at.world.commit_all().await;
    at.world.write(0, 8, &noise(2, 2));
    let object = at.world.commit_all().await;
    at.world.bookmark("late", Consistency::Crash);
    at.world.commit_all().await;
    flip(&at.path(&object), 5);

    let scratch = scratch();
    let subject = Subject::Disk(at.world.disks[0].id);
    let latest = request(subject, At::Latest, scratch.path().join("image"));
    let restored = run(&at.world.vault, &latest).await.unwrap();
    assert_eq!(restored.seq, Seq(early));
    assert_eq!(restored.damage[0].object, Some(object.to_string()));
    let late = request(
        subject,
        At::Bookmark("late".into()),
        scratch.path().join("other"),
    );
    let error = run(&at.world.vault, &late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    let list = list_points(&at.world.vault, subject, Some(MACHINE))
        .await
        .unwrap();
    assert_eq!((list.damage.len(), list.windows.len()), (2, 1));
}

#[tokio::test]
async fn an_object_of_other_machines_only_costs_nothing() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    at.world.write(0, 0, &noise(1, 2));
    at.world.commit_all().await;
    let object = at.world.commit().await;
    let late = at.world.write(0, 8, &noise(2, 2));
    at.world.commit_all().await;
    flip(&at.path(&object), 5);
    assert!(at.disk_at(late).await.unwrap() == at.world.disks[0].bytes_at(late));
    let loaded = load_machine(&at.world.vault, ID, MACHINE).await.unwrap();
    assert_eq!(loaded.damage().len(), 1);
    assert_eq!(loaded.latest(None), Ok(Seq(late)));
}

#[tokio::test]
async fn a_machine_is_not_restored_without_a_disk_that_came_to_light_behind_damage() {
    let mut at = Reachable::new().await;
    at.world.add_disk("a", 64);
    let early = at.world.write(0, 0, &noise(1, 2));
    at.world.commit_all().await;
    let hidden = at.world.add_disk("hidden", 64);
    at.world.close_block(hidden);
    let object = at.world.commit().await;
    at.world.write(hidden, 0, &noise(2, 2));
    let late = at.world.write(0, 8, &noise(3, 2));
    at.world.commit_all().await;
    flip(&at.path(&object), 5);

    let loaded = load_machine(&at.world.vault, ID, MACHINE).await.unwrap();
    assert_eq!(loaded.latest(None), Ok(Seq(early)), "the whole machine");
    assert_eq!(
        loaded.latest(Some(at.world.disks[0].id)),
        Ok(Seq(late)),
        "the disk by itself"
    );
    let scratch = scratch();
    let all = request(
        Subject::Machine(MACHINE),
        At::Seq(Seq(late)),
        scratch.path().join("m"),
    );
    let error = run(&at.world.vault, &all).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}

#[tokio::test]
async fn a_sound_vault_has_no_findings_and_every_frame_is_counted() {
    let mut at = Reachable::new().await;
    at.world.reduce();
    at.world.add_disk("a", 4_096);
    for round in 0..4_u64 {
        at.world.write(0, round * 100, &noise(1, 16));
        at.world.write(
            0,
            round * 100 + 50,
            &noise(u32::try_from(round).unwrap(), 16),
        );
        at.world.commit_all().await;
    }
    at.world.release_to(4).await;
    at.world.commit_all().await;
    at.world.seal_to(5).await;
    let report = check(&at.world.vault, true, &|_| ()).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.machines.len(), report.journal_count), (1, 2));
    // Four data objects, a release, one behind it, a seal.
    assert_eq!(report.object_count, 7);
    // Each of the four objects has one frame; those that refer to the first verify its frame again.
    assert!(
        4 <= report.frame_count && 0 < report.read_bytes,
        "{report:?}"
    );
    assert_eq!(report.machines[0].windows.len(), 1);
}

#[tokio::test]
async fn what_is_no_vault_is_no_damage() {
    let directory = scratch();
    let vault = file_vault(&directory.path().join("vault")).await;
    let error = check(&vault, false, &|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}
