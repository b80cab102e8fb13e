//! The role between agents and vault: takes blocks in, keeps them durably, commits them.
//!
//! | file | does |
//! |---|---|
//! | `server.rs`, `server/start.rs` | starts, runs and stops the whole |
//! | `session.rs`, `session/stream.rs` | one agent's connection, one disk's stream |
//! | `machine_task.rs` | decides for each block of a machine; the core is `everpoint_replication::sink` |
//! | `log_task.rs`, `backlog.rs` | to the cache log, and from there to the commit |
//! | `commit_task.rs` | objects and their creation; the core is `everpoint_journal::commit` |
//! | `ownership.rs`, `registry.rs` | whether this server owns a machine |
//! | `conduct.rs`, `rate.rs` | who broke the protocol and has to wait; how much of something is too much |
//! | `blocking.rs` | work on other threads, and what tasks come to when the runtime goes down |
//! | `take_over.rs` | another server's journals, on an operator's word |
//! | `compare.rs` | which pieces of a disk differ from what the vault holds |
//!
//! What is promised: *cached* is said after the sync that covered the block, *committed* after the
//! object's creation in the gapless prefix and a later look that found no `end`. Both are built from
//! the tokens that those steps return.

mod backlog;
mod blocking;
mod clock;
mod commit_task;
mod compare;
mod conduct;
mod config;
mod control;
mod log_task;
mod machine_task;
mod metrics;
mod ownership;
mod rate;
mod reduce;
mod registry;
mod server;
mod session;
mod shared;
mod state;
mod take_over;

pub use config::{CommitConfig, LogConfig, ProcessServerConfig, SettingError, TlsConfig};
pub use server::{ProcessServer, StartError, Stopped};
pub use shared::Ended;
pub use state::StateError;
