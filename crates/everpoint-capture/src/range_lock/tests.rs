//! The lock's promises, and a slow twin that states them one by one.

use everpoint_units::Lba;
use proptest::prelude::*;

use super::LockMode::{Exclusive, Shared};
use super::*;

fn extent(start: u64, end: u64) -> Extent {
    let lba = |sector| Lba::new(sector).expect("small");
    Extent::between(lba(start), lba(end)).expect("not empty")
}

fn released(lock: &mut RangeLock, ticket: LockTicket) -> Vec<LockTicket> {
    let mut granted = Vec::new();
    lock.release(ticket, |ticket| granted.push(ticket));
    granted
}

#[test]
fn readers_share_and_a_writer_waits_for_all_of_them() {
    let mut lock = RangeLock::default();
    let (first, now) = lock.acquire(extent(0, 8), Shared);
    assert!(now);
    let (second, now) = lock.acquire(extent(4, 12), Shared);
    assert!(now);
    let (writer, now) = lock.acquire(extent(6, 7), Exclusive);
    assert!(!now);
    assert_eq!(released(&mut lock, first), []);
    assert_eq!(released(&mut lock, second), [writer]);
}

#[test]
fn a_waiting_writer_is_not_overtaken_by_a_later_reader() {
    let mut lock = RangeLock::default();
    let (reader, _) = lock.acquire(extent(0, 8), Shared);
    let (writer, _) = lock.acquire(extent(0, 8), Exclusive);
    let (late, now) = lock.acquire(extent(0, 1), Shared);
    assert!(!now, "it would go past the writer");
    assert_eq!(released(&mut lock, reader), [writer]);
    assert_eq!(released(&mut lock, writer), [late]);
}

#[test]
fn neighbours_and_strangers_do_not_wait() {
    let mut lock = RangeLock::default();
    let (_, now) = lock.acquire(extent(0, 8), Exclusive);
    assert!(now);
    let (_, now) = lock.acquire(extent(8, 16), Exclusive);
    assert!(now);
    let (_, now) = lock.acquire(extent(100, 101), Shared);
    assert!(now);
}

#[test]
fn a_waiter_that_gives_up_lets_the_next_one_through() {
    let mut lock = RangeLock::default();
    let (holder, _) = lock.acquire(extent(0, 4), Exclusive);
    let (waiter, _) = lock.acquire(extent(2, 8), Exclusive);
    let (behind, now) = lock.acquire(extent(6, 8), Exclusive);
    assert!(!now);
    assert_eq!(released(&mut lock, waiter), [behind]);
    assert_eq!(released(&mut lock, holder), []);
    assert_eq!(lock.request_count(), 1);
}

/// The rules, said slowly: who asked, in order, and whether it has been granted.
#[derive(Default)]
struct Twin(Vec<(LockTicket, Extent, LockMode, bool)>);

impl Twin {
    /// Whether nobody before `index` stands in its way.
    fn is_free(&self, index: usize) -> bool {
        let (_, extent, mode, _) = self.0[index];
        self.0[..index].iter().all(|(_, other, other_mode, _)| {
            let sectors = |e: Extent| e.start().sector()..e.end().sector();
            let shares = sectors(*other).any(|sector| sectors(extent).contains(&sector));
            !shares || (mode == Shared && *other_mode == Shared)
        })
    }

    /// Grants whatever is free now and says what that was.
    fn grant(&mut self) -> Vec<LockTicket> {
        let free: Vec<usize> = (0..self.0.len())
            .filter(|&index| !self.0[index].3 && self.is_free(index))
            .collect();
        for &index in &free {
            self.0[index].3 = true;
        }
        free.iter().map(|&index| self.0[index].0).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u64, u64, LockMode),
    /// Releases the n-th request in flight, modulo their number.
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Shared), Just(Exclusive)];
    prop_oneof![
        3 => (0..24_u64, 1..9_u64, mode)
            .prop_map(|(start, len, mode)| Step::Acquire(start, start + len, mode)),
        2 => any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    /// Step by step the same grants as the twin's, and nobody waits for ever.
    #[test]
    fn every_history_grants_what_the_slow_twin_grants(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut lock = RangeLock::default();
        let mut twin = Twin::default();
        for step in steps {
            match step {
                Step::Acquire(start, end, mode) => {
                    let (ticket, now) = lock.acquire(extent(start, end), mode);
                    twin.0.push((ticket, extent(start, end), mode, false));
                    prop_assert_eq!(twin.grant().contains(&ticket), now);
                }
                Step::Release(_) if twin.0.is_empty() => (),
                Step::Release(index) => {
                    let (ticket, ..) = twin.0.remove(index % twin.0.len());
                    let mut granted = released(&mut lock, ticket);
                    granted.sort();
                    prop_assert_eq!(granted, twin.grant());
                }
            }
        }
        while let Some(at) = twin.0.iter().position(|entry| entry.3) {
            let (ticket, ..) = twin.0.remove(at);
            released(&mut lock, ticket);
            twin.grant();
        }
        prop_assert!(twin.0.is_empty(), "a request was never granted");
        prop_assert_eq!(lock.request_count(), 0);
    }
}
