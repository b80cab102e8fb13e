//! One disk's decisions: which number a block gets, what is sent next, when a generation begins and a
//! stream is opened, what a stop waits for. Pure.
//!
//! ```text
//! packed batches ──────────────▶ ┌──────────┐ ── next_to_send ──▶ blocks and questions, in turns
//! sessions, streams, messages ─▶ │ DiskCore │ ── poll ──────────▶ effects: what the shell has to do
//! questions of the resync ─────▶ └──────────┘ ── deadline ──────▶ when to poll though nothing happens
//! ```
//!
//! The driver calls one `handle_*`, then [`DiskCore::poll`] until it returns `None`, and does each
//! effect before it polls on. When the disk's stream is free it then sends
//! [`DiskCore::next_to_send`].
//!
//! Only `poll` touches the machine's [`WriteOrder`], for a look or a small change: a shell that keeps
//! the order behind a lock holds that for a poll and not while a block is frozen.

use std::collections::VecDeque;
use std::time::Duration;

use everpoint_capture::{DiskSlot, LossReason, PackedBatch, QueueState, Stamp, WriteOrder};
use everpoint_format::Change;
use everpoint_format::change::BlockPlace;
use everpoint_marks::reached;
use everpoint_replication::source::{Action, FrozenFacts, ResyncReason, Source, WantedGeneration};
use everpoint_units::{DiskId, GenerationId, Level, MachineId, Moment};
use everpoint_wire::{DiskState, RefuseReason, ToAgent};

mod compare_book;
pub mod effect;
pub mod report;

#[cfg(test)]
mod tests;

use compare_book::CompareBook;
use effect::{Effect, LinkFault, Marks, Outgoing, Question};

/// How long a stream that could not be opened, or a generation that could not begin, stands.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct DiskCore {
    facts: DiskFacts,
    slot: DiskSlot,
    source: Source,
    /// The epoch of the server that serves this machine at the moment.
    session: Option<Level>,
    stream: Stream,
    /// No stream is opened before.
    reopen_at: Option<Moment>,
    /// When to look again whether the generation that is wanted may begin.
    begin_at: Option<Moment>,
    /// No `Seq` was reserved: no generation begins before.
    seqs_at: Moment,
    /// Batches that came since the order was told.
    numbered: VecDeque<Numbered>,
    /// Somebody says that the order was lost.
    look_at_order: bool,
    /// What the server promised last, until its word is known to be good.
    marks: Option<Marks>,
    compares: CompareBook,
    /// The generation whose resync was begun and not stopped; it may have come to its end.
    resync: Option<GenerationId>,
    /// The last frame was a block: a question is next, if there is one.
    sent_block: bool,
    drain: Drain,
    /// Why the newest generation began, and how many did.
    begun_because: Option<ResyncReason>,
    begun_count: u64,
    effects: VecDeque<Effect>,
}

/// What does not change while a disk is attached.
#[derive(Clone, Debug)]
pub struct DiskFacts {
    pub machine: MachineId,
    pub disk: DiskId,
    /// Size of the disk. Unit: sectors.
    pub sectors: u64,
    /// 512 or 4096. Unit: bytes.
    pub block_size: u32,
    /// The name of its export, and in lists.
    pub name: Box<str>,
}

/// Where the disk's stream to the server stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    Closed,
    Opening,
    Open,
    /// Open, and its link is about to be closed: nothing is heard from it.
    Condemned,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug)]
enum Numbered {
    /// A block of so many encoded bytes.
    Block(u64),
    /// Its generation is over.
    Worthless,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Drain {
    NotAsked,
    Asked,
    Answered,
}

impl DiskCore {
    /// A disk at `slot` of the machine's order that goes on as `source` says.
    pub fn new(facts: DiskFacts, slot: DiskSlot, source: Source) -> Self {
        Self {
            facts,
            slot,
            source,
            session: None,
            stream: Stream::Closed,
            reopen_at: None,
            begin_at: None,
            seqs_at: Moment::default(),
            numbered: VecDeque::new(),
            look_at_order: false,
            marks: None,
            compares: CompareBook::default(),
            resync: None,
            sent_block: true,
            drain: Drain::NotAsked,
            begun_because: None,
            begun_count: 0,
            effects: VecDeque::new(),
        }
    }

