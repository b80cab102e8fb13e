//! The process server's durable holding area: zeroed files, group commit, recovery by scan.
//!
//! It holds encoded change blocks, as opaque bytes, from *cached* until they are committed, for all
//! disks of all machines, in the order in which they were appended.
//!
//! What it promises:
//!
//! - An [`Appended`] exists only after the sync that covered its record: nobody can acknowledge what
//!   is not on the medium. What an `Appended` was given for is found by every later boot, until it is
//!   freed.
//! - A sync that failed is the end: no later acknowledgement, no second attempt
//!   ([`AppendError::Poisoned`]). A file system without space is not: appends wait.
//! - All files together stay within the quota.
//! - A boot reads the medium, never a page cache that was not synced; it gives back a gapless run of
//!   records of each earlier boot, or an error that names file and offset. It never writes into the
//!   files of earlier boots again, but for the mark that fixes where they end.
//!
//! | file | is about |
//! |---|---|
//! | `log.rs` | the user's side, the threads |
//! | `stepped.rs` | the same without threads, step by step |
//! | `engine.rs` | state and steps, without threads |
//! | `batch.rs`, `space.rs`, `recovery/verdict.rs` | decisions, without I/O |
//! | `recovery.rs`, `recovery/scan.rs` | what earlier boots left |
//! | `reader.rs`, `window.rs` | reading back |
//! | `storage.rs` | the file operations: the system's, and a disk in memory that fails |
//!
//! Not here: what a block means, which of the recovered ones are committed again, and any budget for
//! the memory of queued blocks.

mod append;
mod batch;
mod bell;
mod buffer;
mod config;
mod engine;
mod error;
mod log;
mod meter;
mod name;
mod reader;
mod recovery;
mod space;
mod stepped;
pub mod storage;
mod window;

pub use append::{Append, Appended};
pub use config::{CacheLogConfig, DirectMode, LogOwner};
pub use engine::{RandomBits, Usage};
pub use error::{
    AppendError, Damage, IoFault, OpenError, Operation, Poisoned, ReadError, Refusal, Remedy,
};
pub use log::{CacheLog, Recovered};
pub use name::{FileName, LogPosition};
pub use reader::{LogReader, LogRecord};
pub use recovery::RecoveredBoot;
pub use stepped::{SteppedLog, Written};
