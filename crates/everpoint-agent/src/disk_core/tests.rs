//! One disk's decisions, fact by fact, against a real order of writes and a server that is made up.

use bytes::Bytes;
use everpoint_capture::{GuestChange, OrderLimits, Reservation};
use everpoint_format::change::{ChangeBlock, FrozenBlock};
use everpoint_format::digest::PlainDigest;
use everpoint_format::{DiskPosition, PackScratch};
use everpoint_replication::source::Fault;
use everpoint_units::{BlockNo, ChainValue, Extent, Lba, Seq, WallTime};
use everpoint_wire::{RefusalReason, Watermarks};

use super::effect::Answer;
use super::*;

const EPOCH: Level = Level(3);
const DISK: DiskId = DiskId([9; 16]);
/// What a server may hold that this agent does not know.
const ELSEWHERE: DiskPosition = DiskPosition {
    generation: GenerationId([0xee; 16]),
    block_no: BlockNo(7),
    chain: ChainValue(1),
};

struct Rig {
    core: DiskCore,
    order: WriteOrder,
    slot: DiskSlot,
    now: Moment,
    /// Generations are named 1, 2, 3 …
    begun: u8,
}

fn generation(number: u8) -> GenerationId {
    GenerationId([number; 16])
}

fn extent() -> Extent {
    let lba = |sector| Lba::new(sector).expect("small");
    Extent::between(lba(0), lba(8)).expect("not empty")
}

fn facts() -> DiskFacts {
    DiskFacts {
        machine: MachineId([8; 16]),
        disk: DISK,
        sectors: 2_048,
        block_size: 512,
        name: "data".into(),
    }
}

fn state(cached: Option<DiskPosition>) -> DiskState {
    DiskState {
        disk: DISK,
        committed: cached,
        cached,
        complete_through: Seq::ZERO,
        level: false,
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(OrderLimits::default(), 1 << 30)
    }

    fn with(limits: OrderLimits, until: u64) -> Self {
        let mut order = WriteOrder::new(limits, Reservation::new(Seq::ZERO, Seq(until)));
        let slot = order.attach();
        let now = Moment::default().after(Duration::from_secs(100));
        Self {
            core: DiskCore::new(facts(), slot, Source::new(Level::ZERO, now)),
            order,
            slot,
            now,
            begun: 0,
        }
    }

    /// A disk in its first generation, whose opening the server has not seen yet.
    fn begun(held: Option<DiskPosition>) -> Self {
        let mut rig = Self::new();
        rig.link(held);
        assert_eq!(rig.begun, 1);
        rig
    }

    /// A disk whose copy is level, everything committed.
    fn level() -> Self {
        let mut rig = Self::begun(None);
        let stamp = rig.stamp();
        let level = Change::ResyncComplete;
        let pushed = rig
            .order
            .push_own(rig.slot, generation(1), stamp, level, None);
        pushed.expect("current");
        rig.pack();
        let sent = rig.send().len() as u64;
        rig.cache(sent, sent);
        assert!(rig.core.source().is_level());
        rig
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            now: self.now,
            at: WallTime(1),
        }
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now.after(time);
        self.poll()
    }

    fn poll(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let (stamp, fresh) = (self.stamp(), generation(self.begun + 1));
            let Some(effect) = self.core.poll(stamp, &mut self.order, fresh) else {
                return effects;
            };
            self.begun += u8::from(matches!(effect, Effect::Begun { .. }));
            effects.push(effect);
            assert!(effects.len() < 100, "it comes to an end");
        }
    }

    fn session(&mut self, epoch: Level) -> Vec<Effect> {
        self.core.handle_session(Some(epoch), false, self.now);
        self.poll()
    }

    /// A session with a server that holds this.
    fn link(&mut self, held: Option<DiskPosition>) -> Vec<Effect> {
        assert_eq!(self.session(EPOCH), [Effect::OpenStream]);
        self.core.handle_opened(state(held), self.now);
        self.poll()
    }

    fn write(&mut self) {
        let stamp = self.stamp();
        let _ = self
            .order
            .push(self.slot, stamp, GuestChange::Zero(extent()));
    }

    /// Takes what is due out of the queue.
    fn take(&mut self) -> Vec<PackedBatch> {
        self.now = self.now.after(Duration::from_millis(10));
        let stamp = self.stamp();
        std::iter::from_fn(|| self.order.take_batch(stamp))
            .map(|(_, batch)| batch.pack(0, &mut PackScratch::default()))
            .collect()
    }

    fn pack(&mut self) -> Vec<Effect> {
        for packed in self.take() {
            self.core.handle_packed(packed);
        }
        self.poll()
    }

    fn next_block(&mut self) -> Option<FrozenBlock> {
        match self.core.next_to_send()? {
            Outgoing::Block(block) => Some(block),
            Outgoing::Compare(_) => panic!("nothing was asked"),
        }
    }

    fn send(&mut self) -> Vec<FrozenBlock> {
        std::iter::from_fn(|| self.next_block()).collect()
    }

    fn message(&mut self, message: ToAgent) -> Vec<Effect> {
        self.core.handle_message(message, self.now);
        self.poll()
    }

    /// The server promises blocks of the newest generation.
    fn cache(&mut self, cached: u64, committed: u64) -> Vec<Effect> {
        let generation = generation(self.begun);
        self.message(marks(EPOCH, generation, cached, committed))
    }

    fn lose_order(&mut self) -> Vec<Effect> {
        let reason = LossReason::QueueOverflow;
        assert!(self.order.lose_order(self.slot, reason, self.now));
        self.core.handle_order_lost();
        self.poll()
    }
}

