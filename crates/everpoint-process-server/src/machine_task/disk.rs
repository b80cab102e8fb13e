//! One disk, as its machine's task holds it.

use std::sync::Arc;

use everpoint_format::change::ChangeBlock;
use everpoint_format::{Change, DiskPosition};
use everpoint_journal::history::DiskHistory;
use everpoint_replication::sink::{Received, Refusal, Sink};
use everpoint_units::{BlockNo, DiskId, GenerationId, Level, MachineId, Seq};
use everpoint_wire::{Compare, DiskState, RefuseReason, ToAgent, Watermarks};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;

use super::excess::{Excess, Tally};
use super::outbox::Outbox;
use super::refused;
use crate::compare::{self, CompareSender};
use crate::shared::Shared;

/// See the module.
pub(crate) struct DiskSlot {
    pub(crate) sink: Sink,
    pub(crate) committed_through: Seq,
    pub(crate) tally: Tally,
    name: String,
    begun: bool,
    ended: bool,
    outbox: Option<Outbox>,
    compare: Option<(GenerationId, CompareSender)>,
    /// The newest generation of which something is committed.
    committed_generation: watch::Sender<Option<GenerationId>>,
}

/// Where a disk stands, for people.
#[derive(Debug)]
pub(crate) struct DiskReport {
    pub(crate) name: String,
    pub(crate) sectors: u64,
    pub(crate) level: bool,
    pub(crate) generation: GenerationId,
    pub(crate) cached: BlockNo,
    pub(crate) committed: BlockNo,
    pub(crate) complete_through: Seq,
}

impl DiskSlot {
    /// A disk that nothing is held of.
    pub(crate) fn new(disk: DiskId) -> Self {
        Self {
            sink: Sink::new(disk),
            committed_through: Seq::ZERO,
            tally: Tally::new(),
            name: String::new(),
            begun: false,
            ended: false,
            outbox: None,
            compare: None,
            committed_generation: watch::Sender::new(None),
        }
    }

    /// A disk as the vault has it. One whose history is broken begins again: what the vault holds of
    /// it cannot be built on.
    pub(crate) fn from_history(id: DiskId, disk: &DiskHistory) -> Self {
        if let Some(broken) = &disk.broken {
            tracing::error!(disk = %id, %broken, "the disk's history is damaged; it begins again");
            return Self::new(id);
        }
        let sink = Sink::resume(
            id,
            Received {
                position: disk.position,
                complete_through: disk.complete_through,
                sectors: disk.sectors,
                level: disk.is_level(),
            },
        );
        Self {
            sink,
            committed_through: disk.complete_through,
            name: disk.name.clone(),
            begun: true,
            ended: disk.ended.is_some(),
            committed_generation: watch::Sender::new(Some(disk.position.generation)),
            ..Self::new(id)
        }
    }

    /// Whether the machine's cuts count this disk.
    pub(crate) const fn counts(&self) -> bool {
        self.begun && !self.ended
    }

    /// A block was taken: notes what the machine's task wants to know of it.
    pub(crate) fn note(&mut self, block: &ChangeBlock) {
        for record in block.records() {
            match &record.change {
                Change::DiskBegin { name, .. } => {
                    self.name = name.to_string();
                    self.begun = true;
                    self.ended = false;
                }
                Change::DiskEnd => self.ended = true,
                _ => (),
            }
        }
    }

    pub(crate) fn begin_session(&mut self, outbox: Outbox) {
        self.sink.handle_session();
        self.tally.handle_session();
        self.outbox = Some(outbox);
        self.compare = None;
    }

    pub(crate) fn end_session(&mut self) {
        self.outbox = None;
        self.compare = None;
    }

    /// What the agent is told of this disk.
    pub(crate) fn state(&self, disk: DiskId) -> DiskState {
        let received = self.sink.received();
        DiskState {
            disk,
            committed: self.sink.committed(),
            cached: received.map(|received| received.position),
            complete_through: received.map_or(Seq::ZERO, |received| received.complete_through),
            level: received.is_some_and(|received| received.level),
        }
    }

    /// Something of this disk was committed.
    pub(crate) fn committed(&mut self, position: DiskPosition, complete_through: Seq) {
        self.sink.handle_committed(position);
        self.committed_through = self.committed_through.max(complete_through);
        self.committed_generation
            .send_replace(Some(position.generation));
    }

    /// Sends the newest marks to the agent, if it is there.
    pub(crate) fn send_marks(&self, committed_cut: Seq, epoch: Level) {
        let marks = self.outbox.as_ref().zip(self.sink.marks());
        if let Some((outbox, (generation, cached, committed))) = marks {
            outbox.marks(Watermarks {
                generation,
                cached,
                committed,
                committed_cut,
                epoch,
            });
        }
    }

    /// Tells the agent what is held, because a block was not taken.
    pub(crate) fn refuse(&mut self, reason: RefuseReason) -> Result<(), Excess> {
        let tail = self.sink.received().map(|received| received.position);
        self.answer(refused(reason, tail))
    }

    /// Answers a compare, in a task of its own.
    pub(crate) fn compare(
        &mut self,
        shared: &Arc<Shared>,
        machine: MachineId,
        compare: Compare,
    ) -> Result<(), Excess> {
        let Some(received) = self.sink.received() else {
            return Ok(());
        };
        let generation = received.position.generation;
        let Some(outbox) = &self.outbox else {
            return Ok(());
        };
        let known = self.compare.as_ref().filter(|(of, _)| *of == generation);
        let sender = match known {
            Some((_, sender)) => sender.clone(),
            None => {
                let order = compare::Order {
                    machine,
                    disk: self.sink.disk(),
                    generation,
                    sectors: received.sectors,
                };
                let committed = self.committed_generation.subscribe();
                let sender = compare::spawn(Arc::clone(shared), order, committed, outbox.answers());
                self.compare = Some((generation, sender.clone()));
                sender
            }
        };
        match sender.try_send(compare) {
            // One that ended was of a stream that ended.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Excess::Compares),
        }
    }

    fn answer(&mut self, answer: ToAgent) -> Result<(), Excess> {
        match &self.outbox {
            Some(outbox) if !outbox.answer(answer) => Err(Excess::Answers),
            _ => Ok(()),
        }
    }

    pub(crate) fn report(&self) -> DiskReport {
        let received = self.sink.received();
        let (generation, cached, committed) =
            self.sink
                .marks()
                .unwrap_or((GenerationId([0; 16]), BlockNo::ZERO, BlockNo::ZERO));
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
pub(crate) const fn reason(refusal: Refusal) -> RefuseReason {
    match refusal {
        Refusal::Gap => RefuseReason::Gap,
        Refusal::Stale => RefuseReason::Stale,
        Refusal::WrongBase => RefuseReason::WrongBase,
    }
}
