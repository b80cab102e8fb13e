//! The machine's order of writes, and the bounded queue in which they wait to be packed.
//!
//! One [`WriteOrder`] a machine. The shell keeps it behind one mutex and holds that for a push, never
//! across I/O: a request gets its `Seq`s and its place in its disk's queue in one step, so that the
//! order of the `Seq`s and the order in every queue are the same order.
//!
//! Promises:
//!
//! - `Seq`s rise over all disks of the machine, consecutive within a request, and none is handed out
//!   above the durable reservation.
//! - A batch's `complete_through` is true: no change of its disk at or below it comes later.
//! - What is queued, being packed or frozen is charged against one budget. A push beyond it does not
//!   wait and does not fail: its disk *loses write order*. Its queue is dropped, later pushes are
//!   counted and ignored until a new generation begins. What was taken before stays good: it is the
//!   order up to where it was lost.
//!
//! A bookmark gets a `Seq` of its own and goes into the queue of every disk, or of none. One that is true only if
//! something proves so afterwards is begun and ended: meanwhile nothing leaves the queue, so that it can be taken back.

use std::time::Duration;

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::change::RAW_LEN_MAX;
use everpoint_format::record::{Consistency, Record};
use everpoint_marks::{planted, reached};
use everpoint_units::{Extent, GenerationId, Lba, Moment, SECTOR_LEN, Seq, WallTime};

use crate::batch::Batch;
use crate::disk_queue::{DiskQueue, Dropped, RECORD_CHARGE};
use crate::reservation::Reservation;

/// See the module.
#[derive(Debug)]
pub struct WriteOrder {
    limits: OrderLimits,
    seqs: Reservation,
    /// Charge of everything queued, being packed or frozen, and of the room that resyncs took. Unit: bytes.
    used: u64,
    disks: Vec<Option<DiskQueue>>,
    dropped: Dropped,
    /// A bookmark that may be taken back yet: nothing leaves the queue.
    unproven: Option<Seq>,
    /// Where the next look for a due batch begins, so that no disk is always last.
    turn: usize,
}

/// What bounds the queue and closes blocks.
#[derive(Clone, Copy, Debug)]
pub struct OrderLimits {
    /// Charge of all disks' changes from capture to cached. Unit: bytes.
    pub queue_bytes_max: u64,
    /// How long a block waits for company after its first change.
    pub block_age_max: Duration,
    /// How often an idle disk states the machine's newest `Seq`, at most.
    pub statement_interval: Duration,
}

/// One disk of the machine, from [`WriteOrder::attach`] on. Never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DiskSlot(usize);

/// Room in the queue that a resync took. To be given back.
#[derive(Debug)]
#[must_use = "room that is not given back is lost"]
pub struct ResyncRoom {
    charge: u64,
}

/// When something was captured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stamp {
    /// For deadlines.
    pub now: Moment,
    /// For people.
    pub at: WallTime,
}

/// A guest's request that changed its disk.
#[derive(Clone, Debug)]
pub enum GuestChange {
    /// `payload` is as long as `extent`, whatever its length.
    Data {
        /// Where.
        extent: Extent,
        /// The guest's own buffer.
        payload: Bytes,
    },
    /// Reads as zeroes now.
    Zero(Extent),
    /// Was given back and reads as zeroes now.
    Discard(Extent),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pushed {
    /// It has its place. `wake`: a block was begun or is full, so a sleeping packer should look.
    Queued {
        /// Its last `Seq`.
        seq: Seq,
        /// See above.
        wake: bool,
    },
    /// With this request the disk lost write order.
    Lost {
        /// Why.
        reason: LossReason,
    },
    /// The disk keeps no order at present.
    Ignored,
}

/// Why a disk's order ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LossReason {
    /// The queue's budget was used up.
    QueueOverflow,
    /// The local disk failed a change, so that its content is not known.
    LocalError,
    /// No reserved `Seq` was left: the state directory is too slow.
    SeqsExhausted,
    /// The server knows higher `Seq`s than this agent ever reserved.
    SeqsBehind,
    /// The server's position is not in this agent's past.
    PositionUnknown,
}

