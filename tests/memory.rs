//! Memory stays under its budget and 64 MiB, on both sides, whatever the load and whatever the other side does.
//!
//! What is measured is the largest resident set of the real processes, see `rigs::peak`: buffers, and the
//! program's pages, stacks, tables and what the allocator keeps, for which the 64 MiB are.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::page_blobs::{PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::peak::Peak;
use everpoint_tests::rigs::replica_place::{
    CONTAINER, ReplicaPlace, blob_name, expect_bytes, replica, until_applied, until_level,
};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Server, ServerSpec, Site};
use everpoint_tests::rigs::vault_place::VaultPlace;
use everpoint_tests::rigs::wait;
use everpoint_transport::pki::{CERTIFICATE_LIFETIME, Ca, Credentials};
use everpoint_transport::{
    ByteBudget, ClientTransportConfig, CloseReason, Connector, ExpectedServer, Validity,
};
use everpoint_units::{MachineId, WallTime};
use rustix::process::Signal;
use tokio::task::JoinSet;

/// Budgets, near the smallest that are allowed. Unit: bytes.
const SERVER_MAX: u64 = 64 << 20;
const AGENT_MAX: u64 = 128 << 20;
const QUEUE_MAX: u64 = 32 << 20;
/// What the bound allows beyond a budget. Unit: bytes.
const BESIDE_MAX: u64 = 64 << 20;
/// Unit: bytes.
const DISK_LEN: u64 = 256 << 20;
/// What is kept up with. Unit: bytes a second.
const WRITE_RATE: u64 = 60 << 20;
const PHASE_TIME: Duration = Duration::from_secs(3);
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// For each answer of a store.
const SLOW: Duration = Duration::from_secs(5);
/// Connections that want in at once.
const STRANGERS: usize = 2_000;
/// Machines that they say they are.
const IDENTITIES: usize = 500;

/// A server and an agent with small budgets, and a guest.
struct World {
    site: Site,
    server: Server,
    agent: Agent,
}

impl World {
    async fn begin(name: &str) -> Result<Self> {
        let site = Site::new(name).await?;
        let spec = ServerSpec::new("server", site.vault());
        Self::with(site, spec).await
    }

    /// With a server whose vault, or whatever else, is as this says.
    async fn with(site: Site, spec: ServerSpec) -> Result<Self> {
        let server = ServerSpec {
            memory_max: Some(SERVER_MAX),
            log_quota: 96 << 20,
            log_file_len: 8 << 20,
            ..spec
        };
        let agent = AgentSpec {
            memory_max: Some(AGENT_MAX),
            queue_max: QUEUE_MAX,
            ..AgentSpec::new(site.empty_image("source.raw", DISK_LEN)?)
        };
        let (server, agent) = site.protect(server, agent).await?;
        Ok(Self {
            site,
            server,
            agent,
        })
    }

    /// What happened before is measured no more.
    fn forget(&mut self) -> Result<()> {
        Peak::forget(self.server.node.id()?)?;
        Peak::forget(self.agent.node.id()?)
    }

    /// Neither had more than it may since [`World::forget`].
    fn within_bounds(&mut self, phase: &str) -> Result<()> {
        let server = Peak::of(self.server.node.id()?)?;
        let agent = Peak::of(self.agent.node.id()?)?;
        println!("{phase}: server {server}, agent {agent}");
        for (name, peak, budget) in [("server", server, SERVER_MAX), ("agent", agent, AGENT_MAX)] {
            let allowed = budget + BESIDE_MAX;
            ensure!(
                peak.resident_max <= allowed,
                "{phase}: the {name} had {peak}, {} MiB are allowed",
                allowed >> 20
            );
        }
        Ok(())
    }

    /// Everything becomes level, and the newest point is the source.
    async fn heal(&mut self) -> Result<()> {
        let (agent, server) = (&self.agent, &self.server);
        agent.until_state("protected", STEP_TIME_MAX).await?;
        agent.until_settled(server, STEP_TIME_MAX).await?;
        self.within_bounds("healing")?;
        let (vault, disk) = (&self.server.spec.vault, self.agent.disk);
        let restored = self.site.restore(vault, disk, "latest", "restored.raw");
        let source = ImageDigest::of(&self.agent.spec.source)?;
        source.expect_same(&ImageDigest::of(&restored.await?.path)?, "after all that")
    }

    /// Blocks are cached meanwhile.
    async fn caches(&self) -> Result<()> {
        let before = self.agent.disk().await?;
        wait::until(
            "a block that is cached meanwhile",
            STEP_TIME_MAX,
            async || {
                let now = self.agent.disk().await?;
                Ok((before.cached_block < now.cached_block).then_some(()))
            },
        )
        .await
    }

    /// Stops the server's process where it stands.
    async fn stop_server(&mut self) -> Result<()> {
        self.server.node.signal(Signal::STOP)?;
        self.server.node.until_stopped(STEP_TIME_MAX).await
    }

