//! Settings of a process server: one TOML section, every key with its unit, default and bound.

use std::net::SocketAddr;
use std::path::PathBuf;

use everpoint_journal::commit::IN_FLIGHT_MAX;
use everpoint_replica::Prices;
use everpoint_units::ServerId;
use everpoint_vault::{AzureAccess, VaultConfig};
use serde::Deserialize;

/// The section `[process]` of a server's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessServerConfig {
    /// Where the server keeps its identity and the list of its journals. One server a directory.
    pub state_dir: PathBuf,
    /// The vault: `file:///dir`, `az://container/prefix`, `s3://bucket/prefix` or `memory://name`.
    pub vault: String,
    /// How the vault's store is reached: credentials, endpoints, time-outs.
    #[serde(default)]
    pub store: VaultConfig,
    /// Make the vault's directory and header when there are none. Default false: a vault that is not
    /// mounted must not be begun anew below its mount point.
    #[serde(default)]
    pub create_vault: bool,
    /// Where agents connect (UDP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Unix socket for the command line, mode 0600.
    pub control_socket: PathBuf,
    /// Prometheus metrics over HTTP. Default: none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// The server's id. Default: a random one, made at the first start and kept in `state_dir`. Set
    /// it to go on as a server whose directory was lost.
    #[serde(default)]
    pub server: Option<ServerIdText>,
    /// Certificate, key and CA.
    pub tls: TlsConfig,
    /// The cache log.
    pub cache_log: LogConfig,
    /// Commits.
    #[serde(default)]
    pub commit: CommitConfig,
    /// Bytes that all buffers together may take: five eighths for what comes in, a quarter for what is
    /// committed, an eighth for compares; where there are replicas, an eighth of what comes in is theirs. Default 512 MiB, at least 64 MiB. Unit: bytes.
    #[serde(default = "memory_default")]
    pub memory_bytes_max: usize,
    /// Replicas of the disks, if any are wanted.
    #[serde(default)]
    pub replica: Option<ReplicaConfig>,
    /// Machines at a time. Default 4,096.
    #[serde(default = "machines_default")]
    pub machines_max: usize,
    /// Longest time that a stop waits for everything cached to be committed. Default 60 s. What is
    /// not committed by then stays in the cache log and is committed at the next start.
    #[serde(default = "drain_default")]
    pub drain_timeout_s: u64,
    /// Largest datagram. Default 1,452, up to 6,550 where the whole path carries it. Unit: bytes.
    #[serde(default = "mtu_default")]
    pub mtu_max: u16,
}

/// Replicas of all disks that the server serves, brought forward as changes are committed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// `az://container/prefix`: a page blob for each disk, `DISK.vhd`. `file:///dir`: a VHD file for each.
    pub url: String,
    /// How Azure is reached. What is not said is taken from the environment, as for vaults.
    #[serde(default)]
    pub azure: AzureAccess,
    /// Shortest time for which changes are collected. Default 1,000, 10 to `window_ms_max`. Unit: milliseconds.
    #[serde(default = "window_min_default")]
    pub window_ms_min: u64,
    /// Longest time, taken where the target is slow. Default 3,600,000 (an hour), at most a day. Unit: milliseconds.
    #[serde(default = "window_max_default")]
    pub window_ms_max: u64,
    /// What one window may hold before it is written early. Default 512 MiB, at least 16 MiB. Unit: bytes.
    #[serde(default = "window_bytes_default")]
    pub window_bytes_max: u64,
    /// Where windows wait for their requests. Default: `replicas` in the state directory.
    #[serde(default)]
    pub staging_dir: Option<PathBuf>,
    /// What all windows together may hold there. Default 16 GiB, at least twice `window_bytes_max`. Unit: bytes.
    #[serde(default = "staging_bytes_default")]
    pub staging_bytes_max: u64,
    /// Requests under way for one disk. Default 8, 1 to 64.
    #[serde(default = "replica_in_flight_default")]
    pub in_flight_max: usize,
    /// Requests a second for one disk. Default 500: Azure's target for a standard page blob.
    #[serde(default = "requests_default")]
    pub requests_per_s: u64,
    /// Bytes a second for one disk. Default 60 MiB: Azure's target for a standard page blob.
    #[serde(default = "bytes_default")]
    pub bytes_per_s: u64,
    /// Requests a second of all disks. Default 20,000: Azure's target for a standard account.
    #[serde(default = "account_requests_default")]
    pub account_requests_per_s: u64,
    /// Bytes a second of all disks. Default 3,125,000,000: Azure's target for a standard account, 25 Gbit.
    #[serde(default = "account_bytes_default")]
    pub account_bytes_per_s: u64,
    /// What requests cost, for the line in `disk show` and the metrics. What is left out costs nothing.
    #[serde(default)]
    pub prices: Prices,
}