    /// A session began, with a server of `epoch`, or ended, or one followed the other. `accused`: the
    /// one that ended did so because of what this agent sends (close reason *order*).
    pub fn handle_session(&mut self, epoch: Option<Level>, accused: bool, now: Moment) {
        self.lose_stream();
        if accused {
            self.source.handle_accused(now);
        }
        self.session = epoch;
        self.reopen_at = None;
    }

    /// The stream is open and the server said where the disk stands.
    pub fn handle_opened(&mut self, state: DiskState, now: Moment) {
        let Some(epoch) = self.session.filter(|_| self.stream == Stream::Opening) else {
            return;
        };
        self.stream = Stream::Open;
        self.source
            .handle_linked(epoch, state.committed, state.cached, now);
    }

    /// The stream could not be opened.
    pub fn handle_open_failed(&mut self, now: Moment) {
        self.lose_stream();
        self.reopen_at = Some(now.after(RETRY));
    }

    /// The stream ended, or a frame was not sent; the session may go on.
    pub fn handle_stream_lost(&mut self, now: Moment) {
        self.handle_open_failed(now);
    }

    /// The server said something on the disk's stream.
    pub fn handle_message(&mut self, message: ToAgent, now: Moment) {
        if self.stream != Stream::Open {
            return;
        }
        match message {
            ToAgent::Watermarks(marks) => {
                self.source.handle_watermarks(
                    marks.epoch,
                    marks.generation,
                    marks.cached,
                    marks.committed,
                );
                self.marks = Some(Marks {
                    committed_cut: marks.committed_cut,
                    epoch: marks.epoch,
                });
            }
            ToAgent::Refused { reason, tail } => {
                let echo = matches!(reason, RefuseReason::Gap | RefuseReason::Stale);
                self.source.handle_refused(tail, echo, now);
                if !echo {
                    self.compares.handle_refused();
                }
            }
            ToAgent::Differences { request, differs } => {
                let answer = self.compares.answer(request, differs);
                self.effects.extend(answer.map(Effect::Answer));
            }
            ToAgent::HelloAnswer(_) | ToAgent::Refusal { .. } | ToAgent::DiskState(_) => {
                self.condemn(LinkFault::Misplaced);
            }
        }
    }

    /// Numbers a block, if its generation still matters; true if it does. To be called in the order
    /// in which the batches left the queue.
    pub fn handle_packed(&mut self, packed: PackedBatch) -> bool {
        let place = self.source.place();
        let Some(after) = place.filter(|place| place.generation == packed.generation) else {
            reached!(BatchWorthless);
            self.numbered.push_back(Numbered::Worthless);
            return false;
        };
        let block = packed.block.freeze(BlockPlace {
            machine: self.facts.machine,
            disk: self.facts.disk,
            after,
            complete_through: packed.complete_through,
        });
        let encoded_len = block.encoded_len() as u64;
        self.numbered.push_back(Numbered::Block(encoded_len));
        let facts = FrozenFacts {
            first: packed.first,
            raw_len: packed.raw_len as u64,
            completes_resync: packed.completes_resync,
        };
        self.source.handle_frozen(block, facts);
        true
    }

    /// Somebody else ended the disk's order; the next poll looks at it.
    pub fn handle_order_lost(&mut self) {
        self.look_at_order = true;
    }

    /// The resync asks. A question of a resync that was stopped is not asked.
    pub fn handle_question(&mut self, question: Question) {
        if self.resync == Some(question.generation) {
            self.compares.add(question);
        }
    }

    /// [`Effect::Drained`] is wanted. Nothing is captured any more; no resync goes on, and no
    /// generation begins from now on.
    pub fn handle_drain(&mut self) {
        self.drain = Drain::Asked;
        self.stop_resync();
    }

