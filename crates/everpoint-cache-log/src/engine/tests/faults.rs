//! Single facts: what a failed sync, a full disk, a full quota and damage lead to.

use everpoint_format::cache_log::RecordAlign;
use everpoint_units::ByteOffset;

use super::*;
use crate::{Damage, ReadError};

/// A log with `count` records of 3,000 bytes, acknowledged one batch each.
fn filled(storage: &MemoryStorage, count: u64) -> (Arc<Engine>, Vec<LogPosition>) {
    let (engine, _) = open(storage, &config(), 1).expect("opens");
    let positions = (1..=count).map(|id| {
        let mut append = append(&engine, id, 3_000);
        settle_down(&engine);
        acked(&mut append)
    });
    let positions = positions.collect();
    (engine, positions)
}

/// Writes and syncs a mark, as the writer does when nothing comes.
fn mark(engine: &Engine) {
    let mark = engine.mark().expect("the last batch has none");
    assert!(engine.commit(mark).is_ok());
}

fn log(position: LogPosition) -> FileName {
    FileName::Log(position.file_no())
}

fn damage(storage: &MemoryStorage) -> Damage {
    match open(storage, &config(), 2) {
        Err(OpenError::Damaged(damage)) => damage,
        Err(error) => panic!("{error}"),
        Ok((_, boots)) => panic!("opened, with {boots:?}"),
    }
}

/// How many records each open finds, with accepted damage or without.
fn survivor_count(storage: &MemoryStorage, level: u64, accepts_damage: bool) -> usize {
    let config = CacheLogConfig {
        accepts_damage,
        ..config()
    };
    let (engine, boots) = open(storage, &config, level).expect("opens");
    let survivors = survivors(&engine, &boots).expect("reads");
    survivors.values().map(Vec::len).sum()
}

#[test]
fn a_failed_sync_is_the_end_also_when_the_disk_heals() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = filled(&storage, 1);
    let mut waiting = append(&engine, 2, 100);
    let batch = engine.next_batch().expect("a record waits");
    let mut queued = append(&engine, 3, 100);
    storage.set_faults(Faults {
        sync_fails_at: Some(0),
        ..Faults::default()
    });
    assert!(matches!(engine.commit(batch), Err(CommitFault::Poisoned)));

    let operations = storage.operations();
    let mut late = append(&engine, 4, 100);
    settle_down(&engine);
    assert_eq!(storage.operations(), operations, "the disk was touched");
    for append in [&mut waiting, &mut queued, &mut late] {
        let answer = append.answer().expect("answered");
        let AppendError::Poisoned(poisoned) = answer.expect_err("not durable") else {
            panic!("not poisoned");
        };
        assert_eq!(poisoned.operation, Operation::Sync);
        assert_eq!(poisoned.file, FileName::Log(LogFileNo(1)));
        assert_eq!(poisoned.source.code, Some(5));
    }
    storage.cut_power();
    assert_eq!(survivor_count(&storage, 2, false), 1);
}

#[test]
fn a_failed_sync_of_a_file_in_preparation_is_the_end_too() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    storage.set_faults(Faults {
        sync_fails_at: Some(0),
        ..Faults::default()
    });
    settle_down(&engine);
    assert_eq!(engine.stage(), Stage::Stopped);
    let refused = append(&engine, 1, 100).answer().expect("answered");
    assert!(matches!(refused, Err(AppendError::Poisoned(_))));
}

#[test]
fn a_full_file_system_holds_appends_back_and_they_go_on_when_space_returns() {
    let storage = MemoryStorage::new(1);
    storage.set_faults(Faults {
        capacity: Some(FILE_LEN - 1),
        ..Faults::default()
    });
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    let mut waiting = append(&engine, 1, 100);
    settle_down(&engine);
    assert_eq!(waiting.answer(), None);
    assert!(!engine.health().borrow().has_room && engine.usage().is_out_of_space);
    assert_eq!(storage.list().expect("lists"), [], "half made and left");

    storage.set_faults(Faults::default());
    engine.retry_space();
    settle_down(&engine);
    acked(&mut waiting);
    assert!(engine.health().borrow().has_room && !engine.usage().is_out_of_space);
}

