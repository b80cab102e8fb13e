//! The agent's session: which server, the hello, what is remembered before disks go on.

use everpoint_units::Level;

use super::*;

impl World<'_> {
    pub(super) fn session(&mut self, machine: usize) {
        let now = self.schedule.now();
        let life = self.life(machine);
        if !matches!(life.phase, Phase::Idle) {
            return;
        }
        match life.sessions.attempt(now) {
            Attempt::Until(at) => {
                let event =
                    Event::Agent(machine, self.agents[machine].life_no, AgentEvent::Session);
                self.schedule.at(at, event);
            }
            Attempt::Server(server) => self.connect(machine, server),
        }
    }

    pub(super) fn connect(&mut self, machine: usize, server: usize) {
        let Some(link) = self.begin_link(machine, server) else {
            let now = self.schedule.now();
            let jitter = self.draws.node.fraction();
            self.life(machine).sessions.handle_failed(now, jitter);
            // A refused connection takes its time, too.
            return self.agent_after(machine, Duration::from_millis(2), AgentEvent::Session);
        };
        self.life(machine).phase = Phase::Greeting(link);
        let count = u32::try_from(self.plan.shape.disks).expect("few disks");
        let clock = self.wall_time(Node::Agent(machine));
        let hello = hello(
            machine_id(machine),
            self.agents[machine].state.session,
            announcement(count),
            clock,
        );
        self.send(link, Side::Agent, Message::Hello(hello));
        // Whoever says nothing for long is left.
        let delay = Duration::from_secs(10);
        self.agent_after(machine, delay, AgentEvent::GreetingLate(link));
    }

    /// A link said something to the agent.
    pub(crate) fn agent_hears(&mut self, machine: usize, link: LinkId, message: Message) {
        if self.agents[machine].life.is_none() {
            return;
        }
        let now = self.schedule.now();
        match message {
            Message::Greeting(answer) => self.greeted(machine, link, answer),
            Message::Said(disk, said) if self.life(machine).phase.is_open(link) => {
                let (_, index) = place_of(disk);
                let core = &mut self.life(machine).disks[index].core;
                let before = core.source().marks();
                match said {
                    ToAgent::DiskState(state) => core.handle_opened(state, now),
                    said => core.handle_message(said, now),
                }
                // Before the server has stated what it holds, and while a generation is given up because that was
                // less than was said before, the marks are those of an earlier session.
                let source = core.source();
                let (linked, given_up) = (core.is_linked(), source.wants_generation());
                if linked && (!given_up || source.marks() != before) {
                    self.note_cached(machine, link, index);
                }
                self.drive(machine, index);
            }
            _ => (),
        }
    }

    /// What the agent believes to be cached, and therefore holds no longer: the server has to have it.
    pub(super) fn note_cached(&mut self, machine: usize, link: LinkId, disk: usize) {
        let server = self.links[link].server;
        let life = self.servers[server].life.as_ref();
        let journal = life.and_then(|life| life.journal);
        if journal.is_none_or(|journal| self.store.is_sealed(journal)) {
            // It was taken over, or is about to know: its log is worth nothing any more.
            return;
        }
        let protected = &self.life(machine).disks[disk];
        let Some(marks) = protected.core.source().marks() else {
            return;
        };
        let cached = (marks.generation, marks.cached);
        if let Some(through) = protected.sent.get(&cached).copied() {
            let truth = self.oracle.of(machine);
            let known = truth.cached.entry((server, disk));
            let known = known.or_insert(Seq::ZERO);
            *known = through.max(*known);
        }
    }

    pub(super) fn greeted(&mut self, machine: usize, link: LinkId, answer: ToAgent) {
        let remembered = self.agents[machine].state.session;
        let admitted = answer_of(answer).and_then(|answer| Admission::check(&answer, remembered));
        match admitted {
            Ok(admission) => {
                self.life(machine).phase = Phase::Admitting(link, admission);
                self.admit(machine);
            }
            Err(error) => {
                self.tell(|| format!("agent {machine}: no session: {error}"));
                self.close(link, Side::Agent, CloseReason::Unspecified);
                self.session_ended(machine, false, false);
            }
        }
    }

    pub(super) fn remembered(&mut self, machine: usize, link: LinkId, state: SessionState) {
        if !self.takes_effect(Node::Agent(machine)) {
            return;
        }
        self.agents[machine].state.session = state;
        if let Phase::Admitting(at, admission) = &mut self.life(machine).phase
            && *at == link
        {
            admission.handle_remembered();
            self.admit(machine);
        }
    }

    pub(super) fn admit(&mut self, machine: usize) {
        let now = self.schedule.now();
        let life = self.life(machine);
        let Phase::Admitting(link, admission) = &life.phase else {
            return;
        };
        let link = *link;
        match admission.step(&mut life.order, now) {
            Step::Remember(state) => {
                let delay = Duration::from_micros(self.draws.node.between(100, 5_000));
                self.agent_after(machine, delay, AgentEvent::Remembered(link, state));
            }
            Step::Reserve(mark) => self.reserve(machine, Some((link, mark))),
            Step::Open { epoch, lost } => {
                life.phase = Phase::Open(link);
                self.believed(machine, epoch);
                let life = self.life(machine);
                for disk in &mut life.disks {
                    if lost.contains(&disk.slot) {
                        disk.core.handle_order_lost();
                    }
                    disk.sending = false;
                    disk.core.handle_session(Some(epoch), false, now);
                }
                self.tell(|| format!("agent {machine}: session on link {link}, epoch {}", epoch.0));
                self.drive_all(machine);
            }
        }
    }

    /// The agent begins a session with a server of this epoch (R12).
    fn believed(&mut self, machine: usize, epoch: Level) {
        if !self.oracle.of(machine).believes(epoch) {
            self.violate(format!(
                "agent {machine} believes a server of epoch {} after one of a later",
                epoch.0
            ));
        }
    }

    /// The agent hears that its link is gone.
    pub(crate) fn agent_loses_link(&mut self, machine: usize, link: LinkId, ended: Ended) {
        if self.agents[machine].life.is_none() || self.life(machine).phase.link() != Some(link) {
            return;
        }
        let was_open = self.life(machine).phase.is_open(link);
        let accused = ended == Ended::Closed(CloseReason::Order);
        self.session_ended(machine, was_open, accused);
    }

    pub(super) fn session_ended(&mut self, machine: usize, was_open: bool, accused: bool) {
        let now = self.schedule.now();
        let jitter = self.draws.node.fraction();
        let life = self.life(machine);
        life.phase = Phase::Idle;
        if was_open {
            life.sessions.handle_ended(now, jitter);
            for disk in &mut life.disks {
                disk.core.handle_session(None, accused, now);
                disk.sending = false;
            }
            self.drive_all(machine);
        } else {
            life.sessions.handle_failed(now, jitter);
        }
        self.session(machine);
    }
}
