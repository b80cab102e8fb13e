//! The one task that commits: takes blocks from the backlog in log order, creates objects in the
//! vault, and says what is committed. What is decided, the core decides ([`crate::commit_core`]).

mod put;
mod rotate;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use everpoint_cache_log::{LogPosition, LogReader};
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_journal::commit::CommitLimits;
use everpoint_units::{JournalId, MachineId, ObjectNo};
use everpoint_vault::Payload;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::at_hand::ObjectAtHand;
use crate::backlog::{Cached, Next};
use crate::blocking::{blocking, outcome};
use crate::clock::wall_time;
use crate::commit_core::{CommitCore, Covers, Effect, Writer};
use crate::machine_task::{MachineHandle, Mark};
use crate::metrics;
use crate::reduce;
use crate::shared::{Ended, Shared};
use crate::tail_core::TailCore;

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
    core: CommitCore,
    puts: JoinSet<put::Done>,
    machines: BTreeMap<MachineId, MachineHandle>,
    tail: TailCore,
    reader: Option<LogReader>,
    drains: Vec<oneshot::Sender<()>>,
    /// Frozen and not committed yet, where somebody wants them then.
    in_flight: VecDeque<ObjectAtHand>,
}

impl CommitTask {
    pub(crate) fn new(shared: Arc<Shared>, limits: CommitLimits, tail: TailCore) -> Self {
        let journal = shared.journal();
        Self {
            shared,
            core: CommitCore::new(journal, limits),
            puts: JoinSet::new(),
            machines: BTreeMap::new(),
            tail,
            reader: None,
            drains: Vec::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// Commits until the server ends.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.act();
            self.answer_drains();
            let now = shared.clock.now();
            if self.core.wants_freeze(now) {
                self.freeze();
                continue;
            }
            let takes = self.core.takes();
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
        if !self.goes_on(cached.position, &cached.block).await? {
            if let Some(position) = self.core.discard(cached.position) {
                self.shared.log.free_through(position);
            }
            return Ok(());
        }
        let digests = self.digests(&mut cached).await?;
        let now = self.shared.clock.now();
        self.core.push(cached.position, &cached.block, digests, now);
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

    /// Whether the block will be committed: its machine is this server's, and it continues its path.
    async fn goes_on(&mut self, at: LogPosition, block: &ChangeBlock) -> Result<bool, Ended> {
        let header = block.header();
        if self.tail.discards(header.machine, at) {
            return Ok(false);
        }
        let machine = header.machine;
        let handle = self.machine(machine).await?;
        if !self.core.knows(header.disk) {
            let committed = handle.committed_position(header.disk).await;
            let committed = committed.ok_or(Ended::Machine { machine })?;
            self.core.handle_stands(header.disk, committed);
        }
        Ok(self.core.goes_on(block))
    }

    /// The machine's task. It runs: who has a block in the log had it taken by its task, in this boot or when
    /// the tail was taken up.
    async fn machine(&mut self, machine: MachineId) -> Result<MachineHandle, Ended> {
        if let Some(handle) = self.machines.get(&machine) {
            return Ok(handle.clone());
        }
        let loaded = self.shared.registry.loaded_one(machine).await;
        let handle = loaded.ok_or(Ended::Machine { machine })?;
        self.machines.insert(machine, handle.clone());
        Ok(handle)
    }

    /// Makes an object of the batch and begins to create it.
    fn freeze(&mut self) {
        let writer = Writer {
            vault: self.shared.header.vault,
            server: self.shared.server,
        };
        let object = self.core.freeze(writer, wall_time());
        metrics::frozen(&object);
        if self.shared.replicas.is_some() {
            self.in_flight.push_back(ObjectAtHand::of(&object));
        }
        let (journal, number) = (object.header.journal, object.header.number);
        let payload = Payload::new(object.pieces);
        let shared = Arc::clone(&self.shared);
        self.puts
            .spawn(put::create(shared, journal, number, payload));
    }

    /// Carries out what the core wants done.
    fn act(&mut self) {
        while let Some(effect) = self.core.poll() {
            match effect {
                Effect::AskForEnd { after } => {
                    let shared = Arc::clone(&self.shared);
                    let journal = self.core.journal();
                    self.puts.spawn(put::ask_for_end(shared, journal, after));
                }
                Effect::Committed { through, what } => self.committed(through, what),
            }
        }
        let waiting_since = self.core.waiting_since();
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
                let journal = self.core.journal();
                self.shared.end(Ended::Fenced { journal });
            }
            put::Done::Failed(error) => self.shared.end(Ended::Vault(error)),
            put::Done::GaveUp => self.core.handle_end_unknown(),
        }
    }

    /// Everything through this object is committed: tells the agents, frees the log.
    fn committed(&mut self, through: ObjectNo, what: Vec<Covers>) {
        let now = self.shared.clock.now();
        for covers in what {
            for (disk, committed) in covers.disks {
                if let Some(handle) = self.machines.get(&committed.machine) {
                    handle.mark(Mark::Committed {
                        disk,
                        position: committed.position,
                        complete_through: committed.complete_through,
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
        if let Some(replicas) = &self.shared.replicas {
            let covered = |object: &mut ObjectAtHand| object.number <= through;
            while let Some(object) = self.in_flight.pop_front_if(covered) {
                replicas.committed(&self.shared, object);
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

    fn answer_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let committed = self.core.hurry(self.shared.clock.now());
        if committed && self.shared.backlog.is_empty() {
            for drain in self.drains.drain(..) {
                // Who no longer waits needs no answer.
                let _ = drain.send(());
            }
        }
    }
}
