//! What becomes of the tail that earlier boots cached: whose part of it leads nowhere.
//!
//! That is decided once, when a boot reads the tail, and holds when the same blocks are read again for
//! their commit: a machine that became this server's in between has its history without them. Only what is
//! known for good counts. Where nobody can say whose machine it is, the boot ends and nothing is discarded.
//!
//! Pure.

use std::collections::BTreeSet;

use everpoint_cache_log::LogPosition;
use everpoint_units::MachineId;

use crate::ownership_core::NotServed;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct TailCore {
    /// The tail's last record.
    last: Option<LogPosition>,
    refused: BTreeSet<MachineId>,
}

impl TailCore {
    /// A tail with this record at its end; `None` for an empty one.
    pub const fn new(last: Option<LogPosition>) -> Self {
        Self {
            last,
            refused: BTreeSet::new(),
        }
    }

    /// A machine with blocks in the tail is not served.
    ///
    /// # Errors
    ///
    /// The reason, where it may be another one tomorrow: the boot ends, and the next reads the tail again.
    pub fn handle_refused(&mut self, machine: MachineId, why: NotServed) -> Result<(), NotServed> {
        match why {
            NotServed::Elsewhere { .. } | NotServed::Closed | NotServed::Damaged => {
                self.refused.insert(machine);
                Ok(())
            }
            NotServed::Unsettled => Err(why),
        }
    }

    /// Whether a block at this place leads nowhere, whoever serves its machine now.
    pub fn discards(&self, machine: MachineId, at: LogPosition) -> bool {
        Some(at) <= self.last && self.refused.contains(&machine)
    }
}

#[cfg(test)]
mod tests;
