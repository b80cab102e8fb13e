//! The process server's end of one disk's stream: which blocks to take, which to refuse, what to
//! promise.
//!
//! ```text
//!      handle_block           handle_cached             handle_committed
//! agent ────────▶ received ──────────────▶ cached ──────────────▶ committed
//! ```
//!
//! Invariant, asserted after every event: within a generation `committed <= cached <= received`.
//!
//! A block is taken only where it continues `received` by generation, number *and* chain, or where it
//! begins a generation that states `received` as what it builds on. Numbers alone prove nothing: two
//! lives of a cloned agent give the same numbers to different bytes.

use std::collections::VecDeque;

use everpoint_format::change::ChangeBlock;
use everpoint_format::{Change, DiskPosition};
use everpoint_marks::{planted, reached};
use everpoint_units::{BlockNo, DiskId, GenerationId, Lba, Seq};

/// Highest `Seq` that is believed. Above it an agent is out of its mind, or hostile.
const SEQ_MAX: Seq = Seq(1 << 62);

/// See the module.
#[derive(Clone, Debug)]
pub struct Sink {
    disk: DiskId,
    /// The last block taken; `None` before the first.
    received: Option<Received>,
    cached: Option<DiskPosition>,
    committed: Option<DiskPosition>,
    /// What was held when this session was last refused a block.
    refused_at: Option<Option<DiskPosition>>,
    /// Generations from that of `committed` to that of `received`, oldest first.
    generations: VecDeque<GenerationId>,
}

/// What the last block taken says of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    pub position: DiskPosition,
    pub complete_through: Seq,
    /// Size of the disk. Unit: sectors.
    pub sectors: u64,
    /// Whether the generation's resync is complete.
    pub level: bool,
}

/// What to do with a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Append it to the log.
    Append,
    /// It is here already: answer with the marks.
    Duplicate,
    /// Tell the agent what is held; it goes on from there.
    Refuse(Refusal),
    /// What was refused before is still on its way: nothing to say.
    Ignore,
    /// The agent breaks the protocol: close its connection.
    Violation(Violation),
}

/// Why a block cannot be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// A block is missing, or the chain does not continue what is held.
    Gap,
    /// It belongs to a generation that is over.
    Stale,
    /// It begins a generation that builds on something else.
    WrongBase,
}

/// What no correct agent sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    #[error("the block belongs to another disk or machine")]
    ForeignDisk,
    #[error("a seq went back, or ran away")]
    Order,
    #[error("an extent reaches past the disk's end")]
    Range,
    #[error("a generation does not begin as generations begin")]
    Beginning,
}

impl Sink {
    /// Nothing is held of this disk.
    pub const fn new(disk: DiskId) -> Self {
        Self {
            disk,
            received: None,
            cached: None,
            committed: None,
            refused_at: None,
            generations: VecDeque::new(),
        }
    }

    /// The disk as the vault has it: everything is committed.
    pub fn resume(disk: DiskId, received: Received) -> Self {
        Self {
            received: Some(received),
            cached: Some(received.position),
            committed: Some(received.position),
            generations: VecDeque::from([received.position.generation]),
            ..Self::new(disk)
        }
    }

    /// A block came, with every checksum found good. [`Verdict::Append`] counts it as received.
    pub fn handle_block(&mut self, block: &ChangeBlock) -> Verdict {
        let header = block.header();
        if header.disk != self.disk {
            return Verdict::Violation(Violation::ForeignDisk);
        }
        let next = match self.follows(block) {
            Ok(next) => next,
            Err(Verdict::Refuse(refusal)) => return self.refuse(refusal),
            Err(verdict) => return verdict,
        };
        match next.fold(block) {
            Ok(received) => {
                if self.generations.back() != Some(&header.generation) {
                    self.generations.push_back(header.generation);
                }
                self.received = Some(received);
                self.refused_at = None;
                self.assert_invariants();
                Verdict::Append
            }
            Err(violation) => Verdict::Violation(violation),
        }
    }

    /// What the block builds on, or why it cannot be taken.
    fn follows(&self, block: &ChangeBlock) -> Result<Received, Verdict> {
        let header = block.header();
        let held = self.received.map(|received| received.position);
        let begins = header.block_no == BlockNo::ZERO.next();
        let Some(received) = self.received else {
            return match (begins, stated_base(block)) {
                (true, Some(None)) => {
                    reached!(GenerationOnNothing);
                    Ok(Received::fresh(header.generation))
                }
                (true, None) => Err(Verdict::Violation(Violation::Beginning)),
                (true, Some(Some(_))) => Err(Verdict::Refuse(Refusal::WrongBase)),
                (false, _) => Err(Verdict::Refuse(Refusal::Gap)),
            };
        };
        if header.generation == received.position.generation {
            return if header.block_no < received.position.block_no {
                Err(Verdict::Duplicate)
            } else if header.block_no == received.position.block_no {
                // The same number with another chain is another history.
                Err(if header.chain == received.position.chain {
                    Verdict::Duplicate
                } else {
                    Verdict::Refuse(Refusal::Gap)
                })
            } else if header.position_before() == received.position || planted!(GapAccepted) {
                Ok(received)
            } else {
                Err(Verdict::Refuse(Refusal::Gap))
            };
        }
        if self.generations.contains(&header.generation) {
            return Err(Verdict::Refuse(Refusal::Stale));
        }
        match (begins, stated_base(block)) {
            (true, Some(base)) if base == held || planted!(WrongBaseAccepted) => {
                if !received.level {
                    reached!(UnfinishedBuiltOn);
                }
                Ok(Received {
                    position: DiskPosition::start_of(header.generation),
                    level: false,
                    ..received
                })
            }
            (true, Some(_)) => Err(Verdict::Refuse(Refusal::WrongBase)),
            (true, None) => Err(Verdict::Violation(Violation::Beginning)),
            (false, _) => Err(Verdict::Refuse(Refusal::Stale)),
        }
    }

