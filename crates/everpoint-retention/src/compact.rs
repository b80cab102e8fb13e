//! Compaction: what was committed since the newest manifest goes from journal indexes into map layers, and a next
//! manifest counts. No payload moves.
//!
//! Several may compact one machine at once; the number of the manifest decides (R16). Whoever finds its name taken has
//! made layers in vain and begins again with what the other one made. What is folded, and what a manifest says, its core
//! decides; here it is read, stored and told.

use everpoint_format::layer::{LayerHeader, LayerKind, LayerObject};
use everpoint_format::manifest::LayerLink;
use everpoint_format::name;
use everpoint_format::object::ObjectChecksum;
use everpoint_format::vault::VaultHeader;
use everpoint_journal::path::PathEnd;
use everpoint_journal::versions::LayerDraft;
use everpoint_units::{ByteLen, DiskId, MachineId, RetentionId, WallTime};
use everpoint_vault::history::{HistoryError, PathReader, StoredManifest, newest_manifest};
use everpoint_vault::{CreateError, ObjectName, Payload, Vault};
use serde::Serialize;

use crate::compact_core::{CompactCore, NextManifest, Unfoldable};
use crate::error::{ErrorKind, kind_of_history};
use crate::joined::unless_panicked;
use crate::plain;

/// Limits of a compaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CompactConfig {
    /// Changes that one manifest folds; what is more waits for the next. Each takes about 200 bytes of memory.
    pub change_count_max: usize,
}

impl Default for CompactConfig {
    fn default() -> Self {
        Self {
            change_count_max: 1 << 18,
        }
    }
}

/// What a compaction has made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Compacted {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    /// The manifest that counts now.
    pub manifest: u64,
    /// Journal objects that were folded.
    pub object_count: u64,
    pub change_count: u64,
    pub layer_count: usize,
    #[serde(serialize_with = "plain::bytes")]
    pub layer_bytes: ByteLen,
    /// There is more to fold.
    pub is_more: bool,
    /// Why nothing behind is folded, where something is damaged.
    pub stopped: Option<String>,
}

/// Why a machine was not compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The vault gave no answer, or what retention made before is damaged.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// There is no such machine.
    #[error("the vault holds no machine {machine}")]
    NoSuchMachine { machine: MachineId },
    /// An object decodes, and no layer can be made of it.
    #[error("{object}: {source}")]
    Unfoldable { object: String, source: Unfoldable },
    /// Others were faster each time.
    #[error("machine {machine} was not compacted in {rounds} rounds: others are at it")]
    Overtaken { machine: MachineId, rounds: u32 },
}

impl CompactError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::History(source) => kind_of_history(source),
            Self::NoSuchMachine { .. } => ErrorKind::Usage,
            Self::Unfoldable { .. } => ErrorKind::Integrity,
            Self::Overtaken { .. } => ErrorKind::Io,
        }
    }
}

/// Rounds that others may win before a compaction gives up.
const ROUNDS_MAX: u32 = 8;

/// Folds what a machine has committed since its newest manifest; `None` where there is nothing new. `now` becomes the
/// time of what is made, and nothing else depends on it.
///
/// # Errors
///
/// See [`CompactError`].
pub async fn compact(
    vault: &Vault,
    header: &VaultHeader,
    machine: MachineId,
    now: WallTime,
    config: &CompactConfig,
) -> Result<Option<Compacted>, CompactError> {
    let compacting = Compacting {
        vault,
        header,
        machine,
        now,
    };
    for _ in 0..ROUNDS_MAX {
        let newest = newest_manifest(vault, header.vault, machine).await?;
        let previous = newest
            .as_ref()
            .map_or_else(ObjectChecksum::default, |stored| stored.checksum);
        let Some(next) = compacting.fold(newest, config).await? else {
            return Ok(None);
        };
        if let Some(made) = compacting.store(next, previous).await? {
            return Ok(Some(made));
        }
        tracing::debug!(%machine, "another manifest was faster");
    }
    Err(CompactError::Overtaken {
        machine,
        rounds: ROUNDS_MAX,
    })
}

struct Compacting<'a> {
    vault: &'a Vault,
    header: &'a VaultHeader,
    machine: MachineId,
    now: WallTime,
}

