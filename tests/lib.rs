//! Rigs for the tests of the whole system, which lie beside this file: sites, loads, judges.
//!
//! | module | what it is for |
//! |---|---|
//! | `site`, `child`, `control`, `connection` | servers and agents as processes, with a vault and certificates |
//! | `tool`, `mount` | strangers' software, loop devices and mounts |
//! | `load` | a guest that writes over NBD: overlapping requests, bursts, holds |
//! | `image` | digests of images, and where two of them differ |
//! | `stamp`, `history`, `prefix` | writes that can be told apart, and whether an image is an instant |
//! | `record`, `guest`, `judge` | the judge of the kill test, a process of its own |
//! | `staged`, `vault_copy`, `vault_view` | what a vault's directory shows |
//! | `wait` | conditions with deadlines |

#[path = "rigs/child.rs"]
pub mod child;
#[path = "rigs/connection.rs"]
pub mod connection;
#[path = "rigs/control.rs"]
pub mod control;
#[path = "rigs/guest.rs"]
pub mod guest;
#[path = "rigs/history.rs"]
pub mod history;
#[path = "rigs/image.rs"]
pub mod image;
#[path = "rigs/judge.rs"]
pub mod judge;
#[path = "rigs/load.rs"]
pub mod load;
#[path = "rigs/mount.rs"]
pub mod mount;
#[path = "rigs/prefix.rs"]
pub mod prefix;
#[path = "rigs/record.rs"]
pub mod record;
#[path = "rigs/site.rs"]
pub mod site;
#[path = "rigs/staged.rs"]
pub mod staged;
#[path = "rigs/stamp.rs"]
pub mod stamp;
#[path = "rigs/tool.rs"]
pub mod tool;
#[path = "rigs/vault_copy.rs"]
pub mod vault_copy;
#[path = "rigs/vault_view.rs"]
pub mod vault_view;
#[path = "rigs/wait.rs"]
pub mod wait;

/// Whether the long forms of the tests are asked for: `cargo xtask soak`.
pub fn is_soak() -> bool {
    std::env::var_os("EVERPOINT_SOAK").is_some_and(|set| set == "1")
}
