//! One disk's task: owns its [`Source`], numbers its blocks, and is the only one that sends them.
//!
//! ```text
//! packed batches ──▶ freeze ──▶ Source ──▶ frames on the disk's stream
//! watermarks, refusals ───────▶   │ ──▶ room in the queue, marks, new generations, resyncs
//! ```
//!
//! Every arm of its `select!` is a receive, a resolved future that is kept across turns, or a bell:
//! all are cancel-safe, and what a turn leaves unfinished the next goes on with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use everpoint_capture::{LossReason, PackedBatch, QueueState};
use everpoint_format::change::BlockPlace;
use everpoint_format::{Change, DiskPosition};
use everpoint_replication::source::{
    Action, Fault, FrozenFacts, ResyncReason, Source, WantedGeneration,
};
use everpoint_transport::{CloseReason, Closed, Link, SendError, SendHalf};
use everpoint_units::{GenerationId, Level};
use everpoint_wire::{DiskState, FrameKind, RefuseReason, ToAgent, ToServer};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::compare_book::{CompareBook, CompareRequest};
use crate::disk::{Disk, DiskReport};
use crate::disk_stream::{self, DiskStream, OpenError, Sending};
use crate::meters::BlockMeters;
use crate::packer_task::Packing;
use crate::resync_task::Resync;
use crate::splitter::chain;

/// How long a stream that could not be opened, or a generation that could not begin, stands.
const RETRY: Duration = Duration::from_secs(1);

/// A server that serves this machine at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) epoch: Level,
}

/// What a disk's task is told.
pub(crate) enum DiskCommand {
    /// Answer when everything captured is committed: with the tail if the disk could go on from
    /// there. Nothing is captured any more, and no resync goes on.
    Drain(oneshot::Sender<Option<DiskPosition>>),
}

/// See the module.
pub(crate) struct DiskTask {
    disk: Arc<Disk>,
    source: Source,
    batches: mpsc::Receiver<Packing>,
    packing: FuturesOrdered<Packing>,
    commands: mpsc::Receiver<DiskCommand>,
    sessions: watch::Receiver<Option<Session>>,
    session: Option<Session>,
    opening: Option<BoxFuture<'static, Result<(DiskStream, DiskState), OpenError>>>,
    stream: Option<DiskStream>,
    sending: Option<Sending>,
    retry_at: Option<Instant>,
    /// When to look again whether a generation may begin.
    begin_at: Option<Instant>,
    /// The last frame was a block, or there was none to send: a question is next.
    sent_block: bool,
    compares: CompareBook,
    questions: Option<mpsc::Receiver<CompareRequest>>,
    /// The resync that goes on; stops when it is dropped.
    resync: JoinSet<()>,
    resync_rate_max: Option<u64>,
    drained: Option<oneshot::Sender<Option<DiskPosition>>>,
    report: DiskReport,
    meters: BlockMeters,
}

/// What a disk's task is made of.
pub(crate) struct DiskTaskParts {
    pub(crate) disk: Arc<Disk>,
    pub(crate) source: Source,
    pub(crate) batches: mpsc::Receiver<Packing>,
    pub(crate) commands: mpsc::Receiver<DiskCommand>,
    pub(crate) sessions: watch::Receiver<Option<Session>>,
    pub(crate) resync_rate_max: Option<u64>,
}

enum Event {
    Batch(Packing),
    Packed(PackedBatch),
    Command(DiskCommand),
    Session,
    Opened(Result<(DiskStream, DiskState), OpenError>),
    Incoming(Option<ToAgent>),
    Sent(SendHalf, Result<(), SendError>),
    Question(Option<CompareRequest>),
    OrderLost,
    Look,
    Gone,
}

impl DiskTask {
    pub(crate) fn new(parts: DiskTaskParts) -> Self {
        Self {
            meters: BlockMeters::new(parts.disk.id),
            disk: parts.disk,
            source: parts.source,
            batches: parts.batches,
            packing: FuturesOrdered::new(),
            commands: parts.commands,
            sessions: parts.sessions,
            session: None,
            opening: None,
            stream: None,
            sending: None,
            retry_at: None,
            begin_at: None,
            sent_block: true,
            compares: CompareBook::default(),
            questions: None,
            resync: JoinSet::new(),
            resync_rate_max: parts.resync_rate_max,
            drained: None,
            report: DiskReport::default(),
        }
    }