    /// Says once what is held, not for each block that is on its way behind the first refused one.
    fn refuse(&mut self, refusal: Refusal) -> Verdict {
        let held = self.received.map(|received| received.position);
        if self.refused_at.replace(held) == Some(held) {
            reached!(RefusalOnItsWay);
            Verdict::Ignore
        } else {
            match refusal {
                Refusal::Gap => reached!(BlockBehindGap),
                Refusal::Stale => reached!(StaleGeneration),
                Refusal::WrongBase => reached!(WrongBase),
            }
            Verdict::Refuse(refusal)
        }
    }

    /// A session began: what is refused now was not refused to this peer.
    pub fn handle_session(&mut self) {
        self.refused_at = None;
    }

    /// A block is durable in the log. Blocks become durable in the order in which they were taken.
    ///
    /// # Panics
    ///
    /// If it was never taken, or is older than what was cached before.
    pub fn handle_cached(&mut self, position: DiskPosition) {
        assert!(
            self.order_of(self.cached) <= self.order_of(Some(position)),
            "the cached mark went back"
        );
        self.cached = Some(position);
        self.assert_invariants();
    }

    /// A block, and all before it, is committed.
    ///
    /// # Panics
    ///
    /// If it was never cached, or is older than what was committed before.
    pub fn handle_committed(&mut self, position: DiskPosition) {
        assert!(
            self.order_of(self.committed) <= self.order_of(Some(position)),
            "the committed mark went back"
        );
        self.committed = Some(position);
        while self
            .generations
            .front()
            .is_some_and(|first| *first != position.generation)
        {
            self.generations.pop_front();
        }
        self.assert_invariants();
    }

    /// The disk.
    pub const fn disk(&self) -> DiskId {
        self.disk
    }

    /// What the last block taken says.
    pub const fn received(&self) -> Option<Received> {
        self.received
    }

    /// The last durable block.
    pub const fn cached(&self) -> Option<DiskPosition> {
        self.cached
    }

    /// The last committed block.
    pub const fn committed(&self) -> Option<DiskPosition> {
        self.committed
    }

    /// Cached and committed marks as blocks of the newest generation.
    pub fn marks(&self) -> Option<(GenerationId, BlockNo, BlockNo)> {
        let newest = self.received?.position.generation;
        let cached = match planted!(CachedWhenTaken) {
            true => self.received.map(|received| received.position),
            false => self.cached,
        };
        let mark = |position: Option<DiskPosition>| {
            position
                .filter(|position| position.generation == newest)
                .map_or(BlockNo::ZERO, |position| position.block_no)
        };
        Some((newest, mark(cached), mark(self.committed)))
    }

    /// Orders positions by the generations that are still on their way.
    fn order_of(&self, position: Option<DiskPosition>) -> Option<(usize, BlockNo)> {
        let position = position?;
        let index = self
            .generations
            .iter()
            .position(|generation| *generation == position.generation)
            .expect("a mark belongs to a generation that was taken");
        Some((index, position.block_no))
    }

    fn assert_invariants(&self) {
        let received = self.received.map(|received| received.position);
        assert!(self.order_of(self.committed) <= self.order_of(self.cached));
        assert!(self.order_of(self.cached) <= self.order_of(received));
    }
}

impl Received {
    fn fresh(generation: GenerationId) -> Self {
        Self {
            position: DiskPosition::start_of(generation),
            complete_through: Seq::ZERO,
            sectors: 0,
            level: false,
        }
    }

    /// The disk after `block`.
    fn fold(mut self, block: &ChangeBlock) -> Result<Self, Violation> {
        let header = block.header();
        if header.complete_through < self.complete_through || SEQ_MAX < header.complete_through {
            return Err(Violation::Order);
        }
        let first = block.records().first().map(|record| record.seq);
        if first.is_some_and(|first| first <= self.complete_through) {
            return Err(Violation::Order);
        }
        for record in block.records() {
            match &record.change {
                Change::DiskBegin { sectors, .. } | Change::Resize { sectors } => {
                    self.sectors = *sectors;
                }
                Change::ResyncBegin { .. } => self.level = false,
                Change::ResyncComplete => self.level = true,
                change => {
                    let end = change.extent().map_or(Lba::ZERO, |extent| extent.end());
                    if self.sectors < end.sector() {
                        return Err(Violation::Range);
                    }
                }
            }
        }
        self.complete_through = header.complete_through;
        self.position = header.position();
        Ok(self)
    }
}

/// What the first block of a generation says that it builds on; `None` if it says nothing.
pub fn stated_base(block: &ChangeBlock) -> Option<Option<DiskPosition>> {
    block
        .records()
        .iter()
        .find_map(|record| match record.change {
            Change::ResyncBegin { base } => Some(base),
            _ => None,
        })
}

#[cfg(test)]
mod tests;
