//! Whether this server owns a machine: the machine's path, read from the vault, leads to its journal
//! (R6). A machine without an origin is given one that names that journal.

use std::time::Duration;

use everpoint_format::name;
use everpoint_format::origin::Origin;
use everpoint_journal::history::MachineHistory;
use everpoint_units::{JournalId, MachineId};
use everpoint_vault::history::{HistoryError, walk};
use everpoint_vault::{CreateError, ObjectName, Payload};

use crate::clock::wall_time;
use crate::ownership_core::{Claim, NotServed, OwnershipCore};
use crate::shared::Shared;

/// A vault that does not answer for so long refuses the machine; its agent comes again.
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
    #[error("the vault gives no answer within {LOAD_TIMEOUT:?}")]
    TimedOut,
}

/// Reads the machine's path and history; creates its origin where there is none.
pub(crate) async fn load(shared: &Shared, machine: MachineId) -> Result<MachineHistory, NotOwned> {
    let loading = load_in_rounds(shared, machine);
    let loaded = tokio::time::timeout(LOAD_TIMEOUT, loading).await;
    loaded.unwrap_or(Err(NotOwned::TimedOut))
}

async fn load_in_rounds(shared: &Shared, machine: MachineId) -> Result<MachineHistory, NotOwned> {
    let mut core = OwnershipCore::default();
    loop {
        let own = shared.journal();
        let mut history = MachineHistory::new(machine);
        let walked = walk(
            &shared.vault,
            shared.header.vault,
            machine,
            |journal, number, data, _| {
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
