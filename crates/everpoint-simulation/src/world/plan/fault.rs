//! What goes wrong: the classes of faults, and how one is drawn.

use std::fmt;
use std::time::Duration;

use everpoint_units::Moment;

use super::{Random, Shape, pick};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    pub at: Moment,
    pub kind: FaultKind,
}

/// What goes wrong. Machines and servers are counted from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultKind {
    /// An agent's process dies and starts again.
    AgentCrash { machine: usize, down: Duration },
    /// So does its machine: what the local disk had not flushed is lost, in part or whole.
    MachinePowerCut { machine: usize, down: Duration },
    /// An agent dies behind its n-th effect from now, in the middle of what it was doing.
    AgentDies { machine: usize, effects: u64 },
    /// An agent is stopped in good order and started again. `touched`: somebody writes to its disks
    /// meanwhile.
    AgentStop {
        machine: usize,
        down: Duration,
        touched: bool,
    },
    /// An agent dies, and its own state is lost.
    AgentStateLost { machine: usize, down: Duration },
    /// The state of a machine's agent is as it is now again after a while; so are its disks, if `disks`.
    AgentRolledBack {
        machine: usize,
        after: Duration,
        disks: bool,
    },
    /// A guest writes much faster for a while.
    Burst { machine: usize, time: Duration },
    /// A server's process dies and starts again.
    ServerCrash { server: usize, down: Duration },
    /// So does its machine: what was not synced is lost, in part or whole.
    PowerCut { server: usize, down: Duration },
    /// A server dies behind its n-th effect from now, in the middle of what it was doing.
    ServerDies { server: usize, effects: u64 },
    /// A server dies in the n-th operation of its log's disk from now; so does its machine, if `power`.
    ServerDiesAtDisk {
        server: usize,
        operations: u64,
        power: bool,
    },
    /// A server's disk is lost, with the log and the server's own memory of its journals.
    DiskLost { server: usize, down: Duration },
    /// A server's disk is as it is now again after a while.
    ServerRolledBack { server: usize, after: Duration },
    /// A server stands still, and then goes on as if nothing had been.
    Freeze { server: usize, time: Duration },
    /// A server stands still while another takes its journals over, and then goes on.
    SleptThroughTakeOver {
        server: usize,
        by: usize,
        time: Duration,
    },
    /// An operator has one server take over another's journals.
    TakeOver { by: usize, of: usize },
    /// The connection breaks; each side hears of it later, or not.
    LinkBreak { machine: usize },
    /// Nothing arrives at one side of the connection any more, until both have found out.
    OneWayCut { machine: usize, to_agent: bool },
    /// A machine and a server do not reach each other for a while.
    Partition {
        machine: usize,
        server: usize,
        time: Duration,
    },
    /// The store answers nothing for a while.
    StoreOutage { time: Duration },
    /// The store answers one server nothing for a while.
    StoreCut { server: usize, time: Duration },
    /// The store refuses every other request for a while, and answers the others late.
    StoreStorm { time: Duration },
    /// One bit of an object in the store turns.
    StoreRot,
    /// The next sync of a server's log fails.
    SyncError { server: usize },
    /// So does each one for a while.
    SyncErrors { server: usize, time: Duration },
    /// A write of a server's log fails.
    WriteError { server: usize },
    /// There is no space for a server's log for a while.
    NoSpace { server: usize, time: Duration },
    /// A server's disk takes long for everything for a while.
    SlowDisk { server: usize, time: Duration },
    /// A server's disk says that it has synced and has not; then its power is cut.
    LyingSync { server: usize, time: Duration },
    /// One bit of a server's log turns.
    LogRot { server: usize },
    /// A node's clock jumps. Machines are counted first, then servers. Unit: seconds.
    ClockJump { node: usize, by_s: i64 },
}

