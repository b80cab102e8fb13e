//! One disk's part of the queue: blocks that are filled and closed, and what became of its order.
//!
//! ```text
//!   push ──▶ open ──(full)──▶ closed, closed, … ──take──▶ packing ──▶ frozen ──▶ cached
//!              └──────────(5 ms after its first change)──────▲
//! ```
//!
//! A block is filled as changes come, so that closing it moves two vectors and nothing else: the
//! machine's mutex is held while that happens.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::change::{ENCODED_LEN_MAX, HEADER_LEN, RAW_LEN_MAX, RECORD_COUNT_MAX};
use everpoint_format::record::{RECORD_LEN, Record};
use everpoint_marks::{planted, reached};
use everpoint_units::{GenerationId, Moment, Seq, WallTime};

use crate::batch::Batch;
use crate::write_order::{LossReason, OrderLimits, QueueState, Stamp};

/// What a record costs in the queue besides its payload. Unit: bytes. The record and its buffer's
/// handle, and the allocator's share.
pub(crate) const RECORD_CHARGE: u64 = 192;
/// What a frozen block costs besides its encoded bytes. Unit: bytes.
pub(crate) const BLOCK_CHARGE: u64 = 512;

/// Room for records and their texts in a block. Unit: bytes.
const AREA_LEN_MAX: usize = ENCODED_LEN_MAX - RAW_LEN_MAX - HEADER_LEN;

/// See the module.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    pub(crate) state: QueueState,
    /// Newest `Seq` of this disk.
    pub(crate) newest: Seq,
    /// Changes that came while there was no order, and their bytes.
    pub(crate) ignored: (u64, u64),
    open: Option<Filling>,
    closed: VecDeque<Filling>,
    /// Batches that were taken and are not frozen yet.
    packing: VecDeque<Packing>,
    /// Charge of the frozen blocks that are not cached yet. Unit: bytes.
    frozen: u64,
    /// `complete_through` of the newest batch.
    stated: Seq,
    stated_at: Moment,
    /// Since when the machine's newest `Seq` is above what this quiet disk stated.
    behind_since: Option<Moment>,
}

/// What a disk had in the queue when it lost order. Thousands of buffers are given back when it is
/// dropped, which takes a while: not to be done under the machine's mutex.
#[derive(Debug, Default)]
pub struct Dropped(Vec<Filling>);

/// A block while changes still come.
#[derive(Debug)]
struct Filling {
    records: Vec<Record>,
    pieces: Vec<Bytes>,
    raw_len: usize,
    /// Bytes of records and texts.
    area_len: usize,
    charge: u64,
    first: Stamp,
    last_at: WallTime,
    /// Goes out at once, whatever its age.
    urgent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packing {
    first: Moment,
    charge: u64,
}

impl DiskQueue {
    pub(crate) fn new() -> Self {
        Self {
            state: QueueState::Unbegun,
            newest: Seq::ZERO,
            ignored: (0, 0),
            open: None,
            closed: VecDeque::new(),
            packing: VecDeque::new(),
            frozen: 0,
            stated: Seq::ZERO,
            stated_at: Moment::default(),
            behind_since: None,
        }
    }

    pub(crate) const fn generation(&self) -> Option<GenerationId> {
        match self.state {
            QueueState::Ordered { generation } => Some(generation),
            _ => None,
        }
    }

    /// Begins to keep order, from `stated` on.
    pub(crate) fn begin(&mut self, generation: GenerationId, stated: Seq) {
        assert!(
            self.generation().is_none() && self.packing.is_empty(),
            "a generation begins after the one before was lost and packed"
        );
        self.state = QueueState::Ordered { generation };
        self.stated = stated;
        self.behind_since = None;
        self.ignored = (0, 0);
    }

    /// Appends one change. True if the shell should look: a block was begun or is full.
    pub(crate) fn push(&mut self, record: Record, piece: Option<Bytes>, stamp: Stamp) -> bool {
        let area = area_len(&record.change);
        let raw = piece.as_ref().map_or(0, Bytes::len);
        let mut wake = false;
        if let Some(full) = self.open.take_if(|open| !open.fits(area, raw)) {
            self.closed.push_back(full);
            wake = true;
        }
        self.newest = record.seq;
        wake |= self.open.is_none();
        let open = self.open.get_or_insert_with(|| Filling::new(stamp));
        open.push(record, piece, area, raw, stamp.at);
        if open.is_full() {
            self.closed.extend(self.open.take());
            wake = true;
        }
        wake
    }

