//! The tables of outcomes in the reference of Lease Blob, and the codes behind them.

use super::*;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000000";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000000";
const MINUTE: Duration = Duration::from_secs(60);

/// In the states in which an action is tried, one after the other.
type Outcomes = [Result<LeaseState, Refusal>; 5];
type Act = fn(&mut Lease, Instant) -> Result<(), Refusal>;

fn acquire(lease: &mut Lease, id: &str, now: Instant) -> Result<(), Refusal> {
    lease.acquire(id.to_owned(), Some(MINUTE), now)
}

/// A lease that A holds or held, in each of the states, at the instant that comes with it.
fn in_state(state: LeaseState) -> (Lease, Instant) {
    let start = Instant::now();
    let mut lease = Lease::default();
    if state != LeaseState::Available {
        acquire(&mut lease, A, start).unwrap();
    }
    let mut now = start;
    match state {
        LeaseState::Available | LeaseState::Leased => {}
        LeaseState::Expired => now += MINUTE,
        LeaseState::Breaking => drop(lease.end(Some(MINUTE / 2), now).unwrap()),
        LeaseState::Broken => drop(lease.end(Some(Duration::ZERO), now).unwrap()),
    }
    assert_eq!(lease.state(now), state);
    (lease, now)
}

#[test]
fn every_action_ends_in_every_state_as_the_reference_says() {
    use LeaseState::{Available, Breaking, Broken, Expired, Leased};
    type R = Refusal;
    let mismatch = Err(R::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION);
    let none = Err(R::LEASE_NOT_PRESENT_WITH_LEASE_OPERATION);
    let present = Err(R::LEASE_ALREADY_PRESENT);
    let broken = Err(R::LEASE_IS_BROKEN_AND_CANNOT_BE_RENEWED);
    let states = [Available, Leased, Breaking, Broken, Expired];
    let ok = Ok(Leased);
    let free = Ok(Available);
    let rows: [(&str, Act, Outcomes); 11] = [
        (
            "acquire A",
            |lease, now| acquire(lease, A, now),
            [
                ok,
                ok,
                Err(R::LEASE_IS_BREAKING_AND_CANNOT_BE_ACQUIRED),
                ok,
                ok,
            ],
        ),
        (
            "acquire B",
            |lease, now| acquire(lease, B, now),
            [ok, present, present, ok, ok],
        ),
        (
            "break at once",
            |lease, now| lease.end(Some(Duration::ZERO), now).map(drop),
            [none, Ok(Broken), Ok(Broken), Ok(Broken), Ok(Broken)],
        ),
        (
            "break later",
            |lease, now| lease.end(Some(MINUTE / 4), now).map(drop),
            [none, Ok(Breaking), Ok(Breaking), Ok(Broken), Ok(Broken)],
        ),
        (
            "change A to B",
            |lease, now| lease.change(A, B.to_owned(), now),
            [
                none,
                ok,
                Err(R::LEASE_IS_BREAKING_AND_CANNOT_BE_CHANGED),
                none,
                none,
            ],
        ),
        (
            "change B to A",
            |lease, now| lease.change(B, A.to_owned(), now),
            [
                none,
                ok,
                Err(R::LEASE_IS_BREAKING_AND_CANNOT_BE_CHANGED),
                none,
                none,
            ],
        ),
        (
            "change B to B",
            |lease, now| lease.change(B, B.to_owned(), now),
            [none, mismatch, mismatch, none, none],
        ),
        (
            "renew A",
            |lease, now| lease.renew(A, now),
            [mismatch, ok, broken, broken, ok],
        ),
        (
            "renew B",
            |lease, now| lease.renew(B, now),
            [mismatch, mismatch, mismatch, mismatch, mismatch],
        ),
        (
            "release A",
            |lease, now| lease.release(A, now),
            [mismatch, free, free, free, free],
        ),
        (
            "release B",
            |lease, now| lease.release(B, now),
            [mismatch, mismatch, mismatch, mismatch, mismatch],
        ),
    ];
    for (name, act, outcomes) in rows {
        for (state, expected) in states.into_iter().zip(outcomes) {
            let (mut lease, now) = in_state(state);
            let done = act(&mut lease, now).map(|()| lease.state(now));
            assert_eq!(done, expected, "{name}, {state:?}");
        }
    }
}

