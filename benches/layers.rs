//! What does it cost to fold changes into a map layer, and to read a disk's bytes from it?
//!
//! Sketch: folding sorts the changes by sector, makes a seal over the digests of each, and packs pages of 64 KiB. A change
//! of 4 KiB has one digest, which is its seal; one of 64 KiB has 16, which are hashed once more. Reading is one sweep.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everpoint_benches::{block, disk_like};
use everpoint_format::change::ChangeBlock;
use everpoint_format::data::DataBuilder;
use everpoint_format::digest::{DigestKey, PieceDigest, piece_digests};
use everpoint_format::index::Section;
use everpoint_format::layer::page::Page;
use everpoint_format::layer::{LayerHeader, LayerKind, LayerObject};
use everpoint_format::object::{ObjectChecksum, ObjectHeader};
use everpoint_journal::sweep::Sweep;
use everpoint_journal::versions::{Given, LayerDraft};
use everpoint_units::{
    DiskId, Extent, JournalId, Lba, Level, MachineId, ManifestNo, ObjectNo, RetentionId, Seq,
    ServerId, VaultId, WallTime,
};

const KEY: DigestKey = DigestKey([9; 32]);
const BLOCKS: usize = 64;
const JOURNAL: JournalId = JournalId {
    level: Level(1),
    random: [2; 16],
};

/// One object of 64 blocks of 1 MiB, in records of so many bytes.
fn sections(record_len: usize) -> Vec<Section> {
    let whole = Extent::between(Lba::ZERO, Lba::new(2_048).expect("small")).expect("not empty");
    let mut builder = DataBuilder::default();
    for seed in 0..BLOCKS as u64 {
        let raw = disk_like(1 << 20, seed + 1);
        let block = ChangeBlock::decode(block(&raw, record_len as u64).to_bytes()).expect("sound");
        let digests: Vec<PieceDigest> = piece_digests(&KEY, whole, &raw);
        builder.push(&block, digests);
    }
    let header = ObjectHeader {
        vault: VaultId([1; 16]),
        journal: JOURNAL,
        number: ObjectNo(1),
        server: ServerId([3; 16]),
        assignment: 0,
        previous: ObjectChecksum::default(),
        created_at: WallTime(0),
    };
    builder.freeze(header).index.sections
}

fn fold(sections: &[Section]) -> LayerObject {
    let mut draft = LayerDraft::default();
    for section in sections {
        let folded = draft.fold(section, (JOURNAL, ObjectNo(1)), 0, &KEY);
        folded.expect("no references");
    }
    let (after, through) = draft.range();
    let header = LayerHeader {
        vault: VaultId([1; 16]),
        machine: MachineId([2; 16]),
        disk: DiskId([3; 16]),
        id: RetentionId {
            number: ManifestNo(1),
            random: [4; 16],
        },
        kind: LayerKind::History,
        sectors: 0..u64::MAX,
        after,
        through,
        created_at: WallTime(0),
    };
    draft.finish(header, Vec::new())
}

fn pages(layer: &LayerObject) -> Vec<Page> {
    let bytes: bytes::Bytes = layer.pieces.concat().into();
    let directory = &layer.directory;
    let pages = directory.pages.iter().map(|place| {
        let at = usize::try_from(place.at).expect("small");
        let stored = bytes.slice(at..at + place.frame.stored_len as usize);
        let raw = place.frame.open(&stored).expect("its own work");
        Page::decode(&raw, directory.objects.len()).expect("its own work")
    });
    pages.collect()
}

fn compact(c: &mut Criterion) {
    for (name, record_len) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10)] {
        let sections = sections(record_len);
        let changes = (BLOCKS << 20) / record_len;
        let mut group = c.benchmark_group(format!("map layer of changes of {name}"));
        group.throughput(Throughput::Elements(changes as u64));
        group.bench_function("fold, sort and pack", |b| b.iter(|| fold(&sections)));
        let layer = fold(&sections);
        group.bench_function("open its pages and find a disk's bytes", |b| {
            b.iter_batched(
                || Sweep::new(Seq(u64::MAX)),
                |mut sweep| {
                    for page in pages(&layer) {
                        for entry in &page.entries {
                            sweep.push(Given::of(entry, &page, &layer.directory.objects));
                        }
                    }
                    sweep.finish();
                    sweep.take(u64::MAX).len()
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, compact);
criterion_main!(benches);