/// Whether a disk keeps order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueueState {
    /// Not yet.
    Unbegun,
    /// Every change goes into this run.
    Ordered {
        /// The run.
        generation: GenerationId,
    },
    /// Not any more.
    Lost {
        /// Why.
        reason: LossReason,
        /// When.
        since: Moment,
    },
}

/// No `Seq` is reserved at the moment. Remedy: extend the reservation, then ask again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no reserved sequence number is left")]
pub struct NoSeqs;

/// Why an instant was not marked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BookmarkError {
    /// An attached disk keeps no order, and a mark that it lacks would be no cut. Remedy: ask again
    /// when every disk keeps order.
    #[error("a disk keeps no order at present")]
    Unordered,
    /// Remedy: extend the reservation, then ask again.
    #[error(transparent)]
    NoSeqs(#[from] NoSeqs),
}

/// The generation is not the disk's current one. Remedy: stop what belongs to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the generation is over")]
pub struct NotCurrent;

/// What a disk has in the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueFigures {
    /// Whether it keeps order.
    pub state: QueueState,
    /// Newest `Seq` of this disk.
    pub newest: Seq,
    /// Charge of what waits or is being packed. Unit: bytes.
    pub waiting_bytes: u64,
    /// Charge of frozen blocks that are not cached. Unit: bytes.
    pub frozen_bytes: u64,
    /// When the oldest change was captured that is not in a frozen block.
    pub oldest: Option<Moment>,
    /// Requests that came while there was no order.
    pub ignored_count: u64,
    /// Their bytes.
    pub ignored_bytes: u64,
}

impl WriteOrder {
    /// An order that goes on as `seqs` says.
    pub fn new(limits: OrderLimits, seqs: Reservation) -> Self {
        Self {
            limits,
            seqs,
            used: 0,
            disks: Vec::new(),
            dropped: Dropped::default(),
            unproven: None,
            turn: 0,
        }
    }

    /// Adds a disk; its changes are ignored until a generation begins.
    pub fn attach(&mut self) -> DiskSlot {
        self.disks.push(Some(DiskQueue::new()));
        DiskSlot(self.disks.len() - 1)
    }

    /// Removes a disk and all that it has in the queue.
    pub fn detach(&mut self, slot: DiskSlot) {
        if let Some(queue) = self.disks[slot.0].take() {
            self.used -= queue.queued() + queue.packing() + queue.frozen();
        }
    }

    /// Begins a generation whose first changes are `opening`, each with a `Seq` of its own. They go
    /// out at once.
    ///
    /// # Errors
    ///
    /// [`NoSeqs`]; nothing has changed.
    ///
    /// # Panics
    ///
    /// If the disk keeps order, was detached, or batches of the generation before are being packed.
    pub fn begin_generation(
        &mut self,
        slot: DiskSlot,
        generation: GenerationId,
        opening: Vec<Change>,
        stamp: Stamp,
    ) -> Result<(), NoSeqs> {
        let first = self.seqs.take(opening.len() as u64).ok_or(NoSeqs)?;
        let queue = self.disks[slot.0].as_mut().expect("an attached disk");
        queue.begin(generation, Seq::ZERO);
        for (seq, change) in (first.0..).map(Seq).zip(opening) {
            self.used += RECORD_CHARGE;
            queue.push(whole(seq, change), None, stamp);
        }
        queue.hurry();
        Ok(())
    }

    /// Goes on in a generation that an earlier process left in good order.
    ///
    /// # Panics
    ///
    /// If the disk keeps order or was detached.
    pub fn resume_generation(&mut self, slot: DiskSlot, generation: GenerationId) {
        let newest = self.seqs.newest();
        let queue = self.disks[slot.0].as_mut().expect("an attached disk");
        queue.begin(generation, newest);
    }

