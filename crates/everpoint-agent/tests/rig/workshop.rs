//! A machine with disks and a server, in a directory of its own, and a guest that writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use everpoint_agent::{Agent, AgentConfig, DiskConfig, IdText, NbdConfig, ServerConfig, TlsConfig};
use everpoint_nbd::{ClientConfig, NbdAddress, NbdClient, ZeroFlags};
use everpoint_transport::Validity;
use everpoint_transport::pki::{
    CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, CredentialPaths, Credentials, Overwrite,
};
use everpoint_units::{ByteOffset, DiskId, MachineId, ServerId, WallTime};

use super::fake_server::{FakeServer, Manner};

pub(crate) const MIB: u64 = 1 << 20;
/// How long anything may take before a test is called stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Workshop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: FakeServer,
    pub(crate) machine: MachineId,
    ca: Ca,
}

impl Workshop {
    /// Within a tokio runtime.
    pub(crate) fn new(manner: Manner) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = Ca::create(Validity::from_now(now(), CA_LIFETIME)).expect("made");
        let machine = MachineId([0xa1; 16]);
        let agent = ca
            .issue_agent(machine, Validity::from_now(now(), CERTIFICATE_LIFETIME))
            .expect("issued");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("ca.pem"), ca.certificate_pem()).expect("written");
        agent
            .write(&at("agent.pem"), &at("agent.key"), Overwrite::Refuse)
            .expect("written");
        let server = start_server(&ca, dir.path(), "server", manner);
        Self {
            dir,
            server,
            machine,
            ca,
        }
    }

    /// One more server, with nothing of this machine.
    pub(crate) fn second_server(&self, manner: Manner) -> FakeServer {
        start_server(&self.ca, self.dir.path(), "second", manner)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `len` bytes whose holes are holes.
    pub(crate) fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        let file = std::fs::File::create(&path).expect("made");
        file.set_len(len).expect("set");
        path
    }

    pub(crate) fn config(&self, disks: Vec<DiskConfig>) -> AgentConfig {
        AgentConfig {
            machine: None,
            state_dir: self.path("state"),
            servers: vec![server_at(&self.server)],
            tls: TlsConfig {
                ca: self.path("ca.pem"),
                cert: self.path("agent.pem"),
                key: self.path("agent.key"),
            },
            nbd: NbdConfig {
                unix: Some(self.path("nbd")),
                tcp: None,
                guest_threads: 2,
            },
            control_socket: self.path("control"),
            metrics_listen: None,
            queue_bytes_max: 384 * MIB,
            memory_bytes_max: 512 * MIB,
            resync_rate_max: None,
            background_nice: 0,
            stop_timeout_s: 30,
            mtu_max: 1_452,
            disks,
            points: everpoint_agent::PointsConfig::default(),
            app_points: everpoint_agent::AppPointsConfig::default(),
        }
    }

    pub(crate) async fn start(&self, disks: Vec<DiskConfig>) -> Agent {
        start(self.config(disks)).await
    }

    pub(crate) async fn guest(&self, export: &str) -> Guest {
        let address = NbdAddress::unix(self.path("nbd"), export);
        let client = NbdClient::connect(&address, &ClientConfig::default()).await;
        Guest {
            client: client.expect("the agent serves"),
        }
    }
}

pub(crate) async fn start(config: AgentConfig) -> Agent {
    in_time(Agent::start(config))
        .await
        .expect("a good configuration")
}

pub(crate) fn server_at(server: &FakeServer) -> ServerConfig {
    ServerConfig {
        address: server.address.to_string(),
        name: None,
    }
}

fn start_server(ca: &Ca, dir: &Path, name: &str, manner: Manner) -> FakeServer {
    let validity = Validity::from_now(now(), CERTIFICATE_LIFETIME);
    let issued = ca
        .issue_server(ServerId([0x5e; 16]), &["127.0.0.1".to_owned()], validity)
        .expect("issued");
    let (certificate, key) = (
        dir.join(format!("{name}.pem")),
        dir.join(format!("{name}.key")),
    );
    issued
        .write(&certificate, &key, Overwrite::Refuse)
        .expect("written");
    let paths = CredentialPaths {
        certificate,
        key,
        ca: dir.join("ca.pem"),
    };
    let credentials = Credentials::load(&paths, now()).expect("just issued");
    FakeServer::start(credentials, manner)
}

/// A disk over a file of the workshop.
pub(crate) fn disk(number: u8, source: &Path) -> DiskConfig {
    DiskConfig {
        id: IdText(disk_id(number)),
        name: format!("disk{number}"),
        source: source.to_str().expect("a plain path").to_owned(),
        block_size: None,
        direct: false,
    }
}

pub(crate) fn disk_id(number: u8) -> DiskId {
    DiskId([number; 16])
}

/// Waits for what has to come, and says so when it does not.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("stuck")
}

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since.expect("after 1970").as_micros();
    WallTime(u64::try_from(micros).expect("before 586524"))
}

/// A guest of one disk.
pub(crate) struct Guest {
    pub(crate) client: NbdClient,
}

impl Guest {
    pub(crate) async fn write(&self, at: u64, data: Vec<u8>) {
        let written = self.client.write(ByteOffset(at), Bytes::from(data), false);
        in_time(written).await.expect("written");
    }

    /// One request of any kind, somewhere on a disk of `len` bytes.
    pub(crate) async fn act(&self, random: &mut Random, len: u64) {
        let sectors = random.below(600) + 1;
        let bytes = (sectors * 512).min(len);
        let at = random.below((len - bytes) / 512 + 1) * 512;
        let short = u32::try_from(bytes).expect("small");
        let done = match random.below(10) {
            0 => self.client.trim(ByteOffset(at), short, false).await,
            1 => {
                let flags = ZeroFlags {
                    no_hole: random.below(2) == 0,
                    ..ZeroFlags::default()
                };
                self.client.write_zeroes(ByteOffset(at), short, flags).await
            }
            2 => {
                let data = Bytes::from(vec![0; usize::try_from(bytes).expect("small")]);
                self.client.write(ByteOffset(at), data, false).await
            }
            _ => {
                let data = random.bytes(bytes);
                self.client.write(ByteOffset(at), data.into(), false).await
            }
        };
        done.expect("done");
    }
}

/// xorshift64: the same numbers for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Bytes that compress by about half.
    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let len = usize::try_from(len).expect("small");
        let mut bytes = Vec::with_capacity(len + 16);
        while bytes.len() < len {
            let word = self.next().to_le_bytes();
            bytes.extend_from_slice(&word);
            bytes.extend_from_slice(&[word[0]; 8]);
        }
        bytes.truncate(len);
        bytes
    }
}
