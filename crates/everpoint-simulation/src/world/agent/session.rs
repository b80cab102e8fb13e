//! The agent's session: which server, the hello, what is remembered before disks go on.

use super::*;

impl World<'_> {
    pub(super) fn session(&mut self) {
        let now = self.schedule.now();
        let life = self.life();
        if !matches!(life.phase, Phase::Idle) {
            return;
        }
        match life.sessions.attempt(now) {
            Attempt::Until(at) => {
                let event = Event::Agent(self.agent.life_no, AgentEvent::Session);
                self.schedule.at(at, event);
            }
            Attempt::Server(server) => self.connect(server),
        }
    }

    pub(super) fn connect(&mut self, server: usize) {
        let Some(link) = self.begin_link(server) else {
            let now = self.schedule.now();
            let jitter = self.draws.node.fraction();
            self.life().sessions.handle_failed(now, jitter);
            // A refused connection takes its time, too.
            return self.agent_after(Duration::from_millis(2), AgentEvent::Session);
        };
        self.life().phase = Phase::Greeting(link);
        let count = u32::try_from(self.agent.disks.len()).expect("few disks");
        let clock = self.wall_time();
        let hello = hello(MACHINE, self.agent.remembered, announcement(count), clock);
        self.send(link, Side::Agent, Message::Hello(hello));
        // Whoever says nothing for long is left.
        let delay = Duration::from_secs(10);
        self.agent_after(delay, AgentEvent::GreetingLate(link));
    }

    /// A link said something to the agent.
    pub(crate) fn agent_hears(&mut self, link: LinkId, message: Message) {
        if self.agent.life.is_none() {
            return;
        }
        let now = self.schedule.now();
        match message {
            Message::Greeting(answer) => self.greeted(link, answer),
            Message::Said(disk, said) if self.life().phase.is_open(link) => {
                let ids = (0..self.agent.disks.len()).map(disk_id);
                let index = ids.into_iter().position(|id| id == disk);
                let index = index.expect("a disk of this machine");
                let core = &mut self.life().disks[index].core;
                match said {
                    ToAgent::DiskState(state) => core.handle_opened(state, now),
                    said => core.handle_message(said, now),
                }
                self.note_cached(link, index);
                self.drive(index);
            }
            _ => (),
        }
    }

    /// What the agent believes to be cached, and therefore holds no longer: the server has to have it.
    pub(super) fn note_cached(&mut self, link: LinkId, disk: usize) {
        let server = self.links[link].server;
        let life = self.servers[server].life.as_ref();
        let journal = life.and_then(|life| life.journal);
        if journal.is_none_or(|journal| self.store.is_sealed(journal)) {
            // It was taken over, or is about to know: its log is worth nothing any more.
            return;
        }
        let protected = &self.life().disks[disk];
        let Some(marks) = protected.core.source().marks() else {
            return;
        };
        let cached = (marks.generation, marks.cached);
        if let Some(through) = protected.sent.get(&cached).copied() {
            let known = self.oracle.cached.entry((server, disk_id(disk)));
            let known = known.or_insert(Seq::ZERO);
            *known = through.max(*known);
        }
    }

    pub(super) fn greeted(&mut self, link: LinkId, answer: ToAgent) {
        let remembered = self.agent.remembered;
        let admitted = answer_of(answer).and_then(|answer| Admission::check(&answer, remembered));
        match admitted {
            Ok(admission) => {
                self.life().phase = Phase::Admitting(link, admission);
                self.admit();
            }
            Err(error) => {
                self.tell(|| format!("no session: {error}"));
                self.close(link, Side::Agent, CloseReason::Unspecified);
                self.session_ended(false, false);
            }
        }
    }

    pub(super) fn admit(&mut self) {
        let now = self.schedule.now();
        let life = self.life();
        let Phase::Admitting(link, admission) = &life.phase else {
            return;
        };
        let link = *link;
        match admission.step(&mut life.order, now) {
            Step::Remember(state) => {
                let delay = Duration::from_micros(self.draws.node.between(100, 5_000));
                self.agent_after(delay, AgentEvent::Remembered(link, state));
            }
            Step::Reserve(mark) => self.reserve(Some((link, mark))),
            Step::Open { epoch, lost } => {
                life.phase = Phase::Open(link);
                for disk in &mut life.disks {
                    if lost.contains(&disk.slot) {
                        disk.core.handle_order_lost();
                    }
                    disk.sending = false;
                    disk.core.handle_session(Some(epoch), false, now);
                }
                self.tell(|| format!("session on link {link}, epoch {}", epoch.0));
                self.drive_all();
            }
        }
    }

    /// The agent hears that its link is gone.
    pub(crate) fn agent_loses_link(&mut self, link: LinkId, ended: Ended) {
        if self.agent.life.is_none() || self.life().phase.link() != Some(link) {
            return;
        }
        let was_open = self.life().phase.is_open(link);
        let accused = ended == Ended::Closed(CloseReason::Order);
        self.session_ended(was_open, accused);
    }

    pub(super) fn session_ended(&mut self, was_open: bool, accused: bool) {
        let now = self.schedule.now();
        let jitter = self.draws.node.fraction();
        let life = self.life();
        life.phase = Phase::Idle;
        if was_open {
            life.sessions.handle_ended(now, jitter);
            for disk in &mut life.disks {
                disk.core.handle_session(None, accused, now);
                disk.sending = false;
            }
            self.drive_all();
        } else {
            life.sessions.handle_failed(now, jitter);
        }
        self.session();
    }
}
