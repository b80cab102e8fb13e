//! Faults as they strike, what is broken meanwhile, and the end of all of it.

use std::time::Duration;

use everpoint_units::Moment;

use super::agent::AgentEvent;
use super::link::{Link, LinkId, Side};
use super::plan::{FaultKind, Shape};
use super::random::Random;
use super::{Event, World};

/// How long the healed world has before an operator looks after machines that nobody owns, and how long
/// until the operator looks again.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process and its machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Node {
    Agent(usize),
    Server(usize),
}

/// What a crash of a server takes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// Nothing that the kernel had.
    Nothing,
    /// What was not synced, in part or whole.
    Unsynced,
    /// The disk.
    Disk,
}

/// What is broken at the moment, outside the nodes, and what their clocks show.
pub(crate) struct Conditions {
    store_down_until: Moment,
    store_storms_until: Moment,
    storms: bool,
    /// By server.
    store_cut_until: Vec<Moment>,
    /// By machine, then server.
    parted_until: Vec<Vec<Moment>>,
    /// Machines, then servers. Unit: microseconds.
    clocks: Vec<i64>,
    machines: usize,
    /// Nodes that die behind so many more effects.
    dying: Vec<(Node, u64)>,
    /// When an operator last looked after what nobody owned.
    helped_at: Moment,
    /// A server lost what it knew of its journals, or a journal is damaged: machines may need an operator.
    pub(crate) forgotten: bool,
}

impl Conditions {
    pub(crate) fn new(shape: &Shape, random: &mut Random) -> Self {
        let skew = |random: &mut Random| {
            let most = shape.clock_skew_s_max;
            let by = random.below(2 * most + 1);
            (i64::try_from(by).expect("small") - i64::try_from(most).expect("small")) * 1_000_000
        };
        let nodes = shape.machines + shape.servers;
        Self {
            store_down_until: Moment(0),
            store_storms_until: Moment(0),
            storms: false,
            store_cut_until: vec![Moment(0); shape.servers],
            parted_until: vec![vec![Moment(0); shape.servers]; shape.machines],
            clocks: (0..nodes).map(|_| skew(random)).collect(),
            machines: shape.machines,
            dying: Vec::new(),
            helped_at: Moment(0),
            forgotten: false,
        }
    }

    /// Whether the store refuses a server's requests, all of them or, if it only storms, some.
    pub(crate) fn store_refuses(&mut self, server: usize, now: Moment) -> bool {
        let down = now < self.store_down_until.max(self.store_cut_until[server]);
        self.storms = !down && now < self.store_storms_until;
        down || self.storms
    }

    /// Whether it only storms, as of the last look.
    pub(crate) const fn storms(&self) -> bool {
        self.storms
    }

    pub(crate) fn are_parted(&self, machine: usize, server: usize, now: Moment) -> bool {
        now < self.parted_until[machine][server]
    }

    /// Whether a node has had its last effect.
    pub(crate) fn is_dead(&self, node: Node) -> bool {
        self.dying
            .iter()
            .any(|(of, left)| *of == node && *left == 0)
    }

    pub(crate) fn clock_offset_us(&self, node: Node) -> i64 {
        self.clocks[match node {
            Node::Agent(machine) => machine,
            Node::Server(server) => self.machines + server,
        }]
    }

    fn end(&mut self) {
        self.store_down_until = Moment(0);
        self.store_storms_until = Moment(0);
        self.store_cut_until.fill(Moment(0));
        self.parted_until
            .iter_mut()
            .for_each(|parted| parted.fill(Moment(0)));
        self.dying.clear();
    }
}