#[test]
fn a_write_needs_the_lease_that_is_held_and_no_other() {
    use LeaseState::{Available, Breaking, Broken, Expired, Leased};
    let other = Err(Refusal::LEASE_ID_MISMATCH_WITH_BLOB_OPERATION);
    let missing = Err(Refusal::LEASE_ID_MISSING);
    let none = Err(Refusal::LEASE_NOT_PRESENT_WITH_BLOB_OPERATION);
    let lost = Err(Refusal::LEASE_LOST);
    let rows = [
        (Available, none, none, Ok(())),
        (Leased, Ok(()), other, missing),
        (Breaking, Ok(()), other, missing),
        (Broken, lost, none, Ok(())),
        (Expired, lost, none, Ok(())),
    ];
    for (state, with_a, with_b, without) in rows {
        let (lease, now) = in_state(state);
        assert_eq!(lease.admits_write(Some(A), now), with_a, "{state:?}");
        assert_eq!(lease.admits_write(Some(B), now), with_b, "{state:?}");
        assert_eq!(lease.admits_write(None, now), without, "{state:?}");
        assert_eq!(lease.admits_read(Some(A), now), with_a, "{state:?}");
        assert_eq!(lease.admits_read(Some(B), now), with_b, "{state:?}");
        assert_eq!(lease.admits_read(None, now), Ok(()), "{state:?}");
    }
}

#[test]
fn an_expired_lease_cannot_be_renewed_once_somebody_wrote() {
    let (mut lease, now) = in_state(LeaseState::Expired);
    lease.note_write(now);
    assert_eq!(lease.state(now), LeaseState::Available);
    let refused = Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION;
    assert_eq!(lease.renew(A, now), Err(refused));
    assert_eq!(lease.admits_write(Some(A), now), Err(Refusal::LEASE_LOST));
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_renewing_gives_it_all_of_it_again() {
    let (mut lease, start) = in_state(LeaseState::Leased);
    let almost = MINUTE - Duration::from_millis(1);
    assert_eq!(lease.state(start + almost), LeaseState::Leased);
    lease.renew(A, start + almost).unwrap();
    assert_eq!(lease.state(start + almost + almost), LeaseState::Leased);
    assert_eq!(lease.state(start + almost + MINUTE), LeaseState::Expired);
}

#[test]
fn a_break_waits_for_the_shorter_of_what_is_asked_and_what_is_left() {
    let left = |period, state| {
        let (mut lease, now) = in_state(state);
        lease.end(period, now).unwrap()
    };
    assert_eq!(left(None, LeaseState::Leased), 60);
    assert_eq!(left(Some(MINUTE / 2), LeaseState::Leased), 30);
    assert_eq!(left(Some(2 * MINUTE), LeaseState::Leased), 60);
    assert_eq!(left(None, LeaseState::Breaking), 30);
    assert_eq!(left(Some(2 * MINUTE), LeaseState::Breaking), 30);
    assert_eq!(left(Some(MINUTE), LeaseState::Broken), 0);
}

#[test]
fn a_lease_without_an_end_is_broken_at_once_unless_time_is_given() {
    let now = Instant::now();
    let mut lease = Lease::default();
    lease.acquire(A.to_owned(), None, now).unwrap();
    assert_eq!(lease.state(now + 1000 * MINUTE), LeaseState::Leased);
    assert_eq!(lease.clone().end(None, now), Ok(0));
    assert_eq!(lease.end(Some(MINUTE), now), Ok(60));
    assert_eq!(lease.state(now + MINUTE / 2), LeaseState::Breaking);
    assert_eq!(lease.state(now + MINUTE), LeaseState::Broken);
}
