//! Fetching what a plan needs: several reads in flight, within a byte budget, handed to the threads that
//! verify; then written, uploaded or compared.

use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::data::DataIndex;
use everpoint_format::digest::DigestKey;
use everpoint_replica::{Upload, UploadError};
use everpoint_units::ByteLen;
use everpoint_vault::frames::{
    Batch, BatchRead, IntegrityError, batches, found_batches, object_name, read_batch, read_frame,
};
use everpoint_vault::history::{ObjectFound, WALK_AHEAD_MAX, read_objects};
use everpoint_vault::{ObjectName, Vault};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use super::compare::Comparing;
use super::image::Image;
use super::plan::DiskPlan;
use super::pour::{Part, open_all, pour};
use super::{Progress, RestoreError, Restoring, WantedDisk};
use crate::joined::unless_panicked;
use crate::machine::WalkedObject;

/// What indexes that are read ahead may take of the memory. Unit: bytes.
pub(super) const INDEX_MEMORY: u64 = WALK_AHEAD_MAX as u64 * (4 << 20);
/// Unit of the byte budget; a semaphore counts 32 bits. Unit: bytes.
const BUDGET_STEP: u64 = 4_096;

/// What was done of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Poured {
    /// Data verified.
    pub(super) data: ByteLen,
    /// Data that is not zero.
    pub(super) written: ByteLen,
    /// Frames read.
    pub(super) read: ByteLen,
}

/// Where verified bytes go.
pub(super) enum Sink<'a> {
    /// To the image, by the threads that verify.
    Image(&'a Arc<Image>),
    /// Into an upload.
    Upload(
        &'a mut Upload,
        &'a (dyn Fn(UploadError) -> RestoreError + Sync),
    ),
    /// They are held against a replica, by the tasks that fetch.
    Replica(&'a Arc<Comparing>),
}

/// What a task does with what it has verified.
#[derive(Clone)]
enum Use {
    Write(Arc<Image>),
    GiveBack,
    Compare(Arc<Comparing>),
}

/// A batch that is done.
struct BatchDone {
    poured: Poured,
    /// What is to be uploaded, and the memory that it takes.
    parts: Vec<Part>,
    _room: OwnedSemaphorePermit,
}

/// The reads of one disk that are in flight.
struct Fetching<'a> {
    vault: &'a Vault,
    key: DigestKey,
    sink: Sink<'a>,
    budget: Arc<Semaphore>,
    budget_max: u32,
    fetch_count_max: usize,
    threads: Arc<Semaphore>,
    tasks: JoinSet<Result<BatchDone, RestoreError>>,
    poured: Poured,
}

impl Poured {
    fn add(&mut self, more: Self) {
        self.data.0 += more.data.0;
        self.written.0 += more.written.0;
        self.read.0 += more.read.0;
    }
}

/// The data object that was walked, or how what was found differs.
pub(crate) fn same_object(
    walked: &WalkedObject,
    found: ObjectFound,
) -> Result<Box<DataIndex>, IntegrityError> {
    match found {
        ObjectFound::Data(data, _) if data.checksum == walked.checksum => Ok(data),
        found => {
            let name = object_name(walked.journal, walked.number);
            Err(IntegrityError::instead_of(name, found))
        }
    }
}

impl Restoring<'_> {
    /// Fetches and verifies everything that the plan of a disk names, and hands it to the sink, within so much of
    /// the memory as others do not take.
    pub(super) async fn pour(
        &self,
        disk: &WantedDisk,
        plan: DiskPlan,
        sink: Sink<'_>,
        taken: ByteLen,
    ) -> Result<Poured, RestoreError> {
        let wanted: Vec<_> = plan.ordinals().into_iter().collect();
        let wanted: Vec<_> = wanted.iter().map(|&at| self.loaded.object(at)).collect();
        let names = wanted.iter().map(|object| (object.journal, object.number));
        let mut objects = read_objects(self.vault, self.header.vault, names);
        let mut fetching = Fetching::new(self, sink, taken);
        let progress = |done| {
            (self.progress)(&Progress {
                planned_count: plan.index_count,
                plan_count: plan.index_count,
                done,
                total: plan.total,
                ..Progress::of(disk)
            });
        };
        let machine = self.loaded.machine();
        let mut layered = plan.layered;
        layered.sort_unstable_by_key(|found| (found.bytes.home, found.bytes.frame_at));
        for of_object in layered.chunk_by(|a, b| a.bytes.home == b.bytes.home) {
            for batch in found_batches(machine, of_object)? {
                fetching.start(batch, &progress).await?;
            }
        }
        let by_object = plan
            .runs
            .chunk_by(|a, b| a.source.object == b.source.object);
        for (object, runs) in wanted.iter().zip(by_object) {
            let read = objects.next().await;
            let (_, _, found) = read.expect("one answer for each name")?;
            let data = same_object(object, found)?;
            for batch in batches(object.journal, object.number, &data.index, runs)? {
                fetching.start(batch, &progress).await?;
            }
        }
        fetching.finish(&progress).await
    }
}

