//! Keeps the durable reservation of `Seq`s ahead of their use.
//!
//! A mark is asked for a whole step before it is needed, so that a slow state directory costs
//! nothing. If it stays away for the million writes of a step, disks lose order rather than guests
//! wait.

use std::sync::Arc;
use std::time::Duration;

use everpoint_units::Seq;

use crate::blocking::blocking;
use crate::machine::Machine;
use crate::splitter::chain;
use crate::state::{StateDir, StateError};

/// How long a failed write of the mark stands before the next.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(crate) async fn run(machine: Arc<Machine>, state: Arc<StateDir>) {
    loop {
        machine.reserve.notified().await;
        loop {
            let wanted = machine.order().wanted_reservation();
            let Some(until) = wanted else {
                break;
            };
            if let Err(error) = reserve(&machine, &state, until).await {
                tracing::error!(error = %chain(&error), "sequence numbers cannot be reserved");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Makes a mark durable, and only then lets `Seq`s up to it be handed out.
///
/// # Errors
///
/// See [`StateError`].
pub(crate) async fn reserve(
    machine: &Machine,
    state: &Arc<StateDir>,
    until: Seq,
) -> Result<(), StateError> {
    let state = Arc::clone(state);
    blocking(move || state.reserve(until)).await?;
    machine.order().extend_reservation(until);
    Ok(())
}
