//! Where a restore writes, and where it refuses to.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everpoint_retention::{
    At, ErrorKind, OutputError, RestoreConfig, RestoreError, RestoreRequest, Subject, restore,
};
use everpoint_units::{ByteLen, Seq};

use crate::images::{entries, request, run, scratch};
use crate::world::{MACHINE, World, file_vault, memory_vault};

async fn world() -> World {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("/dev/sda", 2_048);
    world.write(0, 16, &[7; 8_192]);
    world.commit_all().await;
    world
}

fn latest(world: &World, output: impl Into<PathBuf>) -> RestoreRequest {
    request(Subject::Disk(world.disks[0].id), At::Latest, output)
}

async fn refused(world: &World, request: &RestoreRequest) -> OutputError {
    let outcome = run(&world.vault, request).await;
    let error = outcome.expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    match error {
        RestoreError::Output(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_output_that_exists_is_replaced_only_when_that_is_said() {
    let world = world().await;
    let scratch = scratch();
    let path = scratch.path().join("image");
    std::fs::write(&path, "precious").unwrap();
    let mut request = latest(&world, &path);
    assert!(matches!(
        refused(&world, &request).await,
        OutputError::Exists { .. }
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    request.overwrite = true;
    run(&world.vault, &request).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == world.disks[0].bytes_at(world.seq));
    assert_eq!(entries(scratch.path()), ["image"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a disk's content is its owner's alone");
}

#[tokio::test]
async fn what_appears_at_the_output_while_it_is_restored_is_not_replaced() {
    let world = world().await;
    let scratch = scratch();
    let image = scratch.path().join("image");
    let directory = scratch.path().join("machine");
    let all = request(Subject::Machine(MACHINE), At::Latest, &directory);
    for (request, file) in [
        (latest(&world, &image), image),
        (all, directory.join("other")),
    ] {
        let appear = |_: &everpoint_retention::Progress| {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "precious").unwrap();
        };
        let restored = restore(&world.vault, &request, &RestoreConfig::default(), &appear).await;
        let error = restored.unwrap_err();
        assert!(
            matches!(error, RestoreError::Output(OutputError::Exists { .. })),
            "{error}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }
    assert_eq!(entries(scratch.path()), ["image", "machine"]);
}

#[tokio::test]
async fn what_is_no_file_is_refused_even_when_it_may_be_replaced() {
    let world = world().await;
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    symlink(at("file"), at("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    for (output, is_right) in [
        (at("link"), is_not_a_file as fn(&OutputError) -> bool),
        (at("pipe"), is_not_a_file),
        (PathBuf::from("/dev/null"), is_not_a_file),
        (at("directory"), |error| {
            matches!(error, OutputError::IsADirectory { .. })
        }),
        (at("nowhere/image"), |error| {
            matches!(error, OutputError::NoParent { .. })
        }),
        (at(".."), |error| {
            matches!(error, OutputError::NoName { .. })
        }),
    ] {
        let mut request = latest(&world, &output);
        request.overwrite = true;
        let error = refused(&world, &request).await;
        assert!(is_right(&error), "{output:?}: {error}");
    }
    let mut forced = latest(&world, at("new"));
    forced.force_overwrite = Some(at("new"));
    assert!(matches!(
        refused(&world, &forced).await,
        OutputError::ForcedButNoDevice { .. }
    ));
    assert_eq!(
        entries(scratch.path()),
        ["directory", "file", "link", "pipe"]
    );
}

fn is_not_a_file(error: &OutputError) -> bool {
    matches!(error, OutputError::NotAFile { .. })
}

#[tokio::test]
async fn nothing_is_put_into_the_vault_itself() {
    let scratch = scratch();
    let root = scratch.path().join("vault");
    let mut world = World::new(file_vault(&root).await).await;
    world.add_disk("a", 64);
    world.commit_all().await;
    symlink(&root, scratch.path().join("alias")).unwrap();
    for inside in [
        "vault/image",
        "vault/v1/image",
        "alias/image",
        "vault/v1/../image",
    ] {
        let error = refused(&world, &latest(&world, scratch.path().join(inside))).await;
        assert!(
            matches!(error, OutputError::InsideVault { .. }),
            "{inside}: {error}"
        );
        let all = request(
            Subject::Machine(MACHINE),
            At::Latest,
            scratch.path().join(inside),
        );
        let error = refused(&world, &all).await;
        assert!(
            matches!(error, OutputError::InsideVault { .. }),
            "{inside}: {error}"
        );
    }
}

#[tokio::test]
async fn a_protected_disk_is_never_an_output_under_any_name() {
    let world = world().await;
    let scratch = scratch();
    let source = scratch.path().join("source");
    let alias = scratch.path().join("alias");
    std::fs::write(&source, "protected").unwrap();
    std::fs::hard_link(&source, &alias).unwrap();
    for output in [&source, &alias] {
        let mut request = latest(&world, output);
        request.overwrite = true;
        request.sources = vec![scratch.path().join("gone"), source.clone()];
        assert!(matches!(
            refused(&world, &request).await,
            OutputError::IsSource { .. }
        ));
    }
    std::fs::remove_file(&source).unwrap();
    let mut request = latest(&world, &source);
    request.sources = vec![source.clone()];
    assert!(matches!(
        refused(&world, &request).await,
        OutputError::IsSource { .. }
    ));
}

#[tokio::test]
async fn an_image_that_another_program_has_locked_is_not_replaced() {
    let world = world().await;
    let scratch = scratch();
    let path = scratch.path().join("image");
    std::fs::write(&path, "in use").unwrap();
    let mut request = latest(&world, &path);
    request.overwrite = true;
    let file = std::fs::File::open(&path).unwrap();
    file.lock_shared().unwrap();
    assert!(matches!(
        refused(&world, &request).await,
        OutputError::InUse { .. }
    ));
    drop(file);
    run(&world.vault, &request).await.unwrap();
}

#[tokio::test]
async fn zeroes_take_no_space() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 256 << 11);
    // A megabyte of zeroes sent as data, with one piece of something in the middle.
    let mut bytes = vec![0; 1 << 20];
    bytes[512 << 10] = 1;
    world.write(0, 64 << 11, &bytes);
    world.commit_all().await;
    let scratch = scratch();
    let path = scratch.path().join("image");
    let restored = run(&world.vault, &latest(&world, &path)).await.unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.len(), 256 << 20);
    assert!(
        found.blocks() * 512 <= 64 << 10,
        "{} bytes taken",
        found.blocks() * 512
    );
    let disk = &restored.disks[0];
    assert_eq!(
        (disk.data_bytes, disk.written_bytes),
        (ByteLen(1 << 20), ByteLen(4_096))
    );
}

#[tokio::test]
async fn the_disks_of_a_machine_get_names_that_no_shell_and_no_filesystem_minds() {
    let mut world = World::new(memory_vault().await).await;
    for name in [
        "/dev/sda",
        "DEV/SDA",
        "../..",
        "",
        "a b\n\u{1b}[31m",
        "x".repeat(255).as_str(),
    ] {
        world.add_disk(name, 64);
    }
    world.commit_all().await;
    let scratch = scratch();
    let output = scratch.path().join("machine");
    let all = request(Subject::Machine(MACHINE), At::Latest, &output);
    let restored = run(&world.vault, &all).await.unwrap();
    let id = |disk: usize| world.disks[disk].id.to_string();
    let mut expected = [
        "dev_sda.raw".to_owned(),
        format!("DEV_SDA-{}.raw", id(1)),
        format!("{}.raw", id(2)),
        format!("{}.raw", id(3)),
        "a_b___31m.raw".to_owned(),
        format!("{}.raw", "x".repeat(100)),
    ];
    for (disk, name) in restored.disks.iter().zip(&expected) {
        assert_eq!(disk.path, output.canonicalize().unwrap().join(name));
    }
    expected.sort();
    assert_eq!(entries(&output), expected);
    assert_eq!(entries(scratch.path()), ["machine"]);
}

#[tokio::test]
async fn a_directory_that_has_something_in_it_is_used_only_when_that_is_said() {
    let world = world().await;
    let scratch = scratch();
    let output = scratch.path().join("machine");
    std::fs::create_dir(&output).unwrap();
    let mut all = request(Subject::Machine(MACHINE), At::Latest, &output);
    run(&world.vault, &all).await.unwrap();
    assert_eq!(entries(&output), ["dev_sda.raw"]);
    std::fs::write(output.join("dev_sda.raw"), "old").unwrap();
    std::fs::write(output.join("other"), "other").unwrap();
    assert!(matches!(
        refused(&world, &all).await,
        OutputError::Exists { .. }
    ));
    all.overwrite = true;
    run(&world.vault, &all).await.unwrap();
    assert_eq!(entries(&output), ["dev_sda.raw", "other"]);
    assert!(
        std::fs::read(output.join("dev_sda.raw")).unwrap() == world.disks[0].bytes_at(world.seq)
    );
    let file = request(Subject::Machine(MACHINE), At::Latest, output.join("other"));
    assert!(matches!(
        refused(&world, &file).await,
        OutputError::NotADirectory { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_given_up_leaves_nothing_behind() {
    let mut world = World::new(memory_vault().await).await;
    for disk in ["a", "b"] {
        let disk = world.add_disk(disk, 32 << 11);
        for mib in 0..32 {
            world.write(
                disk,
                mib << 11,
                &vec![u8::try_from(mib + 1).unwrap(); 1 << 20],
            );
        }
    }
    world.commit_all().await;
    let scratch = scratch();
    let disk = request(
        Subject::Disk(world.disks[0].id),
        At::Latest,
        scratch.path().join("image"),
    );
    let all = request(
        Subject::Machine(MACHINE),
        At::Latest,
        scratch.path().join("machine"),
    );
    for request in [disk, all] {
        let has_begun = Arc::new(tokio::sync::Notify::new());
        let vault = world.vault.clone();
        let told = Arc::clone(&has_begun);
        let seen = Arc::new(AtomicBool::new(false));
        let saw = Arc::clone(&seen);
        let directory = scratch.path().to_path_buf();
        let running = tokio::spawn(async move {
            let config = RestoreConfig::default();
            let progress = |progress: &everpoint_retention::Progress| {
                if 0 < progress.done.0 {
                    saw.fetch_or(!entries(&directory).is_empty(), Ordering::Relaxed);
                    told.notify_one();
                }
            };
            restore(&vault, &request, &config, &progress)
                .await
                .map(drop)
        });
        has_begun.notified().await;
        running.abort();
        let outcome = running.await;
        assert!(seen.load(Ordering::Relaxed), "something was staged");
        if outcome.is_err() {
            assert_eq!(entries(scratch.path()), [""; 0]);
        } else {
            empty(scratch.path());
        }
    }
}

/// The abort came too late, which is no fault of the restore.
fn empty(directory: &Path) {
    std::fs::remove_dir_all(directory.join("machine")).ok();
    std::fs::remove_file(directory.join("image")).ok();
}

#[tokio::test]
async fn progress_rises_to_its_total() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64 << 11);
    for mib in 0..24 {
        world.write(0, mib << 11, &vec![3; 1 << 20]);
    }
    world.commit_all().await;
    let scratch = scratch();
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |progress: &everpoint_retention::Progress| told.lock().unwrap().push(*progress);
    let request = latest(&world, scratch.path().join("image"));
    restore(&world.vault, &request, &RestoreConfig::default(), &progress)
        .await
        .unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.iter().is_sorted_by_key(|progress| progress.done));
    let last = told.last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (ByteLen(24 << 20), ByteLen(24 << 20))
    );
    assert_eq!((last.planned_count, last.plan_count), (1, 1));
}

#[tokio::test]
async fn limits_out_of_bounds_are_named_before_anything_is_done() {
    let world = world().await;
    let config = RestoreConfig {
        memory_max: ByteLen(1),
        ..RestoreConfig::default()
    };
    let request = latest(&world, "/nowhere/at/all");
    let error = restore(&world.vault, &request, &config, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error
            .to_string()
            .starts_with("restore setting memory_max is 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_disk_that_ended_is_restored_by_itself_up_to_its_end() {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", 64);
    world.add_disk("b", 64);
    let before = world.write(1, 8, &[9; 512]);
    world.record(1, everpoint_format::Change::DiskEnd);
    let after = world.write(0, 8, &[8; 512]);
    world.commit_all().await;
    let scratch = scratch();
    let restored = |seq, name: &str| {
        request(
            Subject::Machine(MACHINE),
            At::Seq(Seq(seq)),
            scratch.path().join(name),
        )
    };
    let both = run(&world.vault, &restored(before, "before"))
        .await
        .unwrap();
    let one = run(&world.vault, &restored(after, "after")).await.unwrap();
    assert_eq!((both.disks.len(), one.disks.len()), (2, 1));
    let ended = request(
        Subject::Disk(world.disks[1].id),
        At::Latest,
        scratch.path().join("b"),
    );
    assert_eq!(run(&world.vault, &ended).await.unwrap().seq, Seq(before));
}
