//! One machine, as its process server decides for it: which sessions count, which blocks are taken,
//! what is promised.
//!
//! ```text
//! session begins, disk opened ──▶ what is held          (R11: the path, and the tail that continues it)
//! block came ──▶ taken, answered with marks, refused, or the connection ends
//! cached, committed ──▶ marks
//! ```
//!
//! Pure: the machine's task does the I/O in production, and the simulated world does it there. Sinks
//! decide block by block (`everpoint_replication::sink`); here is what concerns several disks and
//! sessions.

mod disk;
mod excess;

use std::collections::BTreeMap;

use everpoint_format::DiskPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_journal::history::MachineHistory;
use everpoint_marks::{planted, reached};
use everpoint_replication::sink::{Verdict, Violation};
use everpoint_transport::CloseReason;
use everpoint_units::{DiskId, Level, MachineId, Moment, Seq};
use everpoint_wire::{DISKS_MAX, DiskState, RefuseReason, Watermarks};

use crate::compare_core::Compared;
pub use disk::DiskReport;
use disk::{DiskCore, reason};
pub use excess::Excess;

/// See the module.
#[derive(Debug)]
pub struct MachineCore {
    machine: MachineId,
    disks: BTreeMap<DiskId, DiskCore>,
    highest_seq: Seq,
    session: SessionId,
}

/// Tells sessions of one machine apart; the newest counts.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct SessionId(u64);

/// What a session begins with.
#[derive(Clone, Debug)]
pub struct Begun {
    pub session: SessionId,
    pub highest_seq: Seq,
    pub disks: Vec<DiskState>,
}

/// What to do with a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockAnswer {
    /// Append it to the log.
    Append,
    /// It is here already: say the marks again.
    Marks,
    /// Say what is held; the agent goes on from there.
    Refused {
        reason: RefuseReason,
        tail: Option<DiskPosition>,
    },
    /// Nothing: it came in an older session, or its refusal is on its way.
    Nothing,
    /// Close the connection; nothing that came behind it is looked at.
    Close(Fault),
}

/// Why an agent loses its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Excess(#[from] Excess),
}

impl MachineCore {
    /// A machine whose path leads to this server's journal, as the vault has it.
    pub fn new(machine: MachineId, history: &MachineHistory) -> Self {
        let disks = history.disks().iter();
        let disks = disks.map(|(id, disk)| (*id, DiskCore::from_history(*id, disk)));
        Self {
            machine,
            disks: disks.collect(),
            highest_seq: history.highest_seq(),
            session: SessionId::default(),
        }
    }

    /// A new session. An older one, if any, counts no more: an agent that reconnects must not wait for
    /// its own ghost to time out.
    pub fn begin_session(&mut self) -> Begun {
        self.session = self.session.next();
        Begun {
            session: self.session,
            highest_seq: self.highest_seq,
            disks: self.states().collect(),
        }
    }

    /// The newest session is over: nothing more that it sent is looked at.
    pub fn end_session(&mut self) {
        self.session = self.session.next();
    }

    /// A disk's stream was opened: what is held of it. `None`: too many disks, or an older session.
    pub fn open_disk(&mut self, session: SessionId, disk: DiskId) -> Option<DiskState> {
        let full = DISKS_MAX <= self.disks.len() && !self.disks.contains_key(&disk);
        if session != self.session || full {
            return None;
        }
        let core = self
            .disks
            .entry(disk)
            .or_insert_with(|| DiskCore::new(disk));
        core.begin_session();
        Some(core.state(disk))
    }

    /// Whether what comes in this session counts.
    pub fn is_current(&self, session: SessionId) -> bool {
        session == self.session
    }

    /// A block came, with every checksum found good.
    pub fn handle_block(
        &mut self,
        session: SessionId,
        disk: DiskId,
        block: &ChangeBlock,
        now: Moment,
    ) -> BlockAnswer {
        let current = self.is_current(session);
        let Some(core) = self.disks.get_mut(&disk).filter(|_| current) else {
            reached!(BlockOfOldSession);
            return BlockAnswer::Nothing;
        };
        let judged = if block.header().machine == self.machine {
            core.judge(block, now)
        } else {
            Err(Violation::ForeignDisk.into())
        };
        match judged {
            Ok(Verdict::Append) => {
                self.highest_seq = self.highest_seq.max(block.header().complete_through);
                BlockAnswer::Append
            }
            Ok(Verdict::Duplicate) => {
                reached!(DuplicateBlock);
                BlockAnswer::Marks
            }
            Ok(Verdict::Refuse(refusal)) => self.refuse(disk, reason(refusal)),
            Ok(Verdict::Ignore) => BlockAnswer::Nothing,
            Ok(Verdict::Violation(violation)) => self.close(violation.into()),
            Err(fault) => self.close(fault),
        }
    }