    /// Gives a guest's request its `Seq`s and its place. To be called after the local write and
    /// before the range lock is released.
    ///
    /// # Panics
    ///
    /// If the payload is not as long as its extent.
    pub fn push(&mut self, slot: DiskSlot, stamp: Stamp, change: GuestChange) -> Pushed {
        let len = change.payload_len();
        let count = len.div_ceil(RAW_LEN_MAX as u64).max(1);
        let Some(queue) = &mut self.disks[slot.0] else {
            return Pushed::Ignored;
        };
        if queue.generation().is_none() {
            queue.ignore(len);
            return Pushed::Ignored;
        }
        let charge = len + count * RECORD_CHARGE;
        if self.limits.queue_bytes_max < self.used + charge {
            reached!(QueueOverflows);
            return self.push_lost(slot, LossReason::QueueOverflow, stamp.now, len);
        }
        let Some(first) = self.seqs.take(count) else {
            return self.push_lost(slot, LossReason::SeqsExhausted, stamp.now, len);
        };
        self.used += charge;
        let wake = match change {
            GuestChange::Data { extent, payload } => {
                push_data(queue, first, extent, payload, stamp)
            }
            GuestChange::Zero(extent) => {
                queue.push(whole(first, Change::Zero(extent)), None, stamp)
            }
            GuestChange::Discard(_) if planted!(DiscardNotQueued) => {
                self.used -= charge;
                false
            }
            GuestChange::Discard(extent) => {
                queue.push(whole(first, Change::Discard(extent)), None, stamp)
            }
        };
        let seq = Seq(first.0 + count - 1);
        Pushed::Queued { seq, wake }
    }

    fn push_lost(&mut self, slot: DiskSlot, reason: LossReason, now: Moment, len: u64) -> Pushed {
        self.lose_order(slot, reason, now);
        if let Some(queue) = &mut self.disks[slot.0] {
            queue.ignore(len);
        }
        Pushed::Lost { reason }
    }

    /// Appends a change of the agent's own to `generation`: what a resync read, or a record that
    /// says something about the disk. At most 1 MiB of data.
    ///
    /// # Errors
    ///
    /// [`NotCurrent`] when the disk is in another generation or in none, also when this call ended
    /// it for want of `Seq`s.
    pub fn push_own(
        &mut self,
        slot: DiskSlot,
        generation: GenerationId,
        stamp: Stamp,
        change: Change,
        piece: Option<Bytes>,
    ) -> Result<Seq, NotCurrent> {
        let queue = self.disks[slot.0].as_mut();
        let current = queue.filter(|queue| queue.generation() == Some(generation));
        let queue = current.ok_or(NotCurrent)?;
        let len = piece.as_ref().map_or(0, Bytes::len);
        assert_eq!(len as u64, change.raw_len(), "payload and extent disagree");
        assert!(len <= RAW_LEN_MAX, "resync reads at most a block at a time");
        let Some(seq) = self.seqs.take(1) else {
            self.lose_order(slot, LossReason::SeqsExhausted, stamp.now);
            return Err(NotCurrent);
        };
        self.used += len as u64 + RECORD_CHARGE;
        queue.push(whole(seq, change), piece, stamp);
        Ok(seq)
    }

    /// Marks this instant in the stream of every disk, with one `Seq` for all.
    ///
    /// # Errors
    ///
    /// See [`BookmarkError`]; nothing has changed.
    pub fn bookmark(
        &mut self,
        name: &str,
        class: Consistency,
        stamp: Stamp,
    ) -> Result<Seq, BookmarkError> {
        let mut queues = self.disks.iter().flatten();
        if queues.any(|queue| queue.generation().is_none()) {
            return Err(BookmarkError::Unordered);
        }
        let seq = self.seqs.take(1).ok_or(NoSeqs)?;
        for queue in self.disks.iter_mut().flatten() {
            let change = Change::Bookmark {
                class,
                name: name.into(),
                at: stamp.at,
            };
            self.used += RECORD_CHARGE;
            queue.push(whole(seq, change), None, stamp);
        }
        Ok(seq)
    }

    /// Marks this instant as [`Self::bookmark`] does, and lets nothing leave the queue until
    /// [`Self::end_bookmark`] says whether the mark stays. To be ended soon: the queue fills meanwhile.
    ///
    /// # Errors
    ///
    /// See [`BookmarkError`]; nothing has changed.
    ///
    /// # Panics
    ///
    /// When one is begun already.
    pub fn begin_bookmark(
        &mut self,
        name: &str,
        class: Consistency,
        stamp: Stamp,
    ) -> Result<Seq, BookmarkError> {
        assert!(self.unproven.is_none(), "one bookmark at a time is begun");
        let seq = self.bookmark(name, class, stamp)?;
        self.unproven = Some(seq);
        Ok(seq)
    }