fn marks(epoch: Level, generation: GenerationId, cached: u64, committed: u64) -> ToAgent {
    ToAgent::Watermarks(Watermarks {
        generation,
        cached: BlockNo(cached),
        committed: BlockNo(committed),
        committed_cut: Seq(committed),
        epoch,
    })
}

fn question(number: u8, first_piece: u64) -> Question {
    Question {
        generation: generation(number),
        first_piece,
        digests: vec![PlainDigest([1; 32])],
    }
}

fn begins(base: Option<DiskPosition>, reason: ResyncReason, number: u8) -> Effect {
    Effect::Begun {
        wanted: WantedGeneration { base, reason },
        generation: generation(number),
    }
}

fn changes(block: &FrozenBlock) -> Vec<Change> {
    let block = ChangeBlock::decode(block.to_bytes()).expect("as it was made");
    let changes = block.records().iter().map(|record| record.change.clone());
    changes.collect()
}

fn drained_of(effects: &[Effect]) -> Option<Option<DiskPosition>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Drained(tail) => Some(*tail),
        _ => None,
    })
}

#[test]
fn a_stream_is_opened_once_a_session_and_again_a_while_after_it_failed_or_ended() {
    let mut rig = Rig::new();
    assert_eq!((rig.poll(), rig.core.deadline()), (vec![], None));
    assert_eq!(rig.session(EPOCH), [Effect::OpenStream]);
    assert_eq!(rig.poll(), []);
    for lose in [DiskCore::handle_open_failed, DiskCore::handle_stream_lost] {
        lose(&mut rig.core, rig.now);
        assert_eq!(rig.poll(), []);
        assert_eq!(rig.core.deadline(), Some(rig.now.after(RETRY)));
        assert_eq!(rig.wait(RETRY / 2), []);
        assert_eq!(rig.wait(RETRY / 2), [Effect::OpenStream]);
        assert_eq!(rig.core.deadline(), None);
    }
    rig.core.handle_open_failed(rig.now);
    assert_eq!(rig.session(EPOCH), [Effect::OpenStream], "another server");
    rig.core.handle_session(None, false, rig.now);
    assert_eq!(rig.wait(RETRY), [], "nobody is there");
    rig.core.handle_opened(state(None), rig.now);
    assert!(!rig.core.is_linked(), "that was the stream before");
}

