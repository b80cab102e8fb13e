//! A client of bare QUIC: it can send what the transport of an agent never would.

use std::net::SocketAddr;
use std::sync::Arc;

use everpoint_transport::CloseReason;
use everpoint_transport::pki::Issued;
use everpoint_units::{DiskId, Level, MachineId};
use everpoint_wire::{ANSWER_LEN_MAX, FrameKind, Hello, PROTOCOL, ToAgent, ToServer};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::rig::{Site, now, soon};

/// How a peer's connection ended, by its numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// With the number of a reason.
    Reason(u64),
    /// With a TLS alert.
    Alert(u64),
}

impl Ended {
    pub(crate) fn with(reason: CloseReason) -> Self {
        Self::Reason(reason.code().into())
    }
}

/// A connection of `machine`, whatever that is worth.
pub(crate) struct Raw {
    pub(crate) machine: MachineId,
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

/// Both halves of a stream.
pub(crate) type Stream = (SendStream, RecvStream);

/// Certificate and key, or none.
pub(crate) async fn connect(
    site: &Site,
    address: SocketAddr,
    (machine, issued): (MachineId, Option<Issued>),
    window: u32,
) -> Result<Raw, ConnectionError> {
    let ca = CertificateDer::from_pem_file(site.path("ca.pem")).expect("the CA");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("a CA");
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
    let mut tls = match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose().as_bytes());
            builder
                .with_client_auth_cert(vec![chain.expect("one")], key.expect("one"))
                .expect("a pair")
        }
    };
    tls.alpn_protocols = vec![b"everpoint/1".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("AES-128-GCM is there");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(window));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let connecting = endpoint.connect_with(config, address, "127.0.0.1");
    let connection = soon("a handshake", connecting.expect("an address")).await?;
    Ok(Raw {
        machine,
        connection,
        _endpoint: endpoint,
    })
}

impl Raw {
    /// The next stream, when the server allows one more.
    pub(crate) async fn open(&self) -> Stream {
        let opened = soon("a stream", self.connection.open_bi()).await;
        opened.expect("the connection stands")
    }

    /// A stream that began with these bytes.
    pub(crate) async fn open_with(&self, bytes: &[u8]) -> Stream {
        let mut stream = self.open().await;
        // It may be cut off for the first of them.
        let _ = stream.0.write_all(bytes).await;
        stream
    }

    /// Says hello as it should be; the stream has to be kept.
    pub(crate) async fn hello(&self, disk_count: u32) -> Stream {
        let hello = message(ToServer::Hello(hello_of(self.machine, disk_count)));
        let mut stream = self.open_with(&hello).await;
        assert!(matches!(
            receive(&mut stream.1).await,
            ToAgent::HelloAnswer(_)
        ));
        stream
    }

    /// Opens a disk as it should be.
    pub(crate) async fn disk(&self, disk: DiskId) -> Stream {
        let mut stream = self.open_with(&message(ToServer::OpenDisk { disk })).await;
        assert!(matches!(
            receive(&mut stream.1).await,
            ToAgent::DiskState(_)
        ));
        stream
    }

    /// How the server ended it.
    pub(crate) async fn ended(&self) -> Ended {
        ended_with(&soon("the close", self.connection.closed()).await)
    }
}

/// The numbers in an error.
pub(crate) fn ended_with(error: &ConnectionError) -> Ended {
    match error {
        ConnectionError::ApplicationClosed(close) => Ended::Reason(close.error_code.into_inner()),
        ConnectionError::ConnectionClosed(close) => {
            let alert = u64::from(close.error_code).checked_sub(0x100);
            Ended::Alert(alert.expect("an alert of TLS"))
        }
        other => panic!("not ended by the server: {other:?}"),
    }
}

pub(crate) fn hello_of(machine: MachineId, disk_count: u32) -> Hello {
    Hello {
        protocol: PROTOCOL,
        machine,
        highest_epoch: Level(0),
        vault: None,
        clock: now(),
        disk_count,
    }
}

/// The bytes of a frame, as they should be.
pub(crate) fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("small");
    [&header(len, kind.code(), 0)[..], body].concat()
}

pub(crate) fn message(message: ToServer) -> Vec<u8> {
    frame(FrameKind::Message, &message.encode())
}

/// Eight bytes that say they are the header of a frame.
pub(crate) fn header(len: u32, kind: u8, reserved: u8) -> [u8; 8] {
    let [a, b, c, d] = len.to_le_bytes();
    [a, b, c, d, kind, 0, 0, reserved]
}

/// The next message.
pub(crate) async fn receive(recv: &mut RecvStream) -> ToAgent {
    let read = async {
        let mut header = [0; 8];
        recv.read_exact(&mut header).await.expect("a header");
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let len = usize::try_from(len).expect("a length");
        assert!(len <= ANSWER_LEN_MAX);
        let mut body = vec![0; len];
        recv.read_exact(&mut body).await.expect("a body");
        body
    };
    let body = soon("a message", read).await;
    ToAgent::decode(body.into()).expect("a message")
}
