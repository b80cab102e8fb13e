//! Two ends in one test: the source against the real sink, over a link that breaks, with a server
//! that forgets, is rolled back, refuses and restarts, and an agent that crashes.
//!
//! Liveness: when the faults stop, everything is cached, committed and level. Safety: a correct pair
//! never sees a protocol violation or a fault, and the source never takes for cached what no server
//! ever had.

use std::collections::VecDeque;

use everpoint_format::change::ChangeBlock;
use proptest::prelude::*;

use super::*;
use crate::sink::{Refusal, Sink, Verdict};

const DISK: DiskId = DiskId([9; 16]);

#[derive(Clone, Debug)]
enum Step {
    Write,
    Complete,
    Lose,
    Send,
    /// A block is damaged on its way.
    SendDamaged,
    Deliver,
    Sync,
    Commit,
    Answer,
    Disconnect,
    Connect,
    /// The server restarts with what was durable.
    Restart,
    /// The server loses its cache log.
    LoseCache,
    AgentCrash,
    AgentRestart,
}

enum Answer {
    Marks(Level, GenerationId, BlockNo, BlockNo),
    Refused(Option<DiskPosition>, bool),
}

struct World {
    source: Source,
    /// The generation that the agent's write order is in.
    order: Option<GenerationId>,
    completed: bool,
    seq: u64,
    generation_count: u8,
    /// Blocks held by the agent, as it was told.
    held: u64,
    up: bool,
    to_server: VecDeque<Bytes>,
    to_agent: VecDeque<Answer>,
    sink: Sink,
    epoch: Level,
    /// Blocks that the server took, and how many of them are durable and committed.
    taken: Vec<ChangeBlock>,
    cached: usize,
    committed: usize,
    /// Every position that the server ever held.
    known: Vec<DiskPosition>,
}

impl World {
    fn new() -> Self {
        Self {
            source: Source::new(Level(1), NOW),
            order: None,
            completed: false,
            seq: 0,
            generation_count: 0,
            held: 0,
            up: false,
            to_server: VecDeque::new(),
            to_agent: VecDeque::new(),
            sink: Sink::new(DISK),
            epoch: Level(1),
            taken: Vec::new(),
            cached: 0,
            committed: 0,
            known: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write => self.write(vec![Change::Resize { sectors: 8 }], false),
            Step::Complete => self.complete(),
            Step::Lose if self.order.take().is_some() => {
                self.source
                    .handle_order_lost(ResyncReason::QueueOverflow, NOW);
            }
            Step::Lose => (),
            Step::Send => self.send(false),
            Step::SendDamaged => self.send(true),
            Step::Deliver => self.deliver(),
            Step::Sync => self.sync(),
            Step::Commit => self.commit(),
            Step::Answer => self.answer(),
            Step::Disconnect => self.disconnect(),
            Step::Connect => self.connect(),
            Step::Restart => self.restart(self.cached),
            Step::LoseCache => self.restart(self.committed),
            Step::AgentCrash => self.crash_agent(),
            Step::AgentRestart => self.restart_agent(),
        }
        self.drive();
    }

    /// What the agent's shell does after each event.
    fn drive(&mut self) {
        while let Some(action) = self.source.poll_action() {
            match action {
                Action::LoseOrder { .. } => self.order = None,
                Action::Freed { count, .. } => self.held -= count,
                Action::CloseLink { fault } => panic!("a correct server at fault: {fault}"),
            }
        }
        let source = &self.source;
        let ahead = source.held.iter().skip(index(source.sent - source.cached));
        let unsent: u64 = ahead.map(|block| block.encoded_len() as u64).sum();
        assert_eq!(source.unsent_bytes(), unsent);
        if let Some(floor) = self.source.floor {
            assert!(self.known.contains(&floor), "no server ever had {floor:?}");
        }
        if let Some(wanted) = self.source.wanted_generation() {
            assert!(self.order.is_none(), "order was to be lost first");
            self.generation_count += 1;
            let generation = GenerationId([self.generation_count; 16]);
            self.source.handle_begun(generation);
            self.order = Some(generation);
            self.completed = false;
            let mut opening = Vec::new();
            if wanted.base.is_none() {
                opening.push(Change::DiskBegin {
                    sectors: 8,
                    block_size: 512,
                    name: "d".into(),
                });
            }
            opening.push(Change::ResyncBegin { base: wanted.base });
            self.write(opening, false);
        }
    }

    fn write(&mut self, changes: Vec<Change>, completes: bool) {
        if self.order.is_some() {
            let count = changes.len() as u64;
            freeze(&mut self.source, self.seq, changes, completes);
            self.seq += count;
            self.held += 1;
        }
    }

    fn complete(&mut self) {
        if self.order.is_some() && !std::mem::replace(&mut self.completed, true) {
            self.write(vec![Change::ResyncComplete], true);
        }
    }

    fn send(&mut self, damaged: bool) {
        if let Some(block) = self.source.next_to_send() {
            let mut bytes = block.to_bytes().to_vec();
            if damaged {
                *bytes.last_mut().expect("not empty") ^= 1;
            }
            self.to_server.push_back(bytes.into());
        }
    }

