//! Does the replica keep up with 200 MB of mixed change a second, beside ingest, over TLS, on the same two cores?
//!
//! Sketch: a byte that is protected costs its guest, its agent and the server's ingest about 3.4 s of processor a GB;
//! apply unpacks it once more, stages it, and puts it over TLS, and here the page-blob server that takes it (the
//! tests' own, which also checks each put's CRC-64) runs on the same cores. 200 MB/s of all that fit on two.
//!
//! | measured | against |
//! |---|---|
//! | puts of the page-blob client: authorised, with their CRC-64 | the same bodies by the bare HTTP client |
//! | how late changes are applied | the load's own time: it keeps up where that does not grow |
//! | the load, and the server's processor time for a GB | the same without a replica |
//!
//! Each pair in turn in one run. In the end the blob is the source. Disk, log and vault lie in memory, so that the
//! machine's one device is not what is measured; what waits for its requests lies where the product puts it.
//!
//! `cargo xtask bench apply -- [--runs N] [--seconds N] [--mb N]`

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use everpoint_benches::flags::{is_brief, number};
use everpoint_benches::usage::{cpu, memory_max};
use everpoint_replica::{AzureAccount, AzurePages, Fence, PageTarget as _, Pages, PagesConfig};
use everpoint_tests::rigs::clouds::write_secret;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::page_blobs::{PageBlobServer, PageBlobSpec};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::{control, wait};
use everpoint_units::{ByteOffset, Level};
use everpoint_wire::control::ReplicaDay;
use futures::StreamExt as _;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use object_store::azure::{AzureAccessKey, AzureCredential};
use object_store::client::{
    Certificate, HttpClient, HttpConnector as _, ReqwestConnector, StaticCredentialProvider,
};
use object_store::{ClientOptions, PutPayload};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio_rustls::TlsAcceptor;

const CONTAINER: &str = "disks";
/// Any key: the tests' server looks at no signature. Base64.
const KEY: &str = "a2V5";
/// Of one put. Unit: bytes.
const PUT_LEN: usize = 4 << 20;
/// Puts under way at once, as the product has them by default.
const IN_FLIGHT: usize = 8;
/// One disk stands for four of `mixed`, and its blob for theirs. Unit: bytes.
const DISK_LEN: u64 = 4 * (8 << 30);
/// Of four blobs. Source: Azure, "Scalability and performance targets for Blob storage". Unit: requests, and bytes, a
/// second.
const REQUESTS_PER_S: u64 = 4 * 500;
const BYTES_PER_S: u64 = 4 * (60 << 20);
/// Of four disks, at the product's default. Unit: bytes.
const WINDOW_LEN_MAX: u64 = 4 * (512 << 20);
/// How often it is looked how far the replica is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const STEP_TIME_MAX: Duration = Duration::from_secs(300);

/// The tests' server over TLS, and who vouches for it.
struct Blobs {
    server: PageBlobServer,
    authority: String,
}

/// How a load passed.
struct Passed {
    /// Unit: MB a second.
    rate: f64,
    /// Seconds of processor a GB.
    server: f64,
    agent: f64,
    /// How long the oldest write had waited to be applied: the most in each third of the load. Empty: no replica.
    lags: Vec<Duration>,
    /// What the target was asked for.
    asked: ReplicaDay,
    /// From the end of the load until all was applied.
    drained: Duration,
    memory: u64,
}

fn main() -> Result<()> {
    let brief = is_brief();
    let runs = number("--runs", if brief { 1 } else { 3 });
    let seconds = number("--seconds", if brief { 2 } else { 90 });
    let rate = number("--mb", if brief { 20 } else { 200 }) as u64 * 1_000_000;
    let runtime = Runtime::new()?;
    let sink = Sink::start()?;
    runtime.block_on(async {
        let puts = if brief { 8 } else { 1_000 };
        for _ in 0..runs {
            compare_clients(&sink, puts).await?;
        }
        let time = Duration::from_secs(seconds as u64);
        for _ in 0..runs {
            let without = protect(rate, time, false).await?;
            let with = protect(rate, time, true).await?;
            tell("without a replica", &without);
            tell("with a replica", &with);
        }
        Ok(())
    })
}

