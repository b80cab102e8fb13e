//! One task a machine: the shell round its core ([`crate::machine_core`]), which decides for each
//! block.
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
mod outbox;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use everpoint_format::DiskPosition;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_journal::history::MachineHistory;
use everpoint_transport::{CloseReason, Link, Taken};
use everpoint_units::{DiskId, MachineId, Seq};
use everpoint_wire::{Compare, DiskState, ToAgent};
use tokio::sync::{mpsc, oneshot};

use crate::log_task::LogItem;
use crate::machine_core::{Begun, BlockAnswer, DiskReport, Fault, MachineCore, SessionId};
use crate::metrics;
use crate::shared::Shared;

use disk::DiskWays;
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
    /// A session's connection ended.
    End { session: SessionId },
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
    core: MachineCore,
    disks: BTreeMap<DiskId, DiskWays>,
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
    for (disk, broken) in MachineCore::broken(&history) {
        tracing::error!(%disk, broken, "the disk's history is damaged; it begins again");
    }
    let task = MachineTask {
        shared,
        machine,
        core: MachineCore::new(machine, &history),
        disks: BTreeMap::new(),
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

    /// What is committed of a disk, if anything is; no answer when the task is gone, which says nothing of that.
    pub(crate) async fn committed_position(&self, disk: DiskId) -> Option<Option<DiskPosition>> {
        self.ask(|reply| Request::Committed { disk, reply }).await
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
            Request::End { session } => self.end(session),
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
                let _ = reply.send(self.core.recover(&block));
            }
            Request::Committed { disk, reply } => {
                let _ = reply.send(self.core.committed(disk));
            }
            Request::Report { reply } => {
                let _ = reply.send(self.report());
            }
        }
    }

    fn begin(&mut self, link: Link) -> Begun {
        if let Some(old) = self.link.replace(link) {
            old.close(CloseReason::Superseded, "the machine connected again");
        }
        self.end_ways();
        self.core.begin_session()
    }

    /// What the session sent before it ended counts still; only the way back is gone.
    fn end(&mut self, session: SessionId) {
        if self.core.is_current(session) {
            self.link = None;
            self.end_ways();
        }
    }

    fn end_ways(&mut self) {
        for ways in self.disks.values_mut() {
            ways.end_session();
        }
    }

    fn open(&mut self, session: SessionId, disk: DiskId, outbox: Outbox) -> Option<DiskState> {
        let state = self.core.open_disk(session, disk)?;
        self.ways(disk).begin_session(outbox);
        Some(state)
    }

    fn ways(&mut self, disk: DiskId) -> &mut DiskWays {
        let committed = self.core.committed(disk);
        let committed = committed.map(|position| position.generation);
        self.disks
            .entry(disk)
            .or_insert_with(|| DiskWays::new(committed))
    }

    fn handle_arrived(&mut self, arrived: Arrived) {
        let Arrived {
            session,
            disk,
            what,
        } = arrived;
        match what {
            Arrival::Block(open) => self.handle_block(session, disk, *open),
            Arrival::Corrupt => {
                let answer = self.core.handle_corrupt(session, disk);
                self.answer(disk, answer);
            }
            Arrival::Compare(compare) => self.handle_compare(session, disk, compare),
        }
    }

    fn handle_block(&mut self, session: SessionId, disk: DiskId, open: OpenBlock) {
        let OpenBlock {
            block,
            digests,
            opened,
        } = open;
        let now = self.shared.clock.now();
        let answer = self.core.handle_block(session, disk, &block, now);
        if answer != BlockAnswer::Append {
            return self.answer(disk, answer);
        }
        metrics::received(&block);
        let generation = block.header().position().generation;
        self.ways(disk).handle_generation(generation);
        self.taken.push_back(LogItem {
            block,
            digests,
            opened,
            marks: self.marks.clone(),
        });
    }

    fn handle_compare(&mut self, session: SessionId, disk: DiskId, compare: Compare) {
        let Some(about) = self.core.compared(session, disk) else {
            return;
        };
        let (shared, machine) = (Arc::clone(&self.shared), self.machine);
        let ways = self.ways(disk);
        if let Err(excess) = ways.compare(&shared, machine, about, compare) {
            let answer = self.core.handle_excess(excess);
            self.answer(disk, answer);
        }
    }

    /// Does what the core answered to something that was not taken.
    fn answer(&mut self, disk: DiskId, answer: BlockAnswer) {
        match answer {
            BlockAnswer::Append | BlockAnswer::Nothing => (),
            BlockAnswer::Marks => self.send_marks(disk),
            BlockAnswer::Refused { reason, tail } => {
                let refused = ToAgent::Refused { reason, tail };
                if let Err(excess) = self.ways(disk).answer(refused) {
                    let answer = self.core.handle_excess(excess);
                    self.answer(disk, answer);
                }
            }
            BlockAnswer::Close(fault) => self.close(disk, fault),
        }
    }

    /// Ends the connection of an agent that broke a rule.
    fn close(&mut self, disk: DiskId, fault: Fault) {
        let reason = fault.reason();
        tracing::warn!(machine = %self.machine, %disk, ?reason, why = %fault, "the agent broke the protocol");
        if let Some(link) = self.link.take() {
            link.close(reason, &fault.to_string());
        }
        self.end_ways();
    }

    fn handle_mark(&mut self, mark: Mark) {
        let disk = match mark {
            Mark::Cached { disk, position } => {
                self.core.handle_cached(disk, position);
                disk
            }
            Mark::Committed {
                disk,
                position,
                complete_through,
            } => {
                self.core.handle_committed(disk, position, complete_through);
                let generation = Some(position.generation);
                self.ways(disk)
                    .committed_generation
                    .send_replace(generation);
                disk
            }
        };
        self.send_marks(disk);
    }

    fn send_marks(&self, disk: DiskId) {
        let marks = self.core.watermarks(disk, self.shared.journal().level);
        let outbox = self.disks.get(&disk).and_then(|ways| ways.outbox.as_ref());
        if let Some((outbox, marks)) = outbox.zip(marks) {
            outbox.marks(marks);
        }
    }

    fn report(&self) -> Report {
        Report {
            connected: self.link.is_some(),
            committed_cut: self.core.committed_cut(),
            disks: self.core.reports().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