    fn deliver(&mut self) {
        let Some(bytes) = self.to_server.pop_front() else {
            return;
        };
        let held = |sink: &Sink| sink.received().map(|received| received.position);
        let Ok(block) = ChangeBlock::decode(bytes) else {
            let refused = Answer::Refused(held(&self.sink), false);
            return self.to_agent.push_back(refused);
        };
        match self.sink.handle_block(&block) {
            Verdict::Append => {
                self.known.push(block.header().position());
                self.taken.push(block);
                self.answer_marks();
            }
            Verdict::Duplicate => self.answer_marks(),
            Verdict::Refuse(refusal) => {
                let echo = matches!(refusal, Refusal::Gap | Refusal::Stale);
                self.to_agent
                    .push_back(Answer::Refused(held(&self.sink), echo));
            }
            Verdict::Ignore => (),
            Verdict::Violation(violation) => panic!("a correct agent at fault: {violation}"),
        }
    }

    fn answer_marks(&mut self) {
        if let Some((generation, cached, committed)) = self.sink.marks() {
            let marks = Answer::Marks(self.epoch, generation, cached, committed);
            self.to_agent.push_back(marks);
        }
    }

    fn sync(&mut self) {
        for block in &self.taken[self.cached..] {
            self.sink.handle_cached(block.header().position());
        }
        self.cached = self.taken.len();
        self.answer_marks();
    }

    fn commit(&mut self) {
        for block in &self.taken[self.committed..self.cached] {
            self.sink.handle_committed(block.header().position());
        }
        self.committed = self.cached;
        self.answer_marks();
    }

    fn answer(&mut self) {
        match self.to_agent.pop_front() {
            Some(Answer::Marks(epoch, generation, cached, committed)) => {
                self.source
                    .handle_watermarks(epoch, generation, cached, committed);
            }
            Some(Answer::Refused(tail, echo)) => self.source.handle_refused(tail, echo, NOW),
            None => (),
        }
    }

    fn disconnect(&mut self) {
        self.up = false;
        // What was sent may still arrive: some of it does.
        let arrives = self.to_server.len() / 2;
        (0..arrives).for_each(|_| self.deliver());
        self.to_server.clear();
        self.to_agent.clear();
        self.source.handle_unlinked();
    }

    fn connect(&mut self) {
        if !self.up {
            self.up = true;
            self.sink.handle_session();
            self.to_agent.clear();
            let (committed, cached) = (self.sink.committed(), self.sink.cached());
            self.source
                .handle_linked(self.epoch, committed, cached, NOW);
        }
    }

    fn restart(&mut self, kept: usize) {
        self.disconnect();
        self.taken.truncate(kept);
        self.cached = kept;
        self.sink = Sink::new(DISK);
        for (index, block) in self.taken.iter().enumerate() {
            assert_eq!(self.sink.handle_block(block), Verdict::Append);
            self.sink.handle_cached(block.header().position());
            if index < self.committed {
                self.sink.handle_committed(block.header().position());
            }
        }
        self.epoch = Level(self.epoch.0 + 1);
    }

    fn crash_agent(&mut self) {
        self.disconnect();
        self.source = Source::new(self.source.epoch(), NOW);
        (self.order, self.held) = (None, 0);
        // Reservations: a new process is far above the old one.
        self.seq += 1_000;
    }

    /// A clean stop and start, if everything is as a clean stop wants it.
    fn restart_agent(&mut self) {
        let clean = self.order.is_some() && self.source.is_cached() && self.source.is_level();
        if let Some(tail) = self.source.tail().filter(|_| clean) {
            self.disconnect();
            self.source = Source::resume(self.source.epoch(), tail);
        }
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            for step in [Step::Connect, Step::Complete] {
                self.step(&step);
            }
            while !self.to_server.is_empty() || self.source.unsent_bytes() != 0 {
                self.step(&Step::Send);
                self.step(&Step::Deliver);
            }
            self.step(&Step::Sync);
            self.step(&Step::Commit);
            while !self.to_agent.is_empty() {
                self.step(&Step::Answer);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Write),
        3 => Just(Step::Complete),
        1 => Just(Step::Lose),
        12 => Just(Step::Send),
        1 => Just(Step::SendDamaged),
        12 => Just(Step::Deliver),
        5 => Just(Step::Sync),
        4 => Just(Step::Commit),
        12 => Just(Step::Answer),
        1 => Just(Step::Disconnect),
        6 => Just(Step::Connect),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseCache),
        1 => Just(Step::AgentCrash),
        2 => Just(Step::AgentRestart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// See the module.
    #[test]
    fn whatever_happens_in_the_end_everything_is_committed_and_level(
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        let source = &world.source;
        prop_assert!(source.is_cached() && source.is_committed() && source.is_level());
        prop_assert!(!source.wants_generation());
        let received = world.sink.received().expect("the disk is known");
        prop_assert_eq!(Some(received.position), source.tail());
        prop_assert!(received.level);
        prop_assert_eq!(world.sink.committed(), source.tail());
        prop_assert_eq!(world.held, 0, "every held block was given back");
    }
}
