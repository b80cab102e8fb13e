//! Both ends of a QUIC link on loopback, each a thread with a runtime of its own: bare quinn, and
//! everpoint's frames on it.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use everpoint_transport::pki::{CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, Credentials, Issued};
use everpoint_transport::{
    ByteBudget, ClientTransportConfig, CloseReason, Connector, ExpectedServer, Listener,
    ServerTransportConfig, TransportTuning, Validity,
};
use everpoint_units::{MachineId, ServerId, WallTime};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::{Builder, Runtime};

/// What each frame carries. Unit: bytes.
pub const FRAME_LEN: usize = 1 << 20;
const SERVER: ServerId = ServerId([1; 16]);

/// What a run is made with.
#[derive(Clone)]
pub struct Setup {
    frames: usize,
    mtu: u16,
    /// Where everpoint's receive window starts. Unit: bytes.
    window: u32,
    ca_pem: String,
    server: Issued,
    agent: Issued,
    payload: Bytes,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub gb_per_s: f64,
    /// Processor time of each end.
    pub send_s_per_gb: f64,
    pub receive_s_per_gb: f64,
    pub packets_lost: u64,
}

fn now() -> WallTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("a clock after 1970");
    WallTime(u64::try_from(now.as_micros()).expect("before the year 500,000"))
}

impl Setup {
    /// `frames` of 1 MiB in datagrams of `mtu` bytes; `window` is where everpoint's receive window
    /// starts. Unit: bytes.
    ///
    /// # Panics
    ///
    /// If no certificate can be made.
    pub fn new(frames: usize, mtu: u16, window: u32) -> Self {
        let ca = Ca::create(Validity::from_now(now(), CA_LIFETIME)).expect("a CA");
        let year = Validity::from_now(now(), CERTIFICATE_LIFETIME);
        let server = ca.issue_server(SERVER, &["localhost"], year);
        let agent = ca.issue_agent(MachineId([2; 16]), year);
        Self {
            frames,
            mtu,
            window,
            ca_pem: ca.certificate_pem().to_owned(),
            server: server.expect("issued"),
            agent: agent.expect("issued"),
            payload: (0..FRAME_LEN)
                .map(|i| (i * 31 % 251).to_le_bytes()[0])
                .collect(),
        }
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is never negative")
}

/// Runs a receiver, which says where it is, and a sender, each on a thread; gives the time from the
/// receiver's first byte to its last.
fn both_ends(
    setup: &Setup,
    receive: impl FnOnce(&Runtime, mpsc::Sender<SocketAddr>) -> Duration + Send,
    send: impl FnOnce(&Runtime, SocketAddr) -> u64 + Send,
) -> Sample {
    let (address_in, address_out) = mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let took = receive(&runtime(), address_in);
            (took, cpu())
        });
        let sender = scope.spawn(move || {
            let address = address_out.recv().expect("the receiver listens");
            let lost = send(&runtime(), address);
            (lost, cpu())
        });
        let (took, receive_cpu) = receiver.join().expect("the receiver is well");
        let (packets_lost, send_cpu) = sender.join().expect("the sender is well");
        let gb = (setup.frames * FRAME_LEN) as f64 / 1e9;
        Sample {
            gb_per_s: gb / took.as_secs_f64(),
            send_s_per_gb: send_cpu.as_secs_f64() / gb,
            receive_s_per_gb: receive_cpu.as_secs_f64() / gb,
            packets_lost,
        }
    })
}

