//! The session of one disk, as two machines: the agent's source and the process server's sink.
//!
//! Pure: events go in, verdicts and actions come out. No bytes are moved here, no clock is read.

pub mod sink;
pub mod source;
