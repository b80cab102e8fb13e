//! Initial sync under fire: random writes while a part-filled disk is copied, and the agent restarted twice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::is_soak;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{Agent, AgentSpec, ServerSpec, Site};
use everpoint_tests::rigs::wait;
use xtask::image::{self, ImageSpec};

/// Unit: bytes a second.
const WRITE_RATE: u64 = 50 << 20;
/// Slow enough that two restarts fall into the sync. Unit: bytes a second.
const SYNC_RATE_MAX: u64 = 160 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(120);

/// Sizes of the disk and of the image at its beginning. Unit: MiB.
const fn sizes() -> (u64, u64) {
    (1_024, 384)
}

const fn sizes_of_a_soak() -> (u64, u64) {
    (4_096, 1_024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_written_to_and_whose_agent_restarts_becomes_level() -> Result<()> {
    let (disk_mib, image_mib) = if is_soak() {
        sizes_of_a_soak()
    } else {
        sizes()
    };
    let site = Site::new("initial-sync").await?;
    let source = site.image("source.raw");
    fill(&source, disk_mib, image_mib).await?;
    let mut server = site.server(ServerSpec::new("server", site.place())).await?;
    server.node.start().await?;
    let spec = AgentSpec {
        resync_rate_max: Some(SYNC_RATE_MAX),
        ..AgentSpec::new(source.clone())
    };
    let mut agent = site.agent(spec, &[&server]).await?;
    let began = Instant::now();
    agent.node.start().await?;
    let load = LoadSpec {
        connections: 2,
        ..LoadSpec::writes(1, WRITE_RATE)
    };
    let load = Load::start(&agent.address, load).await?;

    until_part_done(&agent, 3).await?;
    ensure!(
        agent.node.stop().await?.code().is_some(),
        "SIGTERM ends it in order"
    );
    agent.node.start().await?;
    until_part_done(&agent, 3).await?;
    agent.node.kill()?;
    agent.node.start().await?;
    agent.until_state("protected", STEP_TIME_MAX).await?;
    let level_after = began.elapsed();
    let done = load.finish().await?;
    ensure!(0 < done.unknown, "the restarts cut requests off");
    let written = f64::from(u32::try_from(done.bytes_written >> 20)?);

    agent.until_settled(&server, STEP_TIME_MAX).await?;
    let restored = site
        .restore(site.place(), agent.disk, "latest", "restored.raw")
        .await?;
    let same = ImageDigest::of(&source)?;
    same.expect_same(
        &ImageDigest::of(&restored.path)?,
        "the disk after its initial sync",
    )?;
    println!(
        "{disk_mib} MiB level after {:.1} s with 2 restarts, under {:.0} MiB/s: {done}",
        level_after.as_secs_f64(),
        written / level_after.as_secs_f64()
    );
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// A disk with a filesystem full of files at its beginning and zeroes behind.
async fn fill(source: &Path, disk_mib: u64, image_mib: u64) -> Result<()> {
    let spec = ImageSpec::new(source, image_mib);
    let made = tokio::task::spawn_blocking(move || image::make(&spec)).await??;
    println!("the disk begins with {made}");
    let file = std::fs::File::options().write(true).open(source)?;
    file.set_len(disk_mib << 20)?;
    Ok(())
}

/// Waits until one part in `parts` of the sync is done, and checks that it is not over.
async fn until_part_done(agent: &Agent, parts: u64) -> Result<()> {
    wait::until("a part of the initial sync", STEP_TIME_MAX, async || {
        let disk = agent.disk().await?;
        ensure!(
            disk.state != "protected",
            "the sync ended before the restart"
        );
        let (done, total) = (disk.resync_done_bytes, disk.resync_total_bytes);
        Ok((0 < total && total / parts <= done).then_some(()))
    })
    .await
}