fn tell(name: &str, passed: &Passed) {
    let applied = if passed.lags.is_empty() {
        String::new()
    } else {
        let drained = passed.drained.as_secs_f64();
        let ReplicaDay {
            writes,
            reads,
            bytes_in,
            bytes_out,
            ..
        } = passed.asked;
        format!(
            "; applied {:.0?} late at most in each third, all of it {drained:.1} s after the end, by {writes} writes \
             of {} MB and {reads} reads of {}",
            passed.lags,
            bytes_in / 1_000_000,
            bytes_out / 1_000_000
        )
    };
    println!(
        "{name}: {:.0} MB/s, CPU s/GB server {:.2}, agent {:.2}, server's memory {} MiB{applied}",
        passed.rate,
        passed.server,
        passed.agent,
        passed.memory >> 20
    );
}

// -- the client -------------------------------------------------------------------------------------

/// Takes whatever is put, over TLS, and forgets it: it costs little beside the client.
struct Sink {
    endpoint: String,
    authority: String,
    _runtime: Runtime,
}

impl Sink {
    fn start() -> Result<Self> {
        let (tls, authority) = tls()?;
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let endpoint = format!("https://{}/everpoint", listener.local_addr()?);
        let tls = TlsAcceptor::from(Arc::new(tls));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let http = http1::Builder::new();
                    // It ends when the client goes.
                    let _ = http
                        .serve_connection(TokioIo::new(stream), service_fn(take))
                        .await;
                });
            }
        });
        Ok(Self {
            endpoint,
            authority,
            _runtime: runtime,
        })
    }
}

async fn take(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let created = Response::builder().status(StatusCode::CREATED);
    Ok(created.body(Empty::new()).expect("an answer"))
}

/// Puts the same bodies by the product's client and by the HTTP client that it stands on.
async fn compare_clients(sink: &Sink, puts: usize) -> Result<()> {
    let account = account(&sink.endpoint, &sink.authority)?;
    let pages = account.pages(CONTAINER, "own");
    let url = format!("{}/{CONTAINER}/own", sink.endpoint);
    let bare = bare(&sink.authority)?;
    let fence = Fence::first_of(Level(1)).context("a fence")?;
    let body: Vec<u8> = (0..=250).cycle().take(PUT_LEN).collect();
    let body = Bytes::from(body);
    // Connections first.
    put_own(&pages, &body, fence, IN_FLIGHT).await?;
    put_bare(&bare, &url, &body, fence, IN_FLIGHT).await?;
    let own = put_own(&pages, &body, fence, puts).await?;
    let alone = put_bare(&bare, &url, &body, fence, puts).await?;
    println!(
        "client: {own:.2} GB/s, the HTTP client alone {alone:.2}: {:.2}",
        own / alone
    );
    Ok(())
}

