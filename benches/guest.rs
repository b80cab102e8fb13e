//! What does protection cost the guest? 4 KiB random writes, one and sixteen at a time.
//!
//! Sketch: a write of an unprotected disk is a request, a `pwrite` into the page cache and an answer. With
//! protection come a range lock, a `Seq` and a place in the queue, which are far less than the system
//! calls; and the compression and sending of what was written, by threads that give way to those that
//! serve the guest, but on the same cores. So most of the rate should stay.
//!
//! *off*: this product's NBD server over a file. *on*: agent, server and vault, processes of the built
//! program, on the same cores; order must be held, and the newest point, restored, must equal the disk.
//! *qemu-nbd*: the same file as qemu serves it, through the page cache too. One client for all of them,
//! in turn; payload is this machine's own programs, so that it compresses as disk data does.
//!
//! `cargo xtask bench guest -- [--runs N] [--seconds N] [--queue MIB]`

#[path = "../crates/everpoint-nbd/tests/support/file_export.rs"]
mod file_export;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_benches::flags::{is_brief, number};
use everpoint_benches::usage::cpu;
use everpoint_nbd::{ClientConfig, NbdAddress, NbdClient, Server, ServerConfig};
use everpoint_tests::rigs::child::Process;
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::site::{AgentSpec, ServerSpec, Site};
use everpoint_tests::rigs::tool::tool;
use everpoint_tests::rigs::wait;
use everpoint_units::ByteOffset;
use file_export::FileExport;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::{Builder, Runtime};

const WRITE_LEN: u64 = 4_096;
const PAYLOAD_LEN: usize = 64 << 20;
const LEVEL_TIME_MAX: Duration = Duration::from_secs(120);

/// What is measured with.
struct Plan {
    disk_len: u64,
    queue: u64,
    time: Duration,
    payload: Bytes,
    /// The threads that serve without protection, and the one that writes.
    serving: Runtime,
    client: Runtime,
}

/// Writes a second; and of the protected disk, processor time of its agent. Unit: microseconds a write.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    agent_us: f64,
}

fn main() -> Result<()> {
    let brief = is_brief();
    let (runs, seconds) = if brief { (1, 1) } else { (5, 4) };
    let seconds = u64::try_from(number("--seconds", seconds))?;
    let plan = Plan {
        disk_len: if brief { 64 << 20 } else { 1 << 30 },
        queue: u64::try_from(number("--queue", 2_048))? << 20,
        time: Duration::from_secs(seconds),
        payload: payload()?,
        serving: Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
        client: Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?,
    };
    for depth in [1, 16] {
        let mut all: [Vec<Measured>; 3] = Default::default();
        for _ in 0..number("--runs", runs) {
            all[0].push(off(&plan, depth)?);
            all[1].push(on(&plan, depth)?);
            all[2].push(qemu(&plan, depth)?);
        }
        let [off, on, qemu] = all.map(|runs| median(&runs));
        println!(
            "QD{depth}: off {:.0}/s, on {:.0}/s, qemu-nbd {:.0}/s; on is {:.2} of off and {:.2} of qemu-nbd; the agent \
             takes {:.1} us a write, order held",
            off.rate,
            on.rate,
            qemu.rate,
            on.rate / off.rate,
            on.rate / qemu.rate,
            on.agent_us,
        );
    }
    Ok(())
}

fn off(plan: &Plan, depth: usize) -> Result<Measured> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("nbd");
    let file = prepared(&dir.path().join("disk"), plan.disk_len)?;
    let server = Server::new(ServerConfig::default())?;
    server.attach("disk", Arc::new(FileExport::new(file)))?;
    plan.serving
        .block_on(async { server.listen_unix(&socket) })?;
    let (rate, _) = plan.load(&NbdAddress::unix(&socket, "disk"), depth)?;
    plan.serving.block_on(server.shutdown());
    Ok(Measured {
        rate,
        agent_us: 0.0,
    })
}

