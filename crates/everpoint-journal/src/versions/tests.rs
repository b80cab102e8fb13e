//! Layers against the journals that they are made from: the same points, and the same bytes at each of them.

use bytes::Bytes;
use everpoint_format::layer::{LayerDirectory, LayerKind};
use everpoint_format::manifest::{FoldedTo, Manifest};
use everpoint_format::object::ObjectChecksum;
use everpoint_format::record::{Consistency, Record};
use everpoint_units::{DiskId, ManifestNo, RetentionId};
use proptest::prelude::*;

use super::*;
use crate::extent_map::ExtentMap;
use crate::history::MachineHistory;
use crate::sample::{KEY, MACHINE, Stream, VAULT, extent, journal, sections};
use crate::sweep::Sweep;

const DISK: DiskId = DiskId([1; 16]);

/// What happens to the disk, an object each.
#[derive(Clone, Debug)]
enum Step {
    /// Changes, and whether each ends its request.
    Block(Vec<(Change, bool)>),
    /// Order is lost; the next generation builds on what there is.
    Resync,
    /// It builds on nothing, and begins so many `Seq` back.
    Again(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let extents = || (0..64_u64, 1..32_u32).prop_map(|(start, len)| extent(start, len));
    prop_oneof![
        6 => extents().prop_map(Change::Data),
        2 => extents().prop_map(Change::Zero),
        1 => extents().prop_map(Change::Discard),
        1 => (1..96_u64).prop_map(|sectors| Change::Resize { sectors }),
        1 => (0..9_u64).prop_map(|at| Change::Bookmark {
            class: Consistency::Crash,
            name: format!("mark {at}").into(),
            at: WallTime(at * 1_000_000),
        }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let block = prop::collection::vec((change(), prop::bool::weighted(0.8)), 1..5);
    let step = prop_oneof![
        8 => block.prop_map(Step::Block),
        1 => Just(Step::Resync),
        1 => (0..6_u64).prop_map(Step::Again),
    ];
    prop::collection::vec(step, 1..16)
}

/// The sections that come of it, one an object.
fn play(steps: &[Step]) -> Vec<Section> {
    let mut stream = Stream::new(1);
    let mut seq = 3;
    let mut blocks = vec![stream.block(3, Stream::first_records(1))];
    for (step, id) in steps.iter().zip(0x20..) {
        let mut next = |ends_request, change| {
            seq += 1;
            Record {
                seq: Seq(seq),
                ends_request,
                change,
            }
        };
        let records = match step {
            Step::Block(changes) => {
                let changes = changes.iter().cloned();
                changes.map(|(change, ends)| next(ends, change)).collect()
            }
            Step::Resync | Step::Again(_) => {
                let stands = stream.begin_generation(id);
                let base = match step {
                    Step::Again(back) => {
                        seq -= back.min(&(seq - 3));
                        None
                    }
                    _ => stands,
                };
                let mut next = |change| {
                    seq += 1;
                    Record {
                        seq: Seq(seq),
                        ends_request: true,
                        change,
                    }
                };
                vec![
                    next(Change::ResyncBegin { base }),
                    next(Change::Data(extent(80, 8))),
                    next(Change::ResyncComplete),
                ]
            }
        };
        let through = records.last().map_or(0, |record: &Record| record.seq.0);
        blocks.push(stream.block(through, records));
    }
    let sections = blocks
        .iter()
        .map(|block| sections(std::slice::from_ref(block)).remove(0));
    sections.collect()
}

fn number(index: usize) -> ObjectNo {
    ObjectNo(index as u64 + 1)
}

fn fold_whole(sections: &[Section]) -> MachineHistory {
    let mut history = MachineHistory::new(MACHINE);
    for (index, section) in sections.iter().enumerate() {
        assert!(history.fold(section, journal(1), number(index)));
    }
    history
}

/// A part of the history in a layer, and as it is read back.
struct Layer {
    given: Vec<Given>,
    marks: Vec<Marks>,
}

/// Folds sections into a layer, and the history on, from one manifest to the next.
fn compact(
    manifest: Option<&Manifest>,
    sections: &[Section],
    first: usize,
) -> (Manifest, Option<Layer>) {
    let mut history =
        manifest.map_or_else(|| MachineHistory::new(MACHINE), MachineHistory::take_up);
    let mut draft = LayerDraft::default();
    for (index, section) in sections.iter().enumerate() {
        let at = (journal(1), number(first + index));
        assert!(history.fold(section, at.0, at.1));
        let copy = history.disks()[&DISK].copy();
        draft.fold(section, at, copy, &KEY).expect("no references");
    }
    let manifest = Manifest {
        vault: VAULT,
        machine: MACHINE,
        number: ManifestNo(first as u64 + 1),
        previous: ObjectChecksum([u8::from(first != 0); 32]),
        created_at: WallTime(0),
        position: FoldedTo {
            journal: journal(1),
            number: number(first + sections.len() - 1),
            checksum: ObjectChecksum([7; 32]),
        },
        closed: false,
        every_from: Seq::ZERO,
        highest_seq: history.highest_seq(),
        disks: history.disk_states(),
        layers: Vec::new(),
        packs: Vec::new(),
        points: Vec::new(),
        holds: Vec::new(),
        policy: None,
    };
    let manifest = Manifest::decode(&manifest.encode()).expect("its own work");
    let layer = (!draft.is_empty()).then(|| store(draft, &history));
    (manifest, layer)
}

fn store(draft: LayerDraft, history: &MachineHistory) -> Layer {
    let (after, through) = draft.range();
    let id = RetentionId {
        number: ManifestNo(1),
        random: [1; 16],
    };
    let header = LayerHeader {
        vault: VAULT,
        machine: MACHINE,
        disk: DISK,
        id,
        kind: LayerKind::History,
        sectors: 0..u64::MAX,
        after,
        through,
        created_at: WallTime(0),
    };
    let object = draft.finish(header, history.marks_of(DISK));
    let bytes = object.pieces.concat();
    let at = usize::try_from(object.directory_at).expect("small");
    let read = LayerDirectory::decode_tail(&bytes[at..], object.len);
    let (directory, _) = read.expect("its own work");
    let part = |at: u64, frame: &Frame| {
        let at = usize::try_from(at).expect("small");
        let stored = Bytes::copy_from_slice(&bytes[at..at + frame.stored_len as usize]);
        frame.open(&stored).expect("its own work")
    };
    let objects = &directory.objects;
    let pages = directory.pages.iter().map(|page| {
        let page = Page::decode(&part(page.at, &page.frame), objects.len());
        page.expect("its own work")
    });
    let given = pages.flat_map(|page| {
        let entries = page.entries.iter();
        let given = entries.map(|entry| Given::of(entry, &page, objects));
        given.collect::<Vec<_>>()
    });
    let marks = directory.marks.iter();
    let marks = marks.map(|marks| Marks::decode(&part(marks.at, &marks.frame)));
    Layer {
        given: given.collect(),
        marks: marks.map(|marks| marks.expect("its own work")).collect(),
    }
}

/// For each sector the record that gives it, and which of its sectors; where in which frame its bytes lie, and what
/// stands for the record's digests.
type Image = BTreeMap<u64, (Seq, u64, (u32, u64), DigestSeal)>;

fn image_of_map(sections: &[Section], through: Seq) -> Image {
    let mut map = ExtentMap::new(through);
    for (section, object) in sections.iter().zip(0..) {
        map.fold(section, object, 0);
    }
    let runs = map.runs().flat_map(|run| {
        let section = &sections[run.source.object as usize];
        let block = &section.blocks[run.source.block as usize];
        let (before, from) = block.records.split_at(run.source.record as usize);
        let record = &from[0];
        let raw_at: u64 = before.iter().map(|record| record.change.raw_len()).sum();
        let pieces_of = |record: &Record| match record.change {
            Change::Data(extent) => whole_pieces(extent).1,
            _ => 0,
        };
        let passed: usize = before.iter().map(pieces_of).sum();
        let digests = &block.digests[passed..passed + pieces_of(record)];
        let (crc, seal) = (block.frame.crc, DigestSeal::of(&KEY, digests));
        let first = run.extent.start().sector();
        let sectors = 0..u64::from(run.extent.sectors().get());
        let (seq, skip) = (record.seq, run.skip);
        sectors.map(move |at| {
            let place = (crc, raw_at + (skip + at) * SECTOR_LEN);
            (first + at, (seq, skip + at, place, seal))
        })
    });
    runs.collect()
}

fn image_of_layers(layers: &[Layer], through: Seq) -> Image {
    let mut given: Vec<_> = layers
        .iter()
        .flat_map(|layer| layer.given.clone())
        .collect();
    given.sort_by_key(|given| (given.sectors.start, given.version));
    let mut sweep = Sweep::new(through);
    given.into_iter().for_each(|given| sweep.push(given));
    sweep.finish();
    let found = sweep.take(1 << 20);
    let sectors = found.iter().flat_map(|found| {
        let (first, lead) = (found.sectors.start, u64::from(found.bytes.lead));
        let (own, bytes) = (found.sectors.clone(), found.bytes);
        own.map(move |at| {
            let place = (
                bytes.frame.crc,
                bytes.first_at() + (at - first) * SECTOR_LEN,
            );
            (at, (found.seq, lead + at - first, place, bytes.seal))
        })
    });
    sectors.collect()
}

fn same_points(whole: &MachineHistory, taken_up: &MachineHistory, highest: u64) {
    for disk in [None, Some(DISK)] {
        assert_eq!(taken_up.windows(disk), whole.windows(disk));
        for seq in (0..highest + 3).map(Seq) {
            assert_eq!(
                taken_up.check_point(disk, seq),
                whole.check_point(disk, seq)
            );
        }
        for time in (0..30).map(|at| WallTime(at * 500_000)) {
            assert_eq!(taken_up.at_time(disk, time), whole.at_time(disk, time));
        }
    }
    assert_eq!(taken_up.bookmarks(), whole.bookmarks());
    assert_eq!(taken_up.highest_seq(), whole.highest_seq());
    assert_eq!(taken_up.disk_states(), whole.disk_states());
    for seq in (0..highest + 3).map(Seq) {
        assert_eq!(taken_up.time_of(seq), whole.time_of(seq));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_folded_into_layers_is_the_history_that_it_was(
        steps in steps(),
        cuts in prop::collection::btree_set(1..18_usize, 0..3),
    ) {
        let sections = play(&steps);
        let whole = fold_whole(&sections);
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < sections.len()).collect();
        cuts.push(sections.len());
        let (mut manifest, mut layers, mut first) = (None, Vec::new(), 0);
        for cut in cuts {
            let (next, layer) = compact(manifest.as_ref(), &sections[first..cut], first);
            (manifest, first) = (Some(next), cut);
            layers.extend(layer);
            let mut taken_up = MachineHistory::take_up(manifest.as_ref().expect("just made"));
            let marks = layers.iter().flat_map(|layer| &layer.marks);
            marks.for_each(|marks| taken_up.add_marks(DISK, marks));
            for (index, section) in sections.iter().enumerate().skip(cut) {
                prop_assert!(taken_up.fold(section, journal(1), number(index)));
            }
            same_points(&whole, &taken_up, whole.highest_seq().0);
        }
        for through in (0..whole.highest_seq().0 + 2).map(Seq) {
            let expected = image_of_map(&sections, through);
            prop_assert_eq!(image_of_layers(&layers, through), expected, "{}", through);
        }
    }
}

#[test]
fn a_layer_has_its_pages_by_sector_and_its_frames_once() {
    let mut stream = Stream::new(1);
    let first = stream.block(3, Stream::first_records(1));
    let mut records = Vec::new();
    let at = |seq: u64| extent(seq.wrapping_mul(7_919) % 1_000, 1);
    records.extend((4..1_500).map(|seq| Record {
        seq: Seq(seq),
        ends_request: true,
        change: Change::Data(at(seq)),
    }));
    let late = records.split_off(700);
    let blocks = [first, stream.block(703, records), stream.block(1_500, late)];
    let stored = blocks
        .iter()
        .map(|block| u64::from(block.header().frame.stored_len));
    let stored: u64 = stored.sum();
    let section = sections(&blocks).remove(0);
    let mut draft = LayerDraft::default();
    draft
        .fold(&section, (journal(1), ObjectNo(1)), 0, &KEY)
        .expect("no references");
    assert_eq!((draft.len(), draft.range()), (1_501, (Seq(0), Seq(1_499))));
    let id = RetentionId {
        number: ManifestNo(1),
        random: [1; 16],
    };
    let object = draft.finish(
        LayerHeader {
            vault: VAULT,
            machine: MACHINE,
            disk: DISK,
            id,
            kind: LayerKind::History,
            sectors: 0..u64::MAX,
            after: Seq(0),
            through: Seq(1_499),
            created_at: WallTime(0),
        },
        Vec::new(),
    );
    let pages = &object.directory.pages;
    assert_eq!(pages.len(), 2, "{pages:?}");
    assert!(
        pages
            .iter()
            .all(|page| page.frame.raw_len as usize <= PAGE_LEN_MAX)
    );
    let home = FrameHome::Journal(journal(1), ObjectNo(1));
    assert_eq!(
        object.directory.objects,
        [LiveObject { home, live: stored }]
    );
}

#[test]
fn a_reference_that_leaves_its_frame_is_no_part_of_a_layer() {
    let mut stream = Stream::new(1);
    let data = Record {
        seq: Seq(9),
        ends_request: true,
        change: Change::Data(extent(0, 8)),
    };
    let mut section = sections(&[stream.block(9, vec![data])]).remove(0);
    let frame = section.blocks[0].frame;
    section.places = vec![Place {
        journal: journal(1),
        number: ObjectNo(1),
        frame_at: 128,
        frame,
        raw_at: 512,
    }];
    section.blocks[0].records[0].change = Change::Reference {
        extent: extent(0, 8),
        place_index: 0,
    };
    let mut draft = LayerDraft::default();
    let folded = draft.fold(&section, (journal(1), ObjectNo(1)), 0, &KEY);
    assert_eq!(folded, Err(BadReference { seq: Seq(9) }));
    section.places[0].raw_at = 0;
    let mut draft = LayerDraft::default();
    let folded = draft.fold(&section, (journal(1), ObjectNo(2)), 0, &KEY);
    assert_eq!(folded, Ok(()));
    let home = draft.given[0].bytes.map(|bytes| bytes.home);
    assert_eq!(home, Some(FrameHome::Journal(journal(1), ObjectNo(1))));
}
