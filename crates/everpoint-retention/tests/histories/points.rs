//! Which points are listed, and what an operator's words for them mean.

use everpoint_format::record::Consistency;
use everpoint_retention::{
    At, DiskState, ErrorKind, LoadError, LoadedMachine, NoPoint, PathState, Subject, find_machine,
    list_disks, list_points, load_machine,
};
use everpoint_units::{DiskId, MachineId, Seq, WallTime};

use crate::world::{FIRST_TIME, ID, MACHINE, World, journal, memory_vault};

async fn loaded(world: &World) -> LoadedMachine {
    let loaded = load_machine(&world.vault, ID, MACHINE).await;
    loaded.expect("the vault is sound")
}

fn resolve(loaded: &LoadedMachine, at: &str) -> Result<Seq, NoPoint> {
    let at: At = at.parse().expect("a point");
    loaded.resolve(None, &at).map_err(|error| error.reason)
}

#[tokio::test]
async fn words_names_times_and_positions_become_points() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    let app = world.bookmark("nightly", Consistency::App);
    let crash = world.bookmark("before upgrade", Consistency::Crash);
    let first = world.write_part(0, 0, &[1; 512], false);
    let last = world.write_part(0, 8, &[2; 512], true);
    world.commit_all().await;
    let loaded = loaded(&world).await;

    assert_eq!(resolve(&loaded, "latest"), Ok(Seq(last)));
    assert_eq!(resolve(&loaded, "latest-app"), Ok(Seq(app)));
    assert_eq!(resolve(&loaded, "before upgrade"), Ok(Seq(crash)));
    assert_eq!(resolve(&loaded, &format!("seq:{crash}")), Ok(Seq(crash)));
    let inside = loaded.resolve(None, &At::Seq(Seq(first))).unwrap_err();
    assert_eq!(inside.kind(), ErrorKind::Usage);
    assert_eq!(
        inside.to_string(),
        format!("seq:{first} lies inside a request; its neighbours are seq:{crash} and seq:{last}")
    );
    // The blocks were captured one second after the other: both bookmarks' and the last.
    for (after_s, seq) in [(1, app), (2, crash), (3, last), (1_000, last)] {
        let time = WallTime(FIRST_TIME + after_s * 1_000_000);
        assert_eq!(resolve(&loaded, &time.to_string()), Ok(Seq(seq)), "{time}");
    }
    let early = resolve(&loaded, "1999-12-31T23:59:59Z");
    assert!(matches!(early, Err(NoPoint::NotAPoint(_))), "{early:?}");
    assert_eq!(
        resolve(&loaded, "nightl"),
        Err(NoPoint::NoBookmark {
            name: "nightl".into()
        })
    );
}

#[tokio::test]
async fn a_name_that_two_bookmarks_have_is_refused_with_both_positions() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    let seqs = [(); 2]
        .map(|()| world.bookmark("nightly", Consistency::Crash))
        .map(Seq);
    world.commit().await;
    let error = loaded(&world)
        .await
        .resolve(None, &At::Bookmark("nightly".into()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error
            .to_string()
            .ends_with(&format!("say which by {}, {}", seqs[0], seqs[1])),
        "{error}"
    );
    let (name, seqs) = ("nightly".into(), seqs.to_vec());
    assert_eq!(error.reason, NoPoint::Ambiguous { name, seqs });
}

#[tokio::test]
async fn a_bookmark_in_a_resync_is_listed_and_not_restorable() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    world.bookmark("level", Consistency::App);
    world.begin_resync(0);
    let syncing = world.bookmark("syncing", Consistency::App);
    world.commit_all().await;

    let list = list_points(&world.vault, Subject::Machine(MACHINE), None)
        .await
        .unwrap();
    let marks: Vec<_> = list
        .bookmarks
        .iter()
        .map(|mark| (&mark.name[..], mark.restorable))
        .collect();
    assert_eq!(marks, [("level", true), ("syncing", false)]);
    assert_eq!(list.disks[0].state, DiskState::Syncing);
    let loaded = loaded(&world).await;
    assert!(resolve(&loaded, "syncing").is_err());
    assert!(resolve(&loaded, "latest-app").unwrap() < Seq(syncing));

    world.end_resync(0);
    world.commit_all().await;
    let list = list_points(&world.vault, Subject::Machine(MACHINE), None)
        .await
        .unwrap();
    assert_eq!(
        (list.windows.len(), list.disks[0].state),
        (2, DiskState::Level)
    );
    assert_eq!(list.latest.unwrap().seq, Seq(world.seq));
}

