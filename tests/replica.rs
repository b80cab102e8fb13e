//! Page blobs as targets of replicas: on the tests' own server, which behaves like Azure, and on Azurite, which
//! checks what goes over the wire.
//!
//! What Azurite does not do (differences between snapshots, writes past the end, storms) the own server does; what
//! that one does not check (signatures) Azurite does. The own one's blobs are read back without the client.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_replica::{
    AzureAccount, AzurePages, CopyState, Fence, PageError, PageTarget as _, Pages, PagesConfig,
    Refusal, Remedy, contract,
};
use everpoint_tests::rigs::clouds::{Azurite, LONG};
use everpoint_tests::rigs::page_blobs::{FaultPlan, Late, PageBlobServer, PageBlobSpec, Throttle};
use everpoint_units::{ByteLen, ByteOffset, Level};
use object_store::azure::{AzureAccessKey, AzureCredential};
use object_store::client::StaticCredentialProvider;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

const LEN: ByteLen = ByteLen((8 << 20) + 512);
const AT: ByteOffset = ByteOffset(4_096);
const CONTAINER: &str = "disks";
/// Permissions of a container's SAS that a replica needs, as Azure writes them.
const NEEDED: &str = "rcwd";

/// Whose writes the tests' blobs take.
fn fence() -> Fence {
    Fence::first_of(Level(7)).expect("a low level")
}

fn key() -> Result<AzureCredential> {
    Ok(AzureCredential::AccessKey(AzureAccessKey::try_new("a2V5")?))
}

fn account(
    endpoint: &str,
    credential: AzureCredential,
    config: PagesConfig,
) -> Result<AzureAccount> {
    let credentials = Arc::new(StaticCredentialProvider::new(credential));
    Ok(AzureAccount::new(
        "everpoint",
        endpoint,
        credentials,
        config,
    )?)
}

fn served(server: &PageBlobServer) -> Result<AzureAccount> {
    account(server.endpoint(), key()?, PagesConfig::default())
}

async fn created(server: &PageBlobServer) -> Result<AzurePages> {
    let pages = served(server)?.pages(CONTAINER, "disk.vhd");
    pages.create(LEN, fence()).await?;
    Ok(pages)
}

fn filled(byte: u8) -> Pages {
    Bytes::from(vec![byte; 4_096]).into()
}

