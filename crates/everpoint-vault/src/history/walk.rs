//! Walking machines' paths: drives the core's `PathWalk`, reading ahead within a journal.
//!
//! A path rises by level (R2), so all machines of a vault are walked in one pass: journals in the order of
//! their levels, each listed and read once for all the walks that lead through it.

use std::collections::BTreeMap;

use everpoint_format::data::DataIndex;
use everpoint_format::manifest::FoldedTo;
use everpoint_journal::path::{Damage, Need, ObjectRead, PathEnd, PathWalk, Verdict};
use everpoint_units::{ByteLen, JournalId, MachineId, ObjectNo, VaultId};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use super::object::{Tail, read_tail};
use super::{HistoryError, ObjectFound, list_journal, read_origin};
use crate::vault::Vault;

/// Most objects whose indexes are read ahead of the one that the walk looks at.
pub const WALK_AHEAD_MAX: usize = 16;

/// Longest index that is read ahead; a longer one is read when its turn comes. So at most
/// [`WALK_AHEAD_MAX`] times this, and one longer index, are held. Unit: bytes.
const INDEX_AHEAD_MAX: ByteLen = ByteLen(4 << 20);

/// How a walk along a machine's path ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Walked {
    pub end: PathEnd,
    /// What was not as it should be, in path order.
    pub damage: Vec<Damage>,
}

/// Walks that go through one journal, or wait for it, by machine.
type Walks = BTreeMap<MachineId, PathWalk>;

