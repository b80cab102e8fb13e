//! The transport over loopback: who gets in, what is held to its limit, and what arrives.

mod authentication;
mod limits;
mod restart;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use everpoint_units::{MachineId, ServerId, WallTime};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::pki::{CERTIFICATE_LIFETIME, Ca, Credentials, Issued};
use crate::{ByteBudget, ExpectedServer, Identity, Link, Validity};

const MACHINE: MachineId = MachineId([0xa1; 16]);
const SERVER: ServerId = ServerId([0x5e; 16]);
const NAME: &str = "server.test";
const KIND: u8 = 1;

fn limit(kind: u8) -> Option<u32> {
    (kind == KIND).then_some(1 << 20)
}

fn now() -> WallTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    WallTime(u64::try_from(now.unwrap().as_micros()).unwrap())
}

fn a_year() -> Validity {
    Validity::from_now(now(), CERTIFICATE_LIFETIME)
}

/// Good since two days ago, so that certificates can have expired under it.
fn ca() -> Ca {
    let two_days = WallTime(now().0 - 2 * 86_400_000_000);
    Ca::create(Validity::from_now(two_days, CERTIFICATE_LIFETIME)).unwrap()
}

/// Checked as if it were read at a moment when it was good.
fn credentials(issued: &Issued, ca: &Ca) -> Credentials {
    let then = WallTime(issued.expires_at.0 - 1_000_000);
    Credentials::from_pem(
        &issued.certificate_pem,
        &issued.key_pem,
        ca.certificate_pem(),
        then,
    )
    .unwrap()
}

/// Who has these three, and has not been checked at all.
fn unchecked(issued: &Issued, ca: &Ca, identity: Identity) -> Credentials {
    let chain = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose().as_bytes());
    Credentials {
        identity,
        chain: vec![chain.unwrap()],
        key: key.unwrap(),
        ..agent(ca)
    }
}

fn agent(ca: &Ca) -> Credentials {
    credentials(&ca.issue_agent(MACHINE, a_year()).unwrap(), ca)
}

fn server(ca: &Ca) -> Credentials {
    let issued = ca.issue_server(SERVER, &[NAME, "127.0.0.1"], a_year());
    credentials(&issued.unwrap(), ca)
}

fn named() -> ExpectedServer {
    ExpectedServer::named(NAME).unwrap()
}

fn server_config(credentials: Credentials) -> ServerTransportConfig {
    ServerTransportConfig::new(([127, 0, 0, 1], 0).into(), credentials)
}

fn client_config(credentials: Credentials) -> ClientTransportConfig {
    ClientTransportConfig {
        bind: Some(([127, 0, 0, 1], 0).into()),
        ..ClientTransportConfig::new(credentials)
    }
}

fn budget() -> ByteBudget {
    ByteBudget::new(64 << 20)
}

fn connector(credentials: Credentials) -> Connector {
    Connector::bind(client_config(credentials), budget()).unwrap()
}

/// A listener and where it is.
fn listener(credentials: Credentials) -> (Listener, SocketAddr) {
    bound(server_config(credentials), budget())
}

fn bound(config: ServerTransportConfig, budget: ByteBudget) -> (Listener, SocketAddr) {
    let listener = Listener::bind(config, budget).unwrap();
    let address = listener.local_address().unwrap();
    (listener, address)
}

/// Keeps accepting until the connector has its answer.
async fn connect_to(
    listener: &mut Listener,
    connector: &Connector,
    address: SocketAddr,
    expected: &ExpectedServer,
) -> Result<(Link, Link), ConnectError> {
    let mut connecting = std::pin::pin!(connector.connect(address, expected));
    let accepted = tokio::select! {
        // Handshakes go on in here; a refused one never comes out.
        accepted = listener.accept() => accepted,
        link = &mut connecting => return Ok((link?, listener.accept().await.unwrap())),
    };
    Ok((connecting.await?, accepted.unwrap()))
}

/// Two ends of a link and what they need to live.
struct Rig {
    listener: Listener,
    connector: Connector,
    address: SocketAddr,
    agent: Link,
    server: Link,
    server_budget: ByteBudget,
}

async fn rig() -> Rig {
    let ca = ca();
    rig_with(
        server_config(server(&ca)),
        client_config(agent(&ca)),
        budget(),
    )
    .await
}

async fn rig_with(
    server: ServerTransportConfig,
    client: ClientTransportConfig,
    server_budget: ByteBudget,
) -> Rig {
    let (mut listener, address) = bound(server, server_budget.clone());
    let connector = Connector::bind(client, budget()).unwrap();
    let links = connect_to(&mut listener, &connector, address, &named()).await;
    let (agent, server) = links.unwrap();
    Rig {
        listener,
        connector,
        address,
        agent,
        server,
        server_budget,
    }
}

fn pattern(seed: usize, len: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from((i * 31 + i / 251 + seed * 7) % 256).unwrap())
        .collect()
}