async fn put_own(pages: &AzurePages, body: &Bytes, fence: Fence, puts: usize) -> Result<f64> {
    let began = Instant::now();
    let mut done = stream::iter(0..puts)
        .map(|index| {
            let at = ByteOffset((index % IN_FLIGHT * PUT_LEN) as u64);
            let body = Pages::from(body.clone());
            async move { pages.put(at, &body, fence).await }
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some(done) = done.next().await {
        done?;
    }
    Ok(rate_of(puts, began))
}

async fn put_bare(
    client: &HttpClient,
    url: &str,
    body: &Bytes,
    fence: Fence,
    puts: usize,
) -> Result<f64> {
    let began = Instant::now();
    let mut done = stream::iter(0..puts)
        .map(|index| async move {
            let at = index % IN_FLIGHT * PUT_LEN;
            let request = Request::builder()
                .method(Method::PUT)
                .uri(format!("{url}?comp=page&sig=any"))
                .header("x-ms-version", "2023-11-03")
                .header("x-ms-page-write", "update")
                .header("x-ms-range", format!("bytes={at}-{}", at + PUT_LEN - 1))
                .header("x-ms-if-sequence-number-eq", fence.number())
                .header("content-length", PUT_LEN)
                .body(PutPayload::from(body.clone()).into())?;
            let response = client.execute(request).await?;
            ensure!(response.status().is_success(), "{}", response.status());
            response.into_body().bytes().await?;
            Ok(())
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some(done) = done.next().await {
        done?;
    }
    Ok(rate_of(puts, began))
}

/// Unit: GB a second.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn rate_of(puts: usize, began: Instant) -> f64 {
    (puts * PUT_LEN) as f64 / 1e9 / began.elapsed().as_secs_f64()
}

/// A certificate of nobody's, and itself as who vouches for it, in PEM.
fn tls() -> Result<(ServerConfig, String)> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let secret = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], secret)?;
    Ok((tls, made.cert.pem()))
}

fn account(endpoint: &str, authority: &str) -> Result<AzureAccount> {
    let config = PagesConfig {
        ca_pem: Some(authority.as_bytes().to_vec()),
        ..PagesConfig::default()
    };
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY)?);
    let credentials = Arc::new(StaticCredentialProvider::new(key));
    let account = AzureAccount::new("everpoint", endpoint, credentials, config)?;
    Ok(account)
}

fn bare(authority: &str) -> Result<HttpClient> {
    let mut options = ClientOptions::new().with_timeout_disabled();
    for authority in Certificate::from_pem_bundle(authority.as_bytes())? {
        options = options.with_root_certificate(authority);
    }
    Ok(ReqwestConnector::default().connect(&options)?)
}

impl Blobs {
    fn start() -> Result<Self> {
        let (tls, authority) = tls()?;
        let server = PageBlobServer::start(PageBlobSpec {
            tls: Some(Arc::new(tls)),
            ..PageBlobSpec::default()
        })?;
        Ok(Self { server, authority })
    }

    /// Of a server's configuration.
    fn settings(&self, site: &Site) -> Result<String> {
        let (key, authority) = (site.path("account.key"), site.path("blobs.pem"));
        write_secret(&key, KEY)?;
        std::fs::write(&authority, &self.authority)?;
        let mut text = format!("[process.replica]\nurl = \"az://{CONTAINER}/site\"\n");
        writeln!(
            text,
            "requests_per_s = {REQUESTS_PER_S}\nbytes_per_s = {BYTES_PER_S}"
        )?;
        writeln!(text, "window_bytes_max = {WINDOW_LEN_MAX}")?;
        writeln!(text, "[process.replica.azure]\naccount = \"everpoint\"")?;
        writeln!(text, "endpoint = {:?}", self.server.endpoint())?;
        writeln!(text, "access_key_file = {:?}", key.display().to_string())?;
        writeln!(text, "ca_file = {:?}", authority.display().to_string())?;
        Ok(text)
    }
}

// -- the whole --------------------------------------------------------------------------------------

