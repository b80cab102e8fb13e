//! One task a machine: owns what the server holds of its disks, and decides for each block.
//!
//! ```text
//! stream tasks ──blocks──▶ machine ──taken──▶ log task
//!       ▲                    ▲  ▲                │
//!       └──marks, answers────┘  └──cached────────┤
//!                               └──committed── commit task
//! ```
//!
//! While the log takes nothing more, the machine takes no more blocks, and so no stream does. Marks
//! come in all the same, so that nobody waits for anybody in a circle.

mod disk;
mod excess;
mod outbox;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use everpoint_format::DiskPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_journal::history::MachineHistory;
use everpoint_replication::sink::{Verdict, Violation};
use everpoint_transport::{CloseReason, Link, Taken};
use everpoint_units::{DiskId, MachineId, Seq};
use everpoint_wire::{Compare, DISKS_MAX, DiskState, RefuseReason, ToAgent};
use tokio::sync::{mpsc, oneshot};

use crate::log_task::LogItem;
use crate::metrics;
use crate::shared::Shared;

pub(crate) use disk::{DiskReport, DiskSlot};
pub(crate) use excess::Excess;
pub(crate) use outbox::{Outbox, outbox};

/// How a machine hears of marks. Unbounded: each mark belongs to a block, and those are bounded.
pub(crate) type MarkSender = mpsc::UnboundedSender<Mark>;

/// Arrivals that wait for the machine's decision, at most.
const ARRIVALS_MAX: usize = 16;
/// Other requests that wait, at most.
const REQUESTS_MAX: usize = 64;

/// The way to a machine's task.
#[derive(Clone)]
pub(crate) struct MachineHandle {
    requests: mpsc::Sender<Request>,
    arrivals: mpsc::Sender<Arrived>,
    marks: MarkSender,
}

/// What came in on a disk's stream, in the stream's order.
pub(crate) struct Arrived {
    pub(crate) session: SessionId,
    pub(crate) disk: DiskId,
    pub(crate) what: Arrival,
}

/// A block that was checked and opened, and what that takes.
pub(crate) struct OpenBlock {
    pub(crate) block: ChangeBlock,
    pub(crate) digests: Vec<PieceDigest>,
    pub(crate) opened: Taken,
}

/// See [`Arrived`].
pub(crate) enum Arrival {
    /// A block, checked.
    Block(Box<OpenBlock>),
    /// A block that did not match its checksum.
    Corrupt,
    /// Which pieces differ from what the newest generation builds on?
    Compare(Compare),
}

/// Tells sessions of one machine apart; the newest counts.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct SessionId(u64);

/// A promise that was reached.
pub(crate) enum Mark {
    Cached {
        disk: DiskId,
        position: DiskPosition,
    },
    Committed {
        disk: DiskId,
        position: DiskPosition,
        complete_through: Seq,
    },
}

/// What else a machine is asked.
pub(crate) enum Request {
    /// An agent connected; an older session of the machine ends.
    Begin {
        link: Link,
        reply: oneshot::Sender<Begun>,
    },
    /// A disk's stream was opened. No answer: too many disks.
    Open {
        session: SessionId,
        disk: DiskId,
        outbox: Outbox,
        reply: oneshot::Sender<Option<DiskState>>,
    },
    /// A block that an earlier boot cached: is it part of the history still?
    Recovered {
        block: ChangeBlock,
        reply: oneshot::Sender<bool>,
    },
    /// What is committed of a disk?
    Committed {
        disk: DiskId,
        reply: oneshot::Sender<Option<DiskPosition>>,
    },
    /// Where do the disks stand?
    Report { reply: oneshot::Sender<Report> },
}

/// What a session begins with.
pub(crate) struct Begun {
    pub(crate) session: SessionId,
    pub(crate) highest_seq: Seq,
    pub(crate) disks: Vec<DiskState>,
}

/// Where a machine stands.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) connected: bool,
    pub(crate) committed_cut: Seq,
    pub(crate) disks: Vec<(DiskId, DiskReport)>,
}

struct MachineTask {
    shared: Arc<Shared>,
    machine: MachineId,
    disks: BTreeMap<DiskId, DiskSlot>,
    highest_seq: Seq,
    session: SessionId,
    link: Option<Link>,
    marks: MarkSender,
    /// Taken and not yet handed to the log.
    taken: VecDeque<LogItem>,
}