    async fn end(mut self) -> Result<()> {
        ensure!(self.agent.node.stop().await?.success());
        ensure!(self.server.node.stop().await?.success());
        self.site.passed();
        Ok(())
    }
}

/// Requests from small ones to those that fill a block.
fn load(seed: u64, rate_max: Option<u64>) -> LoadSpec {
    LoadSpec {
        connections: 8,
        depth: 8,
        rate_max,
        len_max: 1 << 20,
        zero_one_in: 50,
        ..LoadSpec::writes(seed, 0)
    }
}

/// Nothing but bookkeeping: zeroes of a sector each.
fn tiny() -> LoadSpec {
    LoadSpec {
        connections: 8,
        depth: 16,
        rate_max: None,
        len_min: 512,
        len_max: 512,
        zero_one_in: 1,
        ..LoadSpec::writes(13, 0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_keep_their_bounds_also_when_the_other_or_the_vault_stands_still() -> Result<()>
{
    let mut world = World::begin("memory").await?;
    let address = world.agent.address.clone();
    let mut steady = Load::start(&address, load(11, Some(WRITE_RATE))).await?;
    steady.run_for(PHASE_TIME).await?;
    world.within_bounds("a steady load")?;

    world.forget()?;
    world.stop_server().await?;
    steady.run_for(PHASE_TIME).await?;
    let state = world.agent.disk().await?.state;
    ensure!(state == "order-lost", "the queue never filled: {state}");
    world.within_bounds("the server stopped")?;
    world.server.node.signal(Signal::CONT)?;

    world.forget()?;
    let elsewhere = world.site.path("vault-elsewhere");
    std::fs::rename(world.site.vault(), &elsewhere)?;
    wait::until("a cache log that fills", STEP_TIME_MAX, async || {
        let len = world.server.log_len()?;
        Ok((world.server.spec.log_quota / 2 < len).then_some(()))
    })
    .await?;
    steady.run_for(PHASE_TIME).await?;
    world.within_bounds("the vault away")?;
    steady.finish().await?;

    world.forget()?;
    std::fs::rename(&elsewhere, world.site.vault())?;
    let mut flood = Load::start(&address, load(12, None)).await?;
    flood.run_for(PHASE_TIME).await?;
    world.within_bounds("as fast as it goes")?;
    println!("{}", flood.finish().await?);
    world.heal().await?;
    world.end().await
}

/// Changes without payload: where each costs a few bytes on the wire, bookkeeping is all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tiny_changes_costs_no_more_than_the_bounds() -> Result<()> {
    let mut world = World::begin("tiny").await?;
    let mut flood = Load::start(&world.agent.address, tiny()).await?;
    flood.run_for(PHASE_TIME).await?;
    world.within_bounds("tiny changes")?;

    world.stop_server().await?;
    flood.run_for(PHASE_TIME).await?;
    world.within_bounds("tiny changes, the server stopped")?;
    world.server.node.signal(Signal::CONT)?;

    let elsewhere = world.site.path("vault-elsewhere");
    std::fs::rename(world.site.vault(), &elsewhere)?;
    flood.run_for(2 * PHASE_TIME).await?;
    world.within_bounds("tiny changes, the vault away")?;
    std::fs::rename(&elsewhere, world.site.vault())?;
    flood.run_for(PHASE_TIME).await?;
    println!("{}", flood.finish().await?);
    world.heal().await?;
    world.end().await
}

/// A replica falls behind a store that takes seconds for each answer, and nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_on_a_slow_store_costs_no_more_than_the_bounds() -> Result<()> {
    let site = Site::new("slow-replica").await?;
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let spec = ServerSpec {
        more: ReplicaPlace::on(&blobs, &site)?.settings((100, 10_000)),
        ..ServerSpec::new("server", site.vault())
    };
    let mut world = World::with(site, spec).await?;
    until_level(&world.server, &world.agent, STEP_TIME_MAX).await?;
    world.forget()?;
    blobs.faults().change(|plan| plan.slow = Some(SLOW));
    let mut load = Load::start(&world.agent.address, load(14, Some(WRITE_RATE))).await?;
    for _ in 0..3 {
        load.run_for(PHASE_TIME).await?;
        world.caches().await?;
        // The vault is as fast as ever.
        let settled = world.agent.until_settled(&world.server, STEP_TIME_MAX);
        settled.await?;
    }
    world.within_bounds("a replica on a slow store")?;
    let slow = blobs.counts().faults.slow;
    println!("{}; {slow} slow answers", load.finish().await?);
    ensure!(0 < slow, "nothing was slow");
    let replica = replica(&world.server, &world.agent).await?;
    let replica = replica.context("it has a replica")?;
    ensure!(0 < replica.staged_bytes, "it kept up: {replica:?}");
    blobs.faults().none();
    until_applied(&world.server, &world.agent, STEP_TIME_MAX).await?;
    world.within_bounds("a replica that catches up")?;
    let blob = blobs.blob(CONTAINER, &blob_name(world.agent.disk));
    let blob = blob.context("it is there")?.content();
    expect_bytes(&blob, &world.agent.spec.source)?;
    world.heal().await?;
    world.end().await
}

/// What is not committed yet fills the cache log; agents are held back, not lost, and memory is what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_on_a_slow_store_costs_no_more_than_the_bounds() -> Result<()> {
    let site = Site::new("slow-vault").await?;
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let vault = VaultPlace {
        url: format!("az://{CONTAINER}/vault"),
        ..ReplicaPlace::on(&blobs, &site)?.beside(&site.vault())
    };
    let spec = ServerSpec::new("server", vault);
    let mut world = World::with(site, spec).await?;
    world.forget()?;
    blobs.faults().change(|plan| plan.slow = Some(SLOW));
    let mut load = Load::start(&world.agent.address, load(15, Some(WRITE_RATE))).await?;
    for _ in 0..3 {
        load.run_for(PHASE_TIME).await?;
        world.caches().await?;
    }
    world.within_bounds("a vault on a slow store")?;
    let slow = blobs.counts().faults.slow;
    println!("{}; {slow} slow answers", load.finish().await?);
    ensure!(0 < slow, "nothing was slow");
    blobs.faults().none();
    world.heal().await?;
    world.end().await
}