#[test]
fn a_disk_that_the_server_does_not_know_begins_with_what_it_is() {
    let mut rig = Rig::new();
    let effects = rig.link(None);
    assert_eq!(effects, [begins(None, ResyncReason::InitialSync, 1)]);
    let state = rig.order.figures(rig.slot).expect("attached").state;
    let current = generation(1);
    assert_eq!(
        state,
        QueueState::Ordered {
            generation: current
        }
    );
    rig.pack();
    let opening = changes(&rig.next_block().expect("due at once"));
    let begin = Change::DiskBegin {
        sectors: 2_048,
        block_size: 512,
        name: "data".into(),
    };
    assert_eq!(opening, [begin, Change::ResyncBegin { base: None }]);
}

#[test]
fn a_disk_that_the_server_knows_begins_on_what_is_held_and_says_its_size() {
    let mut rig = Rig::new();
    let base = Some(ELSEWHERE);
    let effects = rig.link(base);
    assert_eq!(effects, [begins(base, ResyncReason::AgentRestart, 1)]);
    rig.pack();
    let opening = changes(&rig.next_block().expect("due at once"));
    let size = Change::Resize { sectors: 2_048 };
    assert_eq!(opening, [Change::ResyncBegin { base }, size]);
}

#[test]
fn a_generation_begins_when_everything_of_the_one_before_is_numbered_and_cached() {
    let mut rig = Rig::level();
    rig.write();
    let on_the_way = rig.take();
    assert_eq!(rig.lose_order(), [Effect::StopResync]);
    assert_eq!(rig.poll(), [], "a batch is being packed");
    for packed in on_the_way {
        assert!(rig.core.handle_packed(packed), "good up to the loss");
    }
    assert_eq!(rig.poll(), [], "its block is not cached");
    let last = rig.send().pop().expect("numbered").position();
    let effects = rig.cache(2, 2);
    let Some(Effect::Begun { wanted, .. }) = effects.last() else {
        panic!("nothing is left: {effects:?}");
    };
    assert_eq!(wanted.base, Some(last));
    assert_eq!(wanted.reason, ResyncReason::QueueOverflow);
}

#[test]
fn a_generation_after_one_that_was_never_level_waits() {
    let mut rig = Rig::begun(None);
    assert_eq!(rig.lose_order(), [Effect::StopResync]);
    let begins_at = rig.core.source().begins_at();
    assert!(rig.now < begins_at);
    assert_eq!(rig.core.deadline(), Some(begins_at));
    let wait = begins_at.since(rig.now);
    assert_eq!(rig.wait(wait / 2), []);
    let effects = rig.wait(wait / 2);
    assert_eq!(effects, [begins(None, ResyncReason::InitialSync, 2)]);
    assert_eq!(rig.core.deadline(), None);
}

#[test]
fn without_room_in_the_queue_it_looks_again_though_nobody_says_so() {
    let limits = OrderLimits {
        queue_bytes_max: 8_192,
        ..OrderLimits::default()
    };
    let mut rig = Rig::with(limits, 1 << 30);
    let other = rig.order.attach();
    let begun = rig
        .order
        .begin_generation(other, generation(77), Vec::new(), rig.stamp());
    begun.expect("reserved");
    while rig.order.has_generation_room() {
        let stamp = rig.stamp();
        let _ = rig.order.push(other, stamp, GuestChange::Zero(extent()));
    }
    assert_eq!(rig.link(None), []);
    assert!(rig.core.waits_for_room());
    assert_eq!(rig.core.deadline(), Some(rig.now.after(RETRY)));
    rig.order.detach(other);
    let effects = rig.wait(RETRY);
    assert_eq!(effects, [begins(None, ResyncReason::InitialSync, 1)]);
    assert!(!rig.core.waits_for_room());
}

