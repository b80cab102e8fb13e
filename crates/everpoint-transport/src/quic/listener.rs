//! Accepting links: unknown peers get little, known ones get what the budget has.
//!
//! ```text
//! first packet ─▶ links full?       refused
//!              ─▶ handshakes full?  dropped; an honest peer repeats it
//!              ─▶ many handshakes?  must prove its address (stateless)
//!              ─▶ handshake (5 s) ─▶ certificate ─▶ window from the budget ─▶ first stream ─▶ Link
//! ```
//!
//! What handshakes can cost is taken from the budget once, when the listener is made, so that
//! strangers can never take what agents need.

use std::net::SocketAddr;
use std::sync::Arc;

use everpoint_units::WallTime;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint, Incoming, TokioRuntime, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::config::{BindError, ServerTransportConfig, TransportTuning, take_standing};
use super::driver::{Flow, QuicDriver, QuicShared, closed_by, window_cost};
use super::{reset, socket};
use crate::budget::{ByteBudget, Taken};
use crate::close::{CloseReason, Closed};
use crate::identity::{CertificateFacts, Identity};
use crate::link::{Link, LinkDriver, Peer};
use crate::tls;

/// What one handshake is charged: quinn's and rustls' state and 16 KiB of crypto data each way.
/// Unit: bytes.
const HANDSHAKE_COST: usize = 64 * 1024;

/// Packets of one peer that are kept until its first one is looked at. Unit: bytes.
const INCOMING_LEN_MAX: u64 = 8 * 1024;

/// First packets that wait to be looked at.
const INCOMING_COUNT_MAX: usize = 256;

/// A process server's end: takes links of agents.
pub struct Listener {
    endpoint: Endpoint,
    gate: Gate,
    links: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    handshakes_max: usize,
    handshakes_before_retry: usize,
    /// Each ends with a link, or with nothing after it has said why.
    running: JoinSet<Option<Link>>,
    standing: Taken,
}

/// What every handshake needs.
#[derive(Clone)]
struct Gate {
    budget: ByteBudget,
    socket: ByteBudget,
    windows: (u32, u32),
    streams_start: u32,
    tuning: TransportTuning,
}

/// Why a peer did not become a link.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the handshake took too long")]
    TimedOut,
    #[error("the handshake failed")]
    Handshake(#[source] Closed),
    #[error("the certificate names nobody that may connect")]
    Identity,
    #[error("the byte budget has no room for another link")]
    Budget,
}

impl Listener {
    /// Binds and listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`]: a setting, a certificate, an address, or a budget that is too small.
    pub fn bind(config: ServerTransportConfig, budget: ByteBudget) -> Result<Self, BindError> {
        Self::bind_with(config, budget, tls::provider())
    }

    pub(super) fn bind_with(
        config: ServerTransportConfig,
        budget: ByteBudget,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, BindError> {
        let identity = config.credentials.identity();
        if !matches!(identity, Identity::Server(_)) {
            return Err(BindError::WrongSide { identity });
        }
        let tuning = config.tuning;
        let mut endpoint_config = tuning.endpoint()?;
        reset::survive_restarts(&mut endpoint_config, &config.credentials);
        let count = |count: u32| usize::try_from(count).expect("a u32 fits a usize");
        let handshakes_max = count(config.handshakes_max);
        let standing = tuning.endpoint_cost()
            + handshakes_max * HANDSHAKE_COST
            + INCOMING_COUNT_MAX * usize::from(super::MTU_MAX);
        let standing = take_standing(&budget, standing)?;

        let bound = socket::bind(config.listen, tuning.socket_buffer_len)?;
        let windows = tuning.windows(bound.receive_len);
        let crypto = tls::server_config(&config.credentials, provider).map_err(BindError::Tls)?;
        let crypto = QuicServerConfig::try_from(crypto)
            .expect("the provider has AES-128-GCM, which QUIC begins with");
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(tuning.transport(windows)?)
            .max_incoming(INCOMING_COUNT_MAX)
            .incoming_buffer_size(INCOMING_LEN_MAX)
            .incoming_buffer_size_total(INCOMING_LEN_MAX * 128);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(endpoint_config, Some(server), bound.socket, runtime)
            .map_err(BindError::Endpoint)?;
        Ok(Self {
            endpoint,
            gate: Gate {
                budget,
                socket: ByteBudget::new(bound.receive_len),
                windows,
                streams_start: config.streams_start,
                tuning,
            },
            links: Arc::new(Semaphore::new(count(config.links_max))),
            handshakes: Arc::new(Semaphore::new(handshakes_max)),
            handshakes_max,
            handshakes_before_retry: count(config.handshakes_before_retry),
            running: JoinSet::new(),
            standing,
        })
    }

    /// Where it listens; the port that was chosen when 0 was asked for.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What the endpoint and its handshakes hold of the budget from first to last. Unit: bytes.
    pub fn standing(&self) -> usize {
        self.standing.len()
    }

    /// Handshakes that run now. At most `handshakes_max`.
    pub fn handshakes(&self) -> usize {
        self.handshakes_max - self.handshakes.available_permits()
    }

    /// The next link, its peer's certificate checked, its window paid for, and
    /// [`ServerTransportConfig::streams_start`] streams allowed. `None` once the listener was shut
    /// down. Cancel-safe; handshakes go on meanwhile, new ones begin only while this is awaited.
    pub async fn accept(&mut self) -> Option<Link> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => self.admit(incoming?),
                Some(done) = self.running.join_next() => match done {
                    Ok(Some(link)) => return Some(link),
                    Ok(None) => {}
                    // Otherwise the runtime is going down: only that drops a handshake.
                    Err(error) => {
                        if let Ok(panic) = error.try_into_panic() {
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            }
        }
    }

    /// Closes every link with `reason` and waits until the peers could hear of it.
    pub async fn shutdown(mut self, reason: CloseReason) {
        self.endpoint
            .close(VarInt::from_u32(reason.code()), b"the listener stops");
        self.running.shutdown().await;
        self.endpoint.wait_idle().await;
    }

    fn admit(&mut self, incoming: Incoming) {
        let Ok(link) = Arc::clone(&self.links).try_acquire_owned() else {
            refused("links_max");
            incoming.refuse();
            return;
        };
        if self.handshakes() >= self.handshakes_before_retry && !incoming.remote_address_validated()
        {
            metrics::counter!("everpoint_transport_retries_total").increment(1);
            // It was not validated, so quinn always allows this.
            let _ = incoming.retry();
            return;
        }
        let Ok(handshake) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            refused("handshakes_max");
            incoming.ignore();
            return;
        };
        let gate = self.gate.clone();
        self.running
            .spawn(gate.handshake(incoming, link, handshake));
    }
}

