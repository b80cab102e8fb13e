//! Taking over: on an operator's word, another server's journals are sealed, and their machines'
//! paths lead here from then on (R5, R6).

use std::sync::Arc;

use everpoint_format::object::Seal;
use everpoint_journal::path::gapless_run;
use everpoint_journal::sealing::SealOrder;
use everpoint_units::{JournalId, ObjectNo, ServerId};
use everpoint_vault::history::{
    HistoryError, ObjectFound, list_journal, list_journals, read_object, seal_journal,
};
use tokio::sync::oneshot;

use crate::clock::wall_time;
use crate::commit_task::{Command, RotateError};
use crate::shared::Shared;

/// Whose journals are taken over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    /// All that this server wrote in.
    Server(ServerId),
    /// This one, also when nothing was ever written in it.
    Journal(JournalId),
}

/// Why nothing, or not everything, was taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeOverError {
    #[error("that is this server itself")]
    Itself,
    #[error("no open journal of server {server} is in the vault; name the journal instead")]
    NoJournal { server: ServerId },
    #[error("the server is stopping")]
    Ending,
    #[error(transparent)]
    Vault(#[from] HistoryError),
    #[error(transparent)]
    Rotate(#[from] RotateError),
}

/// Seals the journals; returns them with the journal that goes on.
pub(crate) async fn take_over(
    shared: &Arc<Shared>,
    whose: Whose,
) -> Result<Vec<(JournalId, JournalId)>, TakeOverError> {
    let journals = match whose {
        Whose::Server(server) if server == shared.server => return Err(TakeOverError::Itself),
        Whose::Journal(journal) if journal == shared.journal() => {
            return Err(TakeOverError::Itself);
        }
        Whose::Server(server) => open_journals(shared, server).await?,
        Whose::Journal(journal) => vec![journal],
    };
    let highest = journals.iter().map(|journal| journal.level).max();
    let highest = highest.expect("there is at least one journal");
    let successor = rotate_above(shared, highest).await?;
    let mut sealed = Vec::new();
    for journal in journals {
        let order = SealOrder {
            vault: shared.header.vault,
            journal,
            successor,
            server: shared.server,
            assignment: 0,
            now: wall_time(),
        };
        let seal: Seal = seal_journal(&shared.vault, order).await?;
        tracing::warn!(%journal, successor = %seal.successor, "a journal was taken over");
        sealed.push((journal, seal.successor));
    }
    Ok(sealed)
}

/// A successor has a higher level than what it follows (R2).
async fn rotate_above(
    shared: &Arc<Shared>,
    level: everpoint_units::Level,
) -> Result<JournalId, TakeOverError> {
    let (reply, answer) = oneshot::channel();
    let command = Command::RotateAbove { level, reply };
    let sent = shared.commands.send(command).await;
    sent.map_err(|_| TakeOverError::Ending)?;
    Ok(answer.await.map_err(|_| TakeOverError::Ending)??)
}

/// The journals in which `server` wrote and that are not sealed. One that never wrote has no object
/// and no writer's name, and one of which nothing can be read tells none: an operator names it.
async fn open_journals(shared: &Shared, server: ServerId) -> Result<Vec<JournalId>, TakeOverError> {
    let (vault, id) = (&shared.vault, shared.header.vault);
    let mut open = Vec::new();
    for journal in list_journals(vault).await? {
        let listing = list_journal(vault, journal).await?;
        let last = gapless_run(&listing);
        if writer(shared, journal, last).await? != Some(server) {
            continue;
        }
        let tail = read_object(vault, id, journal, last).await?;
        if !listing.has_end && !matches!(tail, ObjectFound::Seal(_)) {
            open.push(journal);
        }
    }
    if open.is_empty() {
        return Err(TakeOverError::NoJournal { server });
    }
    Ok(open)
}

/// Who writes in a journal, if that can be known: each of its data objects says so, and the first may be
/// damaged.
async fn writer(
    shared: &Shared,
    journal: JournalId,
    last: ObjectNo,
) -> Result<Option<ServerId>, TakeOverError> {
    let mut damaged = 0_u64;
    for number in (1..=last.0).map(ObjectNo) {
        match read_object(&shared.vault, shared.header.vault, journal, number).await? {
            ObjectFound::Data(data, _) => return Ok(Some(data.header.server)),
            ObjectFound::Damaged(_) => damaged += 1,
            ObjectFound::Seal(_) | ObjectFound::Missing => break,
        }
    }
    if 0 < damaged {
        tracing::warn!(
            %journal,
            damaged,
            "no object of this journal can be read, so nobody knows whose it is: if it is of the server \
             that is taken over, take it over by its name"
        );
    }
    Ok(None)
}
