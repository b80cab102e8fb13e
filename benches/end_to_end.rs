//! How near do agent, server and vault together come to the sum of their stages, each alone?
//!
//! Sketch: on two cores nothing of this waits for a device or a network that is slower than a core, so
//! what bounds it is processor time: an image's worth of it, of the client that copies the image in,
//! the NBD server and the local write, compression, both ends of QUIC, check, decompression, digests,
//! log and vault. Half of what that sum allows is the floor that this product sets itself.
//!
//! An image of this machine's `/usr` (`cargo xtask image`), copied by nbdcopy into a protected disk;
//! the clock runs until every byte is committed. Order must have been held throughout, and the newest
//! point, restored from the vault alone, must equal the image.
//!
//! `cargo xtask bench end_to_end -- [--runs N] [--mib N] [--queue MIB]`

#[path = "../crates/everpoint-nbd/tests/support/file_export.rs"]
mod file_export;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_benches::flags::{is_brief, number};
use everpoint_benches::stages::{self, Stages};
use everpoint_benches::usage::{children_cpu, cpu, memory_max, own_cpu};
use everpoint_nbd::{Server, ServerConfig};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::site::{Agent, AgentSpec, ServerSpec, Site};
use everpoint_tests::rigs::tool::tool;
use file_export::FileExport;
use tokio::runtime::Runtime;
use xtask::image::{ImageSpec, make};

const LEVEL_TIME_MAX: Duration = Duration::from_secs(120);

/// The image copied into a server that protects nothing.
struct Plain {
    wall: Duration,
    client: Duration,
    serve: Duration,
}

/// The image copied into a protected disk.
struct Whole {
    /// Until the client was done, and until everything was committed.
    copied: Duration,
    committed: Duration,
    client: Duration,
    agent: Duration,
    server: Duration,
    agent_memory: u64,
    server_memory: u64,
    /// Bytes in the vault.
    vault_len: u64,
}

fn main() -> Result<()> {
    let brief = is_brief();
    let (runs, mib) = if brief { (1, 64) } else { (5, 2_048) };
    let (runs, mib) = (number("--runs", runs), number("--mib", mib));
    let queue = number("--queue", 1_536);
    let runtime = Runtime::new()?;
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let image = scratch.path().join("image.raw");
    make(&ImageSpec::new(&image, mib as u64))?;
    let digest = ImageDigest::of(&image)?;
    let mut ratios = Vec::new();
    for run in 0..runs {
        let stages = stages::measure(&image, scratch.path())?;
        let plain = runtime.block_on(copy_plain(&image, scratch.path()))?;
        let whole = runtime.block_on(copy_protected(&image, &digest, queue as u64))?;
        if run == 0 {
            print_stages(&stages, &plain);
        }
        ratios.push(print_run(mib as u64 * (1 << 20), &stages, &plain, &whole));
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("{runs} runs: {median:.2} of what the sum of the stages allows on two cores (median)");
    Ok(())
}

async fn copy_plain(image: &Path, directory: &Path) -> Result<Plain> {
    let (path, socket) = (directory.join("plain.raw"), tempfile::tempdir()?);
    let socket = socket.path().join("nbd");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    file.set_len(image.metadata()?.len())?;
    let server = Server::new(ServerConfig::default())?;
    server.attach("disk", Arc::new(FileExport::new(file)))?;
    server.listen_unix(&socket)?;
    let serve = own_cpu();
    let (wall, client) = nbdcopy(
        image,
        &format!("nbd+unix:///disk?socket={}", socket.display()),
    )
    .await?;
    let serve = own_cpu() - serve;
    server.shutdown().await;
    std::fs::remove_file(path)?;
    Ok(Plain {
        wall,
        client,
        serve,
    })
}

async fn copy_protected(image: &Path, digest: &ImageDigest, queue_mib: u64) -> Result<Whole> {
    let site = Site::new("end-to-end").await?;
    let spec = ServerSpec {
        log_quota: 4 << 30,
        log_file_len: 256 << 20,
        ..ServerSpec::new("server", site.vault())
    };
    let source = site.path("source.raw");
    File::create_new(&source)?.set_len(image.metadata()?.len())?;
    let protected = AgentSpec {
        queue_max: queue_mib << 20,
        ..AgentSpec::new(source)
    };
    let (mut server, mut agent) = site.protect(spec, protected).await?;
    let before = agent.disk().await?;
    let ids = (agent.node.id()?, server.node.id()?);
    let (agent_cpu, server_cpu) = (cpu(ids.0), cpu(ids.1));
    let began = Instant::now();
    let (copied, client) = nbdcopy(image, &agent.address.to_string()).await?;
    agent.until_settled(&server, LEVEL_TIME_MAX).await?;
    let committed = began.elapsed();
    let whole = Whole {
        copied,
        committed,
        client,
        agent: cpu(ids.0) - agent_cpu,
        server: cpu(ids.1) - server_cpu,
        agent_memory: memory_max(ids.0),
        server_memory: memory_max(ids.1),
        vault_len: len_of(&site.vault())?,
    };
    ensure_order_held(&agent, before.resync_count).await?;
    let restored = site
        .restore(&site.vault(), agent.disk, "latest", "restored.raw")
        .await?;
    digest.expect_same(&ImageDigest::of(&restored.path)?, "the newest point")?;
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(whole)
}

async fn ensure_order_held(agent: &Agent, resyncs: u64) -> Result<()> {
    let disk = agent.disk().await?;
    ensure!(
        disk.resync_count == resyncs,
        "write order was given up ({}): give the queue more with --queue",
        disk.resync_reason
    );
    Ok(())
}

/// Copies the image in, to the last flush. Returns how long it took, and the client's processor time.
async fn nbdcopy(image: &Path, uri: &str) -> Result<(Duration, Duration)> {
    let mut command = tool("nbdcopy")?;
    command.arg("--flush").arg(image).arg(uri);
    let before = children_cpu();
    let took = tokio::task::spawn_blocking(move || run(command)).await??;
    Ok((took, children_cpu() - before))
}

fn run(mut command: Command) -> Result<Duration> {
    let began = Instant::now();
    let ended = command.status().context("nbdcopy cannot be run")?;
    ensure!(ended.success(), "nbdcopy ended with {ended}");
    Ok(began.elapsed())
}

/// Bytes of the files under a directory.
fn len_of(directory: &Path) -> Result<u64> {
    let (mut len, mut to_see) = (0, vec![PathBuf::from(directory)]);
    while let Some(directory) = to_see.pop() {
        for entry in directory.read_dir()? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                to_see.push(entry.path());
            } else {
                len += metadata.len();
            }
        }
    }
    Ok(len)
}

