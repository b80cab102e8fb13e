//! The role between agents and vault: takes blocks in, keeps them durably, commits them.
//!
//! | file | does |
//! |---|---|
//! | `server.rs`, `server/start.rs` | starts, runs and stops the whole |
//! | `session.rs`, `session/stream.rs` | one agent's connection, one disk's stream |
//! | `machine_task.rs`, `machine_core.rs` | each block of a machine: taken, refused, promised |
//! | `log_task.rs`, `backlog.rs`, `backlog_core.rs` | to the cache log, and from there to the commit |
//! | `commit_task.rs`, `commit_core.rs` | objects and their creation |
//! | `ownership.rs`, `ownership_core.rs`, `registry.rs` | whether this server owns a machine |
//! | `boot_core.rs` | the order in which a boot does things before it serves |
//! | `conduct.rs`, `rate_core.rs` | who broke the protocol and has to wait; how much of something is too much |
//! | `blocking.rs` | work on other threads, and what tasks come to when the runtime goes down |
//! | `take_over.rs` | another server's journals, on an operator's word |
//! | `replicas.rs`, `apply_task.rs`, `apply_core.rs`, `at_hand.rs` | replicas of the disks, brought forward as changes are committed |
//! | `compare.rs`, `compare_core.rs` | which pieces of a disk differ from what the vault holds |
//!
//! Files named `…_core.rs` decide and do nothing else: no runtime, clock, file or socket. They run here
//! and in the simulated world, unchanged. The others do what those decided.
//!
//! What is promised: *cached* is said after the sync that covered the block, *committed* after the
//! object's creation in the gapless prefix and a later look that found no `end`. Both are built from
//! the tokens that those steps return.

pub mod apply_core;
mod apply_task;
mod at_hand;
mod backlog;
pub mod backlog_core;
mod blocking;
pub mod boot_core;
mod clock;
pub mod commit_core;
mod commit_task;
mod compare;
pub mod compare_core;
mod conduct;
mod config;
mod control;
mod log_task;
pub mod machine_core;
mod machine_task;
mod metrics;
mod ownership;
pub mod ownership_core;
mod rate_core;
pub mod reduce;
mod registry;
mod replicas;
mod server;
mod session;
mod shared;
mod state;
/// What becomes of a recovered tail.
pub mod tail_core;
mod take_over;
#[cfg(test)]
mod test_blocks;

pub use config::{
    CommitConfig, LogConfig, ProcessServerConfig, ReplicaConfig, SettingError, TlsConfig,
};
pub use replicas::ReplicaError;
pub use server::{ProcessServer, StartError, Stopped};
pub use shared::Ended;
pub use state::StateError;
