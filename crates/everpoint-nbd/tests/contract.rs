//! One contract for every kind of export, seen by our own client through a real socket; and what a
//! server promises about names, sockets and its own end.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "numbers of a test are small, or meant to wrap; a test fails by panicking"
)]

#[path = "support/file_export.rs"]
mod file_export;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_nbd::{
    Allocation, AnyExport, AttachError, BlockSizes, ClientConfig, ConnectError, Errno, Export,
    ExportInfo, ListenError, MemoryExport, NbdAddress, NbdClient, Refusal, RequestError, Server,
    ServerConfig, ServerStats, UnservableError, ZeroFlags, ZeroSupport,
};
use everpoint_units::{ByteLen, ByteOffset};
use file_export::FileExport;
use proptest::prelude::*;
use tempfile::TempDir;

const SIZE: ByteLen = ByteLen(8 << 20);

/// Far more than anything here takes: what does not come fails the test rather than hold it up.
async fn soon<F: Future>(future: F) -> F::Output {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, future)
        .await
        .expect("it comes")
}

/// A server with a socket in a directory of its own.
struct Served {
    server: Server,
    directory: TempDir,
}

impl Served {
    fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        let served = Self {
            server: Server::new(config).expect("a good configuration"),
            directory: tempfile::tempdir().unwrap(),
        };
        served.server.listen_unix(&served.socket()).unwrap();
        served
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd.sock")
    }

    fn address(&self, name: &str) -> NbdAddress {
        NbdAddress::unix(self.socket(), name)
    }

    async fn client(&self, name: &str) -> NbdClient {
        let address = self.address(name);
        let client = NbdClient::connect(&address, &ClientConfig::default()).await;
        client.unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    fn memory(&self, name: &str) -> Arc<MemoryExport> {
        let export = Arc::new(MemoryExport::new(SIZE));
        self.server.attach(name, Arc::clone(&export)).unwrap();
        export
    }

    /// Statistics once `fits`: what is counted at the end of a connection is counted a moment
    /// after the other side has seen that end.
    async fn stats(&self, fits: impl Fn(&ServerStats) -> bool) -> ServerStats {
        let watching = async {
            loop {
                let stats = self.server.stats();
                if fits(&stats) {
                    return stats;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(watching).await
    }
}

/// The next server in a chain: everything goes to another one.
struct Proxy(NbdClient);

impl Export for Proxy {
    fn describe(&self) -> ExportInfo {
        self.0.info().clone()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.0.read(at, len).await.map_err(|e| e.errno())
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        self.0.write(at, data, fua).await.map_err(|e| e.errno())
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await.map_err(|e| e.errno())
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.0.trim(at, len, fua).await.map_err(|e| e.errno())
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, how: ZeroFlags) -> Result<(), Errno> {
        self.0
            .write_zeroes(at, len, how)
            .await
            .map_err(|e| e.errno())
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        self.0.block_status(at, len).await.map_err(|e| e.errno())
    }
}

fn pattern(seed: u32, len: usize) -> Bytes {
    (0..len)
        .map(|i| (i as u32 / 512).wrapping_mul(31).wrapping_add(seed) as u8 | 1)
        .collect()
}

/// What every export must do, asked by a client that starts with an empty disk of [`SIZE`].
async fn keeps_the_contract(client: &NbdClient) {
    let disk = SIZE.0;
    assert_eq!(client.info().size, SIZE);
    assert!(client.is_structured() && client.has_block_status());

    for (at, len) in [
        (0, 512),
        (512, 4_096),
        (65_536, 300 << 10),
        (disk - 512, 512),
    ] {
        let data = pattern(at as u32, len);
        client
            .write(ByteOffset(at), data.clone(), false)
            .await
            .unwrap();
        assert_eq!(client.read(ByteOffset(at), len as u32).await.unwrap(), data);
    }
    client.flush().await.unwrap();

    let data = pattern(9, 64 << 10);
    client
        .write(ByteOffset(1 << 20), data.clone(), true)
        .await
        .unwrap();
    let how = ZeroFlags::default();
    client
        .write_zeroes(ByteOffset((1 << 20) + 512), 8_192, how)
        .await
        .unwrap();
    let read = client.read(ByteOffset(1 << 20), 64 << 10).await.unwrap();
    assert_eq!(read[..512], data[..512]);
    assert_eq!(read[512..8_704], [0; 8_192]);
    assert_eq!(read[8_704..], data[8_704..]);

    let no_hole = ZeroFlags {
        no_hole: true,
        ..how
    };
    client
        .write_zeroes(ByteOffset(2 << 20), 1 << 20, no_hole)
        .await
        .unwrap();
    client
        .trim(ByteOffset(1 << 20), 64 << 10, false)
        .await
        .unwrap();

    let mut at = 0;
    while at < disk {
        let len = u32::try_from(disk - at).unwrap();
        let extents = client.block_status(ByteOffset(at), len).await.unwrap();
        assert!(extents.iter().all(|extent| extent.len % 512 == 0));
        for extent in extents {
            let read = client.read(ByteOffset(at), extent.len).await.unwrap();
            let zero = read.iter().all(|byte| *byte == 0);
            assert!(zero || !extent.zero, "{extent:?} at {at} is not zero");
            at += u64::from(extent.len);
        }
    }
    assert_eq!(at, disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_export_keeps_the_contract() {
    let served = Served::new();
    served.memory("memory");
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE.0).unwrap();
    served
        .server
        .attach("file", Arc::new(FileExport::new(file)))
        .unwrap();
    let any = AnyExport::new(Arc::new(MemoryExport::new(SIZE)));
    served.server.attach("any", Arc::new(any)).unwrap();
    served.memory("behind");
    let proxy = Proxy(served.client("behind").await);
    served.server.attach("proxy", Arc::new(proxy)).unwrap();

    for name in ["memory", "file", "any", "proxy"] {
        keeps_the_contract(&served.client(name).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_carries_the_same_protocol() {
    let served = Served::new();
    served.memory("disk");
    let bound = served
        .server
        .listen_tcp("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address: NbdAddress = format!("nbd://{bound}/disk").parse().unwrap();
    let client = NbdClient::connect(&address, &ClientConfig::default())
        .await
        .unwrap();
    keeps_the_contract(&client).await;
    client.disconnect().await;
    served
        .stats(|stats| stats.open_count == 0 && stats.ended_count == 1)
        .await;
}

#[tokio::test]
async fn a_client_without_structured_replies_reads_the_same() {
    let served = Served::new();
    served.memory("disk");
    let config = ClientConfig {
        structured: false,
        ..ClientConfig::default()
    };
    let client = NbdClient::connect(&served.address(""), &config)
        .await
        .unwrap();
    let data = pattern(3, 100 << 10);
    client
        .write(ByteOffset(512), data.clone(), false)
        .await
        .unwrap();
    assert_eq!(client.read(ByteOffset(512), 100 << 10).await.unwrap(), data);
    let refused = client.block_status(ByteOffset(0), 512).await.unwrap_err();
    assert!(matches!(
        refused,
        RequestError::Refused(Refusal::NotOffered)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_requests_in_flight_find_their_answers() {
    let served = Served::new();
    served.memory("disk");
    let client = Arc::new(served.client("disk").await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500_u32 {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let at = ByteOffset(u64::from(n) * 8_192);
            let data = pattern(n, 512 + 512 * (n as usize % 16));
            client.write(at, data.clone(), n % 50 == 0).await.unwrap();
            let read = client.read(at, u32::try_from(data.len()).unwrap()).await;
            assert_eq!(read.unwrap(), data);
        });
    }
    tasks.join_all().await;
    served.stats(|stats| stats.held == ByteLen(0)).await;
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u32, bool),
    Trim(u64, u32),
    Read(u64, u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Extents of 1 to 300 sectors anywhere on a disk of 1 MiB.
    let extent = (0..1_748_u64, 1..300_u32).prop_map(|(at, len)| (at * 512, len * 512));
    prop_oneof![
        (extent.clone(), any::<u8>()).prop_map(|((at, len), b)| Step::Write(at, len as usize, b)),
        (extent.clone(), any::<bool>()).prop_map(|((at, len), n)| Step::Zero(at, len, n)),
        extent.clone().prop_map(|(at, len)| Step::Trim(at, len)),
        extent.prop_map(|(at, len)| Step::Read(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_written_is_what_is_read(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::new();
            let export = Arc::new(MemoryExport::new(ByteLen(1 << 20)));
            served.server.attach("disk", Arc::clone(&export)).unwrap();
            let client = served.client("disk").await;
            let mut oracle = vec![0_u8; 1 << 20];
            for step in steps {
                match step {
                    Step::Write(at, len, byte) => {
                        let len = len.min(oracle.len() - at as usize);
                        let data = Bytes::from(vec![byte; len]);
                        client.write(ByteOffset(at), data, false).await.unwrap();
                        oracle[at as usize..at as usize + len].fill(byte);
                    }
                    Step::Zero(at, len, no_hole) => {
                        let len = len.min((1 << 20) - at as u32);
                        let how = ZeroFlags { no_hole, ..ZeroFlags::default() };
                        client.write_zeroes(ByteOffset(at), len, how).await.unwrap();
                        oracle[at as usize..at as usize + len as usize].fill(0);
                    }
                    Step::Trim(at, len) => {
                        let len = len.min((1 << 20) - at as u32);
                        client.trim(ByteOffset(at), len, false).await.unwrap();
                        oracle[at as usize..at as usize + len as usize].fill(0);
                    }
                    Step::Read(at, len) => {
                        let len = len.min((1 << 20) - at as u32);
                        let read = client.read(ByteOffset(at), len).await.unwrap();
                        assert!(read == oracle[at as usize..at as usize + len as usize]);
                    }
                }
            }
            assert!(export.contents() == oracle);
            client.disconnect().await;
            soon(served.server.shutdown()).await;
        });
    }
}

#[tokio::test]
async fn a_read_only_export_says_so_and_refuses_changes() {
    let served = Served::new();
    let info = ExportInfo {
        read_only: true,
        ..ExportInfo::disk(SIZE)
    };
    served
        .server
        .attach("ro", Arc::new(MemoryExport::with_info(info)))
        .unwrap();
    let client = served.client("ro").await;
    assert!(client.info().read_only);
    let refused = client.write(ByteOffset(0), pattern(0, 512), false).await;
    assert!(matches!(
        refused,
        Err(RequestError::Refused(Refusal::ReadOnly))
    ));
    assert!(client.read(ByteOffset(0), 512).await.is_ok());
}

#[tokio::test]
async fn large_blocks_and_small_payloads_are_told_to_the_client() {
    let served = Served::with(ServerConfig {
        payload_len_max: 64 << 10,
        ..ServerConfig::default()
    });
    let info = ExportInfo {
        blocks: BlockSizes::PAGES,
        zeroes: ZeroSupport::None,
        trim: false,
        ..ExportInfo::disk(SIZE)
    };
    served
        .server
        .attach("disk", Arc::new(MemoryExport::with_info(info)))
        .unwrap();
    let client = served.client("disk").await;
    let blocks = client.info().blocks;
    assert_eq!((blocks.min(), blocks.payload_max()), (4_096, 64 << 10));
    let refused = client.read(ByteOffset(512), 4_096).await;
    assert!(matches!(
        refused,
        Err(RequestError::Refused(Refusal::Misaligned))
    ));
    let refused = client.read(ByteOffset(0), 128 << 10).await;
    assert!(matches!(
        refused,
        Err(RequestError::Refused(Refusal::TooLong))
    ));
    let refused = client.trim(ByteOffset(0), 4_096, false).await;
    assert!(matches!(
        refused,
        Err(RequestError::Refused(Refusal::NotOffered))
    ));
}

#[tokio::test]
async fn exports_come_and_go_while_the_server_runs() {
    let served = Served::new();
    served.memory("a");
    let only = served.client("").await;
    only.write(ByteOffset(0), pattern(1, 512), false)
        .await
        .unwrap();
    let b = served.memory("b");
    assert_eq!(served.server.exports(), ["a", "b"]);
    let taken = served.server.attach("b", b);
    assert_eq!(taken, Err(AttachError::NameTaken));

    let client = served.client("b").await;
    assert!(soon(served.server.detach("a")).await);
    assert!(!soon(served.server.detach("a")).await);
    soon(only.lost()).await;
    let gone = NbdClient::connect(&served.address("a"), &ClientConfig::default()).await;
    assert!(matches!(gone.err(), Some(ConnectError::UnknownExport)));
    client
        .flush()
        .await
        .expect("the other export is still served");
}

#[tokio::test]
async fn names_and_exports_that_cannot_be_served_are_refused_at_once() {
    let served = Served::with(ServerConfig {
        export_count_max: 1,
        payload_len_max: 64 << 10,
        ..ServerConfig::default()
    });
    let attach = |name: &str, info| {
        served
            .server
            .attach(name, Arc::new(MemoryExport::with_info(info)))
    };
    let disk = ExportInfo::disk(SIZE);
    assert_eq!(
        attach(&"n".repeat(4_097), disk.clone()),
        Err(AttachError::BadName)
    );
    assert_eq!(attach("a\0b", disk.clone()), Err(AttachError::BadName));
    let odd = ExportInfo::disk(ByteLen(1_000));
    assert!(matches!(
        attach("odd", odd),
        Err(AttachError::Unservable(UnservableError::Info(_)))
    ));
    let blocks = BlockSizes::new(512, 1 << 20, 32 << 20).unwrap();
    let large = ExportInfo {
        blocks,
        ..disk.clone()
    };
    assert!(matches!(
        attach("large", large),
        Err(AttachError::Unservable(
            UnservableError::BlockTooLarge { .. }
        ))
    ));
    assert_eq!(attach("a", disk.clone()), Ok(()));
    assert_eq!(
        attach("b", disk),
        Err(AttachError::TooMany { count_max: 1 })
    );
}

#[tokio::test]
async fn a_socket_is_private_and_goes_with_its_server() {
    let served = Served::new();
    let mode = std::fs::metadata(served.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    soon(served.server.shutdown()).await;
    assert!(!served.socket().exists());
    soon(served.server.shutdown()).await;
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_replaced_and_any_other_file_is_not() {
    let served = Served::new();
    let busy = served.server.listen_unix(&served.socket());
    assert!(matches!(busy, Err(ListenError::InUse { .. })));
    served.memory("disk");
    served
        .client("disk")
        .await
        .flush()
        .await
        .expect("the first still serves");

    let stale = served.directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    served.server.listen_unix(&stale).unwrap();
    let address = NbdAddress::unix(&stale, "disk");
    NbdClient::connect(&address, &ClientConfig::default())
        .await
        .unwrap();

    let file = served.directory.path().join("file");
    std::fs::write(&file, b"precious").unwrap();
    let refused = served.server.listen_unix(&file);
    assert!(matches!(refused, Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let nowhere = served
        .server
        .listen_unix(Path::new("/nonexistent/nbd.sock"));
    assert!(matches!(nowhere, Err(ListenError::Unix { .. })));
}

#[tokio::test]
async fn a_server_never_removes_the_socket_of_another() {
    let first = Served::new();
    std::fs::remove_file(first.socket()).unwrap();
    let second = Server::new(ServerConfig::default()).unwrap();
    second.listen_unix(&first.socket()).unwrap();
    second
        .attach("disk", Arc::new(MemoryExport::new(SIZE)))
        .unwrap();
    first.server.shutdown().await;
    first
        .client("disk")
        .await
        .flush()
        .await
        .expect("the second serves");
}

#[tokio::test]
async fn a_shutdown_lets_go_of_clients_and_of_handshakes() {
    let served = Served::new();
    served.memory("disk");
    let client = served.client("disk").await;
    let _shaking = tokio::net::UnixStream::connect(served.socket())
        .await
        .unwrap();
    served.stats(|stats| stats.open_count == 2).await;
    soon(served.server.shutdown()).await;
    soon(client.lost()).await;
    assert_eq!(served.server.stats().open_count, 0);
    let error = client.flush().await.unwrap_err();
    assert!(matches!(error, RequestError::Disconnected(_)));
    let gone = NbdClient::connect(&served.address("disk"), &ClientConfig::default()).await;
    assert!(matches!(gone.err(), Some(ConnectError::Unreachable(_))));
}

#[tokio::test]
async fn an_end_in_order_and_a_client_that_is_dropped_leave_nothing_behind() {
    let served = Served::new();
    served.memory("disk");
    served.client("disk").await.disconnect().await;
    drop(served.client("disk").await);
    let stats = served.stats(|stats| stats.ended_count == 2).await;
    assert_eq!((stats.offence_count, stats.held), (0, ByteLen(0)));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mute.sock");
    let _mute = tokio::net::UnixListener::bind(&socket).unwrap();
    let config = ClientConfig {
        handshake_max: Duration::from_millis(20),
        ..ClientConfig::default()
    };
    let connected = NbdClient::connect(&NbdAddress::unix(&socket, ""), &config).await;
    assert!(matches!(connected.err(), Some(ConnectError::TimedOut)));
}
