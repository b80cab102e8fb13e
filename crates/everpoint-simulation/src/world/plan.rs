//! What a seed makes of the world: its shape, how its parts behave, and the faults with their moments,
//! all chosen beforehand, so that a run can be repeated with fewer of them.

use std::time::Duration;

use everpoint_units::Moment;

use super::random::Random;

mod fault;

pub use fault::{Fault, FaultKind, KINDS};

/// A run of the world.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    /// Rising by moment.
    pub faults: Vec<Fault>,
}

/// How large the world is, and how its parts behave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    pub servers: usize,
    pub machines: usize,
    /// Disks of each machine.
    pub disks: usize,
    /// Size of each disk. Unit: sectors.
    pub sectors: u64,
    /// When the faults end and everything is healed.
    pub healed_at: Moment,
    /// Mean time between two requests of a disk's guest. Unit: microseconds.
    pub think_us: u64,
    /// What an agent's queue may hold. Unit: bytes.
    pub queue_bytes_max: u64,
    pub commit_interval: Duration,
    /// Longest time a request to the store takes. Unit: microseconds.
    pub store_us_max: u64,
    /// How often a request to the store gets no clear answer. Unit: in a thousand.
    pub unknown_per_mille: u64,
    /// How often a request is carried out long after it was given up. Unit: in a thousand.
    pub late_per_mille: u64,
    /// How often a request is carried out twice, and the second answer given. Unit: in a thousand.
    pub twice_per_mille: u64,
    /// Longest time a message takes. Unit: microseconds.
    pub link_us_max: u64,
    /// How often a message's packets are lost and sent again, so that its stream stands still. Unit: in a
    /// thousand.
    pub stall_per_mille: u64,
    /// How often a block is damaged on its way. Unit: in a million.
    pub corrupt_per_million: u64,
    /// How often the local disk fails a write. Unit: in a thousand.
    pub local_error_per_mille: u64,
    /// Files of a server's log.
    pub log_files: u64,
    /// Clocks of nodes differ by up to this. Unit: seconds.
    pub clock_skew_s_max: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed).split(1);
        let shape = Shape::drawn(&mut random);
        // Each class is left out of two worlds in five, and those that break what nothing can mend, so that
        // less can be asked of the world, out of most.
        let present = (0..KINDS.len()).filter(|class| {
            let left_out = if FaultKind::harms(*class) { 850 } else { 400 };
            !random.chance(left_out)
        });
        let present: Vec<usize> = present.collect();
        let count = random.between(18, 54);
        let mut faults: Vec<Fault> = (0..count)
            .filter(|_| !present.is_empty())
            .map(|_| {
                let class = present[pick(&mut random, present.len())];
                let at = Moment(random.below(shape.healed_at.0));
                let kind = FaultKind::drawn(&mut random, class, &shape);
                Fault { at, kind }
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        Self {
            seed,
            shape,
            faults,
        }
    }
}

impl Shape {
    fn drawn(random: &mut Random) -> Self {
        let quiet = |random: &mut Random, most: u64| match random.chance(400) {
            true => 0,
            false => random.between(1, most),
        };
        let machines = 1 + pick(random, 2);
        let disks = 1 + pick(random, 4 - machines);
        let writers = (machines * disks) as u64;
        Self {
            servers: 1 + pick(random, 2),
            machines,
            disks,
            sectors: random.between(24, 160),
            healed_at: Moment(random.between(1_500, 4_000) * 1_000_000),
            think_us: random.between(4_000, 30_000) * writers,
            queue_bytes_max: random.between(64, 512) << 10,
            commit_interval: Duration::from_millis(random.between(60, 700)),
            store_us_max: random.between(2_000, 150_000),
            unknown_per_mille: quiet(random, 120),
            late_per_mille: quiet(random, 60),
            twice_per_mille: quiet(random, 60),
            link_us_max: random.between(300, 20_000),
            stall_per_mille: quiet(random, 20),
            corrupt_per_million: quiet(random, 3_000),
            local_error_per_mille: quiet(random, 4),
            log_files: random.between(4, 9),
            clock_skew_s_max: quiet(random, 400_000_000),
        }
    }
}

fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).expect("a small count")
}
