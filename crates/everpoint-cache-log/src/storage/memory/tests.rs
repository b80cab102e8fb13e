//! The disk in memory keeps the contract, and fails as it says.

use super::*;
use crate::buffer::AlignedBuffer;
use crate::storage::contract;

const NAME: FileName = FileName::New(1);

fn written(storage: &MemoryStorage, byte: u8) -> Box<dyn LogFile> {
    let file = storage.create(NAME, ByteLen(8_192)).expect("creates");
    file.write(&AlignedBuffer::copy_of(&[byte; 8_192]), ByteOffset(0))
        .expect("writes");
    file
}

fn first_block(storage: &MemoryStorage) -> Option<Vec<u8>> {
    let file = storage.open(NAME).ok()?;
    let mut into = AlignedBuffer::zeroed(4_096);
    file.read(&mut into, ByteOffset(0)).ok()?;
    Some(into.to_vec())
}

#[test]
fn memory_keeps_the_contract() {
    contract::check(&MemoryStorage::new(1));
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_over_the_seeds_loses_and_tears_the_rest() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let storage = MemoryStorage::new(seed);
        let file = written(&storage, 1);
        file.sync().expect("syncs");
        storage.sync_directory().expect("syncs");
        file.write(&AlignedBuffer::copy_of(&[2; 4_096]), ByteOffset(0))
            .expect("writes");
        storage.cut_power();
        let block = first_block(&storage).expect("name and length were synced");
        match block.iter().filter(|&&byte| byte == 2).count() {
            0 => lost += 1,
            4_096 => kept += 1,
            part => {
                assert!(part.is_multiple_of(SECTOR));
                torn += 1;
            }
        }
    }
    assert!(lost > 0 && kept > 0 && torn > 0, "{lost} {kept} {torn}");
}

#[test]
fn a_kill_loses_nothing_and_a_name_needs_a_sync_of_the_directory() {
    let storage = MemoryStorage::new(3);
    written(&storage, 1).sync().expect("syncs");
    storage.kill();
    assert_eq!(first_block(&storage), Some(vec![1; 4_096]));
    let cut = |seed| {
        let storage = MemoryStorage::new(seed);
        written(&storage, 1).sync().expect("syncs");
        storage.cut_power();
        first_block(&storage).is_some()
    };
    assert!((0..20).any(cut) && !(0..20).all(cut));
}

#[test]
fn after_a_failed_sync_the_next_succeeds_and_the_bytes_are_gone_from_the_medium_only() {
    let storage = MemoryStorage::new(3);
    let file = written(&storage, 1);
    file.sync().expect("syncs");
    file.write(&AlignedBuffer::copy_of(&[2; 4_096]), ByteOffset(0))
        .expect("writes");
    storage.set_faults(Faults {
        sync_fails_at: Some(0),
        ..Faults::default()
    });
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok());
    assert_eq!(first_block(&storage), Some(vec![2; 4_096]));
    file.drop_cached().expect("forgets");
    assert_eq!(first_block(&storage), Some(vec![1; 4_096]));
}

#[test]
fn nothing_happens_after_death() {
    let storage = MemoryStorage::new(3);
    let file = written(&storage, 1);
    storage.set_faults(Faults {
        dies_at: Some(storage.operations() + 1),
        ..Faults::default()
    });
    assert!(file.sync().is_err());
    let operations = storage.operations();
    assert!(file.sync().is_err() && storage.list().is_err());
    assert!(storage.is_dead());
    assert_eq!(storage.operations(), operations);
}

#[test]
fn a_full_disk_takes_no_more_until_there_is_room() {
    let storage = MemoryStorage::new(3);
    let full = Faults {
        capacity: Some(8_192),
        ..Faults::default()
    };
    storage.set_faults(full);
    let _file = written(&storage, 1);
    let refused = storage.create(FileName::New(2), ByteLen(4_096));
    let kind = refused.map(|_| ()).expect_err("full").kind();
    assert_eq!(kind, io::ErrorKind::StorageFull);
}

#[test]
fn a_sync_that_lies_makes_nothing_durable_and_says_nothing() {
    let lies = |storage: &MemoryStorage, syncs_lie| {
        storage.set_faults(Faults {
            syncs_lie,
            ..Faults::default()
        });
    };
    let survives = |seed| {
        let storage = MemoryStorage::new(seed);
        lies(&storage, true);
        let file = written(&storage, 1);
        assert!(file.sync().is_ok() && storage.sync_directory().is_ok());
        storage.cut_power();
        first_block(&storage).is_some()
    };
    assert!(!(0..20).all(survives), "it was not durable");
    let storage = MemoryStorage::new(1);
    lies(&storage, true);
    let file = written(&storage, 1);
    file.sync().expect("it lies");
    lies(&storage, false);
    file.sync().expect("syncs");
    storage.sync_directory().expect("syncs");
    storage.cut_power();
    let block = first_block(&storage).expect("a true sync covers what came before it");
    assert!(block.iter().all(|byte| *byte == 1));
}

#[test]
fn rot_turns_one_bit_of_what_was_written_for_good() {
    assert_eq!(MemoryStorage::new(1).rot(), None, "nothing was written");
    for seed in 0..20 {
        let storage = MemoryStorage::new(seed);
        let file = written(&storage, 1);
        file.sync().expect("syncs");
        storage.sync_directory().expect("syncs");
        assert!(storage.rot().is_some());
        storage.cut_power();
        let mut into = AlignedBuffer::zeroed(8_192);
        file.read(&mut into, ByteOffset(0)).expect("reads");
        let turned: u32 = into.iter().map(|byte| (byte ^ 1).count_ones()).sum();
        assert_eq!(turned, 1);
    }
}
