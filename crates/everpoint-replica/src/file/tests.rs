//! Tests of VHD files as targets: the contract, owners one after the other, owners beside each other.

mod failing;

use everpoint_units::Level;

use super::*;
use crate::contract;

const LEN: ByteLen = ByteLen((8 << 20) + 512);
const AT: ByteOffset = ByteOffset(1 << 20);

fn fence(level: u64) -> Fence {
    Fence::first_of(Level(level)).unwrap()
}

fn filled(byte: u8) -> Pages {
    Bytes::from(vec![byte; 4_096]).into()
}

async fn byte(target: &VhdFile, at: u64) -> u8 {
    let read = target.read(ByteOffset(at), ByteLen(512), None).await;
    read.unwrap()[0]
}

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::check(&VhdFile::new(dir.path(), "disk")).await;
}

#[tokio::test]
async fn a_file_says_that_it_keeps_no_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let target = VhdFile::new(dir.path(), "disk");
    target.create(LEN, fence(1)).await.unwrap();
    let snapshot = target.snapshot().await;
    let refused = matches!(snapshot, Err(PageError::Refused(Refusal::NoSnapshots)));
    assert!(refused, "{snapshot:?}");
}

#[tokio::test]
async fn the_next_owner_takes_the_file_over_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = VhdFile::new(dir.path(), "disk");
    first.create(LEN, fence(3)).await.unwrap();
    first.put(AT, &filled(7), fence(3)).await.unwrap();
    let old = first.path().unwrap().unwrap();
    drop(first);

    let second = VhdFile::new(dir.path(), "disk");
    let is = second.properties().await.unwrap().unwrap();
    assert_eq!((is.len, is.fence), (LEN, fence(3)));
    assert_eq!(second.raise(fence(9)).await.unwrap(), fence(9));
    assert_eq!(byte(&second, AT.0).await, 7);
    assert!(!old.exists());
    let names: Vec<_> = dir.path().read_dir().unwrap().collect();
    assert_eq!(names.len(), 1);
    assert!(
        second
            .path()
            .unwrap()
            .unwrap()
            .ends_with("disk.0000000009.vhd")
    );
}

#[tokio::test]
async fn an_older_owner_that_lives_writes_into_a_file_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let older = VhdFile::new(dir.path(), "disk");
    older.create(LEN, fence(3)).await.unwrap();
    older.put(AT, &filled(7), fence(3)).await.unwrap();
    let end = ByteOffset(LEN.0 - 512);
    let mark = Bytes::from_static(&[5; 512]).into();
    older.put(end, &mark, fence(3)).await.unwrap();

    let newer = VhdFile::new(dir.path(), "disk");
    assert_eq!(newer.raise(fence(4)).await.unwrap(), fence(4));
    assert_eq!(
        (byte(&newer, AT.0).await, byte(&newer, end.0).await),
        (7, 5)
    );
    older.put(AT, &filled(8), fence(3)).await.unwrap();
    assert_eq!(byte(&newer, AT.0).await, 7);
    newer.put(AT, &filled(9), fence(4)).await.unwrap();
    drop((older, newer));
    let third = VhdFile::new(dir.path(), "disk");
    third.raise(fence(5)).await.unwrap();
    assert_eq!(byte(&third, AT.0).await, 9);
}

#[tokio::test]
async fn a_lower_level_gets_the_higher_one_s_fence_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let owner = VhdFile::new(dir.path(), "disk");
    owner.create(LEN, fence(6)).await.unwrap();
    drop(owner);
    let late = VhdFile::new(dir.path(), "disk");
    assert_eq!(late.raise(fence(5)).await.unwrap(), fence(6));
    let put = late.put(AT, &filled(1), fence(5)).await;
    assert!(put.is_err(), "{put:?}");
}

#[tokio::test]
async fn two_processes_of_one_level_do_not_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let first = VhdFile::new(dir.path(), "disk");
    first.create(LEN, fence(2)).await.unwrap();
    let second = VhdFile::new(dir.path(), "disk");
    let raised = second.raise(fence(2).next().unwrap()).await;
    let refused = matches!(raised, Err(PageError::Refused(Refusal::InUse)));
    assert!(refused, "{raised:?}");
}
