//! Bad days of replicas: what is wrong where one lies is said with its fix, and costs nothing but the replica.
//!
//! Whatever is wrong there, writes are cached and committed, and the newest point is the disk; where the cause is taken
//! away, the replica becomes the disk without help. Azurite checks credentials; what it does not do, the tests' own
//! server does; and files lie on a filesystem that is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_format::replica::Mark;
use everpoint_format::vhd::fixed_footer;
use everpoint_replica::{AzureAccount, AzurePages, Fence, PageTarget as _, PagesConfig};
use everpoint_tests::rigs::clouds::{Azurite, LONG};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::mount::Mount;
use everpoint_tests::rigs::page_blobs::{BlobView, PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::replica_place::{
    ANY_KEY, CONTAINER, NEEDED, ReplicaPlace, blob_name, expect_bytes, expect_disk, only_file,
    replica, until_applied,
};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::wait;
use everpoint_units::{ByteLen, ByteOffset, DiskId, Level, VaultId, WallTime};
use everpoint_vault::history::read_header;
use object_store::ObjectStoreExt as _;
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::StaticCredentialProvider;

/// Unit: bytes.
const DISK_LEN: u64 = (16 << 20) + 3 * 512;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Writes in the middle of each bad day take so long.
const LOAD_TIME: Duration = Duration::from_millis(300);
/// Unit: bytes a second.
const WRITE_RATE: u64 = 8 << 20;
/// How long a replica collects changes. Unit: milliseconds.
const WINDOW_MS: (u64, u64) = (50, 400);

struct World {
    site: Site,
    server: Server,
    agent: Agent,
    source: PathBuf,
    loads: u64,
}

impl World {
    /// A server that runs, and an agent that does not yet.
    async fn begin(site: Site, replicas: &ReplicaPlace) -> Result<Self> {
        let spec = ServerSpec {
            commit_interval_ms: 100,
            more: replicas.settings(WINDOW_MS),
            ..ServerSpec::new("server", site.vault())
        };
        let mut server = site.server(spec).await?;
        server.node.start().await?;
        let source = site.empty_image("source.raw", DISK_LEN)?;
        let spec = AgentSpec::new(source.clone());
        let agent = site.agent(spec, &[&server]).await?;
        Ok(Self {
            site,
            server,
            agent,
            source,
            loads: 0,
        })
    }

    /// The same with replicas on the tests' own server.
    async fn on(name: &str, blobs: &PageBlobServer) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        let replicas = ReplicaPlace::on(blobs, &site)?;
        Self::begin(site, &replicas).await
    }

    async fn protect(&mut self) -> Result<()> {
        self.agent.node.start().await?;
        self.until_protected().await
    }

    async fn until_protected(&self) -> Result<()> {
        let level = self.agent.until_state("protected", STEP_TIME_MAX);
        level.await.map(drop)
    }

    /// Writes are cached and committed, and the newest point is the disk.
    async fn goes_on(&mut self) -> Result<()> {
        self.loads += 1;
        let spec = LoadSpec {
            zero_one_in: 8,
            discard_one_in: 8,
            ..LoadSpec::writes(self.loads, WRITE_RATE)
        };
        let before = self.agent.disk().await?;
        let mut load = Load::start(&self.agent.address, spec).await?;
        load.run_for(LOAD_TIME).await?;
        load.finish().await?;
        let settled = self.agent.until_settled(&self.server, STEP_TIME_MAX);
        settled.await?;
        let after = self.agent.disk().await?;
        ensure!(
            before.cached_block < after.cached_block,
            "nothing was cached"
        );
        let (vault, disk) = (self.site.vault(), self.agent.disk);
        let newest = self
            .site
            .restore(vault, disk, "latest", "newest.raw")
            .await?;
        let source = ImageDigest::of(&self.source)?;
        source.expect_same(&ImageDigest::of(&newest.path)?, "the newest point")?;
        fs::remove_file(newest.path)?;
        Ok(())
    }

    /// What an operator asks says what is wrong, and what to do about it.
    async fn says(&self, words: &[&str]) -> Result<()> {
        let what = format!("{words:?} is said");
        let control: [&Path; 1] = [&self.server.node.control];
        let disk = self.agent.disk.to_string();
        let vault = (&self.site.vault()).into();
        // Between two attempts there may be nothing to say for a moment.
        let said = wait::until(&what, STEP_TIME_MAX, async || {
            let asked = self
                .site
                .everpoint(["server", "status", "--control"], &control);
            let status = asked.await?.succeeded("server status")?;
            let words_of_show = ["disk", "show", "--disk", &disk, "--server-control"];
            let asked = self.site.ask_vault(&vault, &words_of_show, &control);
            let shown = asked.await?.succeeded("disk show")?;
            let has_all = |text: &String| words.iter().all(|word| text.contains(word));
            Ok([status, shown].iter().all(has_all).then_some(()))
        });
        let said = said.await;
        said.with_context(|| format!("{:?}", self.server.node.printed()))?;
        let printed = self.server.node.printed()?;
        ensure!(!printed.contains("sig="), "a signature is told");
        Ok(())
    }

    /// Both, while something is wrong.
    async fn goes_on_and_says(&mut self, words: &[&str]) -> Result<()> {
        self.goes_on().await?;
        self.says(words).await
    }

    async fn until_whole(&self) -> Result<()> {
        until_applied(&self.server, &self.agent, STEP_TIME_MAX).await?;
        let replica = replica(&self.server, &self.agent).await?;
        let replica = replica.context("it has a replica")?;
        ensure!(replica.trouble.is_empty(), "{}", replica.trouble);
        Ok(())
    }

    /// The blob becomes the disk.
    async fn heals_on(&self, blobs: &PageBlobServer) -> Result<()> {
        self.until_whole().await?;
        expect_bytes(&self.blob(blobs)?.content(), &self.source)
    }

    fn blob(&self, blobs: &PageBlobServer) -> Result<BlobView> {
        let blob = blobs.blob(CONTAINER, &blob_name(self.agent.disk));
        blob.context("it is there")
    }

    /// Corrects the server's configuration, and starts it again.
    async fn restart_with(&mut self, replicas: &ReplicaPlace) -> Result<()> {
        ensure!(self.server.node.stop().await?.success());
        let config = fs::read_to_string(&self.server.config)?;
        let more = replicas.settings(WINDOW_MS);
        ensure!(config.contains(&self.server.spec.more));
        let config = config.replace(&self.server.spec.more, &more);
        fs::write(&self.server.config, config)?;
        self.server.spec.more = more;
        self.server.node.start().await?;
        self.until_protected().await
    }

    async fn stop(&mut self) -> Result<()> {
        ensure!(self.agent.node.stop().await?.success());
        ensure!(self.server.node.stop().await?.success());
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        self.stop().await?;
        self.site.passed();
        Ok(())
    }
}

