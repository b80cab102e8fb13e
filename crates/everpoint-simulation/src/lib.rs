//! The product's decisions in a world on one thread, with one seed and virtual time, in which disks,
//! network, vault and processes break as real ones do.
//!
//! ```text
//!  guests ─▶ agent (its cores) ─▶ link ─▶ server (its cores, the real log) ─▶ store
//!     │                                                                        │
//!     └──▶ oracle: what was written, what was promised ◀── restores, checks ───┘
//! ```
//!
//! What decides is production's own code, unchanged: the cores of `everpoint-capture`, `-replication` and
//! `-journal`, those of the roles (`*_core.rs`), the engine of the cache log. What is made here is what
//! production's shells stand on: time, disks, links, a store, and the crashes.
//!
//! A run has two phases. In the first, faults strike at moments that the seed chose beforehand; whatever
//! they do, no promise may be broken. In the second everything is healed, and within bounded time all
//! must be level, committed and restorable.
//!
//! Beside the world stands the model: the rules of ownership, commit and deletion, explored state by
//! state ([`model`]). What is found is made small ([`shrink`]) and told ([`words`]).

pub mod model;
pub mod shrink;
pub mod words;
pub mod world;

pub use world::plan::{Fault, FaultKind, Plan};
pub use world::{Outcome, Story, Violation, run};
