//! The world: nodes, links and a store on one schedule, and what happens to them.

mod agent;
mod disk;
mod jobs;
mod link;
mod oracle;
pub mod plan;
mod random;
mod restore;
mod schedule;
mod server;
mod store;

use std::fmt;
use std::time::Duration;

use everpoint_format::digest::DigestKey;
use everpoint_units::{DiskId, MachineId, Moment, ServerId, VaultId, WallTime};

use agent::{Agent, AgentEvent};
use link::{Ended, Link, LinkId, Message, Side};
use oracle::Oracle;
use plan::{FaultKind, KINDS, Plan};
use random::Random;
use schedule::Schedule;
use server::{Server, ServerEvent};
use store::{Reply, Request, Store};

/// The machine that is protected.
const MACHINE: MachineId = MachineId([0xaa; 16]);
const VAULT: VaultId = VaultId([0xbb; 16]);
const DIGEST_KEY: DigestKey = DigestKey([0xcc; 32]);
/// How long the healed world has to become level, committed and restorable.
const CONVERGENCE_MAX: Duration = Duration::from_secs(240);
/// How often the restore actor looks.
const RESTORE_EVERY: Duration = Duration::from_millis(700);
/// Events after which a run is taken to go in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// A broken promise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    pub seed: u64,
    pub at: Moment,
    pub what: String,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub events: u64,
    /// Faults that really happened, by class, and small ones: unclear answers, late creates, damaged
    /// blocks, local errors.
    pub faults: [u64; KINDS.len()],
    pub small_faults: u64,
    pub restores: u64,
    pub objects: u64,
    /// The same for the same plan.
    pub hash: u64,
    /// When the healed world had converged.
    pub converged_at: Moment,
}

/// Who hears what happens, line by line.
pub type Story<'a> = &'a mut dyn FnMut(String);

/// Runs a plan; `story` gets what happens, line by line.
pub fn run<'a>(plan: &'a Plan, story: Option<Story<'a>>) -> Outcome {
    let mut world = World::new(plan, story);
    world.run();
    world.outcome()
}

/// See the module.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    schedule: Schedule<Event>,
    agent: Agent,
    servers: Vec<Server>,
    links: Vec<Link>,
    store: Store,
    oracle: Oracle,
    draws: Draws,
    requests: Vec<Option<Pending>>,
    /// The store answers nothing before.
    store_down_until: Moment,
    healed: bool,
    done: bool,
    violation: Option<String>,
    outcome: Outcome,
    story: Option<Story<'a>>,
}

/// One stream of random numbers for each part.
struct Draws {
    guest: Random,
    node: Random,
    link: Random,
    store: Random,
    restore: Random,
}

/// A request to the store that somebody waits for.
struct Pending {
    server: usize,
    life: u32,
    job: u64,
    request: Request,
}