    /// Ends the bookmark that was begun: it stays where it is, or was never there. A sleeping packer should
    /// look.
    ///
    /// # Panics
    ///
    /// When none is begun.
    pub fn end_bookmark(&mut self, stays: bool) {
        let seq = self.unproven.take().expect("a bookmark was begun");
        if stays {
            return;
        }
        for queue in self.disks.iter_mut().flatten() {
            self.used -= queue.take_back(seq);
        }
    }

    /// Ends a disk's order from outside; true if it had one.
    pub fn lose_order(&mut self, slot: DiskSlot, reason: LossReason, now: Moment) -> bool {
        if reason == LossReason::LocalError {
            reached!(LocalDiskFails);
            if planted!(LocalErrorOverlooked) {
                return false;
            }
        }
        let queue = self.disks[slot.0].as_mut();
        let freed = queue.and_then(|queue| queue.lose(reason, now, &mut self.dropped));
        self.used -= freed.unwrap_or(0);
        freed.is_some()
    }

    /// What lost orders left behind, to be dropped where nobody waits for it.
    #[must_use = "it is to be dropped after the mutex is released"]
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// The next batch that is due, and whose it is. To be called until there is none.
    pub fn take_batch(&mut self, stamp: Stamp) -> Option<(DiskSlot, Batch)> {
        if self.unproven.is_some() {
            return None;
        }
        let count = self.disks.len();
        let newest = self.seqs.newest();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some(queue) = &mut self.disks[index] else {
                continue;
            };
            if let Some(batch) = queue.take(stamp, newest, &self.limits) {
                self.turn = index + 1;
                return Some((DiskSlot(index), batch));
            }
        }
        None
    }

    /// When to call [`Self::take_batch`] again if no push says so earlier. Good after it returned
    /// `None`.
    pub fn deadline(&self) -> Option<Moment> {
        if self.unproven.is_some() {
            return None;
        }
        let queues = self.disks.iter().flatten();
        let ordered = queues.filter(|queue| queue.generation().is_some());
        ordered.filter_map(|queue| queue.due(&self.limits)).min()
    }

    /// The oldest batch taken of this disk is frozen, `encoded_len` bytes long.
    pub fn handle_frozen(&mut self, slot: DiskSlot, encoded_len: u64) {
        if let Some(queue) = &mut self.disks[slot.0] {
            let (before, after) = queue.handle_frozen(encoded_len);
            self.used = self.used - before + after;
        }
    }

    /// `count` frozen blocks of this disk, `encoded_len` bytes together, need not be kept any more.
    /// True if a sleeping packer should look.
    pub fn handle_freed(&mut self, slot: DiskSlot, count: u64, encoded_len: u64) -> bool {
        let newest = self.seqs.newest();
        let queue = self.disks[slot.0].as_mut();
        let Some(queue) = queue.filter(|_| count != 0) else {
            return false;
        };
        let (charge, wake) = queue.handle_freed(count, encoded_len, newest);
        self.used -= charge;
        wake
    }

    /// No more statements of idle disks: what each has said is its last word.
    pub fn silence(&mut self) {
        self.limits.statement_interval = Duration::MAX;
    }

    /// Takes room for `len` bytes that a resync is about to read: most of the budget is left to guests.
    /// Resyncs of many disks read at the same time, so that a look alone would let each of them add as much.
    /// `None` while there is none.
    pub fn take_resync_room(&mut self, len: u64) -> Option<ResyncRoom> {
        let charge = len + RECORD_CHARGE;
        let fits = self.used == 0 || self.used + charge <= self.limits.queue_bytes_max / 4;
        if !fits {
            reached!(ResyncWaitsForRoom);
        }
        fits.then(|| {
            self.used += charge;
            ResyncRoom { charge }
        })
    }

    /// The room is not needed any more: just before what was read is pushed, or because it will not be.
    pub fn give_back_resync_room(&mut self, room: ResyncRoom) {
        self.used -= room.charge;
    }

    /// Whether enough was drained for a new generation to be worth beginning.
    pub const fn has_generation_room(&self) -> bool {
        self.used <= self.limits.queue_bytes_max / 2
    }

    /// How many batches of this disk were taken and are not frozen yet.
    pub fn packing_count(&self, slot: DiskSlot) -> usize {
        self.queue(slot).map_or(0, DiskQueue::packing_count)
    }

    /// Charge of everything queued, being packed or frozen. Unit: bytes.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// What bounds it.
    pub const fn limits(&self) -> &OrderLimits {
        &self.limits
    }

    /// The last `Seq` handed out.
    pub const fn newest(&self) -> Seq {
        self.seqs.newest()
    }

    /// The mark to make durable and then to hand to [`Self::extend_reservation`], if one is wanted.
    pub fn wanted_reservation(&self) -> Option<Seq> {
        self.seqs.wanted()
    }

    /// Every `Seq` up to `until` is reserved durably.
    pub fn extend_reservation(&mut self, until: Seq) {
        self.seqs.extend(until);
    }

    /// Whether `Seq`s above `seq` can be handed out without a new reservation.
    pub fn has_reserved_beyond(&self, seq: Seq) -> bool {
        self.seqs.covers(seq.next())
    }

    /// Goes on above `seq`, which the server states. If that is a jump, the server knows more of
    /// this machine than this agent does (a clone, a restored state directory): every order ends,
    /// and the slots that lost theirs are returned.
    ///
    /// # Panics
    ///
    /// If `seq` is not reserved: see [`Self::has_reserved_beyond`].
    pub fn raise_above(&mut self, seq: Seq, now: Moment) -> Vec<DiskSlot> {
        if !self.seqs.raise(seq) {
            return Vec::new();
        }
        let slots = (0..self.disks.len()).filter(|&index| self.disks[index].is_some());
        let slots: Vec<DiskSlot> = slots.map(DiskSlot).collect();
        slots
            .into_iter()
            .filter(|&slot| self.lose_order(slot, LossReason::SeqsBehind, now))
            .collect()
    }

    /// What a disk has in the queue; `None` if it was detached.
    pub fn figures(&self, slot: DiskSlot) -> Option<QueueFigures> {
        let queue = self.queue(slot)?;
        Some(QueueFigures {
            state: queue.state,
            newest: queue.newest,
            waiting_bytes: queue.queued() + queue.packing(),
            frozen_bytes: queue.frozen(),
            oldest: queue.oldest(),
            ignored_count: queue.ignored.0,
            ignored_bytes: queue.ignored.1,
        })
    }

    fn queue(&self, slot: DiskSlot) -> Option<&DiskQueue> {
        self.disks[slot.0].as_ref()
    }
}

