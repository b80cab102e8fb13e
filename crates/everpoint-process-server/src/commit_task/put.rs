//! Requests to the vault that the commit waits for: repeated, with the same bytes, until there is an
//! answer.

use std::sync::Arc;

use everpoint_format::name;
use everpoint_units::{JournalId, ObjectNo};
use everpoint_vault::{CreateError, ObjectName, Payload, Remedy};

use crate::metrics;
use crate::shared::{BackOff, Shared, chain};

/// How a request ended.
pub(crate) enum Done {
    /// The object lies in the vault with exactly these bytes.
    Stored(ObjectNo),
    /// `end` was asked for after this object was stored, and is absent.
    EndAbsent(ObjectNo),
    /// Other bytes, a seal or `end` were found: this journal is over.
    Fenced,
    /// The vault's medium can no longer be trusted.
    Failed(CreateError),
    /// The server ended meanwhile.
    GaveUp,
}

/// Creates an object. The bytes were frozen before the first attempt and stay the same (R9).
pub(crate) async fn create(
    shared: Arc<Shared>,
    journal: JournalId,
    number: ObjectNo,
    payload: Payload,
) -> Done {
    let name = ObjectName::new(&name::journal_object(journal, number));
    let name = name.expect("the format's names are names");
    let mut back_off = BackOff::new();
    loop {
        let Err(error) = shared.vault.create(&name, &payload).await else {
            reached(&shared);
            return Done::Stored(number);
        };
        match error.remedy() {
            Remedy::Again if !shared.has_ended() => {
                tracing::warn!(%name, error = chain(&error), "the vault does not take an object");
                unreachable(&shared);
                back_off.pause().await;
            }
            Remedy::Again => return Done::GaveUp,
            Remedy::StandDown => {
                tracing::error!(%name, "the name is taken by other bytes: fenced");
                return Done::Fenced;
            }
            Remedy::EndProcess | Remedy::Report => return Done::Failed(error),
        }
    }
}

/// Asks whether the journal's `end` is there (R10). Only called after the stores that it covers.
pub(crate) async fn ask_for_end(shared: Arc<Shared>, journal: JournalId, after: ObjectNo) -> Done {
    let name = ObjectName::new(&name::journal_end(journal));
    let name = name.expect("the format's names are names");
    let mut back_off = BackOff::new();
    loop {
        match shared.vault.head(&name).await {
            Ok(found) => {
                reached(&shared);
                return match found {
                    None => Done::EndAbsent(after),
                    Some(_) => Done::Fenced,
                };
            }
            Err(error) if shared.has_ended() => {
                tracing::info!(%error, "the question for a journal's end is given up");
                return Done::GaveUp;
            }
            Err(error) => {
                tracing::warn!(%name, error = chain(&error), "the vault does not answer");
                unreachable(&shared);
                back_off.pause().await;
            }
        }
    }
}

fn unreachable(shared: &Shared) {
    let now = shared.clock.now();
    shared.progress.send_if_modified(|progress| {
        let first = progress.unreachable_since.is_none();
        progress.unreachable_since.get_or_insert(now);
        first
    });
    metrics::vault_reachable(false);
}

fn reached(shared: &Shared) {
    shared
        .progress
        .send_if_modified(|progress| progress.unreachable_since.take().is_some());
    metrics::vault_reachable(true);
}
