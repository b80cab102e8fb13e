//! Images that are prefixes, and images that are not.

use super::*;

const ANY: Bounds = Bounds {
    after: Tick(0),
    before: Tick(u64::MAX),
};

/// Three writes, one after the other: blocks 0 to 3, 2 to 5, 0.
fn one_by_one() -> History {
    let mut history = History::default();
    let mut tick = 0;
    for (number, first, count) in [(1, 0, 4), (2, 2, 4), (3, 0, 1)] {
        history.issue(number, first, count, Tick(tick + 1)).unwrap();
        history.complete(number, Tick(tick + 2)).unwrap();
        tick += 2;
    }
    history
}

fn seen(numbers: [u32; 6]) -> Seen {
    let shown = numbers.map(|number| match number {
        0 => Shown::Nothing,
        _ => Shown::Write(number),
    });
    Seen(shown.to_vec())
}

fn found(history: &History, numbers: [u32; 6], bounds: Bounds) -> Result<usize, NoPrefix> {
    find(history, &seen(numbers), bounds).map(|prefix| prefix.write_count)
}

#[test]
fn every_prefix_is_found_with_its_length() {
    let history = one_by_one();
    for (numbers, count) in [
        ([0, 0, 0, 0, 0, 0], 0),
        ([1, 1, 1, 1, 0, 0], 1),
        ([1, 1, 2, 2, 2, 2], 2),
        ([3, 1, 2, 2, 2, 2], 3),
    ] {
        assert_eq!(found(&history, numbers, ANY), Ok(count), "{numbers:?}");
    }
}

#[test]
fn a_lost_write_is_missed() {
    let history = one_by_one();
    let lost = found(&history, [3, 1, 1, 1, 0, 0], ANY);
    let because = Because::Before(3);
    assert!(
        matches!(lost, Err(NoPrefix::Missing { block: 2, missing: 2, because: b, .. }) if b == because),
        "{lost:?}"
    );
}

#[test]
fn two_writes_in_the_wrong_order_are_seen() {
    let history = one_by_one();
    let swapped = found(&history, [1, 1, 1, 1, 2, 2], ANY);
    assert!(
        matches!(
            swapped,
            Err(NoPrefix::Missing { missing: 2, .. }) | Err(NoPrefix::Torn { number: 2, .. })
        ),
        "{swapped:?}"
    );
}

#[test]
fn a_torn_write_is_seen() {
    let history = one_by_one();
    let torn = found(&history, [1, 1, 1, 0, 0, 0], ANY);
    assert!(
        matches!(
            torn,
            Err(NoPrefix::Torn {
                block: 3,
                number: 1,
                ..
            })
        ),
        "{torn:?}"
    );
}

#[test]
fn what_was_promised_must_be_there() {
    let history = one_by_one();
    let promised = |after| Bounds {
        after: Tick(after),
        ..ANY
    };
    assert_eq!(found(&history, [1, 1, 1, 1, 0, 0], promised(3)), Ok(1));
    let lost = found(&history, [1, 1, 1, 1, 0, 0], promised(5));
    assert!(
        matches!(
            lost,
            Err(NoPrefix::Missing {
                missing: 2,
                because: Because::Promised,
                ..
            })
        ),
        "{lost:?}"
    );
    assert!(found(&history, [0; 6], promised(3)).is_err());
}

#[test]
fn what_was_issued_later_must_not_be_there() {
    let history = one_by_one();
    let bounds = Bounds {
        before: Tick(5),
        ..ANY
    };
    let future = found(&history, [3, 1, 2, 2, 2, 2], bounds);
    assert_eq!(
        future,
        Err(NoPrefix::FromTheFuture {
            block: 0,
            number: 3
        })
    );
}

#[test]
fn bytes_that_no_write_put_there_are_seen() {
    let history = one_by_one();
    let mut foreign = seen([1, 1, 1, 1, 0, 0]);
    foreign.0[5] = Shown::Foreign;
    let found_foreign = find(&history, &foreign, ANY);
    assert_eq!(found_foreign, Err(NoPrefix::Foreign { block: 5 }));
    let elsewhere = found(&history, [1, 1, 1, 1, 1, 0], ANY);
    assert_eq!(
        elsewhere,
        Err(NoPrefix::NeverThere {
            block: 4,
            number: 1
        })
    );
}

#[test]
fn writes_in_flight_together_have_either_order_but_both_or_one_or_none() {
    let mut history = History::default();
    history.issue(1, 0, 1, Tick(1)).unwrap();
    history.issue(2, 1, 2, Tick(2)).unwrap();
    history.complete(2, Tick(3)).unwrap();
    history.issue(3, 3, 1, Tick(4)).unwrap();
    history.complete(1, Tick(5)).unwrap();
    history.complete(3, Tick(6)).unwrap();
    for (numbers, count) in [
        ([1, 0, 0, 0, 0, 0], 1),
        ([0, 2, 2, 0, 0, 0], 1),
        ([1, 2, 2, 0, 0, 0], 2),
        ([0, 2, 2, 3, 0, 0], 2),
    ] {
        assert_eq!(found(&history, numbers, ANY), Ok(count), "{numbers:?}");
    }
    let lost = found(&history, [1, 0, 0, 3, 0, 0], ANY);
    assert!(
        matches!(lost, Err(NoPrefix::Missing { missing: 2, .. })),
        "{lost:?}"
    );
}

#[test]
fn a_write_that_the_agent_died_over_may_be_there_in_part() {
    let mut history = History::default();
    history.issue(1, 0, 4, Tick(1)).unwrap();
    history.issue(2, 2, 1, Tick(2)).unwrap();
    history.complete(2, Tick(3)).unwrap();
    assert_eq!(found(&history, [1, 0, 2, 0, 0, 0], ANY), Ok(2));
    assert!(
        found(
            &history,
            [1, 1, 1, 1, 0, 0],
            Bounds {
                after: Tick(4),
                ..ANY
            }
        )
        .is_err()
    );
}

#[test]
fn an_image_on_disk_is_read_block_by_block() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = vec![0; BLOCK_LEN];
    bytes.extend(crate::rigs::stamp::payload(7, 1, 2));
    bytes.extend([1; BLOCK_LEN]);
    std::fs::write(file.path(), bytes).unwrap();
    let seen = Seen::read(file.path()).unwrap();
    let write = Shown::Write(7);
    assert_eq!(seen.0, [Shown::Nothing, write, write, Shown::Foreign]);
}