impl GuestChange {
    fn payload_len(&self) -> u64 {
        match self {
            Self::Data { extent, payload } => {
                let len = payload.len() as u64;
                assert_eq!(len, extent.byte_len().0, "payload and extent disagree");
                len
            }
            Self::Zero(_) | Self::Discard(_) => 0,
        }
    }
}

impl LossReason {
    /// The word for state and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::QueueOverflow => "queue-overflow",
            Self::LocalError => "local-error",
            Self::SeqsExhausted => "seqs-exhausted",
            Self::SeqsBehind => "seqs-behind",
            Self::PositionUnknown => "position-unknown",
        }
    }
}

const fn whole(seq: Seq, change: Change) -> Record {
    Record {
        seq,
        ends_request: true,
        change,
    }
}

/// A request longer than a block becomes several changes; only the last ends it.
fn push_data(
    queue: &mut DiskQueue,
    first: Seq,
    extent: Extent,
    mut payload: Bytes,
    stamp: Stamp,
) -> bool {
    let (mut seq, mut start, mut wake) = (first, extent.start(), false);
    while !payload.is_empty() {
        let piece = payload.split_to(payload.len().min(RAW_LEN_MAX));
        let end = Lba::new(start.sector() + piece.len() as u64 / SECTOR_LEN)
            .expect("inside the request's extent");
        let extent = Extent::between(start, end).expect("not empty, at most 1 MiB");
        let record = Record {
            seq,
            ends_request: payload.is_empty(),
            change: Change::Data(extent),
        };
        wake |= queue.push(record, Some(piece), stamp);
        (seq, start) = (seq.next(), end);
    }
    wake
}

#[cfg(test)]
mod tests;
