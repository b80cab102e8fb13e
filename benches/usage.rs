//! What processes have used, from procfs: processor time and memory.

use std::time::Duration;

/// Unit: ticks a second of procfs, 100 on every Linux (`USER_HZ`).
const TICKS: u64 = 100;

/// Processor time, user and system together.
///
/// # Panics
///
/// If there is no such process.
pub fn cpu(process: u32) -> Duration {
    // Fields 14 and 15 of proc(5).
    ticks(&process.to_string(), [11, 12])
}

/// Processor time of this process, user and system together.
///
/// # Panics
///
/// If procfs is not mounted.
pub fn own_cpu() -> Duration {
    ticks("self", [11, 12])
}

/// Processor time of this process's children that have ended and were waited for.
///
/// # Panics
///
/// If procfs is not mounted.
pub fn children_cpu() -> Duration {
    // Fields 16 and 17.
    ticks("self", [13, 14])
}

/// Most memory that a process had so far. Unit: bytes.
///
/// # Panics
///
/// If there is no such process.
pub fn memory_max(process: u32) -> u64 {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(path).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a line of proc(5)")
        << 10
}

/// The sum of two fields behind the name in a process's `stat`, counted from the state.
fn ticks(process: &str, fields: [usize; 2]) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.expect("a process that runs");
    let (_, tail) = stat.rsplit_once(") ").expect("a line of proc(5)");
    let words: Vec<&str> = tail.split(' ').collect();
    let of = |at: usize| words[at].parse::<u64>().expect("a number");
    Duration::from_millis((of(fields[0]) + of(fields[1])) * 1_000 / TICKS)
}
