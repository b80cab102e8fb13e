//! Clients that break the protocol, flood, or fall silent: each costs itself its connection and the
//! others nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_nbd::handshake::{ExportQuery, encode_client_flags, push_option};
use everpoint_nbd::request::{Request, encode_request};
use everpoint_nbd::{
    ClientConfig, MemoryExport, NbdAddress, NbdClient, Server, ServerConfig, ServerStats,
};
use everpoint_units::{ByteLen, ByteOffset};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const OPT_GO: u32 = 7;

/// Far more than anything here takes: what does not come fails the test rather than hold it up.
async fn soon<F: Future>(future: F) -> F::Output {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, future)
        .await
        .expect("it comes")
}

struct Served {
    server: Server,
    directory: TempDir,
}

impl Served {
    fn new(config: ServerConfig) -> Self {
        let server = Server::new(config).expect("a good configuration");
        let directory = tempfile::tempdir().unwrap();
        server.listen_unix(&directory.path().join("s")).unwrap();
        let export = Arc::new(MemoryExport::new(ByteLen(64 << 20)));
        server.attach("disk", export).unwrap();
        Self { server, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    async fn client(&self) -> NbdClient {
        let address = NbdAddress::unix(self.socket(), "disk");
        NbdClient::connect(&address, &ClientConfig::default())
            .await
            .unwrap()
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// A raw connection that has been led through its handshake.
    async fn ready(&self) -> UnixStream {
        let mut stream = self.raw().await;
        let mut bytes = encode_client_flags(true).to_vec();
        push_option(&mut bytes, OPT_GO, &ExportQuery::encode("disk", &[]));
        stream.write_all(&bytes).await.unwrap();
        // The greeting, two pieces of information and the end of them.
        let mut answer = [0; 18 + 20 + 12 + 20 + 14 + 20];
        stream.read_exact(&mut answer).await.unwrap();
        stream
    }

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

/// Whatever is left to read, until the server closes. A reset is a way to close.
async fn drained(mut stream: UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    rest
}

fn write_header(offset: u64, len: u32) -> [u8; 28] {
    encode_request(&Request {
        flags: 0,
        command: 1,
        cookie: 1,
        offset,
        len,
    })
}

#[tokio::test]
async fn garbage_costs_its_sender_the_connection_and_nobody_else() {
    let served = Served::new(ServerConfig::default());
    let good = served.client().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"[..],
        &[0xff; 4_096],
        &[0; 64],
    ] {
        let mut shaking = served.raw().await;
        shaking.write_all(garbage).await.unwrap();
        drained(shaking).await;
        let mut ready = served.ready().await;
        ready.write_all(garbage).await.unwrap();
        drained(ready).await;
        good.flush().await.expect("the good client is not touched");
    }
    let stats = served
        .stats(|s| s.offence_count == 3 && s.open_count == 1)
        .await;
    assert_eq!(stats.failed_handshake_count, 3);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_its_place_is_free_again_later() {
    let served = Served::new(ServerConfig {
        connection_count_max: 2,
        ..ServerConfig::default()
    });
    let first = served.client().await;
    let second = served.client().await;
    assert!(drained(served.raw().await).await.is_empty());
    assert_eq!(served.server.stats().refused_count, 1);
    first.disconnect().await;
    served.stats(|stats| stats.open_count == 1).await;
    served.client().await.flush().await.unwrap();
    second.flush().await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let served = Served::new(ServerConfig {
        handshake_max: Duration::from_millis(20),
        ..ServerConfig::default()
    });
    let silent = served.raw().await;
    assert_eq!(drained(silent).await.len(), 18, "a greeting and no more");
    let stats = served.stats(|stats| stats.open_count == 0).await;
    assert_eq!(stats.failed_handshake_count, 1);
}

#[tokio::test]
async fn clients_that_stop_inside_payloads_give_the_budget_back_to_others() {
    let served = Served::new(ServerConfig {
        payload_len_max: 1 << 20,
        connection_bytes_max: ByteLen(1 << 20),
        server_bytes_max: ByteLen(2 << 20),
        stall_max: Duration::from_millis(50),
        ..ServerConfig::default()
    });
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut stream = served.ready().await;
        stream.write_all(&write_header(0, 1 << 20)).await.unwrap();
        stalled.push(stream);
    }
    served.stats(|stats| stats.held == ByteLen(2 << 20)).await;
    let good = served.client().await;
    let data = Bytes::from(vec![1; 1 << 20]);
    soon(good.write(ByteOffset(0), data, false))
        .await
        .expect("after the others were given up");
    let stats = served.stats(|stats| stats.offence_count == 2).await;
    assert_eq!(stats.held, ByteLen(0));
}

#[tokio::test]
async fn claims_of_many_connections_never_pass_the_servers_budget() {
    let served = Served::new(ServerConfig {
        payload_len_max: 1 << 20,
        connection_bytes_max: ByteLen(1 << 20),
        server_bytes_max: ByteLen(4 << 20),
        ..ServerConfig::default()
    });
    let mut greedy = Vec::new();
    for _ in 0..32 {
        let mut stream = served.ready().await;
        stream.write_all(&write_header(0, 1 << 20)).await.unwrap();
        greedy.push(stream);
    }
    served.stats(|stats| stats.held == ByteLen(4 << 20)).await;
    // Each sends what it owes; all are served in turn.
    let mut tasks = tokio::task::JoinSet::new();
    for mut stream in greedy {
        tasks.spawn(async move {
            stream.write_all(&vec![1; 1 << 20]).await.unwrap();
            let mut reply = [0; 16];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[4..8], [0; 4]);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
        assert!(served.server.stats().held <= ByteLen(4 << 20));
    }
}

#[tokio::test]
async fn a_thousand_connections_that_do_nothing_are_let_go() {
    let served = Served::new(ServerConfig {
        connection_count_max: 2_000,
        ..ServerConfig::default()
    });
    for _ in 0..1_000 {
        drop(served.raw().await);
    }
    served.stats(|stats| stats.open_count == 0).await;
    served.client().await.flush().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_after_the_handshake_hurt_anybody_else(
        bytes in prop::collection::vec(any::<u8>(), 0..4_096),
        headers in prop::collection::vec((any::<u16>(), 0..9_u16, any::<u64>(), 0..200_000_u32), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::new(ServerConfig::default());
            let good = served.client().await;
            let mut stream = served.ready().await;
            for (flags, command, offset, len) in headers {
                let request = Request { flags, command, cookie: 3, offset, len };
                let _ = stream.write_all(&encode_request(&request)).await;
            }
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            drained(stream).await;
            good.flush().await.expect("the good client is not touched");
            served.stats(|stats| stats.open_count == 1).await;
            assert_eq!(served.server.stats().held, ByteLen(0));
        });
    }

    #[test]
    fn no_bytes_in_the_handshake_hurt_anybody_else(
        flags in prop_oneof![Just(1_u32), Just(3), any::<u32>()],
        options in prop::collection::vec((0..12_u32, prop::collection::vec(any::<u8>(), 0..64)), 0..8),
        bytes in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::new(ServerConfig::default());
            let good = served.client().await;
            let mut out = flags.to_be_bytes().to_vec();
            for (option, data) in options {
                push_option(&mut out, option, &data);
            }
            out.extend_from_slice(&bytes);
            let mut stream = served.raw().await;
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
            drained(stream).await;
            good.flush().await.expect("the good client is not touched");
            served.stats(|stats| stats.open_count == 1).await;
        });
    }
}