    /// Removes the record of a bookmark that was not taken yet. Returns the charge that this sets free: none if
    /// the queue lost its order since.
    pub(crate) fn take_back(&mut self, seq: Seq) -> u64 {
        let mut blocks = self.open.iter_mut().chain(self.closed.iter_mut().rev());
        let freed = blocks.find_map(|block| block.take_back(seq)).unwrap_or(0);
        self.open.take_if(|open| open.records.is_empty());
        self.closed.retain(|block| !block.records.is_empty());
        freed
    }

    /// Lets the block that is open go out at once.
    pub(crate) fn hurry(&mut self) {
        if let Some(open) = &mut self.open {
            open.urgent = true;
        }
    }

    /// Keeps no order from here on and puts what was not taken yet into `dropped`. Returns the
    /// charge that this sets free; `None` if there was no order.
    pub(crate) fn lose(
        &mut self,
        reason: LossReason,
        now: Moment,
        dropped: &mut Dropped,
    ) -> Option<u64> {
        self.generation()?;
        let freed = self.queued();
        self.state = QueueState::Lost { reason, since: now };
        dropped
            .0
            .extend(self.closed.drain(..).chain(self.open.take()));
        Some(freed)
    }

    pub(crate) fn ignore(&mut self, len: u64) {
        self.ignored.0 += 1;
        self.ignored.1 += len;
    }

    /// When the next batch is due, if nothing else happens.
    pub(crate) fn due(&self, limits: &OrderLimits) -> Option<Moment> {
        if !self.closed.is_empty() || self.open.as_ref().is_some_and(|open| open.urgent) {
            return Some(Moment::default());
        }
        if let Some(open) = &self.open {
            return Some(open.first.now.after(limits.block_age_max));
        }
        let quiet = self.behind_since?.after(limits.block_age_max);
        Some(quiet.max(self.stated_at.after(limits.statement_interval)))
    }

    /// Takes the oldest batch if it is due; `newest` is the machine's newest `Seq`.
    pub(crate) fn take(
        &mut self,
        stamp: Stamp,
        newest: Seq,
        limits: &OrderLimits,
    ) -> Option<Batch> {
        let generation = self.generation()?;
        self.note_behind(stamp.now, newest);
        if stamp.now < self.due(limits)? {
            return None;
        }
        let filled = self.closed.pop_front().or_else(|| self.open.take());
        let filled = filled.unwrap_or_else(|| {
            reached!(QuietDiskSpeaks);
            Filling::empty(stamp)
        });
        let emptied = self.closed.is_empty() && self.open.is_none();
        let last = filled.records.last().map_or(newest, |record| record.seq);
        self.stated = if emptied { newest } else { last };
        if planted!(SaysTooMuch) {
            self.stated = self.stated.next();
        }
        self.stated_at = stamp.now;
        self.behind_since = None;
        self.packing.push_back(Packing {
            first: filled.first.now,
            charge: filled.charge,
        });
        Some(Batch {
            generation,
            complete_through: self.stated,
            first: filled.first.now,
            first_at: filled.first.at,
            last_at: filled.last_at,
            records: filled.records,
            pieces: filled.pieces,
            raw_len: filled.raw_len,
        })
    }

    /// Notes since when a quiet disk could say more than it said. Quiet: nothing queued, nothing on
    /// its way, so that statements of an idle disk wait for each other and for the link.
    fn note_behind(&mut self, now: Moment, newest: Seq) {
        if self.is_quiet() && self.stated < newest {
            self.behind_since.get_or_insert(now);
        } else {
            self.behind_since = None;
        }
    }

    fn is_quiet(&self) -> bool {
        self.open.is_none() && self.closed.is_empty() && self.packing.is_empty() && self.frozen == 0
    }

