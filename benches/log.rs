//! How close is the cache log to the bare device?
//!
//! Sketch: one sync serves everything that waits, files are zeroed beforehand, writes pass the page
//! cache by; so large appends go at the device's rate, and a single small one costs one write and
//! one fdatasync. Beside each stands a bare O_DIRECT loop into a zeroed file.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everpoint_benches::direct::{AlignedBuffer, zeroed};
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

fn append(c: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let log = log_in(&directory.path().join("log"));
    let (bare, direct) = zeroed(&directory.path().join("bare"), FILE_LEN).expect("a file");
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
        let buffer = AlignedBuffer::new(total);
        let how = if direct { "O_DIRECT" } else { "buffered" };
        let mut at = 0;
        group.bench_function(format!("bare {how} write and fdatasync"), |b| {
            b.iter(|| {
                let written = bare.write_all_at(buffer.as_slice(), at);
                written.expect("written");
                bare.sync_data().expect("synced");
                at = (at + total as u64) % (FILE_LEN - total as u64);
                at -= at % 4_096;
            });
        });
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
