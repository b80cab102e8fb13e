//! Settings of the transport, and how they become quinn's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::socket::SocketError;
use crate::budget::ByteBudget;
use crate::link::Pace;
use crate::pki::Credentials;

/// Smallest datagram that QUIC works with. Unit: bytes of UDP payload (RFC 9000, section 14).
pub const MTU_MIN: u16 = 1_200;

/// Largest datagram worth having. Unit: bytes of UDP payload. With GSO, ten datagrams go to the
/// kernel in one buffer of at most 64 KiB; above this they do not fit and each send fails (measured:
/// throughput falls a thousandfold and only shows as loss).
pub const MTU_MAX: u16 = 6_550;

/// Smallest receive window: a few packets, so that a link moves at all. Unit: bytes.
pub const WINDOW_MIN: u32 = 16 * 1_024;

/// What the endpoint of either side is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransportTuning {
    /// Largest datagram that is tried on the path. Unit: bytes of UDP payload; [`MTU_MIN`] to
    /// [`MTU_MAX`], 1,452 fits every Ethernet path. Both sides must allow it.
    pub mtu_max: u16,
    /// Requested for each socket and direction; the kernel may grant less (`net.core.rmem_max`,
    /// `net.core.wmem_max`). Unit: bytes.
    pub socket_buffer_len: usize,
    /// What a peer may send ahead on a new link. Unit: bytes; at least [`WINDOW_MIN`]. Never above the
    /// granted socket buffer.
    pub receive_window_start: u32,
    /// What it may be granted in time. Unit: bytes. Never above the granted socket buffer.
    pub receive_window_max: u32,
    /// What this side sends ahead of acknowledgements on one link. Unit: bytes. The payload is the
    /// caller's and counted where it was taken.
    pub send_window: u32,
    /// Silence after which a packet is sent.
    pub keep_alive: Duration,
    /// Silence after which the peer counts as gone. At most 2^62 ms.
    pub idle_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How patient streams are.
    pub pace: Pace,
}

/// A process server's end.
#[derive(Clone, Debug)]
pub struct ServerTransportConfig {
    /// Where to listen; an IPv6 wildcard takes IPv4 too.
    pub listen: SocketAddr,
    /// The server's own certificate, and the CA of its agents.
    pub credentials: Credentials,
    /// Links at a time; more are refused.
    pub links_max: u32,
    /// Handshakes at a time; further first packets are dropped, and repeated by honest peers.
    pub handshakes_max: u32,
    /// Handshakes at a time above which a peer has to prove its address first.
    pub handshakes_before_retry: u32,
    /// Streams that an agent may open before the session allows more.
    pub streams_start: u32,
    /// The rest.
    pub tuning: TransportTuning,
}

/// An agent's end.
#[derive(Clone, Debug)]
pub struct ClientTransportConfig {
    /// Where to send from. `None`: any address and port.
    pub bind: Option<SocketAddr>,
    /// The agent's own certificate, and the CA of its servers.
    pub credentials: Credentials,
    /// The rest.
    pub tuning: TransportTuning,
}

/// Why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A datagram length that does not work.
    #[error("mtu_max is {mtu_max}; it must be {MTU_MIN} to {MTU_MAX} bytes")]
    Mtu { mtu_max: u16 },
    /// A window with which nothing would move.
    #[error(
        "receive_window_start is {start} and receive_window_max {max}; \
         they must be at least {WINDOW_MIN} bytes, and the first not above the second"
    )]
    Window { start: u32, max: u32 },
    /// An idle time that does not fit the protocol.
    #[error("idle_timeout is longer than QUIC can say")]
    IdleTimeout,
    /// A certificate of the other side.
    #[error("the certificate names {identity}, which is not for this side of a link")]
    WrongSide { identity: crate::Identity },
    /// The budget does not even cover what an endpoint needs at rest.
    #[error("the byte budget has {available} bytes left, the endpoint needs {needed}")]
    Budget { needed: usize, available: usize },
    /// The certificate or key does not work.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The socket could not be made or bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// quinn refused the socket.
    #[error("the endpoint could not be started")]
    Endpoint(#[source] io::Error),
}

impl Default for TransportTuning {
    fn default() -> Self {
        Self {
            mtu_max: 1_452,
            socket_buffer_len: 8 << 20,
            receive_window_start: 1 << 20,
            receive_window_max: 8 << 20,
            send_window: 8 << 20,
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(5),
            pace: Pace::default(),
        }
    }
}

impl ServerTransportConfig {
    /// With the defaults for everything else.
    pub fn new(listen: SocketAddr, credentials: Credentials) -> Self {
        Self {
            listen,
            credentials,
            links_max: 4_096,
            handshakes_max: 64,
            handshakes_before_retry: 16,
            streams_start: 1,
            tuning: TransportTuning::default(),
        }
    }
}

impl ClientTransportConfig {
    /// With the defaults for everything else.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            bind: None,
            credentials,
            tuning: TransportTuning::default(),
        }
    }
}

impl TransportTuning {
    /// What an endpoint holds to receive into: quinn gives each of 32 messages a call room for 64
    /// datagrams that the kernel has joined (quinn-udp's `BATCH_SIZE`, Linux' limit on GRO).
    /// Unit: bytes.
    pub(super) fn endpoint_cost(&self) -> usize {
        self.datagram_len_max() * 64 * 32
    }

    /// The windows that go with a socket that was granted `socket_len` bytes to receive into: what a
    /// link starts with, and what it can grow to.
    pub(super) fn windows(&self, socket_len: usize) -> (u32, u32) {
        let socket_len = u32::try_from(socket_len).unwrap_or(u32::MAX);
        let max = self.receive_window_max.min(socket_len);
        (self.receive_window_start.min(max), max)
    }

    pub(super) fn endpoint(&self) -> Result<EndpointConfig, BindError> {
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu_max) {
            return Err(BindError::Mtu {
                mtu_max: self.mtu_max,
            });
        }
        let (start, max) = (self.receive_window_start, self.receive_window_max);
        if start < WINDOW_MIN || start > max {
            return Err(BindError::Window { start, max });
        }
        let mut config = EndpointConfig::default();
        let len = u16::try_from(self.datagram_len_max()).expect("at most MTU_MAX");
        config
            .max_udp_payload_size(len)
            .expect("between 1,200 and 65,527");
        Ok(config)
    }

    /// quinn's settings for a link with these windows. Streams start at none: the peer gets its
    /// first one when it was authenticated and its window was paid for.
    pub(super) fn transport(
        &self,
        (window, window_max): (u32, u32),
    ) -> Result<Arc<TransportConfig>, BindError> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|_| BindError::IdleTimeout)?;
        let mut path = MtuDiscoveryConfig::default();
        path.upper_bound(self.mtu_max);
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .receive_window(VarInt::from_u32(window))
            // One stream may use all that the link has, also when that has grown: quinn cannot
            // change this later.
            .stream_receive_window(VarInt::from_u32(window_max))
            .send_window(u64::from(self.send_window))
            .mtu_discovery_config(Some(path))
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle))
            .enable_segmentation_offload(true);
        Ok(Arc::new(config))
    }

    /// quinn's default already takes what Ethernet carries.
    fn datagram_len_max(&self) -> usize {
        usize::from(self.mtu_max.max(1_472))
    }
}

/// Takes what an endpoint needs at rest.
pub(super) fn take_standing(
    budget: &ByteBudget,
    needed: usize,
) -> Result<crate::budget::Taken, BindError> {
    budget.try_take(needed).ok_or(BindError::Budget {
        needed,
        available: budget.available(),
    })
}
