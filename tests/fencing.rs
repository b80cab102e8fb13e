//! Fencing: a server that was stopped in the middle of a PUT and taken over changes nothing when it goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::staged::StagedWatch;
use everpoint_tests::rigs::{vault_copy, vault_view, wait};
use rustix::process::Signal;

/// Unit: bytes.
const DISK_LEN: u64 = 256 << 20;
/// What the agent's queue holds while it waits for a server that does not answer. Unit: bytes a second.
const WRITE_RATE: u64 = 8 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a stop may come too late for the PUT that it aims at.
const AIMS_MAX: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_taken_over_in_a_put_is_fenced_at_its_next_commit() -> Result<()> {
    let site = Site::new("fencing").await?;
    let spec = |name| ServerSpec {
        commit_interval_ms: 300,
        ..ServerSpec::new(name, site.vault())
    };
    let mut older = site.server(spec("older")).await?;
    let mut newer = site.server(spec("newer")).await?;
    older.node.start().await?;
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let mut agent = site
        .agent(AgentSpec::new(source.clone()), &[&older, &newer])
        .await?;
    agent.node.start().await?;
    agent.until_state("protected", STEP_TIME_MAX).await?;
    ensure!(agent.status().await?.server == older.address);
    newer.node.start().await?;
    let load = Load::start(&agent.address, LoadSpec::writes(3, WRITE_RATE)).await?;
    site.create_point(&agent, "before").await?;

    let (staged, aims) = stop_in_a_put(&mut older, &site.vault()).await?;
    let stopped = Instant::now();
    let id = older.id.to_string();
    let words = ["server", "take-over", "--json", "--server", &id, "--config"];
    site.everpoint(words, &[&newer.config])
        .await?
        .succeeded("take-over")?;
    wait::until("the agent at the newer server", STEP_TIME_MAX, async || {
        let status = agent.status().await?;
        Ok((status.connected && status.server == newer.address).then_some(()))
    })
    .await?;
    let moved = stopped.elapsed();
    agent.until_state("protected", STEP_TIME_MAX).await?;
    site.create_point(&agent, "after").await?;

    // What a reader sees before the older one goes on …
    let copy = site.path("vault-before");
    vault_copy::copy(&site.vault(), &copy)?;
    let path = vault_view::last_blocks(&copy, agent.machine).await?;
    let digests = async |vault: &Path, run: &str| -> Result<Vec<ImageDigest>> {
        let mut digests = Vec::new();
        for at in ["before", "after"] {
            let output = format!("{at}-{run}.raw");
            let restored = site.restore(vault, agent.disk, at, &output).await?;
            digests.push(ImageDigest::of(&restored.path)?);
        }
        Ok(digests)
    };
    let seen = digests(&copy, "stopped").await?;

    // … and afterwards.
    older.node.signal(Signal::CONT)?;
    let ended = older.node.wait(STEP_TIME_MAX).await?;
    ensure!(
        ended.code() == Some(1),
        "the older server ended otherwise: {ended}"
    );
    let printed = older.node.printed()?;
    ensure!(
        printed.contains("fenced"),
        "it does not say that it was fenced"
    );
    ensure!(
        seen == digests(&site.vault(), "continued").await?,
        "a reader sees a change"
    );

    let status = agent.status().await?;
    ensure!(
        status.connected && status.server == newer.address,
        "{status:?}"
    );
    let done = load.finish().await?;
    agent.until_settled(&newer, STEP_TIME_MAX).await?;
    let newest = site
        .restore(&site.vault(), agent.disk, "latest", "newest.raw")
        .await?;
    ImageDigest::of(&source)?.expect_same(&ImageDigest::of(&newest.path)?, "the newest point")?;
    let now = vault_view::last_blocks(&site.vault(), agent.machine).await?;
    for (generation, last) in path {
        ensure!(
            now.get(&generation).is_some_and(|now| last <= *now),
            "history became shorter"
        );
    }
    println!(
        "stopped at {staged} after {aims} aims, the agent moved over in {:.1} s; {done}",
        moved.as_secs_f64()
    );
    ensure!(agent.node.stop().await?.success() && newer.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// Stops the server while an object is being created; returns its staged file, and how many stops it took.
async fn stop_in_a_put(server: &mut Server, vault: &Path) -> Result<(String, usize)> {
    let watch = StagedWatch::begin(vault)?;
    for aim in 1..=AIMS_MAX {
        // The whole runtime waits; nothing else may come between the sight and the stop.
        let staged = tokio::task::block_in_place(|| watch.next(STEP_TIME_MAX))?;
        server.node.signal(Signal::STOP)?;
        server.node.until_stopped(STEP_TIME_MAX).await?;
        let number = staged
            .split('.')
            .next()
            .context("a name and its random part")?;
        let journals = vault.join("v1/journal");
        let created = std::fs::read_dir(&journals)?
            .filter_map(Result::ok)
            .any(|journal| journal.path().join(number).exists());
        if watch.present()?.contains(&staged) && !created {
            return Ok((staged, aim));
        }
        server.node.signal(Signal::CONT)?;
    }
    bail!("no stop of {AIMS_MAX} came inside a PUT")
}
