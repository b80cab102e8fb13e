//! Every byte string that outlives a process: one file per format, all little-endian.
//!
//! | format            | magic  | file           | lives in                                  |
//! |-------------------|--------|----------------|-------------------------------------------|
//! | change block      | `EPCB` | `change.rs`    | wire, cache log; its payload in journals  |
//! | cache-log record  | `EPLR` | `cache_log.rs` | cache-log files of a process server       |
//! | journal object    | `EPJO` | `object.rs`    | the vault: data objects and seals         |
//! | journal index     | `EPIX` | `index.rs`     | the tail of a data object, see `data.rs`  |
//! | journal end       | `EPJE` | `object.rs`    | the vault: a copy of the seal that counts |
//! | origin            | `EPOR` | `origin.rs`    | the vault: where a machine's path begins  |
//! | vault header      | `EPVH` | `vault.rs`     | the vault: its id and digest key          |
//! | map layer         | `EPLY` | `layer.rs`     | the vault: where a disk's extents lie     |
//! | manifest          | `EPMF` | `manifest.rs`  | the vault: what layers and points count   |
//! | VHD footer        | `cone` | `vhd.rs`       | the end of a fixed VHD (big-endian)       |
//! | replica mark      | `EPRM` | `replica.rs`   | the same page, of a replica               |
//!
//! A version that has shipped is never edited. Its golden bytes under `testdata/` are the proof, and
//! a change to them in review is a stop sign. The byte tables are written out in `proto/formats.md`.

pub mod cache_log;
pub mod change;
mod compression;
mod cursor;
pub mod data;
pub mod digest;
mod error;
pub mod index;
pub mod layer;
pub mod manifest;
pub mod name;
pub mod object;
pub mod origin;
mod position;
pub mod record;
pub mod replica;
pub mod vault;
pub mod vhd;

pub use compression::{PackScratch, decompress_exact};
pub use error::DecodeError;
pub use position::DiskPosition;
pub use record::Change;

#[cfg(test)]
mod tests;
