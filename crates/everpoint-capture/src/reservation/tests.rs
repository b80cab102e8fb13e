//! Which `Seq`s may be given out.

use super::*;

#[test]
fn nothing_above_the_durable_mark_is_handed_out() {
    let mut reservation = Reservation::new(Seq(10), Seq(13));
    assert_eq!(reservation.take(2), Some(Seq(11)));
    assert_eq!(reservation.take(2), None);
    assert_eq!(reservation.take(1), Some(Seq(13)));
    assert_eq!(reservation.take(1), None);
    reservation.extend(Seq(14));
    assert_eq!(reservation.take(1), Some(Seq(14)));
}

#[test]
fn a_mark_is_wanted_a_step_before_it_is_needed() {
    let until = Reservation::mark_after(Seq::ZERO).expect("far from the end");
    let mut reservation = Reservation::new(Seq::ZERO, until);
    assert_eq!(reservation.wanted(), None);
    reservation.take(RESERVE_STEP).expect("reserved");
    assert_eq!(reservation.wanted(), None);
    reservation.take(1).expect("reserved");
    let wanted = reservation.wanted().expect("less than a step is left");
    assert_eq!(wanted, Seq(RESERVE_STEP + 1 + 2 * RESERVE_STEP));
    reservation.extend(wanted);
    assert_eq!(reservation.wanted(), None);
}

#[test]
fn a_late_answer_does_not_move_the_mark_back() {
    let mut reservation = Reservation::new(Seq::ZERO, Seq(100));
    reservation.extend(Seq(50));
    assert!(reservation.covers(Seq(100)));
    assert!(reservation.raise(Seq(90)));
    assert!(!reservation.raise(Seq(80)));
    assert_eq!(reservation.take(1), Some(Seq(91)));
}
