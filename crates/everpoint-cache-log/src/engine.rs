//! The log's state and its steps. Each step takes the state for a moment, does its work or its I/O
//! without it, and puts the outcome back; none waits. Threads call them in production
//! ([`crate::log`]); tests and simulations call them one by one, in any order.
//!
//! ```text
//! append ──▶ queue ──fill──▶ assembly ──next_batch──▶ batch ──commit──▶ write, sync ──▶ Appended
//!                               ▲                                          │
//!                   ready files │                             live files ◀─┘
//! settle ──▶ space ──keep_files─┴─ retire, zero, give a header
//! ```

mod files;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use everpoint_format::cache_log::LogFileNo;
use everpoint_marks::{planted, reached};
use everpoint_units::{ByteLen, ByteOffset};
use tokio::sync::watch;

use crate::append::{Append, Appended, Reply};
use crate::batch::{Assembly, Batch, Waiting, WritableFile};
use crate::bell::Bell;
use crate::config::{Layout, LogOwner};
use crate::error::{IoFault, Operation, Poisoned};
use crate::recovery::{LiveFile, Recovery};
use crate::space::{Bounds, Space};
use crate::storage::Storage;
use crate::{AppendError, CacheLogConfig, FileName, LogPosition, meter};
use state::State;

pub(crate) use state::{Health, Stage};

/// Makes 128 random bits. Handed in, so that a simulation can repeat itself.
pub type RandomBits = Box<dyn FnMut() -> [u8; 16] + Send>;

/// Everything that the threads of one log share.
pub(crate) struct Engine {
    storage: Arc<dyn Storage>,
    owner: LogOwner,
    layout: Layout,
    queued_len_max: u64,
    quota: u64,
    random: Mutex<RandomBits>,
    state: Mutex<State>,
    health: watch::Sender<Health>,
    pub(crate) bells: Bells,
}

/// One bell for each thread.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    pub(crate) writer: Bell,
    pub(crate) gatherer: Bell,
    pub(crate) keeper: Bell,
}

/// How the log stands for size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Bytes that all files take, prepared ones included.
    pub used: ByteLen,
    /// What they may take.
    pub quota: ByteLen,
    /// Payload that waits to be written.
    pub queued: ByteLen,
    /// Whether the file system has refused space and is being asked again.
    pub is_out_of_space: bool,
}

/// Why a batch is not synced.
pub(crate) enum CommitFault {
    /// The file system is full. Nothing of the batch is promised; it may be tried again as it is.
    OutOfSpace(Box<Batch>),
    /// The log has failed for ever, and everyone was told.
    Poisoned,
}

/// A file whose records a reader wants.
pub(crate) struct FileView {
    pub(crate) file: LiveFile,
    /// Whether the file takes no more records.
    pub(crate) is_complete: bool,
    /// The next file.
    pub(crate) next: Option<LogFileNo>,
}

