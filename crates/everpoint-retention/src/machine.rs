//! One machine as its objects in the vault tell it: positions, points and damage, from one walk.

mod loading;

use std::collections::BTreeMap;

use everpoint_format::data::DataIndex;
use everpoint_format::manifest::{FoldedTo, Manifest};
use everpoint_format::name;
use everpoint_format::object::ObjectChecksum;
use everpoint_journal::history::{Broken, MachineHistory, NotAPoint, Span};
use everpoint_journal::path::{Damage, PathEnd};
use everpoint_units::{
    ByteLen, DiskId, JournalId, MachineId, ObjectNo, SECTOR_LEN, Seq, VaultId, WallTime,
};
use everpoint_vault::Vault;
use everpoint_vault::history::{
    HistoryError, StoredManifest, WALK_AHEAD_MAX, Walked, list_machines, newest_manifest, walk,
    walk_all, walk_behind,
};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;

use crate::error::{ErrorKind, LoadError, kind_of_history};
use crate::layers::add_marks;
use crate::plain;

use loading::Loading;

/// What is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// One disk, whatever the others of its machine do.
    Disk(DiskId),
    /// All disks of a machine that are begun and not ended at the point.
    Machine(MachineId),
}

/// A machine's history, and which objects it lies in.
#[derive(Debug)]
pub struct LoadedMachine {
    history: MachineHistory,
    end: PathEnd,
    damage: Vec<DamageNote>,
    objects: Objects,
    /// What retention has folded; the objects are those behind it.
    manifest: Option<Box<Manifest>>,
    /// The first section of a disk that was not folded: object and section. Nothing of the disk that
    /// follows it is either.
    rejected: BTreeMap<DiskId, (u32, u32)>,
    /// No point of the whole machine lies above this: behind a damaged object a disk came to light whose
    /// beginning is not known.
    cut_max: Option<Seq>,
}

/// Something that is not as it should be in a history.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DamageNote {
    /// The object's name in the vault, where it is about one.
    pub object: Option<String>,
    /// The disk, where it is about one.
    #[serde(serialize_with = "plain::text_if_any")]
    pub disk: Option<DiskId>,
    /// What is wrong.
    pub what: String,
}

/// The objects of a path that have something of the machine, in path order. One takes 56 bytes, so that a
/// month of commits every two seconds fits into 73 MB.
#[derive(Debug, Default)]
struct Objects {
    /// What lies before is folded into map layers.
    folded: Option<(JournalId, ObjectNo)>,
    /// The journals of the path, and how far it runs through each.
    journals: Vec<(JournalId, ObjectNo)>,
    entries: Vec<ObjectEntry>,
}

#[derive(Clone, Copy, Debug)]
struct ObjectEntry {
    /// Lowest `Seq` of the machine's records in it; the maximum if there are none.
    first_seq: Seq,
    number: ObjectNo,
    checksum: ObjectChecksum,
    journal_index: u32,
}

/// An object as the walk saw it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WalkedObject {
    /// Its place among the machine's objects, in path order.
    pub(crate) ordinal: u32,
    pub(crate) journal: JournalId,
    pub(crate) number: ObjectNo,
    pub(crate) checksum: ObjectChecksum,
}

/// What a history is read from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reads {
    /// Map layers, where there are some, and the journals behind them.
    Layers,
    /// Journals alone: they say where in its path a machine was, and are whole where a layer is damaged.
    Journals,
}