/// Walks the path of `machine` from its origin and calls `visit` with each object that is part of it, in path
/// order: journal, number, index, length of the whole object. What other machines have in these objects
/// is handed over too.
///
/// # Errors
///
/// See [`HistoryError`]; damage on the path is part of the answer.
pub async fn walk(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
    mut visit: impl FnMut(JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<Walked, HistoryError> {
    let visit = |_: &[MachineId], journal, number, data: &DataIndex, len| {
        visit(journal, number, data, len);
    };
    let mut walked = walk_all(vault, id, [(machine, None)], visit).await?;
    Ok(walked.remove(&machine).expect("it was walked"))
}

/// As [`walk`], from an object on that is known to be part of the machine's path; it is handed over too.
///
/// # Errors
///
/// See [`HistoryError`]; damage on the path is part of the answer. Where the object is not there, the walk ends broken.
pub async fn walk_from(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
    (journal, number): (JournalId, ObjectNo),
    mut visit: impl FnMut(JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<Walked, HistoryError> {
    let visit = |_: &[MachineId], journal, number, data: &DataIndex, len| {
        visit(journal, number, data, len);
    };
    let (mut waiting, walked) = (BTreeMap::new(), BTreeMap::new());
    let walks = Walks::from([(machine, PathWalk::from(machine, journal, number))]);
    waiting.insert(journal, walks);
    let mut walked = walk_waiting(vault, id, waiting, walked, visit).await?;
    Ok(walked.remove(&machine).expect("it was walked"))
}

/// As [`walk`], behind what a manifest has folded.
///
/// # Errors
///
/// See [`HistoryError`]; damage on the path is part of the answer.
pub async fn walk_behind(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
    folded: &FoldedTo,
    mut visit: impl FnMut(JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<Walked, HistoryError> {
    let visit = |_: &[MachineId], journal, number, data: &DataIndex, len| {
        visit(journal, number, data, len);
    };
    let starts = [(machine, Some(*folded))];
    let mut walked = walk_all(vault, id, starts, visit).await?;
    Ok(walked.remove(&machine).expect("it was walked"))
}

/// Walks the paths of several machines at once, each from its origin or behind what a manifest has folded; every object is read once. `visit` is called with each object
/// that is part of at least one path, in an order that is path order for every machine, and with the
/// machines, rising, whose path it is part of.
///
/// # Errors
///
/// See [`HistoryError`]; damage on a path is part of the answer.
pub async fn walk_all(
    vault: &Vault,
    id: VaultId,
    machines: impl IntoIterator<Item = (MachineId, Option<FoldedTo>)>,
    visit: impl FnMut(&[MachineId], JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<BTreeMap<MachineId, Walked>, HistoryError> {
    let mut waiting: BTreeMap<JournalId, Walks> = BTreeMap::new();
    let mut walked = BTreeMap::new();
    let starts = stream::iter(machines).map(|(machine, folded)| async move {
        match folded {
            Some(folded) => Ok((machine, PathWalk::behind(machine, &folded))),
            None => begin_at_origin(vault, id, machine).await,
        }
    });
    let mut starts = starts.buffered(WALK_AHEAD_MAX);
    while let Some(start) = starts.next().await {
        let (machine, path) = start?;
        put_aside(machine, path, &mut waiting, &mut walked);
    }
    walk_waiting(vault, id, waiting, walked, visit).await
}

pub(super) async fn begin_at_origin(
    vault: &Vault,
    id: VaultId,
    machine: MachineId,
) -> Result<(MachineId, PathWalk), HistoryError> {
    let mut path = PathWalk::new(machine);
    let origin = read_origin(vault, id, machine).await?;
    path.handle_origin(origin.as_ref().map(Option::as_ref).map_err(|_| ()));
    Ok((machine, path))
}

/// Walks on, journal by journal, until no walk waits.
async fn walk_waiting(
    vault: &Vault,
    id: VaultId,
    mut waiting: BTreeMap<JournalId, Walks>,
    mut walked: BTreeMap<MachineId, Walked>,
    mut visit: impl FnMut(&[MachineId], JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<BTreeMap<MachineId, Walked>, HistoryError> {
    // A walk that leaves a journal waits for one of a higher level: what was popped never comes back.
    while let Some((journal, mut walks)) = waiting.pop_first() {
        let listing = list_journal(vault, journal).await?;
        let mut through = Walks::new();
        while let Some((machine, mut path)) = walks.pop_first() {
            path.handle_listing(&listing);
            if is_in(&path, journal) {
                through.insert(machine, path);
            } else {
                put_aside(machine, path, &mut waiting, &mut walked);
            }
        }
        for (machine, path) in walk_journal(vault, id, journal, through, &mut visit).await? {
            put_aside(machine, path, &mut waiting, &mut walked);
        }
    }
    Ok(walked)
}

/// Header and index of each object, in the order asked for, read ahead within bounded memory. Every read is
/// a task of its own: while nobody asks for the next object, no read waits half-way with one of the vault's
/// threads reserved, on which whoever should ask may be waiting.
pub fn read_objects<'a>(
    vault: &'a Vault,
    id: VaultId,
    objects: impl Iterator<Item = (JournalId, ObjectNo)> + Send + 'a,
) -> BoxStream<'a, Result<(JournalId, ObjectNo, ObjectFound), HistoryError>> {
    let ahead = stream::iter(objects).map(move |(journal, number)| {
        let vault = vault.clone();
        let read = async move { read_ahead(&vault, journal, number).await };
        let task = AbortOnDrop(tokio::spawn(read));
        async move { (journal, number, task.join().await) }
    });
    let in_turn = ahead
        .buffered(WALK_AHEAD_MAX)
        .then(move |(journal, number, tail)| async move {
            let found = match tail? {
                Tail::Whole(found) => found,
                Tail::Long(index) => index.read(vault).await?,
            };
            Ok((journal, number, found.expect_at(id, journal, number)))
        });
    in_turn.boxed()
}

/// A task that nobody needs once its answer is not waited for.
struct AbortOnDrop(JoinHandle<Result<Tail, HistoryError>>);

impl AbortOnDrop {
    async fn join(mut self) -> Result<Tail, HistoryError> {
        match (&mut self.0).await {
            Ok(read) => read,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: whoever waits is dropped, too.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_ahead(
    vault: &Vault,
    journal: JournalId,
    number: ObjectNo,
) -> Result<Tail, HistoryError> {
    match read_tail(vault, journal, number).await? {
        Tail::Long(index) if index.len() <= INDEX_AHEAD_MAX => {
            index.read(vault).await.map(Tail::Whole)
        }
        other => Ok(other),
    }
}

/// Puts a walk where it goes on, or its result where it ended.
fn put_aside(
    machine: MachineId,
    path: PathWalk,
    waiting: &mut BTreeMap<JournalId, Walks>,
    walked: &mut BTreeMap<MachineId, Walked>,
) {
    match path.need() {
        Some(Need::Listing(journal)) => {
            waiting.entry(journal).or_default().insert(machine, path);
        }
        Some(Need::Origin | Need::Object(..)) => unreachable!("both were served before"),
        None => {
            let result = Walked {
                end: path.end().expect("a walk that needs nothing has ended"),
                damage: path.damage().to_vec(),
            };
            walked.insert(machine, result);
        }
    }
}

/// Hands objects of one journal to the walks that go through it, each from where it stands, until all have left
/// it.
async fn walk_journal(
    vault: &Vault,
    id: VaultId,
    journal: JournalId,
    mut walks: Walks,
    visit: &mut impl FnMut(&[MachineId], JournalId, ObjectNo, &DataIndex, ByteLen),
) -> Result<Walks, HistoryError> {
    let ahead = || walks.values().filter_map(PathWalk::ahead);
    let first = ahead().map(|(_, first, _)| first).min();
    let last = ahead().map(|(_, _, last)| last).max();
    let Some((first, last)) = first.zip(last) else {
        return Ok(walks);
    };
    let numbers = (first.0..=last.0).map(move |number| (journal, ObjectNo(number)));
    let mut objects = read_objects(vault, id, numbers);
    let mut left = Walks::new();
    let mut in_path = Vec::new();
    while !walks.is_empty() {
        let object = objects.next().await;
        let (_, number, found) = object.expect("no walk asks for an object beyond `last`")?;
        if let ObjectFound::Damaged(damage) = &found {
            tracing::warn!(%journal, %number, error = %damage, "a journal object is damaged");
        }
        in_path.clear();
        let due = Some(Need::Object(journal, number));
        for (machine, path) in walks.iter_mut().filter(|(_, path)| path.need() == due) {
            if path.handle_object(found.as_read()) == Verdict::Fold {
                in_path.push(*machine);
            }
        }
        if let ObjectFound::Data(data, len) = &found
            && !in_path.is_empty()
        {
            visit(&in_path, journal, number, data, *len);
        }
        left.extend(walks.extract_if(.., |_, path| !is_in(path, journal)));
    }
    Ok(left)
}

/// Whether the walk wants an object of this journal.
fn is_in(path: &PathWalk, journal: JournalId) -> bool {
    matches!(path.need(), Some(Need::Object(at, _)) if at == journal)
}

impl ObjectFound {
    /// The same, as the walk takes it.
    pub(super) fn as_read(&self) -> ObjectRead<'_> {
        match self {
            Self::Data(data, _) => ObjectRead::Data(data),
            Self::Seal(seal) => ObjectRead::Seal(seal),
            Self::Damaged(_) => ObjectRead::Damaged,
            Self::Missing => ObjectRead::Missing,
        }
    }
}
