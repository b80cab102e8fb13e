//! Histories in a vault: reads what the cores of `everpoint-journal` ask for, and creates what they say.
//!
//! The cores decide (which objects are a machine's history, where a seal goes); this module lists, reads,
//! checks and creates, and decides nothing. Damage is an answer here, not an error: an object that is there
//! and does not decode is [`ObjectFound::Damaged`], and what that means is for the core to say. An
//! [`HistoryError`] means that there is no answer.
//!
//! Everything read is checked before it is handed on: checksums, shape, and that it lies under its own name
//! in its own vault. Frames are not read here.

mod manifest;
mod object;
mod reader;
mod seal;
mod walk;

use everpoint_format::DecodeError;
use everpoint_format::data::DataIndex;
use everpoint_format::name::{self, ObjectKind};
use everpoint_format::object::Seal;
use everpoint_format::origin::Origin;
use everpoint_format::vault::VaultHeader;
use everpoint_journal::path::Listing;
use everpoint_units::{ByteLen, JournalId, MachineId, ObjectNo, VaultId};

use crate::error::{CreateError, ListError, ReadError, Remedy};
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::vault::Vault;

pub use manifest::{OpenLayer, StoredManifest, list_manifests, newest_manifest, read_manifest};
pub use object::{decode_object, read_object};
pub use reader::PathReader;
pub use seal::seal_journal;
pub use walk::{WALK_AHEAD_MAX, Walked, read_objects, walk, walk_all, walk_behind, walk_from};

/// What lies under the name of a journal object.
#[derive(Debug)]
pub enum ObjectFound {
    /// A data object's header and index, and how long the whole object is. Unit: bytes.
    Data(Box<DataIndex>, ByteLen),
    /// The journal's seal.
    Seal(Seal),
    /// It is there, and is not what its name says.
    Damaged(ObjectDamage),
    /// There is no such object.
    Missing,
}

/// Why an object that is there cannot be used. Its bytes will not change: repeating is in vain.
#[derive(Debug, thiserror::Error)]
pub enum ObjectDamage {
    /// The bytes are not what was written, or belong elsewhere.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The medium does not give the bytes back.
    #[error("the medium does not give the bytes back")]
    Medium(#[source] ReadError),
}

/// Why there is no answer about a history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// There is no vault header here.
    #[error("{vault} is not an everpoint vault: it has no {}", name::VAULT_HEADER)]
    NotAVault { vault: String },
    /// The vault's own header does not decode: nothing in the vault can be trusted without it.
    #[error("{name} does not decode")]
    Header {
        name: ObjectName,
        source: DecodeError,
    },
    /// The journal has an `end` that does not decode, so what sealed it is not known from there.
    #[error("{name} does not decode")]
    End {
        name: ObjectName,
        source: DecodeError,
    },
    /// The newest manifest of a machine does not decode, or belongs elsewhere.
    #[error("{name} does not decode")]
    Manifest {
        name: ObjectName,
        source: DecodeError,
    },
    /// Each time the newest manifest was looked for, it was gone when it was read.
    #[error(
        "the newest manifest of machine {machine} was gone in {rounds} rounds: somebody deletes manifests"
    )]
    ManifestGone { machine: MachineId, rounds: u32 },
    /// A map layer that a manifest links does not decode, or is another one.
    #[error("{name} does not decode")]
    Layer {
        name: ObjectName,
        source: DecodeError,
    },
    /// A map layer that a manifest links is gone.
    #[error("{name} is gone")]
    LayerGone { name: ObjectName },
    /// A part of a map layer is not there.
    #[error("{name}: the bytes are not there")]
    LayerUnread { name: ObjectName, source: ReadError },
    /// A journal that is to be sealed changed each time it was looked at.
    #[error("journal {journal} was not sealed in {rounds} rounds: somebody goes on writing to it")]
    Unsettled { journal: JournalId, rounds: u32 },
    /// An object could not be read.
    #[error("a history cannot be read")]
    Read(#[from] ReadError),
    /// A prefix could not be listed.
    #[error("a history cannot be listed")]
    List(#[from] ListError),
    /// An object could not be created.
    #[error("an object cannot be created")]
    Create(#[from] CreateError),
}

impl HistoryError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NotAVault { .. }
            | Self::Header { .. }
            | Self::End { .. }
            | Self::Manifest { .. }
            | Self::Layer { .. }
            | Self::LayerGone { .. }
            | Self::LayerUnread { .. } => Remedy::Report,
            Self::Unsettled { .. } | Self::ManifestGone { .. } => Remedy::Again,
            Self::Read(source) => source.remedy(),
            Self::List(source) => source.remedy(),
            Self::Create(source) => source.remedy(),
        }
    }
}

