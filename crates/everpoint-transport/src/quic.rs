//! Links over QUIC: what quinn 0.11 does for them, and the budgets it is held to.
//!
//! | what | how |
//! |---|---|
//! | before authentication | no stream, 64 KiB a handshake, handshakes capped, address proved above a threshold |
//! | after it | a receive window from the budget, then one stream; the session allows the rest |
//! | window | grows while the peer is held back by it and budget and socket buffer have room |
//! | alive | a packet every 5 s, the end after 20 s of silence |
//! | off | 0-RTT, resumption, datagrams, unidirectional streams |
//!
//! quinn runs one task a connection, where encryption happens, and one an endpoint, which receives.

mod config;
mod connector;
mod driver;
mod listener;
mod reset;
mod socket;
mod window;

pub use config::{
    BindError, ClientTransportConfig, MTU_MAX, MTU_MIN, ServerTransportConfig, TransportTuning,
    WINDOW_MIN,
};
pub use connector::{ConnectError, Connector};
pub use listener::Listener;
pub use socket::SocketError;

#[cfg(test)]
mod tests;