/// A blob of the tests' own server, as somebody else reaches it.
fn foreign_hand(blobs: &PageBlobServer, disk: DiskId) -> Result<AzurePages> {
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ANY_KEY)?);
    let credentials = Arc::new(StaticCredentialProvider::new(key));
    let config = PagesConfig::default();
    let account = AzureAccount::new("everpoint", blobs.endpoint(), credentials, config)?;
    Ok(account.pages(CONTAINER, blob_name(disk)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_and_a_missing_container_are_said_and_put_right() -> Result<()> {
    let site = Site::on("bad-account", Home::Directory).await?;
    let azurite = Azurite::start(&site.path("")).await?;
    let wrong = azurite.place(CONTAINER, "access_key_file", "wrong.key", "d3Jvbmc=")?;
    let mut world = World::begin(site, &ReplicaPlace::reached_as(&wrong)).await?;
    world.protect().await?;
    let key = ["refuses the credential", "look at its key"];
    world.goes_on_and_says(&key).await?;

    let ended = azurite.with_sas(CONTAINER, NEEDED, Duration::ZERO).await?;
    let ended = ReplicaPlace::reached_as(&ended);
    world.restart_with(&ended).await?;
    let sas = [
        "refuses the credential",
        "the end and the permissions of its SAS",
    ];
    world.goes_on_and_says(&sas).await?;

    let right = azurite.with_sas(CONTAINER, NEEDED, LONG).await?;
    world
        .restart_with(&ReplicaPlace::reached_as(&right))
        .await?;
    let container = ["the container does not exist: create it"];
    world.goes_on_and_says(&container).await?;
    azurite.container(CONTAINER).await?;
    world.until_whole().await?;
    let downloaded = world.site.image("downloaded.vhd");
    let name = blob_name(world.agent.disk);
    azurite.download(CONTAINER, &name, &downloaded).await?;
    expect_disk(&downloaded, &world.source).await?;
    world.end().await
}

/// What is wrong for a while with a store, or with a blob that is a replica already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_befalls_a_replica_is_said_and_overcome() -> Result<()> {
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let mut world = World::on("bad-days", &blobs).await?;
    world.protect().await?;
    world.heals_on(&blobs).await?;
    let foreign = foreign_hand(&blobs, world.agent.disk)?;

    let ahead = Duration::from_secs(20 * 60);
    blobs.faults().change(|plan| plan.clock_ahead = Some(ahead));
    world
        .goes_on_and_says(&["clock differs from the service's", "set the clock"])
        .await?;
    blobs.faults().none();
    world.heals_on(&blobs).await?;

    blobs.faults().change(|plan| plan.no_permission = true);
    world
        .goes_on_and_says(&["refuses the credential", "its role"])
        .await?;
    blobs.faults().none();
    world.heals_on(&blobs).await?;

    blobs.faults().change(|plan| plan.worm = true);
    let policy = [
        "a policy forbids to change it",
        "use another container than the vault's",
    ];
    world.goes_on_and_says(&policy).await?;
    blobs.faults().none();
    world.heals_on(&blobs).await?;

    let name = blob_name(world.agent.disk);
    let leased = blobs.other_holder_leases(CONTAINER, &name);
    ensure!(leased.is_ok(), "{leased:?}");
    let lease = [
        "somebody else holds the lease on it",
        "end that, or break the lease",
    ];
    world.goes_on_and_says(&lease).await?;
    let broken = blobs.break_foreign_lease(CONTAINER, &name);
    ensure!(broken.is_ok(), "{broken:?}");
    world.heals_on(&blobs).await?;

    // Nobody has to do anything: it is written anew. So what is said is said for a moment.
    foreign.resize(ByteLen(4 << 20), None).await?;
    world.goes_on().await?;
    world.heals_on(&blobs).await?;
    let printed = world.server.node.printed()?;
    ensure!(printed.contains("it is smaller than the disk"), "{printed}");

    foreign.remove().await?;
    world.goes_on().await?;
    world.heals_on(&blobs).await?;
    world.end().await
}

/// Somebody raises the fence, and the machine's path says that this server leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_somebody_else_raised_stops_a_replica() -> Result<()> {
    let blobs = PageBlobServer::start(PageBlobSpec {
        log_writes: true,
        ..PageBlobSpec::default()
    })?;
    let mut world = World::on("bad-fence", &blobs).await?;
    world.protect().await?;
    world.goes_on().await?;
    world.heals_on(&blobs).await?;
    let foreign = foreign_hand(&blobs, world.agent.disk)?;
    let high = Fence::first_of(Level(1 << 20)).context("a level")?;
    ensure!(foreign.raise(high).await? == high);
    let before = world.blob(&blobs)?;
    for _ in 0..2 {
        world
            .goes_on_and_says(&["somebody else wrote there", "remove it"])
            .await?;
    }
    let after = world.blob(&blobs)?;
    ensure!(
        after.writes().len() == before.writes().len(),
        "it went on writing"
    );
    ensure!(after.sequence_number() == high.number());
    foreign.remove().await?;
    world.heals_on(&blobs).await?;
    world.end().await
}