#[test]
fn without_seqs_it_asks_for_some_and_tries_again_later() {
    let mut rig = Rig::with(OrderLimits::default(), 1);
    assert_eq!(rig.link(None), [Effect::Reserve]);
    assert_eq!(rig.poll(), [], "asked once");
    rig.order.extend_reservation(Seq(1 << 30));
    assert_eq!(rig.wait(RETRY / 2), []);
    assert_eq!(rig.core.deadline(), Some(rig.now.after(RETRY / 2)));
    let effects = rig.wait(RETRY / 2);
    assert_eq!(effects, [begins(None, ResyncReason::InitialSync, 1)]);
}

#[test]
fn a_server_that_holds_something_else_ends_the_order_and_a_generation_begins_on_that() {
    let mut rig = Rig::level();
    rig.write();
    let on_the_way = rig.take();
    let lost = Effect::OrderLost {
        reason: LossReason::PositionUnknown,
        because: ResyncReason::PositionUnknown,
    };
    assert_eq!(rig.link(Some(ELSEWHERE)), [lost, Effect::StopResync]);
    for packed in on_the_way {
        assert!(!rig.core.handle_packed(packed), "it leads nowhere");
    }
    let effects = rig.poll();
    let base = Some(ELSEWHERE);
    assert_eq!(
        effects[1..],
        [begins(base, ResyncReason::PositionUnknown, 2)]
    );
    assert!(matches!(effects[0], Effect::Freed { .. }));
    rig.pack();
    rig.send();
    rig.cache(1, 1);
    assert_eq!(rig.order.used(), 0, "every charge was given back");
}

#[test]
fn an_agent_whose_order_is_not_taken_begins_again() {
    let mut rig = Rig::level();
    rig.write();
    rig.pack();
    let refused = rig.send().len();
    assert_eq!(refused, 1);
    rig.core.handle_session(None, true, rig.now);
    let effects = rig.poll();
    assert!(
        effects.contains(&Effect::OrderLost {
            reason: LossReason::PositionUnknown,
            because: ResyncReason::Refused
        }),
        "{effects:?}"
    );
    let held = rig.core.source().tail();
    let effects = rig.link(held);
    assert_eq!(effects, [begins(held, ResyncReason::Refused, 2)]);
}

#[test]
fn marks_are_handed_on_and_free_what_is_cached() {
    let mut rig = Rig::begun(None);
    rig.write();
    rig.pack();
    assert_eq!(rig.send().len(), 1, "the write is in the opening's block");
    let effects = rig.cache(1, 1);
    let good = Effect::Marks(Marks {
        committed_cut: Seq(1),
        epoch: EPOCH,
    });
    assert!(matches!(effects[0], Effect::Freed { .. }));
    assert_eq!(effects[1..], [good]);
    assert_eq!(rig.order.used(), 0);
}

#[test]
fn nothing_is_believed_of_a_server_that_is_not_the_newest_or_out_of_its_mind() {
    for (bad, is_stale) in [
        (marks(Level(2), generation(1), 1, 1), true),
        (marks(EPOCH, generation(1), 0, 1), false),
        (marks(EPOCH, generation(1), 5, 5), false),
    ] {
        let mut rig = Rig::begun(None);
        rig.pack();
        rig.send();
        let effects = rig.message(bad);
        let [Effect::CloseLink { fault }] = effects[..] else {
            panic!("the link is closed and no more: {effects:?}");
        };
        let stale = matches!(fault, LinkFault::Server(Fault::OldEpoch { .. }));
        assert_eq!(stale, is_stale);
        assert_eq!(rig.cache(1, 1), [], "nothing is heard from then on");
        rig.write();
        rig.pack();
        assert!(rig.core.next_to_send().is_none(), "nothing is sent either");
    }
}

