//! What a seed makes of the world: its shape, how its parts behave, and the faults with their moments,
//! all chosen beforehand, so that a run can be repeated with fewer of them.

use std::fmt;
use std::time::Duration;

use everpoint_units::Moment;

use super::random::Random;

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
    pub disks: usize,
    /// Size of each disk. Unit: sectors.
    pub sectors: u64,
    /// When the faults end and everything is healed.
    pub healed_at: Moment,
    /// Mean time between two requests of a disk's guest. Unit: microseconds.
    pub think_us: u64,
    /// What the agent's queue may hold. Unit: bytes.
    pub queue_bytes_max: u64,
    pub commit_interval: Duration,
    /// Longest time a request to the store takes. Unit: microseconds.
    pub store_us_max: u64,
    /// How often a request to the store gets no clear answer. Unit: in a thousand.
    pub unknown_per_mille: u64,
    /// How often a request is carried out long after it was given up. Unit: in a thousand.
    pub late_per_mille: u64,
    /// Longest time a message takes. Unit: microseconds.
    pub link_us_max: u64,
    /// How often a block is damaged on its way. Unit: in a million.
    pub corrupt_per_million: u64,
    /// How often the local disk fails a write. Unit: in a thousand.
    pub local_error_per_mille: u64,
    pub log_files: u64,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    pub at: Moment,
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultKind {
    /// The agent's process dies and starts again.
    AgentCrash { down: Duration },
    /// The server's process dies and starts again.
    ServerCrash { server: usize, down: Duration },
    /// So does its machine: what was not synced is lost, in part or whole.
    PowerCut { server: usize, down: Duration },
    /// So does its disk, with the log and the server's own memory of its journals.
    DiskLost { server: usize, down: Duration },
    /// The server stands still, and then goes on as if nothing had been.
    Freeze { server: usize, time: Duration },
    /// The connection breaks; each side hears of it later, or not.
    LinkBreak,
    /// The store answers nothing for a while.
    StoreOutage { time: Duration },
    /// The next sync of the server's log fails.
    SyncError { server: usize },
    /// There is no space for the server's log for a while.
    NoSpace { server: usize, time: Duration },
    /// An operator has one server take over another's journals.
    TakeOver { by: usize, of: usize },
}

/// Kinds, for leaving some out and for counting.
pub const KINDS: [&str; 10] = [
    "agent crash",
    "server crash",
    "power cut",
    "disk lost",
    "freeze",
    "link break",
    "store outage",
    "sync error",
    "no space",
    "take-over",
];

impl FaultKind {
    /// Its place in [`KINDS`].
    pub const fn class(self) -> usize {
        match self {
            Self::AgentCrash { .. } => 0,
            Self::ServerCrash { .. } => 1,
            Self::PowerCut { .. } => 2,
            Self::DiskLost { .. } => 3,
            Self::Freeze { .. } => 4,
            Self::LinkBreak => 5,
            Self::StoreOutage { .. } => 6,
            Self::SyncError { .. } => 7,
            Self::NoSpace { .. } => 8,
            Self::TakeOver { .. } => 9,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed).split(1);
        let shape = Shape::drawn(&mut random);
        // Each class is left out of two worlds in five.
        let present: Vec<usize> = (0..KINDS.len()).filter(|_| !random.chance(400)).collect();
        let count = random.between(4, 24);
        let mut faults: Vec<Fault> = (0..count)
            .filter(|_| !present.is_empty())
            .map(|_| {
                let class = present[pick(&mut random, present.len())];
                let at = Moment(random.below(shape.healed_at.0));
                let kind = drawn(&mut random, class, &shape);
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
        Self {
            servers: 1 + pick(random, 2),
            disks: 1 + pick(random, 3),
            sectors: random.between(24, 200),
            healed_at: Moment(random.between(6, 20) * 1_000_000_000),
            think_us: random.between(5_000, 120_000),
            queue_bytes_max: random.between(64, 512) << 10,
            commit_interval: Duration::from_millis(random.between(100, 1_500)),
            store_us_max: random.between(2_000, 300_000),
            unknown_per_mille: quiet(random, 120),
            late_per_mille: quiet(random, 60),
            link_us_max: random.between(300, 40_000),
            corrupt_per_million: quiet(random, 3_000),
            local_error_per_mille: quiet(random, 4),
            log_files: random.between(4, 9),
        }
    }
}

fn drawn(random: &mut Random, class: usize, shape: &Shape) -> FaultKind {
    let server = pick(random, shape.servers);
    let down = Duration::from_millis(random.between(1, 3_000));
    match class {
        0 => FaultKind::AgentCrash { down },
        1 => FaultKind::ServerCrash { server, down },
        2 => FaultKind::PowerCut { server, down },
        3 => FaultKind::DiskLost { server, down },
        4 => FaultKind::Freeze { server, time: down },
        5 => FaultKind::LinkBreak,
        6 => FaultKind::StoreOutage { time: down },
        7 => FaultKind::SyncError { server },
        8 => FaultKind::NoSpace { server, time: down },
        _ => FaultKind::TakeOver {
            by: server,
            of: pick(random, shape.servers),
        },
    }
}

fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).expect("a small count")
}
