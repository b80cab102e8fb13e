//! Points that become VHDs in Azure, from the vault alone: page blobs, managed disks, copies of replicas; and replicas
//! held against the vault.
//!
//! On the tests' own server, which behaves like Azure, and on Azurite, which checks signatures.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_replica::{AzureAccount, AzurePages, Fence, PageTarget as _, Pages, PagesConfig};
use everpoint_tests::rigs::child::Finished;
use everpoint_tests::rigs::clouds::{Azurite, LONG};
use everpoint_tests::rigs::golden;
use everpoint_tests::rigs::handmade;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::page_blobs::{FaultPlan, PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::replica_place;
use everpoint_tests::rigs::site::{AgentSpec, Home, ServerSpec, Site};
use everpoint_tests::rigs::tool;
use everpoint_tests::rigs::vault_place::VaultPlace;
use everpoint_units::{ByteLen, ByteOffset, DiskId, Level, MachineId};
use object_store::ObjectStoreExt as _;
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::StaticCredentialProvider;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

/// Not whole MiB, and not whole pieces. Unit: bytes.
const DISK_LEN: u64 = (24 << 20) + 1_536;
const CONTAINER: &str = "disks";
/// Permissions of a container's SAS that a blob's maker needs, as Azure writes them.
const NEEDED: &str = "rcwd";
const KEY: &str = "a2V5";
/// Older points that are made from a replica.
const POINTS: usize = 10;

/// A vault with a machine's history, and an account that its points go to.
struct World {
    site: Site,
    vault: VaultPlace,
    machine: MachineId,
    disk: DiskId,
    /// Unit: bytes.
    disk_len: u64,
    account: AzureAccount,
    made: usize,
}

fn account(endpoint: &str, credential: AzureCredential) -> Result<AzureAccount> {
    let credentials = Arc::new(StaticCredentialProvider::new(credential));
    let config = PagesConfig::default();
    Ok(AzureAccount::new(
        "everpoint",
        endpoint,
        credentials,
        config,
    )?)
}

/// The settings by which the command line reaches the tests' own server.
fn settings(site: &Site, server: &PageBlobServer) -> Result<String> {
    let key = site.path("account.key");
    write_secret(&key, KEY)?;
    let (endpoint, key) = (server.endpoint(), key.display().to_string());
    Ok(format!(
        "[process.store.azure]\naccount = \"everpoint\"\nendpoint = {endpoint:?}\naccess_key_file = {key:?}\n"
    ))
}

fn write_secret(path: &PathBuf, secret: &str) -> Result<()> {
    fs::write(path, secret)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn access_key() -> Result<AzureCredential> {
    Ok(AzureCredential::AccessKey(AzureAccessKey::try_new(KEY)?))
}

fn fence() -> Fence {
    Fence::first_of(Level(7)).expect("a low level")
}

impl World {
    /// A machine that was written to for some seconds, and whose server and agent are gone.
    async fn lived(name: &str, server: &PageBlobServer) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        let source = site.empty_image("source.raw", DISK_LEN)?;
        let spec = ServerSpec::new("server", site.place());
        let (mut process, mut agent) = site.protect(spec, AgentSpec::new(source)).await?;
        let spec = LoadSpec {
            seed: 11,
            connections: 2,
            depth: 4,
            rate_max: Some(8 << 20),
            len_min: 512,
            len_max: 256 << 10,
            zero_one_in: 12,
            discard_one_in: 12,
            hot_len: 4 << 20,
            is_mixed: false,
        };
        let mut load = Load::start(&agent.address, spec).await?;
        load.run_for(Duration::from_secs(2)).await?;
        site.create_point(&agent, "middle").await?;
        load.run_for(Duration::from_secs(2)).await?;
        load.finish().await?;
        agent
            .until_settled(&process, Duration::from_secs(60))
            .await?;
        ensure!(agent.node.stop().await?.success() && process.node.stop().await?.success());
        let (machine, disk) = (agent.machine, agent.disk);
        Self::of(site, server, machine, disk, DISK_LEN)
    }

    /// The golden vault, which an older version left behind.
    async fn golden(name: &str, server: &PageBlobServer) -> Result<Self> {
        let site = Site::on(name, Home::Directory).await?;
        golden::copy(&golden::folder().join("vault"), &site.vault(), &|_| true)?;
        let expected = golden::expected()?;
        let disk = &expected.disks[0];
        let (machine, id) = (expected.machine.parse()?, disk.id.parse()?);
        Self::of(site, server, machine, id, disk.size_bytes)
    }

    fn of(
        site: Site,
        server: &PageBlobServer,
        machine: MachineId,
        disk: DiskId,
        disk_len: u64,
    ) -> Result<Self> {
        let vault = VaultPlace {
            store: Some(settings(&site, server)?),
            ..site.place()
        };
        Ok(Self {
            site,
            vault,
            machine,
            disk,
            disk_len,
            account: account(server.endpoint(), access_key()?)?,
            made: 0,
        })
    }

    /// The same vault, and Azurite's account.
    fn on(mut self, azurite: &Azurite) -> Result<Self> {
        self.vault.store = azurite.with_key(CONTAINER)?.store;
        self.account = account(azurite.endpoint(), azurite.key()?)?;
        Ok(self)
    }

    /// Runs `restore` of the disk with these words.
    async fn restore(&self, at: &str, words: &[&str]) -> Result<Finished> {
        let disk = self.disk.to_string();
        let mut all = vec!["restore", "--json", "--disk", &disk, "--at", at];
        all.extend(words);
        self.site.ask_vault(&self.vault, &all, &[]).await
    }

    async fn restored(&self, at: &str, words: &[&str]) -> Result<Value> {
        let printed = self.restore(at, words).await?.succeeded("restore")?;
        serde_json::from_str(&printed).with_context(|| printed)
    }

    /// Asks for what is refused, and gives the exit code and what was said.
    async fn refused(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let Finished {
            status,
            stdout,
            stderr,
        } = self.restore("latest", words).await?;
        ensure!(!status.success(), "it succeeds: {stdout}");
        ensure!(!stderr.contains("sig="), "a signature is told: {stderr}");
        Ok((status.code(), stderr))
    }

    /// The same point as an image.
    async fn image(&mut self, at: &str, format: &str) -> Result<PathBuf> {
        self.made += 1;
        let name = format!("{}.{format}", self.made);
        let image = self
            .site
            .restore_as(&self.vault, self.disk, at, &name, format)
            .await?;
        Ok(image.path)
    }

    /// A blob of the account is, byte for byte, the VHD that a file of the same point is, and qemu reads it so.
    async fn expect_vhd(&mut self, name: &str, at: &str) -> Result<()> {
        let found = content(&self.account.pages(CONTAINER, name)).await?;
        let vhd = self.image(at, "vhd").await?;
        ensure!(found == fs::read(&vhd)?, "{name} is not the VHD of {at}");
        let raw = self.image(at, "raw").await?;
        let downloaded = self.site.image("downloaded.vhd");
        fs::write(&downloaded, found)?;
        let words = ["compare", "-f", "vpc", "-F", "raw"].map(Into::into);
        let images = [&downloaded, &raw].map(|path| path.clone().into_os_string());
        tool::run("qemu-img", words.into_iter().chain(images)).await?;
        for path in [vhd, raw, downloaded] {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// A replica that stands at the object `at` of those where one may: its `Seq`.
    async fn replica(&self, name: &str, at: impl Fn(usize) -> usize) -> Result<u64> {
        let stands = handmade::stands(&self.vault, self.machine, self.disk).await?;
        let stand = &stands[at(stands.len())];
        let seq = stand.through.0;
        self.restored(&format!("seq:{seq}"), &["--to", &address(name)])
            .await?;
        let what = (self.machine, self.disk, self.disk_len / 512);
        let blob = self.account.pages(CONTAINER, name);
        handmade::mark(&self.vault, what, stand, &blob).await?;
        Ok(seq)
    }

    async fn verify(&self, replica: &str) -> Result<(Option<i32>, Value)> {
        replica_place::verify(&self.site, &self.vault, self.disk, replica).await
    }
}

fn address(name: &str) -> String {
    format!("az://{CONTAINER}/{name}")
}

async fn content(blob: &AzurePages) -> Result<Vec<u8>> {
    let found = blob.properties().await?.context("it is there")?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < found.len.0 {
        let at = bytes.len() as u64;
        let len = ByteLen((found.len.0 - at).min(4 << 20));
        bytes.extend(blob.read(ByteOffset(at), len, None).await?);
    }
    Ok(bytes)
}

/// A managed disk that waits for so many bytes, and the file with its URL.
async fn managed_disk(
    world: &World,
    endpoint: &str,
    name: &str,
    query: &str,
    len: u64,
) -> Result<(AzurePages, String)> {
    let disk = world.account.pages(CONTAINER, name);
    disk.create(ByteLen(len), fence()).await?;
    let path = world.site.path(&format!("{name}.url"));
    write_secret(&path, &format!("{endpoint}/{CONTAINER}/{name}?{query}\n"))?;
    Ok((disk, path.display().to_string()))
}

const VHD_LEN: u64 = DISK_LEN.next_multiple_of(1 << 20) + 512;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_the_vhd_of_the_point_also_over_faults() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let mut world = World::lived("pages-blob", &server).await?;
    for (name, at) in [("newest.vhd", "latest"), ("vm-1/middle.vhd", "middle")] {
        let told = world.restored(at, &["--to", &address(name)]).await?;
        ensure!(told["target"] == address(name).as_str(), "{told}");
        ensure!(told["size_bytes"] == DISK_LEN && told["changed_bytes"] == Value::Null);
        world.expect_vhd(name, at).await?;
    }
    server.faults().set(FaultPlan {
        writes_only: true,
        error_500: 0.05,
        error_500_executed: 0.05,
        error_503: 0.05,
        lost_answer: 0.05,
        lost_request: 0.05,
        ..FaultPlan::default()
    });
    world
        .restored("latest", &["--to", &address("shaken.vhd")])
        .await?;
    let met = server.counts().faults;
    server.faults().none();
    ensure!(
        0 < met.error_500 + met.lost_answers + met.error_503,
        "{met:?}"
    );
    world.expect_vhd("shaken.vhd", "latest").await?;
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_disk_is_the_vhd_of_the_point_whatever_an_attempt_left_in_it() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let mut world = World::lived("pages-disk", &server).await?;
    let endpoint = server.endpoint().to_owned();
    let (disk, file) = managed_disk(&world, &endpoint, "abcd", "sv=1&sig=x", VHD_LEN).await?;
    let left: Pages = bytes::Bytes::from(vec![9; 1 << 20]).into();
    for at in [0, 12 << 20, VHD_LEN - (1 << 20)] {
        disk.put(ByteOffset(at), &left, fence()).await?;
    }
    world.restored("latest", &["--to-sas", &file]).await?;
    world.expect_vhd("abcd", "latest").await?;
    world.restored("middle", &["--to-sas", &file]).await?;
    world.expect_vhd("abcd", "middle").await?;

    let (other, file) = managed_disk(&world, &endpoint, "other", "sv=1&sig=x", 1 << 20).await?;
    let (code, said) = world.refused(&["--to-sas", &file]).await?;
    ensure!(code == Some(2), "{code:?}, {said}");
    let fix = format!("--upload-size-bytes {VHD_LEN}");
    ensure!(said.contains(&fix), "{said}");
    ensure!(other.ranges(None).await?.is_empty());
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_points_are_made_of_a_replica_for_what_differs() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let mut world = World::lived("pages-replica", &server).await?;
    let newest = world.replica("newest", |count| count - 1).await?;
    world.replica("earlier", |count| count / 2).await?;
    let before = ["newest", "earlier"].map(|name| server.blob(CONTAINER, name));
    let mut random = StdRng::seed_from_u64(5);
    let mut points = 0;
    server
        .faults()
        .change(|plan| plan.copy_takes = Some(Duration::from_millis(300)));
    while points < POINTS {
        let at = format!("seq:{}", random.random_range(1..=newest));
        let probe = world.site.image("probe.raw");
        let words = ["--output", probe.to_str().context("text")?];
        // Before the first copy was complete, and inside requests, there are no points.
        if !world.restore(&at, &words).await?.status.success() {
            continue;
        }
        fs::remove_file(probe)?;
        let replica = address(["newest", "earlier"][points % 2]);
        let name = format!("point-{points}");
        let sent = server.counts().all().bytes_in;
        let words = ["--to", &address(&name), "--from-replica", &replica];
        let told = world.restored(&at, &words).await?;
        let sent = server.counts().all().bytes_in - sent;
        let number = |key: &str| told[key].as_u64().with_context(|| format!("{key}: {told}"));
        let (put, changed) = (number("put_bytes")?, number("changed_bytes")?);
        ensure!(sent == put, "{sent} bytes were sent: {told}");
        ensure!(put * 10 <= changed * 13 + 512, "{at}: {told}");
        world.expect_vhd(&name, &at).await?;
        points += 1;
    }
    for (name, before) in ["newest", "earlier"].into_iter().zip(before) {
        let (now, before) = (server.blob(CONTAINER, name), before.context("a replica")?);
        let now = now.context("it is there")?;
        ensure!(now.content() == before.content(), "{name} is as it was");
        ensure!(now.snapshots().is_empty(), "{:?}", now.snapshots());
    }
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_spoilt_page_of_a_replica_is_found() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let world = World::golden("pages-verify", &server).await?;
    world.replica("replica", |count| count - 1).await?;
    let (code, report) = world.verify(&address("replica")).await?;
    ensure!(code == Some(0), "{code:?}, {report}");
    ensure!(report["differing_bytes"] == 0 && report["is_level"] == true);
    ensure!(report["data_bytes"].as_u64().is_some_and(|bytes| 0 < bytes));
    let file = world.site.image("replica.vhd");
    let blob = world.account.pages(CONTAINER, "replica");
    let mut bytes = content(&blob).await?;
    fs::write(&file, &bytes)?;
    let file_url = format!("file://{}", file.display());
    let (code, report) = world.verify(&file_url).await?;
    ensure!(code == Some(0), "{code:?}, {report}");

    let at = 5 << 20;
    let place = usize::try_from(at)?;
    bytes[place + 17] ^= 1;
    fs::write(&file, &bytes)?;
    let page = bytes::Bytes::copy_from_slice(&bytes[place..place + 512]);
    let found = blob.properties().await?.context("it is there")?;
    blob.put(ByteOffset(at), &page.into(), found.fence).await?;
    for replica in [address("replica"), file_url] {
        let (code, report) = world.verify(&replica).await?;
        ensure!(code == Some(3), "{code:?}, {report}");
        let place = serde_json::json!([{"at": at, "len": 512}]);
        ensure!(report["differing"] == place, "{report}");
    }
    let looked = server.blob(CONTAINER, "replica").context("it is there")?;
    ensure!(looked.snapshots().is_empty());
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_foreign_is_touched_and_nothing_half_made_stays() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let world = World::golden("pages-foreign", &server).await?;
    let foreign = world.account.pages(CONTAINER, "pages");
    foreign.create(ByteLen(1 << 20), fence()).await?;
    let client = MicrosoftAzureBuilder::new()
        .with_account("everpoint")
        .with_access_key(KEY)
        .with_endpoint(server.endpoint().to_owned())
        .with_allow_http(true)
        .with_container_name(CONTAINER)
        .build()?;
    client.put(&"block".into(), "text".into()).await?;
    world.replica("replica", |count| count - 1).await?;
    let replica = address("replica");
    for name in ["pages", "block"] {
        let before = server.blob(CONTAINER, name).context("it is there")?;
        for more in [&[][..], &["--from-replica", &replica]] {
            let address = address(name);
            let words = [&["--to", &address], more].concat();
            let (code, said) = world.refused(&words).await?;
            ensure!(code == Some(2), "{name}: {code:?}, {said}");
            ensure!(said.contains("remove it or choose another name"), "{said}");
        }
        let now = server.blob(CONTAINER, name).context("it is still there")?;
        ensure!(now.etag() == before.etag(), "{name} was touched");
    }

    // Frames that are damaged are seen only when the blob is made.
    for journal in fs::read_dir(world.site.vault().join("v1/journal"))? {
        let object = journal?.path().join(format!("{:020}", 1));
        let mut bytes = fs::read(&object)?;
        // Frames come first, and indexes behind them.
        let frames = bytes.len() / 2;
        bytes[128..frames]
            .iter_mut()
            .step_by(64)
            .for_each(|byte| *byte ^= 1);
        fs::write(&object, bytes)?;
    }
    let (code, said) = world.refused(&["--to", &address("half")]).await?;
    ensure!(code == Some(3), "{code:?}, {said}");
    ensure!(server.blob(CONTAINER, "half").is_none(), "it stays: {said}");
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_wrongly_is_said_with_its_fix() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let world = World::golden("pages-wrong", &server).await?;
    let blob = address("a.vhd");
    let readable = world.site.path("readable.url");
    fs::write(&readable, "https://md-1/c/d?sig=x")?;
    fs::set_permissions(&readable, fs::Permissions::from_mode(0o644))?;
    let nonsense = world.site.path("nonsense.url");
    write_secret(&nonsense, "{\"accessSas\": \"https://md-1/c/d?sig=x\"}")?;
    let (readable, nonsense) = (
        readable.display().to_string(),
        nonsense.display().to_string(),
    );
    let cases: [(&[&str], i32, &str); 9] = [
        (&[], 2, "--to"),
        (&["--to", "https://a/b"], 2, "write az://container/name"),
        (
            &["--to", &blob, "--output", "/nowhere/a"],
            2,
            "cannot be used with",
        ),
        (
            &["--to", &blob, "--overwrite"],
            2,
            "nothing in Azure is overwritten",
        ),
        (&["--to", &blob, "--format", "raw"], 2, "made of a VHD"),
        (
            &["--to", "az://nowhere/a.vhd"],
            2,
            "the container does not exist: create it",
        ),
        (
            &["--to", &blob, "--from-replica", "az://disks/none"],
            2,
            "the target does not exist",
        ),
        (&["--to-sas", &readable], 2, "chmod 600"),
        (&["--to-sas", &nonsense], 2, "nothing but the URL"),
    ];
    for (words, expected, fix) in cases {
        let (code, said) = world.refused(words).await?;
        ensure!(code == Some(expected), "{words:?}: {code:?}, {said}");
        ensure!(said.contains(fix), "{words:?}: {said}");
    }
    // A blob that is no replica says so.
    world.restored("latest", &["--to", &blob]).await?;
    let words = ["--to", &address("b.vhd"), "--from-replica", &blob];
    let (code, said) = world.refused(&words).await?;
    ensure!(code == Some(5), "{code:?}, {said}");
    ensure!(said.contains("does not say what it holds"), "{said}");
    ensure!(server.blob(CONTAINER, "b.vhd").is_none());
    server
        .faults()
        .change(|plan| plan.expired_credential = true);
    let (code, said) = world.refused(&["--to", &address("c.vhd")]).await?;
    ensure!(code == Some(4), "{code:?}, {said}");
    ensure!(
        said.contains("the service refuses the credential"),
        "{said}"
    );
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_makes_the_same_of_it() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let world = World::lived("pages-azurite", &server).await?;
    let azurite = Azurite::start(&world.site.path("")).await?;
    azurite.container(CONTAINER).await?;
    let mut world = world.on(&azurite)?;
    world
        .restored("latest", &["--to", &address("newest.vhd")])
        .await?;
    world.expect_vhd("newest.vhd", "latest").await?;
    world.replica("replica", |count| count - 1).await?;
    let words = [
        "--to",
        &address("middle.vhd"),
        "--from-replica",
        &address("replica"),
    ];
    world.restored("middle", &words).await?;
    world.expect_vhd("middle.vhd", "middle").await?;

    let query = async |permissions, time| {
        let sas = azurite.sas(CONTAINER, permissions, time).await?;
        let AzureCredential::SASToken(pairs) = sas else {
            anyhow::bail!("it is no SAS");
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        Ok(query.extend_pairs(pairs).finish())
    };
    let sas = query(NEEDED, LONG).await?;
    let (_, file) = managed_disk(&world, azurite.endpoint(), "abcd", &sas, VHD_LEN).await?;
    world.restored("middle", &["--to-sas", &file]).await?;
    world.expect_vhd("abcd", "middle").await?;
    let ended = query(NEEDED, Duration::ZERO).await?;
    let (_, file) = managed_disk(&world, azurite.endpoint(), "late", &ended, VHD_LEN).await?;
    let (code, said) = world.refused(&["--to-sas", &file]).await?;
    ensure!(code == Some(4), "{code:?}, {said}");
    ensure!(
        said.contains("the end and the permissions of its SAS"),
        "{said}"
    );
    world.site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_s_refusals_are_said_with_their_fix() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let world = World::golden("pages-refused", &server).await?;
    let azurite = Azurite::start(&world.site.path("")).await?;
    azurite.container(CONTAINER).await?;
    let mut world = world.on(&azurite)?;
    let (code, said) = world.refused(&["--to", "az://nowhere/a.vhd"]).await?;
    ensure!(code == Some(2), "{code:?}, {said}");
    ensure!(
        said.contains("the container does not exist: create it"),
        "{said}"
    );
    let wrong_key = azurite.place(CONTAINER, "access_key_file", "wrong.key", "d3Jvbmc=")?;
    let ended = azurite.with_sas(CONTAINER, NEEDED, Duration::ZERO).await?;
    for (what, place) in [("a wrong key", wrong_key), ("an ended SAS", ended)] {
        world.vault.store = place.store;
        let (code, said) = world.refused(&["--to", &address("a.vhd")]).await?;
        ensure!(code == Some(4), "{what}: {code:?}, {said}");
        ensure!(
            said.contains("the service refuses the credential"),
            "{what}: {said}"
        );
    }
    world.site.passed();
    Ok(())
}
