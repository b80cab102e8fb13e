//! Agent, process server and vault on one machine, written to, attacked and restored, with a verdict.
//!
//! ```text
//! load ── NBD ──▶ agent ── QUIC ──▶ process server ──▶ vault (file://, synced)
//!  │                                     ✗ killed once            │
//!  └─ shadow, order of issues and completions                     │ all others stopped
//!                     │                                           ▼
//!                     └───────────── compared with ◀────────── restores
//! ```
//!
//! Everything is real: connections over NBD, certificates just issued, QUIC over loopback, syncs. What is
//! restored is compared with what the load itself knows, never with what the agent or its disk says.
//!
//! | module | for |
//! |---|---|
//! | `mix`, `stamp` | what is written: requests, and sectors that say which write put them there |
//! | `history`, `shadow` | what was written: the order of issues and completions, and the image |
//! | `load` | the guest: connections, requests in flight, bookmarks with none in flight |
//! | `judge` | whether an image at an unmarked `Seq` can be the disk at one instant |
//! | `folder`, `server_host`, `setting` | where things lie, and what runs |
//! | `run`, `acts`, `restores`, `report` | what happens in which order, and what was found |
//!
//! What this leaves out: how it looks. Whoever calls [`run`] is told of each [`Event`] and prints.

mod acts;
mod error;
mod folder;
mod history;
mod judge;
mod load;
mod mix;
mod report;
mod restores;
mod run;
mod server_host;
mod setting;
mod shadow;
mod stamp;

pub use error::{ErrorKind, QuickstartError};
pub use load::{Done, LoadError};
pub use report::{Attack, PointReport, PrefixChecks, Quantiles, Report, ViolationReport};
pub use run::{Event, Kept, Outcome, QuickstartConfig, SECONDS_MAX, SIZE_MAX, SIZE_MIN, run};
pub use shadow::{Digest, WrongRead};
