//! What retention folds into map layers is read from there, whoever folds it and whatever happens to the journals.

use std::path::Path;

use everpoint_format::name;
use everpoint_format::record::Consistency;
use everpoint_retention::{
    At, CompactConfig, ErrorKind, Severity, Subject, check, compact, diff_points, list_points,
    load_machine, load_machines,
};
use everpoint_units::{MachineId, ManifestNo, ObjectNo, Seq, WallTime};
use everpoint_vault::history::{list_manifests, newest_manifest, read_header};

use crate::images::{disk_at, request, run, scratch};
use crate::world::{ID, MACHINE, World, file_vault, journal, memory_vault};

/// Two journals of three objects, and one of one that goes on.
async fn lived(mut world: World) -> World {
    world.add_disk("data", 4_096);
    for round in 0..7_u8 {
        let at = u64::from(round) * 64;
        world.write(0, at, &[round + 1; 16 * 512]);
        world.write(0, 8, &[0x40 + round; 8 * 512]);
        world.bookmark(&format!("round {round}"), Consistency::Crash);
        world.commit_all().await;
        if round % 3 == 2 {
            world.seal_to(u64::from(round) + 2).await;
        }
    }
    world
}

/// Flips a bit of an object of a vault in a directory.
fn spoil(root: &Path, name: &str, at: impl Fn(usize) -> usize) {
    let path = root.join(name);
    let mut bytes = std::fs::read(&path).expect("an object");
    let at = at(bytes.len());
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("our own directory");
}

#[tokio::test]
async fn what_is_folded_needs_no_index_any_more() {
    let directory = scratch();
    let root = directory.path().join("vault");
    let world = lived(World::new(file_vault(&root).await).await).await;
    let before = list_points(&world.vault, Subject::Machine(MACHINE), None).await;
    world.compact(usize::MAX).await;
    // The last byte of an index, before the footer.
    let first = name::journal_object(journal(1), ObjectNo(1));
    spoil(&root, &first, |len| len - 113);
    let disk = &world.disks[0];
    for seq in [5, 9, world.seq] {
        let restored = disk_at(&world.vault, disk.id, seq).await.expect("folded");
        assert!(restored == disk.bytes_at(seq), "{seq}");
    }
    let after = list_points(&world.vault, Subject::Machine(MACHINE), None).await;
    let shown = |list| serde_json::to_string(&list).expect("plain");
    assert_eq!(
        shown(before.expect("points")),
        shown(after.expect("points")),
        "the same is listed from layers"
    );
    let loaded = load_machine(&world.vault, ID, MACHINE)
        .await
        .expect("sound");
    assert_eq!(loaded.damage(), []);
}

