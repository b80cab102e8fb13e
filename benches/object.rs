//! What does it cost to make a journal object, and to create it in a vault?
//!
//! Sketch: making one shares the frames and writes an index, so it costs what the index costs: far
//! less than reading the frames once. Creating it costs the medium; beside it stands one plain
//! write and sync of the same bytes.

use std::fs::File;
use std::io::Write as _;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everpoint_benches::{block, disk_like};
use everpoint_format::change::ChangeBlock;
use everpoint_format::data::{DataBuilder, DataIndex, DataObject};
use everpoint_format::digest::{DigestKey, PieceDigest, piece_digests};
use everpoint_format::object::{ObjectChecksum, ObjectHeader};
use everpoint_units::{Extent, JournalId, Lba, Level, ObjectNo, ServerId, VaultId, WallTime};
use everpoint_vault::{ObjectName, OpenOptions, Payload, Vault, VaultConfig, VaultUrl};

const BLOCKS: usize = 64;

fn header() -> ObjectHeader {
    ObjectHeader {
        vault: VaultId([1; 16]),
        journal: JournalId {
            level: Level(1),
            random: [2; 16],
        },
        number: ObjectNo(1),
        server: ServerId([3; 16]),
        assignment: 0,
        previous: ObjectChecksum::default(),
        created_at: WallTime(0),
    }
}

/// Blocks of 1 MiB with their digests, as ingest hands them to the commit.
fn blocks() -> Vec<(ChangeBlock, Vec<PieceDigest>)> {
    let whole = Extent::between(Lba::ZERO, Lba::new(2_048).expect("small")).expect("not empty");
    (0..BLOCKS as u64)
        .map(|seed| {
            let raw = disk_like(1 << 20, seed + 1);
            let block = ChangeBlock::decode(block(&raw, 4_096).to_bytes()).expect("sound");
            let digests = piece_digests(&DigestKey([9; 32]), whole, &raw);
            (block, digests)
        })
        .collect()
}

fn build(blocks: Vec<(ChangeBlock, Vec<PieceDigest>)>) -> DataObject {
    let mut builder = DataBuilder::default();
    for (block, digests) in blocks {
        builder.push(&block, digests);
    }
    builder.freeze(header())
}

fn make(c: &mut Criterion) {
    let blocks = blocks();
    let object = build(blocks.clone());
    let mut group = c.benchmark_group("journal object of 64 blocks of 4 KiB records");
    group.throughput(Throughput::Bytes(object.len));
    group.bench_function("build without copying a frame", |b| {
        b.iter_batched(|| blocks.clone(), build, BatchSize::PerIteration);
    });
    let whole: bytes::Bytes = object.pieces.concat().into();
    group.bench_function("decode and check whole", |b| {
        b.iter(|| DataIndex::decode_whole(&whole));
    });
    group.finish();
}

fn create(c: &mut Criterion) {
    let object = build(blocks());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let url = VaultUrl::file(directory.path().join("vault")).expect("absolute");
    let config = VaultConfig::default();
    let opened = Vault::open(&url, &config, OpenOptions::CREATE);
    let vault = runtime.block_on(opened).expect("a vault");
    let payload = Payload::new(object.pieces.clone());
    let mut group = c.benchmark_group("journal object to a file vault, with syncs");
    group.throughput(Throughput::Bytes(object.len));
    group.sample_size(10);
    let mut number = 0_u64;
    group.bench_function("create", |b| {
        b.iter(|| {
            number += 1;
            let name = ObjectName::new(&format!("v1/bench/{number:020}")).expect("a name");
            runtime
                .block_on(vault.create(&name, &payload))
                .expect("created")
        });
    });
    let whole = object.pieces.concat();
    group.bench_function("plain write and sync of the same bytes", |b| {
        b.iter(|| {
            number += 1;
            let path = directory.path().join(format!("plain-{number}"));
            let mut file = File::create(&path).expect("a file");
            file.write_all(&whole).expect("written");
            file.sync_all().expect("synced");
            std::fs::remove_file(path).expect("removed");
        });
    });
    group.finish();
}

criterion_group!(benches, make, create);
criterion_main!(benches);