/// Two thousand at once: handshakes that never go on, then agents with good certificates that say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_connections_that_say_nothing_cost_the_server_no_more_than_its_bound()
-> Result<()> {
    let mut world = World::begin("crowd").await?;
    let load = Load::start(&world.agent.address, LoadSpec::writes(12, 4 << 20)).await?;
    world.forget()?;
    let crowd = Crowd::new(&world)?;
    crowd.half_open().await?;
    let links = crowd.idle().await;
    world.caches().await?;
    world.within_bounds("a crowd")?;
    println!("{links} of {STRANGERS} were let in for a while");
    ensure!(0 < links, "nobody was let in");
    let held = load.hold().await;
    world
        .agent
        .until_settled(&world.server, STEP_TIME_MAX)
        .await?;
    drop(held);
    load.finish().await?;
    world.end().await
}

/// Everybody that wants in.
struct Crowd {
    address: std::net::SocketAddr,
    agents: Vec<Arc<Connector>>,
}

impl Crowd {
    fn new(world: &World) -> Result<Self> {
        let pki = world.site.path("pki");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = WallTime(u64::try_from(now.as_micros())?);
        let ca = Ca::load(&pki.join("ca.pem"), &pki.join("ca.key"), now)?;
        let budget = ByteBudget::new(1 << 40);
        let mut agents = Vec::new();
        for _ in 0..IDENTITIES {
            let validity = Validity::from_now(now, CERTIFICATE_LIFETIME);
            let issued = ca.issue_agent(MachineId(rand::random()), validity)?;
            let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
            let credentials = Credentials::from_pem(certificate, key, ca.certificate_pem(), now)?;
            let mut config = ClientTransportConfig::new(credentials);
            config.bind = Some(([127, 0, 0, 1], 0).into());
            // These 500 sockets are few bytes each.
            config.tuning.socket_buffer_len = 64 << 10;
            agents.push(Arc::new(Connector::bind(config, budget.clone())?));
        }
        let address = world.server.address.parse()?;
        Ok(Self { address, agents })
    }

    /// First packets of handshakes that never go on.
    async fn half_open(&self) -> Result<()> {
        let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
        let nowhere = sink.local_addr()?;
        let strangers = UdpSocket::bind("127.0.0.1:0")?;
        let mut attempts = JoinSet::new();
        let mut buffer = [0; 2_000];
        for index in 0..STRANGERS {
            let agent = Arc::clone(&self.agents[index % IDENTITIES]);
            attempts.spawn(async move { agent.connect(nowhere, &anyone()).await.is_ok() });
            let len = sink.recv(&mut buffer).await?;
            strangers.send_to(&buffer[..len], self.address)?;
        }
        Ok(())
    }

    /// Agents that connect, and say nothing; how many were let in.
    async fn idle(&self) -> usize {
        let mut attempts = JoinSet::new();
        for index in 0..STRANGERS {
            let (agent, address) = (Arc::clone(&self.agents[index % IDENTITIES]), self.address);
            attempts.spawn(async move {
                let link = agent.connect(address, &anyone()).await.ok()?;
                Some(link.closed().await)
            });
        }
        let ended = attempts.join_all().await;
        let silent = ended.iter().flatten();
        silent
            .filter(|closed| closed.reason() == Some(CloseReason::Slow))
            .count()
    }
}

fn anyone() -> ExpectedServer {
    ExpectedServer::named("127.0.0.1").expect("an address")
}
