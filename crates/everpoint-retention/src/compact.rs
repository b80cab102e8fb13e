//! Compaction: what was committed since the newest manifest goes from journal indexes into map layers, and a next
//! manifest counts. No payload moves.
//!
//! Several may compact one machine at once; the number of the manifest decides (R16). Whoever finds its name taken has
//! made layers in vain and begins again with what the other one made.
//!
//! Nothing is folded at or behind damage: a reader finds what is damaged where it always was.

use std::collections::BTreeMap;

use everpoint_format::data::DataIndex;
use everpoint_format::digest::DigestKey;
use everpoint_format::layer::{LayerHeader, LayerKind, LayerObject};
use everpoint_format::manifest::{FoldedTo, LayerLink, Manifest};
use everpoint_format::name;
use everpoint_format::object::ObjectChecksum;
use everpoint_format::vault::VaultHeader;
use everpoint_journal::history::{DiskHistory, Joins, MachineHistory};
use everpoint_journal::path::PathEnd;
use everpoint_journal::versions::{BadReference, LayerDraft};
use everpoint_units::{
    ByteLen, DiskId, JournalId, MachineId, ManifestNo, ObjectNo, RetentionId, Seq, WallTime,
};
use everpoint_vault::history::{HistoryError, PathReader, StoredManifest, newest_manifest};
use everpoint_vault::{CreateError, ObjectName, Payload, Vault};
use serde::Serialize;

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
    /// An index refers to bytes that there are not.
    #[error("{object}: {source}")]
    Reference {
        object: String,
        source: BadReference,
    },
    /// The newest manifest says that the disk's order was lost for good.
    #[error("{object}: goes on with disk {disk}, whose order its manifest says was lost")]
    Broken { object: String, disk: DiskId },
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
            Self::Reference { .. } | Self::Broken { .. } => ErrorKind::Integrity,
            Self::Overtaken { .. } => ErrorKind::Io,
        }
    }
}

/// Layers that one manifest links. What is more is not folded, until layers are merged: a manifest of so many takes
/// 512 KiB, and each next one as much again.
const LAYER_COUNT_MAX: usize = 4_096;
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
    for _ in 0..ROUNDS_MAX {
        let newest = newest_manifest(vault, header.vault, machine).await?;
        let compacting = Compacting::new(vault, header, machine, now, newest);
        match compacting.run(config).await? {
            Outcome::Nothing => return Ok(None),
            Outcome::Made(made) => return Ok(Some(made)),
            Outcome::Overtaken => tracing::debug!(%machine, "another manifest was faster"),
        }
    }
    Err(CompactError::Overtaken {
        machine,
        rounds: ROUNDS_MAX,
    })
}

enum Outcome {
    Nothing,
    Made(Compacted),
    Overtaken,
}

/// A next manifest while it is made.
struct Compacting<'a> {
    vault: &'a Vault,
    header: &'a VaultHeader,
    machine: MachineId,
    now: WallTime,
    newest: Option<StoredManifest>,
    history: MachineHistory,
    drafts: BTreeMap<DiskId, LayerDraft>,
    folded: Option<FoldedTo>,
    object_count: u64,
}

impl<'a> Compacting<'a> {
    fn new(
        vault: &'a Vault,
        header: &'a VaultHeader,
        machine: MachineId,
        now: WallTime,
        newest: Option<StoredManifest>,
    ) -> Self {
        let taken_up = newest
            .as_ref()
            .map(|stored| MachineHistory::take_up(&stored.manifest));
        Self {
            vault,
            header,
            machine,
            now,
            folded: newest.as_ref().map(|stored| stored.manifest.position),
            newest,
            history: taken_up.unwrap_or_else(|| MachineHistory::new(machine)),
            drafts: BTreeMap::new(),
            object_count: 0,
        }
    }

    async fn run(mut self, config: &CompactConfig) -> Result<Outcome, CompactError> {
        if self
            .newest
            .as_ref()
            .is_some_and(|stored| stored.manifest.closed)
        {
            return Ok(Outcome::Nothing);
        }
        let (vault, id, machine) = (self.vault, self.header.vault, self.machine);
        let link_count = self
            .newest
            .as_ref()
            .map_or(0, |stored| stored.manifest.layers.len());
        if LAYER_COUNT_MAX <= link_count {
            tracing::warn!(%machine, link_count, "not folded: its manifest links as many layers as it may");
            return Ok(Outcome::Nothing);
        }
        let before = self.folded;
        let mut path = PathReader::new(vault, id, machine, before.as_ref()).await?;
        let mut stopped = None;
        let mut is_more = false;
        while let Some((journal, number, data)) = path.next().await? {
            if !path.damage().is_empty() {
                break;
            }
            if config.change_count_max <= self.change_count() {
                is_more = true;
                break;
            }
            if let Some(why) = self.does_not_follow(&data, number) {
                stopped = Some(why);
                break;
            }
            self.fold(journal, number, &data)?;
            if let Some(next) = path.went_on() {
                self.folded = Some(nothing_of(next));
            }
        }
        if let Some(damage) = path.damage().first() {
            stopped.get_or_insert_with(|| damage.to_string());
        }
        if path.end() == Some(PathEnd::NoOrigin) {
            return Err(CompactError::NoSuchMachine { machine });
        }
        let end = path.end().filter(|_| stopped.is_none() && !is_more);
        let closed = matches!(end, Some(PathEnd::Closed { .. }));
        if let Some(PathEnd::Open { journal, .. }) = end
            && self.folded.is_none_or(|folded| folded.journal != journal)
        {
            self.folded = Some(nothing_of(journal));
        }
        match self.folded {
            Some(position) if self.folded != before => {
                let made = self.store(position, closed).await?;
                Ok(made.map_or(Outcome::Overtaken, |made| {
                    Outcome::Made(Compacted {
                        is_more,
                        stopped,
                        ..made
                    })
                }))
            }
            _ => {
                if let Some(why) = stopped {
                    tracing::warn!(%machine, why, "nothing is folded at or behind damage");
                }
                Ok(Outcome::Nothing)
            }
        }
    }