/// Paths of PEM files; keys must be readable by their owner alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// See `everpoint-cache-log`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The log's directory, on a local disk that honours syncs.
    pub dir: PathBuf,
    /// Most bytes of the log, at least three files. When it is used up, agents are held back.
    pub quota_bytes: u64,
    /// Length of one file. Default 64 MiB, 4 MiB to 1 GiB.
    #[serde(default = "log_file_default")]
    pub file_bytes: u64,
    /// Go on although synced records are missing: an operator's word after damage. Default false.
    #[serde(default)]
    pub accept_damage: bool,
}

/// See `everpoint_journal::commit`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommitConfig {
    /// How long a change waits for its object. Default 2,000, 10 to 60,000. Unit: milliseconds.
    pub interval_ms: u64,
    /// Frames that close an object at once. Default 32 MiB, 1 MiB to 64 MiB. Unit: bytes.
    pub object_bytes: u64,
    /// Objects under way at once. Default 4, 1 to 16.
    pub in_flight_max: u64,
}

/// An id in its text form.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerIdText(pub ServerId);

/// A setting outside its bounds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {rule}")]
pub struct SettingError {
    pub key: &'static str,
    pub rule: &'static str,
}

/// What each part of the memory may take; together [`ProcessServerConfig::memory_bytes_max`]. Unit: bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryParts {
    /// What comes in, and the part of the backlog that is kept in memory.
    pub(crate) ingest: usize,
    /// What is read again from the log for its commit.
    pub(crate) commit: usize,
    /// The windows of compares.
    pub(crate) compare: usize,
    /// What is staged for replicas and sent to them; nothing where there are none.
    pub(crate) replica: usize,
}

const fn memory_default() -> usize {
    512 << 20
}

const fn machines_default() -> usize {
    4_096
}

const fn drain_default() -> u64 {
    60
}

const fn mtu_default() -> u16 {
    1_452
}

const fn log_file_default() -> u64 {
    64 << 20
}

const fn window_min_default() -> u64 {
    1_000
}

const fn window_max_default() -> u64 {
    3_600_000
}

const fn window_bytes_default() -> u64 {
    512 << 20
}

const fn staging_bytes_default() -> u64 {
    16 << 30
}

const fn replica_in_flight_default() -> usize {
    8
}

const fn requests_default() -> u64 {
    500
}

const fn bytes_default() -> u64 {
    60 << 20
}

const fn account_requests_default() -> u64 {
    20_000
}

const fn account_bytes_default() -> u64 {
    3_125_000_000
}

impl Default for CommitConfig {
    fn default() -> Self {
        Self {
            interval_ms: 2_000,
            object_bytes: 32 << 20,
            in_flight_max: 4,
        }
    }
}

