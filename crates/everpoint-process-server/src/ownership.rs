//! Whether this server owns a machine: the machine's path, read from the vault, leads to its journal
//! (R6). A machine without an origin is given one that names that journal.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use everpoint_format::name;
use everpoint_format::origin::Origin;
use everpoint_journal::history::MachineHistory;
use everpoint_units::{JournalId, MachineId};
use everpoint_vault::history::{HistoryError, walk};
use everpoint_vault::{CreateError, ObjectName, Payload};
use tokio::time::timeout;

use crate::clock::wall_time;
use crate::ownership_core::{Claim, NotServed, OwnershipCore};
use crate::shared::Shared;

/// When the vault's answers have not moved on for so long, the machine is refused; its agent comes again. How
/// long a whole history takes is no matter: it may be of months.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Why this server does not serve a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOwned {
    #[error(transparent)]
    NotServed(#[from] NotServed),
    #[error("this server serves {machines_max} machines already")]
    TooMany { machines_max: usize },
    #[error("the vault gives no answer")]
    Vault(#[source] HistoryError),
    #[error("the vault gives no answer")]
    Create(#[source] CreateError),
    #[error("the vault has given no answer for {LOAD_TIMEOUT:?}")]
    TimedOut,
}

/// Reads the machine's path and history; creates its origin where there is none.
pub(crate) async fn load(shared: &Shared, machine: MachineId) -> Result<MachineHistory, NotOwned> {
    let read = AtomicU64::new(0);
    let loading = load_in_rounds(shared, machine, &read);
    let loaded = while_it_moves(loading, &read, LOAD_TIMEOUT).await;
    loaded.unwrap_or(Err(NotOwned::TimedOut))
}

/// Waits for `work` as long as it counts its steps; `None` when it has counted none for `silence` or more.
async fn while_it_moves<T>(
    work: impl Future<Output = T>,
    steps: &AtomicU64,
    silence: Duration,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let before = steps.load(Relaxed);
        match timeout(silence, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if steps.load(Relaxed) == before => return None,
            Err(_) => (),
        }
    }
}

/// `read` counts the objects.
async fn load_in_rounds(
    shared: &Shared,
    machine: MachineId,
    read: &AtomicU64,
) -> Result<MachineHistory, NotOwned> {
    let mut core = OwnershipCore::default();
    loop {
        let own = shared.journal();
        let mut history = MachineHistory::new(machine);
        let walked = walk(
            &shared.vault,
            shared.header.vault,
            machine,
            |journal, number, data, _| {
                read.fetch_add(1, Relaxed);
                for section in &data.index.sections {
                    history.fold(section, journal, number);
                }
            },
        );
        let walked = walked.await.map_err(NotOwned::Vault)?;
        for damage in &walked.damage {
            tracing::error!(%machine, %damage, "the machine's history is damaged");
        }
        match core.handle_read(walked.end, own, shared.journal()) {
            Claim::Serve => return Ok(history),
            Claim::ReadAgain => (),
            Claim::CreateOrigin => create_origin(shared, machine, own).await?,
            Claim::Refuse(why) => return Err(why.into()),
        }
    }
}

/// Creates the origin; one that is there already counts, and the next walk follows it.
async fn create_origin(
    shared: &Shared,
    machine: MachineId,
    journal: JournalId,
) -> Result<(), NotOwned> {
    let origin = Origin {
        vault: shared.header.vault,
        machine,
        journal,
        created_at: wall_time(),
        made_from: None,
    };
    let name = ObjectName::new(&name::origin(machine)).expect("the format's names are names");
    let payload = Payload::from(origin.encode());
    match shared.vault.create(&name, &payload).await {
        Ok(_) | Err(CreateError::Different { .. }) => Ok(()),
        Err(error) => Err(NotOwned::Create(error)),
    }
}

#[cfg(test)]
mod tests;
