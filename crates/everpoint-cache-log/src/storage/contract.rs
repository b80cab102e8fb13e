//! What every storage must do, whoever implements it. The system's directory and the one in memory
//! run this in every test run.

use std::io;

use everpoint_units::{ByteLen, ByteOffset};

use super::{LogFile, Storage};
use crate::FileName;
use crate::buffer::AlignedBuffer;

const LEN: u64 = 32 << 10;
const NEW: FileName = FileName::New(1);
const SPARE: FileName = FileName::Spare(1);

/// Runs the whole contract against an empty directory, and leaves it empty.
///
/// # Panics
///
/// At the first clause that does not hold.
pub(crate) fn check(storage: &dyn Storage) {
    assert_eq!(names(storage), []);
    a_created_file_is_listed_and_reads_back(storage);
    a_name_is_created_once(storage);
    a_read_past_the_end_says_so(storage);
    a_renamed_file_keeps_its_bytes_and_loses_its_old_name(storage);
    a_removed_file_is_gone(storage);
}

fn a_created_file_is_listed_and_reads_back(storage: &dyn Storage) {
    let file = storage.create(NEW, ByteLen(LEN)).expect("creates");
    let len = usize::try_from(LEN).expect("small");
    write(&*file, 0, &vec![0; len]);
    write(&*file, 4_096, &[7; 8_192]);
    file.sync().expect("syncs");
    storage.sync_directory().expect("syncs");
    file.drop_cached().expect("forgets");
    assert_eq!(read(&*file, 0, 4_096).expect("reads"), [0; 4_096]);
    assert_eq!(read(&*file, 4_096, 8_192).expect("reads"), [7; 8_192]);
    let listed = storage.list().expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name, listed[0].len), (NEW, ByteLen(LEN)));
    assert_eq!(listed[0].refusal, None);
}

fn a_name_is_created_once(storage: &dyn Storage) {
    let refused = storage.create(NEW, ByteLen(LEN)).map(|_| ());
    let kind = refused.expect_err("exists").kind();
    assert_eq!(kind, io::ErrorKind::AlreadyExists);
}

fn a_read_past_the_end_says_so(storage: &dyn Storage) {
    let file = storage.open(NEW).expect("opens");
    let kind = read(&*file, LEN, 4_096).expect_err("the end").kind();
    assert_eq!(kind, io::ErrorKind::UnexpectedEof);
}

fn a_renamed_file_keeps_its_bytes_and_loses_its_old_name(storage: &dyn Storage) {
    storage.rename(NEW, SPARE).expect("renames");
    storage.sync_directory().expect("syncs");
    assert_eq!(names(storage), [SPARE]);
    let file = storage.open(SPARE).expect("opens");
    assert_eq!(read(&*file, 4_096, 4_096).expect("reads"), [7; 4_096]);
    let kind = storage.open(NEW).map(|_| ()).expect_err("gone").kind();
    assert_eq!(kind, io::ErrorKind::NotFound);
}

fn a_removed_file_is_gone(storage: &dyn Storage) {
    storage.remove(SPARE).expect("removes");
    storage.sync_directory().expect("syncs");
    assert_eq!(names(storage), []);
}

fn names(storage: &dyn Storage) -> Vec<FileName> {
    let listed = storage.list().expect("lists");
    listed.into_iter().map(|entry| entry.name).collect()
}

fn write(file: &dyn LogFile, at: u64, bytes: &[u8]) {
    file.write(&AlignedBuffer::copy_of(bytes), ByteOffset(at))
        .expect("writes");
}

fn read(file: &dyn LogFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut into = AlignedBuffer::zeroed(len);
    file.read(&mut into, ByteOffset(at))?;
    Ok(into.to_vec())
}
