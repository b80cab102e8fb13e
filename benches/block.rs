//! What does a change block cost, beside the codecs it is made of?
//!
//! Sketch: packing 1 MiB is LZ4 (about 0.8 GB/s) and little else; decoding is two checksums at
//! memory speed; opening is LZ4 the other way (about 3 GB/s). Each stands beside its bare codec.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everpoint_benches::{block, disk_like, freeze, records};
use everpoint_format::change::{Captured, ChangeBlock, PackedBlock};
use everpoint_format::digest::{DigestKey, piece_digests};
use everpoint_units::{Extent, Lba};

const MIB: usize = 1 << 20;

fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    let raw = disk_like(MIB, 7);
    group.bench_function("bare lz4", |b| {
        let mut out = vec![0; lz4_flex::block::get_maximum_output_size(MIB)];
        b.iter(|| lz4_flex::block::compress_into(black_box(&raw), &mut out));
    });
    for len in [4 << 10, 1 << 20] {
        let records = records(&raw, len);
        group.bench_function(format!("block of {} KiB records", len >> 10), |b| {
            b.iter(|| {
                let packed =
                    PackedBlock::pack(records.clone(), black_box(raw.clone()), Captured::default());
                freeze(packed)
            });
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    let raw = disk_like(MIB, 7);
    for len in [4 << 10, 1 << 20] {
        let bytes = block(&raw, len).to_bytes();
        group.bench_function(format!("block of {} KiB records", len >> 10), |b| {
            b.iter(|| ChangeBlock::decode(black_box(bytes.clone())));
        });
    }
    let bytes = block(&raw, 1 << 20).to_bytes();
    group.bench_function("bare crc32 of the same bytes", |b| {
        b.iter(|| crc32fast::hash(black_box(&bytes)));
    });
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open and digest 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    let raw = disk_like(MIB, 7);
    let block = ChangeBlock::decode(block(&raw, 1 << 20).to_bytes()).expect("sound");
    let frame = block.header().frame;
    let payload = block.payload();
    group.bench_function("open the frame", |b| {
        b.iter(|| frame.open(black_box(&payload)))
    });
    group.bench_function("bare lz4", |b| {
        let mut out = vec![0; MIB];
        b.iter(|| lz4_flex::block::decompress_into(black_box(&payload), &mut out));
    });
    let key = DigestKey([9; 32]);
    let whole = Extent::between(Lba::ZERO, Lba::new(2_048).expect("small")).expect("not empty");
    group.bench_function("digests of its pieces", |b| {
        b.iter(|| piece_digests(&key, whole, black_box(&raw)));
    });
    group.bench_function("bare blake3 of its pieces", |b| {
        b.iter(|| raw.chunks_exact(4_096).map(blake3::hash).count());
    });
    group.finish();
}

criterion_group!(benches, pack, decode, open);
criterion_main!(benches);
