//! Order: overlapping writes, zeroes and discards from eight connections, and what is restored is the source.
//!
//! The load never keeps two requests apart, so only the splitter decides which of two overlapping writes is
//! the later one, on the disk and in the copy. A copy in any other order differs from the source somewhere.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::is_soak;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{AgentSpec, ServerSpec, Site};

/// Unit: bytes.
const DISK_LEN: u64 = 256 << 20;
const BOOKMARKS_A_ROUND: usize = 10;
/// Longest wait for the machine to be level, or for everything to be committed.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(60);

/// Rounds, and how long the load of one runs.
fn rounds() -> (u64, Duration) {
    if is_soak() {
        (20, Duration::from_secs(60))
    } else {
        (2, Duration::from_secs(20))
    }
}

fn load(seed: u64) -> LoadSpec {
    LoadSpec {
        seed,
        connections: 8,
        depth: 16,
        // Below what agent and server carry on two cores, so that write order is never given up.
        rate_max: Some(60 << 20),
        len_min: 512,
        len_max: 2 << 20,
        zero_one_in: 12,
        discard_one_in: 12,
        hot_len: 16 << 20,
        is_mixed: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_point_and_every_bookmark_equal_the_source() -> Result<()> {
    let (count, time) = rounds();
    for index in 0..count {
        round(index, time)
            .await
            .with_context(|| format!("round {index}"))?;
    }
    Ok(())
}

async fn round(index: u64, time: Duration) -> Result<()> {
    let site = Site::new("order").await?;
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let spec = ServerSpec::new("server", site.place());
    let (mut server, mut agent) = site.protect(spec, AgentSpec::new(source.clone())).await?;
    let before = agent.disk().await?;

    let mut load = Load::start(&agent.address, load(index)).await?;
    let mut bookmarks = Vec::new();
    for bookmark in 0..BOOKMARKS_A_ROUND {
        load.run_for(time / u32::try_from(BOOKMARKS_A_ROUND)?)
            .await?;
        let name = format!("bookmark {bookmark}");
        let held = load.hold().await;
        site.create_point(&agent, &name).await?;
        let digest = ImageDigest::of(&source)?;
        drop(held);
        bookmarks.push((name, digest));
    }
    let done = load.finish().await?;
    agent.until_settled(&server, LEVEL_TIME_MAX).await?;
    let after = agent.disk().await?;
    ensure!(
        before.resync_count == after.resync_count,
        "write order was given up ({}): the load was too fast for this test to say anything",
        after.resync_reason
    );
    ensure!(
        1_000 < done.overlapping,
        "hardly any requests overlapped: {done}"
    );

    let restoring = Instant::now();
    let newest = site
        .restore(site.place(), agent.disk, "latest", "newest.raw")
        .await?;
    ImageDigest::of(&source)?.expect_same(&ImageDigest::of(&newest.path)?, "the newest point")?;
    for (name, digest) in &bookmarks {
        let restored = site
            .restore(site.place(), agent.disk, name, "bookmark.raw")
            .await?;
        digest.expect_same(&ImageDigest::of(&restored.path)?, name)?;
        std::fs::remove_file(restored.path)?;
    }
    println!(
        "round {index}: {done}; {} images restored and compared in {:.1} s",
        1 + bookmarks.len(),
        restoring.elapsed().as_secs_f64()
    );
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(())
}
