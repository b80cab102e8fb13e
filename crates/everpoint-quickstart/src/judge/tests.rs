//! Planted violations, and an obvious oracle that tries every set of writes.

use everpoint_units::Extent;
use proptest::prelude::*;

use super::*;
use crate::stamp::Filling;

const EVER: Bounds = Bounds {
    after: Tick::ZERO,
    before: Tick::MAX,
};

fn extent(start: u64, end: u64) -> Extent {
    let lba = |sector| Lba::new(sector).expect("small");
    Extent::between(lba(start), lba(end)).expect("not empty")
}

fn seen(sectors: &[u32]) -> Seen {
    Seen {
        sectors: sectors.to_vec(),
    }
}

/// Issued and completed at once.
fn done(history: &mut History, start: u64, end: u64, effect: Effect) -> u32 {
    let number = history.issue(extent(start, end), effect);
    history.complete(number);
    number.0.get()
}

/// Three writes one after the other, on sectors of their own, then a fourth over the first.
fn in_a_row() -> History {
    let mut history = History::new();
    for start in [0, 2, 4, 0] {
        done(&mut history, start, start + 2, Effect::Stamps);
    }
    history
}

#[test]
fn every_prefix_of_a_row_of_writes_holds() {
    let history = in_a_row();
    for (image, write_count) in [
        ([0, 0, 0, 0, 0, 0], 0),
        ([1, 1, 0, 0, 0, 0], 1),
        ([1, 1, 2, 2, 0, 0], 2),
        ([1, 1, 2, 2, 3, 3], 3),
        ([4, 4, 2, 2, 3, 3], 4),
    ] {
        assert_eq!(
            judge(&history, &seen(&image), EVER),
            Ok(Holds { write_count })
        );
    }
}

#[test]
fn a_write_that_was_lost_is_missed_once_a_later_one_is_there() {
    let violation = judge(&in_a_row(), &seen(&[1, 1, 0, 0, 3, 3]), EVER);
    let missing = Violation::Missing {
        at: lba(2),
        missing: 2,
        because: Because::Write(3),
    };
    assert_eq!(violation, Err(missing));
}

#[test]
fn an_old_version_is_missed_once_a_later_write_elsewhere_is_there() {
    let mut history = in_a_row();
    done(&mut history, 6, 7, Effect::Stamps);
    let violation = judge(&history, &seen(&[1, 1, 2, 2, 3, 3, 5]), EVER);
    let missing = Violation::Missing {
        at: lba(0),
        missing: 4,
        because: Because::Write(5),
    };
    assert_eq!(violation, Err(missing));
}

#[test]
fn half_a_write_is_torn() {
    let violation = judge(&in_a_row(), &seen(&[1, 0, 0, 0, 0, 0]), EVER);
    let missing = Violation::Missing {
        at: lba(1),
        missing: 1,
        because: Because::Torn,
    };
    assert_eq!(violation, Err(missing));
}

#[test]
fn writes_in_flight_together_may_be_there_in_any_order() {
    let mut history = History::new();
    let first = history.issue(extent(0, 1), Effect::Stamps);
    let second = history.issue(extent(1, 2), Effect::Stamps);
    history.complete(second);
    history.complete(first);
    for image in [[0, 0], [1, 0], [0, 2], [1, 2]] {
        assert!(judge(&history, &seen(&image), EVER).is_ok(), "{image:?}");
    }
    done(&mut history, 2, 3, Effect::Stamps);
    for image in [[0, 0, 3], [1, 0, 3], [0, 2, 3]] {
        assert!(judge(&history, &seen(&image), EVER).is_err(), "{image:?}");
    }
    assert!(judge(&history, &seen(&[1, 2, 3]), EVER).is_ok());
}

#[test]
fn zeroes_stand_for_no_write_or_for_any_that_zeroed() {
    let mut history = History::new();
    done(&mut history, 0, 2, Effect::Stamps);
    done(&mut history, 0, 1, Effect::Zeroes);
    done(&mut history, 3, 4, Effect::Stamps);
    for image in [[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 3]] {
        assert!(judge(&history, &seen(&image), EVER).is_ok(), "{image:?}");
    }
    // The zero is lost although a later write is there; the write is half there without its zero.
    for image in [[1, 1, 0, 3], [1, 0, 0, 0]] {
        assert!(judge(&history, &seen(&image), EVER).is_err(), "{image:?}");
    }
}

