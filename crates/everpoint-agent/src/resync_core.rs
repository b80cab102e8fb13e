//! One initial sync or resync, step by step: what to read, what to ask, what to queue, when to wait.
//! Pure.
//!
//! ```text
//!  window of the disk ── holes? ──▶ hole: nothing to do (first copy), or zeroes under the lock
//!        │
//!        └─ data ─▶ first copy: read under the lock, queue what is not zero
//!                   compare:    read, send digests, and for pieces that differ: read again under
//!                               the lock, queue
//! ```
//!
//! New writes of the guest go into the same generation from its beginning, so only what was on the
//! disk before matters here. Whatever is queued was read under the range lock and gets its `Seq`
//! before the lock is let go: it stands in the order where it was true.
//!
//! The driver asks [`ResyncCore::need`], does that one thing however long it takes, says what came of
//! it with the `handle_*` that the need names, and asks again. Answers to questions may come at any
//! time and in any order. A driver that cannot queue any more, because the generation is over, stops
//! asking: nothing has to be undone.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::digest::{PIECE_LEN, PlainDigest};
use everpoint_marks::{planted, reached};
use everpoint_units::{Extent, GenerationId, Moment, SECTOR_LEN};

use crate::disk_core::effect::{Answer, Question};

mod pieces;

#[cfg(test)]
mod tests;

use pieces::{Segment, differing, first_piece, segments, steps};

/// How much of the disk is asked for holes at a time. Unit: sectors (64 MiB).
const WINDOW_SECTORS: u64 = (64 << 20) / SECTOR_LEN;
/// How much is compared in one question. Unit: sectors (1 MiB): 8 KiB of digests.
const COMPARE_SECTORS: u64 = (1 << 20) / SECTOR_LEN;
/// How much is locked at a time at the end. Unit: sectors (1 TiB): an extent counts them in 32 bits.
const SETTLE_SECTORS: u64 = (1 << 40) / SECTOR_LEN;
/// How much is read under the lock at a time. Unit: sectors (256 KiB): a guest's write to it waits
/// for so long a read at most.
const COPY_SECTORS: u64 = (256 << 10) / SECTOR_LEN;
/// Most questions that wait for their answer.
pub const IN_FLIGHT_MAX: usize = 32;
/// How long a failed read stands before the next attempt: this, doubled up to the second.
const RETRY_FROM: Duration = Duration::from_millis(250);
const RETRY_TO: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct ResyncCore {
    plan: ResyncPlan,
    /// Where the next window begins. Unit: sectors.
    next_window: u64,
    /// What is to be done in this window, in this order.
    jobs: VecDeque<Job>,
    /// Questions that were asked and not dealt with, oldest first.
    asked: VecDeque<Asked>,
    /// The queue had room for the job at the front.
    has_room: bool,
    /// The disk could not be read the last time.
    failing: bool,
    /// How long the next failure stands.
    retry: Duration,
    /// Nothing is wanted before: the disk could not be read.
    retry_at: Moment,
    /// When the next read may begin, for the rate's sake.
    next_read: Moment,
    done: u64,
    /// Up to here nothing is under way any more that was when it was looked at. Unit: sectors.
    settled: u64,
}

/// What a resync is to do.
#[derive(Clone, Copy, Debug)]
pub struct ResyncPlan {
    /// What it queues belongs to.
    pub generation: GenerationId,
    /// Size of the disk. Unit: sectors.
    pub sectors: u64,
    /// Whether there is something to compare with.
    pub compares: bool,
    /// How fast the disk is read. Unit: bytes a second.
    pub rate_max: Option<u64>,
}

/// What a resync wants next. Where the disk cannot be read, say [`ResyncCore::handle_failed`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Nothing until then.
    Until(Moment),
    /// Room in the queue for so many bytes of a resync; then [`ResyncCore::handle_room`].
    Room {
        /// Unit: bytes.
        len: u64,
    },
    /// What is allocated of an extent, for [`ResyncCore::handle_allocation`].
    Allocation(Extent),
    /// The [`digests`] of what an extent holds, read without the range lock, for
    /// [`ResyncCore::handle_digests`].
    Digests(Extent),
    /// Take the range lock (shared), ask what is allocated of the extent, queue what
    /// [`ResyncCore::handle_hole`] says, let the lock go.
    Hole(Extent),
    /// Take the range lock (shared), read the extent, queue what [`ResyncCore::handle_copied`] says,
    /// let the lock go. After a failure let it go before the next attempt: a guest waits for it.
    Copy(Extent),
    /// One more answer to a question, for [`ResyncCore::handle_answer`].
    Answer,
    /// Take the range lock (shared) and let it go: whatever write was under way there has its `Seq` by then.
    /// Then [`ResyncCore::handle_settled`].
    Settle(Extent),
    /// Queue [`Change::ResyncComplete`]; then the resync is over.
    Complete,
}

