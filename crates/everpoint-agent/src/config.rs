//! Settings of an agent: one TOML section, every key with its unit, default and bound.
//!
//! ```toml
//! [agent]
//! state_dir = "/var/lib/everpoint-agent"
//! control_socket = "/run/everpoint/agent"
//! servers = [{ address = "ps1.example:7411" }]
//!
//! [agent.tls]
//! ca = "/etc/everpoint/ca.pem"
//! cert = "/etc/everpoint/agent.pem"
//! key = "/etc/everpoint/agent.key"
//!
//! [agent.nbd]
//! unix = "/run/everpoint/nbd"
//!
//! [[agent.disks]]
//! id = "00112233-4455-6677-8899-aabbccddeeff"
//! name = "data"
//! source = "/srv/data.raw"
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;

use everpoint_format::record::NAME_LEN_MAX;
use everpoint_units::{DiskId, MachineId, ParseIdError};
use everpoint_wire::DISKS_MAX;
use serde::{Deserialize, Serialize};

/// What the agent needs besides its queue: payload of requests in flight, the transport's windows,
/// blocks that are being packed. Unit: bytes.
pub(crate) const MEMORY_BESIDE_QUEUE_MIN: u64 = 96 << 20;
/// Smallest queue: a few blocks of the largest size. Unit: bytes.
const QUEUE_BYTES_MIN: u64 = 8 << 20;

/// Filesystems that are frozen together.
const FILESYSTEMS_MAX: usize = 64;
/// Longest time between scheduled points. Unit: seconds.
const INTERVAL_MAX_S: u32 = 604_800;

/// The section `[agent]` of an agent's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The machine's id. Default: the one that the certificate names. If it is set the two must
    /// agree, so that a certificate of another machine is noticed here.
    #[serde(default)]
    pub machine: Option<IdText<MachineId>>,
    /// Where the agent remembers what must survive it: reserved sequence numbers, the vault, disks
    /// that were attached while it ran. One agent a directory, on a local disk that honours syncs.
    /// Not on a disk that it protects.
    pub state_dir: PathBuf,
    /// Process servers, tried in turn until one owns the machine. At least one.
    pub servers: Vec<ServerConfig>,
    /// Certificate, key and CA.
    pub tls: TlsConfig,
    /// Where guests find their disks.
    pub nbd: NbdConfig,
    /// Unix socket for the command line, mode 0600.
    pub control_socket: PathBuf,
    /// Prometheus metrics over HTTP, served by the program that runs the agent. Default: none.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Changes from their capture until the server has cached them, over all disks. When it is used
    /// up a disk loses write order and is compared again later; the guest is not held. Default
    /// 256 MiB, at least 8 MiB. Unit: bytes.
    #[serde(default = "queue_default")]
    pub queue_bytes_max: u64,
    /// Everything that the agent holds in memory on purpose. Default 512 MiB, at least
    /// `queue_bytes_max` and 96 MiB. Unit: bytes.
    #[serde(default = "memory_default")]
    pub memory_bytes_max: u64,
    /// How fast an initial sync or a resync reads its disk, so that guests find it free. Default: no
    /// limit. At least 1 MiB. Unit: bytes a second.
    #[serde(default)]
    pub resync_rate_max: Option<u64>,
    /// How much everything but the guests' own requests gives way to them when the processor is
    /// busy: the nice value of those threads. Default 5, 0 to 19.
    #[serde(default = "nice_default")]
    pub background_nice: i32,
    /// Longest time that a stop waits until everything captured is committed. Disks that are not
    /// done by then are compared at the next start. Default 30. Unit: seconds.
    #[serde(default = "stop_default")]
    pub stop_timeout_s: u64,
    /// Largest datagram. Default 1,452, up to 6,550 where the whole path carries it. Unit: bytes.
    #[serde(default = "mtu_default")]
    pub mtu_max: u16,
    /// Points that are made by the clock.
    #[serde(default)]
    pub points: PointsConfig,
    /// How applications are made to hold still for a point.
    #[serde(default)]
    pub app_points: AppPointsConfig,
    /// Disks to protect. More can be attached while the agent runs.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
}

/// Points that are made by the clock, at multiples of their interval in UTC. One that cannot be made is skipped.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointsConfig {
    /// Every so often a crash-consistent one. Default 0: none, up to a week. Unit: seconds.
    #[serde(default)]
    pub crash_interval_s: u32,
    /// Every so often an app-consistent one. Default 0: none, up to a week. Unit: seconds.
    #[serde(default)]
    pub app_interval_s: u32,
}

