//! The one task that commits: takes blocks from the backlog in log order, freezes objects, creates
//! them in the vault, and says what is committed. What to do when is decided by the core
//! (`everpoint_journal::commit`).

mod put;
mod rotate;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use everpoint_cache_log::{LogPosition, LogReader};
use everpoint_format::DiskPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::data::DataBuilder;
use everpoint_format::digest::PieceDigest;
use everpoint_format::object::{ObjectChecksum, ObjectHeader};
use everpoint_journal::commit::{Action, Commit, CommitLimits};
use everpoint_replication::sink::stated_base;
use everpoint_units::{DiskId, JournalId, MachineId, Moment, ObjectNo, Seq};
use everpoint_vault::Payload;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::backlog::{Cached, Next};
use crate::blocking::{blocking, outcome};
use crate::clock::wall_time;
use crate::machine_task::{MachineHandle, Mark};
use crate::metrics;
use crate::reduce;
use crate::shared::{Ended, Shared};

/// What others want of the commit.
pub(crate) enum Command {
    /// Commit what is there now; answered when nothing waits any more.
    Drain { reply: oneshot::Sender<()> },
    /// Go on in a new journal whose level is above `level`.
    RotateAbove {
        level: everpoint_units::Level,
        reply: oneshot::Sender<Result<JournalId, RotateError>>,
    },
}

pub(crate) use rotate::RotateError;

/// See the module.
pub(crate) struct CommitTask {
    shared: Arc<Shared>,
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
    puts: JoinSet<put::Done>,
    /// Where each disk's commits stand: what the next block has to continue.
    stands: HashMap<DiskId, DiskPosition>,
    machines: HashMap<MachineId, Option<MachineHandle>>,
    reader: Option<LogReader>,
    drains: Vec<oneshot::Sender<()>>,
}

/// What an object covers: marks for its disks, and how far the log is settled with it.
#[derive(Debug, Default)]
struct Covers {
    through: Option<LogPosition>,
    disks: HashMap<DiskId, (MachineId, DiskPosition, Seq)>,
    /// When its oldest block joined.
    since: Option<Moment>,
}

impl CommitTask {
    pub(crate) fn new(shared: Arc<Shared>, limits: CommitLimits) -> Self {
        let journal = shared.journal();
        Self {
            shared,
            core: Commit::new(limits),
            limits,
            journal,
            builder: DataBuilder::default(),
            covers: Covers::default(),
            batch_len: 0,
            previous: ObjectChecksum::default(),
            in_flight: VecDeque::new(),
            puts: JoinSet::new(),
            stands: HashMap::new(),
            machines: HashMap::new(),
            reader: None,
            drains: Vec::new(),
        }
    }

