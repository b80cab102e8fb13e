//! A protected machine: guests that write, and the agent's shell as the world makes it.

mod disks;
mod guests;
mod packing;
mod resync;
mod session;
mod stop;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use everpoint_agent::disk_core::effect::{Effect, Outgoing};
use everpoint_agent::disk_core::report::DiskStateWord;
use everpoint_agent::disk_core::{DiskCore, DiskFacts};
use everpoint_agent::resync_core::{Need, ResyncCore, ResyncPlan, digests};
use everpoint_agent::session_core::{
    Admission, Attempt, SessionCore, SessionState, Step, announcement, answer_of, hello,
};
use everpoint_agent::start_core::{Stood, begin_disk, resumed};
use everpoint_capture::{
    Batch, DiskSlot, GuestChange, LockMode, LockTicket, LossReason, OrderLimits, Pushed, RangeLock,
    Reservation, ResyncRoom, Stamp, WriteOrder,
};
use everpoint_format::record::Consistency;
use everpoint_format::{Change, PackScratch};
use everpoint_transport::CloseReason;
use everpoint_units::{BlockNo, Extent, GenerationId, Level, Moment, Seq};
use everpoint_wire::ToAgent;

use super::disk::{Disk, bytes_of};
use super::faults::Node;
use super::link::{Ended, LinkId, Message, Side};
use super::oracle::{Content, Oracle, extent};
use super::plan::Shape;
use super::random::Random;
use super::{Event, World, disk_id, machine_id, place_of};
use guests::Waiting;
use stop::Stopping;

/// A machine: what outlives the agent's process, and the process.
pub(crate) struct Agent {
    pub(crate) disks: Vec<Disk>,
    state: StateDir,
    /// Its state and disks as they once were.
    remembered: Option<(StateDir, Vec<Disk>)>,
    pub(crate) life_no: u32,
    pub(crate) life: Option<Life>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) bursts_until: Moment,
    contents: Content,
}

/// What the agent has written down durably.
#[derive(Clone, Default)]
struct StateDir {
    reserved_until: Seq,
    session: SessionState,
    /// Where each disk stood at a stop in good order, until the next start.
    clean: Vec<Option<Stood<u64>>>,
}

/// A running agent.
pub(crate) struct Life {
    order: WriteOrder,
    pub(crate) disks: Vec<Protected>,
    sessions: SessionCore,
    phase: Phase,
    scratch: PackScratch,
    pack_at: Option<Moment>,
    pub(crate) committed_cut: Seq,
    reserving: bool,
}

/// One protected disk.
pub(crate) struct Protected {
    slot: DiskSlot,
    pub(crate) core: DiskCore,
    lock: RangeLock,
    requests: BTreeMap<LockTicket, Waiting>,
    /// What copies that hold the lock have read.
    read: BTreeMap<LockTicket, Bytes>,
    resync: Option<ResyncCore>,
    resync_busy: bool,
    /// For what the resync reads next.
    room: Option<ResyncRoom>,
    generation: GenerationId,
    packing: VecDeque<Batch>,
    sending: bool,
    /// Through which `Seq` the disk is complete with each block that was sent.
    sent: BTreeMap<(GenerationId, BlockNo), Seq>,
    look_at: Option<Moment>,
}

/// What an agent says of a disk.
pub(crate) struct Report {
    pub(crate) word: DiskStateWord,
    pub(crate) lag: Duration,
}

enum Phase {
    Idle,
    Greeting(LinkId),
    Admitting(LinkId, Admission),
    Open(LinkId),
}

/// What happens in an agent.
pub(crate) enum AgentEvent {
    /// Its supervisor starts it, if it does not run.
    Start,
    /// A guest makes its next request of a disk.
    Guest(usize),
    /// A guest has its disk made durable.
    Flush(usize),
    Bookmark,
    /// The local disk has done what was asked.
    Local(usize, LockTicket),
    Pack,
    Packed(usize),
    /// Is a session to be begun?
    Session,
    /// Is there something to be done for a disk?
    Look(usize),
    Sent(usize, LinkId),
    /// The server has had long enough to answer.
    GreetingLate(LinkId),
    Resync(usize),
    /// A state file is durable.
    Remembered(LinkId, SessionState),
    Reserved(Seq, Option<LinkId>),
    /// Is everything done that a stop waits for?
    Stop,
}

