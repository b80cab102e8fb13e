//! What is committed, in which object, and what follows from it: which cached blocks go on, what a
//! batch covers, whom to tell, how far the log is settled.
//!
//! ```text
//! cached block ──goes on?──▶ batch ──freeze──▶ object n … created ──▶ committed ──▶ marks, log freed
//!        └─ no: its place in the log is settled with what is committed next
//! ```
//!
//! Pure. When to freeze and how far `committed` reaches is `everpoint_journal::commit`; here is what
//! the objects hold. Everything goes in log order, so that settling up to a block settles all before it.

use std::collections::{BTreeMap, VecDeque};

use everpoint_cache_log::LogPosition;
use everpoint_format::DiskPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::data::{DataBuilder, DataObject};
use everpoint_format::digest::PieceDigest;
use everpoint_format::object::{ObjectChecksum, ObjectHeader, Seal};
use everpoint_journal::commit::{Action, Commit, CommitLimits};
use everpoint_marks::{planted, reached};
use everpoint_replication::sink::stated_base;
use everpoint_units::{
    BlockNo, DiskId, JournalId, MachineId, Moment, ObjectNo, Seq, ServerId, VaultId, WallTime,
};

/// See the module.
#[derive(Debug)]
pub struct CommitCore {
    core: Commit,
    limits: CommitLimits,
    journal: JournalId,
    builder: DataBuilder,
    /// What the batch covers.
    covers: Covers,
    /// What the batch has of blocks, records and all. Unit: bytes.
    batch_len: u64,
    /// Checksum of the last frozen object.
    previous: ObjectChecksum,
    in_flight: VecDeque<(ObjectNo, Covers)>,
    /// Where each disk's commits stand: what the next block has to continue.
    stands: BTreeMap<DiskId, Option<DiskPosition>>,
}

/// What an object covers: marks for its disks, and how far the log is settled with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Covers {
    /// Everything in the log through this is settled.
    pub through: Option<LogPosition>,
    /// The newest block of each disk.
    pub disks: BTreeMap<DiskId, CommittedDisk>,
    /// When its oldest block joined.
    pub since: Option<Moment>,
}

/// What is committed of one disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommittedDisk {
    pub machine: MachineId,
    pub position: DiskPosition,
    pub complete_through: Seq,
}

/// Who writes the objects.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub vault: VaultId,
    pub server: ServerId,
}

/// What the driver does next.
#[derive(Debug)]
pub enum Effect {
    /// Ask whether the journal's `end` is there; answer with [`CommitCore::handle_end_absent`],
    /// [`CommitCore::handle_end_unknown`] or [`CommitCore::handle_fenced`].
    AskForEnd { after: ObjectNo },
    /// These are committed: tell the agents, free the log.
    Committed {
        through: ObjectNo,
        what: Vec<Covers>,
    },
}

impl CommitCore {
    /// Nothing is written in `journal` yet.
    pub fn new(journal: JournalId, limits: CommitLimits) -> Self {
        Self {
            core: Commit::new(limits),
            limits,
            journal,
            builder: DataBuilder::default(),
            covers: Covers::default(),
            batch_len: 0,
            previous: ObjectChecksum::default(),
            in_flight: VecDeque::new(),
            stands: BTreeMap::new(),
        }
    }

    /// The journal that is written.
    pub const fn journal(&self) -> JournalId {
        self.journal
    }

    /// Whether another block may join the batch.
    pub const fn takes(&self) -> bool {
        self.batch_len < self.limits.object_len_target && !self.core.is_fenced()
    }

    /// Whether it is known where the commits of a disk stand; if not, [`Self::handle_stands`] first.
    pub fn knows(&self, disk: DiskId) -> bool {
        self.stands.contains_key(&disk)
    }

    /// Where the commits of a disk stand, as its machine has it.
    pub fn handle_stands(&mut self, disk: DiskId, committed: Option<DiskPosition>) {
        self.stands.entry(disk).or_insert(committed);
    }

    /// Whether the block continues its disk's path (R11). What was cached in this boot always does;
    /// what an earlier boot cached may have been overtaken.
    pub fn goes_on(&self, block: &ChangeBlock) -> bool {
        if planted!(OvertakenTailCommitted) {
            return true;
        }
        let header = block.header();
        let stands = self.stands.get(&header.disk).copied().flatten();
        let begins = header.block_no == BlockNo::ZERO.next();
        let continues = stands == Some(header.position_before());
        continues || (begins && stated_base(block) == Some(stands))
    }

    /// A block that goes on joins the batch, with the digests of its data records.
    pub fn push(
        &mut self,
        at: LogPosition,
        block: &ChangeBlock,
        digests: Vec<PieceDigest>,
        now: Moment,
    ) {
        let header = block.header();
        self.builder.push(block, digests);
        self.covers.through = Some(at);
        self.covers.since.get_or_insert(now);
        let committed = CommittedDisk {
            machine: header.machine,
            position: header.position(),
            complete_through: header.complete_through,
        };
        self.covers.disks.insert(header.disk, committed);
        self.stands.insert(header.disk, Some(header.position()));
        // Records count too: many tiny blocks make a long index.
        let len = (header.encoded_len() + header.opened_len()) as u64;
        self.batch_len += len;
        self.core.handle_block(now, len, true);
    }

