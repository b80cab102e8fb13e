//! The agent's end of one disk's stream: what to keep, what to send, when to begin a new generation.
//!
//! ```text
//!   handle_frozen          next_to_send        handle_watermarks
//! ──────────────▶ frozen ─────────────▶ sent ─────────────────▶ cached ─────▶ committed
//!                    └──── payload is held ────┘
//! ```
//!
//! Blocks are counted through all generations (their *ordinal*), and `committed <= cached <= sent <=
//! frozen` holds for ordinals. A block is held until it is cached. Blocks of a generation whose order
//! was lost are still good up to there: they are sent first, and the next generation builds on the
//! last of them.
//!
//! When the server says where it stands, its position is either one that this source has (the floor,
//! which is the last cached block, or a block that is held, equal by generation, number *and* chain):
//! then it goes on behind it. Or it is not: the agent crashed, the server was rolled back, somebody
//! is a clone. Then everything held is worthless and a new generation is wanted that builds on
//! exactly what the server has. Nothing else is needed to detect roll-backs.
//!
//! The driver calls one `handle_*`, then [`Source::poll_action`] until it returns `None`, then looks
//! at [`Source::wanted_generation`] and [`Source::next_to_send`].

use std::collections::VecDeque;

use everpoint_format::DiskPosition;
use everpoint_format::change::FrozenBlock;
use everpoint_marks::{planted, reached};
use everpoint_units::{BlockNo, GenerationId, Level, Moment};

mod lag;
mod loss_backoff;

use lag::Lag;
use loss_backoff::LossBackoff;

/// After so many refusals in a row without progress, sending the same again is given up.
const REFUSALS_MAX: u32 = 3;
/// Generations that are remembered, newest first. Order is lost rarely; older marks are implied by
/// newer ones.
const RUNS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Source {
    /// Highest epoch that was seen.
    epoch: Level,
    linked: bool,
    /// Oldest first; the last is the current one. Empty: no generation of this source is known to
    /// the server.
    runs: VecDeque<Run>,
    /// Ordinals `cached + 1` on.
    held: VecDeque<FrozenBlock>,
    /// Position of the ordinal `cached`; `None`: the server holds nothing.
    floor: Option<DiskPosition>,
    cached: u64,
    committed: u64,
    /// Where the link in use stands.
    sent: u64,
    /// The highest that was sent on any link.
    offered: u64,
    /// Encoded bytes of what is held beyond `sent`. Unit: bytes.
    unsent_bytes: u64,
    wanted: Option<ResyncReason>,
    /// What is wanted does not begin before.
    begins_at: Moment,
    losses: LossBackoff,
    rewound: Rewound,
    lag: Lag,
    pending: Pending,
}

/// What the driver must do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// End the disk's write order: what was captured so far leads nowhere.
    LoseOrder {
        /// Why.
        reason: ResyncReason,
    },
    /// Give back what `count` held blocks were charged.
    Freed {
        /// How many blocks.
        count: u64,
        /// Their encoded bytes together.
        encoded_len: u64,
    },
    /// Close the link: the server is out of its mind, or not the newest.
    CloseLink {
        /// Why.
        fault: Fault,
    },
}

/// Why a generation begins.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResyncReason {
    /// The server holds nothing of the disk.
    InitialSync,
    /// The agent did not stop in good order, or the disk was changed since.
    AgentRestart,
    /// The queue's budget was used up.
    QueueOverflow,
    /// The local disk failed a change.
    LocalError,
    /// No reserved `Seq` was left.
    SeqsExhausted,
    /// The server knows higher `Seq`s than the agent.
    SeqsBehind,
    /// The server's position is not in this agent's past.
    PositionUnknown,
    /// The server kept refusing a block.
    Refused,
}

/// What no correct, newest server says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// R12: it was fenced and does not know it.
    #[error("the server speaks for {offered}, and {seen} was seen before")]
    OldEpoch {
        /// What it speaks for.
        offered: Level,
        /// What spoke before.
        seen: Level,
    },
    /// It promises blocks that it was never sent.
    #[error("the server has more blocks than it was sent")]
    NeverSent,
    /// It commits what it has not cached.
    #[error("the server committed more than it cached")]
    CommittedAboveCached,
}