impl Compacting<'_> {
    /// Reads what lies behind the newest manifest, as far as the core wants it; `None` where nothing is new.
    async fn fold(
        &self,
        newest: Option<StoredManifest>,
        config: &CompactConfig,
    ) -> Result<Option<NextManifest>, CompactError> {
        let (vault, id, machine) = (self.vault, self.header.vault, self.machine);
        let newest = newest.map(|stored| stored.manifest);
        let before = newest.as_ref().map(|newest| newest.position);
        let key = self.header.digest_key;
        let mut core = CompactCore::new(machine, key, newest, config.change_count_max);
        if let Some(why) = core.rests() {
            tracing::debug!(%machine, why, "nothing is folded");
            return Ok(None);
        }
        let mut path = PathReader::new(vault, id, machine, before.as_ref()).await?;
        while let Some((journal, number, data)) = path.next().await? {
            if !path.damage().is_empty() {
                break;
            }
            let taken = core.handle_object(journal, number, &data, path.went_on());
            let goes_on = taken.map_err(|source| CompactError::Unfoldable {
                object: name::journal_object(journal, number),
                source,
            })?;
            if !goes_on {
                break;
            }
        }
        if path.end() == Some(PathEnd::NoOrigin) {
            return Err(CompactError::NoSuchMachine { machine });
        }
        core.handle_end(path.end(), path.damage());
        match core.finish() {
            Ok(next) => Ok(Some(next)),
            Err(why) => {
                if let Some(why) = why {
                    tracing::warn!(%machine, why, "nothing is folded at or behind damage");
                }
                Ok(None)
            }
        }
    }

    /// Uploads the layers, then the manifest that links them; `None` where another manifest has the number.
    async fn store(
        &self,
        mut next: NextManifest,
        previous: ObjectChecksum,
    ) -> Result<Option<Compacted>, CompactError> {
        let mut made = Compacted {
            machine: self.machine,
            manifest: next.number().0,
            object_count: next.object_count,
            change_count: next.change_count(),
            layer_count: 0,
            layer_bytes: ByteLen(0),
            is_more: next.is_more,
            stopped: next.stopped.take(),
        };
        let mut links = Vec::new();
        for (disk, draft) in std::mem::take(&mut next.drafts) {
            if draft.is_empty() {
                continue;
            }
            let layer = self.make_layer(disk, draft, &next).await;
            links.push(link_of(&layer));
            made.layer_count += 1;
            made.layer_bytes.0 += layer.len;
            let name = object_name(&name::layer(self.machine, layer.directory.header.id));
            let created = self.vault.create(&name, &Payload::new(layer.pieces)).await;
            created.map_err(HistoryError::from)?;
        }
        let manifest = next.manifest(self.header.vault, previous, self.now, links);
        let name = object_name(&name::manifest(self.machine, manifest.number));
        let payload = Payload::from(manifest.encode());
        match self.vault.create(&name, &payload).await {
            Ok(_) => Ok(Some(made)),
            Err(CreateError::Different { .. }) => Ok(None),
            Err(error) => Err(HistoryError::from(error).into()),
        }
    }

    async fn make_layer(
        &self,
        disk: DiskId,
        draft: LayerDraft,
        next: &NextManifest,
    ) -> LayerObject {
        let (after, through) = draft.range();
        let id = RetentionId {
            number: next.number(),
            random: rand::random(),
        };
        let header = LayerHeader {
            vault: self.header.vault,
            machine: self.machine,
            disk,
            id,
            kind: LayerKind::History,
            sectors: 0..u64::MAX,
            after,
            through,
            created_at: self.now,
        };
        let requests = next.requests_of(disk);
        let made = tokio::task::spawn_blocking(move || draft.finish(header, requests)).await;
        unless_panicked(made).await
    }
}

fn link_of(layer: &LayerObject) -> LayerLink {
    let header = &layer.directory.header;
    LayerLink {
        id: header.id,
        kind: header.kind,
        disk: header.disk,
        sectors: header.sectors.clone(),
        after: header.after,
        through: header.through,
        object_len: layer.len,
        directory_at: layer.directory_at,
        checksum: layer.checksum,
    }
}

fn object_name(name: &str) -> ObjectName {
    ObjectName::new(name).expect("the format's names are names")
}
