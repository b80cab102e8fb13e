//! What does protection cost a guest? 4 KiB random writes through NBD on a unix socket, the same
//! server with and without an agent, in turn, on one machine.
//!
//! ```text
//! cargo run --release -p everpoint-agent --example guest_cost -- [SECONDS] [ROUNDS] [NICE]
//! ```
//!
//! *off*: an NBD server over the file, a write is a `pwrite`. *on*: an agent over the same file, whose
//! process server (in this process, on its own threads, over QUIC) acknowledges and keeps nothing.
//! Payload is this machine's own `/usr`, so that it compresses as disk data does. Printed: writes a
//! second, medians of the rounds, and their ratio; whether order was kept throughout; and the
//! processor time of the threads that serve the guest, a write, which other work on the machine does
//! not blur.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_agent::Agent;
use everpoint_nbd::{
    ClientConfig, Errno, Export, ExportInfo, NbdAddress, NbdClient, Server, ServerConfig, ZeroFlags,
};
use everpoint_units::{ByteLen, ByteOffset};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

#[path = "../tests/rig/fake_server.rs"]
#[expect(dead_code, reason = "the tests use more of the rig")]
mod fake_server;
#[path = "../tests/rig/workshop.rs"]
#[expect(dead_code, reason = "the tests use more of the rig")]
mod workshop;

use fake_server::Manner;
use workshop::{MIB, Random, Workshop, disk};

const DISK_LEN: u64 = 1 << 30;
/// Name of the threads that serve without protection.
const PLAIN_THREADS: &str = "plain-serve";

/// The same file without protection.
struct Plain(File);

impl Export for Plain {
    fn describe(&self) -> ExportInfo {
        ExportInfo::disk(ByteLen(DISK_LEN))
    }

    async fn read(&self, _: ByteOffset, _: u32) -> Result<Bytes, Errno> {
        Err(Errno::NotSup)
    }

