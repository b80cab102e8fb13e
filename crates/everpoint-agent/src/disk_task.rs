//! One disk's task: carries events to its [`DiskCore`], does what that decides, and is the only one
//! that sends the disk's blocks.
//!
//! ```text
//! packed batches ──▶ DiskCore ──▶ frames on the disk's stream
//! watermarks, refusals ──▶ │ ──▶ room in the queue, marks, new generations, resyncs
//! ```
//!
//! Every arm of its `select!` is a receive, a resolved future that is kept across turns, or a bell:
//! all are cancel-safe, and what a turn leaves unfinished the next goes on with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use everpoint_capture::PackedBatch;
use everpoint_format::DiskPosition;
use everpoint_replication::source::{Fault, WantedGeneration};
use everpoint_transport::{CloseReason, Closed, Link, SendError, SendHalf};
use everpoint_units::{GenerationId, Level};
use everpoint_wire::{DiskState, FrameKind, ToAgent, ToServer};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::disk::Disk;
use crate::disk_core::DiskCore;
use crate::disk_core::effect::{Answer, Effect, LinkFault, Outgoing, Question};
use crate::disk_stream::{self, DiskStream, OpenError, Sending};
use crate::meters::BlockMeters;
use crate::packer_task::Packing;
use crate::resync_core::{IN_FLIGHT_MAX, ResyncCore, ResyncPlan};
use crate::resync_task::Resync;
use crate::splitter::chain;

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
    core: DiskCore,
    batches: mpsc::Receiver<Packing>,
    packing: FuturesOrdered<Packing>,
    commands: mpsc::Receiver<DiskCommand>,
    sessions: watch::Receiver<Option<Session>>,
    session: Option<Session>,
    opening: Option<BoxFuture<'static, Result<(DiskStream, DiskState), OpenError>>>,
    stream: Option<DiskStream>,
    sending: Option<Sending>,
    /// The resync that goes on; stops when it is dropped.
    resync: JoinSet<()>,
    /// What it asks, and where it is answered.
    questions: Option<mpsc::Receiver<Question>>,
    answers: Option<mpsc::Sender<Answer>>,
    resync_rate_max: Option<u64>,
    drained: Option<oneshot::Sender<Option<DiskPosition>>>,
    meters: BlockMeters,
}

/// What a disk's task is made of.
pub(crate) struct DiskTaskParts {
    pub(crate) disk: Arc<Disk>,
    pub(crate) core: DiskCore,
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
    Question(Option<Question>),
    OrderLost,
    Look,
    Gone,
}

