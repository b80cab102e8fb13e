//! What agent, process server and command line say to each other, and the versions of it.
//!
//! `proto/wire.md` has the order of messages; `proto/*.proto` the fields. A peer's bytes become the
//! types of this crate or an error; nothing else ever sees the generated code of `wire.proto`. The
//! control socket's messages ([`control`]) carry no promises and are used as generated.

mod error;
mod message;

/// Messages on the control sockets.
#[allow(
    unreachable_pub,
    elided_lifetimes_in_paths,
    unused_qualifications,
    clippy::all,
    reason = "generated code"
)]
#[path = "generated/control.rs"]
pub mod control;

#[allow(
    unreachable_pub,
    elided_lifetimes_in_paths,
    unused_qualifications,
    clippy::all,
    reason = "generated code"
)]
#[path = "generated/wire.rs"]
mod generated;

pub use error::WireError;
pub use message::{
    Compare, DiskState, FrameKind, Hello, HelloAnswer, RefusalReason, RefuseReason, ToAgent,
    ToServer, Watermarks,
};

/// The version of the protocol between agent and process server that this build speaks.
pub const PROTOCOL: u32 = 1;

/// Longest control message on a QUIC stream. Unit: bytes. A compare of [`COMPARE_PIECES_MAX`]
/// digests is the longest message that an agent sends.
pub const MESSAGE_LEN_MAX: usize = COMPARE_PIECES_MAX * 32 + 1_024;
/// Longest answer to a hello: a state for each disk. Unit: bytes.
pub const ANSWER_LEN_MAX: usize = 1 << 20;
/// Most pieces in one compare.
pub const COMPARE_PIECES_MAX: usize = 4_096;
/// Most disks of one machine.
pub const DISKS_MAX: usize = 1_024;
/// Longest message on a control socket. Unit: bytes.
pub const CONTROL_LEN_MAX: usize = 4 << 20;
