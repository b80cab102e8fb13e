//! A page blob as a target: a thin client, one request for each method, nothing repeated.
//!
//! Credentials and HTTP are `object_store`'s, which knows no page blobs; requests and answers are here. Source:
//! Azure REST reference, "Operations on page blobs" and their neighbours, version 2023-11-03.
//!
//! The service checks the CRC-64 of each put. What it does not tell apart is told apart here: a write past the end,
//! because the emulators take it.

mod answer;
mod ranges;
mod request;
mod sas;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use http::{Method, StatusCode};
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{Certificate, HttpClient, HttpConnector as _, ReqwestConnector};
use object_store::{ClientOptions, PutPayload};
use tokio::time::timeout;

use crate::address::BlobAddress;
use crate::error::{Cause, PageError, Refusal};
use crate::fence::Fence;
use crate::target::{
    CLEAR_LEN_MAX, LeaseId, PUT_LEN_MAX, PageRange, PageTarget, Pages, Properties, SnapshotId,
    TARGET_LEN_MAX, expect_pages,
};

use answer::Answer;
use request::Request;

pub use sas::SasUrlError;

/// Longest wait for a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept. Azure closes them after some minutes.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// The length of a blob is not known yet.
const LEN_UNKNOWN: u64 = u64::MAX;

/// A storage account, and the connections to it. Clones share them.
#[derive(Clone)]
pub struct AzureAccount {
    name: String,
    endpoint: String,
    credentials: AzureCredentialProvider,
    http: HttpClient,
    config: PagesConfig,
}

/// How requests for pages are made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PagesConfig {
    /// Longest wait for an answer, after which its outcome is unknown. Source of the default: the service itself
    /// gives up after 30 s. Unit: milliseconds.
    pub answer_ms_max: u64,
    /// The slowest link that a put has to pass: its bytes at this rate are added to the wait. Unit: bytes a second.
    pub slow_link_bytes_per_s: u64,
    /// Connections that are kept while nobody uses them.
    pub idle_connections_max: usize,
    /// Authorities that are trusted beside the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
}

/// A page blob. Clones are the same one.
#[derive(Clone)]
pub struct AzurePages {
    account: AzureAccount,
    container: String,
    name: String,
    /// Its length as it was seen last.
    len: Arc<AtomicU64>,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self {
            answer_ms_max: 45_000,
            slow_link_bytes_per_s: 256 << 10,
            idle_connections_max: 32,
            ca_pem: None,
        }
    }
}

impl AzureAccount {
    /// The account `name` at `endpoint` (`https://ACCOUNT.blob.core.windows.net`, or an emulator's
    /// `http://HOST:PORT/ACCOUNT`).
    ///
    /// # Errors
    ///
    /// What the client refuses of the settings: an endpoint that is no URL, an authority that is no certificate.
    pub fn new(
        name: impl Into<String>,
        endpoint: impl Into<String>,
        credentials: AzureCredentialProvider,
        config: PagesConfig,
    ) -> Result<Self, object_store::Error> {
        let endpoint = endpoint.into().trim_end_matches('/').to_owned();
        request::expect_url(&endpoint).map_err(|refusal| object_store::Error::Generic {
            store: "MicrosoftAzure",
            source: refusal.into(),
        })?;
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_pool_idle_timeout(IDLE_TIME_MAX)
            .with_pool_max_idle_per_host(config.idle_connections_max)
            .with_allow_http(endpoint.starts_with("http://"));
        if let Some(pem) = &config.ca_pem {
            for authority in Certificate::from_pem_bundle(pem)? {
                options = options.with_root_certificate(authority);
            }
        }
        let http = ReqwestConnector::default().connect(&options)?;
        Ok(Self {
            name: name.into(),
            endpoint,
            credentials,
            http,
            config,
        })
    }

    /// A blob of a container, whether it exists or not. Names that give no URL are refused with every request
    /// ([`Refusal::NoUrl`]); those of a [`BlobAddress`] always give one.
    #[must_use]
    pub fn pages(&self, container: impl Into<String>, name: impl Into<String>) -> AzurePages {
        AzurePages {
            account: self.clone(),
            container: container.into(),
            name: name.into(),
            len: Arc::new(AtomicU64::new(LEN_UNKNOWN)),
        }
    }

    /// The blob of an address, whether it exists or not.
    #[must_use]
    pub fn pages_at(&self, address: &BlobAddress) -> AzurePages {
        self.pages(address.container(), address.name())
    }