/// One stream of frames over everpoint's link.
///
/// # Panics
///
/// If an end fails.
pub fn framed(setup: &Setup) -> Sample {
    let good = |issued: &Issued| {
        let Issued {
            certificate_pem,
            key_pem,
            ..
        } = issued;
        Credentials::from_pem(certificate_pem, key_pem, &setup.ca_pem, now()).expect("good")
    };
    let tuning = TransportTuning {
        mtu_max: setup.mtu,
        receive_window_start: setup.window,
        ..TransportTuning::default()
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = ServerTransportConfig::new(loopback, good(&setup.server));
    server.tuning = tuning;
    let mut client = ClientTransportConfig::new(good(&setup.agent));
    (client.bind, client.tuning) = (Some(loopback), tuning);
    let budget = ByteBudget::new(256 << 20);
    let receive = |runtime: &Runtime, address: mpsc::Sender<SocketAddr>| {
        runtime.block_on(async {
            let mut listener = Listener::bind(server, budget.clone()).expect("bound");
            address
                .send(listener.local_address().expect("bound"))
                .expect("heard");
            let link = listener.accept().await.expect("an agent");
            let (mut answer, mut recv) = link.accept_stream().await.expect("a stream");
            let began = Instant::now();
            let mut frames = 0;
            while let Some(frame) = recv.recv_frame(|_| Some(1 << 20)).await.expect("a frame") {
                assert_eq!(frame.body.len(), FRAME_LEN);
                frames += 1;
            }
            assert_eq!(frames, setup.frames);
            let took = began.elapsed();
            let done = [Bytes::from_static(b"done")];
            answer.send_frame(1, &done).await.expect("sent");
            link.closed().await;
            took
        })
    };
    let send = |runtime: &Runtime, address: SocketAddr| {
        runtime.block_on(async {
            let connector = Connector::bind(client, budget.clone()).expect("bound");
            let expected = ExpectedServer::Id(SERVER);
            let link = connector
                .connect(address, &expected)
                .await
                .expect("connected");
            let (mut send, mut answer) = link.open_stream().await.expect("a stream");
            for _ in 0..setup.frames {
                let pieces = [setup.payload.clone()];
                send.send_frame(1, &pieces).await.expect("sent");
            }
            send.finish().await.expect("sent");
            answer.recv_frame(|_| Some(100)).await.expect("an answer");
            let lost = link.stats().packets_lost;
            connector.shutdown(CloseReason::Shutdown).await;
            lost
        })
    };
    both_ends(setup, receive, send)
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

/// The same sockets, windows and datagrams, and nothing else.
fn bare_endpoint(setup: &Setup, server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(8 << 20).expect("granted");
    socket.set_send_buffer_size(8 << 20).expect("granted");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&loopback.into()).expect("bound");
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(setup.mtu.max(1_472))
        .expect("in range");
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(config, server, socket.into(), runtime).expect("an endpoint")
}

fn bare_transport(setup: &Setup) -> Arc<quinn::TransportConfig> {
    let mut path = quinn::MtuDiscoveryConfig::default();
    path.upper_bound(setup.mtu);
    let mut transport = quinn::TransportConfig::default();
    transport
        .receive_window(quinn::VarInt::from_u32(2 << 20))
        .stream_receive_window(quinn::VarInt::from_u32(2 << 20))
        .send_window(8 << 20)
        .mtu_discovery_config(Some(path));
    Arc::new(transport)
}

/// The same bytes over one stream of quinn, with nothing of everpoint.
///
/// # Panics
///
/// If an end fails.
pub fn bare(setup: &Setup) -> Sample {
    let chain = CertificateDer::from_pem_slice(setup.server.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(setup.server.key_pem.expose().as_bytes());
    let ca = CertificateDer::from_pem_slice(setup.ca_pem.as_bytes()).expect("a CA");
    let crypto = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![chain.expect("a certificate")], key.expect("a key"))
        .expect("they match");
    let crypto = QuicServerConfig::try_from(crypto).expect("AES-128");
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(bare_transport(setup));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).expect("a CA");
    let crypto = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let crypto = QuicClientConfig::try_from(crypto).expect("AES-128");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(bare_transport(setup));

    let receive = |runtime: &Runtime, address: mpsc::Sender<SocketAddr>| {
        runtime.block_on(async {
            let endpoint = bare_endpoint(setup, Some(server));
            address
                .send(endpoint.local_addr().expect("bound"))
                .expect("heard");
            let connection = endpoint.accept().await.expect("a client").await;
            let connection = connection.expect("a connection");
            let (mut answer, mut recv) = connection.accept_bi().await.expect("a stream");
            let began = Instant::now();
            let mut chunks: [Bytes; 32] = Default::default();
            let mut len = 0;
            while let Some(count) = recv.read_chunks(&mut chunks).await.expect("bytes") {
                len += chunks[..count].iter().map(Bytes::len).sum::<usize>();
            }
            assert_eq!(len, setup.frames * FRAME_LEN);
            let took = began.elapsed();
            answer.write_all(b"done").await.expect("sent");
            connection.closed().await;
            took
        })
    };
    let send = |runtime: &Runtime, address: SocketAddr| {
        runtime.block_on(async {
            let endpoint = bare_endpoint(setup, None);
            let connecting = endpoint.connect_with(client, address, "localhost");
            let connection = connecting.expect("an address").await.expect("connected");
            let (mut send, mut answer) = connection.open_bi().await.expect("a stream");
            for _ in 0..setup.frames {
                send.write_chunk(setup.payload.clone()).await.expect("sent");
            }
            send.finish().expect("sent");
            answer.read_exact(&mut [0; 4]).await.expect("an answer");
            let lost = connection.stats().path.lost_packets;
            endpoint.close(0_u32.into(), b"");
            endpoint.wait_idle().await;
            lost
        })
    };
    both_ends(setup, receive, send)
}
