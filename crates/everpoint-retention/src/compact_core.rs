//! Which objects of a machine's path go into its next manifest, and what that says.
//!
//! Fed with the path behind the newest manifest. Nothing is folded at or behind damage: a reader finds what is damaged
//! where it always was.

use std::collections::BTreeMap;

use everpoint_format::data::DataIndex;
use everpoint_format::digest::DigestKey;
use everpoint_format::index::Section;
use everpoint_format::layer::marks::RequestMark;
use everpoint_format::manifest::{FoldedTo, LayerLink, Manifest};
use everpoint_format::object::ObjectChecksum;
use everpoint_journal::history::{DiskHistory, Joins, MachineHistory};
use everpoint_journal::path::{Damage, PathEnd};
use everpoint_journal::versions::{BadReference, LayerDraft};
use everpoint_units::{DiskId, JournalId, MachineId, ManifestNo, ObjectNo, Seq, VaultId, WallTime};

/// Layers that one manifest links. What is more is not folded, until layers are merged: a manifest of so many takes
/// 512 KiB, and each next one as much again.
pub(crate) const LAYER_COUNT_MAX: usize = 4_096;

/// See the module.
pub(crate) struct CompactCore {
    machine: MachineId,
    key: DigestKey,
    change_count_max: usize,
    newest: Option<Manifest>,
    history: MachineHistory,
    drafts: BTreeMap<DiskId, LayerDraft>,
    folded: Option<FoldedTo>,
    closed: bool,
    is_full: bool,
    stopped: Option<String>,
    object_count: u64,
}

/// An object that no layer can be made of, though it decodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfoldable {
    /// It refers to bytes that there are not.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// The newest manifest says that the disk's order was lost for good.
    #[error("goes on with disk {disk}, whose order the newest manifest says was lost")]
    Broken { disk: DiskId },
}

/// What the next manifest says, once its layers are stored.
pub(crate) struct NextManifest {
    newest: Option<Manifest>,
    history: MachineHistory,
    position: FoldedTo,
    closed: bool,
    /// What is to become layers.
    pub(crate) drafts: BTreeMap<DiskId, LayerDraft>,
    pub(crate) object_count: u64,
    /// There is more to fold.
    pub(crate) is_more: bool,
    /// Why nothing behind is folded.
    pub(crate) stopped: Option<String>,
}

impl CompactCore {
    /// Behind `newest`, or from the beginning.
    pub(crate) fn new(
        machine: MachineId,
        key: DigestKey,
        newest: Option<Manifest>,
        change_count_max: usize,
    ) -> Self {
        let taken_up = newest.as_ref().map(MachineHistory::take_up);
        Self {
            machine,
            key,
            change_count_max,
            history: taken_up.unwrap_or_else(|| MachineHistory::new(machine)),
            drafts: BTreeMap::new(),
            folded: newest.as_ref().map(|newest| newest.position),
            newest,
            closed: false,
            is_full: false,
            stopped: None,
            object_count: 0,
        }
    }