/// A generation that the driver is to begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WantedGeneration {
    /// What it builds on; `None`: the server holds nothing of the disk.
    pub base: Option<DiskPosition>,
    /// Why.
    pub reason: ResyncReason,
}

/// What the driver knows of a block that was frozen.
#[derive(Clone, Copy, Debug)]
pub struct FrozenFacts {
    /// When its first change was captured.
    pub first: Moment,
    /// Bytes that were written, before compression. Unit: bytes.
    pub raw_len: u64,
    /// Whether it holds the record that says "level again".
    pub completes_resync: bool,
}

/// Marks as blocks of the current generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourceMarks {
    pub generation: GenerationId,
    pub frozen: BlockNo,
    pub sent: BlockNo,
    pub cached: BlockNo,
    pub committed: BlockNo,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    generation: GenerationId,
    /// The ordinal before its first block.
    before: u64,
}

/// The last time that a refusal sent the cursor back.
#[derive(Clone, Copy, Debug, Default)]
struct Rewound {
    to: u64,
    /// Blocks that were on their way then, whose refusals say nothing new.
    stale: u64,
    /// Refusals in a row without anything being cached.
    count: u32,
}

#[derive(Debug, Default)]
struct Pending {
    lose: Option<ResyncReason>,
    freed: (u64, u64),
    fault: Option<Fault>,
}

impl Source {
    /// A disk that begins a generation as soon as the server says where it stands. Its copy is not
    /// level `since` at least then.
    pub fn new(epoch: Level, since: Moment) -> Self {
        Self {
            epoch,
            linked: false,
            runs: VecDeque::new(),
            held: VecDeque::new(),
            floor: None,
            cached: 0,
            committed: 0,
            sent: 0,
            offered: 0,
            unsent_bytes: 0,
            wanted: Some(ResyncReason::AgentRestart),
            begins_at: Moment::default(),
            losses: LossBackoff::default(),
            rewound: Rewound::default(),
            lag: Lag::behind(since),
            pending: Pending::default(),
        }
    }

    /// A disk that an earlier process left level and in good order at `tail`, everything cached.
    pub fn resume(epoch: Level, tail: DiskPosition) -> Self {
        let ordinal = tail.block_no.0;
        Self {
            runs: VecDeque::from([Run {
                generation: tail.generation,
                before: 0,
            }]),
            floor: Some(tail),
            cached: ordinal,
            committed: ordinal,
            sent: ordinal,
            offered: ordinal,
            wanted: None,
            lag: Lag::level(),
            ..Self::new(epoch, Moment::default())
        }
    }

    /// A stream was opened and the server stated what it holds durably.
    pub fn handle_linked(
        &mut self,
        epoch: Level,
        committed: Option<DiskPosition>,
        cached: Option<DiskPosition>,
        now: Moment,
    ) {
        if !self.admit_epoch(epoch) {
            return;
        }
        self.linked = true;
        self.rewound = Rewound::default();
        match self.find(cached) {
            Some(ordinal) if self.offered < ordinal => self.fault(Fault::NeverSent),
            Some(ordinal) => {
                self.set_sent(ordinal);
                self.advance_cached(ordinal);
                let committed =
                    committed.and_then(|at| self.ordinal_of(at.generation, at.block_no));
                self.advance_committed(committed.unwrap_or(0).min(self.cached));
            }
            None => {
                reached!(PositionUnknown);
                self.rebase(cached, ResyncReason::PositionUnknown, now);
            }
        }
        self.assert_invariants();
    }

    /// The stream is gone.
    pub fn handle_unlinked(&mut self) {
        self.linked = false;
    }

    /// The server closed the link because of what this source sends (close reason *order*): to send
    /// it again would end the next link too. What is held is given up.
    pub fn handle_accused(&mut self, now: Moment) {
        self.linked = false;
        self.rebase(self.floor, ResyncReason::Refused, now);
    }

