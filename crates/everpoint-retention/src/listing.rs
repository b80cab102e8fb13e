//! Points and disks of a vault, as plain data to print.

use everpoint_format::record::Consistency;
use everpoint_journal::history::{DiskHistory, Span};
use everpoint_journal::path::PathEnd;
use everpoint_units::{ByteLen, DiskId, JournalId, MachineId, SECTOR_LEN, Seq, WallTime};
use everpoint_vault::Vault;
use everpoint_vault::history::read_header;
use serde::Serialize;

use crate::error::LoadError;
use crate::machine::{
    DamageNote, LoadedMachine, Subject, find_machine, load_machine, load_machines,
};
use crate::plain;

/// What can be restored of a machine, or of one disk.
#[derive(Clone, Debug, Serialize)]
pub struct PointList {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    /// The disk whose points these are; absent where they are the machine's.
    #[serde(serialize_with = "plain::text_if_any")]
    pub disk: Option<DiskId>,
    pub path: PathState,
    /// The newest recovery point.
    pub latest: Option<Instant>,
    /// Where every request is a recovery point, rising.
    pub windows: Vec<Window>,
    /// All bookmarks of the machine, rising.
    pub bookmarks: Vec<BookmarkEntry>,
    /// All disks of the machine.
    pub disks: Vec<DiskSummary>,
    /// What is wrong with the history; points that need it are not in the windows.
    pub damage: Vec<DamageNote>,
}

/// All disks of a vault.
#[derive(Clone, Debug, Serialize)]
pub struct DiskList {
    /// By machine, then by disk.
    pub disks: Vec<DiskSummary>,
    /// What is wrong with the machines' histories.
    pub damage: Vec<MachineDamage>,
}

/// One machine's damage.
#[derive(Clone, Debug, Serialize)]
pub struct MachineDamage {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    pub damage: Vec<DamageNote>,
}

/// One disk, as the vault knows it.
#[derive(Clone, Debug, Serialize)]
pub struct DiskSummary {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    #[serde(serialize_with = "plain::text")]
    pub disk: DiskId,
    pub name: String,
    /// As of its newest change.
    #[serde(serialize_with = "plain::bytes")]
    pub size_bytes: ByteLen,
    /// 512 or 4096.
    pub block_size: u32,
    pub state: DiskState,
    /// No change of this disk at or below this `Seq` is missing from the vault.
    #[serde(serialize_with = "plain::seq")]
    pub complete_through: Seq,
    /// Its newest recovery point.
    pub latest: Option<Instant>,
    /// Where every request is a recovery point of this disk, rising.
    pub windows: Vec<Window>,
}

/// What a disk's history is like at its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// Every request is a recovery point.
    Level,
    /// An initial sync or a resync is not finished.
    Syncing,
    /// It left its machine's cuts; older points stay.
    Ended,
    /// Part of its history is missing; points from there on cannot be restored.
    Damaged,
}

/// How a machine's path ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum PathState {
    /// A server owns the machine and may go on in this journal.
    Open {
        #[serde(serialize_with = "plain::text")]
        journal: JournalId,
    },
    /// Failed over or removed: nothing follows.
    Closed,
    /// The path cannot be followed to its end: see the damage.
    Broken,
}

/// A position and its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Instant {
    #[serde(serialize_with = "plain::seq")]
    pub seq: Seq,
    /// Capture time of the newest change at or below it.
    #[serde(serialize_with = "plain::time_if_any")]
    pub time: Option<WallTime>,
}

/// A closed range of recovery points.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Window {
    pub from: Instant,
    pub through: Instant,
}

/// A named instant.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BookmarkEntry {
    pub name: String,
    pub class: BookmarkClass,
    #[serde(serialize_with = "plain::seq")]
    pub seq: Seq,
    #[serde(serialize_with = "plain::text")]
    pub time: WallTime,
    /// Whether what the list is about can be restored there.
    pub restorable: bool,
}

/// What a bookmark promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BookmarkClass {
    /// As after a power cut.
    Crash,
    /// Applications were quiesced.
    App,
    /// A member's mark of a cut over several machines. Nothing reads the cut's proof yet, so for now it
    /// promises no more than `Crash`.
    Group,
}

