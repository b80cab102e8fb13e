//! What can go wrong for a client, and what to do about it.

use std::io;
use std::sync::Arc;

use crate::Errno;
use crate::handshake::{GreetingError, OptionReplyError};
use crate::reply::ReplyError;
use crate::request::Refusal;

/// What the caller does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// Connect again, after a pause; the same may succeed then.
    Reconnect,
    /// Tell the operator: the same fails again until something is changed.
    Report,
    /// Correct the caller: this request fits no state of the server.
    Correct,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the way there is broken.
    #[error("cannot reach the server")]
    Unreachable(#[source] io::Error),
    /// The server did not finish the handshake in time.
    #[error("the server took too long over the handshake")]
    TimedOut,
    /// The connection broke during the handshake.
    #[error("connection broke during the handshake")]
    Broken(#[source] io::Error),
    /// The server closed the connection during the handshake, as old ones do when an export does
    /// not exist.
    #[error("the server closed the connection during the handshake")]
    Closed,
    /// What answers is no NBD server of this century.
    #[error("not a server of the fixed newstyle")]
    Greeting(#[source] GreetingError),
    /// The server's answers break the protocol.
    #[error("the server breaks the protocol")]
    Reply(#[source] OptionReplyError),
    /// The server answers something that was not asked.
    #[error("the server answers option {option} with a reply {reply:#x}")]
    UnexpectedReply {
        /// The option it names.
        option: u32,
        /// The type of its reply.
        reply: u32,
    },
    /// The server agreed to serve without saying what.
    #[error("the server does not say how large the export is")]
    NoSize,
    /// No such export.
    #[error("the server has no such export")]
    UnknownExport,
    /// The server serves only encrypted connections, which this client does not make.
    #[error("the server demands TLS")]
    TlsRequired,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The server does not want to, for reasons of its own.
    #[error("the server refuses with {reply:#x}")]
    Refused {
        /// The type of its reply.
        reply: u32,
    },
}

/// Why a connection is gone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Disconnected {
    /// The server ended it between two replies.
    #[error("the server closed the connection")]
    Closed,
    /// The server ended it inside a reply.
    #[error("the server's stream ended inside a reply")]
    CutOff,
    /// The socket failed.
    #[error("the connection broke")]
    Broken(#[source] Arc<io::Error>),
    /// The server's replies break the protocol.
    #[error("the server breaks the protocol")]
    Reply(#[source] ReplyError),
    /// A reply that does not answer its request, or answers none.
    #[error("the server answers what was not asked")]
    Mismatch,
}

/// Why a request was not done. After [`RequestError::Disconnected`] nobody knows whether it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The server says so. The connection goes on.
    #[error("the server says: {0}")]
    Server(Errno),
    /// It does not fit what was agreed, and was not sent.
    #[error("the request does not fit the export")]
    Refused(#[from] Refusal),
    /// The connection is gone.
    #[error("the connection is lost")]
    Disconnected(#[source] Disconnected),
}

impl ConnectError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable(_)
            | Self::TimedOut
            | Self::Broken(_)
            | Self::Closed
            | Self::ShuttingDown => Remedy::Reconnect,
            Self::Greeting(_)
            | Self::Reply(_)
            | Self::UnexpectedReply { .. }
            | Self::NoSize
            | Self::UnknownExport
            | Self::TlsRequired
            | Self::Refused { .. } => Remedy::Report,
        }
    }
}

impl RequestError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Server(Errno::Shutdown) | Self::Disconnected(_) => Remedy::Reconnect,
            Self::Server(_) => Remedy::Report,
            Self::Refused(_) => Remedy::Correct,
        }
    }

    /// What a server in front of this client answers its own client.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Server(errno) => *errno,
            Self::Refused(refusal) => refusal.errno(),
            Self::Disconnected(_) => Errno::Io,
        }
    }
}
