//! The rules of ownership, commit and deletion as models, on the product's own types and cores.
//!
//! Several small models say more than a large one: each is explored until it is exhausted (*closed*), or
//! as far as its limit goes (*bounded*), which its outcome says.
//!
//! | model          | rules          | the product's cores in it               | the model's own           |
//! |----------------|----------------|-----------------------------------------|---------------------------|
//! | `ownership.rs` | R1 to R14      | `PathWalk`, `Sealing`, `Commit`         | agents, retention, R13–14 |
//! | `listing.rs`   | R5             | `Sealing`                               | pages                     |
//! | `folding.rs`   | R4, R13        | `PathWalk`, `Sealing`                   | manifests                 |
//! | `origin.rs`    | R3, R6         | `PathWalk`                              | servers                   |
//! | `disks.rs`     | cuts           | `MachineHistory`                        | agent                     |
//! | `agents.rs`    | dirty bits     | –                                       | all                       |
//! | `manifests.rs` | R16 to R18     | –                                       | all                       |
//! | `pruning.rs`   | R13, R16–18    | –                                       | all                       |
//! | `condemned.rs` | R15            | –                                       | all                       |
//! | `replica.rs`   | the fence      | –                                       | all                       |
//! | `group.rs`     | group points   | –                                       | all                       |
//!
//! A model whose rules are the model's own says what the product will have to do; it does not check the
//! product. Left out altogether: more than two machines and three servers, damage and bit rot (the cores'
//! own tests have them), time. One step where the product has several: a sealer's listing and reading in
//! `ownership.rs` (`listing.rs` has them apart), and the question for `end` with its answer.

mod agents;
mod condemned;
mod disks;
mod explore;
mod folding;
mod group;
mod listing;
mod manifests;
mod origin;
mod ownership;
mod pruning;
mod replica;
mod store;
mod worlds;

#[cfg(test)]
mod tests;

pub use explore::{Limits, Outcome, Totals, Violation};
pub use worlds::{Planned, left_out, left_out_in_vain, long_worlds, short_worlds};
