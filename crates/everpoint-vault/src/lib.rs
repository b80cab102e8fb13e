//! The vault: one prefix of an object store that holds write-once objects, created once and read back.
//!
//! This crate deals in names and bytes. What the bytes mean is the business of the crates that encode
//! them; who may write what, and when, is that of the journal's rules.
//!
//! # What a vault promises
//!
//! - **Create-if-absent is linearisable.** Of any number of creators of one name with different bytes,
//!   in any number of processes, exactly one gets a [`Created`]; all others get
//!   [`CreateError::Different`]. A name, once taken, keeps its bytes.
//! - **[`Created`] means durable**: bytes, directory entry and every directory above it, and the root is
//!   still the one that was opened. It cannot be built in any other way. Success is also given for a
//!   name that already holds the very same bytes, after they were made durable *then*, for who made
//!   them may have died before its own sync. So an ambiguous create is simply repeated.
//! - **Read- and list-after-write.** Listings are sorted by name.
//! - **A failed sync is the end**: [`CreateError::SyncFailed`] is never retried, every later create
//!   of that vault gives the same answer, and the process has to end.
//! - Every request has a budget of attempts, a deadline and a result that says what to do next
//!   ([`Remedy`]); its future may be dropped at any time.
//!
//! # Stores
//!
//! `file:///dir`, `memory://name`, `az://container/prefix` and `s3://bucket/prefix`. All pass the same
//! [`contract`], also with faults injected ([`faulty`]).
//!
//! # Why `file://` has a backend of its own
//!
//! `memory://`, Azure and S3 run on the `object_store` crate. `object_store` 0.14.2's
//! `LocalFileSystem::with_fsync(true)` (its `local.rs`) was read for `file://` and falls short of what a
//! vault needs in these points:
//!
//! - A failed sync comes back as `Error::Generic` around a private type, like any other failure: it
//!   cannot be told apart, so it could be retried.
//! - It syncs the directories that it makes, but not one that it *finds*: a directory made by a process
//!   that was killed before its sync, or at this moment by another thread, is never synced.
//! - "Exists" syncs nothing, and offers no handle to do so.
//! - Staged files (`<name>#<number>`, beside the object) stay for ever after a crash.
//! - A root that was unmounted or renamed is not noticed; directories are made anew below it.
//! - The answer "exists" panics when the path is not UTF-8.
//! - It writes through the page cache, one system call a piece: five times the wall time and eight times
//!   the CPU of gathered O_DIRECT writes for a 32 MiB object (figures in `file/write.rs`).
//! - Its blocking threads are bounded by the runtime's 512 only, so a frozen filesystem takes them all.

mod backend;
mod blocking;
mod cloud;
mod config;
pub mod contract;
mod error;
pub mod faulty;
mod file;
pub mod frames;
pub mod history;
mod name;
mod payload;
mod probe;
mod retry;
mod store;
mod url;
mod vault;

pub use cloud::{AccessError, AzureAccess, AzureCredentials, S3Access};
pub use config::{ConfigError, OpenOptions, RetryConfig, VaultConfig};
pub use error::{
    Cause, CreateError, ListError, OpenError, ProbeFinding, ReadError, Remedy, SettleError,
    SyncFailure,
};
pub use file::STAGED_DIRECTORY;
pub use name::{NAME_LEN_MAX, ObjectName, ObjectPrefix, ParseNameError, SEGMENT_LEN_MAX};
pub use payload::Payload;
pub use url::{ParseVaultUrlError, VaultUrl};
pub use vault::{Created, Listing, ObjectEntry, Page, Suffix, Vault};
