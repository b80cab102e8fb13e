//! What strangers and slow readers can cost, measured on the whole process: hence a binary of its
//! own, whose tests take turns.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be"
)]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use everpoint_transport::pki::{CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, Credentials, Issued};
use everpoint_transport::{
    ByteBudget, ClientTransportConfig, CloseReason, Connector, ExpectedServer, Listener,
    ServerTransportConfig, Validity,
};
use everpoint_units::{MachineId, ServerId, WallTime};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const CLIENTS: usize = 200;
const SERVER: ServerId = ServerId([1; 16]);
const MIB: usize = 1 << 20;

/// One test at a time, because they measure the process.
static TURN: Mutex<()> = Mutex::const_new(());

fn now() -> WallTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    WallTime(u64::try_from(now.unwrap().as_micros()).unwrap())
}

/// Memory that the process has in use. Unit: bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

fn configs() -> (ServerTransportConfig, ClientTransportConfig) {
    let ca = Ca::create(Validity::from_now(now(), CA_LIFETIME)).unwrap();
    let year = Validity::from_now(now(), CERTIFICATE_LIFETIME);
    let good = |issued: Issued| {
        let Issued {
            certificate_pem,
            key_pem,
            ..
        } = issued;
        Credentials::from_pem(&certificate_pem, &key_pem, ca.certificate_pem(), now()).unwrap()
    };
    let server = good(ca.issue_server(SERVER, &["localhost"], year).unwrap());
    let agent = good(ca.issue_agent(MachineId([2; 16]), year).unwrap());
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut client = ClientTransportConfig::new(agent);
    client.bind = Some(loopback);
    // Long enough for a machine that has much else to do.
    client.tuning.handshake_timeout = Duration::from_secs(20);
    (ServerTransportConfig::new(loopback, server), client)
}

/// First packets of as many handshakes, none of which will ever go on.
async fn first_packets(config: &ClientTransportConfig) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = sink.local_addr().unwrap();
    let connector = Connector::bind(config.clone(), ByteBudget::new(1 << 30)).unwrap();
    let expected = ExpectedServer::Id(SERVER);
    let connector = std::sync::Arc::new(connector);
    let mut attempts = JoinSet::new();
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut buffer = [0; 2_000];
    // One after the other, because the sink has a small buffer and a lost packet takes a second.
    for count in 1..=CLIENTS {
        let (connector, expected) = (connector.clone(), expected.clone());
        attempts.spawn(async move { connector.connect(address, &expected).await.is_ok() });
        while packets.len() < count {
            let len = sink.recv(&mut buffer).await.unwrap();
            // Bytes 6 to 14 are the id that the attempt chose (RFC 9000, section 17.2).
            if packets.iter().all(|packet| packet[6..14] != buffer[6..14]) {
                packets.push(buffer[..len].to_vec());
            }
        }
    }
    packets
}