    /// The current generation has its next block.
    ///
    /// # Panics
    ///
    /// If it does not continue [`Self::place`].
    pub fn handle_frozen(&mut self, block: FrozenBlock, facts: FrozenFacts) {
        let place = self.place().expect("a generation was begun");
        let header = &block.header;
        assert!(
            header.generation == place.generation
                && header.block_no == place.block_no.next()
                && header.chain_before == place.chain,
            "a block continues the one before"
        );
        let completes = facts.completes_resync && self.wanted.is_none();
        let changes = 0 < header.record_count;
        self.unsent_bytes += block.encoded_len() as u64;
        self.held.push_back(block);
        let ordinal = self.frozen();
        if changes {
            self.lag.handle_frozen(ordinal, facts.first, facts.raw_len);
        }
        if completes {
            self.lag.handle_completed(ordinal);
        }
    }

    /// The marks that a server promises, as blocks of `generation`.
    pub fn handle_watermarks(
        &mut self,
        epoch: Level,
        generation: GenerationId,
        cached: BlockNo,
        committed: BlockNo,
    ) {
        if !self.linked || !self.admit_epoch(epoch) {
            return;
        }
        if cached < committed {
            return self.fault(Fault::CommittedAboveCached);
        }
        let generation = match self.runs.back() {
            Some(run) if planted!(MarksOfAnyGeneration) => run.generation,
            _ => generation,
        };
        if !self.runs.iter().any(|run| run.generation == generation) {
            return;
        }
        // A mark of 0 says nothing, also nothing about the generation before.
        let ordinal = |mark: BlockNo| match mark {
            BlockNo::ZERO => Some(0),
            mark => self.ordinal_of(generation, mark),
        };
        let (Some(cached), Some(committed)) = (ordinal(cached), ordinal(committed)) else {
            return self.fault(Fault::NeverSent);
        };
        if self.offered < cached {
            return self.fault(Fault::NeverSent);
        }
        let cached = match planted!(FreedWhenSent) {
            true => self.sent,
            false => cached,
        };
        self.advance_cached(cached);
        self.advance_committed(committed);
        self.assert_invariants();
    }

    /// The server did not take a block; it holds everything up to `tail`, durably or not. `is_echo`:
    /// the reason is one that blocks get which were on their way behind the refused one.
    pub fn handle_refused(&mut self, tail: Option<DiskPosition>, is_echo: bool, now: Moment) {
        if !self.linked {
            return;
        }
        let on_the_way = self.sent.saturating_sub(self.cached);
        let Some(to) = self.find(tail) else {
            self.rebase(tail, ResyncReason::Refused, now);
            self.rewound.stale = on_the_way;
            return;
        };
        if self.offered < to {
            return self.fault(Fault::NeverSent);
        }
        if is_echo && to == self.rewound.to && 0 < self.rewound.stale {
            reached!(RefusalEchoed);
            self.rewound.stale -= 1;
            return;
        }
        self.rewound = Rewound {
            to,
            stale: self.sent.saturating_sub(to + 1),
            count: self.rewound.count + 1,
        };
        if self.rewound.count < REFUSALS_MAX {
            self.set_sent(to);
        } else {
            reached!(RefusedTooOften);
            self.rebase(tail, ResyncReason::Refused, now);
            self.rewound.stale = on_the_way;
        }
        self.assert_invariants();
    }

    /// The disk lost write order; blocks that were taken before may still be frozen.
    pub fn handle_order_lost(&mut self, reason: ResyncReason, now: Moment) {
        if !planted!(OrderLossForgotten) {
            self.want(reason, now);
        }
        self.lag.handle_lost(now);
    }

    /// The generation to begin, once nothing of the one before is left to be frozen, and not before
    /// [`Self::begins_at`]. `None` while there is no link, or none is needed.
    pub fn wanted_generation(&self) -> Option<WantedGeneration> {
        let reason = self.wanted.filter(|_| self.linked)?;
        let base = self.tail();
        let reason = base.map_or(ResyncReason::InitialSync, |_| reason);
        Some(WantedGeneration { base, reason })
    }

    /// The earliest moment for the generation that is wanted: one that follows another that was never
    /// level waits a while.
    pub const fn begins_at(&self) -> Moment {
        self.begins_at
    }

