//! Kills: server, agent or both die at any instant, and a judge of its own holds them to what they promised.
//!
//! The judge is a process that nobody kills: it writes to the disk as a guest does, and records each issue, each
//! completion and each watermark with its own syncs. After each kill the vault is copied as it is and judged:
//! nothing that was called committed is missing, and what is restored, from the copy alone, is a prefix of the
//! write order. Then what was killed starts again, and nothing that was called cached may be missing.
//!
//! The same on Azurite, whose objects nobody can copy at an instant: there the vault is judged before anything starts
//! again, and while nothing can reach it that was issued after the kill. There a replica follows, too: it differs from
//! the vault nowhere, and in the end it is the disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::history::Tick;
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::is_soak;
use everpoint_tests::rigs::judge::{Judge, JudgeSpec};
use everpoint_tests::rigs::prefix::{self, Bounds, Seen};
use everpoint_tests::rigs::record::{Promises, Record};
use everpoint_tests::rigs::replica_place::{
    CONTAINER, ReplicaPlace, blob_name, blob_url, expect_disk, expect_verified, until_applied,
    until_level,
};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::staged::StagedWatch;
use everpoint_tests::rigs::vault_place::VaultPlace;
use everpoint_tests::rigs::{vault_copy, vault_view, wait};
use everpoint_wire::control::AgentDisk;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Unit: bytes.
const DISK_LEN: u64 = 64 << 20;
/// Unit: bytes a second.
const WRITE_RATE: u64 = 32 << 20;
/// What the load is at least, while everything runs. Unit: bytes a second.
const WRITE_RATE_MIN: u64 = 20 << 20;
/// How long a replica collects changes: so long that one who serves vault and replica keeps up. Unit: milliseconds.
const REPLICA_WINDOW_MS: (u64, u64) = (1_000, 8_000);
const COMMIT_INTERVAL: Duration = Duration::from_millis(300);
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Kills that hit an open PUT, of 50.
const HITS_MIN: usize = 10;
const BLOCK_LEN: u64 = 4096;

