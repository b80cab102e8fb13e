//! Sealing: where the seal goes, and whose seal counts.

use super::*;
use crate::sample::{VAULT, journal};

fn order() -> SealOrder {
    SealOrder {
        vault: VAULT,
        journal: journal(1),
        successor: journal(2),
        server: ServerId([3; 16]),
        assignment: 0,
        now: WallTime(0),
    }
}

fn listing(objects: &[(u64, u64)]) -> Listing {
    Listing {
        objects: objects.iter().map(|&(n, len)| (ObjectNo(n), len)).collect(),
        has_end: false,
    }
}

fn seal_of(step: Step) -> Seal {
    match step {
        Step::Create(seal) => seal,
        other => panic!("no create: {other:?}"),
    }
}

const CHECKSUM: ObjectChecksum = ObjectChecksum([7; 32]);

/// An object with this checksum that follows one with that.
fn data(checksum: u8, previous: u8) -> Found {
    Found::Data {
        checksum: ObjectChecksum([checksum; 32]),
        previous: ObjectChecksum([previous; 32]),
    }
}

/// Answers the reads of objects `1..` in order; all of them are asked for.
fn read_all(sealing: &mut Sealing, objects: &[Found]) {
    for (number, found) in (1..).zip(objects) {
        assert_eq!(sealing.step(), Step::Read(ObjectNo(number)));
        sealing.handle_read(*found);
    }
}

#[test]
fn a_seal_goes_into_the_first_missing_number_and_states_what_lies_before() {
    let mut sealing = Sealing::new(order());
    assert_eq!(sealing.step(), Step::List);
    // 4 landed ahead of 3: it is beyond the gap and beyond the prefix.
    sealing.handle_listing(&listing(&[(1, 900), (2, 900), (4, 900)]));
    read_all(&mut sealing, &[data(6, 0), data(7, 6)]);
    let seal = seal_of(sealing.step());
    assert_eq!(
        (seal.header.number, seal.prefix_end),
        (ObjectNo(3), ObjectNo(2))
    );
    assert_eq!((seal.last_checksum, seal.successor), (CHECKSUM, journal(2)));
    sealing.handle_created(true);
    assert_eq!(sealing.step(), Step::Sealed(seal));
}

#[test]
fn a_journal_that_never_wrote_is_sealed_at_1() {
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[]));
    let seal = seal_of(sealing.step());
    assert_eq!(
        (seal.header.number, seal.prefix_end),
        (ObjectNo(1), ObjectNo(0))
    );
    assert_eq!(Seal::decode(&seal.encode()), Ok(seal));
}

#[test]
fn a_name_that_was_taken_meanwhile_makes_it_list_again() {
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[]));
    sealing.handle_created(false);
    assert_eq!(sealing.step(), Step::List);
    sealing.handle_listing(&listing(&[(1, 900)]));
    read_all(&mut sealing, &[data(7, 0)]);
    assert_eq!(seal_of(sealing.step()).header.number, ObjectNo(2));
}

#[test]
fn the_seal_that_stands_counts_wherever_it_stands() {
    let theirs = theirs();

    let mut sealing = Sealing::new(order());
    let seal_len = SEAL_LEN as u64;
    // A write of the sealed boot landed behind the seal.
    sealing.handle_listing(&listing(&[(1, seal_len), (2, 900)]));
    assert_eq!(sealing.step(), Step::Read(ObjectNo(1)));
    sealing.handle_read(Found::Seal(theirs));
    assert_eq!(sealing.step(), Step::Sealed(theirs));

    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&Listing {
        has_end: true,
        ..listing(&[])
    });
    assert_eq!(sealing.step(), Step::ReadEnd);
    sealing.handle_read(Found::Seal(theirs));
    assert_eq!(sealing.step(), Step::Sealed(theirs));
}

#[test]
fn damage_takes_no_seal() {
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[(1, 900), (2, 900)]));
    read_all(&mut sealing, &[data(7, 0), Found::Damaged]);
    let seal = seal_of(sealing.step());
    assert_eq!(
        (seal.header.number, seal.prefix_end),
        (ObjectNo(3), ObjectNo(2))
    );
}

