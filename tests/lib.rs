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
//! | `golden` | the files in `golden/` that every later version must read |
//! | `staged`, `vault_copy` | what a vault's directory shows |
//! | `vault_place`, `vault_view`, `clouds` | where vaults are, what they hold, and what stands in for clouds |
//! | `page_blobs` | Azure's page blobs where Azurite does not behave like them, and faults |
//! | `replica_place` | where a server's replicas are, and whether one is its disk |
//! | `handmade` | replicas made by hand |
//! | `peak` | how much memory a process had at most |
//! | `writer` | a program whose writes must go on |
//! | `wait` | conditions with deadlines |

pub mod rigs {
    pub mod child;
    pub mod clouds;
    pub mod connection;
    pub mod control;
    pub mod golden;
    pub mod guest;
    pub mod handmade;
    pub mod history;
    pub mod image;
    pub mod judge;
    pub mod load;
    pub mod mount;
    pub mod page_blobs;
    pub mod peak;
    pub mod prefix;
    pub mod record;
    pub mod replica_place;
    pub mod site;
    pub mod staged;
    pub mod stamp;
    pub mod tool;
    pub mod vault_copy;
    pub mod vault_place;
    pub mod vault_view;
    pub mod wait;
    pub mod writer;

    /// Whether the long forms of the tests are asked for: `cargo xtask soak`.
    pub fn is_soak() -> bool {
        std::env::var_os("EVERPOINT_SOAK").is_some_and(|set| set == "1")
    }
}
