//! The cache is a cache: a vault that is away for a while, and for longer than the cache log lasts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::is_soak;
use everpoint_tests::rigs::load::{Done, Load, LoadSpec};
use everpoint_tests::rigs::mount::{LoopDevice, Mount};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::{tool, vault_view};
use everpoint_wire::control::AgentDisk;

/// Unit: bytes.
const DISK_LEN: u64 = 128 << 20;
/// Of the filesystem that the frozen vault lies on; a sparse file. Unit: bytes.
const VAULT_LEN: u64 = 16 << 30;
/// Unit: bytes a second.
const WRITE_RATE: u64 = 20 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(120);
/// Longest time until a log of any of the sizes here is full.
const FILL_TIME_MAX: Duration = Duration::from_secs(900);
/// A guest does not wait for the network, nor for a vault; this is what a busy machine may cost.
const GUEST_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often the agent is asked while the vault is away.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Server and agent at work, the disk level.
struct World {
    server: Server,
    agent: Agent,
    load: Load,
    source: PathBuf,
}

/// What was seen while the vault was away.
#[derive(Default)]
struct Seen {
    /// Most bytes that the files of the cache log had.
    log_len_max: u64,
    /// Blocks that became cached and committed. Both of the first generation.
    cached: u64,
    committed: u64,
    /// When the last block of the first generation became cached, since the beginning.
    cached_at: Duration,
    /// When the disk lost order.
    lost_at: Option<Duration>,
    server_states: Vec<String>,
    guest_wait: Duration,
}

impl Seen {
    /// The log kept its quota, and no guest waited.
    fn expect_within(&self, quota: u64) -> Result<()> {
        let (log, wait) = (self.log_len_max, self.guest_wait);
        ensure!(log <= quota, "the log had {log} of {quota}");
        ensure!(wait < GUEST_WAIT_MAX, "a guest waited {wait:?}");
        Ok(())
    }
}

impl World {
    async fn begin(site: &Site, spec: ServerSpec, queue_max: u64) -> Result<Self> {
        let source = site.empty_image("source.raw", DISK_LEN)?;
        let protected = AgentSpec {
            queue_max,
            ..AgentSpec::new(source.clone())
        };
        let (server, agent) = site.protect(spec, protected).await?;
        let load = Load::start(&agent.address, LoadSpec::writes(5, WRITE_RATE)).await?;
        site.create_point(&agent, "before").await?;
        Ok(Self {
            server,
            agent,
            load,
            source,
        })
    }

    /// Looks on for `time`, or until the disk has lost order.
    async fn look_on(&mut self, time: Duration, until_lost: bool) -> Result<Seen> {
        let first = self.agent.disk().await?;
        let began = Instant::now();
        let mut seen = Seen::default();
        self.load.take_latency_max();
        while began.elapsed() < time && !(until_lost && seen.lost_at.is_some()) {
            self.load.run_for(LOOK_EVERY).await?;
            let disk = self.agent.disk().await?;
            if disk.generation == first.generation {
                let cached = disk.cached_block - first.cached_block;
                if seen.cached < cached {
                    seen.cached = cached;
                    seen.cached_at = began.elapsed();
                }
                seen.committed = disk.committed_block - first.committed_block;
            }
            if disk.state == "order-lost" {
                seen.lost_at.get_or_insert(began.elapsed());
            }
            seen.log_len_max = seen.log_len_max.max(self.server.log_len()?);
            let state = self.server.status().await?.state;
            if seen.server_states.last() != Some(&state) {
                seen.server_states.push(state);
            }
        }
        seen.guest_wait = self.load.take_latency_max();
        Ok(seen)
    }

    /// After the vault's return: everything becomes level without help, and is the source.
    async fn heal(&self, site: &Site, vault: &Path) -> Result<(AgentDisk, Duration)> {
        let began = Instant::now();
        self.agent.until_state("protected", STEP_TIME_MAX).await?;
        let held = self.load.hold().await;
        self.agent
            .until_settled(&self.server, STEP_TIME_MAX)
            .await?;
        let healed = began.elapsed();
        let restored = site
            .restore(vault, self.agent.disk, "latest", "restored.raw")
            .await?;
        let source = ImageDigest::of(&self.source)?;
        source.expect_same(&ImageDigest::of(&restored.path)?, "after the outage")?;
        drop(held);
        Ok((self.agent.disk().await?, healed))
    }

    async fn end(mut self) -> Result<Done> {
        let done = self.load.finish().await?;
        ensure!(self.agent.node.stop().await?.success());
        ensure!(self.server.node.stop().await?.success());
        Ok(done)
    }
}

