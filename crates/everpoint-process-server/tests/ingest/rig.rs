//! A process server in a temporary directory, and an agent made of nothing but frames.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use everpoint_format::change::{BlockPlace, Captured, FrozenBlock, PackedBlock};
use everpoint_format::data::DataBuilder;
use everpoint_format::index::Release;
use everpoint_format::object::ObjectHeader;
use everpoint_format::record::Record;
use everpoint_format::{Change, DiskPosition, name};
use everpoint_journal::history::MachineHistory;
use everpoint_journal::path::gapless_run;
use everpoint_process_server::{
    CommitConfig, LogConfig, ProcessServer, ProcessServerConfig, TlsConfig,
};
use everpoint_transport::pki::{Ca, CredentialPaths, Credentials, Issued, Overwrite};
use everpoint_transport::{
    ByteBudget, ClientTransportConfig, Connector, ExpectedServer, Link, RecvHalf, SendHalf,
    Validity,
};
use everpoint_units::{
    BlockNo, DiskId, Extent, GenerationId, JournalId, Lba, Level, MachineId, ObjectNo, Seq,
    ServerId, WallTime,
};
use everpoint_vault::history::{ObjectFound, Walked, list_journal, read_header, read_object, walk};
use everpoint_vault::{OpenOptions, Vault, VaultConfig, VaultUrl};
use everpoint_wire::{
    ANSWER_LEN_MAX, DiskState, FrameKind, Hello, HelloAnswer, PROTOCOL, ToAgent, ToServer,
    Watermarks,
};

pub(crate) const MACHINE: MachineId = MachineId([0x4d; 16]);
pub(crate) const DISK: DiskId = DiskId([0xd1; 16]);
/// Nothing in these tests takes so long; whoever waits longer waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SECTORS: u64 = 1 << 20;

pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.expect("after 1970").as_micros();
    WallTime(u64::try_from(micros).expect("before the year 500000"))
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen in {PATIENCE:?}"),
    }
}

/// A directory with a CA, a vault and any number of servers.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    ca: Ca,
}