impl Gate {
    async fn handshake(
        self,
        incoming: Incoming,
        link: OwnedSemaphorePermit,
        handshake: OwnedSemaphorePermit,
    ) -> Option<Link> {
        let address = incoming.remote_address();
        let result = self.try_handshake(incoming, link).await;
        drop(handshake);
        match result {
            Ok(link) => Some(link),
            Err(error) => {
                refused(error.label());
                let error: &dyn std::error::Error = &error;
                let cause = error.source().map(ToString::to_string);
                tracing::info!(%address, %error, cause, "a peer was refused");
                None
            }
        }
    }

    async fn try_handshake(
        self,
        incoming: Incoming,
        link: OwnedSemaphorePermit,
    ) -> Result<Link, Refused> {
        let deadline = Instant::now() + self.tuning.handshake_timeout;
        let failed = |error: ConnectionError| Refused::Handshake(closed_by(error, None));
        let connecting = incoming.accept().map_err(failed)?;
        let connection = timeout_at(deadline, connecting)
            .await
            .map_err(|_| Refused::TimedOut)?
            .map_err(failed)?;
        let Some(peer) = peer_of(&connection) else {
            close(
                &connection,
                CloseReason::Auth,
                "no such certificate is known here",
            );
            return Err(Refused::Identity);
        };
        // The peer is known now, but cannot send a byte before it has a stream.
        let take = self.budget.take(window_cost(self.windows.0));
        let Ok(Ok(memory)) = timeout_at(deadline, take).await else {
            close(
                &connection,
                CloseReason::Limit,
                "no memory for another link",
            );
            return Err(Refused::Budget);
        };
        let flow = Flow::new(self.windows, memory, self.budget.clone(), self.socket);
        let shared = QuicShared::new(connection, flow, None, vec![link]);
        let driver = QuicDriver(Arc::new(shared));
        driver.allow_streams(self.streams_start);
        Ok(Link::new(
            Box::new(driver),
            peer,
            self.budget,
            self.tuning.pace,
        ))
    }
}

impl Refused {
    fn label(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Handshake(Closed::Tls { .. }) => "tls",
            Self::Handshake(_) => "handshake",
            Self::Identity => "identity",
            Self::Budget => "budget",
        }
    }
}

/// Whom the peer's certificate names; TLS has checked it.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<Peer> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let CertificateFacts { identity, validity } = CertificateFacts::of(chain.first()?).ok()?;
    let expires_at: WallTime = validity.not_after;
    Some(Peer {
        identity,
        expires_at,
        address: connection.remote_address(),
    })
}

fn close(connection: &quinn::Connection, reason: CloseReason, text: &str) {
    connection.close(VarInt::from_u32(reason.code()), text.as_bytes());
}

fn refused(reason: &'static str) {
    metrics::counter!("everpoint_transport_refused_total", "reason" => reason).increment(1);
}