#[test]
fn a_zero_that_must_have_happened_brings_what_was_before_it() {
    let mut history = History::new();
    done(&mut history, 0, 2, Effect::Stamps);
    done(&mut history, 2, 3, Effect::Stamps);
    done(&mut history, 0, 1, Effect::Zeroes);
    let violation = judge(&history, &seen(&[0, 1, 0]), EVER);
    let missing = Violation::Missing {
        at: lba(2),
        missing: 2,
        because: Because::Write(3),
    };
    assert_eq!(violation, Err(missing));
    assert!(judge(&history, &seen(&[0, 1, 2]), EVER).is_ok());
}

#[test]
fn what_a_discard_did_not_do_is_not_asked_for() {
    let mut history = History::new();
    done(&mut history, 0, 2, Effect::Stamps);
    let discard = history.issue(extent(0, 2), Effect::Zeroes);
    history.complete_discard(discard, None);
    done(&mut history, 2, 3, Effect::Stamps);
    assert!(judge(&history, &seen(&[1, 1, 3]), EVER).is_ok());
    assert!(judge(&history, &seen(&[0, 0, 3]), EVER).is_err());
}

#[test]
fn an_image_lies_between_its_bookmarks() {
    let mut history = in_a_row();
    let bookmark = history.now();
    done(&mut history, 6, 7, Effect::Stamps);
    let above = Bounds {
        after: bookmark,
        ..EVER
    };
    let below = Bounds {
        before: bookmark,
        ..EVER
    };
    let (empty, all) = (seen(&[0; 7]), seen(&[4, 4, 2, 2, 3, 3, 5]));
    assert!(judge(&history, &empty, EVER).is_ok());
    assert!(matches!(
        judge(&history, &empty, above),
        Err(Violation::Missing {
            because: Because::Bookmark,
            ..
        })
    ));
    assert!(judge(&history, &all, above).is_ok());
    let future = Violation::FromTheFuture {
        at: lba(6),
        write: 5,
    };
    assert_eq!(judge(&history, &all, below), Err(future));
}

#[test]
fn bytes_that_nobody_wrote_there_are_refused() {
    let history = in_a_row();
    let filling = Filling::new(1);
    let first = WriteNo::new(1).expect("from 1");
    let mut image = filling.payload(first, extent(0, 2), false);
    image.resize(6 * SECTOR, 0);
    let read = |image: &[u8]| {
        let mut seen = Seen::with_capacity(6);
        seen.read(image);
        judge(&history, &seen, EVER)
    };
    assert_eq!(read(&image), Ok(Holds { write_count: 1 }));

    image[SECTOR + 100] ^= 1;
    assert_eq!(read(&image), Err(Violation::Foreign { at: lba(1) }));

    // A whole stamp, of a write that covers other sectors, and of one that was never made.
    for number in [2, 9] {
        let write = WriteNo::new(number).expect("from 1");
        let stray = filling.payload(write, extent(1, 2), false);
        image[SECTOR..2 * SECTOR].copy_from_slice(&stray);
        let at = lba(1);
        assert_eq!(
            read(&image),
            Err(Violation::NeverThere { at, write: number })
        );
    }
}

#[test]
fn lost_writes_are_counted_once_each() {
    let newest = seen(&[4, 4, 2, 2, 3, 3]);
    assert_eq!(newest.lost(&newest), 0);
    assert_eq!(seen(&[1, 1, 2, 2, 0, 3]).lost(&newest), 2);
}