/// The vault's filesystem is frozen: requests to it do not fail, they do not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_frozen_vault_fits_the_log_nothing_is_lost() -> Result<()> {
    let away = Duration::from_secs(if is_soak() { 180 } else { 12 });
    let site = Site::new("frozen").await?;
    let image = site.path("vault.img");
    File::create(&image)?.set_len(VAULT_LEN)?;
    tool::run(
        "mke2fs",
        [
            "-q".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            image.as_os_str(),
        ],
    )
    .await?;
    let device = LoopDevice::attach(&image).await?;
    let mount = Mount::ext4(device.path(), &site.path("mounted"), "rw").await?;
    let vault = mount.directory().join("vault");
    let spec = ServerSpec {
        // What the load writes meanwhile, uncompressed, and as much again.
        log_quota: 2 * WRITE_RATE * away.as_secs(),
        ..ServerSpec::new("server", vault.clone())
    };
    let quota = spec.log_quota;
    let mut world = World::begin(&site, spec, 64 << 20).await?;
    let before = world.agent.disk().await?;
    // Dropped before the server: what waits for a frozen filesystem cannot be killed.
    let mut mount = mount;

    mount.freeze().await?;
    let seen = world.look_on(away, false).await;
    mount.thaw().await?;
    let seen = seen?;
    ensure!(
        away - Duration::from_secs(2) < seen.cached_at,
        "cached stood still after {:?}",
        seen.cached_at
    );
    ensure!(
        seen.committed < seen.cached / 2,
        "the vault was not away: {} committed",
        seen.committed
    );
    seen.expect_within(quota)?;

    let (after, healed) = world.heal(&site, &vault).await?;
    ensure!(
        before.generation == after.generation,
        "write order was given up: {}",
        after.resync_reason
    );
    println!(
        "frozen for {away:?}: {} blocks cached, {} committed, log at most {} MiB of {} MiB, slowest answer {:?}, \
         server said {:?}; level {healed:.1?} after the return; {}",
        seen.cached,
        seen.committed,
        seen.log_len_max >> 20,
        quota >> 20,
        seen.guest_wait,
        seen.server_states,
        world.end().await?
    );
    mount.unmount().await?;
    drop(device);
    site.passed();
    Ok(())
}

/// The vault's root is renamed, and comes back only after log and queue are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_is_away_for_longer_costs_write_order_and_no_cached_byte() -> Result<()> {
    let site = Site::new("renamed").await?;
    let spec = ServerSpec {
        log_quota: if is_soak() { 4 << 30 } else { 48 << 20 },
        log_file_len: 4 << 20,
        ..ServerSpec::new("server", site.vault())
    };
    let quota = spec.log_quota;
    let mut world = World::begin(&site, spec, 16 << 20).await?;
    let before = world.agent.disk().await?;

    let elsewhere = site.path("vault-elsewhere");
    std::fs::rename(site.vault(), &elsewhere)?;
    let seen = world.look_on(FILL_TIME_MAX, true).await?;
    let lost_at = seen.lost_at.context("the disk never lost order")?;
    ensure!(
        !is_soak() || Duration::from_secs(180) < seen.cached_at,
        "the log lasts for three minutes, and `cached` went on for {:?}",
        seen.cached_at
    );
    ensure!(
        seen.cached_at < lost_at,
        "cached went on after the queue was full"
    );
    ensure!(
        quota / 2 < seen.log_len_max,
        "agents were held back with room in the log: {}",
        seen.log_len_max
    );
    let worse = world.look_on(Duration::from_secs(4), false).await?;
    for seen in [&seen, &worse] {
        seen.expect_within(quota)?;
    }
    // It says so when the first object was tried again for a while in vain.
    ensure!(
        worse
            .server_states
            .last()
            .is_some_and(|state| state == "vault-unreachable"),
        "the server says {:?}",
        worse.server_states
    );
    ensure!(
        !site.vault().exists(),
        "a vault was begun in the place of the one that is away"
    );

    std::fs::rename(&elsewhere, site.vault())?;
    let (after, healed) = world.heal(&site, &site.vault()).await?;
    ensure!(
        before.generation != after.generation,
        "the loss of order made no new generation"
    );
    let blocks = vault_view::last_blocks(&site.vault(), world.agent.machine).await?;
    let generation: String = before
        .generation
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cached = before.cached_block + seen.cached;
    ensure!(
        blocks.get(&generation).is_some_and(|last| cached <= *last),
        "block {cached} was cached, the vault has {blocks:?}"
    );
    println!(
        "renamed: cached for {:.1?}, order lost after {lost_at:.1?} ({}), log at most {} MiB of {} MiB, slowest answer \
         {:?}; level {healed:.1?} after the return; {}",
        seen.cached_at,
        after.resync_reason,
        seen.log_len_max >> 20,
        quota >> 20,
        seen.guest_wait.max(worse.guest_wait),
        world.end().await?
    );
    site.passed();
    Ok(())
}