    /// A block leads nowhere: nothing will be committed for it. Its place in the log is settled with
    /// what is committed next, or now if nothing is: then this returns it.
    #[must_use = "the log is to be freed through it"]
    pub fn discard(&mut self, at: LogPosition) -> Option<LogPosition> {
        reached!(TailDiscarded);
        self.covers.through = Some(at);
        let waits = !self.builder.is_empty() || !self.in_flight.is_empty();
        (!waits).then_some(at)
    }

    /// Whether the batch should be frozen now.
    pub fn wants_freeze(&self, now: Moment) -> bool {
        self.core.wants_freeze(now) && !self.builder.is_empty()
    }

    /// When [`Self::wants_freeze`] changes by time alone.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.core.poll_timeout()
    }

    /// Makes an object of the batch, to be created under its own number: the same bytes at every
    /// attempt (R9).
    ///
    /// # Panics
    ///
    /// If that was not wanted.
    pub fn freeze(&mut self, writer: Writer, created_at: WallTime) -> DataObject {
        let number = self.core.handle_frozen();
        let covers = std::mem::take(&mut self.covers);
        self.batch_len = 0;
        let object = std::mem::take(&mut self.builder).freeze(ObjectHeader {
            vault: writer.vault,
            journal: self.journal,
            number,
            server: writer.server,
            assignment: 0,
            previous: self.previous,
            created_at,
        });
        self.previous = object.checksum;
        self.in_flight.push_back((number, covers));
        object
    }

    /// The create of an object succeeded, or found the same bytes.
    pub fn handle_stored(&mut self, number: ObjectNo) {
        self.core.handle_stored(number);
    }

    /// `end` was asked for after `after` was stored, and is not there.
    pub fn handle_end_absent(&mut self, after: ObjectNo) {
        self.core.handle_end_absent(after);
    }

    /// The question for `end` got no answer; it will be asked again.
    pub fn handle_end_unknown(&mut self) {
        self.core.handle_end_unknown();
    }

    /// Other bytes, a seal or `end` were found: this journal is over, for ever.
    pub fn handle_fenced(&mut self) {
        self.core.handle_fenced();
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn poll(&mut self) -> Option<Effect> {
        match self.core.poll_action()? {
            Action::AskForEnd { after } => Some(Effect::AskForEnd { after }),
            Action::Committed { through } => {
                let covered = |(number, _): &(ObjectNo, Covers)| *number <= through;
                let count = self.in_flight.iter().take_while(|object| covered(object));
                let count = count.count();
                let what = self.in_flight.drain(..count);
                let mut what: Vec<Covers> = what.map(|(_, covers)| covers).collect();
                if planted!(FreesInFlight)
                    && let (Some(covers), Some((_, later))) =
                        (what.last_mut(), self.in_flight.back())
                {
                    covers.through = later.through;
                }
                Some(Effect::Committed { through, what })
            }
        }
    }

    /// Since when the oldest change waits for its commit.
    pub fn waiting_since(&self) -> Option<Moment> {
        let oldest = self.in_flight.front().map(|(_, covers)| covers.since);
        oldest.unwrap_or(self.covers.since)
    }

    /// Whether the journal is over.
    pub const fn is_fenced(&self) -> bool {
        self.core.is_fenced()
    }

    /// Whether no object is on its way.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether a seal of this journal states all that this boot wrote, and no more.
    pub fn wrote_all_of(&self, seal: &Seal) -> bool {
        let owned = seal.prefix_end == self.core.committed() && seal.last_checksum == self.previous;
        if owned {
            reached!(RotationOwned);
        }
        owned
    }

    /// Whether everything that joined is committed. While somebody waits for that, nothing waits for
    /// company: what is left is frozen as soon as may be.
    pub fn hurry(&mut self, now: Moment) -> bool {
        if self.builder.is_empty() {
            return self.is_settled();
        }
        self.core.handle_hurry(now);
        false
    }

    /// Goes on in a new journal: the old one is sealed, by this server, naming it. What is in the
    /// batch goes into the new one (R6: its seal is this server's own, so the path leads there).
    ///
    /// # Panics
    ///
    /// If objects are on their way, or the level does not rise.
    pub fn begin_journal(&mut self, successor: JournalId, now: Moment) {
        assert!(self.is_settled(), "every frozen object is committed first");
        assert!(self.journal.level < successor.level, "levels rise (R2)");
        self.journal = successor;
        self.core = Commit::new(self.limits);
        if !planted!(ChainCarriedOver) {
            self.previous = ObjectChecksum::default();
        }
        if planted!(BatchLostAtRotation) {
            self.builder = DataBuilder::default();
            self.covers = Covers::default();
            self.batch_len = 0;
        }
        if !self.builder.is_empty() {
            reached!(BatchCarriedOver);
            self.core.handle_block(now, self.batch_len, true);
        }
    }
}

#[cfg(test)]
mod tests;
