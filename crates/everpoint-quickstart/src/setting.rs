//! Everything that a quickstart needs before the load runs: certificates, a disk, the configuration of the
//! process server and of the agent.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use everpoint_agent::{AgentConfig, DiskConfig, IdText, NbdConfig, ServerConfig};
use everpoint_nbd::NbdAddress;
use everpoint_process_server::{CommitConfig, LogConfig, ProcessServerConfig};
use everpoint_transport::Validity;
use everpoint_transport::pki::{CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, Overwrite};
use everpoint_units::{ByteLen, DiskId, MachineId, ServerId, WallTime};
use everpoint_vault::{VaultConfig, VaultUrl};

use crate::error::QuickstartError;
use crate::folder::Folder;

/// The name of the disk and of its export.
pub(crate) const DISK_NAME: &str = "disk";
/// Changes that the agent may hold while the process server is away. Unit: bytes; many seconds of the load.
const QUEUE_BYTES_MAX: u64 = 512 << 20;
/// The cache log's quota. Unit: bytes.
const LOG_QUOTA_BYTES: u64 = 512 << 20;

/// A machine with one disk, and a vault for it.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) machine: MachineId,
    pub(crate) disk: DiskId,
    pub(crate) size: ByteLen,
    pub(crate) vault: VaultUrl,
    /// Where agents connect; the port is known once the server ran.
    pub(crate) listen: SocketAddr,
}

impl Setting {
    /// Issues certificates and makes the disk.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn prepare(
        folder: &Folder,
        size: ByteLen,
        vault: Option<VaultUrl>,
    ) -> Result<Self, QuickstartError> {
        let vault = match vault {
            Some(vault) => vault,
            None => {
                let path = folder.path("vault");
                let url = VaultUrl::file(&path);
                url.map_err(|source| QuickstartError::DirUrl { path, source })?
            }
        };
        let setting = Self {
            machine: MachineId(rand::random()),
            disk: DiskId(rand::random()),
            size,
            vault,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        setting.issue(folder)?;
        setting.make_disk(folder)?;
        Ok(setting)
    }

    fn issue(&self, folder: &Folder) -> Result<(), QuickstartError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = now.map_or(0, |now| now.as_micros());
        let now = WallTime(u64::try_from(micros).unwrap_or(u64::MAX));
        let validity = Validity::from_now(now, CERTIFICATE_LIFETIME);
        let pki = folder.path("pki");
        let write = |name: &str| {
            (
                pki.join(format!("{name}.pem")),
                pki.join(format!("{name}.key")),
            )
        };

        let ca = Ca::create(Validity::from_now(now, CA_LIFETIME))?;
        let (certificate, key) = write("ca");
        ca.write(&certificate, &key, Overwrite::Refuse)?;
        let names = [self.listen.ip().to_string()];
        let (certificate, key) = write("server");
        let issued = ca.issue_server(ServerId(rand::random()), &names, validity)?;
        issued.write(&certificate, &key, Overwrite::Refuse)?;
        let (certificate, key) = write("agent");
        let issued = ca.issue_agent(self.machine, validity)?;
        issued.write(&certificate, &key, Overwrite::Refuse)?;
        Ok(())
    }

    /// A sparse file.
    fn make_disk(&self, folder: &Folder) -> Result<(), QuickstartError> {
        let path = folder.path("disk.img");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let made = file.and_then(|file| file.set_len(self.size.0));
        made.map_err(|source| QuickstartError::Disk { path, source })
    }

    /// The process server's settings: the defaults, wherever there are some.
    pub(crate) fn server(&self, folder: &Folder) -> ProcessServerConfig {
        let pki = folder.path("pki");
        ProcessServerConfig {
            replica: None,
            state_dir: folder.path("server"),
            vault: self.vault.to_string(),
            store: VaultConfig::default(),
            create_vault: true,
            listen: self.listen,
            control_socket: folder.socket("server"),
            metrics_listen: None,
            server: None,
            tls: everpoint_process_server::TlsConfig {
                ca: pki.join("ca.pem"),
                cert: pki.join("server.pem"),
                key: pki.join("server.key"),
            },
            cache_log: LogConfig {
                dir: folder.path("server").join("log"),
                quota_bytes: LOG_QUOTA_BYTES,
                file_bytes: 32 << 20,
                accept_damage: false,
            },
            commit: CommitConfig::default(),
            memory_bytes_max: 512 << 20,
            machines_max: 4_096,
            drain_timeout_s: 60,
            mtu_max: 1_452,
        }
    }

    /// The agent's settings.
    pub(crate) fn agent(&self, folder: &Folder) -> AgentConfig {
        let pki = folder.path("pki");
        AgentConfig {
            machine: Some(IdText(self.machine)),
            state_dir: folder.path("agent"),
            servers: vec![ServerConfig {
                address: self.listen.to_string(),
                name: None,
            }],
            tls: everpoint_agent::TlsConfig {
                ca: pki.join("ca.pem"),
                cert: pki.join("agent.pem"),
                key: pki.join("agent.key"),
            },
            nbd: NbdConfig {
                unix: Some(folder.socket("nbd")),
                tcp: None,
                guest_threads: 2,
            },
            control_socket: folder.socket("agent"),
            metrics_listen: None,
            queue_bytes_max: QUEUE_BYTES_MAX,
            memory_bytes_max: QUEUE_BYTES_MAX + (256 << 20),
            resync_rate_max: None,
            background_nice: 5,
            stop_timeout_s: 60,
            points: everpoint_agent::PointsConfig::default(),
            app_points: everpoint_agent::AppPointsConfig::default(),
            mtu_max: 1_452,
            disks: vec![DiskConfig {
                id: IdText(self.disk),
                name: DISK_NAME.to_owned(),
                source: folder.path("disk.img").display().to_string(),
                block_size: None,
                direct: false,
            }],
        }
    }

    /// Where a guest finds the disk.
    pub(crate) fn export(&self, folder: &Folder) -> NbdAddress {
        NbdAddress::unix(folder.socket("nbd"), DISK_NAME)
    }
}
