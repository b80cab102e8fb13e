//! QUIC with mutual TLS, and the certificates for it.
//!
//! | module | for |
//! |---|---|
//! | [`budget`] | one limit on bytes held, for every buffer |
//! | [`control`] | unix sockets for the command line |
//! | [`frame`] | the frame header, pure |
//! | `link`, `stream` | [`Link`], [`SendHalf`], [`RecvHalf`]: what callers use, and what a transport must do |
//! | `quic` | the transport that carries links: [`Listener`], [`Connector`] |
//! | [`memory`] | the same links without a network, for tests of the layers above |
//! | [`pki`], `identity`, `tls` | certificates, who they name, and what is trusted |
//! | `close` | why a link ended, in stable numbers |
//!
//! What this leaves out: what the frames say (`everpoint-wire`), and what to do when a link ends.

pub mod budget;
mod close;
pub mod control;
pub mod frame;
mod identity;
mod link;
pub mod memory;
pub mod pki;
mod quic;
mod stream;
mod tls;

pub use budget::{ByteBudget, TakeError, Taken};
pub use close::{CLOSE_TEXT_LEN_MAX, CloseReason, Closed, Remedy};
pub use identity::{Identity, IdentityError, Validity};
pub use link::{
    BoxFuture, ByteSink, ByteSource, Halves, Hold, Link, LinkDriver, LinkStats, Pace, Peer,
    StreamFault,
};
pub use quic::{
    BindError, ClientTransportConfig, ConnectError, Connector, Listener, MTU_MAX, MTU_MIN,
    ServerTransportConfig, SocketError, TransportTuning, WINDOW_MIN,
};
pub use stream::{FRAME_COST, Frame, RecvError, RecvHalf, SendError, SendHalf};
pub use tls::{ExpectedServer, ServerNameError};