    /// A block came that does not match its checksum.
    pub fn handle_corrupt(&self, session: SessionId, disk: DiskId) -> BlockAnswer {
        if self.is_current(session) && self.disks.contains_key(&disk) {
            reached!(CorruptBlock);
            self.refuse(disk, RefuseReason::Corrupt)
        } else {
            BlockAnswer::Nothing
        }
    }

    /// The agent did too much of something outside the order of its blocks.
    pub fn handle_excess(&mut self, excess: Excess) -> BlockAnswer {
        self.close(excess.into())
    }

    fn refuse(&self, disk: DiskId, reason: RefuseReason) -> BlockAnswer {
        let core = self.disks.get(&disk);
        BlockAnswer::Refused {
            reason,
            tail: core.and_then(DiskCore::held),
        }
    }

    fn close(&mut self, fault: Fault) -> BlockAnswer {
        self.end_session();
        BlockAnswer::Close(fault)
    }

    /// A block that an earlier boot cached goes on only where it continues the path (R11).
    pub fn recover(&mut self, block: &ChangeBlock) -> bool {
        let header = block.header();
        let core = self
            .disks
            .entry(header.disk)
            .or_insert_with(|| DiskCore::new(header.disk));
        let goes_on = core.recover(block);
        if goes_on {
            self.highest_seq = self.highest_seq.max(header.complete_through);
        }
        goes_on
    }

    /// A block is durable in the log.
    pub fn handle_cached(&mut self, disk: DiskId, position: DiskPosition) {
        if let Some(core) = self.disks.get_mut(&disk) {
            core.handle_cached(position);
        }
    }

    /// A block, and all of its disk before it, is committed.
    pub fn handle_committed(&mut self, disk: DiskId, position: DiskPosition, through: Seq) {
        if let Some(core) = self.disks.get_mut(&disk) {
            core.handle_committed(position, through);
        }
    }

    /// What the agent is promised of a disk; `None` while nothing is held of it.
    pub fn watermarks(&self, disk: DiskId, epoch: Level) -> Option<Watermarks> {
        let (generation, cached, committed) = self.disks.get(&disk)?.marks()?;
        Some(Watermarks {
            generation,
            cached,
            committed,
            committed_cut: self.committed_cut(),
            epoch,
        })
    }

    /// The newest `Seq` up to which everything of the machine is committed: of the disks that its cuts
    /// count, which are those whose beginning is held and whose end is not committed. Where all have left,
    /// everything is, up to the last end.
    pub fn committed_cut(&self) -> Seq {
        let disks = self.disks.values().filter(|disk| disk.counts());
        let through = disks.map(DiskCore::committed_through);
        if planted!(CutByMax) {
            return through.max().unwrap_or(Seq::ZERO);
        }
        let all = || self.disks.values().map(DiskCore::committed_through).max();
        through.min().or_else(all).unwrap_or(Seq::ZERO)
    }

    /// The disks that the machine's cuts count.
    pub fn counted(&self) -> impl Iterator<Item = DiskId> + '_ {
        let counted = self.disks.iter().filter(|(_, disk)| disk.counts());
        counted.map(|(id, _)| *id)
    }

    /// The last block of a disk that is committed.
    pub fn committed(&self, disk: DiskId) -> Option<DiskPosition> {
        self.disks.get(&disk)?.committed()
    }

    /// No change of the disk at or below this is missing in what is held.
    pub fn held_through(&self, disk: DiskId) -> Seq {
        let received = self.disks.get(&disk).and_then(DiskCore::received);
        received.map_or(Seq::ZERO, |received| received.complete_through)
    }

    /// What compares of this disk are about.
    pub fn compared(&self, session: SessionId, disk: DiskId) -> Option<Compared> {
        let current = self.is_current(session);
        let received = self.disks.get(&disk).filter(|_| current)?.received()?;
        Some(Compared {
            disk,
            generation: received.position.generation,
            sectors: received.sectors,
        })
    }

    /// Where each disk stands, for people.
    pub fn reports(&self) -> impl Iterator<Item = (DiskId, DiskReport)> + '_ {
        self.disks.iter().map(|(id, disk)| (*id, disk.report()))
    }

    /// Why a disk of the vault is taken as if nothing were held of it.
    pub fn broken(history: &MachineHistory) -> impl Iterator<Item = (DiskId, String)> + '_ {
        let disks = history.disks().iter();
        disks.filter_map(|(id, disk)| Some((*id, disk.broken.as_ref()?.to_string())))
    }

    fn states(&self) -> impl Iterator<Item = DiskState> + '_ {
        self.disks.iter().map(|(id, disk)| disk.state(*id))
    }
}

impl SessionId {
    const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Fault {
    /// What the connection is closed with.
    pub const fn reason(self) -> CloseReason {
        match self {
            Self::Excess(excess) => excess.reason(),
            Self::Violation(violation) => match violation {
                Violation::ForeignDisk => CloseReason::Authz,
                Violation::Order => CloseReason::Order,
                Violation::Range => CloseReason::Range,
                Violation::Beginning => CloseReason::Frame,
            },
        }
    }
}

#[cfg(test)]
mod tests;