impl<'a> Fetching<'a> {
    fn new(restoring: &Restoring<'a>, sink: Sink<'a>, taken: ByteLen) -> Self {
        let config = restoring.config;
        let budget = (config.memory_max.0 - INDEX_MEMORY - taken.0) / BUDGET_STEP;
        let budget_max = u32::try_from(budget).expect("64 GiB have fewer steps than that");
        Self {
            vault: restoring.vault,
            key: restoring.header.digest_key,
            sink,
            budget: Arc::new(Semaphore::new(budget_max as usize)),
            budget_max,
            fetch_count_max: config.fetch_count_max,
            threads: Arc::new(Semaphore::new(config.thread_count_max)),
            tasks: JoinSet::new(),
            poured: Poured::default(),
        }
    }

    /// Starts a batch once there is room for it; takes back what is done meanwhile.
    async fn start(
        &mut self,
        batch: Batch,
        progress: &impl Fn(ByteLen),
    ) -> Result<(), RestoreError> {
        let steps = batch.memory().div_ceil(BUDGET_STEP);
        let steps = u32::try_from(steps)
            .unwrap_or(u32::MAX)
            .min(self.budget_max);
        while self.fetch_count_max <= self.tasks.len() {
            self.take_back(progress).await?;
        }
        let room = loop {
            let room = Arc::clone(&self.budget).acquire_many_owned(steps);
            tokio::select! {
                biased;
                // Cancel-safe: a room that was not given yet is asked for again.
                room = room => break room.expect("the semaphore is never closed"),
                // Cancel-safe: a task that was not taken back stays in the set.
                Some(done) = self.tasks.join_next() => self.add(done, progress).await?,
            }
        };
        let task = run_batch(BatchTask {
            vault: self.vault.clone(),
            key: self.key,
            used: self.sink.used(),
            threads: Arc::clone(&self.threads),
            batch,
            room,
        });
        self.tasks.spawn(task);
        Ok(())
    }

    async fn finish(mut self, progress: &impl Fn(ByteLen)) -> Result<Poured, RestoreError> {
        while !self.tasks.is_empty() {
            self.take_back(progress).await?;
        }
        Ok(self.poured)
    }

    async fn take_back(&mut self, progress: &impl Fn(ByteLen)) -> Result<(), RestoreError> {
        let done = self.tasks.join_next().await;
        self.add(done.expect("there are tasks"), progress).await
    }

    async fn add(
        &mut self,
        done: Result<Result<BatchDone, RestoreError>, JoinError>,
        progress: &impl Fn(ByteLen),
    ) -> Result<(), RestoreError> {
        let done = unless_panicked(done).await?;
        if let Sink::Upload(upload, failed) = &mut self.sink {
            for part in &done.parts {
                let written = upload.write(part.at, &part.bytes).await;
                written.map_err(&**failed)?;
            }
        }
        self.poured.add(done.poured);
        progress(self.poured.data);
        Ok(())
    }
}

impl Sink<'_> {
    fn used(&self) -> Use {
        match self {
            Sink::Image(image) => Use::Write(Arc::clone(image)),
            Sink::Upload(..) => Use::GiveBack,
            Sink::Replica(comparing) => Use::Compare(Arc::clone(comparing)),
        }
    }
}

/// What a batch needs to run by itself.
struct BatchTask {
    vault: Vault,
    key: DigestKey,
    used: Use,
    threads: Arc<Semaphore>,
    batch: Batch,
    room: OwnedSemaphorePermit,
}

async fn run_batch(task: BatchTask) -> Result<BatchDone, RestoreError> {
    let BatchTask {
        vault,
        key,
        used,
        threads,
        batch,
        room,
    } = task;
    let failed = |object: &ObjectName, source| {
        let object = object.clone();
        RestoreError::Read { object, source }
    };
    let mut done = BatchDone {
        poured: Poured::default(),
        parts: Vec::new(),
        _room: room,
    };
    let read = read_batch(&vault, &batch).await;
    if let BatchRead::Whole(bytes) = read.map_err(|source| failed(&batch.object, source))? {
        done.add(batch, bytes, key, &used, &threads).await?;
        return Ok(done);
    }
    for job in batch.jobs {
        let single = read_frame(&vault, &batch.object, &job).await;
        let single = single.map_err(|source| failed(&batch.object, source))??;
        let alone = Batch {
            object: batch.object.clone(),
            at: job.frame_at,
            len: ByteLen(single.len() as u64),
            raw_len: ByteLen(u64::from(job.frame.raw_len)),
            jobs: vec![job],
        };
        done.add(alone, single, key, &used, &threads).await?;
    }
    Ok(done)
}

impl BatchDone {
    /// Verifies a batch on a thread, and does with it what is to be done.
    async fn add(
        &mut self,
        batch: Batch,
        bytes: Bytes,
        key: DigestKey,
        used: &Use,
        threads: &Arc<Semaphore>,
    ) -> Result<(), RestoreError> {
        let thread = Arc::clone(threads).acquire_owned().await;
        let thread = thread.expect("the semaphore is never closed");
        let image = match used {
            Use::Write(image) => Some(Arc::clone(image)),
            Use::GiveBack | Use::Compare(_) => None,
        };
        let opened = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            match image {
                Some(image) => {
                    pour(&batch, &bytes, &key, &image).map(|poured| (poured, Vec::new()))
                }
                None => open_all(&batch, &bytes, &key).map_err(RestoreError::from),
            }
        });
        let (poured, parts) = unless_panicked(opened.await).await?;
        self.poured.add(poured);
        match used {
            Use::Compare(comparing) => comparing.compare(&parts).await?,
            Use::Write(_) | Use::GiveBack => self.parts.extend(parts),
        }
        Ok(())
    }
}