/// How applications are made to hold still: scripts round the point, and filesystems that are frozen for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppPointsConfig {
    /// Where the filesystems on the protected disks are mounted. Nothing of the agent's may lie on them. Default
    /// none, at most 64.
    pub filesystems: Vec<PathBuf>,
    /// For how long writes may be held. What is frozen then is thawed, and there is no point. Default 300, 10 to
    /// 10,000. Unit: milliseconds.
    pub deadline_ms: u32,
    /// Run before the freeze; unless it succeeds there is no point. Default none.
    pub pre_script: Option<PathBuf>,
    /// Run after the thaw, whatever came of the point, if the other one was. Default none.
    pub post_script: Option<PathBuf>,
    /// How long a script may take before it is killed. Default 30, 1 to 3,600. Unit: seconds.
    pub script_timeout_s: u32,
}

/// A process server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// `HOST:PORT` (UDP).
    pub address: String,
    /// The name in its certificate. Default: the host of `address`.
    #[serde(default)]
    pub name: Option<String>,
}

/// Paths of PEM files; the key must be readable by its owner alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Where guests find their disks. At least one of `unix` and `tcp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbdConfig {
    /// Path of a unix socket, mode 0600.
    #[serde(default)]
    pub unix: Option<PathBuf>,
    /// Address of a TCP port; 0 takes a free one. NBD has no encryption and no users: a loopback
    /// address, or a network that only guests are on.
    #[serde(default)]
    pub tcp: Option<SocketAddr>,
    /// Threads that carry the guests' requests, apart from all other work. Default 2, 1 to 64.
    #[serde(default = "threads_default")]
    pub guest_threads: usize,
}

/// A disk to protect.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The disk's id: random, never reused for another disk.
    pub id: IdText<DiskId>,
    /// The name of its NBD export, and in lists. 1 to 255 bytes.
    pub name: String,
    /// What holds its bytes: a path of a file or block device, or an `nbd://` or `nbd+unix://`
    /// address.
    pub source: String,
    /// 512 or 4096. Default: the source's own. Unit: bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// Pass the page cache by (`O_DIRECT`). Files and block devices only. Default false.
    #[serde(default)]
    pub direct: bool,
}

/// An id in its text form.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
#[serde(bound(
    deserialize = "I: std::str::FromStr<Err = ParseIdError>",
    serialize = "I: Clone + std::fmt::Display"
))]
pub struct IdText<I>(pub I);

/// A setting outside its bounds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {rule}")]
pub struct SettingError {
    /// Where in the section.
    pub key: String,
    /// What holds for it, and so what to write.
    pub rule: &'static str,
}

const fn queue_default() -> u64 {
    256 << 20
}

const fn memory_default() -> u64 {
    512 << 20
}

const fn nice_default() -> i32 {
    5
}

const fn stop_default() -> u64 {
    30
}

const fn mtu_default() -> u16 {
    1_452
}

const fn threads_default() -> usize {
    2
}

impl<I: std::str::FromStr<Err = ParseIdError>> TryFrom<String> for IdText<I> {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse().map(Self)
    }
}

impl<I: std::fmt::Display> From<IdText<I>> for String {
    fn from(id: IdText<I>) -> Self {
        id.0.to_string()
    }
}

impl Default for AppPointsConfig {
    fn default() -> Self {
        Self {
            filesystems: Vec::new(),
            deadline_ms: 300,
            pre_script: None,
            post_script: None,
            script_timeout_s: 30,
        }
    }
}

impl AppPointsConfig {
    /// Whether there is anything that makes an application hold still.
    pub(crate) const fn is_set(&self) -> bool {
        !self.filesystems.is_empty() || self.pre_script.is_some()
    }

    /// The first key that is outside its bounds, and the rule.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let scripts = [&self.pre_script, &self.post_script];
        let rules = [
            (
                self.filesystems.len() <= FILESYSTEMS_MAX
                    && self.filesystems.iter().all(|path| path.is_absolute()),
                "app_points.filesystems",
                "must be at most 64 absolute paths",
            ),
            (
                (10..=10_000).contains(&self.deadline_ms),
                "app_points.deadline_ms",
                "must be 10 to 10000",
            ),
            (
                scripts.into_iter().flatten().all(|path| path.is_absolute()),
                "app_points.pre_script and post_script",
                "must be absolute paths",
            ),
            (
                (1..=3_600).contains(&self.script_timeout_s),
                "app_points.script_timeout_s",
                "must be 1 to 3600",
            ),
        ];
        let broken = rules.into_iter().find(|(holds, ..)| !holds);
        broken.map_or(Ok(()), |(_, key, rule)| Err((key, rule)))
    }
}