    /// Commits until the server ends.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.act();
            self.answer_drains();
            let now = shared.clock.now();
            if self.core.wants_freeze(now) && !self.builder.is_empty() {
                self.freeze();
                continue;
            }
            let takes = self.batch_len < self.limits.object_len_target && !self.core.is_fenced();
            let timeout = self.core.poll_timeout();
            // Every arm is cancel-safe: `next` only looks, joins and receives take nothing when
            // dropped.
            tokio::select! {
                biased;
                Some(done) = self.puts.join_next() => {
                    let done = outcome(done).await;
                    self.handle_done(done);
                }
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command).await,
                    None => return,
                },
                _ = shared.ended() => return,
                next = shared.backlog.next(), if takes => {
                    if let Err(ended) = self.take(next).await {
                        shared.end(ended);
                        return;
                    }
                }
                () = shared.clock.sleep_until(timeout) => (),
            }
        }
    }

    /// Takes one block from the backlog into the batch.
    async fn take(&mut self, next: Next) -> Result<(), Ended> {
        let mut cached = match next {
            Next::Block(cached) => *cached,
            Next::ReadAgain { from } => match self.read_again(from).await? {
                Some(cached) => cached,
                None => return Ok(()),
            },
        };
        let header = *cached.block.header();
        self.covers.through = Some(cached.position);
        if !self.goes_on(&cached.block).await {
            // Nothing will be committed for it, and its place in the log is settled with what is
            // committed next, or now if nothing is.
            if self.builder.is_empty() && self.in_flight.is_empty() {
                self.shared.log.free_through(cached.position);
            }
            return Ok(());
        }
        let digests = self.digests(&mut cached).await?;
        let now = self.shared.clock.now();
        self.builder.push(&cached.block, digests);
        self.covers.since.get_or_insert(now);
        self.covers.disks.insert(
            header.disk,
            (header.machine, header.position(), header.complete_through),
        );
        self.stands.insert(header.disk, header.position());
        // Records count too: many tiny blocks make a long index.
        let len = (header.encoded_len() + header.opened_len()) as u64;
        self.batch_len += len;
        self.core.handle_block(now, len, true);
        Ok(())
    }

    async fn digests(&self, cached: &mut Cached) -> Result<Vec<PieceDigest>, Ended> {
        if let Some(digests) = cached.digests.take() {
            return Ok(digests);
        }
        let (key, block) = (self.shared.header.digest_key, cached.block.clone());
        let made = blocking(move || reduce::digests(&key, &block)).await;
        made.map_err(Ended::Block)
    }

    /// Reads a block whose bytes were dropped, or that an earlier boot cached. `None` where nothing
    /// is left to read.
    async fn read_again(&mut self, from: LogPosition) -> Result<Option<Cached>, Ended> {
        let reader = self.reader.take();
        let mut reader = reader.unwrap_or_else(|| self.shared.log.reader(from));
        let read = move || {
            let record = reader.next_record();
            (reader, record)
        };
        let (reader, record) = blocking(read).await;
        let Some(record) = record.map_err(Ended::LogRead)? else {
            // Dropped blocks are synced before they are dropped, so they are there to be read.
            tracing::error!(%from, "the cache log ends before a block that it holds");
            return Ok(None);
        };
        let len = record.payload.len();
        // A budget of its own: what comes in may hold all of the other one until the log has room,
        // and the log has room only when something is committed.
        let memory = self.shared.commit_budget.take(len).await;
        let payload = memory
            .expect("the commit's budget holds every object under way and a block more")
            .charge(record.payload);
        if !self.shared.backlog.read_again(record.position, len) {
            self.reader = Some(reader);
        }
        let block = ChangeBlock::decode(payload).map_err(Ended::Block)?;
        Ok(Some(Cached {
            position: record.position,
            block,
            digests: None,
        }))
    }

    /// Whether the block continues its disk's path (R11). What was cached in this boot always does;
    /// what an earlier boot cached may have been overtaken.
    async fn goes_on(&mut self, block: &ChangeBlock) -> bool {
        let header = block.header();
        let Some(machine) = self.machine(header.machine).await else {
            return false;
        };
        if !self.stands.contains_key(&header.disk)
            && let Some(position) = machine.committed_position(header.disk).await
        {
            self.stands.insert(header.disk, position);
        }
        let stands = self.stands.get(&header.disk).copied();
        let begins = header.block_no == everpoint_units::BlockNo::ZERO.next();
        let continues = stands == Some(header.position_before());
        continues || (begins && stated_base(block) == Some(stands))
    }

    /// The machine's task; `None` for a machine that this server does not own. The vault is asked once
    /// a machine: blocks of machines that became this server's later come through their tasks.
    async fn machine(&mut self, machine: MachineId) -> Option<MachineHandle> {
        let unknown = !matches!(self.machines.get(&machine), Some(Some(_)));
        if unknown && let Some(handle) = self.shared.registry.loaded_one(machine) {
            self.machines.insert(machine, Some(handle));
        }
        if !self.machines.contains_key(&machine) {
            let found = self.shared.registry.machine(&self.shared, machine).await;
            let handle = found
                .inspect_err(|why| {
                    tracing::info!(%machine, %why, "blocks of an earlier boot are discarded");
                })
                .ok();
            self.machines.insert(machine, handle);
        }
        self.machines.get(&machine).cloned().flatten()
    }

    /// Makes an object of the batch and begins to create it.
    fn freeze(&mut self) {
        let number = self.core.handle_frozen();
        let covers = std::mem::take(&mut self.covers);
        self.batch_len = 0;
        let object = std::mem::take(&mut self.builder).freeze(ObjectHeader {
            vault: self.shared.header.vault,
            journal: self.journal,
            number,
            server: self.shared.server,
            assignment: 0,
            previous: self.previous,
            created_at: wall_time(),
        });
        self.previous = object.checksum;
        metrics::frozen(&object);
        self.in_flight.push_back((number, covers));
        let payload = Payload::new(object.pieces);
        let shared = Arc::clone(&self.shared);
        let journal = self.journal;
        self.puts
            .spawn(put::create(shared, journal, number, payload));
    }

    /// Carries out what the core wants done.
    fn act(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::AskForEnd { after } => {
                    let shared = Arc::clone(&self.shared);
                    self.puts
                        .spawn(put::ask_for_end(shared, self.journal, after));
                }
                Action::Committed { through } => self.committed(through),
            }
        }
        let oldest = self.in_flight.front().map(|(_, covers)| covers.since);
        let waiting_since = oldest.unwrap_or(self.covers.since);
        self.shared.progress.send_if_modified(|progress| {
            let moved = progress.waiting_since != waiting_since;
            progress.waiting_since = waiting_since;
            moved
        });
    }

    fn handle_done(&mut self, done: put::Done) {
        match done {
            put::Done::Stored(number) => self.core.handle_stored(number),
            put::Done::EndAbsent(after) => self.core.handle_end_absent(after),
            put::Done::Fenced => {
                self.core.handle_fenced();
                self.shared.end(Ended::Fenced {
                    journal: self.journal,
                });
            }
            put::Done::Failed(error) => self.shared.end(Ended::Vault(error)),
            put::Done::GaveUp => self.core.handle_end_unknown(),
        }
    }

    /// Everything through this object is committed: tells the agents, frees the log.
    fn committed(&mut self, through: ObjectNo) {
        let now = self.shared.clock.now();
        while let Some((number, _)) = self.in_flight.front()
            && *number <= through
        {
            let (_, covers) = self.in_flight.pop_front().expect("looked at above");
            for (disk, (machine, position, complete_through)) in covers.disks {
                if let Some(Some(handle)) = self.machines.get(&machine) {
                    handle.mark(Mark::Committed {
                        disk,
                        position,
                        complete_through,
                    });
                }
            }
            if let Some(position) = covers.through {
                self.shared.log.free_through(position);
            }
            if let Some(since) = covers.since {
                metrics::committed(now.since(since));
            }
        }
        self.shared
            .progress
            .send_modify(|progress| progress.committed = through);
    }

    async fn handle_command(&mut self, command: Command) {
        match command {
            Command::Drain { reply } => self.drains.push(reply),
            Command::RotateAbove { level, reply } => {
                let rotated = self.rotate_above(level).await;
                // Whoever asked may be gone; the journal is the new one all the same.
                let _ = reply.send(rotated);
            }
        }
    }

    /// While somebody waits for everything to be committed, nothing waits for company.
    fn answer_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let empty = self.builder.is_empty() && self.shared.backlog.is_empty();
        if empty && self.core.committed() == self.last_frozen() {
            for drain in self.drains.drain(..) {
                // Who no longer waits needs no answer.
                let _ = drain.send(());
            }
        } else if !self.builder.is_empty() {
            self.core.handle_hurry(self.shared.clock.now());
        }
    }

    fn last_frozen(&self) -> ObjectNo {
        let last = self.in_flight.back().map(|(number, _)| *number);
        last.unwrap_or_else(|| self.core.committed())
    }
}
