//! From an object of the path to bytes that are staged: which records count, their frames, verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::DecodeError;
use everpoint_format::digest::DigestKey;
use everpoint_format::index::Index;
use everpoint_journal::extent_map::Run;
use everpoint_units::{ByteLen, ByteOffset, DiskId, Extent, JournalId, ObjectNo, SECTOR_LEN};
use everpoint_vault::frames::{
    Batch, BatchRead, FrameJob, IntegrityError, batches, object_name, open_frame, read_batch,
    read_frame,
};
use everpoint_vault::history::{HistoryError, ObjectFound, read_object};
use everpoint_vault::{ObjectName, ReadError};

use super::staging::Arena;
use crate::apply_core::Staged;
use crate::apply_core::fold::{ObjectFold, Stands};
use crate::at_hand::ObjectAtHand;
use crate::blocking::blocking;
use crate::replicas::Replicas;
use crate::shared::Shared;

/// Why an object is not staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("the vault gives no answer")]
    History(#[from] HistoryError),
    #[error("{object} cannot be read")]
    Read {
        object: ObjectName,
        source: ReadError,
    },
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
    #[error("a committed frame does not open")]
    Frame(#[from] DecodeError),
    #[error("the place where replicas stage what they are to write")]
    Staging(#[from] io::Error),
}

/// An object, ready for the core.
pub(crate) struct StagedObject {
    pub(crate) fold: ObjectFold,
    pub(crate) staged: Vec<(Extent, Staged)>,
}

/// Which object, for which disk.
pub(crate) struct Wanted {
    pub(crate) journal: JournalId,
    pub(crate) number: ObjectNo,
    pub(crate) disk: DiskId,
    pub(crate) stands: Stands,
    pub(crate) arena: Arc<Arena>,
}

/// Folds an object and stages what it needs. One that is damaged, or gone, changes nothing: what was built on it does
/// not follow, as for everybody who reads the history.
pub(crate) async fn stage(
    shared: &Shared,
    replicas: &Replicas,
    wanted: Wanted,
) -> Result<StagedObject, StageError> {
    let Wanted {
        journal,
        number,
        disk,
        stands,
        ..
    } = wanted;
    if let Some(object) = replicas.at_hand.find(journal, number) {
        let fold = ObjectFold::of(disk, stands, &object.index.sections);
        return stage_runs(shared, replicas, wanted, fold, &object.index, Some(&object)).await;
    }
    let found = read_object(&shared.vault, shared.header.vault, journal, number).await?;
    match found {
        ObjectFound::Data(data, _) => {
            let fold = ObjectFold::of(disk, stands, &data.index.sections);
            stage_runs(shared, replicas, wanted, fold, &data.index, None).await
        }
        ObjectFound::Seal(_) | ObjectFound::Damaged(_) | ObjectFound::Missing => Ok(StagedObject {
            fold: ObjectFold::of(disk, stands, []),
            staged: Vec::new(),
        }),
    }
}

async fn stage_runs(
    shared: &Shared,
    replicas: &Replicas,
    wanted: Wanted,
    fold: ObjectFold,
    index: &Index,
    at_hand: Option<&Arc<ObjectAtHand>>,
) -> Result<StagedObject, StageError> {
    let mut runs: Vec<Run> = fold.runs().collect();
    runs.sort_unstable_by_key(|run| (run.source, run.extent.start()));
    let own = object_name(wanted.journal, wanted.number);
    let mut staged = Vec::with_capacity(runs.len());
    for batch in batches(wanted.journal, wanted.number, index, &runs)? {
        let memory = usize::try_from(batch.memory()).expect("bounded by what is read at once");
        let memory = replicas
            .budget
            .take(memory.min(replicas.budget.capacity()))
            .await;
        let memory = memory.expect("no more than there is");
        let frames = match at_hand.filter(|_| batch.object == own) {
            Some(object) => frames_at_hand(object, &batch)?,
            None => read_frames(shared, &batch).await?,
        };
        let (key, arena) = (shared.header.digest_key, Arc::clone(&wanted.arena));
        let verifies = at_hand.is_none();
        let opened = blocking(move || {
            let _memory = memory;
            append_all(&batch, frames, verifies.then_some(&key), &arena)
        });
        staged.extend(opened.await?);
    }
    Ok(StagedObject { fold, staged })
}

/// Frames of an object in memory: what they unpack to was verified before it was committed.
fn frames_at_hand(object: &ObjectAtHand, batch: &Batch) -> Result<Vec<Bytes>, IntegrityError> {
    let frames = batch.jobs.iter().map(|job| {
        let stored = object.frame(job.frame_at.0, job.frame.stored_len);
        stored.ok_or_else(|| IntegrityError::Gone {
            object: batch.object.clone(),
        })
    });
    frames.collect()
}

async fn read_frames(shared: &Shared, batch: &Batch) -> Result<Vec<Bytes>, StageError> {
    let unread = |source| StageError::Read {
        object: batch.object.clone(),
        source,
    };
    match read_batch(&shared.vault, batch).await.map_err(unread)? {
        BatchRead::Whole(bytes) => Ok(batch
            .jobs
            .iter()
            .map(|job| {
                let at =
                    usize::try_from(job.frame_at.0 - batch.at.0).expect("inside what was read");
                bytes.slice(at..at + job.frame.stored_len as usize)
            })
            .collect()),
        BatchRead::InParts => {
            let mut frames = Vec::with_capacity(batch.jobs.len());
            for job in &batch.jobs {
                let read = read_frame(&shared.vault, &batch.object, job).await;
                frames.push(read.map_err(unread)??);
            }
            Ok(frames)
        }
    }
}

/// Opens frames, verifies what came from the vault, and appends what they hold.
fn append_all(
    batch: &Batch,
    frames: Vec<Bytes>,
    key: Option<&DigestKey>,
    arena: &Arena,
) -> Result<Vec<(Extent, Staged)>, StageError> {
    let mut staged = Vec::new();
    for (job, stored) in batch.jobs.iter().zip(frames) {
        let raw = match key {
            Some(key) => open_frame(&batch.object, job, &stored, job.frame_at, key)?,
            None => job.frame.open(&stored)?,
        };
        let first = arena.append(&raw)?;
        staged.extend(cuts(job, first));
    }
    Ok(staged)
}

/// Where each part of a frame that is wanted was staged, if the frame was at this sector.
fn cuts(job: &FrameJob, first: u64) -> impl Iterator<Item = (Extent, Staged)> + '_ {
    job.cuts.iter().map(move |cut| {
        let extent = Extent::from_bytes(cut.disk_at, ByteLen(cut.len as u64));
        let extent = extent.expect("records are whole sectors");
        let at = ByteOffset(cut.raw_at as u64).0 / SECTOR_LEN;
        (extent, Staged(first + at))
    })
}