#[tokio::test]
async fn nothing_to_restore_yet_is_incomplete_and_not_a_mistake() {
    let mut world = World::new(memory_vault().await).await;
    world.commit().await;
    let error = loaded(&world).await.resolve(None, &At::Latest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    let list = list_points(&world.vault, Subject::Machine(MACHINE), None)
        .await
        .unwrap();
    assert!(list.latest.is_none() && list.windows.is_empty());
}

#[tokio::test]
async fn a_disk_is_found_by_its_id_and_all_disks_are_listed() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    world.add_disk("b", 128);
    world.commit_all().await;
    let other = MachineId([7; 16]);
    let mut others = World::of_machine(world.vault.clone(), other, journal(5)).await;
    others.add_disk("c", 256);
    others.commit_all().await;
    others.record(0, everpoint_format::Change::DiskEnd);
    others.close_block(0);
    others.close_path().await;

    let list = list_disks(&world.vault).await.unwrap();
    let disks: Vec<_> = list
        .disks
        .iter()
        .map(|d| (d.machine, &d.name[..], d.size_bytes.0, d.state))
        .collect();
    assert_eq!(
        disks,
        [
            (MACHINE, "a", 64 * 512, DiskState::Level),
            (MACHINE, "b", 128 * 512, DiskState::Level),
            (other, "c", 256 * 512, DiskState::Ended),
        ]
    );
    assert!(list.damage.is_empty());
    let disk = others.disks[0].id;
    assert_eq!(find_machine(&world.vault, ID, disk).await.unwrap(), other);
    let list = list_points(&world.vault, Subject::Disk(disk), None)
        .await
        .unwrap();
    assert_eq!(
        (list.machine, list.disk, list.path),
        (other, Some(disk), PathState::Closed)
    );

    let unknown = DiskId([0xee; 16]);
    let error = find_machine(&world.vault, ID, unknown).await.unwrap_err();
    assert!(matches!(error, LoadError::NoSuchDisk { .. }));
    let error = list_points(&world.vault, Subject::Disk(unknown), Some(MACHINE))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let error = load_machine(&world.vault, ID, MachineId([0xee; 16]))
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::NoSuchMachine { .. }));
}

#[tokio::test]
async fn a_list_of_points_is_plain_data() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    world.bookmark("nightly", Consistency::App);
    world.commit().await;
    let list = list_points(&world.vault, Subject::Machine(MACHINE), None)
        .await
        .unwrap();
    let json = serde_json::to_value(&list).unwrap();
    let expected = serde_json::json!({
        "machine": "01010101-0101-0101-0101-010101010101",
        "disk": null,
        "path": {"state": "open", "journal": journal(1).to_string()},
        "latest": {"seq": 4, "time": "2026-01-01T00:00:01.000000Z"},
        "windows": [{
            "from": {"seq": 3, "time": null},
            "through": {"seq": 4, "time": "2026-01-01T00:00:01.000000Z"}
        }],
        "bookmarks": [{
            "name": "nightly", "class": "app", "seq": 4,
            "time": "2026-01-01T00:00:00.000000Z", "restorable": true
        }],
        "disks": [{
            "machine": "01010101-0101-0101-0101-010101010101",
            "disk": "01010101-0101-0101-0101-010101010101",
            "name": "a", "size_bytes": 32_768, "block_size": 512, "state": "level",
            "complete_through": 4,
            "latest": {"seq": 4, "time": "2026-01-01T00:00:01.000000Z"},
            "windows": [{
                "from": {"seq": 3, "time": null},
                "through": {"seq": 4, "time": "2026-01-01T00:00:01.000000Z"}
            }]
        }],
        "damage": []
    });
    assert_eq!(json, expected);
}