#[test]
fn a_message_that_does_not_belong_on_the_stream_closes_the_link() {
    let mut rig = Rig::begun(None);
    rig.pack();
    let refusal = ToAgent::Refusal {
        reason: RefusalReason::Busy,
        text: String::new(),
    };
    let fault = LinkFault::Misplaced;
    let effects = rig.message(refusal.clone());
    assert_eq!(effects, [Effect::CloseLink { fault }]);
    assert_eq!(rig.message(refusal), [], "nothing is heard from then on");
    assert!(rig.core.next_to_send().is_none());
    rig.core.handle_stream_lost(rig.now);
    assert_eq!(rig.wait(RETRY), [Effect::OpenStream]);
}

#[test]
fn blocks_and_questions_take_turns_once_the_opening_was_sent() {
    let mut rig = Rig::begun(Some(ELSEWHERE));
    for first_piece in [0, 256, 512] {
        rig.core.handle_question(question(1, first_piece));
    }
    assert!(rig.core.next_to_send().is_none(), "no block is there yet");
    rig.pack();
    for _ in 0..2 {
        rig.write();
        rig.pack();
    }
    let kinds: Vec<Option<u64>> = std::iter::from_fn(|| rig.core.next_to_send())
        .map(|next| match next {
            Outgoing::Block(_) => None,
            Outgoing::Compare(compare) => Some(compare.first_piece),
        })
        .collect();
    assert_eq!(kinds, [None, Some(0), None, Some(256), None, Some(512)]);
}

#[test]
fn questions_follow_each_other_where_there_is_no_block() {
    let mut rig = Rig::begun(Some(ELSEWHERE));
    rig.pack();
    rig.next_block().expect("the opening");
    for first_piece in [0, 256, 512] {
        rig.core.handle_question(question(1, first_piece));
    }
    for _ in 0..3 {
        let next = rig.core.next_to_send();
        assert!(matches!(next, Some(Outgoing::Compare(_))), "{next:?}");
    }
    assert!(rig.core.next_to_send().is_none());
}

#[test]
fn an_answer_goes_to_the_resync_that_asked_and_to_no_other() {
    let mut rig = Rig::begun(Some(ELSEWHERE));
    rig.core.handle_question(question(7, 64));
    rig.core.handle_question(question(1, 256));
    rig.pack();
    rig.next_block().expect("the opening");
    let Some(Outgoing::Compare(compare)) = rig.core.next_to_send() else {
        panic!("a question is due");
    };
    assert_eq!(compare.first_piece, 256, "nobody waits for the other");
    let answered = |request| ToAgent::Differences {
        request,
        differs: Bytes::from_static(&[1]),
    };
    assert_eq!(rig.message(answered(compare.request + 1)), []);
    let answer = Effect::Answer(Answer {
        generation: generation(1),
        first_piece: 256,
        differs: Bytes::from_static(&[1]),
    });
    assert_eq!(rig.message(answered(compare.request)), [answer]);
    assert_eq!(rig.message(answered(compare.request)), [], "once");
}

#[test]
fn a_question_survives_its_stream_and_not_its_generation() {
    let mut rig = Rig::begun(Some(ELSEWHERE));
    rig.pack();
    let opening = rig.next_block().expect("the opening").position();
    rig.core.handle_question(question(1, 256));
    let first = rig.core.next_to_send();
    assert!(matches!(first, Some(Outgoing::Compare(_))));
    assert!(rig.core.next_to_send().is_none());
    rig.link(Some(opening));
    let again = rig.core.next_to_send();
    assert!(matches!(again, Some(Outgoing::Compare(_))), "{again:?}");
    rig.lose_order();
    rig.link(Some(opening));
    assert!(rig.core.next_to_send().is_none());
}