impl World<'_> {
    /// A fault strikes.
    pub(super) fn strike(&mut self, index: usize) {
        let fault = self.plan.faults[index].kind;
        let mut happened = self.strike_machine(index, fault);
        if happened.is_none() {
            happened = self.strike_server(index, fault);
        }
        if happened.is_none() {
            happened = self.strike_disk(index, fault);
        }
        if happened.unwrap_or_else(|| self.strike_between(fault)) {
            self.count(fault);
        } else {
            self.tell(|| format!("fault prepared, or nothing to strike: {fault}"));
        }
    }

    /// Strikes a protected machine; whether it happened, `None` if it is another's fault.
    fn strike_machine(&mut self, index: usize, fault: FaultKind) -> Option<bool> {
        let now = self.schedule.now();
        Some(match fault {
            FaultKind::AgentCrash { machine, down } => self.crash_agent(machine, down),
            FaultKind::MachinePowerCut { machine, down } => {
                self.crash_agent(machine, down);
                self.cut_power_of_machine(machine);
                true
            }
            FaultKind::AgentDies { machine, effects } => {
                self.let_die(Node::Agent(machine), effects)
            }
            FaultKind::AgentStop {
                machine,
                down,
                touched,
            } => self.stop_agent(machine, down, touched),
            FaultKind::AgentStateLost { machine, down } => {
                let ran = self.crash_agent(machine, down);
                self.lose_agent_state(machine);
                ran
            }
            FaultKind::AgentRolledBack { machine, after, .. } => {
                self.remember_agent(machine);
                self.schedule.after(after, Event::Aftermath(index));
                false
            }
            FaultKind::Burst { machine, time } => {
                self.agents[machine].bursts_until = now.after(time);
                self.agents[machine].life.is_some()
            }
            _ => return None,
        })
    }

    /// Strikes a server, or has an operator act; as above.
    fn strike_server(&mut self, index: usize, fault: FaultKind) -> Option<bool> {
        let now = self.schedule.now();
        Some(match fault {
            FaultKind::ServerCrash { server, down } => {
                self.crash_server(server, down, Loss::Nothing)
            }
            FaultKind::PowerCut { server, down } => self.crash_server(server, down, Loss::Unsynced),
            FaultKind::ServerDies { server, effects } => {
                self.let_die(Node::Server(server), effects)
            }
            FaultKind::DiskLost { server, down } => self.crash_server(server, down, Loss::Disk),
            FaultKind::ServerRolledBack { server, after } => {
                self.servers[server].remember();
                self.schedule.after(after, Event::Aftermath(index));
                false
            }
            FaultKind::Freeze { server, time } => self.servers[server].freeze(now.after(time)),
            FaultKind::SleptThroughTakeOver { server, by, time } => {
                if server != by && self.servers[server].freeze(now.after(time)) {
                    self.schedule.after(time / 4, Event::Aftermath(index));
                }
                // Counted when it is taken over.
                false
            }
            FaultKind::TakeOver { by, of } => self.order_take_over(by, of),
            _ => return None,
        })
    }

    /// Strikes the disk of a server's log; as above.
    fn strike_disk(&mut self, index: usize, fault: FaultKind) -> Option<bool> {
        let now = self.schedule.now();
        Some(match fault {
            FaultKind::ServerDiesAtDisk {
                server,
                operations,
                power,
            } => self.servers[server].die_at_disk(operations, power),
            FaultKind::SyncError { server } => self.servers[server].fail_next_sync(),
            FaultKind::SyncErrors { server, time } => {
                self.servers[server].sick_until = now.after(time);
                self.servers[server].fail_next_sync()
            }
            FaultKind::WriteError { server } => self.servers[server].fail_next_write(),
            FaultKind::NoSpace { server, time } => {
                self.schedule.after(time, Event::Aftermath(index));
                self.servers[server].take_space()
            }
            FaultKind::SlowDisk { server, time } => {
                self.servers[server].slow_until = now.after(time);
                self.servers[server].life.is_some()
            }
            FaultKind::LyingSync { server, time } => {
                self.schedule.after(time, Event::Aftermath(index));
                self.servers[server].lie()
            }
            FaultKind::LogRot { server } => self.servers[server].rot(),
            _ => return None,
        })
    }

    /// Strikes what lies between and behind them: links, the store, clocks.
    fn strike_between(&mut self, fault: FaultKind) -> bool {
        let now = self.schedule.now();
        match fault {
            FaultKind::LinkBreak { machine } => self.break_link(machine),
            FaultKind::OneWayCut { machine, to_agent } => self.cut_one_way(machine, to_agent),
            FaultKind::Partition {
                machine,
                server,
                time,
            } => {
                self.conditions.parted_until[machine][server] = now.after(time);
                self.part(machine, server)
            }
            FaultKind::StoreOutage { time } => {
                self.conditions.store_down_until = now.after(time);
                true
            }
            FaultKind::StoreCut { server, time } => {
                self.conditions.store_cut_until[server] = now.after(time);
                true
            }
            FaultKind::StoreStorm { time } => {
                self.conditions.store_storms_until = now.after(time);
                true
            }
            FaultKind::StoreRot => {
                let draw = self.draws.fault.next();
                self.conditions.forgotten = true;
                self.store.rot(draw)
            }
            FaultKind::ClockJump { node, by_s } => {
                self.conditions.clocks[node] += by_s * 1_000_000;
                true
            }
            other => unreachable!("{other} strikes a machine, a server or a disk"),
        }
    }

    fn count(&mut self, fault: FaultKind) {
        self.outcome.faults[fault.class()] += 1;
        self.tell(|| format!("FAULT {fault}"));
    }

    /// What a fault left to be done later.
    pub(super) fn aftermath(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[index].kind;
        let down = Duration::from_millis(self.draws.fault.between(1, 500));
        match fault {
            FaultKind::AgentRolledBack { machine, disks, .. } => {
                self.crash_agent(machine, down);
                if self.roll_agent_back(machine, disks) {
                    self.count(fault);
                }
            }
            FaultKind::ServerRolledBack { server, .. } => {
                self.crash_server(server, down, Loss::Nothing);
                self.oracle.forget_cached(|of| of == server);
                self.conditions.forgotten = true;
                self.servers[server].roll_back();
                self.count(fault);
            }
            FaultKind::LyingSync { server, .. } => {
                self.servers[server].stop_lying();
                self.crash_server(server, down, Loss::Unsynced);
            }
            FaultKind::NoSpace { server, .. } => self.give_space_back(server),
            FaultKind::SleptThroughTakeOver { server, by, .. } => {
                if self.order_take_over(by, server) {
                    self.count(fault);
                }
            }
            _ => unreachable!("nothing is left of {fault}"),
        }
    }

    // -- dying in the middle -------------------------------------------------------------------------

    fn let_die(&mut self, node: Node, effects: u64) -> bool {
        let runs = match node {
            Node::Agent(machine) => self.agents[machine].life.is_some(),
            Node::Server(server) => self.servers[server].life.is_some(),
        };
        if runs {
            self.conditions.dying.push((node, effects));
        }
        runs
    }

    /// A node has ended.
    pub(crate) fn bury(&mut self, node: Node) {
        self.outcome.crashes += 1;
        self.conditions.dying.retain(|(of, _)| *of != node);
    }

    /// Whether what a node does to the outside still happens: it may be dead by now.
    pub(crate) fn takes_effect(&mut self, node: Node) -> bool {
        let dying = &mut self.conditions.dying;
        let Some((_, left)) = dying.iter_mut().find(|(of, _)| *of == node) else {
            return true;
        };
        let lives = *left != 0;
        *left = left.saturating_sub(1);
        lives
    }

    /// Nodes that have had their last effect in this event.
    pub(super) fn bury_the_dying(&mut self) {
        let dead = self
            .conditions
            .dying
            .iter()
            .position(|(_, left)| *left == 0);
        if let Some(dead) = dead {
            let (node, _) = self.conditions.dying.swap_remove(dead);
            let down = Duration::from_millis(self.draws.fault.between(1, 500));
            self.tell(|| format!("{node:?} dies in the middle"));
            match node {
                Node::Agent(machine) => self.crash_agent(machine, down),
                Node::Server(server) => self.crash_server(server, down, Loss::Nothing),
            };
        }
    }

    /// A server that died in an operation of its disk.
    pub(crate) fn bury_if_dead_at_disk(&mut self, server: usize) {
        if self.servers[server].is_dead_at_disk() {
            let down = Duration::from_millis(self.draws.fault.between(1, 500));
            self.tell(|| format!("server {server} dies at its disk"));
            let loss = self.servers[server].loss_at_disk();
            self.crash_server(server, down, loss);
        }
    }

    // -- links ---------------------------------------------------------------------------------------

    fn link_of(&self, machine: usize) -> Option<LinkId> {
        let usable = |link: &Link| {
            link.machine == machine && link.open_at_agent && link.reaches(Side::Agent)
        };
        self.links.iter().rposition(usable)
    }

    fn break_link(&mut self, machine: usize) -> bool {
        let open = self.link_of(machine);
        if let Some(link) = open {
            self.lose_link(link);
        }
        open.is_some()
    }

    fn cut_one_way(&mut self, machine: usize, to_agent: bool) -> bool {
        let open = self.link_of(machine);
        if let Some(link) = open {
            let deaf = if to_agent { Side::Agent } else { Side::Server };
            self.links[link].deafen(deaf);
            self.end_lost(link);
        }
        open.is_some()
    }

    fn part(&mut self, machine: usize, server: usize) -> bool {
        let open = self.link_of(machine);
        let open = open.filter(|link| self.links[*link].server == server);
        if let Some(link) = open {
            self.lose_link(link);
        }
        open.is_some()
    }

    // -- the end of faults ----------------------------------------------------------------------------

    /// Everything works from now on, and all that was down comes back.
    pub(super) fn heal(&mut self) {
        self.tell(|| "everything is healed".to_owned());
        self.healed = true;
        self.conditions.end();
        for server in 0..self.servers.len() {
            if !self.store.rotten.is_empty() {
                // `check` found the damage; a server that is started again reads what is there.
                self.crash_server(server, Duration::ZERO, Loss::Nothing);
            }
            self.servers[server].heal();
            self.give_space_back(server);
            self.start_server(server);
        }
        for machine in 0..self.agents.len() {
            self.agents[machine].bursts_until = Moment(0);
            if self.agents[machine].stopping.is_none() {
                self.start_agent(machine);
            }
        }
        self.schedule.after(Duration::from_secs(1), Event::Check);
    }

    /// An operator looks after machines whose owner never comes back: its disk was lost, and with it
    /// what it knew of its journals. And after those whose agent has seen a higher epoch than that of its
    /// owner, because the edge to it rotted: a restart opens a higher journal. Where nothing was forgotten,
    /// nobody helps.
    pub(super) fn help_after_heal(&mut self) {
        let now = self.schedule.now();
        if !self.conditions.forgotten {
            return;
        }
        if now
            < self
                .conditions
                .helped_at
                .max(self.plan.shape.healed_at)
                .after(PATIENCE)
        {
            return;
        }
        self.conditions.helped_at = now;
        for machine in 0..self.agents.len() {
            if !self.is_owned(machine)
                && let Some(journal) = self.open_journal(machine)
            {
                self.take_over_lost_journal(journal);
            }
            if let Some(server) = self.outgrown_owner(machine) {
                let restart = Duration::from_millis(100);
                self.crash_server(server, restart, Loss::Nothing);
                return;
            }
        }
    }

    pub(crate) fn agent_after(&mut self, machine: usize, delay: Duration, event: AgentEvent) {
        let life = self.agents[machine].life_no;
        self.schedule
            .after(delay, Event::Agent(machine, life, event));
    }
}
