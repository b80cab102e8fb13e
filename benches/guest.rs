//! What does protection cost the guest? 4 KiB random writes, one and sixteen at a time.
//!
//! Sketch: a write of an unprotected disk is a request, a `pwrite` into the page cache and an answer. With
//! protection come a range lock, a `Seq` and a place in the queue, which are far less than the system
//! calls; and the compression and sending of what was written, by threads that give way to those that
//! serve the guest, but on the same cores. So most of the rate should stay.
//!
//! *off*: the agent before any server has taken its disk, so that it serves and records nothing. *on*:
//! agent, server and vault, processes of the built program, on the same cores; order must be held, and
//! the newest point, restored, must equal the disk. *qemu-nbd*: the same file as qemu serves it. Each of
//! them past the page cache, as disks of guests are mostly served (`direct`, and qemu's `--cache=none
//! --aio=io_uring`), and through it. The server's log and its vault lie in memory: on the guest's own
//! device they would take from it what is elsewhere another machine's. One client for all of them, in
//! turn; payload is this machine's own programs, so that it compresses as disk data does.
//!
//! `cargo xtask bench guest -- [--runs N] [--seconds N] [--queue MIB] [--only CASE]`, a case being what its line
//! begins with, counted from 1.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_benches::flags::{is_brief, number};
use everpoint_benches::usage::cpu;
use everpoint_nbd::{ClientConfig, NbdAddress, NbdClient};
use everpoint_tests::rigs::child::Process;
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::site::{AgentSpec, ServerSpec, Site};
use everpoint_tests::rigs::tool::tool;
use everpoint_tests::rigs::wait;
use everpoint_units::ByteOffset;
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
    /// The thread that writes.
    client: Runtime,
}

/// How the disk is served.
#[derive(Clone, Copy)]
enum Cache {
    /// Writes go to the device.
    None,
    /// Writes go to the page cache.
    Page,
}

#[derive(Clone, Copy)]
struct Measured {
    /// Writes a second.
    rate: f64,
    /// Processor time of the agent, with what it did after the load. Unit: microseconds a write.
    agent_us: f64,
    /// From the end of the load until all of it was a recovery point.
    settled_after: Duration,
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
        client: Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?,
    };
    let cases = [
        (Cache::None, 1),
        (Cache::None, 16),
        (Cache::Page, 1),
        (Cache::Page, 16),
    ];
    let only = number("--only", 0);
    let chosen = cases
        .into_iter()
        .zip(1..)
        .filter(|(_, index)| only == 0 || only == *index);
    for ((cache, depth), _) in chosen {
        let mut all: [Vec<Measured>; 3] = Default::default();
        for _ in 0..number("--runs", runs) {
            all[0].push(plan.client.block_on(off(&plan, cache, depth))?);
            all[1].push(plan.client.block_on(on(&plan, cache, depth))?);
            all[2].push(plan.client.block_on(qemu(&plan, cache, depth))?);
        }
        let [off, on, qemu] = all.map(|runs| median(&runs));
        println!(
            "{cache}, QD{depth}: off {:.0}/s, on {:.0}/s, qemu-nbd {:.0}/s; on is {:.2} of off and {:.2} of qemu-nbd; the agent \
             takes {:.1} us a write (off: {:.1}); order held, all of it a recovery point {:.1} s after the load",
            off.rate,
            on.rate,
            qemu.rate,
            on.rate / off.rate,
            on.rate / qemu.rate,
            on.agent_us,
            off.agent_us,
            on.settled_after.as_secs_f64(),
        );
    }
    Ok(())
}

async fn off(plan: &Plan, cache: Cache, depth: usize) -> Result<Measured> {
    let site = Site::new("guest").await?;
    // It never runs.
    let server = site.server(ServerSpec::new("server", site.vault())).await?;
    let mut agent = site.agent(plan.agent(&site, cache)?, &[&server]).await?;
    agent.node.start().await?;
    let cpu_before = cpu(agent.node.id()?);
    let (rate, count) = plan.load(&agent.address, depth).await?;
    let used = cpu(agent.node.id()?) - cpu_before;
    let figures = agent.disk().await?;
    ensure!(
        figures.state == "disconnected" && figures.resync_count == 0,
        "a disk that nobody protects: {figures:?}"
    );
    agent.node.kill()?;
    site.passed();
    Ok(Measured::new(rate, count, used, Duration::ZERO))
}

