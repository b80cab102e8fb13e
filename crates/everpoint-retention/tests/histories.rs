//! Histories written by hand into vaults in memory and in directories: listed, restored, mounted, damaged, checked.

#[path = "sample/images.rs"]
#[allow(
    dead_code,
    reason = "every test target uses its own part of the sample"
)]
mod images;
#[path = "sample/world.rs"]
#[allow(
    dead_code,
    reason = "every test target uses its own part of the sample"
)]
mod world;

#[path = "histories/copies.rs"]
mod copies;
#[path = "histories/damage.rs"]
mod damage;
#[path = "histories/differences.rs"]
mod differences;
#[path = "histories/flips.rs"]
mod flips;
#[path = "histories/layers.rs"]
mod layers;
#[path = "histories/mounts.rs"]
mod mounts;
#[path = "histories/oracle.rs"]
mod oracle;
#[path = "histories/outputs.rs"]
mod outputs;
#[path = "histories/points.rs"]
mod points;