/// Kinds, for leaving some out and for counting.
pub const KINDS: [&str; 31] = [
    "agent crash",
    "machine power cut",
    "agent dies at an effect",
    "agent stop",
    "agent state lost",
    "agent rolled back",
    "burst",
    "server crash",
    "power cut",
    "server dies at an effect",
    "server dies at its disk",
    "disk lost",
    "server rolled back",
    "freeze",
    "slept through a take-over",
    "take-over",
    "link break",
    "one-way cut",
    "partition",
    "store outage",
    "store cut",
    "store storm",
    "store rot",
    "sync error",
    "sync errors",
    "write error",
    "no space",
    "slow disk",
    "lying sync",
    "log rot",
    "clock jump",
];

impl FaultKind {
    /// Its place in [`KINDS`].
    pub const fn class(self) -> usize {
        match self {
            Self::AgentCrash { .. } => 0,
            Self::MachinePowerCut { .. } => 1,
            Self::AgentDies { .. } => 2,
            Self::AgentStop { .. } => 3,
            Self::AgentStateLost { .. } => 4,
            Self::AgentRolledBack { .. } => 5,
            Self::Burst { .. } => 6,
            Self::ServerCrash { .. } => 7,
            Self::PowerCut { .. } => 8,
            Self::ServerDies { .. } => 9,
            Self::ServerDiesAtDisk { .. } => 10,
            Self::DiskLost { .. } => 11,
            Self::ServerRolledBack { .. } => 12,
            Self::Freeze { .. } => 13,
            Self::SleptThroughTakeOver { .. } => 14,
            Self::TakeOver { .. } => 15,
            Self::LinkBreak { .. } => 16,
            Self::OneWayCut { .. } => 17,
            Self::Partition { .. } => 18,
            Self::StoreOutage { .. } => 19,
            Self::StoreCut { .. } => 20,
            Self::StoreStorm { .. } => 21,
            Self::StoreRot => 22,
            Self::SyncError { .. } => 23,
            Self::SyncErrors { .. } => 24,
            Self::WriteError { .. } => 25,
            Self::NoSpace { .. } => 26,
            Self::SlowDisk { .. } => 27,
            Self::LyingSync { .. } => 28,
            Self::LogRot { .. } => 29,
            Self::ClockJump { .. } => 30,
        }
    }

    /// Whether a class breaks what is durable: that has to be noticed, and cannot be survived whole.
    pub(super) fn harms(class: usize) -> bool {
        let harmful = [
            Self::StoreRot,
            Self::LyingSync {
                server: 0,
                time: Duration::ZERO,
            },
            Self::LogRot { server: 0 },
        ];
        harmful.iter().any(|kind| kind.class() == class)
    }

    /// How long it lasts, or something is down because of it.
    pub const fn time_mut(&mut self) -> Option<&mut Duration> {
        match self {
            Self::AgentCrash { down, .. }
            | Self::MachinePowerCut { down, .. }
            | Self::AgentStop { down, .. }
            | Self::AgentStateLost { down, .. }
            | Self::ServerCrash { down, .. }
            | Self::PowerCut { down, .. }
            | Self::DiskLost { down, .. } => Some(down),
            Self::AgentRolledBack { after, .. } | Self::ServerRolledBack { after, .. } => {
                Some(after)
            }
            Self::Burst { time, .. }
            | Self::Freeze { time, .. }
            | Self::SleptThroughTakeOver { time, .. }
            | Self::Partition { time, .. }
            | Self::StoreOutage { time }
            | Self::StoreCut { time, .. }
            | Self::StoreStorm { time }
            | Self::SyncErrors { time, .. }
            | Self::NoSpace { time, .. }
            | Self::SlowDisk { time, .. }
            | Self::LyingSync { time, .. } => Some(time),
            _ => None,
        }
    }

