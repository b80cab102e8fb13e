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

#[test]
fn a_seal_goes_into_the_first_missing_number_and_states_what_lies_before() {
    let mut sealing = Sealing::new(order());
    assert_eq!(sealing.step(), Step::List);
    // 4 landed ahead of 3: it is beyond the gap and beyond the prefix.
    sealing.handle_listing(&listing(&[(1, 900), (2, 900), (4, 900)]));
    assert_eq!(sealing.step(), Step::Read(ObjectNo(2)));
    sealing.handle_read(Found::Data(CHECKSUM));
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
    sealing.handle_read(Found::Data(CHECKSUM));
    assert_eq!(seal_of(sealing.step()).header.number, ObjectNo(2));
}

#[test]
fn the_seal_that_stands_counts_wherever_it_stands() {
    let mut other = Sealing::new(SealOrder {
        successor: journal(5),
        ..order()
    });
    other.handle_listing(&listing(&[]));
    let theirs = seal_of(other.step());

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
    sealing.handle_read(Found::Damaged);
    assert_eq!(seal_of(sealing.step()).header.number, ObjectNo(3));
}

#[test]
#[should_panic(expected = "higher level")]
fn a_successor_of_the_same_level_is_refused() {
    let _refused = Sealing::new(SealOrder {
        successor: journal(1),
        ..order()
    });
}