/// A part of an extent with one allocation status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    pub extent: Extent,
    /// Nothing is allocated: it reads as zeroes.
    pub hole: bool,
}

/// A change to queue, and its payload.
pub type OwnChange = (Change, Option<Bytes>);

#[derive(Clone, Copy, Debug)]
enum Job {
    /// Wait until as much as this may be read. Unit: bytes.
    Pace(u64),
    /// Say that a hole reads as zeroes, if it is one still.
    Hole(Extent),
    /// Queue what an extent holds.
    Copy(Extent),
    /// Ask the server about an extent.
    Compare(Extent),
    /// So much of the disk is level. Unit: bytes.
    Count(u64),
}

#[derive(Debug)]
struct Asked {
    extent: Extent,
    /// One bit a piece; see `wire.proto`.
    differs: Option<Bytes>,
}

/// Digests of the whole pieces in `bytes`, which begin with a piece.
pub fn digests(bytes: &[u8]) -> Vec<PlainDigest> {
    let (pieces, _) = bytes.as_chunks::<PIECE_LEN>();
    PlainDigest::of_all(pieces)
}

impl ResyncCore {
    /// A resync that begins at the start of the disk.
    pub const fn new(plan: ResyncPlan) -> Self {
        Self {
            plan,
            next_window: 0,
            jobs: VecDeque::new(),
            asked: VecDeque::new(),
            has_room: false,
            failing: false,
            retry: RETRY_FROM,
            retry_at: Moment(0),
            next_read: Moment(0),
            done: 0,
            settled: 0,
        }
    }

    /// What to do next. Asking again without an answer gives the same need.
    pub fn need(&mut self, now: Moment) -> Need {
        if now < self.retry_at {
            return Need::Until(self.retry_at);
        }
        loop {
            let must_settle = IN_FLIGHT_MAX <= self.asked.len();
            match self.jobs.front().copied() {
                _ if must_settle => {
                    if !self.settle_oldest() {
                        return Need::Answer;
                    }
                }
                Some(Job::Count(bytes)) => {
                    self.done += bytes;
                    self.jobs.pop_front();
                }
                Some(Job::Pace(bytes)) => {
                    if now < self.next_read {
                        return Need::Until(self.next_read);
                    }
                    self.next_read = now.after(self.read_time(bytes));
                    self.jobs.pop_front();
                }
                Some(Job::Hole(extent)) => return self.with_room(0, Need::Hole(extent)),
                Some(Job::Copy(extent)) => {
                    return self.with_room(extent.byte_len().0, Need::Copy(extent));
                }
                Some(Job::Compare(extent)) => return Need::Digests(extent),
                None if self.next_window < self.plan.sectors => {
                    return Need::Allocation(self.window());
                }
                None if self.asked.is_empty() || planted!(CompleteTooEarly) => {
                    return self.settle();
                }
                None => {
                    if !self.settle_oldest() {
                        return Need::Answer;
                    }
                }
            }
        }
    }

    /// What was looked at without the range lock (digests, holes) may have shown a write that was under way: with
    /// no record of its own from this resync, the copy has it only from its `Seq` on. So the copy is complete
    /// above that.
    fn settle(&self) -> Need {
        let end = self.plan.sectors.min(self.settled + SETTLE_SECTORS);
        if self.settled < end {
            return Need::Settle(pieces::extent(self.settled, end));
        }
        Need::Complete
    }

    /// No write is under way any more that was when the last [`Need::Settle`] was answered.
    pub fn handle_settled(&mut self) {
        self.settled = self.plan.sectors.min(self.settled + SETTLE_SECTORS);
    }

    /// The queue has the room that was wanted.
    pub const fn handle_room(&mut self) {
        self.has_room = true;
    }

    /// What the source says of the window: consecutive runs from its start; may end early.
    pub fn handle_allocation(&mut self, runs: &[Run]) {
        assert!(self.jobs.is_empty(), "nobody asked what is allocated");
        self.note_read();
        let (list, reached) = segments(self.window(), runs);
        for segment in list {
            self.plan_segment(segment);
        }
        self.next_window = reached;
    }

    /// Digests of what the extent holds. What to ask the server, if there is something to ask.
    #[must_use]
    pub fn handle_digests(&mut self, digests: Vec<PlainDigest>) -> Option<Question> {
        let Some(Job::Compare(extent)) = self.jobs.pop_front() else {
            panic!("nobody wanted digests");
        };
        self.note_read();
        if digests.is_empty() {
            // Less than one piece, at the end of the disk.
            self.prepend(copies(extent).chain([Job::Count(extent.byte_len().0)]));
            return None;
        }
        self.asked.push_back(Asked {
            extent,
            differs: None,
        });
        Some(Question {
            generation: self.plan.generation,
            first_piece: first_piece(extent),
            digests,
        })
    }

