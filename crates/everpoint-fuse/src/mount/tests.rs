//! What is said where nothing can be mounted. Mounts themselves are tested end to end: they need root.

use std::fs;
use std::time::UNIX_EPOCH;

use everpoint_units::ByteLen;

use super::*;

#[test]
fn a_directory_that_is_missing_full_or_none_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    check_directory(directory.path()).unwrap();
    let file = directory.path().join("file");
    let missing = check_directory(&file).unwrap_err();
    assert!(matches!(missing, FuseMountError::Missing { path } if path == file));
    fs::write(&file, "").unwrap();
    let none = check_directory(&file).unwrap_err();
    assert!(matches!(none, FuseMountError::NotADirectory { .. }));
    let full = check_directory(directory.path()).unwrap_err();
    assert!(matches!(full, FuseMountError::NotEmpty { .. }));
}

#[test]
fn a_device_that_is_missing_or_does_not_open_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let missing = check_device(&directory.path().join("fuse")).unwrap_err();
    assert!(matches!(missing, FuseMountError::NoDevice));
    let closed = check_device(directory.path()).unwrap_err();
    assert!(matches!(closed, FuseMountError::Device { .. }));
}

#[test]
fn a_user_needs_the_program_that_mounts_and_root_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let folder = || std::iter::once(directory.path().to_path_buf());
    check_helper(true, folder()).unwrap();
    let none = check_helper(false, folder()).unwrap_err();
    assert!(matches!(none, FuseMountError::NoHelper));
    fs::write(directory.path().join("fusermount3"), "").unwrap();
    check_helper(false, folder()).unwrap();
}

#[test]
fn a_name_that_leads_elsewhere_is_no_name() {
    let named = |name: &str| FileInfo {
        name: name.into(),
        size: ByteLen(512),
        allocated: ByteLen(512),
        writable: false,
        modified: UNIX_EPOCH,
    };
    assert!(named("disk.raw").has_a_name());
    for name in ["", ".", "..", "a/b", "a\0b", &"n".repeat(256)] {
        assert!(!named(name).has_a_name(), "{name:?}");
    }
}

/// One that has the number of what lies under it, and was unmounted or not.
fn mounted(directory: &Path, is_over: bool) -> FuseMount {
    FuseMount {
        directory: directory.to_path_buf(),
        name: "disk.raw".into(),
        id: FilesystemId::of(directory).unwrap(),
        session: None,
        serving: Arc::new(Serving::new(&FuseConfig::default())),
        over: watch::channel(is_over).1,
    }
}

#[tokio::test]
async fn what_was_unmounted_is_not_unmounted_again_whatever_the_directory_shows() {
    let directory = tempfile::tempdir().unwrap();
    // The kernel would refuse: nothing is mounted there.
    mounted(directory.path(), true).end().await.unwrap();
}

#[tokio::test]
async fn what_is_still_there_after_an_unmount_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = mounted(directory.path(), false).end().await.unwrap_err();
    assert!(matches!(refused, UnmountError::Refused { .. }), "{refused}");
}