async fn on(plan: &Plan, cache: Cache, depth: usize) -> Result<Measured> {
    let site = Site::new("guest").await?;
    let spec = ServerSpec {
        log_quota: 4 << 30,
        log_file_len: 256 << 20,
        log_dir: Some(site.image("log")),
        ..ServerSpec::new("server", site.image("vault"))
    };
    let protected = plan.agent(&site, cache)?;
    let (mut server, mut agent) = site.protect(spec, protected).await?;
    agent.until_settled(&server, LEVEL_TIME_MAX).await?;
    let before = agent.disk().await?.resync_count;
    let id = agent.node.id()?;
    let cpu_before = cpu(id);
    let (rate, count) = plan.load(&agent.address, depth).await?;
    let loaded = Instant::now();
    agent.until_settled(&server, LEVEL_TIME_MAX).await?;
    let settled_after = loaded.elapsed();
    let used = cpu(id) - cpu_before;
    let disk = agent.disk().await?;
    ensure!(
        disk.resync_count == before,
        "write order was given up ({}): give the queue more with --queue",
        disk.resync_reason
    );
    let restored = site
        .restore(&site.image("vault"), agent.disk, "latest", "restored.raw")
        .await?;
    let digest = ImageDigest::of(&agent.spec.source)?;
    digest.expect_same(&ImageDigest::of(&restored.path)?, "the newest point")?;
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(Measured::new(rate, count, used, settled_after))
}

async fn qemu(plan: &Plan, cache: Cache, depth: usize) -> Result<Measured> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::tempdir()?;
    let (disk, socket) = (dir.path().join("disk"), sockets.path().join("nbd"));
    prepare(&disk, plan.disk_len, cache)?;
    let mut command = tool("qemu-nbd")?;
    command.args(["--format=raw", "--persistent", "--export-name=disk"]);
    command.args(match cache {
        Cache::None => ["--cache=none", "--aio=io_uring"],
        Cache::Page => ["--cache=writeback", "--aio=threads"],
    });
    command.arg("--socket").arg(&socket).arg(&disk);
    let mut process = Process::start("qemu-nbd", command, &dir.path().join("log"))?;
    let address = NbdAddress::unix(&socket, "disk");
    wait::until("qemu-nbd", LEVEL_TIME_MAX, async || {
        let client = NbdClient::connect(&address, &ClientConfig::default()).await;
        Ok(client.ok().map(drop))
    })
    .await?;
    let (rate, count) = plan.load(&address, depth).await?;
    process.kill()?;
    Ok(Measured::new(rate, count, Duration::ZERO, Duration::ZERO))
}

impl Plan {
    fn agent(&self, site: &Site, cache: Cache) -> Result<AgentSpec> {
        let source = site.path("source.raw");
        prepare(&source, self.disk_len, cache)?;
        Ok(AgentSpec {
            queue_max: self.queue,
            direct: matches!(cache, Cache::None),
            ..AgentSpec::new(source)
        })
    }

    /// Writes as fast as answers come, `depth` at a time. Returns how many a second, and how many.
    async fn load(&self, address: &NbdAddress, depth: usize) -> Result<(f64, u32)> {
        // What an earlier run left to be written back is not this run's.
        rustix::fs::sync();
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
    }
}

impl Measured {
    fn new(rate: f64, count: u32, used: Duration, settled_after: Duration) -> Self {
        Self {
            settled_after,
            rate,
            agent_us: used.as_secs_f64() * 1e6 / f64::from(count),
        }
    }
}

impl std::fmt::Display for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "past the page cache",
            Self::Page => "page cache",
        })
    }
}

/// A file that is allocated, written, synced, and in the page cache if it will be served from there: page by
/// page, because a file system may keep what was written at once in one large folio, and a small write then
/// costs what the folio is long.
fn prepare(path: &Path, len: u64, cache: Cache) -> Result<()> {
    let file = File::options().create_new(true).write(true).open(path)?;
    for at in (0..len).step_by(4_096) {
        file.write_all_at(&[1; 4_096], at)?;
    }
    file.sync_all()?;
    if matches!(cache, Cache::None) {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
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