impl TryFrom<String> for ServerIdText {
    type Error = everpoint_units::ParseIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl ReplicaConfig {
    /// Tests every bound.
    ///
    /// # Errors
    ///
    /// The first setting that is outside its bounds, with the rule.
    pub fn check(&self) -> Result<(), SettingError> {
        let rates = [
            self.requests_per_s,
            self.bytes_per_s,
            self.account_requests_per_s,
            self.account_bytes_per_s,
        ];
        let rules = [
            (
                10 <= self.window_ms_min && self.window_ms_min <= self.window_ms_max,
                "replica.window_ms_min",
                "must be 10 to window_ms_max",
            ),
            (
                self.window_ms_max <= 86_400_000,
                "replica.window_ms_max",
                "must be at most 86400000 (a day)",
            ),
            (
                16 << 20 <= self.window_bytes_max,
                "replica.window_bytes_max",
                "must be at least 16777216 (16 MiB)",
            ),
            (
                self.window_bytes_max <= self.staging_bytes_max / 2,
                "replica.staging_bytes_max",
                "must be at least twice window_bytes_max",
            ),
            (
                (1..=64).contains(&self.in_flight_max),
                "replica.in_flight_max",
                "must be 1 to 64",
            ),
            (
                rates.iter().all(|rate| 0 < *rate),
                "replica",
                "requests and bytes a second must be above 0",
            ),
            (
                self.requests_per_s <= self.bytes_per_s,
                "replica.bytes_per_s",
                "must be at least requests_per_s",
            ),
        ];
        first_broken(rules)
    }
}

fn first_broken(
    rules: impl IntoIterator<Item = (bool, &'static str, &'static str)>,
) -> Result<(), SettingError> {
    let mut rules = rules.into_iter();
    rules
        .find(|(holds, ..)| !holds)
        .map_or(Ok(()), |(_, key, rule)| Err(SettingError { key, rule }))
}

impl ProcessServerConfig {
    /// The parts of the memory. None waits for another, so that each can always go on by itself.
    pub(crate) const fn memory_parts(&self) -> MemoryParts {
        let (commit, compare) = (self.memory_bytes_max / 4, self.memory_bytes_max / 8);
        let replica = match self.replica {
            Some(_) => self.memory_bytes_max / 8,
            None => 0,
        };
        MemoryParts {
            ingest: self.memory_bytes_max - commit - compare - replica,
            commit,
            compare,
            replica,
        }
    }

    /// Tests every bound that does not depend on the machine.
    ///
    /// # Errors
    ///
    /// The first setting that is outside its bounds, with the rule.
    pub fn check(&self) -> Result<(), SettingError> {
        let commit = &self.commit;
        let rules = [
            (
                64 << 20 <= self.memory_bytes_max,
                "memory_bytes_max",
                "must be at least 67108864 (64 MiB)",
            ),
            (
                0 < self.machines_max && self.machines_max <= 100_000,
                "machines_max",
                "must be 1 to 100000",
            ),
            (
                (10..=60_000).contains(&commit.interval_ms),
                "commit.interval_ms",
                "must be 10 to 60000",
            ),
            (
                (1 << 20..=64 << 20).contains(&commit.object_bytes),
                "commit.object_bytes",
                "must be 1048576 to 67108864 (1 to 64 MiB)",
            ),
            (
                commit.in_flight_max.saturating_mul(16 << 20) <= self.memory_bytes_max as u64,
                "commit.in_flight_max",
                "must leave memory_bytes_max 16 MiB for each object",
            ),
            (
                (1..=IN_FLIGHT_MAX).contains(&commit.in_flight_max),
                "commit.in_flight_max",
                "must be 1 to 16",
            ),
        ];
        first_broken(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        state_dir = "/var/lib/everpoint"
        vault = "file:///srv/vault"
        listen = "127.0.0.1:0"
        control_socket = "/run/everpoint/server"
        [tls]
        ca = "ca.pem"
        cert = "server.pem"
        key = "server.key"
        [cache_log]
        dir = "/var/lib/everpoint/log"
        quota_bytes = 1073741824
    "#;

    #[test]
    fn a_minimal_section_reads_with_sound_defaults() {
        let config: ProcessServerConfig = toml::from_str(MINIMAL).expect("a good section");
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.commit.interval_ms, 2_000);
        assert!(!config.create_vault);
    }

    #[test]
    fn the_parts_of_the_memory_are_all_of_it_and_no_more() {
        let mut config: ProcessServerConfig = toml::from_str(MINIMAL).expect("a good section");
        for memory in [64 << 20, (64 << 20) + 7, 512 << 20] {
            config.memory_bytes_max = memory;
            let parts = config.memory_parts();
            assert_eq!(
                parts.ingest + parts.commit + parts.compare + parts.replica,
                memory
            );
            assert!(memory / 2 < parts.ingest, "most is for what comes in");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let text = format!("cashe_log = 1\n{MINIMAL}");
        let error = toml::from_str::<ProcessServerConfig>(&text).expect_err("unknown");
        assert!(error.to_string().contains("cashe_log"), "{error}");
    }

    #[test]
    fn a_setting_outside_its_bounds_is_named_with_its_rule() {
        let mut config: ProcessServerConfig = toml::from_str(MINIMAL).expect("a good section");
        config.commit.in_flight_max = 0;
        let error = config.check().expect_err("out of bounds");
        assert_eq!(error.to_string(), "commit.in_flight_max: must be 1 to 16");
    }
}
