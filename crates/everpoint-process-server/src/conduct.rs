//! How the agents of each machine behaved lately: who has to wait before it is listened to again.
//!
//! Whoever breaks the protocol loses its connection at once, and could come back at once. So each fault
//! after the first makes its machine wait, twice as long each time, up to a limit. Nothing here is
//! about safety: a machine that waits loses time, and its agent keeps what it has.
//!
//! Pure. Bounded: a machine has an entry while it has connections, which the transport bounds, or for
//! its faults, and of those there are [`REMEMBERED_MAX`].

use std::collections::HashMap;
use std::time::Duration;

use everpoint_transport::CloseReason;
use everpoint_units::{MachineId, Moment};

/// Connections of one machine at a time. An agent has one; it may have lost some that this side still
/// holds, and they end when it says hello on the new one.
const LINKS_MAX: u32 = 4;
/// How long the second fault makes wait; each further one doubles it.
const WAIT_FROM: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so long without a fault all are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Machines without a connection whose faults are remembered, at most.
const REMEMBERED_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    machines: HashMap<MachineId, Entry>,
}

/// Why a connection is not listened to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("too many faults: wait {} ms", wait.as_millis())]
    Faults { wait: Duration },
    #[error("the machine has {LINKS_MAX} connections already")]
    Links,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    links: u32,
    faults: u32,
    last_fault: Moment,
}

/// Whether a connection that this side closed so was closed for a fault of the agent. `Slow` is none:
/// that may be the network.
pub(crate) const fn is_fault(reason: CloseReason) -> bool {
    use CloseReason::{Authz, Crc, Frame, Limit, Order, Range, Stale};
    matches!(reason, Authz | Crc | Frame | Limit | Order | Range | Stale)
}

impl Conduct {
    /// A connection of `machine` is there; it counts until [`Conduct::leave`].
    ///
    /// # Errors
    ///
    /// [`Denied`]: it has to be closed, and does not count.
    pub(crate) fn enter(&mut self, machine: MachineId, now: Moment) -> Result<(), Denied> {
        let entry = self.machines.entry(machine).or_default();
        let wait = entry.wait(now);
        if !wait.is_zero() {
            return Err(Denied::Faults { wait });
        }
        if LINKS_MAX <= entry.links {
            return Err(Denied::Links);
        }
        entry.links += 1;
        Ok(())
    }

    /// A connection that had entered ended, by a fault or otherwise.
    pub(crate) fn leave(&mut self, machine: MachineId, fault: bool, now: Moment) {
        let entry = self.machines.entry(machine).or_default();
        entry.links = entry.links.saturating_sub(1);
        if FORGET_AFTER < now.since(entry.last_fault) {
            entry.faults = 0;
        }
        if fault {
            entry.faults = entry.faults.saturating_add(1);
            entry.last_fault = now;
        }
        if entry.links == 0 && entry.faults == 0 {
            self.machines.remove(&machine);
        }
        self.forget();
    }

    /// Holds the number of machines that are remembered for faults alone to its limit.
    fn forget(&mut self) {
        if self.machines.len() <= REMEMBERED_MAX {
            return;
        }
        let remembered = self.machines.iter().filter(|(_, entry)| entry.links == 0);
        let oldest = remembered.clone().min_by_key(|(_, entry)| entry.last_fault);
        let oldest = oldest.map(|(machine, _)| *machine);
        if let Some(oldest) = oldest.filter(|_| REMEMBERED_MAX < remembered.count()) {
            self.machines.remove(&oldest);
        }
    }
}

impl Entry {
    /// What is left of the wait for the last fault.
    fn wait(&self, now: Moment) -> Duration {
        let Some(doublings) = self.faults.checked_sub(2) else {
            return Duration::ZERO;
        };
        let wait = WAIT_FROM.saturating_mul(1 << doublings.min(16));
        let until = self.last_fault.after(wait.min(WAIT_MAX));
        until.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MachineId = MachineId([1; 16]);
    const OTHER: MachineId = MachineId([2; 16]);

    fn at(s: u64) -> Moment {
        Moment(s * 1_000_000_000)
    }

    fn fault(conduct: &mut Conduct, machine: MachineId, now: Moment) {
        assert_eq!(conduct.enter(machine, now), Ok(()));
        conduct.leave(machine, true, now);
    }

    fn wait(conduct: &mut Conduct, now: Moment) -> Duration {
        match conduct.enter(ONE, now) {
            Ok(()) => {
                conduct.leave(ONE, false, now);
                Duration::ZERO
            }
            Err(Denied::Faults { wait }) => wait,
            Err(Denied::Links) => panic!("it has no connection"),
        }
    }

    #[test]
    fn the_first_fault_is_free_and_each_further_one_makes_wait_longer_up_to_a_limit() {
        let mut conduct = Conduct::default();
        let mut now = at(100);
        let mut waits = Vec::new();
        for _ in 0..10 {
            fault(&mut conduct, ONE, now);
            let waited = wait(&mut conduct, now);
            waits.push(waited.as_secs());
            now = now.after(waited);
            assert_eq!(wait(&mut conduct, now), Duration::ZERO);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(conduct.enter(OTHER, at(100)), Ok(()), "nobody else waits");
    }

    #[test]
    fn a_long_time_without_a_fault_makes_all_forgotten() {
        let mut conduct = Conduct::default();
        fault(&mut conduct, ONE, at(0));
        fault(&mut conduct, ONE, at(0));
        let later = at(1 + FORGET_AFTER.as_secs());
        assert_eq!(wait(&mut conduct, later), Duration::ZERO);
        assert!(conduct.machines.is_empty());
        fault(&mut conduct, ONE, later);
        assert_eq!(wait(&mut conduct, later), Duration::ZERO);
    }

    #[test]
    fn a_machine_has_few_connections_and_one_that_ends_makes_room() {
        let mut conduct = Conduct::default();
        for _ in 0..LINKS_MAX {
            assert_eq!(conduct.enter(ONE, at(0)), Ok(()));
        }
        assert_eq!(conduct.enter(ONE, at(0)), Err(Denied::Links));
        assert_eq!(conduct.enter(OTHER, at(0)), Ok(()));
        conduct.leave(ONE, false, at(0));
        assert_eq!(conduct.enter(ONE, at(0)), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut conduct = Conduct::default();
        fault(&mut conduct, ONE, at(1));
        fault(&mut conduct, ONE, at(2));
        for number in 0..2 * REMEMBERED_MAX as u64 {
            let mut id = [3; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            fault(&mut conduct, MachineId(id), at(3 + number));
        }
        assert_eq!(conduct.machines.len(), REMEMBERED_MAX);
        assert!(!conduct.machines.contains_key(&ONE));
    }
}