    /// The server answered a question. An answer to another resync's counts for nothing.
    pub fn handle_answer(&mut self, answer: Answer) {
        if answer.generation != self.plan.generation {
            return;
        }
        let mut asked = self.asked.iter_mut();
        let asked = asked.find(|asked| first_piece(asked.extent) == answer.first_piece);
        if let Some(asked) = asked {
            asked.differs = Some(answer.differs);
        }
    }

    /// What is allocated of a hole now, `None` if the source cannot say. What to queue before the
    /// range lock is let go.
    #[must_use]
    pub fn handle_hole(&mut self, runs: Option<&[Run]>) -> Option<Change> {
        let Some(Job::Hole(extent)) = self.jobs.pop_front() else {
            panic!("nobody asked about a hole");
        };
        self.has_room = false;
        let is_hole = matches!(runs, Some([run]) if run.hole && run.extent == extent);
        if is_hole || planted!(HoleNotLookedAt) {
            return Some(Change::Zero(extent));
        }
        reached!(HoleFilled);
        self.prepend(copies(extent));
        None
    }

    /// What an extent holds. What to queue, in this order, before the range lock is let go.
    #[must_use]
    pub fn handle_copied(&mut self, bytes: &Bytes) -> Vec<OwnChange> {
        let Some(Job::Copy(extent)) = self.jobs.pop_front() else {
            panic!("nobody wanted to copy");
        };
        assert_eq!(bytes.len() as u64, extent.byte_len().0, "read whole");
        self.has_room = false;
        self.note_read();
        pieces::changes(extent, bytes, self.plan.compares)
    }

    /// What was wanted could not be read; it is wanted again, ever later.
    pub fn handle_failed(&mut self, now: Moment) {
        self.failing = true;
        self.has_room = false;
        self.retry_at = now.after(self.retry);
        self.retry = (self.retry * 2).min(RETRY_TO);
    }

    /// Whether the disk could not be read the last time.
    pub const fn is_failing(&self) -> bool {
        self.failing
    }

    /// How much of the disk is level. Unit: bytes.
    pub const fn done(&self) -> u64 {
        self.done
    }

    const fn note_read(&mut self) {
        self.failing = false;
        self.retry = RETRY_FROM;
    }

    const fn with_room(&self, len: u64, need: Need) -> Need {
        if self.has_room {
            need
        } else {
            Need::Room { len }
        }
    }

    fn read_time(&self, bytes: u64) -> Duration {
        let rate = self.plan.rate_max;
        rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(bytes as f64 / rate as f64)
        })
    }

    fn window(&self) -> Extent {
        let end = (self.next_window + WINDOW_SECTORS).min(self.plan.sectors);
        pieces::extent(self.next_window, end)
    }

    fn plan_segment(&mut self, segment: Segment) {
        let len = |extent: Extent| extent.byte_len().0;
        match segment {
            // Nobody holds anything else there.
            Segment::Hole(extent) if !self.plan.compares => {
                self.jobs.push_back(Job::Count(len(extent)));
            }
            Segment::Hole(extent) => {
                self.jobs
                    .extend([Job::Hole(extent), Job::Count(len(extent))]);
            }
            Segment::Data(extent) if !self.plan.compares => {
                for step in steps(extent, COPY_SECTORS) {
                    let len = len(step);
                    self.jobs
                        .extend([Job::Pace(len), Job::Copy(step), Job::Count(len)]);
                }
            }
            Segment::Data(extent) => {
                for step in steps(extent, COMPARE_SECTORS) {
                    self.jobs.extend([Job::Pace(len(step)), Job::Compare(step)]);
                }
            }
        }
    }

    /// Plans what the oldest question's answer makes necessary; false while there is no answer.
    fn settle_oldest(&mut self) -> bool {
        let Some(asked) = self.asked.pop_front_if(|asked| asked.differs.is_some()) else {
            return false;
        };
        let differs = asked.differs.unwrap_or_default();
        let runs = differing(asked.extent, &differs);
        let count = Job::Count(asked.extent.byte_len().0);
        self.prepend(runs.into_iter().flat_map(copies).chain([count]));
        true
    }

    /// Puts jobs before all others.
    fn prepend(&mut self, jobs: impl Iterator<Item = Job>) {
        let jobs: Vec<Job> = jobs.collect();
        for job in jobs.into_iter().rev() {
            self.jobs.push_front(job);
        }
    }
}

fn copies(extent: Extent) -> impl Iterator<Item = Job> {
    steps(extent, COPY_SECTORS).map(Job::Copy)
}