/// Starts the task of a machine that this server owns.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    machine: MachineId,
    history: MachineHistory,
) -> MachineHandle {
    let (requests, requests_rx) = mpsc::channel(REQUESTS_MAX);
    let (arrivals, arrivals_rx) = mpsc::channel(ARRIVALS_MAX);
    let (marks, marks_rx) = mpsc::unbounded_channel();
    let disks = history.disks().iter();
    let task = MachineTask {
        shared,
        machine,
        disks: disks
            .map(|(id, disk)| (*id, DiskSlot::from_history(*id, disk)))
            .collect(),
        highest_seq: history.highest_seq(),
        session: SessionId::default(),
        link: None,
        marks: marks.clone(),
        taken: VecDeque::new(),
    };
    let spawner = Arc::clone(&task.shared);
    spawner.spawn(task.run(requests_rx, arrivals_rx, marks_rx));
    MachineHandle {
        requests,
        arrivals,
        marks,
    }
}

impl MachineHandle {
    /// Asks; `None` when the task is gone or does not answer.
    pub(crate) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply)).await;
        answer.await.ok()
    }

    /// Sends a request that has no answer, or whose answer goes elsewhere.
    pub(crate) async fn tell(&self, request: Request) {
        // A task that is gone answers nothing; the caller sees that.
        let _ = self.requests.send(request).await;
    }

    /// What is committed of a disk.
    pub(crate) async fn committed_position(&self, disk: DiskId) -> Option<DiskPosition> {
        let answer = self.ask(|reply| Request::Committed { disk, reply });
        answer.await.flatten()
    }

    /// Hands over what came in; `false` when the task is gone.
    pub(crate) async fn arrived(&self, arrived: Arrived) -> bool {
        self.arrivals.send(arrived).await.is_ok()
    }

    /// Says that a promise was reached.
    pub(crate) fn mark(&self, mark: Mark) {
        // A task that is gone has nobody to tell.
        let _ = self.marks.send(mark);
    }

    /// Whether the task is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl MachineTask {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut arrivals: mpsc::Receiver<Arrived>,
        mut marks: mpsc::UnboundedReceiver<Mark>,
    ) {
        let log_items = self.shared.log_items.clone();
        loop {
            // Every arm is cancel-safe: receives and reservations that are dropped take nothing.
            tokio::select! {
                biased;
                Some(mark) = marks.recv() => self.handle_mark(mark),
                permit = log_items.reserve(), if !self.taken.is_empty() => {
                    let Ok(permit) = permit else { return };
                    permit.send(self.taken.pop_front().expect("checked above"));
                }
                request = requests.recv() => match request {
                    Some(request) => self.handle_request(request),
                    None => return,
                },
                Some(arrived) = arrivals.recv(), if self.taken.is_empty() => {
                    self.handle_arrived(arrived);
                }
            }
        }
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Begin { link, reply } => {
                let begun = self.begin(link);
                // An agent that went away meanwhile opens no streams.
                let _ = reply.send(begun);
            }
            Request::Open {
                session,
                disk,
                outbox,
                reply,
            } => {
                let state = self.open(session, disk, outbox);
                let _ = reply.send(state);
            }
            Request::Recovered { block, reply } => {
                let _ = reply.send(self.recover(&block));
            }
            Request::Committed { disk, reply } => {
                let slot = self.disks.get(&disk);
                let _ = reply.send(slot.and_then(|slot| slot.sink.committed()));
            }
            Request::Report { reply } => {
                let _ = reply.send(self.report());
            }
        }
    }

    /// A new session. The older one, if any, ends: an agent that reconnects must not wait for its
    /// own ghost to time out.
    fn begin(&mut self, link: Link) -> Begun {
        if let Some(old) = self.link.replace(link) {
            old.close(CloseReason::Superseded, "the machine connected again");
        }
        self.session = self.session.next();
        for slot in self.disks.values_mut() {
            slot.end_session();
        }
        Begun {
            session: self.session,
            highest_seq: self.highest_seq,
            disks: self
                .disks
                .iter()
                .map(|(id, slot)| slot.state(*id))
                .collect(),
        }
    }

    fn open(&mut self, session: SessionId, disk: DiskId, outbox: Outbox) -> Option<DiskState> {
        let full = DISKS_MAX <= self.disks.len() && !self.disks.contains_key(&disk);
        if session != self.session || full {
            return None;
        }
        let slot = self
            .disks
            .entry(disk)
            .or_insert_with(|| DiskSlot::new(disk));
        slot.begin_session(outbox);
        Some(slot.state(disk))
    }

    /// A disk, if the session is the newest.
    fn slot(&mut self, session: SessionId, disk: DiskId) -> Option<&mut DiskSlot> {
        let current = session == self.session;
        self.disks.get_mut(&disk).filter(|_| current)
    }

    fn handle_arrived(&mut self, arrived: Arrived) {
        let Arrived {
            session,
            disk,
            what,
        } = arrived;
        let (shared, machine) = (Arc::clone(&self.shared), self.machine);
        let Some(slot) = self.slot(session, disk) else {
            return;
        };
        let within = match what {
            Arrival::Block(open) => self.handle_block(disk, *open),
            Arrival::Corrupt => slot.refuse(RefuseReason::Corrupt),
            Arrival::Compare(compare) => slot.compare(&shared, machine, compare),
        };
        if let Err(excess) = within {
            self.close(disk, excess.reason(), &excess);
        }
    }

    fn handle_block(&mut self, disk: DiskId, open: OpenBlock) -> Result<(), Excess> {
        let OpenBlock {
            block,
            digests,
            opened,
        } = open;
        let machine = self.machine;
        let session = self.session;
        let now = self.shared.clock.now();
        let Some(slot) = self.slot(session, disk) else {
            return Ok(());
        };
        slot.tally.allows(&block, now)?;
        let verdict = if block.header().machine == machine {
            slot.sink.handle_block(&block)
        } else {
            Verdict::Violation(Violation::ForeignDisk)
        };
        match verdict {
            Verdict::Append => {
                slot.note(&block);
                slot.tally.taken(&block, now);
                metrics::received(&block);
                self.highest_seq = self.highest_seq.max(block.header().complete_through);
                self.taken.push_back(LogItem {
                    block,
                    digests,
                    opened,
                    marks: self.marks.clone(),
                });
            }
            Verdict::Duplicate => {
                slot.tally.untaken(&block)?;
                self.send_marks(disk);
            }
            Verdict::Refuse(refusal) => {
                slot.tally.untaken(&block)?;
                slot.refuse(disk::reason(refusal))?;
            }
            Verdict::Ignore => slot.tally.untaken(&block)?,
            Verdict::Violation(violation) => self.close(disk, reason_of(violation), &violation),
        }
        Ok(())
    }

    /// Ends the session of an agent that broke a rule; nothing that it sent behind that is looked at.
    fn close(&mut self, disk: DiskId, reason: CloseReason, why: &dyn std::error::Error) {
        tracing::warn!(machine = %self.machine, %disk, ?reason, %why, "the agent broke the protocol");
        self.session = self.session.next();
        if let Some(link) = self.link.take() {
            link.close(reason, &why.to_string());
        }
    }

    fn handle_mark(&mut self, mark: Mark) {
        let disk = match mark {
            Mark::Cached { disk, position } => {
                if let Some(slot) = self.disks.get_mut(&disk) {
                    slot.sink.handle_cached(position);
                }
                disk
            }
            Mark::Committed {
                disk,
                position,
                complete_through,
            } => {
                if let Some(slot) = self.disks.get_mut(&disk) {
                    slot.committed(position, complete_through);
                }
                disk
            }
        };
        self.send_marks(disk);
    }

    fn send_marks(&self, disk: DiskId) {
        let (cut, epoch) = (self.committed_cut(), self.shared.journal().level);
        if let Some(slot) = self.disks.get(&disk) {
            slot.send_marks(cut, epoch);
        }
    }

    /// The newest `Seq` up to which everything of the machine is committed.
    fn committed_cut(&self) -> Seq {
        let disks = self.disks.values().filter(|slot| slot.counts());
        disks
            .map(|slot| slot.committed_through)
            .min()
            .unwrap_or(Seq::ZERO)
    }

    /// A block of an earlier boot goes on only where it continues the path (R11).
    fn recover(&mut self, block: &ChangeBlock) -> bool {
        let header = block.header();
        let slot = self
            .disks
            .entry(header.disk)
            .or_insert_with(|| DiskSlot::new(header.disk));
        let goes_on = slot.sink.handle_block(block) == Verdict::Append;
        if goes_on {
            slot.note(block);
            slot.sink.handle_cached(header.position());
            self.highest_seq = self.highest_seq.max(header.complete_through);
        } else {
            slot.sink.handle_session();
        }
        goes_on
    }

    fn report(&self) -> Report {
        let disks = self.disks.iter();
        Report {
            connected: self.link.is_some(),
            committed_cut: self.committed_cut(),
            disks: disks.map(|(id, slot)| (*id, slot.report())).collect(),
        }
    }
}

impl SessionId {
    const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

const fn reason_of(violation: Violation) -> CloseReason {
    match violation {
        Violation::ForeignDisk => CloseReason::Authz,
        Violation::Order => CloseReason::Order,
        Violation::Range => CloseReason::Range,
        Violation::Beginning => CloseReason::Frame,
    }
}

/// Tells an agent why a block was not taken.
fn refused(reason: RefuseReason, tail: Option<DiskPosition>) -> ToAgent {
    ToAgent::Refused { reason, tail }
}