#[tokio::test]
async fn a_path_that_was_folded_to_its_end_is_folded_no_more_until_it_goes_on() {
    let mut world = lived(World::new(memory_vault().await).await).await;
    let header = read_header(&world.vault).await.expect("a vault");
    let config = CompactConfig::default();
    let fold = || compact(&world.vault, &header, MACHINE, WallTime(1), &config);
    let made = fold().await.expect("sound").expect("all is new");
    assert_eq!(
        (made.manifest, made.object_count, made.layer_count),
        (1, 7, 1)
    );
    assert_eq!(made.stopped, None);
    assert_eq!(fold().await.expect("sound"), None);
    world.write(0, 0, &[9; 512]);
    world.commit_all().await;
    let fold = || compact(&world.vault, &header, MACHINE, WallTime(2), &config);
    let made = fold().await.expect("sound").expect("one is new");
    assert_eq!((made.manifest, made.object_count), (2, 1));
    // A rotation alone moves the position, so that the journal behind it can go.
    world.seal_to(40).await;
    let fold = || compact(&world.vault, &header, MACHINE, WallTime(3), &config);
    let made = fold().await.expect("sound").expect("it rotated");
    assert_eq!(
        (made.manifest, made.object_count, made.layer_count),
        (3, 0, 0)
    );
    let newest = newest_manifest(&world.vault, ID, MACHINE).await;
    let newest = newest.expect("an answer").expect("a manifest").manifest;
    let position = newest.position;
    assert_eq!(
        (position.journal, position.number),
        (journal(40), ObjectNo::ZERO)
    );
    world.write(0, 1, &[8; 512]);
    world.commit_all().await;
    world.close_path().await;
    let fold = || compact(&world.vault, &header, MACHINE, WallTime(4), &config);
    let made = fold().await.expect("sound").expect("it ended");
    assert_eq!(made.manifest, 4);
    assert_eq!(fold().await.expect("sound"), None);
    let disk = &world.disks[0];
    let restored = disk_at(&world.vault, disk.id, world.seq)
        .await
        .expect("folded");
    assert!(restored == disk.bytes_at(world.seq));
    let unknown = MachineId([0xee; 16]);
    let error = compact(&world.vault, &header, unknown, WallTime(1), &config).await;
    assert_eq!(error.expect_err("there is none").kind(), ErrorKind::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_that_fold_at_once_each_manifest_is_made_by_one() {
    let world = lived(World::new(memory_vault().await).await).await;
    let header = read_header(&world.vault).await.expect("a vault");
    let workers = (0..4).map(|_| {
        let vault = world.vault.clone();
        tokio::spawn(async move {
            let config = CompactConfig {
                change_count_max: 3,
            };
            let mut made = Vec::new();
            while let Some(next) = compact(&vault, &header, MACHINE, WallTime(1), &config)
                .await
                .expect("sound")
            {
                made.push(next.manifest);
            }
            made
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut made = Vec::new();
    for worker in workers {
        made.extend(worker.await.expect("no panic"));
    }
    made.sort_unstable();
    let numbers = list_manifests(&world.vault, MACHINE)
        .await
        .expect("an answer");
    assert_eq!(
        made,
        numbers.iter().map(|number| number.0).collect::<Vec<_>>()
    );
    assert!(2 < made.len(), "{made:?}");
    let report = check(&world.vault, true, &|_| ()).await.expect("a vault");
    assert_eq!(report.findings, []);
    let disk = &world.disks[0];
    let restored = disk_at(&world.vault, disk.id, world.seq)
        .await
        .expect("folded");
    assert!(restored == disk.bytes_at(world.seq));
}

#[tokio::test]
async fn where_a_manifest_is_damaged_that_is_told_and_journals_are_read() {
    let directory = scratch();
    let root = directory.path().join("vault");
    let world = lived(World::new(file_vault(&root).await).await).await;
    world.compact(usize::MAX).await;
    let manifest = name::manifest(MACHINE, ManifestNo(1));
    spoil(&root, &manifest, |len| len / 2);
    let loaded = load_machine(&world.vault, ID, MACHINE).await;
    let loaded = loaded.expect("journals have it");
    let told = loaded.damage().iter().map(|note| note.object.as_deref());
    assert_eq!(told.collect::<Vec<_>>(), [Some(manifest.as_str())]);
    assert_eq!(loaded.latest(None), Ok(Seq(world.seq)));
    let all = load_machines(&world.vault, ID).await.expect("an answer");
    assert_eq!(all[&MACHINE].latest(None), Ok(Seq(world.seq)));
    assert_eq!(all[&MACHINE].damage(), loaded.damage());
    let header = read_header(&world.vault).await.expect("a vault");
    let config = CompactConfig::default();
    let error = compact(&world.vault, &header, MACHINE, WallTime(1), &config).await;
    assert_eq!(error.expect_err("on what?").kind(), ErrorKind::Integrity);
}

#[tokio::test]
async fn nothing_is_folded_at_or_behind_damage() {
    let directory = scratch();
    let root = directory.path().join("vault");
    let world = lived(World::new(file_vault(&root).await).await).await;
    spoil(
        &root,
        &name::journal_object(journal(4), ObjectNo(2)),
        |len| len - 113,
    );
    let header = read_header(&world.vault).await.expect("a vault");
    let config = CompactConfig::default();
    let made = compact(&world.vault, &header, MACHINE, WallTime(1), &config).await;
    let made = made.expect("an answer").expect("what lies before");
    assert_eq!(made.object_count, 4);
    let stopped = made.stopped.expect("it says why");
    assert!(stopped.contains("does not decode"), "{stopped}");
    let again = compact(&world.vault, &header, MACHINE, WallTime(2), &config).await;
    assert_eq!(again.expect("an answer"), None);
    let loaded = load_machine(&world.vault, ID, MACHINE)
        .await
        .expect("an answer");
    assert_eq!(loaded.damage().len(), 2, "{:?}", loaded.damage());
    let newest = loaded.latest(None).expect("a point").0;
    let disk = &world.disks[0];
    let restored = disk_at(&world.vault, disk.id, newest)
        .await
        .expect("folded");
    assert!(restored == disk.bytes_at(newest));
}

#[tokio::test]
async fn where_a_layer_is_damaged_or_gone_that_is_told_and_journals_are_read() {
    for gone in [false, true] {
        let directory = scratch();
        let root = directory.path().join("vault");
        let world = lived(World::new(file_vault(&root).await).await).await;
        world.compact(usize::MAX).await;
        let newest = newest_manifest(&world.vault, ID, MACHINE).await;
        let newest = newest.expect("an answer").expect("a manifest").manifest;
        let layer = name::layer(MACHINE, newest.layers[0].id);
        match gone {
            true => std::fs::remove_file(root.join(&layer)).expect("it is there"),
            false => spoil(&root, &layer, |_| 40),
        }
        let (disk, out) = (&world.disks[0], scratch());
        let image = out.path().join("image");
        let wanted = request(Subject::Disk(disk.id), At::Seq(Seq(world.seq)), &image);
        let restored = run(&world.vault, &wanted).await.expect("journals have it");
        let told = restored.damage.iter().map(|note| note.object.as_deref());
        assert_eq!(told.collect::<Vec<_>>(), [Some(layer.as_str())]);
        let bytes = std::fs::read(&image).expect("an image");
        assert!(bytes == disk.bytes_at(world.seq));
        let report = check(&world.vault, false, &|_| ()).await.expect("a vault");
        let found = report.findings.iter();
        let mut found = found.filter(|finding| finding.severity == Severity::Damage);
        assert!(found.any(|finding| finding.object.as_deref() == Some(&layer)));
    }
}

#[tokio::test]
async fn what_a_layer_refers_to_has_to_be_there() {
    let directory = scratch();
    let root = directory.path().join("vault");
    let world = lived(World::new(file_vault(&root).await).await).await;
    world.compact(usize::MAX).await;
    let last = name::journal_object(world.journal, ObjectNo(world.number));
    std::fs::remove_file(root.join(&last)).expect("it is there");
    let report = check(&world.vault, false, &|_| ()).await.expect("a vault");
    let said = report.findings.iter().map(|finding| finding.what.as_str());
    let wanted = format!("refers to frames of {last} that are not there");
    assert!(
        said.clone().any(|what| what == wanted),
        "{:?}",
        said.collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn what_differs_is_the_same_from_layers_and_from_indexes() {
    let world = lived(World::new(memory_vault().await).await).await;
    let disk = world.disks[0].id;
    let (from, to) = (At::Seq(Seq(6)), At::Latest);
    let differing = || diff_points(&world.vault, disk, Some(MACHINE), (&from, &to), &|_| ());
    let before = differing().await.expect("points");
    // A part, then all.
    for change_count_max in [8, usize::MAX] {
        let header = read_header(&world.vault).await.expect("a vault");
        let config = CompactConfig { change_count_max };
        let made = compact(&world.vault, &header, MACHINE, WallTime(1), &config).await;
        assert!(made.expect("sound").is_some());
        let after = differing().await.expect("points");
        assert_eq!(after.extents, before.extents);
    }
}