/// Creates the vault's header, or returns the one that is there: of several creators one counts, and all
/// get that one.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn create_header(
    vault: &Vault,
    header: &VaultHeader,
) -> Result<VaultHeader, HistoryError> {
    let name = object_name(name::VAULT_HEADER);
    match vault.create(&name, &Payload::from(header.encode())).await {
        Ok(_) => Ok(*header),
        Err(CreateError::Different { .. }) => read_header(vault).await,
        Err(error) => Err(error.into()),
    }
}

/// Reads the vault's header: its id, and the key of its digests.
///
/// # Errors
///
/// [`HistoryError::NotAVault`] where there is none.
pub async fn read_header(vault: &Vault) -> Result<VaultHeader, HistoryError> {
    let name = object_name(name::VAULT_HEADER);
    let Some(bytes) = vault.read(&name).await? else {
        return Err(HistoryError::NotAVault {
            vault: vault.url().to_string(),
        });
    };
    VaultHeader::decode(&bytes).map_err(|source| HistoryError::Header { name, source })
}

/// Lists a journal to its end. A listing of several pages is made again from the start (R5): while it was
/// made, a seal may have gone into a part that was listed already.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn list_journal(vault: &Vault, journal: JournalId) -> Result<Listing, HistoryError> {
    let prefix = object_prefix(&name::journal(journal));
    let mut listed = vault.list_to_end(&prefix, None).await?;
    if 1 < listed.pages {
        listed = vault.list_to_end(&prefix, None).await?;
    }
    let mut listing = Listing::default();
    for entry in &listed.objects {
        match name::parse(entry.name.as_str()) {
            Some(ObjectKind::JournalObject(_, number)) => {
                listing.objects.push((number, entry.len.0));
            }
            Some(ObjectKind::JournalEnd(_)) => listing.has_end = true,
            _ => (),
        }
    }
    Ok(listing)
}

/// The journals of the vault, rising. One may hold no object: a create that failed can leave its folder.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn list_journals(vault: &Vault) -> Result<Vec<JournalId>, HistoryError> {
    list_ids(vault, name::JOURNALS).await
}

/// The machines of the vault, rising. One may have no origin: a create that failed can leave its folder.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn list_machines(vault: &Vault) -> Result<Vec<MachineId>, HistoryError> {
    list_ids(vault, name::MACHINES).await
}

async fn list_ids<Id: std::str::FromStr + Ord>(
    vault: &Vault,
    folder: &str,
) -> Result<Vec<Id>, HistoryError> {
    let prefixes = vault.list_prefixes(&object_prefix(folder)).await?;
    let mut ids: Vec<Id> = prefixes
        .iter()
        .filter_map(|prefix| prefix.leaf().parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Where the path of a machine begins: `None` if it has no origin, the inner error if that does not decode
/// or belongs to another vault or machine.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn read_origin(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<Result<Option<Origin>, DecodeError>, HistoryError> {
    let Some(bytes) = vault.read(&object_name(&name::origin(machine))).await? else {
        return Ok(Ok(None));
    };
    let misplaced = |field| DecodeError::Misplaced {
        what: "origin",
        field,
    };
    let origin = Origin::decode(&bytes).and_then(|origin| {
        if origin.vault != id {
            Err(misplaced("vault"))
        } else if origin.machine != machine {
            Err(misplaced("machine"))
        } else {
            Ok(Some(origin))
        }
    });
    Ok(origin)
}

/// The journal's `end`: `None` if there is none, the inner error if it does not decode or belongs to another
/// vault or journal.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn read_end(
    vault: &Vault,
    id: VaultId,
    journal: JournalId,
) -> Result<Option<Result<Seal, DecodeError>>, HistoryError> {
    let Some(bytes) = vault
        .read(&object_name(&name::journal_end(journal)))
        .await?
    else {
        return Ok(None);
    };
    let seal = Seal::decode_end(&bytes).and_then(|seal| {
        let number = seal.header.number;
        seal.header.expect_at(id, journal, number).map(|()| seal)
    });
    Ok(Some(seal))
}

fn object_name(name: &str) -> ObjectName {
    ObjectName::new(name).expect("the format's names are names")
}

fn journal_object(journal: JournalId, number: ObjectNo) -> ObjectName {
    object_name(&name::journal_object(journal, number))
}

fn object_prefix(name: &str) -> ObjectPrefix {
    ObjectPrefix::new(name).expect("the format's folders are prefixes")
}

#[cfg(test)]
mod tests;