    /// The generation that was wanted has begun.
    ///
    /// # Panics
    ///
    /// If none was wanted.
    pub fn handle_begun(&mut self, generation: GenerationId) {
        let wanted = self.wanted.take();
        assert!(wanted.is_some(), "a generation begins when one is wanted");
        self.runs.push_back(Run {
            generation,
            before: self.frozen(),
        });
        if RUNS_MAX < self.runs.len() {
            self.runs.pop_front();
        }
    }

    /// The next block for the link, which counts as sent from now on.
    pub fn next_to_send(&mut self) -> Option<FrozenBlock> {
        if !self.linked {
            return None;
        }
        let block = self.held.get(index(self.sent - self.cached))?.clone();
        self.sent += 1;
        self.unsent_bytes -= block.encoded_len() as u64;
        self.offered = self.offered.max(self.sent);
        Some(block)
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(reason) = self.pending.lose.take() {
            return Some(Action::LoseOrder { reason });
        }
        let (count, encoded_len) = std::mem::take(&mut self.pending.freed);
        if count != 0 {
            return Some(Action::Freed { count, encoded_len });
        }
        let fault = self.pending.fault.take()?;
        Some(Action::CloseLink { fault })
    }

    /// The generation that blocks are frozen into; also after its order was lost.
    pub fn generation(&self) -> Option<GenerationId> {
        self.runs.back().map(|run| run.generation)
    }

    /// What the next block follows.
    pub fn place(&self) -> Option<DiskPosition> {
        let run = self.runs.back()?;
        if self.frozen() == run.before {
            return Some(DiskPosition::start_of(run.generation));
        }
        self.tail()
    }

    /// Highest epoch that was seen.
    pub const fn epoch(&self) -> Level {
        self.epoch
    }

    /// Marks of the current generation.
    pub fn marks(&self) -> Option<SourceMarks> {
        let run = self.runs.back()?;
        let mark = |ordinal: u64| BlockNo(ordinal.saturating_sub(run.before));
        Some(SourceMarks {
            generation: run.generation,
            frozen: mark(self.frozen()),
            sent: mark(self.sent),
            cached: mark(self.cached),
            committed: mark(self.committed),
        })
    }

    /// Whether the first block of the current generation was sent on this link.
    pub fn has_sent_opening(&self) -> bool {
        self.linked && self.runs.back().is_some_and(|run| run.before < self.sent)
    }

