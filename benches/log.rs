//! How close is the cache log to the bare device?
//!
//! Sketch: one sync serves everything that waits, files are zeroed beforehand, writes pass the page
//! cache by; so large appends go at the device's rate, and a single small one costs one write and
//! one fdatasync. Beside each stands a bare O_DIRECT loop into a zeroed file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everpoint_benches::disk_like;
use everpoint_cache_log::{CacheLog, CacheLogConfig, LogOwner};
use everpoint_units::{ByteLen, JournalId, Level, ServerId, VaultId};

const FILE_LEN: u64 = 256 << 20;

fn log_in(directory: &Path) -> CacheLog {
    let config = CacheLogConfig {
        file_len: ByteLen(64 << 20),
        ..CacheLogConfig::new(ByteLen(1 << 30))
    };
    let owner = LogOwner {
        vault: VaultId([1; 16]),
        server: ServerId([2; 16]),
        journal: JournalId {
            level: Level(1),
            random: [3; 16],
        },
    };
    let random = Box::new(rand::random);
    CacheLog::open(directory, &config, owner, random)
        .expect("a log")
        .0
}

/// A file of zeroes that was synced, open for direct writes; `None` where the filesystem has none.
fn zeroed(path: &Path) -> Option<File> {
    let file = File::create(path).expect("a file");
    let zeroes = vec![0; 4 << 20];
    for at in (0..FILE_LEN).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, at).expect("written");
    }
    file.sync_all().expect("synced");
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag");
    OpenOptions::new()
        .write(true)
        .custom_flags(direct)
        .open(path)
        .ok()
}

/// A buffer of `len` bytes at a multiple of 4 KiB inside a larger one: the buffer and where.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0x5a; len + 4_096];
    let at = buffer.as_ptr().align_offset(4_096);
    (buffer, at)
}

fn append(c: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let log = log_in(&directory.path().join("log"));
    let bare = zeroed(&directory.path().join("bare"));
    for (record, count) in [(4 << 10, 1), (64 << 10, 64), (1 << 20, 16)] {
        let total = record * count;
        let name = format!("{count} x {} KiB, durable", record >> 10);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(total as u64));
        group.sample_size(20);
        let payload: Bytes = disk_like(record, 3);
        group.bench_function("cache log", |b| {
            b.iter(|| {
                let appends: Vec<_> = (0..count).map(|_| log.append([payload.clone()])).collect();
                for append in appends {
                    let appended = append.wait().expect("durable");
                    log.free_through(appended.position());
                }
            });
        });
        if let Some(file) = &bare {
            let (buffer, from) = aligned(total);
            let mut at = 0;
            group.bench_function("bare O_DIRECT write and fdatasync", |b| {
                b.iter(|| {
                    file.write_all_at(&buffer[from..from + total], at)
                        .expect("written");
                    file.sync_data().expect("synced");
                    at = (at + total as u64) % (FILE_LEN - total as u64);
                    at -= at % 4_096;
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