fn first_byte(server: &PageBlobServer) -> Result<u8> {
    let blob = server.blob(CONTAINER, "disk.vhd").context("no blob")?;
    Ok(blob.read(AT.0, 512)[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_blobs_keep_the_contract() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let account = served(&server)?;
    contract::check(&account.pages(CONTAINER, "contract/disk.vhd")).await;
    contract::check_snapshots(&account.pages(CONTAINER, "snapshots")).await;
    contract::check_differences(&account.pages(CONTAINER, "differences")).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_they_keep_it_too() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let secret = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], secret)?;
    let server = PageBlobServer::start(PageBlobSpec {
        tls: Some(Arc::new(tls)),
        ..PageBlobSpec::default()
    })?;
    let config = PagesConfig {
        ca_pem: Some(made.cert.pem().into_bytes()),
        ..PagesConfig::default()
    };
    let trusting = account(server.endpoint(), key()?, config)?;
    contract::check(&trusting.pages(CONTAINER, "disk.vhd")).await;
    let doubting = served(&server)?.pages(CONTAINER, "disk.vhd");
    let refused = doubting.properties().await;
    let unreachable = matches!(refused, Err(PageError::Unreachable { .. }));
    ensure!(unreachable, "a certificate of nobody's: {refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_takes_what_is_signed_with_a_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let azurite = Azurite::start(dir.path()).await?;
    azurite.container(CONTAINER).await?;
    let account = account(azurite.endpoint(), azurite.key()?, PagesConfig::default())?;
    contract::check(&account.pages(CONTAINER, "contract/disk.vhd")).await;
    contract::check_snapshots(&account.pages(CONTAINER, "snapshots")).await;
    let copied = account.pages(CONTAINER, "snapshots");
    let snapshot = copied.snapshot().await?;
    let copy = account.pages(CONTAINER, "copy");
    copy.begin_copy(&copied, &snapshot).await?;
    let is = copy.properties().await?.context("it was made")?;
    ensure!(is.copy == CopyState::Done, "{is:?}");
    ensure!(copy.ranges(None).await? == copied.ranges(None).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_takes_what_a_sas_permits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let azurite = Azurite::start(dir.path()).await?;
    azurite.container(CONTAINER).await?;
    let sas = azurite.sas(CONTAINER, NEEDED, LONG).await?;
    let by_sas = account(azurite.endpoint(), sas, PagesConfig::default())?;
    contract::check(&by_sas.pages(CONTAINER, "disk.vhd")).await;

    let ended = azurite.sas(CONTAINER, NEEDED, Duration::ZERO).await?;
    let no_write = azurite.sas(CONTAINER, "r", LONG).await?;
    for (what, sas) in [("ended", ended), ("read alone", no_write)] {
        let pages = account(azurite.endpoint(), sas, PagesConfig::default())?;
        let pages = pages.pages(CONTAINER, "disk.vhd");
        let refused = pages.put(AT, &filled(1), fence()).await;
        let credential = matches!(refused, Err(PageError::Refused(Refusal::Credential { .. })));
        ensure!(credential, "{what}: {refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_snapshot_is_made_by_the_service() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let source = created(&server).await?;
    source.put(AT, &filled(1), fence()).await?;
    let snapshot = source.snapshot().await?;
    source.put(AT, &filled(2), fence()).await?;
    let sent = server.counts().all().bytes_in;
    let copy = served(&server)?.pages(CONTAINER, "copy.vhd");
    copy.begin_copy(&source, &snapshot).await?;
    let is = copy.properties().await?.context("it was made")?;
    ensure!(is.copy == CopyState::Done && is.len == LEN, "{is:?}");
    let read = copy.read(AT, ByteLen(512), None).await?;
    ensure!(read[..] == [1; 512], "it is as the snapshot was");
    ensure!(
        server.counts().all().bytes_in == sent,
        "no byte passed here"
    );
    let again = copy.begin_copy(&source, &snapshot).await;
    let exists = matches!(again, Err(PageError::Refused(Refusal::Exists)));
    ensure!(exists, "{again:?}");
    Ok(())
}

/// Each mishap, and what the client says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mishap_has_the_remedy_that_fits() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let pages = created(&server).await?;
    let once = |change: fn(&mut FaultPlan)| {
        let mut plan = FaultPlan::default();
        change(&mut plan);
        plan
    };
    let cases: [(&str, FaultPlan, Remedy, u8); 7] = [
        (
            "500",
            once(|plan| plan.error_500 = 1.0),
            Remedy::RaiseFence,
            0,
        ),
        (
            "500, executed",
            once(|plan| plan.error_500_executed = 1.0),
            Remedy::RaiseFence,
            1,
        ),
        (
            "lost request",
            once(|plan| plan.lost_request = 1.0),
            Remedy::RaiseFence,
            0,
        ),
        (
            "lost answer",
            once(|plan| plan.lost_answer = 1.0),
            Remedy::RaiseFence,
            1,
        ),
        (
            "ended credential",
            once(|plan| plan.expired_credential = true),
            Remedy::Report,
            0,
        ),
        (
            "no permission",
            once(|plan| plan.no_permission = true),
            Remedy::Report,
            0,
        ),
        ("policy", once(|plan| plan.worm = true), Remedy::Report, 0),
    ];
    for (what, plan, remedy, left) in cases {
        server.faults().none();
        pages.put(AT, &filled(0), fence()).await?;
        server.faults().set(plan);
        let error = pages.put(AT, &filled(1), fence()).await;
        let error = error.err().with_context(|| format!("{what}: it is put"))?;
        ensure!(error.remedy() == remedy, "{what}: {error:?}");
        ensure!(first_byte(&server)? == left, "{what}");
    }
    server.faults().set(once(|plan| plan.error_503 = 1.0));
    let busy = pages.put(AT, &filled(1), fence()).await;
    ensure!(matches!(busy, Err(PageError::Busy { .. })), "{busy:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_its_rate_a_blob_says_when_to_come_again() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let pages = created(&server).await?;
    server.faults().change(|plan| {
        plan.throttle = Some(Throttle {
            requests_per_s: 1.0,
            bytes_per_s: 1e9,
        });
    });
    let mut busy = None;
    for _ in 0..10 {
        if let Err(error) = pages.put(AT, &filled(1), fence()).await {
            busy = Some(error.remedy());
            break;
        }
    }
    let Some(Remedy::Again { after: Some(after) }) = busy else {
        anyhow::bail!("{busy:?}");
    };
    ensure!(Duration::from_secs(1) <= after, "{after:?}");
    Ok(())
}

/// The reason for the fence: without it, a put that nobody waits for any more lands over newer bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_put_lands_unless_the_fence_was_raised() -> Result<()> {
    for raises in [false, true] {
        let server = PageBlobServer::start(PageBlobSpec::default())?;
        let pages = created(&server).await?;
        let day = Duration::from_secs(86_400);
        server.faults().change(|plan| {
            plan.late = Some(Late {
                p: 1.0,
                after: day..day * 2,
            });
        });
        let lost = pages.put(AT, &filled(1), fence()).await;
        let remedy = lost.err().context("no answer comes")?.remedy();
        ensure!(remedy == Remedy::RaiseFence);
        server.faults().none();
        let mut fence = fence();
        if raises {
            fence = fence.next().context("the second")?;
            ensure!(pages.raise(fence).await? == fence);
        }
        pages.put(AT, &filled(2), fence).await?;
        ensure!(server.late_writes() == 1);
        server.land_late_writes();
        server.settled().await;
        ensure!(first_byte(&server)? == if raises { 2 } else { 1 });
    }
    Ok(())
}

/// No answer in time: a stopped server takes the connection and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_says_nothing_is_not_waited_for_for_ever() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    created(&server).await?;
    server
        .faults()
        .change(|plan| plan.slow = Some(Duration::from_secs(86_400)));
    let config = PagesConfig {
        answer_ms_max: 200,
        ..PagesConfig::default()
    };
    let pages = account(server.endpoint(), key()?, config)?.pages(CONTAINER, "disk.vhd");
    let silent = pages.put(AT, &filled(1), fence()).await;
    let error = silent.err().context("nothing is answered")?;
    ensure!(error.remedy() == Remedy::RaiseFence, "{error:?}");
    ensure!(first_byte(&server)? == 1, "it was carried out all the same");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_is_named() -> Result<()> {
    let server = PageBlobServer::start(PageBlobSpec::default())?;
    let pages = created(&server).await?;
    let elsewhere = served(&server)?.pages("nowhere", "disk.vhd");
    let missing = elsewhere.properties().await;
    let no_container = matches!(missing, Err(PageError::Refused(Refusal::NoContainer)));
    ensure!(no_container, "{missing:?}");
    let made = elsewhere.create(LEN, fence()).await;
    let no_container = matches!(made, Err(PageError::Refused(Refusal::NoContainer)));
    ensure!(no_container, "{made:?}");

    let end = ByteOffset(LEN.0 - 512);
    let fresh = served(&server)?.pages(CONTAINER, "disk.vhd");
    let beyond = fresh.put(end, &filled(1), fence()).await;
    let len = ByteLen(4_096);
    let too_small = Refusal::TooSmall { at: end, len };
    ensure!(
        matches!(&beyond, Err(PageError::Refused(refusal)) if *refusal == too_small),
        "{beyond:?}"
    );

    server
        .other_holder_leases(CONTAINER, "disk.vhd")
        .map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
    let held = pages.put(AT, &filled(1), fence()).await;
    let held = matches!(held, Err(PageError::Refused(Refusal::LeaseHeld)));
    ensure!(held, "a lease of somebody else's");

    let gone = PageBlobServer::start(PageBlobSpec::default())?;
    let nobody = served(&gone)?.pages(CONTAINER, "disk.vhd");
    drop(gone);
    let unreachable = nobody.put(AT, &filled(1), fence()).await;
    let unsent = matches!(unreachable, Err(PageError::Unreachable { .. }));
    ensure!(unsent, "{unreachable:?}");
    Ok(())
}