    /// The oldest batch that was taken is a frozen block of `encoded_len` bytes. Returns its charge
    /// before and from now on.
    pub(crate) fn handle_frozen(&mut self, encoded_len: u64) -> (u64, u64) {
        let packed = self.packing.pop_front().expect("a batch was taken");
        let charge = encoded_len + BLOCK_CHARGE;
        self.frozen += charge;
        (packed.charge, charge)
    }

    /// `count` frozen blocks of `encoded_len` bytes together are held no longer. Returns their
    /// charge, and whether a statement may have become due.
    pub(crate) fn handle_freed(
        &mut self,
        count: u64,
        encoded_len: u64,
        newest: Seq,
    ) -> (u64, bool) {
        let charge = encoded_len + count * BLOCK_CHARGE;
        self.frozen = self
            .frozen
            .checked_sub(charge)
            .expect("only what was frozen is freed");
        let behind = self.generation().is_some() && self.is_quiet() && self.stated < newest;
        (charge, behind)
    }

    /// Charge of what is in the queue and was not taken yet. Unit: bytes.
    pub(crate) fn queued(&self) -> u64 {
        let open = self.open.iter();
        open.chain(&self.closed).map(|block| block.charge).sum()
    }

    /// Charge of what is being packed. Unit: bytes.
    pub(crate) fn packing(&self) -> u64 {
        self.packing.iter().map(|packing| packing.charge).sum()
    }

    pub(crate) const fn frozen(&self) -> u64 {
        self.frozen
    }

    /// How many batches were taken and are not frozen yet.
    pub(crate) fn packing_count(&self) -> usize {
        self.packing.len()
    }

    /// When the oldest change that is not frozen was captured. Statements are no changes.
    pub(crate) fn oldest(&self) -> Option<Moment> {
        let packing = self.packing.iter().find(|packing| packing.charge != 0);
        let waiting = self.closed.front().or(self.open.as_ref());
        let waiting = waiting.map(|block| block.first.now);
        packing.map(|packing| packing.first).or(waiting)
    }
}

impl Filling {
    fn new(stamp: Stamp) -> Self {
        Self {
            records: Vec::with_capacity(256),
            pieces: Vec::with_capacity(256),
            ..Self::empty(stamp)
        }
    }

    const fn empty(stamp: Stamp) -> Self {
        Self {
            records: Vec::new(),
            pieces: Vec::new(),
            raw_len: 0,
            area_len: 0,
            charge: 0,
            first: stamp,
            last_at: stamp.at,
            urgent: false,
        }
    }

    fn fits(&self, area: usize, raw: usize) -> bool {
        self.raw_len + raw <= RAW_LEN_MAX && self.area_len + area <= AREA_LEN_MAX
    }

    fn is_full(&self) -> bool {
        self.raw_len == RAW_LEN_MAX || self.records.len() == RECORD_COUNT_MAX
    }

    /// Removes a record without payload; `None` if it is not here.
    fn take_back(&mut self, seq: Seq) -> Option<u64> {
        let index = self.records.binary_search_by_key(&seq, |record| record.seq);
        let record = self.records.remove(index.ok()?);
        self.area_len -= area_len(&record.change);
        self.charge -= RECORD_CHARGE;
        Some(RECORD_CHARGE)
    }

    fn push(
        &mut self,
        record: Record,
        piece: Option<Bytes>,
        area: usize,
        raw: usize,
        at: WallTime,
    ) {
        self.records.push(record);
        self.pieces.extend(piece);
        self.raw_len += raw;
        self.area_len += area;
        self.charge += raw as u64 + RECORD_CHARGE;
        self.last_at = at;
    }
}

/// Bytes that a change takes in a block's record area: the record and its text.
fn area_len(change: &Change) -> usize {
    RECORD_LEN
        + match change {
            Change::Bookmark { name, .. } | Change::DiskBegin { name, .. } => name.len(),
            // A position: generation, number and chain value, 32 bytes.
            Change::ResyncBegin { base: Some(_) } => 32,
            _ => 0,
        }
}

impl Default for OrderLimits {
    /// 256 MiB of queue, blocks closed after 5 ms, an idle disk speaks 20 times a second.
    fn default() -> Self {
        Self {
            queue_bytes_max: 256 << 20,
            block_age_max: Duration::from_millis(5),
            statement_interval: Duration::from_millis(50),
        }
    }
}