    /// The next thing to do, until there is none. `fresh` is random: the name of a generation, should
    /// one begin.
    #[must_use]
    pub fn poll(
        &mut self,
        stamp: Stamp,
        order: &mut WriteOrder,
        fresh: GenerationId,
    ) -> Option<Effect> {
        self.charge_numbered(order);
        self.follow_order(order);
        while let Some(action) = self.source.poll_action() {
            self.act(action, order, stamp.now);
        }
        self.hand_on_marks();
        self.begin_wanted(stamp, order, fresh);
        self.open_stream(stamp.now);
        self.answer_drain(order);
        self.effects.pop_front()
    }

    /// When to poll again if nothing happens until then. Good after a poll that returned `None`.
    pub fn deadline(&self) -> Option<Moment> {
        let moments = [self.reopen_at, self.begin_at];
        moments.into_iter().flatten().min()
    }

    /// The next frame for a stream that is free; it counts as sent from now on. Blocks and questions
    /// take turns, so that neither a busy guest nor a resync waits for the other. A question is about
    /// a generation whose first block the server has seen.
    pub fn next_to_send(&mut self) -> Option<Outgoing> {
        if self.stream != Stream::Open {
            return None;
        }
        let turn = if self.sent_block {
            self.next_question().or_else(|| self.next_block())
        } else {
            self.next_block().or_else(|| self.next_question())
        };
        self.sent_block = matches!(turn, None | Some(Outgoing::Block(_)));
        turn
    }

    /// Whether a poll may find more to do when the queue has become smaller.
    pub const fn waits_for_room(&self) -> bool {
        self.source.wants_generation()
    }

    /// Whether the disk has a stream to a server.
    pub fn is_linked(&self) -> bool {
        matches!(self.stream, Stream::Open | Stream::Condemned)
    }

    /// Where the disk's copy stands.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    fn next_block(&mut self) -> Option<Outgoing> {
        self.source.next_to_send().map(Outgoing::Block)
    }

    fn next_question(&mut self) -> Option<Outgoing> {
        let asks = self.source.has_sent_opening();
        let question = asks.then(|| self.compares.next_to_send()).flatten();
        question.map(Outgoing::Compare)
    }

    fn lose_stream(&mut self) {
        self.stream = Stream::Closed;
        self.marks = None;
        self.source.handle_unlinked();
        self.compares.handle_unlinked();
    }

    fn condemn(&mut self, fault: LinkFault) {
        self.stream = Stream::Condemned;
        self.effects.push_back(Effect::CloseLink { fault });
    }

    fn charge_numbered(&mut self, order: &mut WriteOrder) {
        while let Some(numbered) = self.numbered.pop_front() {
            match numbered {
                Numbered::Block(encoded_len) => order.handle_frozen(self.slot, encoded_len),
                Numbered::Worthless => {
                    order.handle_frozen(self.slot, 0);
                    self.free(order, 1, 0);
                }
            }
        }
    }

    fn free(&mut self, order: &mut WriteOrder, count: u64, encoded_len: u64) {
        let wake = order.handle_freed(self.slot, count, encoded_len);
        self.effects.push_back(Effect::Freed { wake });
    }

    fn follow_order(&mut self, order: &WriteOrder) {
        if !std::mem::take(&mut self.look_at_order) {
            return;
        }
        let figures = order.figures(self.slot);
        if let Some(QueueState::Lost { reason, since }) = figures.map(|figures| figures.state) {
            self.source.handle_order_lost(resync_reason(reason), since);
            self.stop_resync();
        }
    }

    fn act(&mut self, action: Action, order: &mut WriteOrder, now: Moment) {
        match action {
            Action::LoseOrder { reason: because } => {
                let reason = LossReason::PositionUnknown;
                if order.lose_order(self.slot, reason, now) {
                    self.effects
                        .push_back(Effect::OrderLost { reason, because });
                }
                self.stop_resync();
            }
            Action::Freed { count, encoded_len } => self.free(order, count, encoded_len),
            Action::CloseLink { fault } => self.condemn(LinkFault::Server(fault)),
        }
    }