#[test]
fn a_write_without_space_is_repeated_as_it_was_and_nothing_is_promised_before() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = filled(&storage, 1);
    storage.set_faults(Faults {
        no_space_for_writes: true,
        ..Faults::default()
    });
    let mut waiting = append(&engine, 2, 100);
    let batch = engine.next_batch().expect("a record waits");
    let Err(CommitFault::OutOfSpace(batch)) = engine.commit(batch) else {
        panic!("there was space");
    };
    assert_eq!(waiting.answer(), None);
    assert!(!engine.health().borrow().has_room);
    storage.set_faults(Faults::default());
    assert!(engine.commit(*batch).is_ok());
    acked(&mut waiting);
    assert!(engine.health().borrow().has_room);
    storage.cut_power();
    assert_eq!(survivor_count(&storage, 2, false), 2);
}

#[test]
fn a_full_quota_holds_appends_back_and_settled_files_let_them_go_on() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    let mut appends: Vec<_> = (1..=200).map(|id| append(&engine, id, 3_000)).collect();
    settle_down(&engine);
    let answers = appends.iter_mut().map(|append| append.answer());
    let positions: Vec<_> = answers
        .map_while(|answer| Some(answer?.expect("no failure").position()))
        .collect();
    assert!((50..150).contains(&positions.len()), "{}", positions.len());
    assert!(!engine.health().borrow().has_room);
    assert!(
        storage.total_len() <= QUOTA - FILE_LEN,
        "the reserve is kept"
    );

    engine.settle(positions[positions.len() - 1]);
    settle_down(&engine);
    acked(&mut appends[positions.len()]);
    assert!(storage.total_len() <= QUOTA);
}

#[test]
fn a_file_that_was_settled_before_it_was_complete_is_freed_when_it_is() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 1);
    engine.settle(positions[0]);
    settle_down(&engine);
    assert!(
        engine.view(LogFileNo(1)).is_some(),
        "it still takes records"
    );
    let _append = append(&engine, 2, 56_000);
    let batch = engine.next_batch().expect("a record for the next file");
    let rings = engine.bells.keeper.rings();
    assert!(engine.commit(batch).is_ok());
    assert!(rings < engine.bells.keeper.rings(), "the keeper is told");
    settle_down(&engine);
    assert!(engine.view(LogFileNo(1)).is_none());
}

#[test]
fn a_boot_that_finds_the_log_full_still_takes_a_file_of_new_records() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    let waiting: Vec<_> = (1..=200).map(|id| append(&engine, id, 3_000)).collect();
    settle_down(&engine);
    drop(waiting);
    drop(engine);
    storage.kill();
    let (engine, _) = open(&storage, &config(), 2).expect("opens");
    let mut first = append(&engine, 1, 3_000);
    settle_down(&engine);
    acked(&mut first);
    assert!(storage.total_len() <= QUOTA);
}

#[test]
fn a_reader_waits_for_what_is_not_synced_and_skips_nothing_when_the_next_file_is_begun() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 1);
    let mut reader = LogReader::new(Arc::clone(&engine), positions[0], None);
    let id = |reader: &mut LogReader| {
        let record = reader.next_record().expect("reads");
        record.map(|record| u64::from_le_bytes(*record.payload.first_chunk().expect("8 bytes")))
    };
    assert_eq!(id(&mut reader), Some(1));
    // Fill the first file; its last batch is on its way while the next file is begun.
    let mut next = 2;
    while engine.view(LogFileNo(2)).is_none() {
        let _append = append(&engine, next, 9_000);
        let _other = append(&engine, next + 1, 9_000);
        next += 2;
        let batch = engine.next_batch().expect("records wait");
        while engine.fill() {}
        assert_eq!(id(&mut reader), None, "not synced");
        assert!(engine.commit(batch).is_ok());
        settle_down(&engine);
        while id(&mut reader).is_some() {}
    }
    let _append = append(&engine, next, 30_000);
    let batch = engine.next_batch().expect("a record waits");
    let _other = append(&engine, next + 1, 50_000);
    while engine.fill() {}
    assert!(
        engine.view(LogFileNo(3)).is_some(),
        "the next file is begun"
    );
    assert_eq!(id(&mut reader), None);
    assert!(engine.commit(batch).is_ok());
    settle_down(&engine);
    assert_eq!(id(&mut reader), Some(next));
    assert_eq!(id(&mut reader), Some(next + 1));
    assert_eq!(id(&mut reader), None);
}

