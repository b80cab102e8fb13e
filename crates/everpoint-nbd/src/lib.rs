//! The Network Block Device protocol: a server for splitters and mounts, a client for sources.
//!
//! | module      | what it is for                                                       |
//! |-------------|----------------------------------------------------------------------|
//! | `export`    | what the server serves: the trait, and the facts about an export     |
//! | `server`    | names, listeners, limits, connections                                |
//! | `client`    | one connection to one export, many requests in flight                |
//! | `address`   | `nbd://` and `nbd+unix://`                                           |
//! | `handshake` | bytes of the handshake, pure                                         |
//! | `request`   | bytes of requests, and which of them fit, pure                       |
//! | `reply`     | bytes of replies, pure                                               |
//! | `buffer`, `queue`, `stream` | how bytes come in and go out                         |
//! | `memory`    | an export in memory, for tests of whatever talks to an export        |
//!
//! Fixed newstyle only; no TLS; requests with 32-bit lengths. It knows nothing of what an export
//! stands for.

mod address;
mod buffer;
mod client;
mod errno;
mod export;
pub mod handshake;
mod memory;
pub mod protocol;
mod queue;
pub mod reply;
pub mod request;
mod server;
mod stream;

pub use address::{Endpoint, NbdAddress, ParseAddressError};
pub use client::{ClientConfig, ConnectError, Disconnected, NbdClient, Remedy, RequestError};
pub use errno::Errno;
pub use export::{
    Allocation, AnyExport, BlockSizes, Export, ExportInfo, ExportInfoError, ZeroFlags, ZeroSupport,
};
pub use memory::MemoryExport;
pub use request::Refusal;
pub use server::{
    AttachError, ListenError, Server, ServerConfig, ServerConfigError, ServerStats, UnservableError,
};