#[test]
fn a_question_behind_a_refused_block_is_asked_again_and_behind_an_echo_is_not() {
    for (reason, is_asked_again) in [
        (RefuseReason::Corrupt, true),
        (RefuseReason::WrongBase, true),
        (RefuseReason::Gap, false),
        (RefuseReason::Stale, false),
    ] {
        let mut rig = Rig::begun(Some(ELSEWHERE));
        rig.pack();
        rig.next_block().expect("the opening");
        rig.core.handle_question(question(1, 256));
        let Some(Outgoing::Compare(first)) = rig.core.next_to_send() else {
            panic!("the question is due");
        };
        let tail = Some(ELSEWHERE);
        assert_eq!(rig.message(ToAgent::Refused { reason, tail }), []);
        rig.next_block().expect("the opening, again and first");
        let again: Vec<u64> = std::iter::from_fn(|| rig.core.next_to_send())
            .map(|next| match next {
                Outgoing::Compare(again) if again.first_piece == 256 => again.request,
                other => panic!("{reason:?}: {other:?}"),
            })
            .collect();
        let wanted: &[u64] = if is_asked_again {
            &[first.request + 1]
        } else {
            &[]
        };
        assert_eq!(again, wanted, "{reason:?}");
    }
}

#[test]
fn a_report_says_whether_there_is_a_stream_how_often_a_generation_began_and_what_waits() {
    let mut rig = Rig::level();
    let report = rig.core.report();
    assert!(report.linked && report.level && !report.unordered);
    assert_eq!(report.resync_count, 1);
    assert_eq!((report.uncommitted_since, report.unsent_bytes), (None, 0));
    rig.write();
    rig.pack();
    let report = rig.core.report();
    assert!(report.uncommitted_since.is_some() && 0 < report.unsent_bytes);
    assert_eq!(report.marks, rig.core.source().marks());

    rig.lose_order();
    assert!(rig.core.report().unordered);
    rig.send();
    rig.cache(2, 2);
    assert_eq!(rig.core.report().resync_count, 2);
    rig.core.handle_session(None, false, rig.now);
    assert!(!rig.core.report().linked);
}

#[test]
fn a_drain_is_answered_once_with_the_tail_when_everything_is_committed() {
    let mut rig = Rig::level();
    rig.write();
    rig.core.handle_drain();
    assert_eq!(rig.poll(), [Effect::StopResync], "a write is queued");
    let on_the_way = rig.take();
    assert_eq!(rig.poll(), [], "a write is being packed");
    for packed in on_the_way {
        rig.core.handle_packed(packed);
    }
    assert_eq!(rig.poll(), [], "its block is not cached");
    let tail = rig.send().pop().expect("numbered").position();
    assert_eq!(
        drained_of(&rig.cache(2, 1)),
        None,
        "cached is not committed"
    );
    assert_eq!(drained_of(&rig.cache(2, 2)), Some(Some(tail)));
    assert_eq!(rig.poll(), []);
}

#[test]
fn a_disk_that_is_not_level_or_keeps_no_order_is_drained_without_a_position() {
    let mut behind = Rig::begun(None);
    behind.pack();
    behind.send();
    behind.cache(1, 1);
    behind.core.handle_drain();
    let effects = behind.poll();
    assert_eq!(effects, [Effect::StopResync, Effect::Drained(None)]);

    let mut lost = Rig::level();
    lost.core.handle_session(None, false, lost.now);
    lost.lose_order();
    lost.core.handle_drain();
    assert_eq!(lost.poll(), [Effect::Drained(None)]);
}

#[test]
fn no_generation_begins_after_a_drain_was_asked_for_or_answered() {
    let mut rig = Rig::level();
    rig.core.handle_drain();
    assert!(matches!(rig.poll().last(), Some(Effect::Drained(Some(_)))));
    rig.link(Some(ELSEWHERE));
    assert!(rig.core.source().wanted_generation().is_some());
    assert_eq!(rig.wait(Duration::from_secs(60)), []);
    assert_eq!(rig.begun, 1);
}
