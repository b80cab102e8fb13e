//! The whole log with its threads: on the file system with and without O_DIRECT, and on the disk in
//! memory where something must fail.

use std::fs;
use std::future::Future;
use std::os::unix::fs::{FileExt, symlink};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use everpoint_format::cache_log::PAYLOAD_LEN_MAX;
use everpoint_units::{JournalId, Level, ServerId, VaultId};

use super::*;
use crate::storage::memory::{Faults, MemoryStorage};
use crate::{DirectMode, FileName, Refusal};

const FILE_LEN: u64 = 4 << 20;

fn config(direct: DirectMode) -> CacheLogConfig {
    CacheLogConfig {
        file_len: ByteLen(FILE_LEN),
        reserve: ByteLen(FILE_LEN),
        direct,
        mark_after: Duration::from_secs(600),
        space_retry_after: Duration::from_millis(1),
        ..CacheLogConfig::new(ByteLen(16 * FILE_LEN))
    }
}

fn owner(level: u64) -> LogOwner {
    LogOwner {
        vault: VaultId([1; 16]),
        server: ServerId([2; 16]),
        journal: JournalId {
            level: Level(level),
            random: [3; 16],
        },
    }
}

fn random_bits() -> RandomBits {
    let mut count = 0_u128;
    Box::new(move || {
        count += 1;
        count.to_le_bytes()
    })
}

fn open(path: &Path, direct: DirectMode, level: u64) -> (CacheLog, Recovered) {
    CacheLog::open(path, &config(direct), owner(level), random_bits()).expect("opens")
}

fn open_memory(storage: &MemoryStorage, level: u64) -> (CacheLog, Recovered) {
    let storage = Arc::new(storage.clone());
    let config = config(DirectMode::Off);
    CacheLog::open_on(storage, &config, owner(level), random_bits()).expect("opens")
}

fn payload(id: usize, len: usize) -> Bytes {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(len.max(8), id.to_le_bytes()[0]);
    Bytes::from(bytes)
}

fn is_pending(future: impl Future) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Pending)
}

/// Comes back when the condition holds; a bug makes it fail instead of hang.
async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, holds)
        .await
        .expect("in time");
}

fn all(recovered: &Recovered) -> Vec<Bytes> {
    let Some(mut reader) = recovered.reader() else {
        return Vec::new();
    };
    let next = || {
        reader
            .next_record()
            .expect("reads")
            .map(|record| record.payload)
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_drop_in_the_order_of_the_calls() {
    for direct in [DirectMode::Off, DirectMode::Auto] {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, recovered) = open(dir.path(), direct, 1);
        assert_eq!(recovered.boots, []);
        let lens = [1, 700, 4_096, 70_000, PAYLOAD_LEN_MAX];
        let payloads: Vec<_> = (0..60).map(|id| payload(id, lens[id % 5])).collect();
        let appends: Vec<_> = payloads.iter().map(|p| log.append([p.clone()])).collect();
        let positions: Vec<_> = appends
            .into_iter()
            .map(|append| append.wait().expect("durable").position())
            .collect();
        assert!(positions.is_sorted());
        for (position, payload) in positions.iter().zip(&payloads) {
            assert_eq!(log.read(*position).as_ref(), Ok(payload));
        }
        drop((log, recovered));

        let (log, recovered) = open(dir.path(), direct, 2);
        assert_eq!(all(&recovered), payloads);
        assert_eq!(recovered.boots.len(), 1);
        assert_eq!(recovered.boots[0].block_count, 60);
        assert_eq!(recovered.first(), Some(positions[0]));
        assert_eq!(recovered.last(), Some(positions[59]));
        let after = log.append([payload(60, 10)]).wait().expect("durable");
        assert!(positions[59] < after.position());
        log.free_through(positions[59]);
        drop((log, recovered));
        let (_, recovered) = open(dir.path(), direct, 3);
        assert_eq!(all(&recovered).last(), Some(&payload(60, 10)));
    }
}

#[test]
fn many_threads_append_at_once_and_each_finds_its_own_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open(dir.path(), DirectMode::Auto, 1);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for number in 0..100 {
                    let mine = payload(thread * 1_000 + number, 3_000);
                    let appended = log.append([mine.clone()]).wait().expect("durable");
                    assert_eq!(log.read(appended.position()), Ok(mine));
                }
            });
        }
    });
}

#[tokio::test]
async fn a_closed_log_has_written_what_was_queued_and_takes_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open(dir.path(), DirectMode::Auto, 1);
    log.append([payload(0, 100)]).await.expect("durable");
    let queued: Vec<_> = (1..50).map(|id| log.append([payload(id, 100)])).collect();
    log.close().await.expect("closes");
    for append in queued {
        append.await.expect("durable");
    }
    let late = log.append([payload(50, 100)]).await;
    assert_eq!(late, Err(AppendError::Closed));
    log.close().await.expect("closing twice does no harm");
    drop(log);

    let (_, recovered) = open(dir.path(), DirectMode::Auto, 2);
    assert_eq!(all(&recovered).len(), 50);
}

