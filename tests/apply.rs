//! Replicas end to end: what a server writes into page blobs is the disk, whatever happens on the way.
//!
//! Azurite checks what goes over the wire, and Azure's own client and qemu-img read the result. The tests' own server
//! behaves worse: storms of errors, answers that are lost, writes that land long after nobody waits for them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_format::replica::Mark;
use everpoint_tests::rigs::clouds::{Azurite, LONG};
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::page_blobs::{FaultPlan, Late, PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::{control, is_soak, tool, wait};
use everpoint_units::DiskId;

const STEP_TIME_MAX: Duration = Duration::from_secs(90);
/// A disk that is not whole MiB. Unit: bytes.
const ODD_LEN: u64 = (40 << 20) + 7 * 512;
/// The disk of the storms. Unit: bytes.
const DISK_LEN: u64 = 64 << 20;
const CONTAINER: &str = "disks";
/// Permissions of a container's SAS that a replica needs, as Azure writes them.
const NEEDED: &str = "rcwd";

/// Where replicas are, in a server's configuration.
fn replica_settings(url: &str, azure: &str) -> Result<String> {
    let mut text = format!("[process.replica]\nurl = {url:?}\n");
    writeln!(text, "window_ms_min = 100\nwindow_ms_max = 400")?;
    writeln!(text, "[process.replica.azure]\n{azure}")?;
    Ok(text)
}

/// The blob of a disk, below the prefix that the tests use.
fn blob_name(disk: DiskId) -> String {
    format!("site/{disk}.vhd")
}

/// Waits until the replica has everything of the disk that the server has committed, and that is a state of it.
async fn until_applied(server: &Server, agent: &Agent) -> Result<()> {
    let seq = agent.until_settled(server, STEP_TIME_MAX).await?;
    wait::until("the replica has it all", STEP_TIME_MAX, async || {
        let status = server.status().await?;
        let disk = control::disk_of(&status, &agent.disk.0).context("it serves the disk")?;
        let replica = disk.replica.as_ref().context("it has a replica")?;
        let is_all = replica.level && seq <= replica.applied_through;
        Ok((is_all && replica.staged_bytes == 0).then_some(()))
    })
    .await
    .with_context(|| format!("{:?}", server.node.printed().map(|text| tail_of(&text))))
}

fn tail_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The downloaded blob is the source, zeroes up to whole MiB, and a footer that qemu reads.
async fn expect_disk(downloaded: &Path, source: &Path) -> Result<()> {
    let blob = std::fs::read(downloaded)?;
    let disk = std::fs::read(source)?;
    let padded = disk.len().next_multiple_of(1 << 20);
    ensure!(blob.len() == padded + 512, "{} bytes", blob.len());
    let differs = (0..disk.len()).find(|at| blob[*at] != disk[*at]);
    ensure!(differs.is_none(), "differs at {differs:?}");
    ensure!(blob[disk.len()..padded].iter().all(|byte| *byte == 0));
    let page = blob[padded..].first_chunk().context("a page")?;
    let mark = Mark::decode(page)?.context("a mark")?;
    ensure!(mark.sectors == disk.len() as u64 / 512);
    ensure!(mark.applied.is_some_and(|applied| applied.is_level));
    // qemu compares up to the shorter end, and wants zeroes behind it.
    let args = ["compare", "-f", "vpc", "-F", "raw"].map(Into::into);
    let paths = [downloaded, source].map(PathBuf::from);
    let compared = tool::run("qemu-img", args.into_iter().chain(paths)).await?;
    ensure!(compared.contains("Images are identical"), "{compared}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_blob_in_azurite_is_the_disk_as_others_read_it() -> Result<()> {
    let site = Site::on("apply", Home::Directory).await?;
    let azurite = Azurite::start(&site.path(".")).await?;
    azurite.container(CONTAINER).await?;
    let place = azurite.with_sas(CONTAINER, NEEDED, LONG).await?;
    let store = place.store.context("a cloud has settings")?;
    let azure = store.replace("[process.store.azure]\n", "");
    let url = format!("az://{CONTAINER}/site");
    let spec = ServerSpec {
        more: replica_settings(&url, &azure)?,
        ..ServerSpec::new("server", site.vault())
    };
    let source = site.empty_image("source.raw", ODD_LEN)?;
    let (mut server, mut agent) = site.protect(spec, AgentSpec::new(source.clone())).await?;
    let mut load = Load::start(
        &agent.address,
        LoadSpec {
            zero_one_in: 8,
            discard_one_in: 8,
            ..LoadSpec::writes(1, 8 << 20)
        },
    )
    .await?;
    load.run_for(Duration::from_secs(4)).await?;
    // A restart in the middle: it goes on from the mark.
    server.node.kill()?;
    load.run_for(Duration::from_secs(1)).await?;
    server.node.start().await?;
    load.run_for(Duration::from_secs(2)).await?;
    let done = load.finish().await?;
    until_applied(&server, &agent).await?;
    let downloaded = site.image("downloaded.vhd");
    azurite
        .download(CONTAINER, &blob_name(agent.disk), &downloaded)
        .await?;
    expect_disk(&downloaded, &source).await?;
    println!("{done}");
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    site.passed();
    Ok(())
}

/// Storms under load with take-overs; healed, the replica is the vault's newest point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_storms_and_take_overs_the_replica_is_the_newest_point() -> Result<()> {
    let rounds = if is_soak() { 100 } else { 3 };
    let site = Site::on("storms", Home::Directory).await?;
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let key = site.path("account.key");
    everpoint_tests::rigs::clouds::write_secret(&key, "a2V5")?;
    let mut azure = String::new();
    writeln!(azure, "account = \"everpoint\"")?;
    writeln!(azure, "endpoint = {:?}", blobs.endpoint())?;
    writeln!(azure, "access_key_file = {:?}", key.display().to_string())?;
    let url = format!("az://{CONTAINER}/site");
    let settings = replica_settings(&url, &azure)?;
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
        load.run_for(Duration::from_secs(2)).await?;
        other.node.start().await?;
        let id = leads.id.to_string();
        let words = ["server", "take-over", "--json", "--server", &id, "--config"];
        let taken = site.everpoint(words, &[&other.config]).await?;
        taken.succeeded("take-over")?;
        load.run_for(Duration::from_secs(2)).await?;
        // Who was taken over ends at its next commit; what it sent may still land.
        leads.node.wait(STEP_TIME_MAX).await?;
        std::mem::swap(&mut leads, &mut other);
        let held = load.hold().await;
        blobs.faults().set(FaultPlan::default());
        agent.until_state("protected", STEP_TIME_MAX).await?;
        until_applied(&leads, &agent).await?;
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
        drop(held);
    }
    let done = load.finish().await?;
    println!("{rounds} rounds; {done}; {:?}", blobs.counts().faults);
    ensure!(agent.node.stop().await?.success());
    leads.node.kill()?;
    site.passed();
    Ok(())
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
        error_503: 0.05,
        lost_answer: 0.05,
        lost_request: 0.05,
        late: Some(Late {
            p: 0.1,
            after: Duration::from_millis(50)..Duration::from_secs(3),
        }),
        ..FaultPlan::default()
    }
}
