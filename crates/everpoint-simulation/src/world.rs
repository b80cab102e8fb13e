//! The world: nodes, links and a store on one schedule, and what happens to them.

mod agent;
mod disk;
mod faults;
mod jobs;
mod link;
mod oracle;
pub mod plan;
mod random;
mod replica;
mod restore;
mod schedule;
mod server;
mod store;
mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use everpoint_format::digest::DigestKey;
use everpoint_units::{DiskId, MachineId, Moment, ServerId, VaultId, WallTime};

use agent::{Agent, AgentEvent};
use faults::{Conditions, Node};
use link::{Ended, Link, LinkId, Message, Side};
use oracle::Oracle;
use plan::{KINDS, Plan};
use random::Random;
use replica::{REBUILD_EVERY, ReplicaTruth};
use schedule::Schedule;
use server::{Server, ServerEvent};
use store::{Reply, Request, Store};
use target::{Asked, Change, Target};

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
    /// Faults that really happened, by class, and small ones: unclear answers, late creates, requests
    /// carried out twice, damaged blocks, stalled streams, local errors.
    pub faults: [u64; KINDS.len()],
    pub small_faults: u64,
    /// Processes that ended in the middle of something, by a fault or by themselves.
    pub crashes: u64,
    /// Points that were restored and held against the truth.
    pub restores: u64,
    /// Damage that was found and named, where a disk had lied or rotted.
    pub detected: u64,
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
    agents: Vec<Agent>,
    servers: Vec<Server>,
    links: Vec<Link>,
    store: Store,
    /// By disk, what its replica is written to.
    targets: BTreeMap<DiskId, Target>,
    /// By machine.
    replica_truths: Vec<ReplicaTruth>,
    oracle: Oracle,
    draws: Draws,
    requests: Vec<Option<Pending>>,
    conditions: Conditions,
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
    fault: Random,
    replica: Random,
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
    /// What a fault left to be done later.
    Aftermath(usize),
    Agent(usize, u32, AgentEvent),
    Server(usize, u32, ServerEvent),
    Deliver(LinkId, Side, Message),
    LinkEnds(LinkId, Side, Ended),
    /// The store carries a request out and answers.
    Store(usize),
    /// The answer is there.
    StoreAnswer(usize, Reply),
    /// A create that its client had given up.
    StoreLate(Request),
    /// A target carries a request out and answers.
    Target(Box<Asked>),
    /// A change of a target that its asker had given up.
    TargetLate(DiskId, Box<Change>),
    /// An operator thinks of a replica.
    Rebuild,
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
            fault: root.split(8),
            replica: root.split(10),
        };
        let mut oracle = Oracle::default();
        let mut holds = root.split(7);
        let agents = (0..plan.shape.machines)
            .map(|machine| Agent::new(machine, &plan.shape, &mut holds, &mut oracle));
        let agents = agents.collect();
        let servers = (0..plan.shape.servers).map(|index| Server::new(index, plan.seed));
        Self {
            plan,
            schedule: Schedule::new(),
            agents,
            servers: servers.collect(),
            links: Vec::new(),
            store: Store::default(),
            targets: BTreeMap::new(),
            replica_truths: (0..plan.shape.machines).map(ReplicaTruth::new).collect(),
            oracle,
            draws,
            requests: Vec::new(),
            conditions: Conditions::new(&plan.shape, &mut root.split(9)),
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
        self.schedule.after(REBUILD_EVERY, Event::Rebuild);
        for server in 0..self.servers.len() {
            self.start_server(server);
        }
        for machine in 0..self.agents.len() {
            self.start_agent(machine);
        }
        let end = self.plan.shape.healed_at.after(CONVERGENCE_MAX);
        while let Some(event) = self.schedule.next_before(end) {
            self.happen(event);
            self.bury_the_dying();
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
            Event::Fault(index) => self.strike(index),
            Event::Aftermath(index) => self.aftermath(index),
            Event::Agent(machine, life, event) => {
                if life == self.agents[machine].life_no {
                    self.agent_event(machine, event);
                }
            }
            Event::Server(server, life, event) => {
                if let Some(until) = self.servers[server].frozen_until(self.schedule.now()) {
                    self.schedule.at(until, Event::Server(server, life, event));
                } else if life == self.servers[server].life_no {
                    self.server_event(server, event);
                    self.bury_if_dead_at_disk(server);
                }
            }
            Event::Deliver(link, to, message) => self.deliver(link, to, message),
            Event::LinkEnds(link, side, ended) => self.link_ends(link, side, ended),
            Event::Store(index) => self.store_acts(index),
            Event::StoreAnswer(index, reply) => self.store_answers(index, reply),
            Event::StoreLate(request) => {
                self.outcome.small_faults += 1;
                let reply = self.carry_out(&request);
                self.tell(|| format!("late: {request:?} {reply:?}"));
            }
            Event::Target(asked) => self.target_acts(*asked),
            Event::TargetLate(disk, change) => self.target_late(disk, &change),
            Event::Rebuild => {
                if !self.healed {
                    self.rebuild_somewhere();
                    self.schedule.after(REBUILD_EVERY, Event::Rebuild);
                }
            }
            Event::Restore => {
                self.restore_somewhere();
                self.schedule.after(RESTORE_EVERY, Event::Restore);
            }
            Event::Heal => self.heal(),
            Event::Check => self.check_converged(),
        }
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

    // -- links --------------------------------------------------------------------------------------

    /// Sends a message from one side; it is there later, or never.
    fn send(&mut self, link: LinkId, from: Side, message: Message) {
        let node = self.links[link].node(from);
        if !self.takes_effect(node) {
            return;
        }
        let to = from.other();
        let at = self.arrival_time();
        let at = self.links[link].arrival(to, message.stream(), at);
        if self.links[link].reaches(to) && self.links[link].is_open(from) {
            self.schedule.at(at, Event::Deliver(link, to, message));
        }
    }

    /// When something that is sent now arrives. Lost packets are sent again: that takes longer.
    fn arrival_time(&mut self) -> Moment {
        let shape = &self.plan.shape;
        let mut delay = self.draws.link.below(shape.link_us_max) + 20;
        if !self.healed && self.draws.link.chance(shape.stall_per_mille) {
            self.outcome.small_faults += 1;
            delay += self.draws.link.between(1_000, 800_000);
        }
        self.schedule.now().after(Duration::from_micros(delay))
    }

    fn deliver(&mut self, link: LinkId, to: Side, message: Message) {
        if !self.links[link].reaches(to) || !self.links[link].is_open(to) {
            return;
        }
        let (server, machine) = (self.links[link].server, self.links[link].machine);
        match to {
            Side::Agent => {
                if self.links[link].agent_life == self.agents[machine].life_no {
                    self.agent_hears(machine, link, message);
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
            let at = self.arrival_time();
            let other = side.other();
            if self.links[link].reaches(other) {
                let at = self.links[link].end_arrival(other, at);
                let event = Event::LinkEnds(link, other, Ended::Closed(reason));
                self.schedule.at(at, event);
            } else {
                self.lose_link(link);
            }
        }
    }

    /// Nothing arrives any more, and both sides find out, each in its own time.
    fn lose_link(&mut self, link: LinkId) {
        for side in [Side::Agent, Side::Server] {
            self.links[link].deafen(side);
        }
        self.end_lost(link);
    }

    fn end_lost(&mut self, link: LinkId) {
        if std::mem::replace(&mut self.links[link].lost, true) {
            return;
        }
        for side in [Side::Agent, Side::Server] {
            let delay = Duration::from_millis(self.draws.link.between(1, 2_000));
            self.schedule
                .after(delay, Event::LinkEnds(link, side, Ended::Lost));
        }
    }

    fn link_ends(&mut self, link: LinkId, side: Side, ended: Ended) {
        if !self.links[link].close(side) {
            return;
        }
        let machine = self.links[link].machine;
        match side {
            Side::Agent if self.links[link].agent_life == self.agents[machine].life_no => {
                self.agent_loses_link(machine, link, ended);
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
        if !self.takes_effect(Node::Server(server)) {
            return;
        }
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
        let server = pending.server;
        let shape = &self.plan.shape;
        let (mut unclear, mut late, mut twice) = (false, false, false);
        if !self.healed {
            unclear = self.draws.store.chance(shape.unknown_per_mille);
            late = self.draws.store.chance(shape.late_per_mille);
            twice = self.draws.store.chance(shape.twice_per_mille);
        }
        let refused = self.conditions.store_refuses(server, self.schedule.now());
        let refused = refused && (!self.conditions.storms() || self.draws.store.chance(500));
        if refused || late {
            if late {
                let delay = Duration::from_millis(self.draws.store.between(10, 3_000));
                let request = pending.request.clone();
                self.schedule.after(delay, Event::StoreLate(request));
            }
            let timeout = Duration::from_millis(self.draws.store.between(50, 400));
            self.schedule
                .after(timeout, Event::StoreAnswer(index, Reply::Unknown));
            return;
        }
        let request = pending.request.clone();
        let mut reply = self.carry_out(&request);
        if twice {
            self.outcome.small_faults += 1;
            reply = self.carry_out(&request);
        }
        if unclear {
            self.outcome.small_faults += 1;
            reply = Reply::Unknown;
        }
        let delay = self.store_delay();
        self.schedule.after(delay, Event::StoreAnswer(index, reply));
    }

    fn carry_out(&mut self, request: &Request) -> Reply {
        let reply = self.store.carry_out(request);
        for (journal, successor) in self.store.fresh_seals() {
            self.oracle.sealed(journal, successor);
        }
        reply
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

    /// What a node's clock shows.
    fn wall_time(&self, node: Node) -> WallTime {
        let now = WallTime(1_700_000_000_000_000 + self.schedule.now().0 / 1_000);
        now.shifted(self.conditions.clock_offset_us(node))
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

impl Event {
    const fn code(&self) -> u64 {
        match self {
            Self::Fault(index) => 0x100 + *index as u64,
            Self::Aftermath(index) => 0x400 + *index as u64,
            Self::Agent(machine, ..) => 0x10 + *machine as u64,
            Self::Server(server, ..) => 0x200 + *server as u64,
            Self::Deliver(link, ..) => 0x1000 + *link as u64,
            Self::LinkEnds(..) => 3,
            Self::Store(index) => 0x10_0000 + *index as u64,
            Self::StoreAnswer(index, _) => 0x20_0000 + *index as u64,
            Self::StoreLate(_) => 4,
            Self::Restore => 5,
            Self::Heal => 6,
            Self::Check => 7,
            Self::TargetLate(..) => 8,
            Self::Rebuild => 9,
            Self::Target(_) => 10,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.0 as f64 / 1e9;
        write!(f, "seed {}, at {seconds:.6} s: {}", self.seed, self.what)
    }
}

fn machine_id(machine: usize) -> MachineId {
    MachineId([u8::try_from(machine).expect("few machines") + 0xa1; 16])
}

fn disk_id(machine: usize, index: usize) -> DiskId {
    let number = u8::try_from(16 * (machine + 1) + index).expect("few disks");
    DiskId([number; 16])
}

/// Whose disk that is, and which.
fn place_of(disk: DiskId) -> (usize, usize) {
    let number = usize::from(disk.0[0]);
    (number / 16 - 1, number % 16)
}

fn machine_of(id: MachineId) -> usize {
    usize::from(id.0[0] - 0xa1)
}

fn server_id(index: usize) -> ServerId {
    ServerId([u8::try_from(index).expect("few servers") + 0x51; 16])
}
