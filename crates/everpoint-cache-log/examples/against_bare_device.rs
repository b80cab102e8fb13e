//! How close does the log come to the bare device? Appends with sync against a loop of O_DIRECT
//! write and fdatasync on the same file system, in turn.
//!
//! Sketch: the log's only work per byte is one copy and one CRC-32 (0.1 s/GB together), and that is
//! done while the batch before syncs; the device takes 0.5 s/GB. So the log should reach the device
//! less the padding of its records. Goal: 0.8.
//!
//! `against_bare_device DIR [ROUNDS]`

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everpoint_cache_log::{CacheLog, CacheLogConfig, LogOwner, RandomBits};
use everpoint_units::{ByteLen, JournalId, Level, ServerId, VaultId};

const FILE_LEN: usize = 64 << 20;
const TOTAL_LEN: usize = 256 << 20;
const ALIGN: usize = 4_096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("usage: DIR [ROUNDS]");
    let rounds = arguments
        .next()
        .map_or(15, |n| n.parse().expect("a number"));
    let directory = Path::new(&directory);
    println!("record     batch      bare MB/s      log MB/s       ratio   ratio of disk bytes");
    for batch_len in [4 << 20, 16 << 20] {
        for record_len in [4 << 10, 64 << 10, 1 << 20] {
            compare(directory, batch_len, record_len, rounds);
        }
    }
}

fn compare(directory: &Path, batch_len: usize, record_len: usize, rounds: usize) {
    let bare = Bare::new(directory);
    let log_directory = directory.join("log");
    let log = open(&log_directory, batch_len);
    bare.run(batch_len);
    fill(&log, batch_len, record_len);
    let (mut bare_rates, mut log_rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare_rates.push(bare.run(batch_len));
        log_rates.push(fill(&log, batch_len, record_len));
    }
    drop(log);
    std::fs::remove_dir_all(&log_directory).expect("removed");
    std::fs::remove_file(directory.join("bare")).expect("removed");

    let stored_len = (record_len + 48).next_multiple_of(512);
    let padding = stored_len as f64 / record_len as f64;
    // Paired: the device and the machine may be busier in one round than in the next.
    let mut ratios: Vec<f64> = bare_rates
        .iter()
        .zip(&log_rates)
        .map(|(bare, log)| log / bare)
        .collect();
    let ratio = median(&mut ratios);
    let (bare, log) = (median(&mut bare_rates), median(&mut log_rates));
    println!(
        "{:>7} {:>9} {:>8.0} ({:.0}-{:.0}) {:>7.0} ({:.0}-{:.0}) {:>6.2} {:>6.2}",
        record_len,
        batch_len,
        bare,
        bare_rates[0],
        bare_rates[rounds - 1],
        log,
        log_rates[0],
        log_rates[rounds - 1],
        ratio,
        ratio * padding,
    );
}

/// A file zeroed beforehand, and memory aligned for O_DIRECT.
struct Bare {
    file: std::fs::File,
    memory: Vec<u8>,
}

impl Bare {
    fn new(directory: &Path) -> Self {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag"))
            .open(directory.join("bare"))
            .expect("O_DIRECT");
        let bare = Self {
            file,
            memory: noise((16 << 20) + ALIGN),
        };
        bare.run(4 << 20);
        bare
    }

    /// Writes and syncs batch after batch over two files' length; returns MB/s.
    fn run(&self, batch_len: usize) -> f64 {
        let start = self.memory.as_ptr().align_offset(ALIGN);
        let batch = &self.memory[start..start + batch_len];
        let began = Instant::now();
        for number in 0..TOTAL_LEN / batch_len {
            let at = number * batch_len % (2 * FILE_LEN);
            let written = rustix::io::pwrite(self.file.as_fd(), batch, at as u64);
            assert_eq!(written.expect("writes"), batch_len);
            rustix::fs::fdatasync(&self.file).expect("syncs");
        }
        rate(began.elapsed())
    }
}

fn open(directory: &Path, batch_len: usize) -> CacheLog {
    let config = CacheLogConfig {
        batch_len_max: ByteLen(batch_len as u64),
        ..CacheLogConfig::new(ByteLen(1 << 30))
    };
    let owner = LogOwner {
        vault: VaultId([1; 16]),
        server: ServerId([2; 16]),
        journal: JournalId {
            level: Level(1),
            random: [3; 16],
        },
    };
    let mut count = 0_u128;
    let random: RandomBits = Box::new(move || {
        count += 1;
        count.to_le_bytes()
    });
    CacheLog::open(directory, &config, owner, random)
        .expect("opens")
        .0
}

/// Appends with three batches in hand, and frees what is durable; returns MB/s of payload.
fn fill(log: &CacheLog, batch_len: usize, record_len: usize) -> f64 {
    // Payloads differ, as blocks do; a device may treat equal or empty blocks kindly.
    let noise = Bytes::from(noise(32 << 20));
    let waiting_max = 3 * batch_len / record_len;
    let mut waiting = VecDeque::new();
    let began = Instant::now();
    for number in 0..TOTAL_LEN / record_len {
        if waiting.len() == waiting_max {
            settle_oldest(log, &mut waiting);
        }
        let from = number * record_len % noise.len();
        waiting.push_back(log.append([noise.slice(from..from + record_len)]));
    }
    while !waiting.is_empty() {
        settle_oldest(log, &mut waiting);
    }
    rate(began.elapsed())
}

fn settle_oldest(log: &CacheLog, waiting: &mut VecDeque<everpoint_cache_log::Append>) {
    let oldest = waiting.pop_front().expect("not empty");
    log.free_through(oldest.wait().expect("durable").position());
}

/// Bytes that do not compress (splitmix64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let word = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(len).collect()
}

fn rate(took: Duration) -> f64 {
    TOTAL_LEN as f64 / 1e6 / took.as_secs_f64()
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
