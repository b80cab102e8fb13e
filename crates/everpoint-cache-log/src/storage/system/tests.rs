//! The real directory: the contract in both modes, and what it refuses.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use everpoint_format::cache_log::LogFileNo;

use super::*;
use crate::storage::contract;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn refusal(path: &Path) -> Refusal {
    match SystemStorage::open(path, DirectMode::Off) {
        Err(OpenError::NotPrivate { refusal, .. }) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_system_keeps_the_contract_with_and_without_the_page_cache() {
    for mode in [DirectMode::Off, DirectMode::Auto] {
        let dir = directory();
        let storage = SystemStorage::open(dir.path(), mode).expect("opens");
        contract::check(&storage);
        drop(storage);
        let left: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        assert_eq!(left.len(), 1, "the lock alone is left: {left:?}");
    }
}

#[test]
fn a_directory_that_is_missing_is_made_for_this_user_alone() {
    let dir = directory();
    let path = dir.path().join("log");
    SystemStorage::open(&path, DirectMode::Auto).expect("opens");
    let mode = fs::metadata(&path).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_second_opener_is_told_that_the_log_is_in_use_until_the_first_is_gone() {
    let dir = directory();
    let first = SystemStorage::open(dir.path(), DirectMode::Auto).expect("opens");
    let second = SystemStorage::open(dir.path(), DirectMode::Auto);
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    drop(first);
    SystemStorage::open(dir.path(), DirectMode::Auto).expect("opens");
}

#[test]
fn a_link_a_file_and_an_open_directory_are_refused() {
    let dir = directory();
    let (real, link, file) = (
        dir.path().join("real"),
        dir.path().join("link"),
        dir.path().join("file"),
    );
    fs::create_dir(&real).expect("made");
    symlink(&real, &link).expect("made");
    fs::write(&file, b"x").expect("made");
    assert_eq!(refusal(&link), Refusal::Symlink);
    assert_eq!(refusal(&file), Refusal::NotADirectory);
    fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).expect("set");
    assert!(matches!(refusal(&real), Refusal::WritableByOthers { .. }));
}

#[test]
fn the_lock_is_never_opened_through_a_link() {
    let dir = directory();
    let target = dir.path().join("target");
    symlink(&target, dir.path().join("lock")).expect("made");
    let refused = SystemStorage::open(dir.path(), DirectMode::Off);
    assert!(matches!(
        refused,
        Err(OpenError::Directory {
            operation: Operation::Lock,
            ..
        })
    ));
    assert!(!target.exists());
}

#[test]
fn every_file_that_is_not_plainly_ours_is_listed_with_its_refusal() {
    let dir = directory();
    let storage = SystemStorage::open(dir.path(), DirectMode::Off).expect("opens");
    let path = |number| {
        dir.path()
            .join(FileName::Log(LogFileNo(number)).to_string())
    };
    let stranger = dir.path().join("lost+found");
    fs::write(&stranger, b"x").expect("made");
    symlink(&stranger, path(1)).expect("made");
    fs::create_dir(path(2)).expect("made");
    fs::hard_link(&stranger, path(3)).expect("made");
    fs::write(path(4), b"x").expect("made");
    fs::set_permissions(path(4), fs::Permissions::from_mode(0o666)).expect("set");
    fs::write(path(5), b"x").expect("made");
    fs::set_permissions(path(5), fs::Permissions::from_mode(0o600)).expect("set");

    let mut listed = storage.list().expect("lists");
    listed.sort_by_key(|entry| entry.name);
    let refusals: Vec<_> = listed.iter().map(|entry| entry.refusal).collect();
    assert_eq!(refusals[0], Some(Refusal::Symlink));
    assert_eq!(refusals[1], Some(Refusal::NotAFile));
    assert_eq!(refusals[2], Some(Refusal::HardLinks { count: 2 }));
    assert!(matches!(
        refusals[3],
        Some(Refusal::WritableByOthers { .. })
    ));
    assert_eq!(refusals[4..], [None]);
    assert!(storage.open(FileName::Log(LogFileNo(1))).is_err());
}
