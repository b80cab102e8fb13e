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
