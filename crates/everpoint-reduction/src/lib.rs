//! Fewer bytes and fewer requests: what lies between committed changes and a replica.
//!
//! Pure: it knows sectors and costs, and neither Azure nor where bytes are.

mod page_plan;
mod run_map;

pub use page_plan::{Costs, Need, PageOp, Part, Source, plan};
pub use run_map::{RunMap, RunValue};