    /// Runs until the agent lets go of the disk.
    pub(crate) async fn run(mut self) {
        self.handle_session();
        self.drive();
        loop {
            match self.next_event().await {
                Event::Batch(packing) => self.packing.push_back(packing),
                Event::Packed(packed) => self.handle_packed(packed),
                Event::Command(DiskCommand::Drain(reply)) => {
                    self.stop_resync();
                    self.drained = Some(reply);
                }
                Event::Session => self.handle_session(),
                Event::Opened(opened) => self.handle_opened(opened),
                Event::Incoming(Some(message)) => self.handle_message(message),
                Event::Incoming(None) => self.lose_stream(),
                Event::Sent(half, sent) => self.handle_sent(half, sent),
                Event::Question(Some(question)) => self.compares.add(question),
                Event::Question(None) => self.questions = None,
                Event::OrderLost => self.handle_order_lost(),
                Event::Look => {}
                Event::Gone => return,
            }
            self.drive();
        }
    }

    async fn next_event(&mut self) -> Event {
        let unordered = self.source.wants_generation();
        let (retry_at, begin_at) = (self.retry_at, self.begin_at);
        let machine = &self.disk.machine;
        tokio::select! {
            batch = self.batches.recv() => batch.map_or(Event::Gone, Event::Batch),
            // A packing thread answers unless the runtime goes down.
            Some(packed) = self.packing.next(), if !self.packing.is_empty() => {
                packed.map_or(Event::Gone, Event::Packed)
            }
            command = self.commands.recv() => command.map_or(Event::Gone, Event::Command),
            changed = self.sessions.changed() => changed.map_or(Event::Gone, |()| Event::Session),
            opened = resolve(&mut self.opening) => Event::Opened(opened),
            message = incoming(&mut self.stream) => Event::Incoming(message),
            (half, sent) = resolve(&mut self.sending) => Event::Sent(half, sent),
            question = next_question(&mut self.questions) => Event::Question(question),
            () = self.disk.splitter.order_lost.notified() => Event::OrderLost,
            () = machine.room.notified(), if unordered => Event::Look,
            () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                self.retry_at = None;
                Event::Look
            }
            () = sleep_until(begin_at.unwrap_or_else(Instant::now)), if begin_at.is_some() => {
                self.begin_at = None;
                Event::Look
            }
        }
    }

    /// A session began or ended.
    fn handle_session(&mut self) {
        self.lose_stream();
        let closed = self.session.take().map(|session| session.link);
        let closed = closed.and_then(|link| link.closed().now_or_never());
        let order = Some(CloseReason::Order);
        if matches!(closed, Some(Closed::ByPeer { reason, .. }) if reason == order) {
            tracing::error!(disk = %self.disk.id, "the server does not take this agent's order");
            self.source.handle_accused(self.disk.machine.clock.now());
        }
        self.session = self.sessions.borrow_and_update().clone();
        self.retry_at = None;
    }

    fn lose_stream(&mut self) {
        self.opening = None;
        self.sending = None;
        if self.stream.take().is_some() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        self.source.handle_unlinked();
        self.compares.handle_unlinked();
    }

    fn handle_opened(&mut self, opened: Result<(DiskStream, DiskState), OpenError>) {
        let (stream, state) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(disk = %self.disk.id, error = %chain(&error), "no stream for the disk");
                self.retry_at = Some(Instant::now() + RETRY);
                return;
            }
        };
        let Some(session) = &self.session else {
            return;
        };
        self.stream = Some(stream);
        let now = self.disk.machine.clock.now();
        self.source
            .handle_linked(session.epoch, state.committed, state.cached, now);
    }

    fn handle_message(&mut self, message: ToAgent) {
        let machine = &self.disk.machine;
        match message {
            ToAgent::Watermarks(marks) => {
                self.source.handle_watermarks(
                    marks.epoch,
                    marks.generation,
                    marks.cached,
                    marks.committed,
                );
                machine.note_marks(marks.committed_cut, marks.epoch);
            }
            ToAgent::Refused { reason, tail } => {
                tracing::warn!(disk = %self.disk.id, ?reason, "the server did not take a block");
                let echo = matches!(reason, RefuseReason::Gap | RefuseReason::Stale);
                self.source.handle_refused(tail, echo, machine.clock.now());
            }
            ToAgent::Differences { request, differs } => self.compares.answer(request, differs),
            ToAgent::HelloAnswer(_) | ToAgent::Refusal { .. } | ToAgent::DiskState(_) => {
                self.close(
                    CloseReason::Order,
                    "a message that does not belong on a disk's stream",
                );
            }
        }
    }

    fn handle_sent(&mut self, half: SendHalf, sent: Result<(), SendError>) {
        match (sent, &mut self.stream) {
            (Ok(()), Some(stream)) => stream.send = Some(half),
            (Ok(()), None) => {}
            (Err(error), _) => {
                tracing::debug!(disk = %self.disk.id, error = %chain(&error), "a frame was not sent");
                self.lose_stream();
            }
        }
    }

    /// Numbers a block, if its generation still matters.
    fn handle_packed(&mut self, packed: PackedBatch) {
        let (machine, slot) = (&self.disk.machine, self.disk.slot);
        let place = self.source.place();
        let Some(after) = place.filter(|place| place.generation == packed.generation) else {
            machine.order().handle_frozen(slot, 0);
            machine.freed(slot, 1, 0);
            return;
        };
        let block = packed.block.freeze(BlockPlace {
            machine: machine.id,
            disk: self.disk.id,
            after,
            complete_through: packed.complete_through,
        });
        let encoded_len = block.encoded_len() as u64;
        machine.order().handle_frozen(slot, encoded_len);
        self.meters.packed.increment(packed.raw_len as u64);
        let facts = FrozenFacts {
            first: packed.first,
            raw_len: packed.raw_len as u64,
            completes_resync: packed.completes_resync,
        };
        self.source.handle_frozen(block, facts);
    }

    fn handle_order_lost(&mut self) {
        let machine = &self.disk.machine;
        let figures = machine.order().figures(self.disk.slot);
        if let Some(QueueState::Lost { reason, since }) = figures.map(|figures| figures.state) {
            self.source.handle_order_lost(resync_reason(reason), since);
            self.stop_resync();
        }
    }

    /// Does what the source wants done, until it wants nothing more.
    fn drive(&mut self) {
        while let Some(action) = self.source.poll_action() {
            self.act(action);
        }
        self.begin_wanted();
        self.open_stream();
        self.send_next();
        self.answer_drain();
        self.publish();
    }

    fn act(&mut self, action: Action) {
        let (machine, slot) = (&self.disk.machine, self.disk.slot);
        match action {
            Action::LoseOrder { reason } => {
                tracing::warn!(disk = %self.disk.id, reason = reason.word(), "the server is elsewhere");
                self.disk.splitter.lose_order(LossReason::PositionUnknown);
                self.stop_resync();
            }
            Action::Freed { count, encoded_len } => machine.freed(slot, count, encoded_len),
            Action::CloseLink { fault } => {
                tracing::error!(disk = %self.disk.id, error = %fault, "the server is not to be believed");
                let reason = match fault {
                    Fault::OldEpoch { .. } => CloseReason::Stale,
                    Fault::NeverSent | Fault::CommittedAboveCached => CloseReason::Order,
                };
                self.close(reason, &fault.to_string());
            }
        }
    }

    fn close(&self, reason: CloseReason, text: &str) {
        if let Some(session) = &self.session {
            session.link.close(reason, text);
        }
    }

    /// Begins the generation that the source wants, once everything of the one before is numbered
    /// and cached and the queue has room: an attempt while nothing drains would only be the next loss.
    fn begin_wanted(&mut self) {
        let Some(wanted) = self.source.wanted_generation() else {
            return;
        };
        let (machine, slot) = (Arc::clone(&self.disk.machine), self.disk.slot);
        let settled = self.packing.is_empty() && self.source.is_cached();
        if self.drained.is_some() || !settled {
            return;
        }
        let begins_at = self.source.begins_at();
        if machine.clock.now() < begins_at {
            self.begin_at = Some(machine.clock.instant(begins_at));
            return;
        }
        let generation = GenerationId(rand::random());
        let opening = self.opening_of(wanted);
        {
            let stamp = machine.clock.stamp();
            let mut order = machine.order();
            if order.packing_count(slot) != 0 || !order.has_generation_room() {
                return;
            }
            if order
                .begin_generation(slot, generation, opening, stamp)
                .is_err()
            {
                machine.reserve.notify_one();
                self.retry_at.get_or_insert(Instant::now() + RETRY);
                return;
            }
        }
        self.source.handle_begun(generation);
        machine.packer.notify_one();
        self.begin_resync(wanted, generation);
    }

    /// What a generation begins with. A disk that the server knows says its size again: it may have
    /// been changed while no agent ran.
    fn opening_of(&self, wanted: WantedGeneration) -> Vec<Change> {
        let sectors = self.disk.sectors();
        let base = wanted.base;
        match base {
            None => vec![
                Change::DiskBegin {
                    sectors,
                    block_size: self.disk.source().facts().block_size,
                    name: self.disk.config.name.as_str().into(),
                },
                Change::ResyncBegin { base },
            ],
            Some(_) => vec![Change::ResyncBegin { base }, Change::Resize { sectors }],
        }
    }

    fn begin_resync(&mut self, wanted: WantedGeneration, generation: GenerationId) {
        self.stop_resync();
        self.report.reason = Some(wanted.reason);
        self.report.resync_count += 1;
        self.meters.resync(wanted.reason);
        let progress = &self.disk.progress;
        progress.done.store(0, Relaxed);
        progress
            .total
            .store(self.disk.source().facts().size.0, Relaxed);
        tracing::info!(disk = %self.disk.id, %generation, reason = wanted.reason.word(), "generation begun");
        let compare = wanted.base.map(|_| {
            let (ask, questions) = mpsc::channel(1);
            self.questions = Some(questions);
            ask
        });
        let resync = Resync {
            disk: Arc::clone(&self.disk),
            generation,
            compare,
            rate_max: self.resync_rate_max,
        };
        self.resync.spawn(resync.run());
    }

    fn stop_resync(&mut self) {
        self.resync = JoinSet::new();
        self.questions = None;
        self.compares.clear();
        self.disk.progress.failing.store(false, Relaxed);
    }

    fn open_stream(&mut self) {
        let idle = self.stream.is_none() && self.opening.is_none() && self.retry_at.is_none();
        if let Some(session) = self.session.as_ref().filter(|_| idle) {
            let link = session.link.clone();
            self.opening = Some(Box::pin(disk_stream::open(link, self.disk.id)));
        }
    }

    /// Blocks and questions take turns, so that neither a busy guest nor a resync waits for the
    /// other. A question is about a generation whose first block the server has seen.
    fn send_next(&mut self) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_free()) else {
            return;
        };
        let asks = self.sent_block && self.source.has_sent_opening();
        let question = if asks {
            self.compares.next_to_send()
        } else {
            None
        };
        self.sent_block = question.is_none();
        if let Some(compare) = question {
            let message = ToServer::Compare(compare).encode();
            self.sending = stream.send(FrameKind::Message, vec![message]);
        } else if let Some(block) = self.source.next_to_send() {
            self.meters.sent.increment(block.encoded_len() as u64);
            self.sending = stream.send(FrameKind::Block, vec![block.head, block.payload]);
        }
    }

    /// Answers a stop when nothing is left to be committed.
    fn answer_drain(&mut self) {
        if self.drained.is_none() || !self.packing.is_empty() {
            return;
        }
        let figures = {
            let order = self.disk.machine.order();
            let idle = order.packing_count(self.disk.slot) == 0;
            order.figures(self.disk.slot).filter(|_| idle)
        };
        let Some(figures) = figures.filter(|figures| figures.waiting_bytes == 0) else {
            return;
        };
        if !self.source.is_cached() || !self.source.is_committed() {
            return;
        }
        let ordered = matches!(figures.state, QueueState::Ordered { .. });
        let clean = ordered && self.source.is_level() && !self.source.wants_generation();
        if let Some(reply) = self.drained.take() {
            // Who asked may have run out of patience.
            let _ = reply.send(self.source.tail().filter(|_| clean));
        }
    }

    fn publish(&mut self) {
        let source = &self.source;
        self.report = DiskReport {
            linked: self.stream.is_some(),
            unordered: source.wants_generation(),
            level: source.is_level(),
            marks: source.marks(),
            uncommitted_since: source.uncommitted_since(),
            uncommitted_bytes: source.uncommitted_bytes(),
            unsent_bytes: source.unsent_bytes(),
            ..self.report
        };
        self.disk.report.send_replace(self.report);
    }
}

/// The value of a future that is kept; never ends while there is none.
async fn resolve<T>(kept: &mut Option<BoxFuture<'static, T>>) -> T {
    match kept {
        Some(future) => {
            let value = future.await;
            *kept = None;
            value
        }
        None => std::future::pending().await,
    }
}

async fn incoming(stream: &mut Option<DiskStream>) -> Option<ToAgent> {
    match stream {
        Some(stream) => stream.incoming.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_question(
    questions: &mut Option<mpsc::Receiver<CompareRequest>>,
) -> Option<CompareRequest> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}

const fn resync_reason(loss: LossReason) -> ResyncReason {
    match loss {
        LossReason::QueueOverflow => ResyncReason::QueueOverflow,
        LossReason::LocalError => ResyncReason::LocalError,
        LossReason::SeqsExhausted => ResyncReason::SeqsExhausted,
        LossReason::SeqsBehind => ResyncReason::SeqsBehind,
        LossReason::PositionUnknown => ResyncReason::PositionUnknown,
    }
}
