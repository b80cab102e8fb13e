//! Manifests and map layers of a machine: the newest manifest, and parts of layers as they are needed.

use bytes::Bytes;
use everpoint_format::DecodeError;
use everpoint_format::change::Frame;
use everpoint_format::layer::marks::Marks;
use everpoint_format::layer::page::Page;
use everpoint_format::layer::{FRONT_LEN, LayerDirectory, MarksPlace, PagePlace, check_front};
use everpoint_format::manifest::{LayerLink, MANIFEST_LEN_MAX, Manifest};
use everpoint_format::name::{self, ObjectKind};
use everpoint_format::object::ObjectChecksum;
use everpoint_units::{ByteLen, ByteOffset, MachineId, ManifestNo, VaultId};

use super::{HistoryError, object_name, object_prefix};
use crate::error::ReadError;
use crate::name::ObjectName;
use crate::vault::Vault;

/// Rounds of listing and reading before a newest manifest that is always gone is given up.
const ROUNDS_MAX: u32 = 8;

/// A manifest, and what the next one says of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredManifest {
    pub manifest: Manifest,
    pub checksum: ObjectChecksum,
}

/// The numbers of a machine's manifests, rising.
///
/// # Errors
///
/// See [`HistoryError`].
pub async fn list_manifests(
    vault: &Vault,
    machine: MachineId,
) -> Result<Vec<ManifestNo>, HistoryError> {
    let prefix = object_prefix(&name::manifests(machine));
    let listed = vault.list_to_end(&prefix, None).await?;
    let numbers = listed.objects.iter();
    let numbers = numbers.filter_map(|entry| match name::parse(entry.name.as_str()) {
        Some(ObjectKind::Manifest(_, number)) => Some(number),
        _ => None,
    });
    Ok(numbers.collect())
}

/// The machine's newest manifest (R16); `None` where retention has made none.
///
/// # Errors
///
/// [`HistoryError::Manifest`] where it does not decode: what it said is not known from anywhere else.
pub async fn newest_manifest(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<Option<StoredManifest>, HistoryError> {
    for _ in 0..ROUNDS_MAX {
        let Some(number) = list_manifests(vault, machine).await?.pop() else {
            return Ok(None);
        };
        // One that is gone had a newer one behind it.
        if let Some(stored) = read_manifest(vault, id, machine, number).await? {
            return Ok(Some(stored));
        }
    }
    Err(HistoryError::ManifestGone {
        machine,
        rounds: ROUNDS_MAX,
    })
}

/// One manifest of a machine; `None` where there is none of this number.
///
/// # Errors
///
/// [`HistoryError::Manifest`] where it does not decode.
pub async fn read_manifest(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
    number: ManifestNo,
) -> Result<Option<StoredManifest>, HistoryError> {
    let name = object_name(&name::manifest(machine, number));
    let bytes = match vault.read(&name).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(source @ (ReadError::Medium { .. } | ReadError::OutOfRange { .. })) => {
            return Err(HistoryError::LayerUnread { name, source });
        }
        Err(source) => return Err(source.into()),
    };
    let stored = decode(&bytes, id, machine, number);
    let stored = stored.map_err(|source| HistoryError::Manifest { name, source });
    stored.map(Some)
}

fn decode(
    bytes: &Bytes,
    id: VaultId,
    machine: MachineId,
    number: ManifestNo,
) -> Result<StoredManifest, DecodeError> {
    if MANIFEST_LEN_MAX < bytes.len() as u64 {
        return Err(DecodeError::Invalid {
            what: "manifest",
            rule: "is longer than any that this build writes",
        });
    }
    let manifest = Manifest::decode(bytes)?;
    manifest.expect_at(id, machine, number)?;
    let checksum = Manifest::checksum(bytes);
    Ok(StoredManifest { manifest, checksum })
}

/// A layer whose directory was read.
#[derive(Clone, Debug)]
pub struct OpenLayer {
    name: ObjectName,
    pub directory: LayerDirectory,
}