    async fn write(&self, at: ByteOffset, data: Bytes, _: bool) -> Result<(), Errno> {
        self.0
            .write_all_at(&data, at.0)
            .map_err(|error| Errno::from_io(&error))
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn trim(&self, _: ByteOffset, _: u32, _: bool) -> Result<(), Errno> {
        Err(Errno::NotSup)
    }

    async fn write_zeroes(&self, _: ByteOffset, _: u32, _: ZeroFlags) -> Result<(), Errno> {
        Err(Errno::NotSup)
    }
}

/// What a run came to.
struct Measured {
    /// Writes a second.
    rate: f64,
    /// Processor time of the threads that serve the guest, a write. Unit: microseconds.
    serve_us: f64,
    /// Processor time of the whole process, a write. Unit: microseconds.
    all_us: f64,
}

/// The runs of one kind.
#[derive(Default)]
struct Runs(Vec<Measured>);

impl Runs {
    fn median(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

fn main() {
    let (seconds, rounds) = (Duration::from_secs(argument(1, 4)), argument(2, 3));
    let nice = i32::try_from(argument(3, 5)).expect("0 to 19");
    let (serving, server) = (threads(2, PLAIN_THREADS), threads(2, "process-server"));
    let guest = threads(1, "load");
    let payload = payload();
    for depth in [1, 16] {
        let (mut off, mut on, mut kept) = (Runs::default(), Runs::default(), true);
        for _ in 0..rounds {
            off.0
                .push(unprotected(&serving, &guest, &payload, depth, seconds));
            let (measured, ordered) = protected(&server, &guest, &payload, depth, seconds, nice);
            on.0.push(measured);
            kept &= ordered;
        }
        for (name, runs) in [("off", &off), ("on", &on)] {
            println!(
                "QD{depth} {name}: {:.0} writes/s; serving a write {:.1} us, the process {:.1} us",
                runs.median(|run| run.rate),
                runs.median(|run| run.serve_us),
                runs.median(|run| run.all_us),
            );
        }
        let ratio = on.median(|run| run.rate) / off.median(|run| run.rate);
        println!("QD{depth}: ratio {ratio:.3}, order kept: {kept}");
    }
}

fn measure(threads: &str, run: impl FnOnce() -> (u32, f64)) -> Measured {
    let (serve, all) = cpu_seconds(threads);
    let (count, seconds) = run();
    let (serve_now, all_now) = cpu_seconds(threads);
    let each = 1e6 / f64::from(count);
    Measured {
        rate: f64::from(count) / seconds,
        serve_us: (serve_now - serve) * each,
        all_us: (all_now - all) * each,
    }
}

/// Processor time so far, of this process's threads of a name and of all, from procfs. A tick is
/// 10 ms.
fn cpu_seconds(name: &str) -> (f64, f64) {
    // The kernel keeps 15 bytes of a name.
    let name = &name[..name.len().min(15)];
    let (mut named, mut all) = (0, 0);
    for task in std::fs::read_dir("/proc/self/task")
        .expect("procfs")
        .flatten()
    {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        // Fields 14 and 15 of the line; these begin with field 3.
        let field = |index: usize| {
            tail.split(' ')
                .nth(index)
                .and_then(|text| text.parse().ok())
        };
        let ticks: u64 = field(11).unwrap_or(0) + field(12).unwrap_or(0);
        all += ticks;
        if head.split_once('(').is_some_and(|(_, found)| found == name) {
            named += ticks;
        }
    }
    (named as f64 / 100.0, all as f64 / 100.0)
}

fn threads(count: usize, name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let built = builder
        .worker_threads(count)
        .thread_name(name)
        .enable_all()
        .build();
    built.expect("threads")
}

fn argument(index: usize, default: u64) -> u64 {
    let text = std::env::args().nth(index);
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn unprotected(
    serving: &Runtime,
    guest: &Runtime,
    payload: &Bytes,
    depth: usize,
    time: Duration,
) -> Measured {
    let dir = tempfile::tempdir().expect("a directory");
    let file = prepared(&dir.path().join("disk"));
    let server = Server::new(ServerConfig::default()).expect("defaults");
    server.attach("disk1", Arc::new(Plain(file))).expect("free");
    let socket = dir.path().join("nbd");
    let listening = serving.block_on(async { server.listen_unix(&socket) });
    listening.expect("free");
    let run = || guest.block_on(load(&socket, payload, depth, time));
    let measured = measure(PLAIN_THREADS, run);
    serving.block_on(server.shutdown());
    measured
}

fn protected(
    server: &Runtime,
    guest: &Runtime,
    payload: &Bytes,
    depth: usize,
    time: Duration,
    nice: i32,
) -> (Measured, bool) {
    let shop = server.block_on(async {
        Workshop::new(Manner {
            keeps_nothing: true,
            ..Manner::default()
        })
    });
    let path = shop.path("disk");
    drop(prepared(&path));
    let mut config = shop.config(vec![disk(1, &path)]);
    (config.queue_bytes_max, config.memory_bytes_max) = (256 * MIB, 512 * MIB);
    config.background_nice = nice;
    let agent = server
        .block_on(Agent::start(config))
        .expect("a good configuration");
    server.block_on(agent.wait_protected());
    let socket = shop.path("nbd");
    let run = || guest.block_on(load(&socket, payload, depth, time));
    let measured = measure("everpoint-guest", run);
    let status = agent.status();
    let ordered = status.disks[0].resync_count == 1 && status.disks[0].state == "protected";
    eprintln!(
        "{:.0} writes/s, {} MiB left in the queue",
        measured.rate,
        status.queue_bytes >> 20
    );
    server.block_on(agent.kill());
    (measured, ordered)
}

/// A file that is allocated and written, in the page cache.
fn prepared(path: &Path) -> File {
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .expect("made");
    let piece = vec![1; 1 << 20];
    for at in 0..DISK_LEN >> 20 {
        file.write_all_at(&piece, at << 20).expect("written");
    }
    file.sync_all().expect("synced");
    file
}

/// 64 MiB of this machine's own programs and libraries.
fn payload() -> Bytes {
    let mut bytes = Vec::new();
    let entries = std::fs::read_dir("/usr/bin").expect("there").flatten();
    for entry in entries {
        if let Ok(mut file) = File::open(entry.path()) {
            // What cannot be read is left out.
            let _ = file.read_to_end(&mut bytes);
        }
        if 64 << 20 <= bytes.len() {
            break;
        }
    }
    bytes.truncate(64 << 20);
    bytes.into()
}

/// Writes as fast as answers come, `depth` at a time. Returns how many, and in how many seconds.
async fn load(socket: &Path, payload: &Bytes, depth: usize, time: Duration) -> (u32, f64) {
    let address = NbdAddress::unix(socket, "disk1");
    let client = NbdClient::connect(&address, &ClientConfig::default())
        .await
        .expect("served");
    let mut random = Random::new(42);
    let pages = payload.len() as u64 / 4_096;
    let mut next = || {
        let at = ByteOffset(random.below(DISK_LEN / 4_096) * 4_096);
        let from = usize::try_from(random.below(pages) * 4_096).expect("small");
        client.write(at, payload.slice(from..from + 4_096), false)
    };
    let mut running: FuturesUnordered<_> = (0..depth).map(|_| next()).collect();
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < time {
        running.next().await.expect("some run").expect("written");
        running.push(next());
        count += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    while let Some(written) = running.next().await {
        written.expect("written");
    }
    (count, seconds)
}
