//! A disk behind NBD whose peer is slow, refuses, or loses what it was given.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use everpoint_nbd::handshake::{encode_greeting, parse_option_header, push_option_reply};
use everpoint_nbd::protocol::OPTION_HEADER_LEN;
use everpoint_nbd::{Export, ExportInfo, MemoryExport, Server, ServerConfig};
use everpoint_units::DiskId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use super::*;
use crate::config::IdText;

/// More than a request without payload may be long: zeroing it takes two.
const SIZE: ByteLen = ByteLen((1 << 30) + (1 << 20));

/// A disk that holds writes back, and refuses zeroes after some.
struct Peer {
    disk: MemoryExport,
    holds_writes: AtomicBool,
    held: Notify,
    release: Notify,
    /// Zeroings that are done before the next one is refused.
    zeroes_left: AtomicU32,
}

impl Peer {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            disk: MemoryExport::new(SIZE),
            holds_writes: AtomicBool::new(false),
            held: Notify::new(),
            release: Notify::new(),
            zeroes_left: AtomicU32::new(u32::MAX),
        })
    }

    fn serve(self: &Arc<Self>, dir: &Path) -> Server {
        let server = Server::new(ServerConfig::default()).expect("defaults");
        server.attach("disk", Arc::clone(self)).expect("free");
        server.listen_unix(&dir.join("socket")).expect("free");
        server
    }
}

impl Export for Peer {
    fn describe(&self) -> ExportInfo {
        self.disk.describe()
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        self.disk.read(at, len).await
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        if self.holds_writes.load(SeqCst) {
            self.held.notify_one();
            self.release.notified().await;
        }
        self.disk.write(at, data, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.disk.flush().await
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        self.disk.trim(at, len, fua).await
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        let less = |left: u32| left.checked_sub(1);
        match self.zeroes_left.fetch_update(SeqCst, SeqCst, less) {
            Ok(_) => self.disk.write_zeroes(at, len, flags).await,
            Err(_) => Err(Errno::NotSup),
        }
    }
}

async fn open(dir: &Path) -> Result<NbdSource, SourceOpenError> {
    let address = NbdAddress::unix(dir.join("socket"), "disk");
    let config = DiskConfig {
        id: IdText(DiskId([1; 16])),
        name: "d".into(),
        source: address.to_string(),
        block_size: None,
        direct: false,
    };
    NbdSource::open(&config, address, Handle::current()).await
}

fn extent(at: u64, len: u64) -> Extent {
    Extent::from_bytes(ByteOffset(at), ByteLen(len)).expect("whole sectors")
}

const FAST: ZeroMode = ZeroMode {
    may_discard: true,
    fast_only: true,
};

#[tokio::test]
async fn a_write_that_a_flush_overtook_is_missed_by_the_first_flush_after_a_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let peer = Peer::new();
    let server = peer.serve(dir.path());
    let source = open(dir.path()).await.expect("served");
    peer.holds_writes.store(true, SeqCst);
    let write = source.write(extent(0, 512), Bytes::from_static(&[7; 512]));
    let overtake = async {
        peer.held.notified().await;
        let flushed = source.flush().await;
        peer.release.notify_one();
        flushed
    };
    let (written, flushed) = tokio::join!(write, overtake);
    written.expect("done after the flush");
    flushed.expect("done before the write");
    server.shutdown().await;
    drop(server);
    // Another peer at the same place, without what was not flushed.
    let _server = Peer::new().serve(dir.path());
    let noticed = source.read(extent(0, 512)).await;
    noticed.expect_err("the connection is gone");
    source.client.lock().await.tried_at -= RECONNECT_PAUSE;
    let flushed = source.flush().await;
    assert!(
        matches!(flushed, Err(SourceError::NbdGone)),
        "not {flushed:?}"
    );
    assert_eq!(source.losses(), 1);
    source.flush().await.expect("it has been told");
}

#[tokio::test]
async fn a_fast_zero_that_the_peer_refuses_has_changed_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let peer = Peer::new();
    let _server = peer.serve(dir.path());
    let source = open(dir.path()).await.expect("served");
    assert!(source.facts().zeroes_fast);
    peer.zeroes_left.store(0, SeqCst);
    let zeroed = source.zero(extent(0, 4_096), FAST).await;
    assert!(
        matches!(zeroed, Err(SourceError::NotFast)),
        "not {zeroed:?}"
    );
}

#[tokio::test]
async fn a_fast_zero_that_is_refused_half_way_is_a_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let peer = Peer::new();
    let _server = peer.serve(dir.path());
    let source = open(dir.path()).await.expect("served");
    peer.zeroes_left.store(1, SeqCst);
    let zeroed = source.zero(extent(0, SIZE.0), FAST).await;
    let refused = RequestError::Server(Errno::NotSup);
    assert!(
        matches!(&zeroed, Err(SourceError::Nbd(error)) if error.to_string() == refused.to_string()),
        "not {zeroed:?}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_flush_is_refused() {
    const GO: u32 = 7;
    const INFO: u32 = 3;
    const UNSUPPORTED: u32 = (1 << 31) | 1;
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("socket")).expect("free");
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("somebody comes");
        let greeting = encode_greeting();
        stream.write_all(&greeting).await.expect("sent");
        stream.read_exact(&mut [0; 4]).await.expect("flags");
        loop {
            let mut header = [0; OPTION_HEADER_LEN];
            stream.read_exact(&mut header).await.expect("an option");
            let header = parse_option_header(&header).expect("well made");
            let mut data = vec![0; usize::try_from(header.len).expect("small")];
            stream.read_exact(&mut data).await.expect("its data");
            let mut replies = Vec::new();
            if header.option == GO {
                // The export: its size, and flags without one that offers flushes.
                let mut info = vec![0, 0];
                info.extend_from_slice(&SIZE.0.to_be_bytes());
                info.extend_from_slice(&1_u16.to_be_bytes());
                push_option_reply(&mut replies, GO, INFO, &info);
                push_option_reply(&mut replies, GO, 1, b"");
            } else {
                push_option_reply(&mut replies, header.option, UNSUPPORTED, b"");
            }
            stream.write_all(&replies).await.expect("sent");
            if header.option == GO {
                return stream;
            }
        }
    };
    let (opened, _stream) = tokio::join!(open(dir.path()), serve);
    let error = opened.err().expect("refused");
    assert!(
        matches!(error, SourceOpenError::NoFlush { .. }),
        "not {error}"
    );
    assert!(error.to_string().contains("cannot flush"), "{error}");
}