impl Agent {
    pub(crate) fn new(
        machine: usize,
        shape: &Shape,
        random: &mut Random,
        oracle: &mut Oracle,
    ) -> Self {
        // Every machine's writes have numbers of their own.
        let mut contents = machine as u64 * 1_000_000_000;
        oracle.add_machine();
        let disks = (0..shape.disks).map(|_| {
            // Runs of data and holes longer than a piece, and single sectors of the other kind in both.
            let mut filled = false;
            let sectors = (0..shape.sectors).map(|sector| {
                if sector % 24 == 0 {
                    filled = random.chance(500);
                }
                if random.chance(if filled { 900 } else { 20 }) {
                    contents += 1;
                    contents
                } else {
                    0
                }
            });
            let sectors: Vec<Content> = sectors.collect();
            oracle.of(machine).add(&sectors);
            Disk::new(sectors)
        });
        let disks = disks.collect();
        Self {
            disks,
            state: StateDir::default(),
            remembered: None,
            life_no: 0,
            life: None,
            stopping: None,
            bursts_until: Moment(0),
            contents,
        }
    }

    /// The highest epoch that it has seen, as its state directory has it (R12).
    pub(crate) fn highest_epoch(&self) -> Level {
        self.state.session.highest_epoch
    }
}

impl World<'_> {
    /// Starts an agent, if it does not run.
    pub(crate) fn start_agent(&mut self, machine: usize) {
        let agent = &mut self.agents[machine];
        if agent.life.is_some() {
            return;
        }
        agent.stopping = None;
        let now = self.schedule.now();
        let shape = &self.plan.shape;
        let used = agent.state.reserved_until;
        let until = Reservation::mark_after(used).expect("far from the end");
        agent.state.reserved_until = until;
        let limits = OrderLimits {
            queue_bytes_max: shape.queue_bytes_max,
            ..OrderLimits::default()
        };
        let mut order = WriteOrder::new(limits, Reservation::new(used, until));
        let epoch = agent.state.session.highest_epoch;
        // From here on guests write: what a stop left counts once.
        let clean = std::mem::take(&mut agent.state.clean);
        let disks = agent.disks.iter().enumerate().map(|(index, disk)| {
            let stood = clean.get(index).and_then(Option::as_ref);
            let resumed = resumed(stood, Some(&disk.version()));
            let (slot, source) = begin_disk(&mut order, epoch, resumed, now);
            let facts = DiskFacts {
                machine: machine_id(machine),
                disk: disk_id(machine, index),
                sectors: shape.sectors,
                block_size: 512,
                name: "disk".into(),
            };
            Protected::new(DiskCore::new(facts, slot, source), slot, resumed.is_some())
        });
        let disks: Vec<Protected> = disks.collect();
        let resumed = disks.iter().filter(|disk| disk.core.source().is_level());
        let resumed = resumed.map(|disk| self.oracle.of(machine).writes(disk.generation));
        let resumed = resumed.count();
        agent.life = Some(Life {
            order,
            disks,
            sessions: SessionCore::new(shape.servers),
            phase: Phase::Idle,
            scratch: PackScratch::default(),
            pack_at: None,
            committed_cut: Seq::ZERO,
            reserving: false,
        });
        self.tell(|| format!("agent {machine} starts, {resumed} disks go on where they stood"));
        for disk in 0..self.plan.shape.disks {
            self.agent_after(machine, Duration::from_millis(1), AgentEvent::Guest(disk));
        }
        self.agent_after(machine, Duration::from_millis(200), AgentEvent::Bookmark);
        self.agent_after(machine, Duration::ZERO, AgentEvent::Session);
    }

    /// An agent's process dies. What was under way on the local disk happens or not.
    pub(crate) fn crash_agent(&mut self, machine: usize, down: Duration) -> bool {
        self.agents[machine].life_no += 1;
        self.agent_after(machine, down, AgentEvent::Start);
        let Some(life) = self.agents[machine].life.take() else {
            return false;
        };
        self.bury(Node::Agent(machine));
        for (disk, protected) in life.disks.iter().enumerate() {
            for waiting in protected.requests.values() {
                if let Waiting::Guest {
                    extent,
                    content,
                    written,
                    ..
                } = waiting
                    && (*written || self.draws.guest.chance(300))
                {
                    self.disk_changes(machine, disk, *extent, *content);
                }
            }
        }
        if let Some(link) = life.phase.link() {
            self.lose_link(link);
            self.links[link].close(Side::Agent);
        }
        true
    }

    /// What a local disk had not flushed is lost, in part or whole.
    pub(crate) fn cut_power_of_machine(&mut self, machine: usize) {
        let now = self.schedule.now();
        for disk in 0..self.plan.shape.disks {
            let lost = self.agents[machine].disks[disk].cut_power(&mut self.draws.guest);
            for (extent, content) in lost {
                self.oracle.of(machine).changed(disk, extent, content, now);
            }
        }
    }

    /// The local disk changes, and that is the truth from now on.
    fn disk_changes(&mut self, machine: usize, disk: usize, extent: Extent, content: Content) {
        let now = self.schedule.now();
        self.agents[machine].disks[disk].write(extent, content);
        self.oracle.of(machine).changed(disk, extent, content, now);
    }

    /// Something happens in an agent.
    pub(crate) fn agent_event(&mut self, machine: usize, event: AgentEvent) {
        if self.agents[machine].life.is_none() {
            if matches!(event, AgentEvent::Start) {
                self.start_agent(machine);
            }
            return;
        }
        match event {
            AgentEvent::Start => (),
            AgentEvent::Guest(disk) => self.guest_asks(machine, disk),
            AgentEvent::Flush(disk) => self.agents[machine].disks[disk].flush(),
            AgentEvent::Bookmark => self.bookmark(machine),
            AgentEvent::Local(disk, ticket) => self.local_done(machine, disk, ticket),
            AgentEvent::Pack => self.pack(machine),
            AgentEvent::Packed(disk) => self.packed(machine, disk),
            AgentEvent::Session => self.session(machine),
            AgentEvent::Look(disk) => {
                self.life(machine).disks[disk].look_at = None;
                self.drive(machine, disk);
            }
            AgentEvent::Sent(disk, link) => {
                if self.life(machine).phase.is_open(link) {
                    self.life(machine).disks[disk].sending = false;
                    self.drive(machine, disk);
                }
            }
            AgentEvent::GreetingLate(link) => {
                if matches!(self.life(machine).phase, Phase::Greeting(at) if at == link) {
                    self.close(link, Side::Agent, CloseReason::Unspecified);
                    self.session_ended(machine, false, false);
                }
            }
            AgentEvent::Resync(disk) => {
                self.life(machine).disks[disk].resync_busy = false;
                self.resync(machine, disk);
            }
            AgentEvent::Remembered(link, state) => self.remembered(machine, link, state),
            AgentEvent::Reserved(until, link) => self.reserved(machine, until, link.is_some()),
            AgentEvent::Stop => self.stop_goes_on(machine),
        }
    }

    fn life(&mut self, machine: usize) -> &mut Life {
        self.agents[machine].life.as_mut().expect("a running agent")
    }

    fn stamp(&self, machine: usize) -> Stamp {
        Stamp {
            now: self.schedule.now(),
            at: self.wall_time(Node::Agent(machine)),
        }
    }

    fn note_given(&mut self, machine: usize) {
        let newest = self.life(machine).order.newest();
        self.oracle.of(machine).given(newest);
    }

    /// What an agent says of a disk; `None` if it does not run.
    pub(crate) fn report(&self, machine: usize, disk: usize) -> Option<Report> {
        let life = self.agents[machine].life.as_ref()?;
        let protected = &life.disks[disk];
        let report = protected.core.report();
        let queued = life.order.figures(protected.slot);
        let queued = queued.and_then(|figures| figures.oldest);
        Some(Report {
            word: report.state(false),
            lag: report.lag(queued, self.schedule.now()),
        })
    }

    /// Why an agent is not done; `None` if every disk is level and everything is committed.
    pub(crate) fn agent_unsettled(&mut self, machine: usize) -> Option<String> {
        let Some(life) = &self.agents[machine].life else {
            return Some(format!("agent {machine} does not run"));
        };
        if !matches!(life.phase, Phase::Open(_)) {
            return Some(format!("agent {machine} has no session"));
        }
        let undone = life.disks.iter().position(|disk| {
            let source = disk.core.source();
            let committed = source.is_cached() && source.is_committed();
            let figures = life.order.figures(disk.slot);
            let waits = figures.is_none_or(|figures| figures.waiting_bytes != 0);
            !source.is_level() || !committed || waits || !disk.requests.is_empty()
        });
        undone.map(|disk| {
            let disk = &life.disks[disk];
            format!(
                "a disk is not level or not committed: {:?}; level {}, resync busy {}: {:?}",
                disk.core.source().marks(),
                disk.core.source().is_level(),
                disk.resync_busy,
                disk.resync,
            )
        })
    }
}

impl Protected {
    fn new(core: DiskCore, slot: DiskSlot, resumed: bool) -> Self {
        let place = core.source().place().filter(|_| resumed);
        Self {
            slot,
            core,
            lock: RangeLock::default(),
            requests: BTreeMap::new(),
            read: BTreeMap::new(),
            resync: None,
            resync_busy: false,
            room: None,
            generation: place.map_or(GenerationId([0; 16]), |place| place.generation),
            packing: VecDeque::new(),
            sending: false,
            sent: BTreeMap::new(),
            look_at: None,
        }
    }
}

impl Phase {
    const fn link(&self) -> Option<LinkId> {
        match self {
            Self::Idle => None,
            Self::Greeting(link) | Self::Admitting(link, _) | Self::Open(link) => Some(*link),
        }
    }

    fn is_open(&self, link: LinkId) -> bool {
        matches!(self, Self::Open(at) if *at == link)
    }
}