#[tokio::test]
async fn a_clean_close_proves_the_last_record_so_that_its_loss_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, _) = open(dir.path(), DirectMode::Off, 1);
    let appended = log.append([payload(0, 100)]).await.expect("durable");
    log.close().await.expect("closes");
    drop(log);
    let position = appended.position();
    let name = FileName::Log(position.file_no()).to_string();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join(name));
    let at = position.offset().0 + 60;
    file.expect("opens").write_all_at(b"?", at).expect("writes");

    let config = config(DirectMode::Off);
    let refused = CacheLog::open(dir.path(), &config, owner(2), random_bits());
    let error = refused.map(|_| ()).expect_err("damaged");
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    let accepting = CacheLogConfig {
        accepts_damage: true,
        ..config
    };
    let opened = CacheLog::open(dir.path(), &accepting, owner(2), random_bits());
    assert_eq!(opened.expect("opens").1.damage.len(), 1);
}

#[tokio::test]
async fn a_log_that_is_freed_as_it_goes_takes_more_than_its_quota() {
    let storage = MemoryStorage::new(1);
    let (log, _) = open_memory(&storage, 1);
    let appends: Vec<_> = (0..80)
        .map(|id| log.append([payload(id, 1 << 20)]))
        .collect();
    for append in appends {
        log.free_through(append.await.expect("durable").position());
    }
    assert!(storage.total_len() <= 16 * FILE_LEN);
}

#[tokio::test]
async fn space_that_returns_needs_no_restart() {
    let storage = MemoryStorage::new(1);
    storage.set_faults(Faults {
        capacity: Some(0),
        ..Faults::default()
    });
    let (log, _) = open_memory(&storage, 1);
    let mut append = log.append([payload(0, 100)]);
    until(|| log.usage().is_out_of_space).await;
    assert!(is_pending(log.wait_for_room()));
    assert!(is_pending(&mut append));
    storage.set_faults(Faults::default());
    append.await.expect("durable");
    log.wait_for_room().await;
}

#[tokio::test]
async fn a_failed_sync_is_told_to_everyone_and_closing_says_so_too() {
    let storage = MemoryStorage::new(1);
    let (log, _) = open_memory(&storage, 1);
    log.append([payload(0, 100)]).await.expect("durable");
    assert!(is_pending(log.poisoned()));
    // The fault is for the writer: the keeper has nothing to do any more.
    until(|| log.engine.ready_count() == 2).await;
    storage.set_faults(Faults {
        sync_fails_at: Some(0),
        ..Faults::default()
    });
    let failed = log.append([payload(1, 100)]).await;
    let poisoned = log.poisoned().await;
    assert!(matches!(poisoned.file, FileName::Log(_)));
    assert_eq!(failed, Err(AppendError::Poisoned(poisoned)));
    let late = log.append([payload(2, 100)]).await;
    assert_eq!(late, Err(AppendError::Poisoned(poisoned)));
    assert_eq!(late.expect_err("failed").remedy(), crate::Remedy::Exit);
    log.wait_for_room().await;
    assert_eq!(log.close().await, Err(AppendError::Poisoned(poisoned)));
}

#[tokio::test]
async fn a_dropped_log_answers_those_who_wait_for_room() {
    let storage = MemoryStorage::new(1);
    storage.set_faults(Faults {
        capacity: Some(0),
        ..Faults::default()
    });
    let (log, _) = open_memory(&storage, 1);
    let append = log.append([payload(0, 100)]);
    drop(log);
    assert_eq!(append.await, Err(AppendError::Closed));
}

#[tokio::test]
async fn a_log_without_appends_marks_its_last_batch_by_itself() {
    let storage = MemoryStorage::new(1);
    let config = CacheLogConfig {
        mark_after: Duration::from_millis(1),
        ..config(DirectMode::Off)
    };
    let shared = Arc::new(storage.clone());
    let (log, _) = CacheLog::open_on(shared, &config, owner(1), random_bits()).expect("opens");
    let appended = log.append([payload(0, 100)]).await.expect("durable");
    until(|| !log.engine.wants_mark() && !log.engine.has_batch_in_flight()).await;
    drop(log);
    let position = appended.position();
    storage.spoil(FileName::Log(position.file_no()), position.offset());
    let refused = CacheLog::open_on(Arc::new(storage), &config, owner(2), random_bits());
    assert!(matches!(refused, Err(OpenError::Damaged(_))));
}

#[test]
fn links_among_the_files_and_a_second_process_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, recovered) = open(dir.path(), DirectMode::Off, 1);
    let config = config(DirectMode::Off);
    let second = CacheLog::open(dir.path(), &config, owner(2), random_bits());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    drop((log, recovered));

    let name = FileName::Spare(99).to_string();
    symlink("/dev/null", dir.path().join(name)).expect("made");
    let refused = CacheLog::open(dir.path(), &config, owner(2), random_bits());
    assert!(matches!(
        refused,
        Err(OpenError::Refused {
            file: FileName::Spare(99),
            refusal: Refusal::Symlink
        })
    ));
}