/// One step of a random load on four sectors.
#[derive(Clone, Copy, Debug)]
enum Step {
    Issue(u64, u64, Effect),
    Complete(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let effect = prop_oneof![
        3 => Just(Effect::Stamps),
        2 => Just(Effect::Zeroes),
        1 => Just(Effect::Nothing),
    ];
    let issue = (0_u64..4, 1_u64..4, effect)
        .prop_map(|(start, len, effect)| Step::Issue(start, (start + len).min(4), effect));
    let complete = (0_usize..3).prop_map(Step::Complete);
    prop::collection::vec(prop_oneof![issue, complete], 1..16)
}

/// Runs the steps that keep the load's own rule: nothing overlaps in flight.
fn run(steps: &[Step]) -> History {
    let mut history = History::new();
    let mut in_flight: Vec<(WriteNo, Extent)> = Vec::new();
    for step in steps {
        match *step {
            Step::Issue(start, end, effect) => {
                let extent = extent(start, end);
                let free = in_flight.iter().all(|(_, other)| !other.overlaps(extent));
                if free && history.writes().len() < 8 {
                    in_flight.push((history.issue(extent, effect), extent));
                }
            }
            Step::Complete(index) if index < in_flight.len() => {
                history.complete(in_flight.swap_remove(index).0);
            }
            Step::Complete(_) => {}
        }
    }
    history
}

/// Tries every set of writes.
fn oracle(history: &History, image: &[u32], bounds: Bounds) -> bool {
    let writes = history.writes();
    let holds = |set: u32| {
        let inside = |index: usize| set & 1 << index != 0;
        let closed = (0..writes.len()).all(|b| {
            let before = |a: usize| writes[a].completed.is_some_and(|t| t < writes[b].issued);
            !inside(b) || (0..writes.len()).all(|a| !before(a) || inside(a))
        });
        let bounded = (0..writes.len()).all(|index| {
            let write = &writes[index];
            let must = write.completed.is_some_and(|tick| tick <= bounds.after);
            let may = write.issued <= bounds.before;
            (!must || inside(index)) && (!inside(index) || may)
        });
        let explains = (0_u64..).zip(image).all(|(sector, &shown)| {
            let at = Lba::new(sector).expect("small");
            let covers = |write: &Write| write.extent.start() <= at && at < write.extent.end();
            let last = (0..writes.len()).rev().find(|&index| {
                let write = &writes[index];
                inside(index) && covers(write) && write.effect != Effect::Nothing
            });
            match last.map(|index| (writes[index].effect, index)) {
                Some((Effect::Stamps, index)) => shown as usize == index + 1,
                _ => shown == ZERO,
            }
        });
        closed && bounded && explains
    };
    (0..1_u32 << writes.len()).any(holds)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_judge_and_the_oracle_agree_on_any_image(
        steps in steps(),
        image in prop::collection::vec(0_u32..9, 4),
        after in 0_u64..8,
        before in 0_u64..16,
    ) {
        let history = run(&steps);
        for bounds in [EVER, Bounds { after: Tick(after), before: Tick(after + before) }] {
            let judged = judge(&history, &seen(&image), bounds);
            prop_assert_eq!(judged.is_ok(), oracle(&history, &image, bounds), "{:?}", judged);
        }
    }

    /// Images that mostly hold: what a random set of writes leaves behind.
    #[test]
    fn the_judge_and_the_oracle_agree_on_what_writes_leave_behind(
        steps in steps(),
        set in any::<u16>(),
        spoiled in prop::option::of((0_usize..4, 0_u32..9)),
        after in 0_u64..8,
        before in 0_u64..16,
    ) {
        let history = run(&steps);
        let mut image = vec![ZERO; 4];
        for (index, write) in history.writes().iter().enumerate() {
            let number = match write.effect {
                Effect::Stamps => u32::try_from(index).expect("small") + 1,
                Effect::Zeroes => ZERO,
                Effect::Nothing => continue,
            };
            if set & 1 << index != 0 {
                sectors_mut(&mut image, write).fill(number);
            }
        }
        if let Some((sector, number)) = spoiled {
            image[sector] = number;
        }
        for bounds in [EVER, Bounds { after: Tick(after), before: Tick(after + before) }] {
            let judged = judge(&history, &seen(&image), bounds);
            prop_assert_eq!(judged.is_ok(), oracle(&history, &image, bounds), "{:?}", judged);
        }
    }
}