#[test]
fn what_was_freed_is_told_from_what_is_damaged() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 60);
    let (first, last) = (positions[0], positions[59]);
    assert!(first.file_no() < last.file_no());
    engine.settle(first.max(positions[20]));
    settle_down(&engine);
    let read = |position| crate::reader::read_one(&engine, position);
    assert_eq!(read(first), Err(ReadError::Freed { position: first }));
    assert_eq!(read(last), Ok(payload(60, 3_000)));
    storage.flip(log(last), ByteOffset(last.offset().0 + 100), 3);
    assert!(matches!(read(last), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_flipped_bit_in_a_proven_record_stops_the_boot_and_names_the_place() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 40);
    drop(engine);
    let hit = positions[5];
    storage.flip(log(hit), ByteOffset(hit.offset().0 + 100), 3);
    let Damage::Records { file, offset, .. } = damage(&storage) else {
        panic!("a record is damaged");
    };
    assert_eq!((file, offset), (hit.file_no(), hit.offset()));
    assert_eq!(survivor_count(&storage, 3, true), 39);
}

#[test]
fn the_last_batch_is_proven_by_a_mark_and_only_by_a_mark() {
    for is_marked in [false, true] {
        let storage = MemoryStorage::new(1);
        let (engine, positions) = filled(&storage, 5);
        if is_marked {
            mark(&engine);
        }
        drop(engine);
        storage.spoil(log(positions[4]), positions[4].offset());
        if is_marked {
            damage(&storage);
        } else {
            assert_eq!(survivor_count(&storage, 2, false), 4);
        }
    }
}

#[test]
fn no_flipped_bit_anywhere_makes_a_proven_record_vanish_in_silence() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 30);
    mark(&engine);
    drop(engine);
    let (mut refused, mut harmless) = (0, 0);
    for file in 1..=positions[29].file_no().0 {
        let name = FileName::Log(LogFileNo(file));
        for at in (0..FILE_LEN).step_by(61) {
            let bit = u8::try_from(at % 8).expect("below 8");
            // A boot that opens leaves traces, so each flip has a disk of its own.
            let storage = storage.fork();
            storage.flip(name, ByteOffset(at), bit);
            match open(&storage, &config(), 2) {
                Ok((engine, boots)) => {
                    let survivors = survivors(&engine, &boots).expect("reads");
                    assert_eq!(survivors[&1].len(), 30, "{name} byte {at}");
                    harmless += 1;
                }
                Err(OpenError::Damaged(_) | OpenError::Unreadable { .. }) => refused += 1,
                Err(error) => panic!("{name} byte {at}: {error}"),
            }
        }
    }
    assert!(1_000 < refused && 100 < harmless, "{refused} {harmless}");
}

#[test]
fn accepted_damage_costs_the_damaged_records_alone() {
    for is_spoiled in [false, true] {
        let storage = MemoryStorage::new(1);
        let (engine, positions) = filled(&storage, 3);
        mark(&engine);
        drop(engine);
        let first = positions[0];
        if is_spoiled {
            storage.spoil(log(first), first.offset());
        } else {
            storage.flip(log(first), first.offset(), 0);
        }
        let config = CacheLogConfig {
            accepts_damage: true,
            ..config()
        };
        let (engine, boots) = open(&storage, &config, 2).expect("opens");
        let survivors = survivors(&engine, &boots).expect("reads");
        assert_eq!(survivors[&1], [payload(2, 3_000), payload(3, 3_000)]);
        engine.settle(boots[0].last);
        settle_down(&engine);
        assert!(engine.view(first.file_no()).is_none(), "it can be freed");
    }
}

#[test]
fn a_lost_file_in_the_middle_stops_the_boot() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 60);
    drop(engine);
    assert!(LogFileNo(2) < positions[59].file_no());
    storage.lose(FileName::Log(LogFileNo(2)));
    let Damage::Records { file, missing, .. } = damage(&storage) else {
        panic!("records are missing");
    };
    assert_eq!(file, LogFileNo(1));
    let in_first = positions.iter().filter(|at| at.file_no() == LogFileNo(1));
    assert_eq!(missing.0, in_first.count() as u64 + 1);
}

#[test]
fn a_log_is_at_rest_only_when_nobody_gathers() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = filled(&storage, 1);
    assert!(engine.is_at_rest());
    let gatherer = engine.lock().assembly.take().expect("at rest");
    assert!(engine.next_batch().is_none() && !engine.is_at_rest());
    engine.stop(Stage::Draining);
    let rings = engine.bells.writer.rings();
    engine.put_back(engine.lock(), gatherer);
    assert!(engine.is_at_rest() && rings < engine.bells.writer.rings());
}

