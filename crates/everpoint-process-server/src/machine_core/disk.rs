//! One disk, as its machine's core holds it.

use everpoint_format::change::ChangeBlock;
use everpoint_format::{Change, DiskPosition};
use everpoint_journal::history::DiskHistory;
use everpoint_marks::{planted, reached};
use everpoint_replication::sink::{Received, Refusal, Sink, Verdict};
use everpoint_units::{BlockNo, DiskId, GenerationId, Moment, Seq};
use everpoint_wire::{DiskState, RefuseReason};

use super::Fault;
use super::excess::Tally;

/// See the module.
#[derive(Debug)]
pub(super) struct DiskCore {
    sink: Sink,
    committed_through: Seq,
    tally: Tally,
    name: String,
    part: Part,
}

/// Whether the disk is one of the machine's: its cuts count those, and no others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// Nothing is held of it, or it left.
    None,
    Taken,
    /// Its end is held, in this block, and not committed: until then it counts.
    Leaves(DiskPosition),
}

/// Where a disk stands, for people.
#[derive(Clone, Debug)]
pub struct DiskReport {
    pub name: String,
    /// Unit: sectors.
    pub sectors: u64,
    pub level: bool,
    pub generation: GenerationId,
    pub cached: BlockNo,
    pub committed: BlockNo,
    pub complete_through: Seq,
}

impl DiskCore {
    /// A disk that nothing is held of.
    pub(super) const fn new(disk: DiskId) -> Self {
        Self {
            sink: Sink::new(disk),
            committed_through: Seq::ZERO,
            tally: Tally::new(),
            name: String::new(),
            part: Part::None,
        }
    }

    /// A disk as the vault has it. One whose history is broken begins again: what the vault holds of
    /// it cannot be built on.
    pub(super) fn from_history(id: DiskId, disk: &DiskHistory) -> Self {
        if disk.broken.is_some() {
            return Self::new(id);
        }
        let received = Received {
            position: disk.position,
            complete_through: disk.complete_through,
            sectors: disk.sectors,
            level: disk.is_level(),
        };
        Self {
            sink: Sink::resume(id, received),
            committed_through: disk.complete_through,
            name: disk.name.clone(),
            part: match disk.has_ended() {
                true => Part::None,
                false => Part::Taken,
            },
            ..Self::new(id)
        }
    }

    /// Whether the machine's cuts count this disk.
    pub(super) const fn counts(&self) -> bool {
        !matches!(self.part, Part::None)
    }

    pub(super) fn begin_session(&mut self) {
        self.sink.handle_session();
        self.tally.handle_session();
    }

    /// Decides about a block of this machine.
    pub(super) fn judge(&mut self, block: &ChangeBlock, now: Moment) -> Result<Verdict, Fault> {
        self.tally.allows(block, now)?;
        let verdict = self.sink.handle_block(block);
        match verdict {
            Verdict::Append => {
                self.note(block);
                self.tally.taken(block, now);
            }
            Verdict::Duplicate | Verdict::Refuse(_) | Verdict::Ignore => {
                self.tally.untaken(block)?;
            }
            Verdict::Violation(_) => (),
        }
        Ok(verdict)
    }

    /// Takes a block of an earlier boot, which is durable already, if it goes on.
    pub(super) fn recover(&mut self, block: &ChangeBlock) -> bool {
        let goes_on = self.sink.handle_block(block) == Verdict::Append;
        if goes_on {
            reached!(TailContinued);
            self.note(block);
            self.sink.handle_cached(block.header().position());
        } else {
            reached!(TailOvertaken);
            self.sink.handle_session();
        }
        goes_on
    }

    fn note(&mut self, block: &ChangeBlock) {
        for record in block.records() {
            match &record.change {
                Change::DiskBegin { name, .. } => {
                    self.name = name.to_string();
                    self.part = Part::Taken;
                }
                // A disk that left, and that is still held, comes back with a generation that builds on that.
                Change::ResyncBegin { .. } => self.part = Part::Taken,
                Change::DiskEnd => self.part = Part::Leaves(block.header().position()),
                _ => (),
            }
        }
    }

    pub(super) fn handle_cached(&mut self, position: DiskPosition) {
        self.sink.handle_cached(position);
    }

    pub(super) fn handle_committed(&mut self, position: DiskPosition, through: Seq) {
        self.sink.handle_committed(position);
        if let Part::Leaves(at) = self.part
            && at.generation == position.generation
            && at.block_no <= position.block_no
        {
            self.part = Part::None;
        }
        let through = match self.sink.received() {
            Some(received) if planted!(CutOfReceived) => received.complete_through,
            _ => through,
        };
        self.committed_through = self.committed_through.max(through);
    }

    pub(super) const fn received(&self) -> Option<Received> {
        self.sink.received()
    }

    /// The last block taken.
    pub(super) fn held(&self) -> Option<DiskPosition> {
        self.sink.received().map(|received| received.position)
    }

    pub(super) const fn committed(&self) -> Option<DiskPosition> {
        self.sink.committed()
    }

    pub(super) const fn committed_through(&self) -> Seq {
        self.committed_through
    }

    pub(super) fn marks(&self) -> Option<(GenerationId, BlockNo, BlockNo)> {
        self.sink.marks()
    }

    /// What the agent is told of this disk: as cached, only what the log has synced. An agent lets go of
    /// what is cached; what is still on its way to the log it sends again, and hears that it is there.
    pub(super) fn state(&self, disk: DiskId) -> DiskState {
        let received = self.sink.received();
        let cached = match planted!(CachedAtHello) {
            true => self.held(),
            false => self.sink.cached(),
        };
        DiskState {
            disk,
            committed: self.sink.committed(),
            cached,
            complete_through: received.map_or(Seq::ZERO, |received| received.complete_through),
            level: received.is_some_and(|received| received.level),
        }
    }

    pub(super) fn report(&self) -> DiskReport {
        let received = self.sink.received();
        let nothing = (GenerationId([0; 16]), BlockNo::ZERO, BlockNo::ZERO);
        let (generation, cached, committed) = self.sink.marks().unwrap_or(nothing);
        DiskReport {
            name: self.name.clone(),
            sectors: received.map_or(0, |received| received.sectors),
            level: received.is_some_and(|received| received.level),
            generation,
            cached,
            committed,
            complete_through: self.committed_through,
        }
    }
}

/// The wire's word for a refusal.
pub(super) const fn reason(refusal: Refusal) -> RefuseReason {
    match refusal {
        Refusal::Gap => RefuseReason::Gap,
        Refusal::Stale => RefuseReason::Stale,
        Refusal::WrongBase => RefuseReason::WrongBase,
    }
}