/// What the stages cost in all. Unit: seconds.
fn sum(stages: &Stages, plain: &Plain) -> f64 {
    let own: Duration = stages
        .agent
        .iter()
        .chain(&stages.server)
        .map(|of| of.1)
        .sum();
    (own + plain.client + plain.serve).as_secs_f64()
}

fn print_stages(stages: &Stages, plain: &Plain) {
    let gb = stages.data_len as f64 / 1e9;
    println!(
        "{gb:.2} GB are not zero, and compress to {:.2} GB ({:.2})",
        stages.frame_len as f64 / 1e9,
        stages.data_len as f64 / stages.frame_len as f64
    );
    println!("without protection: {:.2} s", plain.wall.as_secs_f64());
    let guest = [("nbdcopy", plain.client), ("NBD, local write", plain.serve)];
    let all = guest.iter().chain(&stages.agent).chain(&stages.server);
    println!("CPU of each stage alone, s/GB of data:");
    for (name, took) in all {
        println!("  {name:<16} {:.3}", took.as_secs_f64() / gb);
    }
    println!("  {:<16} {:.3}", "sum", sum(stages, plain) / gb);
}

/// Returns the ratio of what the stages allow to what it took.
fn print_run(len: u64, stages: &Stages, plain: &Plain, whole: &Whole) -> f64 {
    let gb = stages.data_len as f64 / 1e9;
    let committed = whole.committed.as_secs_f64();
    let allowed = sum(stages, plain) / 2.0;
    let ratio = allowed / committed;
    println!(
        "copied in {:.2} s, committed after {committed:.2} s: {:.0} MB/s of image, {:.0} MB/s of data; the stages allow \
         {allowed:.2} s: {ratio:.2}",
        whole.copied.as_secs_f64(),
        len as f64 / 1e6 / committed,
        gb * 1e3 / committed,
    );
    let of_gb = |took: Duration| took.as_secs_f64() / gb;
    println!(
        "  CPU s/GB of data: client {:.2}, agent {:.2}, server {:.2}; at most {} MiB in the agent, {} MiB in the server; \
         {} MiB in the vault",
        of_gb(whole.client),
        of_gb(whole.agent),
        of_gb(whole.server),
        whole.agent_memory >> 20,
        whole.server_memory >> 20,
        whole.vault_len >> 20,
    );
    ratio
}