    /// Nobody hears the marks of a server that is not the newest, or that promises what it cannot
    /// have: the source has found a fault by now.
    fn hand_on_marks(&mut self) {
        let marks = self.marks.take().filter(|_| self.stream == Stream::Open);
        self.effects.extend(marks.map(Effect::Marks));
    }

    /// Begins the generation that the source wants, once everything of the one before is numbered
    /// and cached and the queue has room: an attempt while nothing drains would only be the next loss.
    fn begin_wanted(&mut self, stamp: Stamp, order: &mut WriteOrder, fresh: GenerationId) {
        self.begin_at = None;
        let Some(wanted) = self.source.wanted_generation() else {
            return;
        };
        let settled = self.source.is_cached() && order.packing_count(self.slot) == 0;
        if self.drain != Drain::NotAsked || !settled {
            return;
        }
        let begins_at = self.source.begins_at().max(self.seqs_at);
        if stamp.now < begins_at {
            reached!(GenerationWaits);
            self.begin_at = Some(begins_at);
            return;
        }
        if !order.has_generation_room() {
            reached!(GenerationWaitsForRoom);
            // A bell rings when there is more, perhaps a moment before anybody listens.
            self.begin_at = Some(stamp.now.after(RETRY));
            return;
        }
        let opening = self.opening_of(wanted);
        let begun = order.begin_generation(self.slot, fresh, opening, stamp);
        if begun.is_err() {
            self.effects.push_back(Effect::Reserve);
            self.seqs_at = stamp.now.after(RETRY);
            self.begin_at = Some(self.seqs_at);
            return;
        }
        self.source.handle_begun(fresh);
        self.begun_because = Some(wanted.reason);
        self.begun_count += 1;
        self.stop_resync();
        self.resync = Some(fresh);
        self.effects.push_back(Effect::Begun {
            wanted,
            generation: fresh,
        });
    }

    /// What a generation begins with. A disk that the server knows says its size again: it may have
    /// been changed while no agent ran.
    fn opening_of(&self, wanted: WantedGeneration) -> Vec<Change> {
        let DiskFacts {
            sectors,
            block_size,
            ..
        } = self.facts;
        let base = wanted.base;
        match base {
            None => vec![
                Change::DiskBegin {
                    sectors,
                    block_size,
                    name: self.facts.name.clone(),
                },
                Change::ResyncBegin { base },
            ],
            Some(_) => vec![Change::ResyncBegin { base }, Change::Resize { sectors }],
        }
    }

    fn stop_resync(&mut self) {
        if self.resync.take().is_some() {
            self.compares.clear();
            self.effects.push_back(Effect::StopResync);
        }
    }

    fn open_stream(&mut self, now: Moment) {
        self.reopen_at = self.reopen_at.filter(|at| now < *at);
        let idle = self.stream == Stream::Closed && self.reopen_at.is_none();
        if self.session.is_some() && idle {
            self.stream = Stream::Opening;
            self.effects.push_back(Effect::OpenStream);
        }
    }

    /// Answers a stop when nothing is left to be committed.
    fn answer_drain(&mut self, order: &WriteOrder) {
        let settled = self.source.is_cached() && self.source.is_committed();
        if self.drain != Drain::Asked || !settled || order.packing_count(self.slot) != 0 {
            return;
        }
        let figures = order.figures(self.slot);
        let Some(figures) = figures.filter(|figures| figures.waiting_bytes == 0) else {
            return;
        };
        let ordered = matches!(figures.state, QueueState::Ordered { .. });
        let clean = ordered && self.source.is_level() && !self.source.wants_generation();
        let tail = self.source.tail().filter(|_| clean);
        self.drain = Drain::Answered;
        self.effects.push_back(Effect::Drained(tail));
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