async fn protect(rate: u64, time: Duration, has_replica: bool) -> Result<Passed> {
    let site = Site::on("bench-apply", Home::Directory).await?;
    let blobs = has_replica.then(Blobs::start).transpose()?;
    let spec = ServerSpec {
        log_quota: 2 << 30,
        log_file_len: 256 << 20,
        log_dir: Some(site.image("log")),
        more: match &blobs {
            Some(blobs) => blobs.settings(&site)?,
            None => String::new(),
        },
        ..ServerSpec::new("server", site.image("vault"))
    };
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let protected = AgentSpec {
        queue_max: 1 << 30,
        ..AgentSpec::new(source.clone())
    };
    let (mut server, mut agent) = site.protect(spec, protected).await?;
    let ids = (server.node.id()?, agent.node.id()?);
    let used = (cpu(ids.0), cpu(ids.1));
    let before = agent.disk().await?.resync_count;
    let began = Instant::now();
    let mut load = Load::start(&agent.address, LoadSpec::mixed(1, Some(rate))).await?;
    let mut lags = Lags::default();
    while began.elapsed() < time {
        load.run_for(LOOK_EVERY.min(time)).await?;
        if has_replica {
            lags.look(began.elapsed(), &server, &agent).await?;
        }
    }
    let done = load.finish().await?;
    let took = began.elapsed().as_secs_f64();
    let ended = Instant::now();
    let resyncs = agent.disk().await?.resync_count;
    ensure!(resyncs == before, "write order was given up");
    let asked = until_applied(&server, &agent, has_replica).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let written = done.bytes_written as f64;
    let passed = Passed {
        rate: written / 1e6 / took,
        server: (cpu(ids.0) - used.0).as_secs_f64() / written * 1e9,
        agent: (cpu(ids.1) - used.1).as_secs_f64() / written * 1e9,
        lags: lags.thirds(),
        asked,
        drained: ended.elapsed(),
        memory: memory_max(ids.0),
    };
    if let Some(blobs) = &blobs {
        expect_source(blobs, &agent, &source)?;
    }
    agent.node.stop().await?;
    server.node.stop().await?;
    site.passed();
    Ok(passed)
}

/// How far the replica is behind the disk, second by second.
#[derive(Default)]
struct Lags {
    /// When, and the disk's newest write then.
    seen: VecDeque<(Duration, u64)>,
    lags: Vec<Duration>,
}

impl Lags {
    async fn look(&mut self, now: Duration, server: &Server, agent: &Agent) -> Result<()> {
        self.seen.push_back((now, agent.status().await?.seq));
        let status = server.status().await?;
        let disk = control::disk_of(&status, &agent.disk.0).context("it serves the disk")?;
        let replica = disk.replica.as_ref().context("it has a replica")?;
        let applied = replica.applied_through;
        while self.seen.front().is_some_and(|(_, seq)| *seq <= applied) {
            self.seen.pop_front();
        }
        let oldest = self.seen.front().map_or(now, |(at, _)| *at);
        self.lags.push(now - oldest);
        Ok(())
    }

    fn thirds(&self) -> Vec<Duration> {
        let len = self.lags.len().div_ceil(3).max(1);
        let most = |third: &[Duration]| third.iter().max().copied().unwrap_or_default();
        self.lags.chunks(len).map(most).collect()
    }
}

/// What its target was asked for then.
async fn until_applied(server: &Server, agent: &Agent, has_replica: bool) -> Result<ReplicaDay> {
    let seq = agent.until_settled(server, STEP_TIME_MAX).await?;
    if !has_replica {
        return Ok(ReplicaDay::default());
    }
    wait::until("the replica has it all", STEP_TIME_MAX, async || {
        let status = server.status().await?;
        let disk = control::disk_of(&status, &agent.disk.0).context("it serves the disk")?;
        let replica = disk.replica.as_ref().context("it has a replica")?;
        let is_all = replica.level && seq <= replica.applied_through;
        Ok(is_all.then(|| replica.days.last().cloned().unwrap_or_default()))
    })
    .await
}

/// The blob, as far as the disk goes, is the source.
fn expect_source(blobs: &Blobs, agent: &Agent, source: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let name = format!("site/{}.vhd", agent.disk);
    let blob = blobs.server.blob(CONTAINER, &name).context("no blob")?;
    let file = std::fs::File::open(source)?;
    let mut piece = vec![0; PUT_LEN];
    for at in (0..DISK_LEN).step_by(PUT_LEN) {
        file.read_exact_at(&mut piece, at)?;
        ensure!(
            blob.read(at, PUT_LEN as u64) == piece,
            "it differs within {at}"
        );
    }
    Ok(())
}