/// Sends each packet from an address of its own, which the result keeps alive.
fn send_all(packets: &[Vec<u8>], to: SocketAddr) -> Vec<UdpSocket> {
    let send = |packet: &Vec<u8>| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(packet, to).unwrap();
        socket
    };
    packets.iter().map(send).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_half_open_clients_cost_no_more_than_was_set_aside() {
    let _turn = TURN.lock().await;
    let (mut config, client) = configs();
    config.handshakes_max = 32;
    config.handshakes_before_retry = u32::MAX;
    config.tuning.handshake_timeout = Duration::from_secs(1);
    let budget = ByteBudget::new(64 * MIB);
    let mut listener = Listener::bind(config, budget.clone()).unwrap();
    let address = listener.local_address().unwrap();
    let packets = first_packets(&client).await;
    let connector = Connector::bind(client, ByteBudget::new(64 * MIB)).unwrap();
    let before = resident();

    let sockets = send_all(&packets, address);
    // Behind them in the queue stands an honest one, who gets in when the others' time is over.
    let expected = ExpectedServer::Id(SERVER);
    let honest = async { connector.connect(address, &expected).await.unwrap() };
    let mut most = 0;
    let accepting = async {
        loop {
            let check = Duration::from_millis(5);
            if let Ok(link) = tokio::time::timeout(check, listener.accept()).await {
                return link.unwrap();
            }
            most = most.max(listener.handshakes());
            assert_eq!(budget.used(), listener.standing());
        }
    };
    let links = tokio::join!(honest, accepting);
    drop(links);
    assert_eq!(most, 32, "the others were not even begun");
    assert_eq!(budget.high_water(), listener.standing() + 3 * MIB);
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 12 * MIB,
        "{grown} bytes for {} strangers",
        sockets.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_the_threshold_strangers_cost_nothing_and_honest_agents_get_in_at_once() {
    let _turn = TURN.lock().await;
    let (mut config, client) = configs();
    config.handshakes_max = 32;
    config.handshakes_before_retry = 4;
    let mut listener = Listener::bind(config, ByteBudget::new(64 * MIB)).unwrap();
    let address = listener.local_address().unwrap();
    let packets = first_packets(&client).await;
    let connector = Connector::bind(client, ByteBudget::new(64 * MIB)).unwrap();
    let sockets = send_all(&packets, address);
    let expected = ExpectedServer::Id(SERVER);
    let honest = async { connector.connect(address, &expected).await.unwrap() };
    let (_agent, server) = tokio::join!(honest, listener.accept());
    assert!(server.is_some());
    assert_eq!(listener.handshakes(), 4);

    // The rest were answered with a retry packet each, which needs no memory here: type 3 in the
    // two bits after the first two (RFC 9000, section 17.2.5).
    let retried = sockets.iter().filter(|socket| {
        let mut buffer = [0; 2_000];
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut buffer).is_ok() && buffer[0] & 0x30 == 0x30
    });
    assert_eq!(retried.count(), CLIENTS - 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_that_send_a_frame_each_fill_the_budget_and_no_more() {
    let _turn = TURN.lock().await;
    let (mut config, client) = configs();
    config.tuning.receive_window_start = 64 * 1024;
    config.tuning.receive_window_max = 64 * 1024;
    let windows = CLIENTS * 3 * 64 * 1024;
    let frames = 16 * MIB;
    let probe = Listener::bind(config.clone(), ByteBudget::new(64 * MIB)).unwrap();
    let budget = ByteBudget::new(probe.standing() + windows + frames);
    drop(probe);
    let mut listener = Listener::bind(config, budget.clone()).unwrap();
    let address = listener.local_address().unwrap();
    let connector = Connector::bind(client, ByteBudget::new(1 << 30)).unwrap();
    let expected = ExpectedServer::Id(SERVER);
    let before = resident();

    // All clients send the same bytes, so that their side costs next to nothing.
    let body = Bytes::from(vec![0x5a; MIB]);
    let limit = |_| Some(1 << 20);
    let mut senders = JoinSet::new();
    let mut receivers = JoinSet::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let mut links = Vec::new();
    for _ in 0..CLIENTS {
        let agent = async { connector.connect(address, &expected).await.unwrap() };
        let (agent, server) = tokio::join!(agent, listener.accept());
        links.push((agent, server.unwrap()));
    }
    assert_eq!(budget.available(), frames);
    for (agent, server) in links {
        let body = body.clone();
        senders.spawn(async move {
            let (mut send, _recv) = agent.open_stream().await.unwrap();
            // It ends with the link at the latest.
            let _ = send.send_frame(1, &[body]).await;
            agent.closed().await
        });
        let arrived = arrived.clone();
        receivers.spawn(async move {
            let (_send, mut recv) = server.accept_stream().await.unwrap();
            let frame = recv.recv_frame(limit).await;
            if let Ok(Some(frame)) = frame {
                arrived.send(frame).unwrap();
            }
            server.closed().await
        });
    }
    // As many as the budget has room for arrive whole; the others wait for their turn.
    let mut kept = Vec::new();
    for _ in 0..15 {
        kept.push(arrivals.recv().await.unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(200), arrivals.recv()).await;
    assert!(
        more.is_err(),
        "a sixteenth does not fit beside 15 and their bookkeeping"
    );
    assert!(budget.available() < MIB + 256);
    let grown = resident().saturating_sub(before);
    let allowed = budget.capacity() + 32 * MIB;
    assert!(grown < allowed, "{grown} bytes, {allowed} allowed");

    // Each that is let go lets the next one in, in turn, until all have been.
    let mut count = kept.len();
    kept.clear();
    while count < CLIENTS {
        arrivals.recv().await.unwrap();
        count += 1;
    }
    connector.shutdown(CloseReason::Shutdown).await;
    while let Some(closed) = receivers.join_next().await {
        assert_eq!(closed.unwrap().reason(), Some(CloseReason::Shutdown));
    }
    senders.join_all().await;
    assert_eq!(budget.used(), listener.standing());
}