    /// Why nothing can be folded at all: the path has ended, or there are too many layers.
    pub(crate) fn rests(&self) -> Option<&'static str> {
        let newest = self.newest.as_ref()?;
        if newest.closed {
            Some("the path has ended")
        } else if LAYER_COUNT_MAX <= newest.layers.len() {
            Some("its manifest links as many layers as it may")
        } else {
            None
        }
    }

    /// The next object of the path; with it the path `went_on` in another journal, if it did. Says whether the next one
    /// is wanted.
    ///
    /// # Errors
    ///
    /// [`Unfoldable`]; nothing is made then.
    pub(crate) fn handle_object(
        &mut self,
        journal: JournalId,
        number: ObjectNo,
        data: &DataIndex,
        went_on: Option<JournalId>,
    ) -> Result<bool, Unfoldable> {
        if self.change_count_max <= self.change_count() {
            self.is_full = true;
            return Ok(false);
        }
        let machine = self.machine;
        let own = || {
            let sections = data.index.sections.iter();
            sections.filter(move |section| section.machine == machine)
        };
        if let Some(why) = self.does_not_follow(own()) {
            self.stopped = Some(format!("journal {journal}, {number}: {why}"));
            return Ok(false);
        }
        for section in own() {
            self.fold(section, (journal, number))?;
        }
        self.object_count += 1;
        self.folded = Some(match went_on {
            // A release, unlike a seal, stands in an object that is folded: behind it the path is found nowhere here.
            Some(next) => nothing_of(next),
            None => FoldedTo {
                journal,
                number,
                checksum: data.checksum,
            },
        });
        Ok(true)
    }

    fn does_not_follow<'a>(&self, own: impl Iterator<Item = &'a Section>) -> Option<String> {
        let mut stands = BTreeMap::new();
        for section in own {
            let disk = section.disk;
            let known = self.history.disks().get(&disk).map(|disk| disk.position);
            let at = stands.get(&disk).copied().or(known);
            if Joins::of(section, at) == Joins::Not {
                let found = section.first_block;
                return Some(format!(
                    "disk {disk} has {found} where its history stands elsewhere"
                ));
            }
            stands.insert(disk, section.end());
        }
        None
    }

    fn fold(&mut self, section: &Section, at: (JournalId, ObjectNo)) -> Result<(), Unfoldable> {
        let is_folded = self.history.fold(section, at.0, at.1);
        let disk = self.history.disks().get(&section.disk);
        let copy = disk.filter(|_| is_folded).map(DiskHistory::copy);
        let disk = section.disk;
        let copy = copy.ok_or(Unfoldable::Broken { disk })?;
        let draft = self.drafts.entry(disk).or_default();
        Ok(draft.fold(section, at, copy, &self.key)?)
    }

    fn change_count(&self) -> usize {
        self.drafts.values().map(LayerDraft::len).sum()
    }

    /// Nothing is read any more: the path has ended, is damaged, or goes on without us.
    pub(crate) fn handle_end(&mut self, end: Option<PathEnd>, damage: &[Damage]) {
        if let Some(damage) = damage.first() {
            self.stopped.get_or_insert_with(|| damage.to_string());
        }
        if self.stopped.is_some() || self.is_full {
            return;
        }
        match end {
            Some(PathEnd::Open { journal, .. })
                if self.folded.is_none_or(|folded| folded.journal != journal) =>
            {
                self.folded = Some(nothing_of(journal));
            }
            Some(PathEnd::Closed { .. }) => self.closed = true,
            _ => (),
        }
    }

    /// What there is to say; the reason why not, if there is one, where that is nothing new.
    pub(crate) fn finish(self) -> Result<NextManifest, Option<String>> {
        let before = self.newest.as_ref().map(|newest| newest.position);
        let position = self.folded.filter(|folded| Some(*folded) != before);
        let Some(position) = position else {
            return Err(self.stopped);
        };
        Ok(NextManifest {
            newest: self.newest,
            history: self.history,
            position,
            closed: self.closed,
            drafts: self.drafts,
            object_count: self.object_count,
            is_more: self.is_full,
            stopped: self.stopped,
        })
    }
}

impl NextManifest {
    /// Its number.
    pub(crate) fn number(&self) -> ManifestNo {
        let newest = self.newest.as_ref();
        newest
            .map_or(ManifestNo::ZERO, |newest| newest.number)
            .next()
    }

    /// Changes that are folded into it.
    pub(crate) fn change_count(&self) -> u64 {
        self.drafts.values().map(|draft| draft.len() as u64).sum()
    }

    /// The requests of several changes that a disk's layer has to keep.
    pub(crate) fn requests_of(&self, disk: DiskId) -> Vec<RequestMark> {
        self.history.marks_of(disk)
    }

    /// The manifest, with what was linked before and `made`; `previous` is the checksum of the one before.
    pub(crate) fn manifest(
        &self,
        vault: VaultId,
        previous: ObjectChecksum,
        created_at: WallTime,
        made: Vec<LayerLink>,
    ) -> Manifest {
        let last = self.newest.as_ref();
        let mut layers = last.map_or(Vec::new(), |last| last.layers.clone());
        layers.extend(made);
        Manifest {
            vault,
            machine: self.history.machine(),
            number: self.number(),
            previous,
            created_at,
            position: self.position,
            closed: self.closed,
            every_from: last.map_or(Seq::ZERO, |last| last.every_from),
            highest_seq: self.history.highest_seq(),
            disks: self.history.disk_states(),
            layers,
            packs: last.map_or(Vec::new(), |last| last.packs.clone()),
            points: last.map_or(Vec::new(), |last| last.points.clone()),
            holds: last.map_or(Vec::new(), |last| last.holds.clone()),
            policy: last.and_then(|last| last.policy.clone()),
        }
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