impl OpenLayer {
    /// Reads a layer's directory, and holds it against what the manifest says of it.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Layer`] where it is not what was written.
    pub async fn open(
        vault: &Vault,
        id: VaultId,
        machine: MachineId,
        link: &LayerLink,
    ) -> Result<Self, HistoryError> {
        let name = object_name(&name::layer(machine, link.id));
        let (at, len) = (link.directory_at, link.object_len - link.directory_at);
        let tail = read(vault, &name, at, len).await?;
        let directory = LayerDirectory::decode_tail(&tail, link.object_len);
        let directory = directory.and_then(|(directory, checksum)| {
            expect(&directory, checksum, (id, machine), link).map(|()| directory)
        });
        match directory {
            Ok(directory) => Ok(Self { name, directory }),
            Err(source) => Err(damaged(&name, source)),
        }
    }

    /// Reads what stands before the pages, which nobody needs but who looks at the object alone.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Layer`] where it is not what was written.
    pub async fn read_front(&self, vault: &Vault) -> Result<(), HistoryError> {
        let front = read(vault, &self.name, 0, FRONT_LEN as u64).await?;
        check_front(&front).map_err(|source| damaged(&self.name, source))
    }

    /// Reads pages that follow one another, in one request.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Layer`] where one is not what was written.
    pub async fn read_pages(
        &self,
        vault: &Vault,
        places: &[PagePlace],
    ) -> Result<Vec<Page>, HistoryError> {
        let count = self.directory.objects.len();
        let places = places.iter().map(|place| (place.at, &place.frame));
        self.read_parts(vault, &places.collect::<Vec<_>>(), |raw| {
            Page::decode(raw, count)
        })
        .await
    }

    /// Reads marks that follow one another, in one request.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Layer`] where some are not what was written.
    pub async fn read_marks(
        &self,
        vault: &Vault,
        places: &[MarksPlace],
    ) -> Result<Vec<Marks>, HistoryError> {
        let places = places.iter().map(|place| (place.at, &place.frame));
        self.read_parts(vault, &places.collect::<Vec<_>>(), Marks::decode)
            .await
    }

    async fn read_parts<T>(
        &self,
        vault: &Vault,
        places: &[(u64, &Frame)],
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, HistoryError> {
        let [(first, _), ..] = places else {
            return Ok(Vec::new());
        };
        let lens = places.iter().map(|(_, frame)| u64::from(frame.stored_len));
        let bytes = read(vault, &self.name, *first, lens.sum()).await?;
        let parts = places.iter().map(|(at, frame)| {
            let at = usize::try_from(at - first).expect("inside what was read");
            let stored = bytes.slice(at..at + frame.stored_len as usize);
            decode(&frame.open(&stored)?)
        });
        let parts: Result<_, _> = parts.collect();
        parts.map_err(|source| damaged(&self.name, source))
    }
}

/// Refuses a layer that is another than the one that was linked.
fn expect(
    directory: &LayerDirectory,
    checksum: ObjectChecksum,
    (id, machine): (VaultId, MachineId),
    link: &LayerLink,
) -> Result<(), DecodeError> {
    let header = &directory.header;
    let field = if header.vault != id {
        "vault"
    } else if header.machine != machine || header.disk != link.disk {
        "machine or disk"
    } else if header.id != link.id {
        "name"
    } else if checksum != link.checksum {
        "checksum"
    } else if header.kind != link.kind
        || header.sectors != link.sectors
        || (header.after, header.through) != (link.after, link.through)
    {
        "range"
    } else {
        return Ok(());
    };
    let what = "map layer";
    Err(DecodeError::Misplaced { what, field })
}

async fn read(vault: &Vault, name: &ObjectName, at: u64, len: u64) -> Result<Bytes, HistoryError> {
    match vault.read_range(name, ByteOffset(at), ByteLen(len)).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(HistoryError::LayerGone { name: name.clone() }),
        Err(source @ (ReadError::Medium { .. } | ReadError::OutOfRange { .. })) => {
            let name = name.clone();
            Err(HistoryError::LayerUnread { name, source })
        }
        Err(source) => Err(source.into()),
    }
}

fn damaged(name: &ObjectName, source: DecodeError) -> HistoryError {
    let name = name.clone();
    HistoryError::Layer { name, source }
}