#[test]
fn a_file_under_another_number_is_damage() {
    let storage = MemoryStorage::new(1);
    drop(filled(&storage, 1));
    let name = FileName::Log(LogFileNo(1));
    storage
        .rename(name, FileName::Log(LogFileNo(99)))
        .expect("renames");
    assert!(matches!(
        damage(&storage),
        Damage::Header {
            file: LogFileNo(99),
            ..
        }
    ));
}

#[test]
fn a_lost_header_is_damage_and_a_newer_one_is_not() {
    let storage = MemoryStorage::new(1);
    let (engine, positions) = filled(&storage, 30);
    drop(engine);
    let first = log(positions[0]);
    storage.flip(first, ByteOffset(30), 0);
    let damage = damage(&storage);
    assert!(matches!(
        damage,
        Damage::Header {
            file: LogFileNo(1),
            ..
        }
    ));
    let left = positions.iter().filter(|at| at.file_no() != LogFileNo(1));
    assert_eq!(survivor_count(&storage, 3, true), left.count());

    storage.flip(first, ByteOffset(30), 0);
    storage.flip(first, ByteOffset(4), 7);
    let accepting = CacheLogConfig {
        accepts_damage: true,
        ..config()
    };
    let newer = open(&storage, &accepting, 4);
    assert!(matches!(newer, Err(OpenError::Unreadable { .. })));
}

#[test]
fn unsynced_records_behind_accepted_damage_are_durable_once_they_were_given_back() {
    for seed in 0..40 {
        let storage = MemoryStorage::new(seed);
        let (engine, positions) = filled(&storage, 5);
        storage.set_faults(Faults {
            dies_at: Some(storage.operations() + 2),
            ..Faults::default()
        });
        let _append = append(&engine, 6, 3_000);
        settle_down(&engine);
        storage.kill();
        let hit = positions[2];
        storage.flip(log(hit), ByteOffset(hit.offset().0 + 100), 3);
        assert_eq!(survivor_count(&storage, 2, true), 5);
        storage.cut_power();
        assert_eq!(survivor_count(&storage, 3, true), 5, "seed {seed}");
    }
}

#[test]
fn anothers_files_and_a_journal_of_before_are_refused() {
    let storage = MemoryStorage::new(1);
    drop(filled(&storage, 1));
    let open_as = |change: fn(&mut LogOwner)| {
        let mut owner = owner(2);
        change(&mut owner);
        let wanted = Wanted {
            owner,
            file_len: FILE_LEN,
            accepts_damage: true,
        };
        recovery::recover(&storage, &wanted).expect_err("refused")
    };
    let vault = open_as(|owner| owner.vault = VaultId([9; 16]));
    assert!(matches!(vault, OpenError::ForeignVault { .. }), "{vault}");
    let server = open_as(|owner| owner.server = ServerId([9; 16]));
    assert!(
        matches!(server, OpenError::ForeignServer { .. }),
        "{server}"
    );
    let journal = open_as(|owner| owner.journal.level = Level(1));
    assert!(matches!(journal, OpenError::JournalReused { .. }));
}

#[test]
fn a_device_of_4096_byte_sectors_gets_records_of_that_alignment() {
    let storage = MemoryStorage::new(1);
    storage.set_align(RecordAlign::Sector4096);
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    let mut appends: Vec<_> = (1..=9).map(|id| append(&engine, id, 100)).collect();
    settle_down(&engine);
    for append in &mut appends {
        assert!(acked(append).offset().0.is_multiple_of(4_096));
    }
    storage.cut_power();
    assert_eq!(survivor_count(&storage, 2, false), 9);
}

#[test]
fn payloads_of_a_wrong_length_are_refused_and_the_longest_is_taken() {
    let storage = MemoryStorage::new(1);
    let (engine, _) = open(&storage, &config(), 1).expect("opens");
    let longest = usize::try_from(FILE_LEN).expect("small") - 2 * 4_096 - 48;
    for len in [0, longest + 1] {
        let refused = engine.append(vec![Bytes::from(vec![1; len])]).answer();
        let wrong = AppendError::WrongLen { len, max: longest };
        assert_eq!(refused, Some(Err(wrong)));
    }
    let mut taken = engine.append(vec![Bytes::from(vec![1; longest])]);
    settle_down(&engine);
    acked(&mut taken);
}