    /// Sends one request, and waits for all of its answer.
    async fn send(&self, mut request: Request) -> Result<Answer, PageError> {
        let moves = request.moves();
        let asked = request.asked();
        let credential = self.credentials.get_credential().await;
        // Without a credential nothing was sent; tokens may be had again in a moment.
        let credential = credential.map_err(answer::no_credential)?;
        request.add_copy_credential(&credential);
        let mut request = request.into_http();
        AzureAuthorizer::new(&credential, &self.name)
            .try_authorize(&mut request)
            .map_err(answer::no_credential)?;
        let exchange = async {
            let response = self.http.execute(request).await;
            let (head, body) = response.map_err(answer::no_answer)?.into_parts();
            let body = body.bytes().await.map_err(answer::no_answer)?;
            Ok::<_, PageError>(Answer::new(head, body))
        };
        let after = self.config.time_of(moves);
        match timeout(after, exchange).await {
            Ok(answer) => answer?.unless_failed(asked),
            Err(_) => Err(Cause::TimedOut { after }.into()),
        }
    }
}

impl PagesConfig {
    /// How long a request that moves so many bytes may take.
    fn time_of(&self, moves: u64) -> Duration {
        let moving = moves.saturating_mul(1_000) / self.slow_link_bytes_per_s.max(1);
        Duration::from_millis(self.answer_ms_max.saturating_add(moving))
    }
}

impl AzurePages {
    /// The container that it lies in.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// Its name in the container.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins to make this one, which must not exist, a copy of a snapshot of another blob of the account; the
    /// service does the work. How far it is say the properties.
    ///
    /// # Errors
    ///
    /// See [`PageError`].
    pub async fn begin_copy(&self, of: &Self, snapshot: &SnapshotId) -> Result<(), PageError> {
        let mut request = self.request(Method::PUT)?;
        request.copy_source(of.url(), &snapshot.0)?;
        request.header("if-none-match", "*");
        self.account.send(request).await?;
        self.len.store(LEN_UNKNOWN, Ordering::Relaxed);
        Ok(())
    }

    /// Removes it, with its snapshots.
    ///
    /// # Errors
    ///
    /// See [`PageError`].
    pub async fn remove(&self) -> Result<(), PageError> {
        let mut request = self.request(Method::DELETE)?;
        request.header("x-ms-delete-snapshots", "include");
        self.account.send(request).await.map(|_| ())
    }

    fn url(&self) -> String {
        format!("{}/{}/{}", self.account.endpoint, self.container, self.name)
    }

    fn request(&self, method: Method) -> Result<Request, Refusal> {
        Request::new(method, self.url())
    }

    fn page_request(
        &self,
        action: &'static str,
        at: ByteOffset,
        len: ByteLen,
        fence: Fence,
    ) -> Result<Request, PageError> {
        let known = self.len.load(Ordering::Relaxed);
        let end = at.0.checked_add(len.0);
        if known != LEN_UNKNOWN && end.is_none_or(|end| known < end) {
            return Err(Refusal::TooSmall { at, len }.into());
        }
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "page");
        request.header("x-ms-page-write", action);
        request.range(at, len);
        request.under(fence);
        Ok(request)
    }

    async fn page_list(&self, mut request: Request) -> Result<Vec<PageRange>, PageError> {
        request.query("comp", "pagelist");
        let mut found = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let mut page = request.clone();
            if let Some(marker) = marker.take() {
                page.query("marker", &marker);
            }
            let answer = self.account.send(page).await?;
            let page = ranges::parse(&answer.body).ok_or(Cause::Answer {
                what: "the list of page ranges",
            })?;
            found.extend(page.ranges);
            match page.next {
                Some(next) => marker = Some(next),
                None => break,
            }
        }
        found.sort_unstable_by_key(|range| range.at);
        Ok(found)
    }
}

#[async_trait]
impl PageTarget for AzurePages {
    async fn properties(&self) -> Result<Option<Properties>, PageError> {
        let answer = match self.account.send(self.request(Method::HEAD)?).await {
            Ok(answer) => answer,
            Err(PageError::Refused(Refusal::Missing)) => return self.absent().await,
            Err(error) => return Err(error),
        };
        let properties = answer.properties()?;
        self.len.store(properties.len.0, Ordering::Relaxed);
        Ok(Some(properties))
    }

    async fn create(&self, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(ByteOffset(0), len, TARGET_LEN_MAX);
        let mut request = self.request(Method::PUT)?;
        request.header("x-ms-blob-type", "PageBlob");
        request.header("x-ms-blob-content-length", &len.0.to_string());
        request.header("x-ms-blob-sequence-number", &fence.number().to_string());
        request.header("if-none-match", "*");
        self.account.send(request).await?;
        self.len.store(len.0, Ordering::Relaxed);
        Ok(())
    }