    /// What it would do to a machine or server that is not there it does to the last one.
    pub fn keep_within(&mut self, machines: usize, servers: usize) {
        let (last_machine, last_server) = (machines - 1, servers - 1);
        match self {
            Self::AgentCrash { machine, .. }
            | Self::MachinePowerCut { machine, .. }
            | Self::AgentDies { machine, .. }
            | Self::AgentStop { machine, .. }
            | Self::AgentStateLost { machine, .. }
            | Self::AgentRolledBack { machine, .. }
            | Self::Burst { machine, .. }
            | Self::LinkBreak { machine }
            | Self::OneWayCut { machine, .. } => *machine = last_machine.min(*machine),
            Self::Partition {
                machine, server, ..
            } => {
                *machine = last_machine.min(*machine);
                *server = last_server.min(*server);
            }
            Self::ServerCrash { server, .. }
            | Self::PowerCut { server, .. }
            | Self::ServerDies { server, .. }
            | Self::ServerDiesAtDisk { server, .. }
            | Self::DiskLost { server, .. }
            | Self::ServerRolledBack { server, .. }
            | Self::Freeze { server, .. }
            | Self::StoreCut { server, .. }
            | Self::SyncError { server }
            | Self::SyncErrors { server, .. }
            | Self::WriteError { server }
            | Self::NoSpace { server, .. }
            | Self::SlowDisk { server, .. }
            | Self::LyingSync { server, .. }
            | Self::LogRot { server } => *server = last_server.min(*server),
            Self::SleptThroughTakeOver { server, by, .. } => {
                *server = last_server.min(*server);
                *by = last_server.min(*by);
            }
            Self::TakeOver { by, of } => {
                *by = last_server.min(*by);
                *of = last_server.min(*of);
            }
            Self::ClockJump { node, .. } => *node = (machines + servers - 1).min(*node),
            Self::StoreOutage { .. } | Self::StoreStorm { .. } | Self::StoreRot => (),
        }
    }

    /// One of a class, as the shape allows.
    pub(super) fn drawn(random: &mut Random, class: usize, shape: &Shape) -> Self {
        let server = pick(random, shape.servers);
        let machine = pick(random, shape.machines);
        let down = Duration::from_millis(random.between(1, 900));
        let time = Duration::from_millis(random.between(1, 1_500));
        let other = pick(random, shape.servers);
        let number = random.next();
        match class {
            0 => Self::AgentCrash { machine, down },
            1 => Self::MachinePowerCut { machine, down },
            2 => Self::AgentDies {
                machine,
                effects: number % 30,
            },
            3 => Self::AgentStop {
                machine,
                down,
                touched: number.is_multiple_of(3),
            },
            4 => Self::AgentStateLost { machine, down },
            5 => Self::AgentRolledBack {
                machine,
                after: time,
                disks: number.is_multiple_of(2),
            },
            6 => Self::Burst { machine, time },
            7 => Self::ServerCrash { server, down },
            8 => Self::PowerCut { server, down },
            9 => Self::ServerDies {
                server,
                effects: number % 30,
            },
            10 => Self::ServerDiesAtDisk {
                server,
                operations: 1 + number % 20,
                power: number.is_multiple_of(2),
            },
            11 => Self::DiskLost { server, down },
            12 => Self::ServerRolledBack {
                server,
                after: time,
            },
            13 => Self::Freeze { server, time },
            14 => Self::SleptThroughTakeOver {
                server,
                by: other,
                time,
            },
            15 => Self::TakeOver {
                by: server,
                of: other,
            },
            16 => Self::LinkBreak { machine },
            17 => Self::OneWayCut {
                machine,
                to_agent: number.is_multiple_of(2),
            },
            18 => Self::Partition {
                machine,
                server,
                time,
            },
            19 => Self::StoreOutage { time },
            20 => Self::StoreCut { server, time },
            21 => Self::StoreStorm { time },
            22 => Self::StoreRot,
            23 => Self::SyncError { server },
            24 => Self::SyncErrors { server, time },
            25 => Self::WriteError { server },
            26 => Self::NoSpace { server, time },
            27 => Self::SlowDisk { server, time },
            28 => Self::LyingSync { server, time },
            29 => Self::LogRot { server },
            _ => Self::ClockJump {
                node: pick(random, shape.machines + shape.servers),
                by_s: i64::try_from(number % 600_000_000).expect("small") - 300_000_000,
            },
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