impl Engine {
    /// The log after recovery; nothing runs yet.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        config: &CacheLogConfig,
        owner: LogOwner,
        recovery: Recovery,
        random: RandomBits,
    ) -> Self {
        let layout = Layout {
            file_len: config.file_len.0,
            align: storage.record_align(),
        };
        let bounds = Bounds {
            file_len: config.file_len.0,
            quota: config.quota.0,
            reserve: config.reserve.0,
            spare_count_max: config.spare_count_max,
        };
        let space = Space::new(
            bounds,
            recovery.live,
            recovery.spares,
            recovery.next_file,
            recovery.next_spare,
        );
        let batch_len_max = config.batch_len_max.0;
        let batch = || Batch::empty(layout, batch_len_max);
        let state = State {
            queue: VecDeque::new(),
            queued_len: 0,
            assembly: Some(Assembly::new(layout, batch_len_max, batch())),
            spare_batch: Some(batch()),
            ready: VecDeque::new(),
            space,
            left_in_file: 0,
            is_writer_idle: true,
            is_write_denied: false,
            wants_mark: false,
            stage: Stage::Open,
            poisoned: None,
            is_closed: false,
            reported: Health {
                has_room: false,
                poisoned: None,
                is_closed: false,
            },
        };
        let (health, _) = watch::channel(state.reported);
        let engine = Self {
            storage,
            owner,
            layout,
            queued_len_max: config.queued_len_max.0,
            quota: config.quota.0,
            random: Mutex::new(random),
            state: Mutex::new(state),
            health,
            bells: Bells::default(),
        };
        engine.report(&mut engine.lock());
        engine
    }

    /// Queues a payload; its place in the order is fixed when this returns.
    pub(crate) fn append(&self, pieces: Vec<Bytes>) -> Append {
        let (reply, append) = Append::pending();
        let len = pieces.iter().map(Bytes::len).sum();
        let max = self.layout.payload_len_max();
        if !(1..=max).contains(&len) {
            answer(reply, Err(AppendError::WrongLen { len, max }));
            return append;
        }
        let mut state = self.lock();
        if let Some(refusal) = state.refusal() {
            drop(state);
            answer(reply, Err(refusal));
            return append;
        }
        state.queued_len += len as u64;
        state.queue.push_back(Waiting { pieces, len, reply });
        self.ring_for_records(&state);
        self.report(&mut state);
        append
    }

    /// Notes that everything up to `position` is settled.
    pub(crate) fn settle(&self, position: LogPosition) {
        let position = match planted!(FreesTooFar) {
            true => LogPosition::new(position.file_no(), ByteOffset(u64::MAX)),
            false => position,
        };
        let mut state = self.lock();
        state.space.settle(position);
        if state.space.has_retirable() {
            self.bells.keeper.ring();
        }
    }

    /// Moves queued records into the assembly; `false` if there was nothing to do, or another
    /// thread does it.
    pub(crate) fn fill(&self) -> bool {
        let mut state = self.lock();
        let State {
            queue,
            assembly,
            ready,
            ..
        } = &mut *state;
        let Some(mut taken) = assembly.take() else {
            return false;
        };
        let ready_before = ready.len();
        let admitted = taken.admit(queue, ready);
        if ready.len() < ready_before {
            let file = taken.file().expect("it took a ready file");
            let header = file.header;
            state.space.ready_count -= 1;
            state.space.live.insert(
                header.file_no,
                LiveFile {
                    header: Some(header),
                    len: header.file_len.0,
                    readable: Layout::FIRST,
                    last_block: None,
                    has_gaps: false,
                },
            );
            self.bells.keeper.ring();
        }
        let has_work = !admitted.is_empty();
        if has_work {
            drop(state);
            taken.copy(admitted);
            state = self.lock();
        }
        self.put_back(state, taken);
        has_work
    }

    /// The batch to write next, sealed; `None` when there is nothing to write, and then the next
    /// record rings for the writer. An idle writer gathers for itself, which spares a thread's wake;
    /// while it writes, the gatherer does.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        if let Some(batch) = self.take_gathered() {
            return Some(batch);
        }
        while self.fill() {}
        self.take_gathered()
    }

    /// Whether nothing is gathered and nobody gathers. If not, a ring for the writer follows.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.lock();
        state.assembly.as_ref().is_some_and(|a| !a.has_records())
    }

    /// A batch with a mark, if the last batch has none behind it and nothing waits.
    pub(crate) fn mark(&self) -> Option<Batch> {
        let mut state = self.lock();
        if !state.wants_mark || !state.queue.is_empty() {
            return None;
        }
        state.wants_mark = false;
        let is_marked = state.assembly.as_mut().is_some_and(Assembly::mark);
        if is_marked { state.take_batch() } else { None }
    }

    /// Whether the last synced batch has no mark behind it.
    pub(crate) fn wants_mark(&self) -> bool {
        self.lock().wants_mark
    }

    /// How many files wait for records; two, when the keeper is at rest.
    #[cfg(test)]
    pub(crate) fn ready_count(&self) -> usize {
        self.lock().space.ready_count
    }

    /// Whether the writer has a batch.
    #[cfg(test)]
    pub(crate) fn has_batch_in_flight(&self) -> bool {
        self.lock().spare_batch.is_none()
    }

    /// Writes a batch, syncs it, and answers who waits. A failed sync is never repeated.
    pub(crate) fn commit(&self, mut batch: Batch) -> Result<(), CommitFault> {
        let file = Arc::clone(batch.file());
        let name = FileName::Log(file.header.file_no);
        if let Err(error) = file.handle.write(batch.bytes(), batch.start()) {
            let fault = IoFault::from(error);
            if fault.is_out_of_space() {
                reached!(LogOutOfSpace);
                let mut state = self.lock();
                state.is_write_denied = true;
                self.report(&mut state);
                return Err(CommitFault::OutOfSpace(Box::new(batch)));
            }
            return Err(self.fail_batch(name, Operation::Write, fault, batch));
        }
        let began = Instant::now();
        let synced = match planted!(AckBeforeSync) {
            true => Ok(()),
            false => file.handle.sync(),
        };
        let synced = match synced {
            Err(_) if planted!(SyncFailureRetried) => file.handle.sync(),
            synced => synced,
        };
        if let Err(error) = synced {
            return Err(self.fail_batch(name, Operation::Sync, IoFault::from(error), batch));
        }
        meter::synced(began.elapsed(), batch.bytes().len());
        self.meter();

        let replies = batch.take_replies();
        let poisoned = self.complete(&file, batch);
        for (reply, position) in replies {
            let told = match poisoned {
                None => Ok(Appended::after_sync(position)),
                Some(poisoned) => Err(AppendError::Poisoned(poisoned)),
            };
            answer(reply, told);
        }
        poisoned.map_or(Ok(()), |_| Err(CommitFault::Poisoned))
    }

    /// Ends the log for ever and tells everyone; returns the failure that came first.
    pub(crate) fn poison(&self, failure: Poisoned) -> Poisoned {
        let mut state = self.lock();
        if state.poisoned.is_none() {
            reached!(LogPoisoned);
            let Poisoned {
                file,
                operation,
                source,
            } = failure;
            tracing::error!(%file, %operation, error = %source, "cache log failed for ever");
        }
        let poisoned = *state.poisoned.get_or_insert(failure);
        let replies = state.drain();
        self.report(&mut state);
        drop(state);
        for reply in replies {
            answer(reply, Err(AppendError::Poisoned(poisoned)));
        }
        self.ring_all();
        poisoned
    }

    /// Takes no more records, and later none at all.
    pub(crate) fn stop(&self, stage: Stage) {
        let mut state = self.lock();
        if state.stage != Stage::Stopped {
            state.stage = stage;
        }
        drop(state);
        self.ring_all();
    }

    /// Tells everyone who still waits that the log is closed.
    pub(crate) fn close(&self, unwritten: Option<Batch>) {
        let mut state = self.lock();
        state.stage = Stage::Stopped;
        state.is_closed = true;
        let mut replies = unwritten.map_or_else(Vec::new, Batch::into_replies);
        replies.append(&mut state.drain());
        let refusal = state.refusal().unwrap_or(AppendError::Closed);
        self.report(&mut state);
        drop(state);
        for reply in replies {
            answer(reply, Err(refusal.clone()));
        }
        self.ring_all();
    }

    pub(crate) fn stage(&self) -> Stage {
        let state = self.lock();
        match state.poisoned {
            Some(_) => Stage::Stopped,
            None => state.stage,
        }
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// How long a file is. Unit: bytes.
    pub(crate) const fn file_len(&self) -> u64 {
        self.layout.file_len
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            used: ByteLen(state.space.used()),
            quota: ByteLen(self.quota),
            queued: ByteLen(state.queued_len),
            is_out_of_space: state.is_write_denied || state.space.is_denied(),
        }
    }

    /// What a reader may see of a file; `None` if it was freed or never was.
    pub(crate) fn view(&self, no: LogFileNo) -> Option<FileView> {
        let state = self.lock();
        let file = *state.space.live.get(&no)?;
        Some(FileView {
            file,
            is_complete: state.space.is_complete(no),
            next: state
                .space
                .live
                .range(no.next()..)
                .map(|(no, _)| *no)
                .next(),
        })
    }

    fn take_gathered(&self) -> Option<Batch> {
        let mut state = self.lock();
        let has_records = state.assembly.as_ref().is_some_and(Assembly::has_records);
        state.is_writer_idle = !has_records;
        if !has_records {
            return None;
        }
        self.bells.gatherer.ring();
        state.take_batch()
    }

    fn put_back(&self, mut state: MutexGuard<'_, State>, assembly: Assembly) {
        state.left_in_file = assembly.left();
        if let Some(refusal) = state.refusal_of_written() {
            drop(state);
            for reply in assembly.into_replies() {
                answer(reply, Err(refusal.clone()));
            }
            return;
        }
        let has_records = assembly.has_records();
        state.assembly = Some(assembly);
        self.report(&mut state);
        if has_records && state.is_writer_idle || state.stage != Stage::Open {
            self.bells.writer.ring();
        }
    }

    /// Takes note of a sync. If the log has failed meanwhile, on another file, the sync counts for
    /// nothing: no acknowledgement follows a failure.
    fn complete(&self, file: &WritableFile, batch: Batch) -> Option<Poisoned> {
        let mut state = self.lock();
        if let Some(poisoned) = state.poisoned {
            return Some(poisoned);
        }
        let no = file.header.file_no;
        let live = state.space.live.get_mut(&no);
        let live = live.expect("a file that takes records is never retired");
        live.readable = batch.end();
        live.last_block = batch.last_block().or(live.last_block);
        state.space.activate(no);
        if state.space.has_retirable() {
            self.bells.keeper.ring();
        }
        if state.is_write_denied {
            reached!(LogHasSpaceAgain);
        }
        state.queued_len -= batch.payload_len();
        state.is_write_denied = false;
        state.wants_mark = batch.wants_mark();
        state.spare_batch = Some(batch);
        self.report(&mut state);
        None
    }

    fn fail_batch(
        &self,
        file: FileName,
        operation: Operation,
        source: IoFault,
        batch: Batch,
    ) -> CommitFault {
        let poisoned = self.poison(Poisoned {
            file,
            operation,
            source,
        });
        for reply in batch.into_replies() {
            answer(reply, Err(AppendError::Poisoned(poisoned)));
        }
        CommitFault::Poisoned
    }

    fn ring_for_records(&self, state: &State) {
        if state.is_writer_idle {
            self.bells.writer.ring();
        } else {
            self.bells.gatherer.ring();
        }
    }

    fn ring_all(&self) {
        self.bells.writer.ring();
        self.bells.gatherer.ring();
        self.bells.keeper.ring();
    }

    /// Tells watchers how the log stands, if that has changed.
    fn report(&self, state: &mut State) {
        let health = Health {
            has_room: self.has_room(state),
            poisoned: state.poisoned,
            is_closed: state.is_closed,
        };
        if state.reported != health {
            state.reported = health;
            self.health.send_replace(health);
        }
    }

    fn meter(&self) {
        let usage = self.usage();
        meter::standing(usage.used.0, usage.quota.0, usage.queued.0);
    }

    /// Whether a record that is appended now is written without a wait for space. A log that ended
    /// keeps nobody waiting.
    fn has_room(&self, state: &State) -> bool {
        if state.refusal().is_some() {
            return true;
        }
        let files = state.ready.len() as u64 + state.space.obtainable_count();
        let room = state.left_in_file + files * self.layout.capacity();
        let longest = self.layout.next(0, self.layout.payload_len_max());
        let is_queue_short = state.queued_len <= self.queued_len_max;
        !state.is_write_denied && is_queue_short && state.queued_len + longest <= room
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("owner", &self.owner)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// Answers a waiter. One that went away had no use for the answer; the record stays.
fn answer(reply: Reply, answer: Result<Appended, AppendError>) {
    drop(reply.send(answer));
}
