//! The role on the protected machine: splitter, queue, change blocks, initial sync and resync.
//!
//! ```text
//! guest ─ NBD ─▶ splitter ─▶ local disk                                    (guest threads)
//!                   └─ Seq, queue ─▶ packer ─▶ disk task ─▶ stream ─▶ server   (background)
//!                                       resync ──┘   ▲
//!                                                session
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `agent` | the whole: start, stop, disks that come and go |
//! | `config` | settings |
//! | `splitter`, `range_gate` | a guest's request, from NBD to its place in the order |
//! | `disk_source` | what holds a disk's bytes |
//! | `machine` | what all parts share |
//! | `point_core`, `app_point` | marking an instant, also while applications hold still |
//! | `freeze_core`, `freezer` | filesystems that are frozen for it, by processes of their own |
//! | `schedule_core`, `point_task` | points by the clock |
//! | `packer_task` | batches out of the queue, compressed on other threads |
//! | `disk_core`, `disk_task`, `disk_stream` | one disk's session |
//! | `resync_core`, `resync_task` | initial sync and resync |
//! | `session_core`, `session_task` | the machine's session |
//! | `start_core`, `reserve_task`, `state` | what must survive the agent |
//! | `control`, `status`, `meters`, `meter_task` | what is seen from outside |
//!
//! What decides is pure: `everpoint-capture` and `everpoint-replication`, and the `*_core` files, which
//! bring those together. Everything else here loops and does.
//! There is no dirty map yet: after a crash of the agent every disk is compared with the server.

mod agent;
mod app_point;
mod blocking;
mod clock;
mod config;
mod control;
mod disk;
pub mod disk_core;
mod disk_source;
mod disk_stream;
mod disk_table;
mod disk_task;
mod error;
pub mod freeze_core;
mod freezer;
mod machine;
mod meter_task;
mod meters;
mod packer_task;
pub mod point_core;
mod point_task;
mod range_gate;
mod reserve_task;
pub mod resync_core;
mod resync_task;
pub mod schedule_core;
pub mod session_core;
mod session_task;
mod splitter;
pub mod start_core;
mod state;
mod status;

pub use agent::{Agent, Point, Stopped};
pub use config::{
    AgentConfig, AppPointsConfig, DiskConfig, IdText, NbdConfig, PointsConfig, ServerConfig,
    SettingError, TlsConfig,
};
pub use disk_core::report::DiskStateWord;
pub use disk_source::{SourceError, SourceOpenError};
pub use error::{
    AddDiskError, CreatePointError, DetachError, FreezeError, ScriptError, StartError,
};
pub use freezer::run_freezer;
pub use state::StateError;