    /// Why an object cannot be folded.
    fn does_not_follow(&self, data: &DataIndex, number: ObjectNo) -> Option<String> {
        let mut stands = BTreeMap::new();
        let own = data.index.sections.iter();
        for section in own.filter(|section| section.machine == self.machine) {
            let disk = section.disk;
            let known = self.history.disks().get(&disk).map(|disk| disk.position);
            let at = stands.get(&disk).copied().or(known);
            if Joins::of(section, at) == Joins::Not {
                let found = section.first_block;
                return Some(format!(
                    "{number}: disk {disk} has {found} where its history stands elsewhere"
                ));
            }
            stands.insert(disk, section.end());
        }
        None
    }

    fn fold(
        &mut self,
        journal: JournalId,
        number: ObjectNo,
        data: &DataIndex,
    ) -> Result<(), CompactError> {
        let key: &DigestKey = &self.header.digest_key;
        let own = data.index.sections.iter();
        for section in own.filter(|section| section.machine == self.machine) {
            let is_folded = self.history.fold(section, journal, number);
            let disk = self.history.disks().get(&section.disk);
            let Some(copy) = disk.filter(|_| is_folded).map(DiskHistory::copy) else {
                return Err(CompactError::Broken {
                    object: name::journal_object(journal, number),
                    disk: section.disk,
                });
            };
            let draft = self.drafts.entry(section.disk).or_default();
            let folded = draft.fold(section, (journal, number), copy, key);
            folded.map_err(|source| CompactError::Reference {
                object: name::journal_object(journal, number),
                source,
            })?;
        }
        self.object_count += 1;
        self.folded = Some(FoldedTo {
            journal,
            number,
            checksum: data.checksum,
        });
        Ok(())
    }

    fn change_count(&self) -> usize {
        self.drafts.values().map(LayerDraft::len).sum()
    }

    /// Uploads the layers, then the manifest that links them; `None` where another manifest has the number.
    async fn store(
        mut self,
        position: FoldedTo,
        closed: bool,
    ) -> Result<Option<Compacted>, CompactError> {
        let last = self.newest.as_ref().map(|stored| &stored.manifest);
        let number = last.map_or(ManifestNo::ZERO, |last| last.number).next();
        let mut made = Compacted {
            machine: self.machine,
            manifest: number.0,
            object_count: self.object_count,
            change_count: self.change_count() as u64,
            layer_count: 0,
            layer_bytes: ByteLen(0),
            is_more: false,
            stopped: None,
        };
        let mut links = last.map_or(Vec::new(), |last| last.layers.clone());
        for (disk, draft) in std::mem::take(&mut self.drafts) {
            if draft.is_empty() {
                continue;
            }
            let layer = self.make_layer(disk, number, draft).await;
            links.push(link_of(&layer));
            made.layer_count += 1;
            made.layer_bytes.0 += layer.len;
            let name = object_name(&name::layer(self.machine, layer.directory.header.id));
            let created = self.vault.create(&name, &Payload::new(layer.pieces)).await;
            created.map_err(HistoryError::from)?;
        }
        let manifest = Manifest {
            vault: self.header.vault,
            machine: self.machine,
            number,
            previous: self
                .newest
                .as_ref()
                .map_or_else(ObjectChecksum::default, |s| s.checksum),
            created_at: self.now,
            position,
            closed,
            every_from: last.map_or(Seq::ZERO, |last| last.every_from),
            highest_seq: self.history.highest_seq(),
            disks: self.history.disk_states(),
            layers: links,
            packs: last.map_or(Vec::new(), |last| last.packs.clone()),
            points: last.map_or(Vec::new(), |last| last.points.clone()),
            holds: last.map_or(Vec::new(), |last| last.holds.clone()),
            policy: last.and_then(|last| last.policy.clone()),
        };
        let name = object_name(&name::manifest(self.machine, number));
        match self
            .vault
            .create(&name, &Payload::from(manifest.encode()))
            .await
        {
            Ok(_) => Ok(Some(made)),
            Err(CreateError::Different { .. }) => Ok(None),
            Err(error) => Err(HistoryError::from(error).into()),
        }
    }

    async fn make_layer(&self, disk: DiskId, number: ManifestNo, draft: LayerDraft) -> LayerObject {
        let (after, through) = draft.range();
        let id = RetentionId {
            number,
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
        let requests = self.history.marks_of(disk);
        let made = tokio::task::spawn_blocking(move || draft.finish(header, requests)).await;
        unless_panicked(made).await
    }
}

/// The path has come to this journal, and nothing of it is folded.
fn nothing_of(journal: JournalId) -> FoldedTo {
    FoldedTo {
        journal,
        number: ObjectNo::ZERO,
        checksum: ObjectChecksum::default(),
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
