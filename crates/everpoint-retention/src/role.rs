//! The role: every so often, what each machine of a vault has committed is folded into map layers.
//!
//! It works on the vault alone, beside a process server or elsewhere, and may stop at any time: what was not finished
//! counts for nothing, and the next pass begins where the newest manifest stands.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everpoint_format::vault::VaultHeader;
use everpoint_units::{MachineId, WallTime};
use everpoint_vault::history::{HistoryError, list_machines, read_header};
use everpoint_vault::{OpenError, OpenOptions, ParseVaultUrlError, Vault, VaultConfig, VaultUrl};
use metrics::counter;
use serde::Deserialize;

use crate::compact::{CompactConfig, CompactError, compact};

/// The section `[retention]` of a server's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// The vault: `file:///dir`, `az://container/prefix`, `s3://bucket/prefix` or `memory://name`.
    pub vault: String,
    /// How the vault's store is reached: credentials, endpoints, time-outs.
    #[serde(default)]
    pub store: VaultConfig,
    /// Where Prometheus metrics are served over HTTP, for a server that has no other role; a process server's own address
    /// serves both.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Time between passes. Unit: seconds; 1 to 86,400. Default 1,800: a disk that changes costs two layers an hour.
    #[serde(default = "interval")]
    pub interval_s: u64,
    /// Changes that one manifest folds; each takes about 200 bytes of memory. 1,000 to 1,000,000. Default 262,144.
    #[serde(default = "change_count_max")]
    pub change_count_max: usize,
}

/// The pause before a vault is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

const fn interval() -> u64 {
    1_800
}

fn change_count_max() -> usize {
    CompactConfig::default().change_count_max
}

/// Why the role does not run.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A setting is outside its bounds.
    #[error("retention.{key}: {rule}")]
    Setting {
        key: &'static str,
        rule: &'static str,
    },
    /// The vault's URL is none.
    #[error("retention.vault: {url}")]
    VaultUrl {
        url: String,
        source: ParseVaultUrlError,
    },
    /// The vault cannot be opened.
    #[error("the vault of retention cannot be opened")]
    Vault(#[from] OpenError),
    /// What is there is no vault, or gives no answer.
    #[error("the vault of retention cannot be read")]
    History(#[from] HistoryError),
}

impl RetentionConfig {
    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// [`RetentionError::Setting`]: the first that does not hold.
    pub fn check(&self) -> Result<(), RetentionError> {
        let rules = [
            (
                (1..=86_400).contains(&self.interval_s),
                "interval_s",
                "must be 1 to 86400",
            ),
            (
                (1_000..=1_000_000).contains(&self.change_count_max),
                "change_count_max",
                "must be 1000 to 1000000",
            ),
            (
                self.change_count_max as u64 <= self.store.object_len_max / 256,
                "change_count_max",
                "must be at most store.object_len_max / 256, so that a layer is an object",
            ),
        ];
        let broken = rules.into_iter().find(|(holds, ..)| !holds);
        match broken {
            None => self.url().map(drop),
            Some((_, key, rule)) => Err(RetentionError::Setting { key, rule }),
        }
    }

    fn url(&self) -> Result<VaultUrl, RetentionError> {
        self.vault
            .parse()
            .map_err(|source| RetentionError::VaultUrl {
                url: self.vault.clone(),
                source,
            })
    }
}

/// The role, ready to work.
#[derive(Debug)]
pub struct Retention {
    vault: Vault,
    header: VaultHeader,
    interval: Duration,
    config: CompactConfig,
}

/// Runs the role until it is dropped. A vault that cannot be opened is tried again: whatever else the process does goes
/// on.
pub async fn run_retention(config: RetentionConfig) {
    loop {
        match Retention::open(&config).await {
            Ok(retention) => retention.run().await,
            Err(error) => tracing::warn!(error = ?error, "retention waits for its vault"),
        }
        tokio::time::sleep(OPEN_AGAIN).await;
    }
}

impl Retention {
    /// Opens the vault, which must be there.
    ///
    /// # Errors
    ///
    /// See [`RetentionError`].
    pub async fn open(config: &RetentionConfig) -> Result<Self, RetentionError> {
        config.check()?;
        let url = config.url()?;
        let vault = Vault::open(&url, &config.store, OpenOptions::WRITE).await?;
        let header = read_header(&vault).await?;
        Ok(Self {
            vault,
            header,
            interval: Duration::from_secs(config.interval_s),
            config: CompactConfig {
                change_count_max: config.change_count_max,
            },
        })
    }

    /// Passes over the vault, one after the other, until it is dropped.
    pub async fn run(&self) {
        loop {
            self.pass().await;
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Folds what every machine has committed. What fails is told, and tried again in the next pass.
    pub async fn pass(&self) {
        match list_machines(&self.vault).await {
            Err(error) => self.failed(None, &error.into()),
            Ok(machines) => {
                for machine in machines {
                    if let Err(error) = self.fold(machine).await {
                        self.failed(Some(machine), &error);
                    }
                }
            }
        }
        counter!("everpoint_retention_passes_total").increment(1);
    }

    async fn fold(&self, machine: MachineId) -> Result<(), CompactError> {
        loop {
            let now = wall_time();
            let made = compact(&self.vault, &self.header, machine, now, &self.config).await;
            let made = match made {
                // A folder that a create has left which failed.
                Err(CompactError::NoSuchMachine { .. }) => return Ok(()),
                made => made?,
            };
            let Some(made) = made else {
                return Ok(());
            };
            tracing::info!(
                %machine,
                manifest = made.manifest,
                objects = made.object_count,
                changes = made.change_count,
                layer_bytes = made.layer_bytes.0,
                "folded into map layers"
            );
            counter!("everpoint_retention_manifests_total").increment(1);
            counter!("everpoint_retention_layer_bytes_total").increment(made.layer_bytes.0);
            counter!("everpoint_retention_changes_total").increment(made.change_count);
            if let Some(why) = &made.stopped {
                tracing::warn!(%machine, why, "nothing is folded at or behind damage");
            }
            if !made.is_more {
                return Ok(());
            }
        }
    }

    fn failed(&self, machine: Option<MachineId>, error: &CompactError) {
        counter!("everpoint_retention_failures_total").increment(1);
        let machine = machine.map(tracing::field::display);
        tracing::warn!(machine, error = ?error, "not folded; the next pass tries again");
    }
}

fn wall_time() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
}