    /// Whether a generation has to begin.
    pub const fn wants_generation(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether the copy is level and that is committed.
    pub const fn is_level(&self) -> bool {
        self.lag.is_level()
    }

    /// Whether nothing is held: everything frozen is cached.
    pub fn is_cached(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether every change that was frozen is committed. Blocks without changes do not count: a
    /// server need not commit them.
    pub fn is_committed(&self) -> bool {
        self.lag.is_committed()
    }

    /// Since when there is something that cannot be restored: the capture of the oldest uncommitted
    /// change, or the moment when order was lost. Never later than the truth.
    pub fn uncommitted_since(&self) -> Option<Moment> {
        self.lag.since()
    }

    /// Bytes written, frozen and not committed. Unit: bytes; never less than the truth.
    pub const fn uncommitted_bytes(&self) -> u64 {
        self.lag.bytes()
    }

    /// Bytes held that were not sent on the link in use. Unit: bytes, encoded.
    pub const fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// The last block frozen, or what the server has.
    pub fn tail(&self) -> Option<DiskPosition> {
        self.held
            .back()
            .map_or(self.floor, |block| Some(block.position()))
    }

    fn frozen(&self) -> u64 {
        self.cached + self.held.len() as u64
    }

    fn admit_epoch(&mut self, offered: Level) -> bool {
        let seen = self.epoch;
        if offered < seen && !planted!(OldEpochAccepted) {
            self.fault(Fault::OldEpoch { offered, seen });
            return false;
        }
        self.epoch = offered;
        true
    }

    /// The link is of no more use: what else it says is not heard.
    fn fault(&mut self, fault: Fault) {
        self.pending.fault.get_or_insert(fault);
        self.linked = false;
    }

    /// The ordinal of a position that is the floor or held.
    fn find(&self, position: Option<DiskPosition>) -> Option<u64> {
        if position == self.floor {
            return Some(self.cached);
        }
        let position = position?;
        let ordinal = self.ordinal_of(position.generation, position.block_no)?;
        let block = self
            .held
            .get(index(ordinal.checked_sub(self.cached + 1)?))?;
        (block.position() == position).then_some(ordinal)
    }

    /// The ordinal of a block that was frozen, by its generation and number.
    fn ordinal_of(&self, generation: GenerationId, block_no: BlockNo) -> Option<u64> {
        let at = self
            .runs
            .iter()
            .position(|run| run.generation == generation)?;
        let end = self
            .runs
            .get(at + 1)
            .map_or(self.frozen(), |next| next.before);
        let ordinal = self.runs[at].before.checked_add(block_no.0)?;
        (ordinal <= end).then_some(ordinal)
    }

    /// Moves the cursor of the link to an ordinal that is the floor or held.
    fn set_sent(&mut self, to: u64) {
        let unsent = self.held.iter().skip(index(to - self.cached));
        self.unsent_bytes = unsent.map(|block| block.encoded_len() as u64).sum();
        self.sent = to;
    }

    fn advance_cached(&mut self, to: u64) {
        if to <= self.cached {
            return;
        }
        if self.sent < to {
            self.set_sent(to);
        }
        for block in self.held.drain(..index(to - self.cached)) {
            self.floor = Some(block.position());
            self.pending.freed.0 += 1;
            self.pending.freed.1 += block.encoded_len() as u64;
        }
        self.cached = to;
        self.rewound = Rewound::default();
    }

    fn advance_committed(&mut self, to: u64) {
        if to <= self.committed {
            return;
        }
        self.committed = to;
        self.lag.handle_committed(to);
        while self.runs.get(1).is_some_and(|next| next.before < to) {
            self.runs.pop_front();
        }
    }

    /// A generation has to begin. The first reason is the one that is told.
    fn want(&mut self, reason: ResyncReason, now: Moment) {
        if self.wanted.is_none() {
            self.wanted = Some(reason);
            self.begins_at = now.after(self.losses.handle_lost(self.lag.is_level()));
        }
    }

    /// What is held leads nowhere: the next generation builds on `tail`.
    fn rebase(&mut self, tail: Option<DiskPosition>, reason: ResyncReason, now: Moment) {
        if !self.held.is_empty() {
            reached!(HeldGivenUp);
        }
        self.pending.freed.0 += self.held.len() as u64;
        for block in &self.held {
            self.pending.freed.1 += block.encoded_len() as u64;
        }
        let ordinal = self.frozen();
        if self.generation().is_some() {
            // The first contact of a fresh source finds an unknown position by right.
            self.want(reason, now);
            if !planted!(PositionUnknownIgnored) {
                self.pending.lose = Some(reason);
            }
        }
        self.runs.clear();
        self.held.clear();
        self.unsent_bytes = 0;
        self.floor = tail;
        (self.cached, self.committed) = (ordinal, ordinal);
        (self.sent, self.offered) = (ordinal, ordinal);
        self.rewound = Rewound {
            to: ordinal,
            ..Rewound::default()
        };
        self.lag.handle_dropped(now);
    }

    fn assert_invariants(&self) {
        assert!(self.committed <= self.cached);
        assert!(self.cached <= self.sent);
        assert!(self.sent <= self.offered && self.offered <= self.frozen());
    }
}

impl ResyncReason {
    /// The word for state and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::InitialSync => "initial-sync",
            Self::AgentRestart => "agent-restart",
            Self::QueueOverflow => "queue-overflow",
            Self::LocalError => "local-error",
            Self::SeqsExhausted => "seqs-exhausted",
            Self::SeqsBehind => "seqs-behind",
            Self::PositionUnknown => "position-unknown",
            Self::Refused => "refused",
        }
    }
}

fn index(count: u64) -> usize {
    usize::try_from(count).expect("blocks that fit in memory")
}

#[cfg(test)]
mod tests;