impl PointsConfig {
    fn check(self, app_points: &AppPointsConfig) -> Result<(), (&'static str, &'static str)> {
        if INTERVAL_MAX_S < self.crash_interval_s.max(self.app_interval_s) {
            return Err((
                "points.crash_interval_s and app_interval_s",
                "must be at most 604800 (a week)",
            ));
        }
        if self.app_interval_s != 0 && !app_points.is_set() {
            return Err((
                "points.app_interval_s",
                "needs filesystems or pre_script in [agent.app_points]",
            ));
        }
        Ok(())
    }
}

impl AgentConfig {
    /// Tests every bound that does not depend on the machine.
    ///
    /// # Errors
    ///
    /// The first setting that is outside its bounds, with the rule.
    pub fn check(&self) -> Result<(), SettingError> {
        let beside = self.memory_bytes_max.checked_sub(self.queue_bytes_max);
        let threads = self.nbd.guest_threads;
        let rules = [
            (
                !self.servers.is_empty(),
                "servers",
                "must name at least one process server",
            ),
            (
                self.nbd.unix.is_some() || self.nbd.tcp.is_some(),
                "nbd",
                "must have unix or tcp, else no guest finds its disk",
            ),
            (
                (1..=64).contains(&threads),
                "nbd.guest_threads",
                "must be 1 to 64",
            ),
            (
                QUEUE_BYTES_MIN <= self.queue_bytes_max,
                "queue_bytes_max",
                "must be at least 8388608 (8 MiB)",
            ),
            (
                beside.is_some_and(|beside| MEMORY_BESIDE_QUEUE_MIN <= beside),
                "memory_bytes_max",
                "must be at least queue_bytes_max and 100663296 (96 MiB)",
            ),
            (
                self.resync_rate_max.is_none_or(|rate| 1 << 20 <= rate),
                "resync_rate_max",
                "must be at least 1048576 (1 MiB a second)",
            ),
            (
                (0..=19).contains(&self.background_nice),
                "background_nice",
                "must be 0 to 19",
            ),
            (
                self.disks.len() <= DISKS_MAX,
                "disks",
                "must be at most 1024",
            ),
        ];
        if let Some((_, key, rule)) = rules.into_iter().find(|(holds, ..)| !holds) {
            let key = key.to_owned();
            return Err(SettingError { key, rule });
        }
        let app_points = self.app_points.check();
        let checked = app_points.and_then(|()| self.points.check(&self.app_points));
        checked.map_err(|(key, rule)| SettingError {
            key: key.to_owned(),
            rule,
        })?;
        for (index, server) in self.servers.iter().enumerate() {
            if server.host().is_none() {
                let key = format!("servers[{index}].address");
                let rule = "must be HOST:PORT, an IPv6 host in brackets";
                return Err(SettingError { key, rule });
            }
        }
        self.check_disks()
    }

    fn check_disks(&self) -> Result<(), SettingError> {
        for (index, disk) in self.disks.iter().enumerate() {
            let earlier = &self.disks[..index];
            let error = |field: &str, rule| SettingError {
                key: format!("disks[{index}].{field}"),
                rule,
            };
            disk.check().map_err(|(field, rule)| error(field, rule))?;
            if earlier.iter().any(|other| other.id == disk.id) {
                return Err(error("id", "is another disk's; every disk has its own"));
            }
            if earlier.iter().any(|other| other.name == disk.name) {
                return Err(error(
                    "name",
                    "is another disk's; exports are told apart by it",
                ));
            }
        }
        Ok(())
    }
}

impl DiskConfig {
    /// The field that is outside its bounds, and the rule.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.name.is_empty() || NAME_LEN_MAX < self.name.len() || self.name.contains('\0') {
            return Err(("name", "must be 1 to 255 bytes without NUL"));
        }
        if self.source.is_empty() {
            return Err(("source", "must be a path, nbd://… or nbd+unix://…"));
        }
        if !matches!(self.block_size, None | Some(512 | 4_096)) {
            return Err(("block_size", "must be 512 or 4096, or left out"));
        }
        Ok(())
    }
}

impl ServerConfig {
    /// The host of its address, without brackets; `None` if the address has no host or port.
    pub(crate) fn host(&self) -> Option<&str> {
        let (host, port) = self.address.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let plain = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        (port != 0 && !plain.is_empty()).then_some(plain)
    }
}

#[cfg(test)]
mod tests;
