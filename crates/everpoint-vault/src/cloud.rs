//! Vaults on Azure Blob storage and S3: the client of each, whose credential it shows, and how long it waits.
//!
//! The clients repeat nothing themselves: whether a create may be repeated, and what its answer means, is
//! decided in one place for every store.

mod azure;
mod s3;
mod secret;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::client::Certificate;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

pub use azure::{AzureAccess, AzureCredentials};
pub use s3::S3Access;

/// Longest wait for a connection: a vault that nobody answers for is away, and the cache log goes on.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept. Azure closes them after some minutes.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Longer than any list of authorities. Unit: bytes.
const AUTHORITIES_LEN_MAX: u64 = 1 << 20;

/// Why a store cannot be reached as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Something has to be said.
    #[error("{what} is not set: set {variable} or `{key}`")]
    Unset {
        what: &'static str,
        variable: &'static str,
        key: &'static str,
    },
    /// A file with a secret, or with authorities, cannot be read.
    #[error("{key}: {path:?} cannot be read")]
    Unread {
        key: &'static str,
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    /// Others than its owner can read a secret.
    #[error(
        "{key}: {path:?} has mode {mode:o}: others can read it; chmod 600 it, and renew what is in it"
    )]
    ReadableByOthers {
        key: &'static str,
        path: std::path::PathBuf,
        mode: u32,
    },
    /// A setting that cannot be.
    #[error("{key}: {rule}")]
    Setting {
        key: &'static str,
        rule: &'static str,
    },
    /// The client refuses the settings.
    #[error("the settings make no client")]
    Client(#[source] object_store::Error),
}

/// The part of a store below a prefix.
fn below(store: impl ObjectStore, prefix: &str) -> Arc<dyn ObjectStore> {
    if prefix.is_empty() {
        return Arc::new(store);
    }
    Arc::new(PrefixStore::new(store, prefix))
}

/// Requests are never repeated below the vault's own schedule.
fn once() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

/// The vault's schedule says how long an attempt may take, by its length.
fn patient() -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIME_MAX)
        .with_pool_idle_timeout(IDLE_TIME_MAX)
}

/// The authorities in a file, in PEM, as a client takes them.
///
/// # Errors
///
/// When the file cannot be read, or holds none.
fn authorities(key: &'static str, path: Option<&Path>) -> Result<Option<Authorities>, AccessError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let mut pem = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(AUTHORITIES_LEN_MAX).read_to_end(&mut pem));
    read.map_err(|source| AccessError::Unread {
        key,
        path: path.to_owned(),
        source,
    })?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        let rule = "it has to hold certificates of authorities, in PEM";
        return Err(AccessError::Setting { key, rule });
    }
    Ok(Some(Authorities { pem, certificates }))
}

/// Authorities that are trusted beside the system's.
struct Authorities {
    pem: Vec<u8>,
    certificates: Vec<Certificate>,
}

impl Authorities {
    /// A client that trusts them, too.
    fn trusted_by(&self, options: ClientOptions) -> ClientOptions {
        let certificates = self.certificates.iter().cloned();
        certificates.fold(options, ClientOptions::with_root_certificate)
    }
}
