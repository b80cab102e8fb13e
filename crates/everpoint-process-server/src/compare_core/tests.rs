//! Windows, and what in them differs.

use everpoint_format::digest::{PIECE_LEN, PieceDigest, PlainDigest};
use everpoint_format::index::BlockEntry;
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition};
use everpoint_units::{DiskId, Extent, GenerationId, Lba, Seq};

use super::*;
use crate::test_blocks::{DISK, OTHER_DISK, block};

const KEY: DigestKey = DigestKey([9; 32]);
/// The generation whose questions are answered.
const NEWEST: u8 = 8;
/// Where the window begins. Unit: pieces.
const FIRST: u64 = 100;
/// Unit: pieces.
const LEN: usize = 16;

/// An empty window.
fn core() -> CompareCore {
    let about = Compared {
        disk: DISK,
        generation: GenerationId([NEWEST; 16]),
        sectors: 1_000 * PIECE_SECTORS,
    };
    CompareCore::new(about, KEY, FIRST, LEN)
}

fn plain(content: u8) -> PlainDigest {
    PlainDigest::of(&[content; PIECE_LEN])
}

/// A write of one piece.
fn write(piece: u64) -> Change {
    let lba = |piece: u64| Lba::new(piece * PIECE_SECTORS).expect("on the disk");
    Change::Data(Extent::between(lba(piece), lba(piece + 1)).expect("one piece"))
}

/// A section behind `after` with these changes; what they write has `content`.
fn section(disk: DiskId, after: DiskPosition, changes: Vec<Change>, content: u8) -> Section {
    let block = block(disk, after, vec![(1, Change::Resize { sectors: 1 })]);
    let writes = changes
        .iter()
        .filter(|change| matches!(change, Change::Data(_)));
    let digests: Vec<PieceDigest> = writes.map(|_| KEY.seal(plain(content))).collect();
    let record = |change| Record {
        seq: Seq(1),
        ends_request: true,
        change,
    };
    let mut section = Section::begin(block.header());
    section.blocks.push(BlockEntry {
        records: changes.into_iter().map(record).collect(),
        ..BlockEntry::of(&block, 0, digests)
    });
    section
}

/// The first section of a generation.
fn begin(generation: u8, base: Option<DiskPosition>, writes: &[u64], content: u8) -> Section {
    let begin = Change::ResyncBegin { base };
    let changes = [begin].into_iter().chain(writes.iter().copied().map(write));
    section(DISK, start_of(generation), changes.collect(), content)
}

fn start_of(generation: u8) -> DiskPosition {
    DiskPosition::start_of(GenerationId([generation; 16]))
}

fn asked(first_piece: u64, contents: &[u8]) -> Compare {
    Compare {
        request: 1,
        first_piece,
        digests: contents.iter().map(|content| plain(*content)).collect(),
    }
}

#[test]
fn a_window_ends_with_the_disk_or_the_memory_and_never_before_the_question() {
    let about = Compared {
        disk: DiskId([1; 16]),
        generation: GenerationId([1; 16]),
        sectors: 10 * PIECE_SECTORS - 1,
    };
    assert_eq!(about.window_len(0, 100, 1), 10, "the last piece is short");
    assert_eq!(about.window_len(7, 100, 1), 3);
    assert_eq!(about.window_len(0, 4, 1), 4);
    assert_eq!(about.window_len(0, 4, 6), 6);
    assert_eq!(about.window_len(11, 4, 0), 0);
}

#[test]
fn a_compare_is_with_what_the_disk_held_before_the_generation() {
    let mut core = core();
    let first = begin(7, None, &[100, 101], 1);
    core.fold(&first);
    core.fold(&section(OTHER_DISK, start_of(7), vec![write(102)], 2));
    let second = section(DISK, first.end(), vec![write(103)], 3);
    core.fold(&second);
    let newest = begin(NEWEST, Some(second.end()), &[104], 4);
    core.fold(&newest);
    core.fold(&section(DISK, newest.end(), vec![write(105)], 5));
    core.fold(&section(DISK, second.end(), vec![write(106)], 6));
    let held = asked(FIRST, &[1, 1, 0, 3, 0, 0, 0]);
    assert_eq!(core.differences(&held), [0].as_slice());
}

#[test]
fn a_generation_that_builds_on_nothing_is_compared_with_zeroes() {
    let mut core = core();
    core.fold(&begin(7, None, &[100, 101], 1));
    core.fold(&begin(NEWEST, None, &[], 0));
    let asked = asked(FIRST, &[0, 1, 0]);
    assert_eq!(core.differences(&asked), [0b010].as_slice());
}

#[test]
fn a_copy_that_builds_on_nothing_makes_what_was_before_it_count_for_nothing() {
    let mut core = core();
    core.fold(&begin(6, None, &[100, 101], 1));
    let again = begin(7, None, &[101], 2);
    core.fold(&again);
    core.fold(&begin(NEWEST, Some(again.end()), &[], 0));
    let asked = asked(FIRST, &[0, 2, 0]);
    assert_eq!(core.differences(&asked), [0].as_slice());
}

#[test]
fn everything_differs_where_what_the_generation_builds_on_is_not_in_the_path() {
    let first = begin(7, None, &[100, 101], 1);
    let lost = section(DISK, first.end(), vec![write(101)], 2);
    let newest = begin(NEWEST, Some(lost.end()), &[], 0);
    let behind = section(DISK, newest.end(), vec![write(100)], 3);
    let asked = asked(FIRST, &[1, 1, 0]);

    let mut core = core();
    core.fold(&first);
    assert_eq!(core.differences(&asked), all_differ(&asked), "not yet");
    core.fold(&newest);
    core.fold(&behind);
    assert_eq!(core.differences(&asked), all_differ(&asked));
}

/// An object rotted, and the log of the boot that wrote it had all of it still.
#[test]
fn what_comes_into_the_path_for_the_second_time_is_what_counts() {
    let first = begin(7, None, &[100, 101], 1);
    let lost = section(DISK, first.end(), vec![write(101)], 2);
    let newest = begin(NEWEST, Some(lost.end()), &[], 0);
    let mut core = core();
    for section in [&first, &newest, &first, &lost, &newest] {
        core.fold(section);
    }
    let asked = asked(FIRST, &[1, 2, 0, 1]);
    assert_eq!(core.differences(&asked), [0b1000].as_slice());
}

#[test]
fn an_answer_has_one_bit_a_piece_from_the_first_asked_about_on() {
    let mut core = core();
    let first = begin(7, None, &[101, 110], 1);
    core.fold(&first);
    core.fold(&begin(NEWEST, Some(first.end()), &[], 0));
    let mut contents = [0; 11];
    contents[4] = 2;
    contents[5] = 2;
    let asked = asked(101, &contents);
    let differences = core.differences(&asked);
    assert_eq!(differences, [0b0011_0001, 0b0000_0010].as_slice());
    assert_eq!(all_differ(&asked), [0xff, 0xff].as_slice());
}

#[test]
fn a_window_covers_a_question_only_whole() {
    let core = core();
    assert!(core.covers(&asked(FIRST, &[0; LEN])));
    assert!(core.covers(&asked(FIRST + LEN as u64 - 1, &[0])));
    assert!(!core.covers(&asked(FIRST - 1, &[0; 2])));
    assert!(!core.covers(&asked(FIRST + LEN as u64 - 1, &[0; 2])));
}
