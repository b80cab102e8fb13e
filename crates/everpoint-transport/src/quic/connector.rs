//! Reaching a process server.
//!
//! In TLS 1.3 the side that calls is done one step before the other has looked at its certificate.
//! So a connection counts as made here only when the server has allowed the first stream, which it
//! does after it has: a refused certificate is an error of [`Connector::connect`], not of the first
//! frame. That stream is the one that [`Link::open_stream`] gives first.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, TokioRuntime, VarInt};
use rustls::AlertDescription;
use rustls::crypto::CryptoProvider;
use tokio::time::timeout;

use super::config::{BindError, ClientTransportConfig, TransportTuning, take_standing};
use super::driver::{Flow, QuicDriver, QuicShared, closed_by, window_cost};
use super::listener::peer_of;
use super::socket;
use crate::budget::{ByteBudget, Taken};
use crate::close::{CloseReason, Closed, Remedy};
use crate::identity::Identity;
use crate::link::Link;
use crate::pki::Credentials;
use crate::tls::{self, ExpectedServer, Verdict};

/// An agent's end: makes links to process servers, all from one socket.
pub struct Connector {
    endpoint: Endpoint,
    credentials: Credentials,
    provider: Arc<CryptoProvider>,
    budget: ByteBudget,
    socket: ByteBudget,
    windows: (u32, u32),
    tuning: TransportTuning,
    _standing: Taken,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answered, or not to the end.
    #[error("{address} did not complete a handshake in time")]
    TimedOut { address: SocketAddr },
    /// The server is up and takes no more links now.
    #[error("{address} takes no more links at the moment")]
    Busy { address: SocketAddr },
    /// The server's certificate is not the one that is expected: another CA, another name, past its
    /// time, or not a server's.
    #[error("the certificate that {address} shows is not trusted")]
    NotTrusted {
        address: SocketAddr,
        #[source]
        source: rustls::Error,
    },
    /// The server does not take this side's certificate.
    #[error("{address} refuses our certificate: {alert:?}")]
    CertificateRefused {
        address: SocketAddr,
        alert: AlertDescription,
    },
    /// The server does not speak this version.
    #[error("{address} speaks another version")]
    Version { address: SocketAddr },
    /// The link came to be and ended before it was of use.
    #[error("{address} ended the link")]
    Closed {
        address: SocketAddr,
        #[source]
        source: Closed,
    },
    /// Everything that the budget has is in use. The budget of a connector is best its own, so that
    /// payload that waits for a link cannot keep the link from being made.
    #[error("a link needs {needed} bytes of the budget and {available} are free")]
    Budget { needed: usize, available: usize },
    /// An address that this side's socket cannot reach, or a port of 0.
    #[error("{address} cannot be reached from this socket")]
    Address { address: SocketAddr },
    /// The certificate or key of this side does not work.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Connector {
    /// Makes the socket. Must be called within a tokio runtime. `budget` holds the receive windows
    /// and what the server sends, which is little: it should be the connector's own, so that a queue
    /// full of payload cannot starve the acknowledgements that would empty it.
    ///
    /// # Errors
    ///
    /// [`BindError`]: a setting, a certificate, an address, or a budget that is too small.
    pub fn bind(config: ClientTransportConfig, budget: ByteBudget) -> Result<Self, BindError> {
        Self::bind_with(config, budget, tls::provider())
    }

    pub(super) fn bind_with(
        config: ClientTransportConfig,
        budget: ByteBudget,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, BindError> {
        let identity = config.credentials.identity();
        if !matches!(identity, Identity::Agent(_)) {
            return Err(BindError::WrongSide { identity });
        }
        let tuning = config.tuning;
        let endpoint_config = tuning.endpoint()?;
        let standing = take_standing(&budget, tuning.endpoint_cost())?;
        let bind = |address| socket::bind(address, tuning.socket_buffer_len);
        let bound = match config.bind {
            Some(address) => bind(address)?,
            // A machine without IPv6 has no such socket.
            None => bind((Ipv6Addr::UNSPECIFIED, 0).into())
                .or_else(|_| bind((Ipv4Addr::UNSPECIFIED, 0).into()))?,
        };
        let windows = tuning.windows(bound.receive_len);
        // Refuses bad settings now rather than at the first connection.
        tuning.transport(windows)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(endpoint_config, None, bound.socket, runtime)
            .map_err(BindError::Endpoint)?;
        Ok(Self {
            endpoint,
            credentials: config.credentials,
            provider,
            budget,
            socket: ByteBudget::new(bound.receive_len),
            windows,
            tuning,
            _standing: standing,
        })
    }

    /// Connects to the server at `address`, which must be the `expected` one, and returns when it
    /// has accepted this side's certificate too. Takes `handshake_timeout` at most. Cancel-safe:
    /// dropped early, the attempt is given up.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], whose [`ConnectError::remedy`] says whether to try again.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: &ExpectedServer,
    ) -> Result<Link, ConnectError> {
        timeout(
            self.tuning.handshake_timeout,
            self.try_connect(address, expected),
        )
        .await
        .unwrap_or(Err(ConnectError::TimedOut { address }))
    }

