//! Plans that once broke a promise, made small. `cargo xtask simulate --seed S --shrink` prints a test to
//! be put here as it stands.
//!
//! A seed in `tests/seeds/found.txt` stands for a whole world, which is another one when the world is
//! extended. A plan that is written out stays what it was.

use std::time::Duration;

use everpoint_simulation::world::plan::Shape;
use everpoint_simulation::{Fault, FaultKind, Plan, run};
use everpoint_units::Moment;

/// server 0 said that disk 01010101-0101-0101-0101-010101010101 is cached through seq:4, and has it through seq:0
#[test]
fn seed_1737_stays_mended() {
    let plan = Plan {
        seed: 1737,
        shape: Shape {
            servers: 1,
            machines: 1,
            disks: 1,
            sectors: 8,
            healed_at: Moment(6700000000),
            think_us: 47670,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(100),
            store_us_max: 218158,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 100,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(500000000),
                kind: FaultKind::ServerCrash {
                    server: 0,
                    down: Duration::from_millis(2569),
                },
            },
            Fault {
                at: Moment(1000000000),
                kind: FaultKind::NoSpace {
                    server: 0,
                    time: Duration::from_millis(2921),
                },
            },
            Fault {
                at: Moment(2000000000),
                kind: FaultKind::ServerCrash {
                    server: 0,
                    down: Duration::from_millis(289),
                },
            },
            Fault {
                at: Moment(4900000000),
                kind: FaultKind::LinkBreak { machine: 0 },
            },
            Fault {
                at: Moment(6600000000),
                kind: FaultKind::ServerCrash {
                    server: 0,
                    down: Duration::from_millis(2881),
                },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// Here the oracle was wrong: a server left its journal for one that was taken over already, and what it
/// had cached was still expected of it.
#[test]
fn seed_50009545_stays_mended() {
    let plan = Plan {
        seed: 50009545,
        shape: Shape {
            servers: 2,
            machines: 1,
            disks: 1,
            sectors: 8,
            healed_at: Moment(764000000),
            think_us: 1000000,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(445),
            store_us_max: 1000,
            unknown_per_mille: 65,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 100,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(530000000),
                kind: FaultKind::TakeOver { by: 0, of: 1 },
            },
            Fault {
                at: Moment(600000000),
                kind: FaultKind::TakeOver { by: 1, of: 0 },
            },
            Fault {
                at: Moment(700000000),
                kind: FaultKind::DiskLost {
                    server: 1,
                    down: Duration::from_millis(1),
                },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// not level, committed and restorable 240 s after everything was healed: agent 0 has no session
#[test]
fn seed_70384398_stays_mended() {
    let plan = Plan {
        seed: 70384398,
        shape: Shape {
            servers: 2,
            machines: 2,
            disks: 2,
            sectors: 8,
            healed_at: Moment(500000000),
            think_us: 1000000,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(100),
            store_us_max: 21947,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 100,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(50000000),
                kind: FaultKind::StoreCut {
                    server: 0,
                    time: Duration::from_millis(542),
                },
            },
            Fault {
                at: Moment(70000000),
                kind: FaultKind::TakeOver { by: 0, of: 1 },
            },
            Fault {
                at: Moment(140000000),
                kind: FaultKind::TakeOver { by: 1, of: 0 },
            },
            Fault {
                at: Moment(170000000),
                kind: FaultKind::StoreCut {
                    server: 1,
                    time: Duration::from_millis(657),
                },
            },
            Fault {
                at: Moment(300000000),
                kind: FaultKind::DiskLost {
                    server: 1,
                    down: Duration::from_millis(154),
                },
            },
            Fault {
                at: Moment(400000000),
                kind: FaultKind::StoreRot,
            },
            Fault {
                at: Moment(400000000),
                kind: FaultKind::DiskLost {
                    server: 0,
                    down: Duration::from_millis(108),
                },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// server 0 said that disk 1 of machine 1 is cached through seq:20, and has it through seq:18
#[test]
fn seed_80022555_stays_mended() {
    let plan = Plan {
        seed: 80022555,
        shape: Shape {
            servers: 2,
            machines: 2,
            disks: 2,
            sectors: 153,
            healed_at: Moment(900000000),
            think_us: 43028,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(300),
            store_us_max: 12834,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 3044,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(250000000),
                kind: FaultKind::ServerDiesAtDisk {
                    server: 0,
                    operations: 11,
                    power: true,
                },
            },
            Fault {
                at: Moment(800000000),
                kind: FaultKind::LogRot { server: 0 },
            },
            Fault {
                at: Moment(800000000),
                kind: FaultKind::LogRot { server: 0 },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// server 1 said that disk 0 of machine 0 is cached through seq:16, and has it through seq:13
#[test]
fn seed_90869568_stays_mended() {
    let plan = Plan {
        seed: 90869568,
        shape: Shape {
            servers: 2,
            machines: 1,
            disks: 3,
            sectors: 29,
            healed_at: Moment(1700000000),
            think_us: 19698,
            queue_bytes_max: 84992,
            commit_interval: Duration::from_millis(149),
            store_us_max: 106599,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 6537,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 3,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(5000000),
                kind: FaultKind::Freeze {
                    server: 0,
                    time: Duration::from_millis(582),
                },
            },
            Fault {
                at: Moment(200000000),
                kind: FaultKind::ServerRolledBack {
                    server: 0,
                    after: Duration::from_millis(581),
                },
            },
            Fault {
                at: Moment(471932441),
                kind: FaultKind::ServerRolledBack {
                    server: 1,
                    after: Duration::from_millis(30),
                },
            },
            Fault {
                at: Moment(818000000),
                kind: FaultKind::AgentStop {
                    machine: 0,
                    down: Duration::from_millis(464),
                    touched: true,
                },
            },
            Fault {
                at: Moment(1100000000),
                kind: FaultKind::Freeze {
                    server: 0,
                    time: Duration::from_millis(1310),
                },
            },
            Fault {
                at: Moment(1349000000),
                kind: FaultKind::SyncError { server: 1 },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// disk 0 of machine 1 at seq:4194308: sector 1 is restored as write 0, and was write 1000000039
#[test]
fn seed_100725718_stays_mended() {
    let plan = Plan {
        seed: 100725718,
        shape: Shape {
            servers: 1,
            machines: 2,
            disks: 1,
            sectors: 26,
            healed_at: Moment(2900000000),
            think_us: 42986,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(100),
            store_us_max: 64170,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 14811,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(277000000),
                kind: FaultKind::ServerCrash {
                    server: 0,
                    down: Duration::from_millis(77),
                },
            },
            Fault {
                at: Moment(500000000),
                kind: FaultKind::StoreOutage {
                    time: Duration::from_millis(1422),
                },
            },
            Fault {
                at: Moment(600000000),
                kind: FaultKind::ServerCrash {
                    server: 0,
                    down: Duration::from_millis(447),
                },
            },
            Fault {
                at: Moment(710000000),
                kind: FaultKind::AgentCrash {
                    machine: 1,
                    down: Duration::from_millis(532),
                },
            },
            Fault {
                at: Moment(1549000000),
                kind: FaultKind::AgentRolledBack {
                    machine: 1,
                    after: Duration::from_millis(1333),
                    disks: false,
                },
            },
            Fault {
                at: Moment(2000000000),
                kind: FaultKind::StoreOutage {
                    time: Duration::from_millis(1170),
                },
            },
            Fault {
                at: Moment(2200000000),
                kind: FaultKind::DiskLost {
                    server: 0,
                    down: Duration::from_millis(511),
                },
            },
            Fault {
                at: Moment(2340000000),
                kind: FaultKind::AgentStop {
                    machine: 0,
                    down: Duration::from_millis(771),
                    touched: true,
                },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// disk 1 of machine 0 at seq:2097275: sector 84 is restored as write 236, and was write 0
#[test]
fn seed_289450_stays_mended() {
    let plan = Plan {
        seed: 289450,
        shape: Shape {
            servers: 1,
            machines: 1,
            disks: 2,
            sectors: 155,
            healed_at: Moment(3300000000),
            think_us: 43796,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(555),
            store_us_max: 96370,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 6986,
            stall_per_mille: 15,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(400000000),
                kind: FaultKind::NoSpace {
                    server: 0,
                    time: Duration::from_millis(1234),
                },
            },
            Fault {
                at: Moment(410000000),
                kind: FaultKind::OneWayCut {
                    machine: 0,
                    to_agent: false,
                },
            },
            Fault {
                at: Moment(600000000),
                kind: FaultKind::Freeze {
                    server: 0,
                    time: Duration::from_millis(618),
                },
            },
            Fault {
                at: Moment(1000000000),
                kind: FaultKind::StoreStorm {
                    time: Duration::from_millis(628),
                },
            },
            Fault {
                at: Moment(1028000000),
                kind: FaultKind::MachinePowerCut {
                    machine: 0,
                    down: Duration::from_millis(232),
                },
            },
            Fault {
                at: Moment(1900000000),
                kind: FaultKind::Partition {
                    machine: 0,
                    server: 0,
                    time: Duration::from_millis(701),
                },
            },
            Fault {
                at: Moment(2004000000),
                kind: FaultKind::MachinePowerCut {
                    machine: 0,
                    down: Duration::from_millis(746),
                },
            },
            Fault {
                at: Moment(2200000000),
                kind: FaultKind::StoreRot,
            },
            Fault {
                at: Moment(2420000000),
                kind: FaultKind::AgentStateLost {
                    machine: 0,
                    down: Duration::from_millis(209),
                },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// the world goes in circles
#[test]
fn seed_140559854_stays_mended() {
    let plan = Plan {
        seed: 140559854,
        shape: Shape {
            servers: 2,
            machines: 1,
            disks: 3,
            sectors: 8,
            healed_at: Moment(1200000000),
            think_us: 12696,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(100),
            store_us_max: 1000,
            unknown_per_mille: 0,
            late_per_mille: 0,
            twice_per_mille: 0,
            link_us_max: 100,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 0,
            log_files: 8,
            clock_skew_s_max: 0,
        },
        faults: vec![Fault {
            at: Moment(0),
            kind: FaultKind::Burst {
                machine: 0,
                time: Duration::from_millis(1489),
            },
        }],
    };
    assert_eq!(run(&plan, None).violation, None);
}

/// the world asked a server that had just ended for its replicas
#[test]
fn seed_170180820_stays_mended() {
    let plan = Plan {
        seed: 170180820,
        shape: Shape {
            servers: 2,
            machines: 2,
            disks: 1,
            sectors: 12,
            healed_at: Moment(1900000000),
            think_us: 13990,
            queue_bytes_max: 524288,
            commit_interval: Duration::from_millis(259),
            store_us_max: 10360,
            unknown_per_mille: 0,
            late_per_mille: 17,
            twice_per_mille: 0,
            link_us_max: 17148,
            stall_per_mille: 0,
            corrupt_per_million: 0,
            local_error_per_mille: 3,
            log_files: 5,
            clock_skew_s_max: 0,
        },
        faults: vec![
            Fault {
                at: Moment(0),
                kind: FaultKind::NoSpace {
                    server: 0,
                    time: Duration::from_millis(275),
                },
            },
            Fault {
                at: Moment(257816209),
                kind: FaultKind::AgentStop {
                    machine: 1,
                    down: Duration::from_millis(98),
                    touched: false,
                },
            },
            Fault {
                at: Moment(720000000),
                kind: FaultKind::Partition {
                    machine: 1,
                    server: 0,
                    time: Duration::from_millis(874),
                },
            },
            Fault {
                at: Moment(730000000),
                kind: FaultKind::Burst {
                    machine: 1,
                    time: Duration::from_millis(637),
                },
            },
            Fault {
                at: Moment(1500000000),
                kind: FaultKind::StoreStorm {
                    time: Duration::from_millis(1049),
                },
            },
            Fault {
                at: Moment(1500000000),
                kind: FaultKind::TakeOver { by: 0, of: 1 },
            },
            Fault {
                at: Moment(1800000000),
                kind: FaultKind::LogRot { server: 0 },
            },
        ],
    };
    assert_eq!(run(&plan, None).violation, None);
}