impl DiskTask {
    pub(crate) fn new(parts: DiskTaskParts) -> Self {
        Self {
            meters: BlockMeters::new(parts.disk.id),
            disk: parts.disk,
            core: parts.core,
            batches: parts.batches,
            packing: FuturesOrdered::new(),
            commands: parts.commands,
            sessions: parts.sessions,
            session: None,
            opening: None,
            stream: None,
            sending: None,
            resync: JoinSet::new(),
            questions: None,
            answers: None,
            resync_rate_max: parts.resync_rate_max,
            drained: None,
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
                    self.drained = Some(reply);
                    self.core.handle_drain();
                }
                Event::Session => self.handle_session(),
                Event::Opened(opened) => self.handle_opened(opened),
                Event::Incoming(Some(message)) => self.handle_message(message),
                Event::Incoming(None) => self.lose_stream(),
                Event::Sent(half, sent) => self.handle_sent(half, sent),
                Event::Question(Some(question)) => self.core.handle_question(question),
                Event::Question(None) => self.questions = None,
                Event::OrderLost => self.core.handle_order_lost(),
                Event::Look => {}
                Event::Gone => return,
            }
            self.drive();
        }
    }

    async fn next_event(&mut self) -> Event {
        let waits_for_room = self.core.waits_for_room();
        let deadline = self.core.deadline();
        let machine = &self.disk.machine;
        let look_at = deadline.map_or_else(Instant::now, |at| machine.clock.instant(at));
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
            () = machine.room.notified(), if waits_for_room => Event::Look,
            () = sleep_until(look_at), if deadline.is_some() => Event::Look,
        }
    }

    /// A session began or ended.
    fn handle_session(&mut self) {
        self.drop_stream();
        let closed = self.session.take().map(|session| session.link);
        let closed = closed.and_then(|link| link.closed().now_or_never());
        let order = Some(CloseReason::Order);
        let accused = matches!(closed, Some(Closed::ByPeer { reason, .. }) if reason == order);
        if accused {
            tracing::error!(disk = %self.disk.id, "the server does not take this agent's order");
        }
        self.session = self.sessions.borrow_and_update().clone();
        let epoch = self.session.as_ref().map(|session| session.epoch);
        let now = self.disk.machine.clock.now();
        self.core.handle_session(epoch, accused, now);
    }

    fn drop_stream(&mut self) {
        self.opening = None;
        self.sending = None;
        self.stream = None;
    }

    fn lose_stream(&mut self) {
        self.drop_stream();
        self.core.handle_stream_lost(self.disk.machine.clock.now());
    }

    fn handle_opened(&mut self, opened: Result<(DiskStream, DiskState), OpenError>) {
        let now = self.disk.machine.clock.now();
        match opened {
            Ok((stream, state)) => {
                self.stream = Some(stream);
                self.core.handle_opened(state, now);
            }
            Err(error) => {
                tracing::warn!(disk = %self.disk.id, error = %chain(&error), "no stream for the disk");
                self.core.handle_open_failed(now);
            }
        }
    }

    fn handle_message(&mut self, message: ToAgent) {
        if let ToAgent::Refused { reason, .. } = &message {
            tracing::warn!(disk = %self.disk.id, ?reason, "the server did not take a block");
        }
        let now = self.disk.machine.clock.now();
        self.core.handle_message(message, now);
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

    fn handle_packed(&mut self, packed: PackedBatch) {
        let raw_len = packed.raw_len as u64;
        if self.core.handle_packed(packed) {
            self.meters.packed.increment(raw_len);
        }
    }

    /// Does what the core decides, until it decides nothing more.
    fn drive(&mut self) {
        // What was frozen is in the report before it leaves the queue, so that no moment shows it in
        // neither, and with it a lag that is better than the truth.
        self.publish();
        while let Some(effect) = self.poll() {
            self.act(effect);
        }
        self.send_next();
        self.publish();
    }

    fn poll(&mut self) -> Option<Effect> {
        let machine = &self.disk.machine;
        let (stamp, fresh) = (machine.clock.stamp(), GenerationId(rand::random()));
        self.core.poll(stamp, &mut machine.order(), fresh)
    }

    fn act(&mut self, effect: Effect) {
        let machine = &self.disk.machine;
        match effect {
            Effect::OpenStream => self.open_stream(),
            Effect::CloseLink { fault } => self.close_link(fault),
            Effect::OrderLost { reason, because } => {
                tracing::warn!(disk = %self.disk.id, reason = because.word(), "the server is elsewhere");
                self.disk.splitter.note_lost(reason);
            }
            Effect::Freed { wake } => machine.note_freed(wake),
            Effect::Begun { wanted, generation } => {
                machine.packer.notify_one();
                self.begin_resync(wanted, generation);
            }
            Effect::StopResync => self.stop_resync(),
            Effect::Reserve => machine.reserve.notify_one(),
            Effect::Marks(marks) => machine.note_marks(marks.committed_cut, marks.epoch),
            Effect::Answer(answer) => {
                // A resync has room for the answers to all its questions, or is gone.
                let _ = self.answers.as_ref().map(|to| to.try_send(answer));
            }
            Effect::Drained(tail) => {
                // Who asked may have run out of patience.
                let _ = self.drained.take().map(|reply| reply.send(tail));
            }
        }
    }

    fn open_stream(&mut self) {
        if let Some(session) = &self.session {
            let link = session.link.clone();
            self.opening = Some(Box::pin(disk_stream::open(link, self.disk.id)));
        }
    }

    fn close_link(&self, fault: LinkFault) {
        tracing::error!(disk = %self.disk.id, error = %fault, "the server is not to be believed");
        let reason = match fault {
            LinkFault::Server(Fault::OldEpoch { .. }) => CloseReason::Stale,
            LinkFault::Server(Fault::NeverSent | Fault::CommittedAboveCached)
            | LinkFault::Misplaced => CloseReason::Order,
        };
        if let Some(session) = &self.session {
            session.link.close(reason, &fault.to_string());
        }
    }

    fn begin_resync(&mut self, wanted: WantedGeneration, generation: GenerationId) {
        self.meters.resync(wanted.reason);
        let size = self.disk.source().facts().size;
        let progress = &self.disk.progress;
        progress.done.store(0, Relaxed);
        progress.total.store(size.0, Relaxed);
        tracing::info!(disk = %self.disk.id, %generation, reason = wanted.reason.word(), "generation begun");
        let (ask, questions) = mpsc::channel(1);
        let (answers, answered) = mpsc::channel(IN_FLIGHT_MAX);
        self.questions = Some(questions);
        self.answers = Some(answers);
        let resync = Resync {
            disk: Arc::clone(&self.disk),
            generation,
            core: ResyncCore::new(ResyncPlan {
                generation,
                sectors: self.disk.sectors(),
                compares: wanted.base.is_some(),
                rate_max: self.resync_rate_max,
            }),
            ask,
            answered,
            room: None,
        };
        self.resync.spawn(resync.run());
    }

    fn stop_resync(&mut self) {
        self.resync = JoinSet::new();
        self.questions = None;
        self.answers = None;
        self.disk.progress.failing.store(false, Relaxed);
    }

    fn send_next(&mut self) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_free()) else {
            return;
        };
        self.sending = match self.core.next_to_send() {
            Some(Outgoing::Compare(compare)) => {
                let message = ToServer::Compare(compare).encode();
                stream.send(FrameKind::Message, vec![message])
            }
            Some(Outgoing::Block(block)) => {
                self.meters.sent.increment(block.encoded_len() as u64);
                stream.send(FrameKind::Block, vec![block.head, block.payload])
            }
            None => None,
        };
    }

    fn publish(&self) {
        self.disk.report.send_replace(self.core.report());
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

async fn next_question(questions: &mut Option<mpsc::Receiver<Question>>) -> Option<Question> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}