    /// Connects to the first of `addresses` that answers as the `expected` server: a name may have several, and
    /// this machine no way to some of them. Takes `handshake_timeout` for each at most.
    ///
    /// # Errors
    ///
    /// What the last one came to. `None` if there is no address.
    pub async fn connect_any(
        &self,
        addresses: &[SocketAddr],
        expected: &ExpectedServer,
    ) -> Option<Result<Link, ConnectError>> {
        let mut last = None;
        for address in addresses {
            match self.connect(*address, expected).await {
                Ok(link) => return Some(Ok(link)),
                Err(error) => {
                    tracing::debug!(%error, "an address of a server does not do");
                    last = Some(Err(error));
                }
            }
        }
        last
    }

    /// Closes every link with `reason` and waits until the peers could hear of it.
    pub async fn shutdown(self, reason: CloseReason) {
        self.endpoint
            .close(VarInt::from_u32(reason.code()), b"the agent stops");
        self.endpoint.wait_idle().await;
    }

    async fn try_connect(
        &self,
        address: SocketAddr,
        expected: &ExpectedServer,
    ) -> Result<Link, ConnectError> {
        let needed = window_cost(self.windows.0);
        let memory = self.budget.try_take(needed).ok_or(ConnectError::Budget {
            needed,
            available: self.budget.available(),
        })?;
        let provider = Arc::clone(&self.provider);
        let (crypto, verdict) = tls::client_config(&self.credentials, expected.clone(), provider)
            .map_err(ConnectError::Tls)?;
        let crypto = QuicClientConfig::try_from(crypto)
            .expect("the provider has AES-128-GCM, which QUIC begins with");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let transport = self.tuning.transport(self.windows);
        config.transport_config(transport.expect("the same settings were good when it was bound"));

        let failed = |error| ConnectError::of(error, address, &verdict);
        let connection = self
            .endpoint
            .connect_with(config, address, &expected.handshake_name())
            .map_err(|_| ConnectError::Address { address })?
            .await
            .map_err(failed)?;
        let first = connection.open_bi().await.map_err(failed)?;
        let peer = peer_of(&connection).expect("the verifier has read the same certificate");
        let (budget, socket) = (self.budget.clone(), self.socket.clone());
        let flow = Flow::new(self.windows, memory, budget.clone(), socket);
        let shared = QuicShared::new(connection, flow, Some(first), Vec::new());
        let driver = Box::new(QuicDriver(Arc::new(shared)));
        Ok(Link::new(driver, peer, budget, self.tuning.pace))
    }
}

impl ConnectError {
    /// What to do next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::TimedOut { .. } | Self::Busy { .. } | Self::Budget { .. } => Remedy::Retry,
            Self::Closed { source, .. } => source.remedy(),
            Self::NotTrusted { .. }
            | Self::CertificateRefused { .. }
            | Self::Version { .. }
            | Self::Address { .. }
            | Self::Tls(_) => Remedy::Report,
        }
    }

    fn of(error: ConnectionError, address: SocketAddr, verdict: &Verdict) -> Self {
        if let Some(source) = verdict.get().cloned() {
            return Self::NotTrusted { address, source };
        }
        match closed_by(error, None) {
            Closed::TimedOut => Self::TimedOut { address },
            Closed::Transport {
                code: CONNECTION_REFUSED,
            } => Self::Busy { address },
            Closed::Tls {
                alert: AlertDescription::NoApplicationProtocol,
                ..
            } => Self::Version { address },
            Closed::Tls {
                alert,
                by_peer: true,
            } => Self::CertificateRefused { address, alert },
            source => Self::Closed { address, source },
        }
    }
}

/// RFC 9000, section 20.1.
const CONNECTION_REFUSED: u64 = 0x2;