impl Site {
    pub(crate) fn new() -> Self {
        let validity = Validity::from_now(now(), Duration::from_secs(86_400));
        let ca = Ca::create(validity).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        let site = Self { dir, ca };
        let (cert, key) = (site.path("ca.pem"), site.path("ca.key"));
        site.ca
            .write(&cert, &key, Overwrite::Refuse)
            .expect("written");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn vault_dir(&self) -> PathBuf {
        self.path("vault")
    }

    pub(crate) fn validity() -> Validity {
        Validity::from_now(now(), Duration::from_secs(86_400))
    }

    /// Settings of the `index`-th server: commits soon, small log.
    pub(crate) fn server_config(&self, index: u8) -> ProcessServerConfig {
        let name = |what: &str| self.path(&format!("server-{index}-{what}"));
        let (cert, key) = (name("cert.pem"), name("key.pem"));
        if !cert.exists() {
            let id = ServerId([index; 16]);
            let issued = self.ca.issue_server(id, &["127.0.0.1"], Self::validity());
            let issued = issued.expect("issued");
            issued
                .write(&cert, &key, Overwrite::Refuse)
                .expect("written");
        }
        ProcessServerConfig {
            replica: None,
            state_dir: name("state"),
            vault: format!("file://{}", self.vault_dir().display()),
            store: VaultConfig::default(),
            create_vault: true,
            listen: "127.0.0.1:0".parse().expect("an address"),
            control_socket: name("control"),
            metrics_listen: None,
            server: None,
            tls: TlsConfig {
                ca: self.path("ca.pem"),
                cert,
                key,
            },
            cache_log: LogConfig {
                dir: name("log"),
                quota_bytes: 256 << 20,
                file_bytes: 4 << 20,
                accept_damage: false,
            },
            commit: CommitConfig {
                interval_ms: 20,
                ..CommitConfig::default()
            },
            memory_bytes_max: 64 << 20,
            machines_max: 16,
            drain_timeout_s: 20,
            mtu_max: 1_452,
        }
    }

    pub(crate) async fn start(&self, config: ProcessServerConfig) -> ProcessServer {
        soon("the start", ProcessServer::start(config))
            .await
            .expect("started")
    }

    /// A certificate of a machine's agent.
    pub(crate) fn issue(&self, machine: MachineId, validity: Validity) -> Issued {
        self.ca.issue_agent(machine, validity).expect("issued")
    }

    fn credentials(&self, machine: MachineId) -> Credentials {
        let issued = self.issue(machine, Self::validity());
        let name = |what: &str| self.path(&format!("agent-{machine}-{what}"));
        let paths = CredentialPaths {
            certificate: name("cert.pem"),
            key: name("key.pem"),
            ca: self.path("ca.pem"),
        };
        let written = issued.write(&paths.certificate, &paths.key, Overwrite::Replace);
        written.expect("written");
        Credentials::load(&paths, now()).expect("good")
    }

    /// An agent's connection: authenticated, nothing said yet.
    pub(crate) async fn link(&self, machine: MachineId, address: SocketAddr) -> Link {
        let config = ClientTransportConfig::new(self.credentials(machine));
        let connector = Connector::bind(config, ByteBudget::new(64 << 20)).expect("bound");
        let expected = ExpectedServer::named("127.0.0.1").expect("a name");
        let link = connector
            .connect(address, &expected)
            .await
            .expect("connected");
        // The endpoint lives as long as its links.
        drop(connector);
        link
    }

    /// The vault as anybody finds it.
    pub(crate) async fn vault(&self) -> Vault {
        let url = VaultUrl::file(self.vault_dir()).expect("absolute");
        Vault::open(&url, &VaultConfig::default(), OpenOptions::READ)
            .await
            .expect("a vault")
    }

    /// Puts an object behind the last one of a journal, as another life of its server would.
    pub(crate) async fn write_as_another_life(&self, journal: JournalId) {
        let vault = self.vault().await;
        let header = read_header(&vault).await.expect("a header");
        let listing = list_journal(&vault, journal).await.expect("listed");
        let last = gapless_run(&listing);
        let read = read_object(&vault, header.vault, journal, last).await;
        let ObjectFound::Data(data, _) = read.expect("readable") else {
            panic!("the last object is data");
        };
        let mut builder = DataBuilder::default();
        builder.release(Release {
            machine: MachineId([0xee; 16]),
            successor: None,
        });
        let object = builder.freeze(ObjectHeader {
            number: last.next(),
            previous: data.checksum,
            ..data.header
        });
        let name = name::journal_object(journal, last.next());
        std::fs::write(self.vault_dir().join(name), object.pieces.concat()).expect("written");
    }

    /// The journal's first object rots, whole.
    pub(crate) fn damage_first_object(&self, journal: JournalId) {
        let path = self
            .vault_dir()
            .join(name::journal_object(journal, ObjectNo::ZERO.next()));
        let len = std::fs::read(&path).expect("it is there").len();
        std::fs::write(path, vec![0xa5; len]).expect("written");
    }

    /// The machine's history, from the vault alone.
    pub(crate) async fn history(&self, machine: MachineId) -> (MachineHistory, Walked) {
        let vault = self.vault().await;
        let header = read_header(&vault).await.expect("a header");
        let mut history = MachineHistory::new(machine);
        let walked = walk(&vault, header.vault, machine, |journal, number, data, _| {
            for section in &data.index.sections {
                history.fold(section, journal, number);
            }
        });
        let walked = walked.await.expect("readable");
        (history, walked)
    }
}

/// One machine's agent, by hand.
pub(crate) struct Agent {
    pub(crate) link: Link,
    _control: (SendHalf, RecvHalf),
    pub(crate) answer: HelloAnswer,
}

impl Agent {
    pub(crate) async fn connect(site: &Site, server: &ProcessServer) -> Self {
        let link = site.link(MACHINE, server.local_address()).await;
        let answer = Self::hello(&link, MACHINE, Level(0)).await;
        let (control, answer) = answer;
        match answer {
            ToAgent::HelloAnswer(answer) => Self {
                link,
                _control: control,
                answer,
            },
            other => panic!("refused: {other:?}"),
        }
    }

    /// Says hello and returns what comes back.
    pub(crate) async fn hello(
        link: &Link,
        machine: MachineId,
        highest_epoch: Level,
    ) -> ((SendHalf, RecvHalf), ToAgent) {
        let (mut send, mut recv) = link.open_stream().await.expect("a stream");
        let hello = ToServer::Hello(Hello {
            protocol: PROTOCOL,
            machine,
            highest_epoch,
            vault: None,
            clock: now(),
            disk_count: 4,
        });
        let kind = FrameKind::Message.code();
        send.send_frame(kind, &[hello.encode()])
            .await
            .expect("sent");
        let frame = soon("the hello's answer", recv.recv_frame(limit)).await;
        let frame = frame.expect("a frame").expect("not the end");
        let answer = ToAgent::decode(frame.body).expect("a message");
        ((send, recv), answer)
    }