    async fn raise(&self, to: Fence) -> Result<Fence, PageError> {
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "properties");
        request.header("x-ms-sequence-number-action", "max");
        request.header("x-ms-blob-sequence-number", &to.number().to_string());
        self.account.send(request).await?.fence()
    }

    async fn put(&self, at: ByteOffset, pages: &Pages, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, pages.len(), PUT_LEN_MAX);
        let mut request = self.page_request("update", at, pages.len(), fence)?;
        request.header("x-ms-content-crc64", &crc64(pages));
        request.body(PutPayload::from_iter(pages.pieces().iter().cloned()));
        self.account.send(request).await.map(|_| ())
    }

    async fn clear(&self, at: ByteOffset, len: ByteLen, fence: Fence) -> Result<(), PageError> {
        expect_pages(at, len, CLEAR_LEN_MAX);
        let request = self.page_request("clear", at, len, fence)?;
        self.account.send(request).await.map(|_| ())
    }

    async fn read(
        &self,
        at: ByteOffset,
        len: ByteLen,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Bytes, PageError> {
        expect_pages(at, len, PUT_LEN_MAX);
        let mut request = self.request(Method::GET)?;
        request.snapshot(snapshot);
        request.range(at, len);
        request.expects(len);
        let answer = self.account.send(request).await?;
        if answer.status == StatusCode::PARTIAL_CONTENT && answer.body.len() as u64 == len.0 {
            return Ok(answer.body);
        }
        Err(Refusal::TooSmall { at, len }.into())
    }

    async fn ranges(&self, snapshot: Option<&SnapshotId>) -> Result<Vec<PageRange>, PageError> {
        let mut request = self.request(Method::GET)?;
        request.snapshot(snapshot);
        self.page_list(request).await
    }

    async fn changed_since(&self, snapshot: &SnapshotId) -> Result<Vec<PageRange>, PageError> {
        let mut request = self.request(Method::GET)?;
        request.query("prevsnapshot", &snapshot.0);
        self.page_list(request).await
    }

    async fn resize(&self, len: ByteLen, lease: Option<LeaseId>) -> Result<(), PageError> {
        expect_pages(ByteOffset(0), len, TARGET_LEN_MAX);
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "properties");
        request.header("x-ms-blob-content-length", &len.0.to_string());
        request.lease(lease);
        self.account.send(request).await?;
        self.len.store(len.0, Ordering::Relaxed);
        Ok(())
    }

    async fn lease(&self, lease: LeaseId, seconds: u32) -> Result<(), PageError> {
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "lease");
        request.header("x-ms-lease-action", "acquire");
        request.header("x-ms-lease-duration", &seconds.to_string());
        request.header("x-ms-proposed-lease-id", &lease.to_string());
        self.account.send(request).await.map(|_| ())
    }

    async fn release(&self, lease: LeaseId) -> Result<(), PageError> {
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "lease");
        request.header("x-ms-lease-action", "release");
        request.lease(Some(lease));
        self.account.send(request).await.map(|_| ())
    }

    async fn snapshot(&self) -> Result<SnapshotId, PageError> {
        let mut request = self.request(Method::PUT)?;
        request.query("comp", "snapshot");
        self.account.send(request).await?.snapshot()
    }

    async fn forget(&self, snapshot: &SnapshotId) -> Result<(), PageError> {
        let mut request = self.request(Method::DELETE)?;
        request.snapshot(Some(snapshot));
        self.account.send(request).await.map(|_| ())
    }
}

impl AzurePages {
    /// A blob that is not there, and a container that is not, are one answer to a HEAD, which has no words.
    async fn absent(&self) -> Result<Option<Properties>, PageError> {
        let mut request = self.request(Method::GET)?;
        request.range(ByteOffset(0), ByteLen(512));
        request.expects(ByteLen(512));
        match self.account.send(request).await {
            Err(PageError::Refused(Refusal::Missing)) => Ok(None),
            Err(error) => Err(error),
            // It was made between the two questions: the next one will see it.
            Ok(_) => Err(PageError::Busy { after: None }),
        }
    }
}

impl fmt::Debug for AzureAccount {
    /// Without the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureAccount")
            .field("name", &self.name)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AzurePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AzurePages").field(&self.url()).finish()
    }
}

/// CRC-64/NVME of the bytes, as the service compares it: base64 of its bytes, lowest first.
fn crc64(pages: &Pages) -> String {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    for piece in pages.pieces() {
        digest.update(piece);
    }
    BASE64_STANDARD.encode(digest.finalize().to_le_bytes())
}
