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
//! second, medians of the rounds, and their ratio; whether order was kept throughout.

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

fn threads(count: usize) -> Runtime {
    let built = Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build();
    built.expect("threads")
}

fn argument(index: usize, default: u64) -> u64 {
    let text = std::env::args().nth(index);
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let (seconds, rounds) = (Duration::from_secs(argument(1, 4)), argument(2, 3));
    let nice = i32::try_from(argument(3, 5)).expect("0 to 19");
    let (serving, guest) = (threads(2), threads(1));
    let payload = payload();
    for depth in [1, 16] {
        let (mut off, mut on, mut kept) = (Vec::new(), Vec::new(), true);
        for round in 0..rounds {
            off.push(unprotected(&serving, &guest, &payload, depth, seconds));
            let (rate, ordered) = protected(&serving, &guest, &payload, depth, seconds, nice);
            on.push(rate);
            kept &= ordered;
            eprintln!(
                "depth {depth} round {round}: off {:.0} on {:.0}",
                off[off.len() - 1],
                rate
            );
        }
        let (off, on) = (median(off), median(on));
        let ratio = on / off;
        println!("QD{depth}: off {off:.0}/s, on {on:.0}/s, ratio {ratio:.3}, order kept: {kept}");
    }
}

fn unprotected(
    serving: &Runtime,
    guest: &Runtime,
    payload: &Bytes,
    depth: usize,
    time: Duration,
) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let file = prepared(&dir.path().join("disk"));
    let server = Server::new(ServerConfig::default()).expect("defaults");
    server.attach("disk1", Arc::new(Plain(file))).expect("free");
    serving
        .block_on(async { server.listen_unix(&dir.path().join("nbd")) })
        .expect("free");
    let rate = guest.block_on(load(&dir.path().join("nbd"), payload, depth, time));
    serving.block_on(server.shutdown());
    rate
}

fn protected(
    serving: &Runtime,
    guest: &Runtime,
    payload: &Bytes,
    depth: usize,
    time: Duration,
    nice: i32,
) -> (f64, bool) {
    let shop = serving.block_on(async {
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
    let agent = serving
        .block_on(Agent::start(config))
        .expect("a good configuration");
    serving.block_on(agent.wait_protected());
    let rate = guest.block_on(load(&shop.path("nbd"), payload, depth, time));
    let status = agent.status();
    let ordered = status.disks[0].resync_count == 1 && status.disks[0].state == "protected";
    eprintln!(
        "  queue {} MiB, seq {}, {}",
        status.queue_bytes >> 20,
        status.seq,
        status.disks[0].state
    );
    serving.block_on(agent.kill());
    (rate, ordered)
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

/// Writes as fast as answers come, `depth` at a time. Returns writes a second.
async fn load(socket: &Path, payload: &Bytes, depth: usize, time: Duration) -> f64 {
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
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    while let Some(written) = running.next().await {
        written.expect("written");
    }
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