    pub(crate) async fn open(&self, disk: DiskId) -> Disk {
        let (mut send, recv) = self.link.open_stream().await.expect("a stream");
        let open = ToServer::OpenDisk { disk }.encode();
        send.send_frame(FrameKind::Message.code(), &[open])
            .await
            .expect("sent");
        let mut disk = Disk {
            id: disk,
            send,
            recv,
            state: None,
            tail: DiskPosition::start_of(GenerationId([1; 16])),
            seq: 0,
        };
        match disk.receive().await {
            ToAgent::DiskState(state) => disk.state = Some(state),
            other => panic!("no state: {other:?}"),
        }
        disk
    }
}

fn limit(_: u8) -> Option<u32> {
    u32::try_from(ANSWER_LEN_MAX).ok()
}

/// One disk's stream, by hand.
pub(crate) struct Disk {
    id: DiskId,
    send: SendHalf,
    recv: RecvHalf,
    pub(crate) state: Option<DiskState>,
    pub(crate) tail: DiskPosition,
    pub(crate) seq: u64,
}

impl Disk {
    /// The next message.
    pub(crate) async fn receive(&mut self) -> ToAgent {
        let frame = soon("a message", self.recv.recv_frame(limit)).await;
        let frame = frame.expect("a frame").expect("not the end");
        ToAgent::decode(frame.body).expect("a message")
    }

    /// Makes the next block; its data records are filled with the low byte of their `Seq`.
    pub(crate) fn block(&mut self, changes: Vec<Change>) -> FrozenBlock {
        let (mut records, mut raw) = (Vec::new(), Vec::new());
        for change in changes {
            self.seq += 1;
            let len = usize::try_from(change.raw_len()).expect("small");
            raw.extend(std::iter::repeat_n(self.seq.to_le_bytes()[0], len));
            records.push(Record {
                seq: Seq(self.seq),
                ends_request: true,
                change,
            });
        }
        let frozen = PackedBlock::pack(records, Bytes::from(raw), Captured::default());
        let frozen = frozen.freeze(BlockPlace {
            machine: MACHINE,
            disk: self.id,
            after: self.tail,
            complete_through: Seq(self.seq),
        });
        self.tail = frozen.position();
        frozen
    }

    /// The next block: one change with these bytes.
    pub(crate) fn block_of(&mut self, change: Change, raw: Vec<u8>) -> FrozenBlock {
        self.seq += 1;
        let record = Record {
            seq: Seq(self.seq),
            ends_request: true,
            change,
        };
        let packed = PackedBlock::pack(vec![record], Bytes::from(raw), Captured::default());
        let frozen = packed.freeze(BlockPlace {
            machine: MACHINE,
            disk: self.id,
            after: self.tail,
            complete_through: Seq(self.seq),
        });
        self.tail = frozen.position();
        frozen
    }

    pub(crate) async fn send(&mut self, block: &FrozenBlock) {
        self.send_bytes(block.to_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) {
        let body = [bytes];
        let sent = self.send.send_frame(FrameKind::Block.code(), &body).await;
        sent.expect("sent");
    }

    pub(crate) async fn send_message(&mut self, message: ToServer) {
        let body = [message.encode()];
        self.send
            .send_frame(FrameKind::Message.code(), &body)
            .await
            .expect("sent");
    }

    /// The block with which a fresh disk begins and is level at once.
    pub(crate) fn first_block(&mut self) -> FrozenBlock {
        let begin = Change::DiskBegin {
            sectors: SECTORS,
            block_size: 512,
            name: "system".into(),
        };
        self.block(vec![
            begin,
            Change::ResyncBegin { base: None },
            Change::ResyncComplete,
        ])
    }

    /// Waits for marks that satisfy `enough`.
    pub(crate) async fn marks(&mut self, enough: impl Fn(&Watermarks) -> bool) -> Watermarks {
        loop {
            match self.receive().await {
                ToAgent::Watermarks(marks) if enough(&marks) => return marks,
                ToAgent::Watermarks(_) => (),
                other => panic!("not marks: {other:?}"),
            }
        }
    }

    pub(crate) async fn cached(&mut self, block_no: u64) {
        self.marks(|marks| BlockNo(block_no) <= marks.cached).await;
    }

    pub(crate) async fn committed(&mut self, block_no: u64) {
        self.marks(|marks| BlockNo(block_no) <= marks.committed)
            .await;
    }
}

pub(crate) fn data(start: u64, sectors: u32) -> Change {
    let sectors = NonZeroU32::new(sectors).expect("above zero");
    let extent = Extent::new(Lba::new(start).expect("small"), sectors);
    Change::Data(extent.expect("small"))
}

/// Data objects in the vault, staged files left out.
pub(crate) fn vault_objects(vault: &Path) -> usize {
    let mut count = 0;
    let mut unread = vec![vault.join("v1/journal")];
    while let Some(dir) = unread.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                unread.push(path);
            } else if path.file_name().is_some_and(|name| name.len() == 20) {
                count += 1;
            }
        }
    }
    count
}