/// Lists what can be restored of a machine or of one disk. `machine` saves the search for the disk's.
///
/// # Errors
///
/// See [`LoadError`].
pub async fn list_points(
    vault: &Vault,
    subject: Subject,
    machine: Option<MachineId>,
) -> Result<PointList, LoadError> {
    let id = read_header(vault).await?.vault;
    let (machine, disk) = match (subject, machine) {
        (Subject::Machine(machine), _) => (machine, None),
        (Subject::Disk(disk), Some(machine)) => (machine, Some(disk)),
        (Subject::Disk(disk), None) => (find_machine(vault, id, disk).await?, Some(disk)),
    };
    let loaded = load_machine(vault, id, machine).await?;
    if let Some(disk) = disk {
        loaded.expect_disk(disk)?;
    }
    Ok(PointList::of(&loaded, disk))
}

/// Lists all disks of a vault.
///
/// # Errors
///
/// See [`LoadError`].
pub async fn list_disks(vault: &Vault) -> Result<DiskList, LoadError> {
    let id = read_header(vault).await?.vault;
    let (mut disks, mut damage) = (Vec::new(), Vec::new());
    for (machine, loaded) in load_machines(vault, id).await? {
        disks.extend(summaries(&loaded));
        if !loaded.damage().is_empty() {
            damage.push(MachineDamage {
                machine,
                damage: loaded.damage().to_vec(),
            });
        }
    }
    Ok(DiskList { disks, damage })
}

impl PointList {
    /// The points of a machine, or of one of its disks.
    pub fn of(loaded: &LoadedMachine, disk: Option<DiskId>) -> Self {
        let spans = loaded.windows(disk);
        let bookmarks = loaded.history().bookmarks().iter();
        let bookmarks = bookmarks.map(|(&seq, bookmark)| BookmarkEntry {
            name: bookmark.name.clone(),
            class: bookmark.class.into(),
            seq,
            time: bookmark.at,
            restorable: spans.iter().any(|span| span.contains(seq))
                && loaded.check_point(disk, seq).is_ok(),
        });
        Self {
            machine: loaded.machine(),
            disk,
            path: loaded.end().into(),
            latest: spans.last().map(|span| Instant::of(loaded, span.through)),
            windows: spans.iter().map(|span| Window::of(loaded, *span)).collect(),
            bookmarks: bookmarks.collect(),
            disks: summaries(loaded).collect(),
            damage: loaded.damage().to_vec(),
        }
    }
}

fn summaries(loaded: &LoadedMachine) -> impl Iterator<Item = DiskSummary> {
    let disks = loaded.history().disks().iter();
    disks.map(|(&disk, history)| {
        let spans = loaded.windows(Some(disk));
        DiskSummary {
            machine: loaded.machine(),
            disk,
            name: history.name.clone(),
            size_bytes: ByteLen(history.sectors * SECTOR_LEN),
            block_size: history.block_size,
            state: DiskState::of(history),
            complete_through: history.complete_through,
            latest: spans.last().map(|span| Instant::of(loaded, span.through)),
            windows: spans.iter().map(|span| Window::of(loaded, *span)).collect(),
        }
    })
}

impl DiskState {
    fn of(history: &DiskHistory) -> Self {
        if history.broken.is_some() {
            Self::Damaged
        } else if history.has_ended() {
            Self::Ended
        } else if history.is_level() {
            Self::Level
        } else {
            Self::Syncing
        }
    }
}

impl Instant {
    pub(crate) fn of(loaded: &LoadedMachine, seq: Seq) -> Self {
        Self {
            seq,
            time: loaded.history().time_of(seq),
        }
    }
}

impl Window {
    pub(crate) fn of(loaded: &LoadedMachine, span: Span) -> Self {
        Self {
            from: Instant::of(loaded, span.from),
            through: Instant::of(loaded, span.through),
        }
    }
}

impl From<PathEnd> for PathState {
    fn from(end: PathEnd) -> Self {
        match end {
            PathEnd::Open { journal, .. } => Self::Open { journal },
            PathEnd::Closed { .. } => Self::Closed,
            PathEnd::NoOrigin | PathEnd::Broken => Self::Broken,
        }
    }
}

impl From<Consistency> for BookmarkClass {
    fn from(class: Consistency) -> Self {
        match class {
            Consistency::Crash => Self::Crash,
            Consistency::App => Self::App,
            Consistency::Group => Self::Group,
        }
    }
}