/// Loads the history of a machine, from map layers where there are some. Where those are damaged journals have it all,
/// and the damage is told; where what lies behind does not follow, whatever leads further counts.
///
/// # Errors
///
/// See [`LoadError`]; damage is part of the answer.
pub async fn load_machine(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<LoadedMachine, LoadError> {
    load_reading(vault, id, machine, Reads::Layers).await
}

/// As [`load_machine`], from what is said.
pub(crate) async fn load_reading(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
    reads: Reads,
) -> Result<LoadedMachine, LoadError> {
    let folded = match reads {
        Reads::Journals => return load_walked(vault, id, machine).await,
        Reads::Layers => load_folded(vault, id, machine).await,
    };
    match folded {
        Ok(None) => load_walked(vault, id, machine).await,
        Ok(Some(folded)) if folded.damage.is_empty() => Ok(folded),
        Ok(Some(folded)) => {
            let walked = load_walked(vault, id, machine).await?;
            let leads_further = folded.latest(None).ok() < walked.latest(None).ok();
            Ok(if leads_further { walked } else { folded })
        }
        Err(error) if kind_of_history(&error) == ErrorKind::Integrity => {
            let mut walked = load_walked(vault, id, machine).await?;
            walked.damage.push(DamageNote::of_retention(&error));
            Ok(walked)
        }
        Err(error) => Err(error.into()),
    }
}

/// From journals alone.
async fn load_walked(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<LoadedMachine, LoadError> {
    let mut loading = Loading::new(machine, true);
    let visit = |journal, number, data: &DataIndex, _| loading.fold(journal, number, data);
    let walked = walk(vault, id, machine, visit).await?;
    if walked.end == PathEnd::NoOrigin {
        return Err(LoadError::NoSuchMachine { machine });
    }
    Ok(loading.finish(walked))
}

/// From map layers, and what lies behind them; `None` where there are none.
async fn load_folded(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<Option<LoadedMachine>, HistoryError> {
    let Some(stored) = newest_manifest(vault, id, machine).await? else {
        return Ok(None);
    };
    let (folded, closed) = (stored.manifest.position, closed_at(&stored));
    let mut loading = begin(vault, id, stored, true).await?;
    let visit = |journal, number, data: &DataIndex, _| loading.fold(journal, number, data);
    let walked = match closed {
        Some(closed) => closed,
        None => walk_behind(vault, id, machine, &folded, visit).await?,
    };
    Ok(Some(loading.finish(walked)))
}

/// Loads the histories of all machines of the vault in one pass, as [`load_machine`] does each. They serve to list
/// points and disks; to restore, that one loads where the objects are, too.
///
/// # Errors
///
/// See [`LoadError`]; damage is part of the answer.
pub async fn load_machines(
    vault: &Vault,
    id: VaultId,
) -> Result<BTreeMap<MachineId, LoadedMachine>, LoadError> {
    let mut starts = Vec::new();
    let mut damaged = BTreeMap::new();
    let machines = list_machines(vault).await?;
    let begun = machines.iter();
    let begun = begun.map(|machine| Start::find(vault, id, *machine).boxed());
    let begun: Vec<BoxFuture<'_, _>> = begun.collect();
    let mut begun = stream::iter(begun).buffered(WALK_AHEAD_MAX);
    for machine in &machines {
        let start = begun.next().await.expect("one answer for each machine");
        match start {
            Ok(start) => starts.push(start),
            Err(error) if kind_of_history(&error) == ErrorKind::Integrity => {
                damaged.insert(*machine, DamageNote::of_retention(&error));
                starts.push(Start::at_origin(*machine));
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(begun);
    let mut loaded = load_starts(vault, id, starts).await?;
    for (machine, note) in damaged {
        loaded
            .entry(machine)
            .and_modify(|loaded| loaded.damage.push(note));
    }
    let does_not_follow =
        |loaded: &&LoadedMachine| loaded.manifest.is_some() && !loaded.damage.is_empty();
    let again: Vec<_> = loaded
        .values()
        .filter(does_not_follow)
        .map(LoadedMachine::machine)
        .collect();
    for machine in again {
        loaded.insert(
            machine,
            load_reading(vault, id, machine, Reads::Layers).await?,
        );
    }
    Ok(loaded)
}

/// The same from journals alone.
pub(crate) async fn load_from_journals(
    vault: &Vault,
    id: VaultId,
) -> Result<BTreeMap<MachineId, LoadedMachine>, LoadError> {
    let machines = list_machines(vault).await?;
    load_starts(
        vault,
        id,
        machines.into_iter().map(Start::at_origin).collect(),
    )
    .await
}

/// A machine's history before its path is walked on.
struct Start {
    machine: MachineId,
    loading: Loading,
    folded: Option<FoldedTo>,
    closed: Option<Walked>,
}

impl Start {
    fn at_origin(machine: MachineId) -> Self {
        Self {
            machine,
            loading: Loading::new(machine, false),
            folded: None,
            closed: None,
        }
    }

    /// Behind the newest manifest, where there is one.
    async fn find(vault: &Vault, id: VaultId, machine: MachineId) -> Result<Self, HistoryError> {
        let Some(stored) = newest_manifest(vault, id, machine).await? else {
            return Ok(Self::at_origin(machine));
        };
        Ok(Self {
            machine,
            folded: Some(stored.manifest.position),
            closed: closed_at(&stored),
            loading: begin(vault, id, stored, false).await?,
        })
    }
}

async fn load_starts(
    vault: &Vault,
    id: VaultId,
    all: Vec<Start>,
) -> Result<BTreeMap<MachineId, LoadedMachine>, LoadError> {
    let (mut loading, mut starts, mut closed_paths) = (BTreeMap::new(), Vec::new(), Vec::new());
    for start in all {
        loading.insert(start.machine, start.loading);
        match start.closed {
            Some(closed) => closed_paths.push((start.machine, closed)),
            None => starts.push((start.machine, start.folded)),
        }
    }
    let visit = |in_path: &[MachineId], journal, number, data: &DataIndex, _| {
        for machine in in_path {
            let machine = loading.get_mut(machine).expect("only these are walked");
            machine.fold(journal, number, data);
        }
    };
    let mut walked = walk_all(vault, id, starts, visit).await?;
    walked.extend(closed_paths);
    let loaded = walked.into_iter().filter_map(|(machine, walked)| {
        let loading = loading.remove(&machine).expect("each is walked once");
        (walked.end != PathEnd::NoOrigin).then(|| (machine, loading.finish(walked)))
    });
    Ok(loaded.collect())
}

/// How a path ended that a manifest knows the end of.
fn closed_at(stored: &StoredManifest) -> Option<Walked> {
    let FoldedTo {
        journal, number, ..
    } = stored.manifest.position;
    stored.manifest.closed.then(|| Walked {
        end: PathEnd::Closed { journal, number },
        damage: Vec::new(),
    })
}

/// What a manifest and the marks of its layers say of a machine.
async fn begin(
    vault: &Vault,
    id: VaultId,
    stored: StoredManifest,
    keeps_objects: bool,
) -> Result<Loading, HistoryError> {
    let manifest = stored.manifest;
    let mut history = MachineHistory::take_up(&manifest);
    add_marks(vault, id, &manifest, &mut history).await?;
    Ok(Loading::behind(history, manifest, keeps_objects))
}

/// The machine that has the disk. This reads every index in the vault: say the machine where it is known.
///
/// # Errors
///
/// See [`LoadError`].
pub async fn find_machine(
    vault: &Vault,
    id: VaultId,
    disk: DiskId,
) -> Result<MachineId, LoadError> {
    let mut damaged = None;
    for (machine, loaded) in load_machines(vault, id).await? {
        if loaded.history.disks().contains_key(&disk) {
            return Ok(machine);
        }
        if !loaded.damage.is_empty() {
            damaged = Some(machine);
        }
    }
    Err(match damaged {
        Some(damaged) => LoadError::DiskNotSeen { disk, damaged },
        None => LoadError::NoSuchDisk { disk },
    })
}

impl LoadedMachine {
    /// The machine.
    pub const fn machine(&self) -> MachineId {
        self.history.machine()
    }

    /// Disks, bookmarks, times. Ask this type for points: it knows what damage costs.
    pub const fn history(&self) -> &MachineHistory {
        &self.history
    }

    /// Checks that the machine has the disk.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoSuchDisk`], or [`LoadError::DiskNotSeen`] where damage may hide it.
    pub fn expect_disk(&self, disk: DiskId) -> Result<(), LoadError> {
        let damaged = self.machine();
        if self.history.disks().contains_key(&disk) {
            Ok(())
        } else if self.damage.is_empty() {
            Err(LoadError::NoSuchDisk { disk })
        } else {
            Err(LoadError::DiskNotSeen { disk, damaged })
        }
    }

    /// What retention has folded of its history.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_deref()
    }

    /// The disk's size as of `seq`; nothing where the machine has no such disk.
    pub(crate) fn size_of(&self, disk: DiskId, seq: Seq) -> ByteLen {
        let history = self.history.disks().get(&disk);
        ByteLen(history.map_or(0, |history| history.sectors_at(seq)) * SECTOR_LEN)
    }

    /// How its path ends.
    pub const fn end(&self) -> PathEnd {
        self.end
    }

    /// What is not as it should be, in path order.
    pub fn damage(&self) -> &[DamageNote] {
        &self.damage
    }

    /// Where every request is a recovery point: of one disk, or of the machine. Disjoint, rising.
    pub fn windows(&self, disk: Option<DiskId>) -> Vec<Span> {
        let mut windows = self.history.windows(disk);
        if let (None, Some(max)) = (disk, self.cut_max) {
            windows.retain(|span| span.from <= max);
            if let Some(last) = windows.last_mut() {
                last.through = last.through.min(max);
            }
        }
        windows
    }

    /// The newest recovery point of a disk or of the machine.
    ///
    /// # Errors
    ///
    /// [`NotAPoint::Nothing`] when there is none.
    pub fn latest(&self, disk: Option<DiskId>) -> Result<Seq, NotAPoint> {
        let windows = self.windows(disk);
        windows
            .last()
            .map(|span| span.through)
            .ok_or(NotAPoint::Nothing)
    }

    /// Checks that `seq` is a recovery point of a disk or of the machine.
    ///
    /// # Errors
    ///
    /// [`NotAPoint`] with the nearest ones.
    pub fn check_point(&self, disk: Option<DiskId>, seq: Seq) -> Result<(), NotAPoint> {
        self.history.check_point(disk, seq)?;
        let windows = self.windows(disk);
        if windows.iter().any(|span| span.contains(seq)) {
            return Ok(());
        }
        Err(match windows.last() {
            None => NotAPoint::Nothing,
            Some(last) => NotAPoint::Outside {
                seq,
                before: Some(last.through),
                after: None,
            },
        })
    }

    /// The newest recovery point whose time, made monotone over `Seq`, is at or before `time`.
    ///
    /// # Errors
    ///
    /// [`NotAPoint`] when there is none so early.
    pub fn at_time(&self, disk: Option<DiskId>, time: WallTime) -> Result<Seq, NotAPoint> {
        let seq = self.history.at_time(disk, time)?;
        self.check_point(disk, seq)
            .map(|()| seq)
            .or_else(|_| self.latest(disk))
    }

    /// The objects that may have records of the machine at or below `seq`, in path order. Empty if this was
    /// not loaded by [`load_machine`].
    pub(crate) fn objects_up_to(&self, seq: Seq) -> impl Iterator<Item = WalkedObject> + '_ {
        let entries = (0_u32..).zip(&self.objects.entries);
        entries
            .filter(move |(_, entry)| entry.first_seq <= seq)
            .map(|(ordinal, _)| self.object(ordinal))
    }

    /// One of the machine's objects.
    pub(crate) fn object(&self, ordinal: u32) -> WalkedObject {
        let entry = &self.objects.entries[ordinal as usize];
        WalkedObject {
            ordinal,
            journal: self.objects.journals[entry.journal_index as usize].0,
            number: entry.number,
            checksum: entry.checksum,
        }
    }

    /// How many of the machine's objects lie at or before an object of its path; `None` for one that is not in the
    /// path.
    pub(crate) fn count_through(&self, journal: JournalId, number: ObjectNo) -> Option<u32> {
        let is_folded = |folded: (JournalId, ObjectNo)| folded.0 == journal && number < folded.1;
        if self.objects.folded.is_some_and(is_folded) {
            return None;
        }
        // A path goes through a journal once: levels rise.
        let mut journals = (0_u32..).zip(&self.objects.journals);
        let (at, _) =
            journals.find(|(_, (found, through))| *found == journal && number <= *through)?;
        let entries = &self.objects.entries;
        let count =
            entries.partition_point(|entry| (entry.journal_index, entry.number) <= (at, number));
        Some(u32::try_from(count).expect("ordinals are numbers of 32 bits"))
    }

    /// Whether this section of the disk is part of its history: it and all before it followed one another.
    pub(crate) fn is_folded(&self, disk: DiskId, ordinal: u32, section: u32) -> bool {
        let rejected = self.rejected.get(&disk);
        rejected.is_none_or(|&first| (ordinal, section) < first)
    }
}

impl DamageNote {
    /// Something that retention made: the journals have it, too.
    pub(crate) fn of_retention(error: &HistoryError) -> Self {
        let object = match error {
            HistoryError::Manifest { name, .. }
            | HistoryError::Layer { name, .. }
            | HistoryError::LayerGone { name }
            | HistoryError::LayerUnread { name, .. } => Some(name.to_string()),
            _ => None,
        };
        Self {
            object,
            disk: None,
            what: format!("{error}: read from journals instead"),
        }
    }

    fn of_path(machine: MachineId, damage: &Damage) -> Self {
        let object = match damage {
            Damage::Object { journal, number }
            | Damage::Vanished { journal, number }
            | Damage::LevelDoesNotRise { journal, number } => {
                Some(name::journal_object(*journal, *number))
            }
            Damage::SealDisagrees { journal } | Damage::Pruned { journal } => {
                Some(name::journal(*journal))
            }
            Damage::Origin => Some(name::origin(machine)),
        };
        Self {
            object,
            disk: None,
            what: damage.to_string(),
        }
    }

    fn of_disk(broken: &Broken) -> Self {
        Self {
            object: Some(name::journal_object(broken.journal, broken.number)),
            disk: Some(broken.disk),
            what: broken.to_string(),
        }
    }
}