/// Sites, and rounds on each. A new site now and then keeps histories short and begins with a new disk. Azurite serves
/// a vault and a replica, and is slower with each object.
fn rounds(home: Home) -> (u64, u64) {
    match (home, is_soak()) {
        (Home::Directory, false) => (5, 10),
        (Home::Directory, true) => (20, 25),
        (Home::Azure, false) => (2, 5),
        (Home::Azure, true) => (10, 5),
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Server,
    Agent,
    Both,
}

/// What all rounds together showed.
#[derive(Debug, Default)]
struct Totals {
    kills: BTreeMap<&'static str, usize>,
    aims: usize,
    /// Kills after which a staged file was left: the PUT was open.
    hits: usize,
    restores: usize,
    /// Of a replica, while it was written.
    verifies: usize,
    writes: usize,
    /// Completed before kills, and how long that took.
    bytes: u64,
    time: Duration,
    level_again_max: Duration,
}

struct World {
    site: Site,
    server: Server,
    agent: Agent,
    judge: Judge,
    /// None where objects that are being created cannot be seen.
    watch: Option<StagedWatch>,
    source: PathBuf,
    random: StdRng,
}

/// What a round is judged by.
struct Evidence {
    /// What had been promised when the kill was done.
    promises: Promises,
    record: Record,
    /// When the vault had been copied: nothing that was issued later is in the copy.
    copied: Tick,
}

/// Whether a kill does not wait for the last one to be overcome: it comes in the middle of a restart, a replay or
/// a resync. Over 15 rounds each victim falls before and after each other.
const fn is_rushed(number: u64) -> bool {
    number % 5 == 3
}

/// Whether a replica is held against the vault afterwards, which takes a while: once for each victim in ten rounds.
const fn is_verified(number: u64) -> bool {
    (number % 10).is_multiple_of(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_no_promise_is_broken() -> Result<()> {
    let totals = all_rounds(Home::Directory).await?;
    ensure!(HITS_MIN <= totals.hits, "too few kills hit an open PUT");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_no_promise_is_broken_on_azure() -> Result<()> {
    all_rounds(Home::Azure).await.map(drop)
}

async fn all_rounds(home: Home) -> Result<Totals> {
    let (sites, rounds) = rounds(home);
    let mut totals = Totals::default();
    for index in 0..sites {
        let seed = rand::random();
        println!("site {index}: seed {seed}");
        let mut world = World::begin(seed, home).await?;
        for round in 0..rounds {
            let number = index * rounds + round;
            let doing = || format!("round {number}");
            world.round(number, &mut totals).await.with_context(doing)?;
        }
        world.end(&mut totals).await?;
    }
    let rate = totals.bytes as f64 / totals.time.as_secs_f64();
    println!(
        "{totals:?}; {:.1} MiB/s before kills",
        rate / f64::from(1 << 20)
    );
    ensure!(
        WRITE_RATE_MIN as f64 <= rate,
        "the load was too slow: {rate:.0} bytes a second"
    );
    Ok(totals)
}

/// A server that dies with its cache log costs what it had cached and not committed, once: the disk is compared,
/// and nothing that was committed is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_log_costs_a_resync_and_nothing_committed() -> Result<()> {
    let mut world = World::begin(4_711, Home::Directory).await?;
    let mut totals = Totals::default();
    let before = world.agent.until_state("protected", STEP_TIME_MAX).await?;
    world.kill(Victim::Server, true, &mut totals).await?;
    let killed = world.judge.mark().await?;
    std::fs::remove_dir_all(&world.server.log_dir)?;
    world.server.node.start().await?;
    let after = wait::until("another generation", STEP_TIME_MAX, async || {
        let disk = world.agent.disk().await?;
        let other = disk.generation != before.generation && disk.state == "protected";
        Ok(other.then_some(disk))
    })
    .await?;
    let vault = world.site.vault();
    let copy = world.site.path("vault-copy");
    vault_copy::copy(&vault, &copy)?;
    let copied = world.judge.mark().await?;
    let record = world.judge.record(copied)?;
    let evidence = Evidence {
        promises: record.promises(killed),
        record,
        copied,
    };
    world
        .judge_committed(&(&copy).into(), &evidence, &mut totals)
        .await?;
    println!("level again: {}", after.resync_reason);
    world.end(&mut totals).await
}

impl World {
    async fn begin(seed: u64, home: Home) -> Result<Self> {
        let site = Site::on("kills", home).await?;
        let spec = ServerSpec {
            commit_interval_ms: u64::try_from(COMMIT_INTERVAL.as_millis())?,
            log_file_len: 8 << 20,
            more: match site.azurite() {
                Some(azurite) => ReplicaPlace::in_azurite(azurite)
                    .await?
                    .settings(REPLICA_WINDOW_MS),
                None => String::new(),
            },
            ..ServerSpec::new("server", site.place())
        };
        let mut server = site.server(spec).await?;
        server.node.start().await?;
        let source = site.empty_image("source.raw", DISK_LEN)?;
        let mut agent = site
            .agent(AgentSpec::new(source.clone()), &[&server])
            .await?;
        agent.node.start().await?;
        let judge = JudgeSpec {
            disk: agent.address.clone(),
            agent: agent.node.control.clone(),
            server: server.node.control.clone(),
            record: site.path("record"),
            seed,
            rate_max: WRITE_RATE,
        };
        let mut judge = Judge::start(&judge, &site.log("judge"))?;
        wait::until("a promise", STEP_TIME_MAX, async || {
            let mark = judge.mark().await?;
            let promises = judge.record(mark)?.promises(mark);
            Ok((Tick::default() < promises.committed).then_some(()))
        })
        .await?;
        Ok(Self {
            watch: match home {
                Home::Directory => Some(StagedWatch::begin(&site.vault())?),
                Home::Azure => None,
            },
            site,
            server,
            agent,
            judge,
            source,
            random: StdRng::seed_from_u64(seed),
        })
    }

    async fn round(&mut self, number: u64, totals: &mut Totals) -> Result<()> {
        let victim = match number % 3 {
            0 => Victim::Server,
            1 => Victim::Agent,
            _ => Victim::Both,
        };
        let before = if is_rushed(number) {
            self.agent.disk().await?
        } else {
            self.agent.until_state("protected", STEP_TIME_MAX).await?
        };
        let (began, from) = (Instant::now(), self.judge.mark().await?);
        // One kill of the server in three comes at any instant; the others are aimed.
        let aimed = victim != Victim::Agent && number % 9 < 6;
        self.kill(victim, aimed, totals).await?;
        let (took, killed) = (began.elapsed(), self.judge.mark().await?);
        let copy = self.copy_vault()?;
        let copied = self.judge.mark().await?;
        let record = self.judge.record(copied)?;
        let evidence = Evidence {
            promises: record.promises(killed),
            record,
            copied,
        };
        let bytes = completed_bytes(&evidence.record, from, killed);
        print!(
            "round {number}: {victim:?} after {took:.1?}, {} MiB completed",
            bytes >> 20
        );
        let judged_first = is_rushed(number + 1) || copy.is_none();
        if judged_first {
            let vault = copy.as_ref().map_or(self.site.place(), Into::into);
            self.judge_committed(&vault, &evidence, totals).await?;
        }
        let restarted = Instant::now();
        self.restart(victim).await?;
        if let Some(copy) = &copy {
            if !judged_first {
                self.judge_committed(&copy.into(), &evidence, totals)
                    .await?;
            }
            std::fs::remove_dir_all(copy)?;
        }
        if is_rushed(number + 1) {
            println!(", the next kill comes at once");
            return Ok(());
        }
        self.judge_cached(&evidence.promises).await?;
        let after = self.agent.until_state("protected", STEP_TIME_MAX).await?;
        let level_again = restarted.elapsed();
        println!(", level again in {level_again:.1?}");
        if is_verified(number) {
            self.judge_replica(totals).await?;
        }
        totals.level_again_max = totals.level_again_max.max(level_again);
        if !is_rushed(number) {
            totals.bytes += bytes;
            totals.time += took;
            judge_order(victim, &before, &after)?;
        }
        Ok(())
    }

    async fn restart(&mut self, victim: Victim) -> Result<()> {
        if victim != Victim::Agent {
            self.server.node.start().await?;
        }
        if victim != Victim::Server {
            self.agent.node.start().await?;
        }
        Ok(())
    }

    /// Kills, at an instant uniform over two commit intervals or at the sight of an open PUT.
    async fn kill(&mut self, victim: Victim, aimed: bool, totals: &mut Totals) -> Result<()> {
        let delay = self
            .random
            .random_range(Duration::ZERO..2 * COMMIT_INTERVAL);
        tokio::time::sleep(delay).await;
        if let Some(watch) = self.watch.as_ref().filter(|_| aimed) {
            totals.aims += 1;
            tokio::task::block_in_place(|| watch.next(STEP_TIME_MAX))?;
        }
        if victim != Victim::Agent {
            self.server.node.kill()?;
        }
        if victim != Victim::Server {
            self.agent.node.kill()?;
        }
        let name = match victim {
            Victim::Server => "server",
            Victim::Agent => "agent",
            Victim::Both => "both",
        };
        *totals.kills.entry(name).or_default() += 1;
        // Its writer is dead and it is still there: the object was being created.
        let watch = self.watch.as_ref().filter(|_| victim != Victim::Agent);
        if let Some(watch) = watch
            && !watch.present()?.is_empty()
        {
            totals.hits += 1;
        }
        Ok(())
    }

    /// The vault as it is now, where it can be copied.
    fn copy_vault(&self) -> Result<Option<PathBuf>> {
        if self.watch.is_none() {
            return Ok(None);
        }
        let copy = self.site.path("vault-copy");
        vault_copy::copy(&self.site.vault(), &copy)?;
        Ok(Some(copy))
    }

    /// From the vault alone: nothing that was committed is missing, and every point is a prefix.
    async fn judge_committed(
        &mut self,
        vault: &VaultPlace,
        evidence: &Evidence,
        totals: &mut Totals,
    ) -> Result<()> {
        let Evidence {
            record, promises, ..
        } = evidence;
        let last = vault_view::last_blocks(vault, self.agent.machine).await?;
        for (generation, blocks) in &promises.blocks {
            let last = last.get(generation).copied().unwrap_or(0);
            ensure!(
                blocks.committed <= last,
                "block {} of {generation} was committed; the vault ends at {last}",
                blocks.committed
            );
        }
        let some = self.random.random_range(0..promises.points.len());
        let (seq, after) = promises.points[some];
        let points = [
            ("latest".to_owned(), promises.committed),
            (format!("seq:{seq}"), after),
        ];
        for (at, after) in points {
            let restored = self
                .site
                .restore(vault, self.agent.disk, &at, "restored.raw")
                .await?;
            let seen = Seen::read(&restored.path)?;
            let before = evidence.copied;
            let bounds = Bounds { after, before };
            let prefix = prefix::find(&record.history, &seen, bounds);
            let prefix = prefix.with_context(|| format!("restored at {at}"))?;
            let promised = record.history.completed_before(after);
            ensure!(
                promised <= prefix.write_count,
                "{prefix:?} and {promised} were promised"
            );
            std::fs::remove_file(&restored.path)?;
            totals.restores += 1;
        }
        Ok(())
    }

    /// Everything that was cached reaches the vault: agents do not keep it, so the server's log did.
    async fn judge_cached(&self, promises: &Promises) -> Result<()> {
        let vault = &self.site.place();
        for (generation, blocks) in &promises.blocks {
            let what = format!("block {} of {generation}, which was cached", blocks.cached);
            wait::until(&what, STEP_TIME_MAX, async || {
                let last = vault_view::last_blocks(vault, self.agent.machine).await?;
                let last = last.get(generation).copied().unwrap_or(0);
                Ok((blocks.cached <= last).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Where there is a replica: it has what its mark says and nothing that the vault has not, while it is written.
    async fn judge_replica(&self, totals: &mut Totals) -> Result<()> {
        let Some(azurite) = self.site.azurite() else {
            return Ok(());
        };
        until_level(&self.server, &self.agent, STEP_TIME_MAX).await?;
        // The vault's credential reaches no other container.
        let vault = azurite.with_key("vault")?;
        let disk = self.agent.disk;
        let began = Instant::now();
        let report = expect_verified(&self.site, &vault, disk, &blob_url(disk)).await?;
        let (took, data) = (began.elapsed(), &report["data_bytes"]);
        println!("the replica is right, {data} bytes compared in {took:.1?}");
        totals.verifies += 1;
        Ok(())
    }

    async fn end(mut self, totals: &mut Totals) -> Result<()> {
        let last = self.judge.mark().await?;
        totals.writes += self.judge.record(last)?.history.completed_before(last);
        self.judge.finish().await?;
        self.agent
            .until_settled(&self.server, STEP_TIME_MAX)
            .await?;
        let newest = self
            .site
            .restore(self.site.place(), self.agent.disk, "latest", "newest.raw")
            .await?;
        let source = ImageDigest::of(&self.source)?;
        source.expect_same(&ImageDigest::of(&newest.path)?, "the newest point")?;
        expect_replica(&self.site, &self.server, &self.agent).await?;
        ensure!(self.agent.node.stop().await?.success());
        ensure!(self.server.node.stop().await?.success());
        self.site.passed();
        Ok(())
    }
}

/// Where there is a replica: what Azure's client reads is the disk.
async fn expect_replica(site: &Site, server: &Server, agent: &Agent) -> Result<()> {
    let Some(azurite) = site.azurite() else {
        return Ok(());
    };
    until_applied(server, agent, STEP_TIME_MAX).await?;
    let downloaded = site.image("downloaded.vhd");
    let name = blob_name(agent.disk);
    azurite.download(CONTAINER, &name, &downloaded).await?;
    expect_disk(&downloaded, &agent.spec.source).await
}

/// A server that dies costs no write order: the agent goes on where the cache log ends. An agent that dies
/// costs a full compare.
fn judge_order(victim: Victim, before: &AgentDisk, after: &AgentDisk) -> Result<()> {
    let same = before.generation == after.generation;
    match victim {
        Victim::Server => ensure!(same, "write order was given up: {}", after.resync_reason),
        Victim::Agent | Victim::Both => ensure!(!same, "a new agent goes on in an old generation"),
    }
    Ok(())
}

fn completed_bytes(record: &Record, from: Tick, to: Tick) -> u64 {
    let blocks = record.history.writes().filter_map(|(_, write)| {
        let completed = write.completed?;
        (from <= completed && completed < to).then_some(u64::from(write.count))
    });
    blocks.sum::<u64>() * BLOCK_LEN
}
