//! The project's own chores, as `cargo xtask` and as a library that tests and benches call.
//!
//! [`image`] makes realistic disk images, [`built`] finds the binary that a test drives. Everything else
//! is behind the command line: [`parts`] is the list of what `cargo xtask test` runs, [`tools`] and [`clouds`] get
//! what that needs, [`fuzz`], [`model`], [`mutants`], [`planted`], [`simulate`] and [`proto`] are chores of
//! their own.
//! What they count is kept ([`record`]) and made a page ([`reliability`]); [`long_run`] has them all count.
//!
//! Nothing here is written outside `target/`, but for what is committed (generated code, golden files, the
//! log of the model check, the page of figures), for what the system's package manager installs and for
//! cargo's own caches.

pub mod built;
pub mod clouds;
pub mod formats;
pub mod fuzz;
pub mod image;
pub mod long_run;
pub mod model;
pub mod mutants;
pub mod parts;
pub mod planted;
pub mod proto;
pub mod record;
pub mod reliability;
pub mod report;
pub mod run;
pub mod simulate;
pub mod tools;
pub mod workspace;