/// What happens.
enum Event {
    Fault(usize),
    Agent(u32, AgentEvent),
    Server(usize, u32, ServerEvent),
    Deliver(LinkId, Side, Message),
    LinkEnds(LinkId, Side, Ended),
    /// The store carries a request out and answers.
    Store(usize),
    /// The answer is there.
    StoreAnswer(usize, Reply),
    /// A create that its client had given up.
    StoreLate(Request),
    Restore,
    Heal,
    Check,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, story: Option<Story<'a>>) -> Self {
        let root = Random::new(plan.seed);
        let draws = Draws {
            guest: root.split(2),
            node: root.split(3),
            link: root.split(4),
            store: root.split(5),
            restore: root.split(6),
        };
        let mut oracle = Oracle::default();
        let agent = Agent::new(&plan.shape, &mut root.split(7), &mut oracle);
        let servers = (0..plan.shape.servers).map(|index| Server::new(index, plan.seed));
        Self {
            plan,
            schedule: Schedule::new(),
            agent,
            servers: servers.collect(),
            links: Vec::new(),
            store: Store::default(),
            oracle,
            draws,
            requests: Vec::new(),
            store_down_until: Moment(0),
            healed: false,
            done: false,
            violation: None,
            outcome: Outcome::default(),
            story,
        }
    }

    fn run(&mut self) {
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.schedule.at(fault.at, Event::Fault(index));
        }
        self.schedule.at(self.plan.shape.healed_at, Event::Heal);
        self.schedule.after(RESTORE_EVERY, Event::Restore);
        for server in 0..self.servers.len() {
            self.start_server(server);
        }
        self.start_agent();
        let end = self.plan.shape.healed_at.after(CONVERGENCE_MAX);
        while let Some(event) = self.schedule.next_before(end) {
            self.happen(event);
            if self.violation.is_some() || self.done {
                return;
            }
            if EVENTS_MAX < self.schedule.happened() {
                self.violate("the world goes in circles".to_owned());
            }
        }
        let state = self.unconverged().unwrap_or_default();
        for server in 0..self.servers.len() {
            let state = self.server_state(server);
            self.tell(|| state);
        }
        self.violate(format!(
            "not level, committed and restorable {} s after everything was healed: {state}",
            CONVERGENCE_MAX.as_secs()
        ));
    }

    fn happen(&mut self, event: Event) {
        self.mix(event.code());
        match event {
            Event::Fault(index) => self.strike(self.plan.faults[index].kind),
            Event::Agent(life, event) => {
                if life == self.agent.life_no {
                    self.agent_event(event);
                }
            }
            Event::Server(server, life, event) => {
                if let Some(until) = self.servers[server].frozen_until(self.schedule.now()) {
                    self.schedule.at(until, Event::Server(server, life, event));
                } else if life == self.servers[server].life_no {
                    self.server_event(server, event);
                }
            }
            Event::Deliver(link, to, message) => self.deliver(link, to, message),
            Event::LinkEnds(link, side, ended) => self.link_ends(link, side, ended),
            Event::Store(index) => self.store_acts(index),
            Event::StoreAnswer(index, reply) => self.store_answers(index, reply),
            Event::StoreLate(request) => {
                self.outcome.small_faults += 1;
                let reply = self.store.carry_out(&request);
                self.tell(|| format!("late: {request:?} {reply:?}"));
            }
            Event::Restore => {
                self.restore_somewhere();
                self.schedule.after(RESTORE_EVERY, Event::Restore);
            }
            Event::Heal => self.heal(),
            Event::Check => self.check_converged(),
        }
    }

    /// A fault strikes.
    fn strike(&mut self, kind: FaultKind) {
        let happened = match kind {
            FaultKind::AgentCrash { down } => self.crash_agent(down),
            FaultKind::ServerCrash { server, down } => {
                self.crash_server(server, down, Loss::Nothing)
            }
            FaultKind::PowerCut { server, down } => self.crash_server(server, down, Loss::Unsynced),
            FaultKind::DiskLost { server, down } => self.crash_server(server, down, Loss::Disk),
            FaultKind::Freeze { server, time } => {
                let until = self.schedule.now().after(time);
                self.servers[server].freeze(until)
            }
            FaultKind::LinkBreak => self.break_link(),
            FaultKind::StoreOutage { time } => {
                let until = self.schedule.now().after(time);
                self.store_down_until = self.store_down_until.max(until);
                true
            }
            FaultKind::SyncError { server } => self.servers[server].fail_next_sync(),
            FaultKind::NoSpace { server, time } => {
                let life = self.servers[server].life_no;
                self.schedule
                    .after(time, Event::Server(server, life, ServerEvent::SpaceIsBack));
                self.servers[server].take_space()
            }
            FaultKind::TakeOver { by, of } => self.order_take_over(by, of),
        };
        if happened {
            self.outcome.faults[kind.class()] += 1;
            self.tell(|| format!("FAULT {kind}"));
        }
    }

    /// Everything works from now on, and all that was down comes back.
    fn heal(&mut self) {
        self.tell(|| "everything is healed".to_owned());
        self.healed = true;
        self.store_down_until = Moment(0);
        for server in 0..self.servers.len() {
            self.servers[server].thaw();
            self.give_space_back(server);
            self.start_server(server);
        }
        self.start_agent();
        self.schedule.after(Duration::from_secs(1), Event::Check);
    }

    /// Ends the run when nothing is left to be done.
    fn check_converged(&mut self) {
        match self.unconverged() {
            None => {
                self.outcome.converged_at = self.schedule.now();
                self.done = true;
            }
            Some(why) => {
                self.tell(|| format!("not converged: {why}"));
                self.schedule
                    .after(Duration::from_millis(500), Event::Check);
                self.help_after_heal();
            }
        }
    }

    /// An operator looks after a machine whose owner never comes back: its disk was lost, and with it
    /// what it knew of its journals.
    fn help_after_heal(&mut self) {
        let now = self.schedule.now();
        if now < self.plan.shape.healed_at.after(Duration::from_secs(20)) {
            return;
        }
        let owned = self.servers.iter().any(|server| {
            let life = server.life.as_ref();
            life.is_some_and(|life| matches!(life.machine, server::Owned::Serves(_)))
        });
        if let (false, Some(journal)) = (owned, self.open_journal()) {
            self.take_over_lost_journal(journal);
        }
    }

    // -- links --------------------------------------------------------------------------------------

    /// Sends a message from one side; it is there later, or never.
    fn send(&mut self, link: LinkId, from: Side, message: Message) {
        let now = self.schedule.now();
        let delay = self.draws.link.below(self.plan.shape.link_us_max) + 20;
        let to = from.other();
        let at = self.links[link].arrival(to, now.after(Duration::from_micros(delay)));
        if !self.links[link].broken && self.links[link].is_open(from) {
            self.schedule.at(at, Event::Deliver(link, to, message));
        }
    }

    fn deliver(&mut self, link: LinkId, to: Side, message: Message) {
        if self.links[link].broken || !self.links[link].is_open(to) {
            return;
        }
        let server = self.links[link].server;
        match to {
            Side::Agent => {
                if self.links[link].agent_life == self.agent.life_no {
                    self.agent_hears(link, message);
                }
            }
            Side::Server => {
                let life = self.links[link].server_life;
                let event = ServerEvent::Heard(link, message);
                self.schedule
                    .after(Duration::ZERO, Event::Server(server, life, event));
            }
        }
    }

    /// One side closes; the other hears of it.
    fn close(&mut self, link: LinkId, side: Side, reason: everpoint_transport::CloseReason) {
        if self.links[link].close(side) {
            self.tell(|| format!("link {link}: {side:?} closes: {reason:?}"));
            let delay = self.draws.link.below(self.plan.shape.link_us_max) + 20;
            let at = self.schedule.now().after(Duration::from_micros(delay));
            let at = self.links[link].arrival(side.other(), at);
            let event = Event::LinkEnds(link, side.other(), Ended::Closed(reason));
            self.schedule.at(at, event);
        }
    }

    /// Both sides find out that nothing comes any more, each in its own time.
    fn lose_link(&mut self, link: LinkId) {
        self.links[link].broken = true;
        for side in [Side::Agent, Side::Server] {
            let delay = Duration::from_millis(self.draws.link.between(1, 4_000));
            self.schedule
                .after(delay, Event::LinkEnds(link, side, Ended::Lost));
        }
    }

    fn break_link(&mut self) -> bool {
        let open = (0..self.links.len())
            .rev()
            .find(|link| !self.links[*link].broken && self.links[*link].open_at_agent);
        if let Some(link) = open {
            self.lose_link(link);
        }
        open.is_some()
    }

    fn link_ends(&mut self, link: LinkId, side: Side, ended: Ended) {
        if !self.links[link].close(side) {
            return;
        }
        match side {
            Side::Agent if self.links[link].agent_life == self.agent.life_no => {
                self.agent_loses_link(link, ended);
            }
            Side::Agent => (),
            Side::Server => {
                let (server, life) = (self.links[link].server, self.links[link].server_life);
                if self.servers[server].life_no == life {
                    self.server_loses_link(server, link);
                }
            }
        }
    }

    // -- the store ----------------------------------------------------------------------------------

    /// Asks the store on behalf of a job of a server.
    fn ask_store(&mut self, server: usize, job: u64, request: Request) {
        let index = self.requests.len();
        self.requests.push(Some(Pending {
            server,
            life: self.servers[server].life_no,
            job,
            request,
        }));
        let delay = self.store_delay();
        self.schedule.after(delay, Event::Store(index));
    }

    fn store_delay(&mut self) -> Duration {
        let most = match self.healed {
            true => self.plan.shape.store_us_max.min(20_000),
            false => self.plan.shape.store_us_max,
        };
        Duration::from_micros(200 + self.draws.store.below(most) / 2)
    }

    fn store_acts(&mut self, index: usize) {
        let Some(pending) = &self.requests[index] else {
            return;
        };
        let down = self.schedule.now() < self.store_down_until;
        let unclear = !self.healed && self.draws.store.chance(self.plan.shape.unknown_per_mille);
        let late = !self.healed && self.draws.store.chance(self.plan.shape.late_per_mille);
        if down || late {
            if late {
                let delay = Duration::from_millis(self.draws.store.between(10, 4_000));
                let request = pending.request.clone();
                self.schedule.after(delay, Event::StoreLate(request));
            }
            let timeout = Duration::from_millis(self.draws.store.between(50, 400));
            self.schedule
                .after(timeout, Event::StoreAnswer(index, Reply::Unknown));
            return;
        }
        let reply = self.store.carry_out(&pending.request);
        let reply = match unclear {
            true => {
                self.outcome.small_faults += 1;
                Reply::Unknown
            }
            false => reply,
        };
        let delay = self.store_delay();
        self.schedule.after(delay, Event::StoreAnswer(index, reply));
    }

    fn store_answers(&mut self, index: usize, reply: Reply) {
        let Some(pending) = self.requests[index].take() else {
            return;
        };
        let Pending {
            server, life, job, ..
        } = pending;
        let event = ServerEvent::Answered(job, reply);
        self.schedule
            .after(Duration::ZERO, Event::Server(server, life, event));
    }

    // -- looking on ---------------------------------------------------------------------------------

    fn wall_time(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.schedule.now().0 / 1_000)
    }

    fn violate(&mut self, what: String) {
        if self.violation.is_none() {
            self.tell(|| format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.schedule.now();
        if let Some(story) = &mut self.story {
            story(format!("{:>10.6} {}", now.0 as f64 / 1e9, line()));
        }
    }

    /// Mixes what happens into the trace's hash (FNV-1a over words).
    fn mix(&mut self, word: u64) {
        for word in [self.schedule.now().0, word] {
            self.outcome.hash = (self.outcome.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn outcome(mut self) -> Outcome {
        self.outcome.events = self.schedule.happened();
        self.outcome.objects = self.store.created;
        self.outcome.violation = self.violation.map(|what| Violation {
            seed: self.plan.seed,
            at: self.schedule.now(),
            what,
        });
        self.outcome
    }
}

/// What a crash takes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// Nothing that the kernel had.
    Nothing,
    /// What was not synced, in part or whole.
    Unsynced,
    /// The disk.
    Disk,
}

impl Event {
    const fn code(&self) -> u64 {
        match self {
            Self::Fault(index) => 0x100 + *index as u64,
            Self::Agent(..) => 1,
            Self::Server(server, ..) => 0x200 + *server as u64,
            Self::Deliver(link, ..) => 0x1000 + *link as u64,
            Self::LinkEnds(..) => 3,
            Self::Store(index) => 0x10_0000 + *index as u64,
            Self::StoreAnswer(index, _) => 0x20_0000 + *index as u64,
            Self::StoreLate(_) => 4,
            Self::Restore => 5,
            Self::Heal => 6,
            Self::Check => 7,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.0 as f64 / 1e9;
        write!(f, "seed {}, at {seconds:.6} s: {}", self.seed, self.what)
    }
}

/// The id of a disk of the machine.
fn disk_id(index: usize) -> DiskId {
    DiskId([u8::try_from(index).expect("few disks") + 1; 16])
}

fn server_id(index: usize) -> ServerId {
    ServerId([u8::try_from(index).expect("few servers") + 0x51; 16])
}
