//! Replicas end to end: what a server writes into page blobs is the disk, whatever happens on the way.
//!
//! Azurite checks what goes over the wire, and Azure's own client and qemu-img read the result. The tests' own server
//! behaves worse: storms of errors, answers that are lost, writes that land long after nobody waits for them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::clouds::Azurite;
use everpoint_tests::rigs::load::{Done, Load, LoadSpec};
use everpoint_tests::rigs::page_blobs::{FaultPlan, Late, PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::replica_place::{
    CONTAINER, ReplicaPlace, blob_name, expect_disk, expect_verified, only_file, until_applied,
    until_level, verify,
};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::{is_soak, wait};

const STEP_TIME_MAX: Duration = Duration::from_secs(90);
/// A disk that is not whole MiB. Unit: bytes.
const ODD_LEN: u64 = (40 << 20) + 7 * 512;
/// Where a page is spoilt. Unit: bytes.
const SPOILT_AT: u64 = 5 << 20;
/// The disk of the storms. Unit: bytes.
const DISK_LEN: u64 = 64 << 20;
/// How long changes are collected. Unit: milliseconds.
const WINDOW_MS: (u64, u64) = (100, 400);

/// A disk is written to; its server is killed in the middle and goes on from the replica's mark, until that has it all.
async fn live_through_a_kill(site: &Site, spec: ServerSpec) -> Result<(Server, Agent, Done)> {
    let source = site.empty_image("source.raw", ODD_LEN)?;
    let (mut server, agent) = site.protect(spec, AgentSpec::new(source)).await?;
    let mut load = Load::start(&agent.address, mixed_load()).await?;
    load.run_for(Duration::from_secs(3)).await?;
    server.node.kill()?;
    load.run_for(Duration::from_secs(1)).await?;
    server.node.start().await?;
    load.run_for(Duration::from_secs(2)).await?;
    let done = load.finish().await?;
    until_applied(&server, &agent, STEP_TIME_MAX).await?;
    Ok((server, agent, done))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_blob_in_azurite_is_the_disk_as_others_read_it() -> Result<()> {
    let site = Site::on("apply", Home::Directory).await?;
    let azurite = Azurite::start(&site.path(".")).await?;
    let replicas = ReplicaPlace::in_azurite(&azurite).await?;
    let spec = ServerSpec {
        more: replicas.settings(WINDOW_MS),
        ..ServerSpec::new("server", site.vault())
    };
    let (mut server, mut agent, done) = live_through_a_kill(&site, spec).await?;
    let downloaded = site.image("downloaded.vhd");
    azurite
        .download(CONTAINER, &blob_name(agent.disk), &downloaded)
        .await?;
    expect_disk(&downloaded, &agent.spec.source).await?;
    println!("{done}");
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// The server is killed in the middle; then a page is spoilt, found, and written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vhd_file_is_the_disk_also_when_it_is_written_again() -> Result<()> {
    let site = Site::on("apply-file", Home::Directory).await?;
    let dir = site.image("replicas");
    std::fs::create_dir(&dir)?;
    let spec = ServerSpec {
        more: ReplicaPlace::in_directory(&dir).settings(WINDOW_MS),
        ..ServerSpec::new("server", site.vault())
    };
    let (mut server, mut agent, done) = live_through_a_kill(&site, spec).await?;
    let (vault, disk) = ((&site.vault()).into(), agent.disk);
    let file = only_file(&dir)?;
    let url = format!("file://{}", file.display());
    let report = expect_verified(&site, &vault, disk, &url).await?;
    ensure!(report["newer_bytes"] == 0 && report["is_level"] == true);
    expect_disk(&file, &agent.spec.source).await?;

    let spoilt = File::options().read(true).write(true).open(&file)?;
    let mut page = [0; 512];
    spoilt.read_exact_at(&mut page, SPOILT_AT)?;
    let was = page;
    page[17] ^= 1;
    spoilt.write_all_at(&page, SPOILT_AT)?;
    let (code, report) = verify(&site, &vault, disk, &url).await?;
    ensure!(
        code == Some(3) && report["differing_bytes"] == 512,
        "{code:?}, {report}"
    );
    let id = disk.to_string();
    let words = ["replica", "rebuild", "--disk", &id, "--control"];
    let rebuilt = site.everpoint(words, &[&server.node.control]).await?;
    rebuilt.succeeded("rebuild")?;
    wait::until("the page is written again", STEP_TIME_MAX, async || {
        spoilt.read_exact_at(&mut page, SPOILT_AT)?;
        Ok((page == was).then_some(()))
    })
    .await?;
    until_applied(&server, &agent, STEP_TIME_MAX).await?;
    ensure!(only_file(&dir)? == file);
    expect_verified(&site, &vault, disk, &url).await?;
    expect_disk(&file, &agent.spec.source).await?;
    println!("{done}");
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// Storms under load with take-overs; healed, the replica is the vault's newest point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_storms_and_take_overs_the_replica_is_the_newest_point() -> Result<()> {
    // In soak mode the load takes more than ten minutes.
    let rounds = if is_soak() { 100 } else { 3 };
    let half = Duration::from_secs(2);
    let mut loaded = Duration::ZERO;
    let site = Site::on("storms", Home::Directory).await?;
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let settings = ReplicaPlace::on(&blobs, &site)?.settings(WINDOW_MS);
    let spec = |name: &str| ServerSpec {
        commit_interval_ms: 200,
        more: settings.clone(),
        ..ServerSpec::new(name, site.vault())
    };
    let mut leads = site.server(spec("one")).await?;
    let mut other = site.server(spec("two")).await?;
    leads.node.start().await?;
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let agent = site
        .agent(AgentSpec::new(source.clone()), &[&leads, &other])
        .await;
    let mut agent = agent?;
    agent.node.start().await?;
    agent.until_state("protected", STEP_TIME_MAX).await?;
    let mut load = Load::start(&agent.address, storm_load()).await?;
    for round in 1..=rounds {
        blobs.faults().set(storm());
        let began = Instant::now();
        load.run_for(half).await?;
        other.node.start().await?;
        let id = leads.id.to_string();
        let words = ["server", "take-over", "--json", "--server", &id, "--config"];
        let taken = site.everpoint(words, &[&other.config]).await?;
        taken.succeeded("take-over")?;
        // Who was taken over ends at its next commit; what it sent may still land.
        leads.node.wait(STEP_TIME_MAX).await?;
        std::mem::swap(&mut leads, &mut other);
        // In the storm it claims the replica, and what it sends then may land when the load is held and all is written.
        until_level(&leads, &agent, STEP_TIME_MAX).await?;
        load.run_for(half).await?;
        let held = load.hold().await;
        loaded += began.elapsed();
        blobs.faults().set(FaultPlan::default());
        agent.until_state("protected", STEP_TIME_MAX).await?;
        until_applied(&leads, &agent, STEP_TIME_MAX).await?;
        wait::until("late writes have landed", STEP_TIME_MAX, async || {
            Ok((blobs.late_writes() == 0).then_some(()))
        })
        .await?;
        let output = format!("round-{round}.vhd");
        let restored = site.restore_as(site.vault(), agent.disk, "latest", &output, "vhd");
        let restored = restored.await?;
        let blob = blobs
            .blob(CONTAINER, &blob_name(agent.disk))
            .context("no blob")?;
        let (is, was) = (blob.content(), std::fs::read(&restored.path)?);
        ensure!(is.len() == was.len(), "round {round}: {} bytes", is.len());
        // The footers differ: that of a replica has its mark.
        let differs = (0..is.len() - 512).find(|at| is[*at] != was[*at]);
        ensure!(differs.is_none(), "round {round}: differs at {differs:?}");
        std::fs::remove_file(&restored.path)?;
        if round % 10 == 0 {
            let faults = blobs.counts().faults;
            println!("round {round}: the same, after {loaded:.0?} of load; {faults:?}");
        }
        drop(held);
    }
    let done = load.finish().await?;
    println!(
        "{rounds} rounds with a take-over each, {loaded:.0?} of load; {done}; {:?}",
        blobs.counts().faults
    );
    ensure!(agent.node.stop().await?.success());
    leads.node.kill()?;
    site.passed();
    Ok(())
}

fn mixed_load() -> LoadSpec {
    LoadSpec {
        zero_one_in: 8,
        discard_one_in: 8,
        ..LoadSpec::writes(1, 8 << 20)
    }
}

fn storm_load() -> LoadSpec {
    LoadSpec {
        zero_one_in: 16,
        hot_len: 1 << 20,
        ..LoadSpec::writes(2, 6 << 20)
    }
}

fn storm() -> FaultPlan {
    FaultPlan {
        writes_only: true,
        error_500: 0.05,
        error_500_executed: 0.05,
        // Each holds it up for a second, and what is late is to meet later windows.
        error_503: 0.01,
        lost_answer: 0.05,
        lost_request: 0.05,
        late: Some(Late {
            p: 0.1,
            after: Duration::from_millis(50)..Duration::from_secs(3),
        }),
        ..FaultPlan::default()
    }
}