/// A blob that is no replica of the disk is left alone; once it is gone, the replica is made.
async fn is_left_alone(
    name: &str,
    words: &[&str],
    put: impl AsyncFnOnce(&World, &PageBlobServer) -> Result<()>,
) -> Result<()> {
    let blobs = PageBlobServer::start(PageBlobSpec::default())?;
    let mut world = World::on(name, &blobs).await?;
    put(&world, &blobs).await?;
    let before = world.blob(&blobs)?;
    world.protect().await?;
    world.goes_on_and_says(words).await?;
    let after = world.blob(&blobs)?;
    ensure!(after.is_page_blob() == before.is_page_blob());
    ensure!(after.content() == before.content(), "it was written to");
    foreign_hand(&blobs, world.agent.disk)?.remove().await?;
    world.heals_on(&blobs).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_blob_is_left_alone() -> Result<()> {
    let words = [
        "is a BlockBlob, not a page blob",
        "remove it or choose another name",
    ];
    is_left_alone("bad-block", &words, async |world, blobs| {
        let client = MicrosoftAzureBuilder::new()
            .with_account("everpoint")
            .with_access_key(ANY_KEY)
            .with_endpoint(blobs.endpoint().to_owned())
            .with_allow_http(true)
            .with_container_name(CONTAINER)
            .build()?;
        let name = blob_name(world.agent.disk);
        client.put(&name.as_str().into(), "a report".into()).await?;
        Ok(())
    })
    .await
}

/// As it comes from somebody who uploads a VHD, whose sequence number is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uploaded_vhd_is_left_alone() -> Result<()> {
    let words = ["is no replica: remove it, or choose another place"];
    is_left_alone("bad-vhd", &words, async |world, blobs| {
        let footer = fixed_footer(ByteLen(8 << 20), [3; 16], WallTime(0));
        put_last_page(world, blobs, &footer, Fence::NONE).await
    })
    .await
}