fn on(plan: &Plan, depth: usize) -> Result<Measured> {
    let (site, mut server, mut agent, source) = plan.serving.block_on(async {
        let site = Site::new("guest").await?;
        let spec = ServerSpec {
            log_quota: 4 << 30,
            log_file_len: 256 << 20,
            ..ServerSpec::new("server", site.vault())
        };
        let source = site.path("source.raw");
        prepared(&source, plan.disk_len)?;
        let protected = AgentSpec {
            queue_max: plan.queue,
            ..AgentSpec::new(source.clone())
        };
        let (server, agent) = site.protect(spec, protected).await?;
        agent.until_settled(&server, LEVEL_TIME_MAX).await?;
        anyhow::Ok((site, server, agent, source))
    })?;
    let before = plan.serving.block_on(agent.disk())?.resync_count;
    let id = agent.node.id()?;
    let cpu_before = cpu(id);
    let (rate, count) = plan.load(&agent.address, depth)?;
    plan.serving.block_on(async {
        agent.until_settled(&server, LEVEL_TIME_MAX).await?;
        let used = cpu(id) - cpu_before;
        let disk = agent.disk().await?;
        ensure!(
            disk.resync_count == before,
            "write order was given up ({}): give the queue more with --queue",
            disk.resync_reason
        );
        let restored = site
            .restore(&site.vault(), agent.disk, "latest", "restored.raw")
            .await?;
        let digest = ImageDigest::of(&source)?;
        digest.expect_same(&ImageDigest::of(&restored.path)?, "the newest point")?;
        ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
        site.passed();
        let agent_us = used.as_secs_f64() * 1e6 / f64::from(count);
        Ok(Measured { rate, agent_us })
    })
}

fn qemu(plan: &Plan, depth: usize) -> Result<Measured> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::tempdir()?;
    let (disk, socket) = (dir.path().join("disk"), sockets.path().join("nbd"));
    prepared(&disk, plan.disk_len)?;
    let mut command = tool("qemu-nbd")?;
    command.args(["--format=raw", "--cache=writeback", "--persistent"]);
    command.args(["--export-name=disk", "--socket"]);
    command.arg(&socket).arg(&disk);
    let mut process = Process::start("qemu-nbd", command, &dir.path().join("log"))?;
    let address = NbdAddress::unix(&socket, "disk");
    let connects = wait::until("qemu-nbd", LEVEL_TIME_MAX, async || {
        let client = NbdClient::connect(&address, &ClientConfig::default()).await;
        Ok(client.ok().map(drop))
    });
    plan.client.block_on(connects)?;
    let (rate, _) = plan.load(&address, depth)?;
    process.kill()?;
    Ok(Measured {
        rate,
        agent_us: 0.0,
    })
}

impl Plan {
    /// Writes as fast as answers come, `depth` at a time. Returns how many a second, and how many.
    fn load(&self, address: &NbdAddress, depth: usize) -> Result<(f64, u32)> {
        // What an earlier run left to be written back is not this run's.
        rustix::fs::sync();
        self.client.block_on(async {
            let client = NbdClient::connect(address, &ClientConfig::default()).await?;
            let mut random = StdRng::seed_from_u64(42);
            let pages = self.payload.len() as u64 / WRITE_LEN;
            let mut next = || {
                let at = ByteOffset(random.random_range(0..self.disk_len / WRITE_LEN) * WRITE_LEN);
                let from = random.random_range(0..pages) * WRITE_LEN;
                let from = usize::try_from(from).expect("64-bit");
                let data = self.payload.slice(from..from + 4_096);
                client.write(at, data, false)
            };
            let mut running: FuturesUnordered<_> = (0..depth).map(|_| next()).collect();
            let began = Instant::now();
            let mut count = 0_u32;
            while began.elapsed() < self.time {
                running.next().await.context("some run")??;
                running.push(next());
                count += 1;
            }
            let seconds = began.elapsed().as_secs_f64();
            while let Some(written) = running.next().await {
                written?;
            }
            Ok((f64::from(count) / seconds, count))
        })
    }
}

/// A file that is allocated, written, synced, and in the page cache: page by page, because a file system may
/// keep what was written at once in one large folio, and a small write then costs what the folio is long.
fn prepared(path: &Path, len: u64) -> Result<File> {
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)?;
    for at in (0..len).step_by(4_096) {
        file.write_all_at(&[1; 4_096], at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// This machine's own programs, one behind the other.
fn payload() -> Result<Bytes> {
    let mut bytes = Vec::new();
    for entry in Path::new("/usr/bin").read_dir()? {
        // What cannot be read is left out.
        if let Ok(mut file) = File::open(entry?.path()) {
            let _ = file.read_to_end(&mut bytes);
        }
        if PAYLOAD_LEN <= bytes.len() {
            break;
        }
    }
    bytes.truncate(PAYLOAD_LEN);
    Ok(bytes.into())
}

/// By rate.
fn median(runs: &[Measured]) -> Measured {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    runs[runs.len() / 2]
}