#[test]
fn a_seal_states_the_prefix_and_lies_behind_the_run() {
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[(1, 900), (2, 900), (3, 900), (4, 900)]));
    // 3 follows another 2 than lies there, and 4 another 3: the first counts.
    read_all(
        &mut sealing,
        &[data(6, 0), data(7, 6), data(8, 5), data(9, 4)],
    );
    let seal = seal_of(sealing.step());
    assert_eq!(
        (seal.header.number, seal.prefix_end),
        (ObjectNo(5), ObjectNo(2))
    );
    assert_eq!(seal.last_checksum, CHECKSUM);
    assert_eq!(seal.header.previous, ObjectChecksum([9; 32]));
    assert_eq!(Seal::decode(&seal.encode()), Ok(seal));
}

#[test]
fn of_a_long_journal_only_the_last_objects_are_read() {
    let mut sealing = Sealing::new(order());
    let objects: Vec<_> = (1..=100).map(|number| (number, 900)).collect();
    sealing.handle_listing(&listing(&objects));
    let mut read = Vec::new();
    while let Step::Read(number) = sealing.step() {
        read.push(number.0);
        sealing.handle_read(data(7, 7));
    }
    assert_eq!(read, (84..=100).collect::<Vec<_>>());
    assert_eq!(seal_of(sealing.step()).prefix_end, ObjectNo(100));
}

/// The seal of somebody else, who was first.
fn theirs() -> Seal {
    let mut other = Sealing::new(SealOrder {
        successor: journal(5),
        ..order()
    });
    other.handle_listing(&listing(&[]));
    seal_of(other.step())
}

#[test]
fn an_object_as_short_as_a_seal_is_read_and_counts_only_if_it_is_one() {
    let seal_len = SEAL_LEN as u64;
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[(1, seal_len), (2, 900), (3, seal_len)]));
    for (number, found) in [(1, Found::Damaged), (3, data(8, 7))] {
        assert_eq!(sealing.step(), Step::Read(ObjectNo(number)));
        sealing.handle_read(found);
    }
    read_all(&mut sealing, &[Found::Damaged, data(7, 6), data(8, 7)]);
    assert_eq!(seal_of(sealing.step()).prefix_end, ObjectNo(3));
}

#[test]
fn an_end_that_is_no_seal_makes_it_list_again() {
    for found in [Found::Damaged, Found::Missing, data(7, 0)] {
        let mut sealing = Sealing::new(order());
        sealing.handle_listing(&Listing {
            has_end: true,
            ..listing(&[])
        });
        sealing.handle_read(found);
        assert_eq!(sealing.step(), Step::List);
    }
}

#[test]
fn what_became_of_the_last_objects_since_the_listing_counts() {
    for (found, step) in [
        (Found::Missing, Step::List),
        (Found::Seal(theirs()), Step::Sealed(theirs())),
    ] {
        let mut sealing = Sealing::new(order());
        assert_eq!(sealing.journal(), journal(1));
        sealing.handle_listing(&listing(&[(1, 900), (2, 900)]));
        read_all(&mut sealing, &[data(6, 0), found]);
        assert_eq!(sealing.step(), step);
    }
}

#[test]
fn the_first_object_of_a_journal_follows_nothing() {
    let mut sealing = Sealing::new(order());
    sealing.handle_listing(&listing(&[(1, 900), (2, 900)]));
    read_all(&mut sealing, &[data(6, 5), data(7, 6)]);
    let seal = seal_of(sealing.step());
    assert_eq!((seal.prefix_end, seal.last_checksum), Default::default());
}

#[test]
#[should_panic(expected = "nothing was to be read")]
fn what_was_not_asked_for_is_not_heard() {
    Sealing::new(order()).handle_read(Found::Damaged);
}

#[test]
#[should_panic(expected = "higher level")]
fn a_successor_of_the_same_level_is_refused() {
    let _refused = Sealing::new(SealOrder {
        successor: journal(1),
        ..order()
    });
}
