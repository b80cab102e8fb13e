//! How far behind a server is.

use super::*;

#[test]
fn lag_is_the_age_of_the_oldest_uncommitted_block() {
    let mut lag = Lag::level();
    assert_eq!((lag.since(), lag.bytes()), (None, 0));
    lag.handle_frozen(1, Moment(10), 100);
    lag.handle_frozen(2, Moment(20), 50);
    assert_eq!((lag.since(), lag.bytes()), (Some(Moment(10)), 150));
    lag.handle_committed(1);
    assert_eq!((lag.since(), lag.bytes()), (Some(Moment(20)), 50));
    assert!(!lag.is_committed());
    lag.handle_committed(2);
    assert_eq!((lag.since(), lag.bytes()), (None, 0));
    assert!(lag.is_committed());
}

#[test]
fn a_copy_is_level_when_the_record_that_says_so_is_committed() {
    let mut lag = Lag::behind(Moment(5));
    lag.handle_frozen(1, Moment(10), 1);
    lag.handle_completed(1);
    assert!(!lag.is_level());
    lag.handle_lost(Moment(11));
    lag.handle_committed(1);
    assert!(!lag.is_level(), "order was lost in between");
    assert_eq!(lag.since(), Some(Moment(5)));
    lag.handle_completed(2);
    lag.handle_committed(2);
    assert!(lag.is_level());
}

#[test]
fn dropped_blocks_count_from_their_capture() {
    let mut lag = Lag::level();
    lag.handle_frozen(1, Moment(10), 7);
    lag.handle_dropped(Moment(30));
    assert_eq!((lag.since(), lag.bytes()), (Some(Moment(10)), 0));
}

#[test]
fn any_number_of_blocks_takes_bounded_memory_and_the_lag_is_never_too_good() {
    let mut lag = Lag::level();
    for ordinal in 1..=100_000 {
        lag.handle_frozen(ordinal, Moment(ordinal), 1);
        assert!(lag.marks.len() <= MARKS_MAX);
    }
    for ordinal in [1, 500, 30_000, 99_999] {
        lag.handle_committed(ordinal);
        let since = lag.since().expect("some are left");
        assert!(since <= Moment(ordinal + 1));
        assert!(100_000 - ordinal <= lag.bytes());
    }
    lag.handle_committed(100_000);
    assert_eq!((lag.since(), lag.bytes()), (None, 0));
}
