//! Vaults on Azure Blob storage and S3: the client of each, whose credential it shows, and how long it waits.
//!
//! The clients repeat nothing themselves: whether a create may be repeated, and what its answer means, is
//! decided in one place for every store.

mod azure;
mod s3;
mod secret;

use std::sync::Arc;
use std::time::Duration;

use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

pub use azure::AzureAccess;
pub use s3::S3Access;

/// Longest wait for a connection: a vault that nobody answers for is away, and the cache log goes on.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept. Azure closes them after some minutes.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

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
    /// A file with a secret cannot be read.
    #[error("{key}: {path:?} cannot be read")]
    Secret {
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
