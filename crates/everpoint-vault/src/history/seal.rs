//! Sealing a journal: drives the core's `Sealing` until the journal is sealed.

use everpoint_format::object::Seal;
use everpoint_journal::sealing::{Found, SealOrder, Sealing, Step};

use super::{
    HistoryError, ObjectFound, journal_object, list_journal, object_name, read_end, read_object,
};
use crate::error::{CreateError, Remedy};
use crate::payload::Payload;
use crate::vault::Vault;

/// Most steps until a journal is sealed. Each lost race with a writer costs a listing, the last objects of
/// the run and a create; a healthy run takes so much once.
const STEPS_MAX: u32 = 1_000;

/// How often a create without a clear answer is repeated with the same bytes, each time with the vault's
/// whole budget of attempts, before the caller is told.
const AMBIGUOUS_MAX: u32 = 3;

/// Seals a journal (R5), or finds the seal that it has; whose seal it is, the answer says. Safe to drop and
/// to call again.
///
/// # Errors
///
/// See [`HistoryError`]; with [`Remedy::Again`] the seal may have been created.
///
/// # Panics
///
/// If the successor's level is not higher than the journal's (R2).
pub async fn seal_journal(vault: &Vault, order: SealOrder) -> Result<Seal, HistoryError> {
    let journal = order.journal;
    let mut sealing = Sealing::new(order);
    for _ in 0..STEPS_MAX {
        match sealing.step() {
            Step::Sealed(seal) => return Ok(seal),
            Step::List => sealing.handle_listing(&list_journal(vault, journal).await?),
            Step::ReadEnd => {
                let found = match read_end(vault, order.vault, journal).await? {
                    Some(Ok(seal)) => Found::Seal(seal),
                    // The core would look again for ever: an `end` that is there says that the
                    // journal is sealed, and no seal may be created.
                    Some(Err(source)) => {
                        let name = object_name(&everpoint_format::name::journal_end(journal));
                        return Err(HistoryError::End { name, source });
                    }
                    None => Found::Missing,
                };
                sealing.handle_read(found);
            }
            Step::Read(number) => {
                let found = read_object(vault, order.vault, journal, number).await?;
                sealing.handle_read(match found {
                    ObjectFound::Data(data, _) => Found::Data {
                        checksum: data.checksum,
                        previous: data.header.previous,
                    },
                    ObjectFound::Seal(seal) => Found::Seal(seal),
                    ObjectFound::Damaged(_) => Found::Damaged,
                    ObjectFound::Missing => Found::Missing,
                });
            }
            Step::Create(seal) => sealing.handle_created(create_seal(vault, &seal).await?),
        }
    }
    Err(HistoryError::Unsettled {
        journal,
        rounds: STEPS_MAX,
    })
}

/// Creates the seal; `false` when other bytes have its name.
async fn create_seal(vault: &Vault, seal: &Seal) -> Result<bool, HistoryError> {
    let name = journal_object(seal.header.journal, seal.header.number);
    let payload = Payload::from(seal.encode());
    let mut ambiguous = 0;
    loop {
        match vault.create(&name, &payload).await {
            Ok(_) => return Ok(true),
            Err(CreateError::Different { .. }) => return Ok(false),
            Err(error) if error.remedy() == Remedy::Again && ambiguous < AMBIGUOUS_MAX => {
                ambiguous += 1;
                tracing::warn!(%name, %error, "a seal's create is repeated");
            }
            Err(error) => return Err(error.into()),
        }
    }
}