/// As `restore --to` makes it, which has a fence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_vhd_is_left_alone() -> Result<()> {
    let words = ["is no replica: remove it, or choose another place"];
    is_left_alone("bad-restored", &words, async |world, blobs| {
        let footer = fixed_footer(ByteLen(8 << 20), [3; 16], WallTime(0));
        put_last_page(world, blobs, &footer, low_fence()?).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_disks_replica_is_left_alone() -> Result<()> {
    let words = ["the replica of another disk: remove it, or choose another place"];
    is_left_alone("bad-disk", &words, async |world, blobs| {
        let vault = world.server.spec.vault.open().await?;
        let mark = Mark {
            disk: DiskId(rand::random()),
            ..mark(world, read_header(&vault).await?.vault)
        };
        put_last_page(world, blobs, &mark.encode(WallTime(0)), low_fence()?).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_vaults_replica_is_left_alone() -> Result<()> {
    let words = ["the replica of another vault's disk: remove it, or choose another place"];
    is_left_alone("bad-vault", &words, async |world, blobs| {
        let mark = mark(world, VaultId(rand::random()));
        put_last_page(world, blobs, &mark.encode(WallTime(0)), low_fence()?).await
    })
    .await
}

fn mark(world: &World, vault: VaultId) -> Mark {
    Mark {
        vault,
        machine: world.agent.machine,
        disk: world.agent.disk,
        sectors: DISK_LEN / 512,
        applied: None,
    }
}

/// One that any server may raise.
fn low_fence() -> Result<Fence> {
    Fence::first_of(Level(1)).context("a level")
}

/// Makes a page blob in the place of the disk's replica, with some data and this last page.
async fn put_last_page(
    world: &World,
    blobs: &PageBlobServer,
    page: &[u8; 512],
    fence: Fence,
) -> Result<()> {
    let blob = foreign_hand(blobs, world.agent.disk)?;
    let len = Mark::target_len(DISK_LEN / 512);
    blob.create(len, fence).await?;
    let data = bytes::Bytes::from(vec![9; 64 << 10]);
    blob.put(ByteOffset(1 << 20), &data.into(), fence).await?;
    let page = bytes::Bytes::copy_from_slice(page);
    let at = ByteOffset(len.0 - 512);
    Ok(blob.put(at, &page.into(), fence).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_directory_and_a_full_filesystem_are_said_and_overcome() -> Result<()> {
    let site = Site::on("bad-files", Home::Directory).await?;
    let dir = site.path("replicas");
    let spec = ServerSpec {
        more: ReplicaPlace::in_directory(&dir).settings(WINDOW_MS),
        ..ServerSpec::new("early", site.vault())
    };
    let early = site.server(spec).await?;
    let refused = site
        .everpoint(["server", "run", "--config"], &[&early.config])
        .await?;
    ensure!(!refused.status.success(), "{refused:?}");
    ensure!(
        refused.stderr.contains("is no directory: create it first"),
        "{refused:?}"
    );

    // The footer has room, and little more.
    let mut files = Mount::memory(&dir, 256 << 10).await?;
    let mut world = World::begin(site, &ReplicaPlace::in_directory(&dir)).await?;
    world.protect().await?;
    world
        .goes_on_and_says(&["the filesystem has no room for it"])
        .await?;
    files.resize(64 << 20).await?;
    world.until_whole().await?;
    let file = only_file(&dir)?;
    expect_disk(&file, &world.source).await?;
    world.stop().await?;
    // Before the site's directory goes, in which it lies.
    files.unmount().await?;
    world.site.passed();
    Ok(())
}
