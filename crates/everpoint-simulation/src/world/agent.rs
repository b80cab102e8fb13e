//! The protected machine: guests that write, and the agent's shell as the world makes it.

mod disks;
mod packing;
mod resync;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use everpoint_agent::disk_core::effect::{Effect, Outgoing};
use everpoint_agent::disk_core::{DiskCore, DiskFacts};
use everpoint_agent::resync_core::{Need, ResyncCore, ResyncPlan, digests};
use everpoint_agent::session_core::{
    Admission, Attempt, SessionCore, SessionState, Step, announcement, answer_of, hello,
};
use everpoint_agent::start_core::begin_disk;
use everpoint_capture::{
    Batch, DiskSlot, GuestChange, LockMode, LockTicket, LossReason, OrderLimits, Pushed, RangeLock,
    Reservation, Stamp, WriteOrder,
};
use everpoint_format::record::Consistency;
use everpoint_format::{Change, PackScratch};
use everpoint_transport::CloseReason;
use everpoint_units::{BlockNo, Extent, GenerationId, Moment, Seq};
use everpoint_wire::ToAgent;

use super::disk::{Disk, bytes_of};
use super::link::{Ended, LinkId, Message, Side};
use super::oracle::{Content, Oracle, extent};
use super::plan::Shape;
use super::random::Random;
use super::{Event, MACHINE, World, disk_id};

/// Requests of a guest that are under way on one disk, at most.
const REQUESTS_MAX: usize = 4;

/// The machine: what outlives the agent's process, and the process.
pub(crate) struct Agent {
    pub(crate) disks: Vec<Disk>,
    reserved_until: Seq,
    remembered: SessionState,
    pub(crate) life_no: u32,
    pub(crate) life: Option<Life>,
    contents: Content,
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
    resync: Option<ResyncCore>,
    resync_busy: bool,
    generation: GenerationId,
    packing: VecDeque<Batch>,
    sending: bool,
    /// Through which `Seq` the disk is complete with each block that was sent.
    sent: BTreeMap<(GenerationId, BlockNo), Seq>,
    look_at: Option<Moment>,
}

/// What waits for the range lock, or for the local disk behind it.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    Guest(Extent, Kind, Content),
    Copy(Extent),
    Hole(Extent),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Data,
    Zero,
    Discard,
}

enum Phase {
    Idle,
    Greeting(LinkId),
    Admitting(LinkId, Admission),
    Open(LinkId),
}

/// What happens in the agent.
pub(crate) enum AgentEvent {
    /// A guest makes its next request of a disk.
    Guest(usize),
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
}

impl Agent {
    pub(crate) fn new(shape: &Shape, random: &mut Random, oracle: &mut Oracle) -> Self {
        let mut contents = 0;
        let disks = (0..shape.disks).map(|index| {
            let sectors = (0..shape.sectors).map(|_| match random.chance(400) {
                true => {
                    contents += 1;
                    contents
                }
                false => 0,
            });
            let sectors: Vec<Content> = sectors.collect();
            oracle.add(disk_id(index), &sectors);
            Disk::new(sectors)
        });
        let disks = disks.collect();
        Self {
            disks,
            reserved_until: Seq::ZERO,
            remembered: SessionState::default(),
            life_no: 0,
            life: None,
            contents,
        }
    }
}

impl World<'_> {
    /// Starts the agent, if it does not run.
    pub(crate) fn start_agent(&mut self) {
        if self.agent.life.is_some() {
            return;
        }
        let now = self.schedule.now();
        let shape = &self.plan.shape;
        let used = self.agent.reserved_until;
        let until = Reservation::mark_after(used).expect("far from the end");
        self.agent.reserved_until = until;
        let limits = OrderLimits {
            queue_bytes_max: shape.queue_bytes_max,
            ..OrderLimits::default()
        };
        let mut order = WriteOrder::new(limits, Reservation::new(used, until));
        let epoch = self.agent.remembered.highest_epoch;
        let disks = (0..self.agent.disks.len()).map(|index| {
            let (slot, source) = begin_disk(&mut order, epoch, None, now);
            let facts = DiskFacts {
                machine: MACHINE,
                disk: disk_id(index),
                sectors: shape.sectors,
                block_size: 512,
                name: "disk".into(),
            };
            Protected {
                slot,
                core: DiskCore::new(facts, slot, source),
                lock: RangeLock::default(),
                requests: BTreeMap::new(),
                resync: None,
                resync_busy: false,
                generation: GenerationId([0; 16]),
                packing: VecDeque::new(),
                sending: false,
                sent: BTreeMap::new(),
                look_at: None,
            }
        });
        let disks = disks.collect();
        self.agent.life = Some(Life {
            order,
            disks,
            sessions: SessionCore::new(shape.servers),
            phase: Phase::Idle,
            scratch: PackScratch::default(),
            pack_at: None,
            committed_cut: Seq::ZERO,
            reserving: false,
        });
        self.tell(|| "the agent starts".to_owned());
        for disk in 0..self.agent.disks.len() {
            self.agent_after(Duration::from_millis(1), AgentEvent::Guest(disk));
        }
        self.agent_after(Duration::from_millis(300), AgentEvent::Bookmark);
        self.agent_after(Duration::ZERO, AgentEvent::Session);
    }

    /// The agent's process dies. What was under way on the local disk happens or not.
    pub(crate) fn crash_agent(&mut self, down: Duration) -> bool {
        let Some(life) = self.agent.life.take() else {
            return false;
        };
        self.agent.life_no += 1;
        for (index, disk) in life.disks.iter().enumerate() {
            for waiting in disk.requests.values() {
                if let Waiting::Guest(extent, _, content) = waiting
                    && self.draws.guest.chance(300)
                {
                    self.agent.disks[index].write(*extent, *content);
                    self.oracle.changed(disk_id(index), *extent, *content);
                }
            }
        }
        if let Some(link) = life.phase.link() {
            self.lose_link(link);
            self.links[link].close(Side::Agent);
        }
        let event = AgentEvent::Session;
        self.schedule
            .after(down, Event::Agent(self.agent.life_no, event));
        true
    }

    fn agent_after(&mut self, delay: Duration, event: AgentEvent) {
        self.schedule
            .after(delay, Event::Agent(self.agent.life_no, event));
    }

    /// Something happens in the agent.
    pub(crate) fn agent_event(&mut self, event: AgentEvent) {
        if self.agent.life.is_none() {
            return self.start_agent();
        }
        match event {
            AgentEvent::Guest(disk) => self.guest_asks(disk),
            AgentEvent::Bookmark => self.bookmark(),
            AgentEvent::Local(disk, ticket) => self.local_done(disk, ticket),
            AgentEvent::Pack => self.pack(),
            AgentEvent::Packed(disk) => self.packed(disk),
            AgentEvent::Session => self.session(),
            AgentEvent::Look(disk) => {
                self.life().disks[disk].look_at = None;
                self.drive(disk);
            }
            AgentEvent::Sent(disk, link) => {
                if self.life().phase.is_open(link) {
                    self.life().disks[disk].sending = false;
                    self.drive(disk);
                }
            }
            AgentEvent::GreetingLate(link) => {
                if matches!(self.life().phase, Phase::Greeting(at) if at == link) {
                    self.close(link, Side::Agent, CloseReason::Unspecified);
                    self.session_ended(false, false);
                }
            }
            AgentEvent::Resync(disk) => {
                self.life().disks[disk].resync_busy = false;
                self.resync(disk);
            }
            AgentEvent::Remembered(link, state) => {
                self.agent.remembered = state;
                if let Phase::Admitting(at, admission) = &mut self.life().phase
                    && *at == link
                {
                    admission.handle_remembered();
                    self.admit();
                }
            }
            AgentEvent::Reserved(until, link) => {
                self.agent.reserved_until = self.agent.reserved_until.max(until);
                self.life().reserving = false;
                self.life().order.extend_reservation(until);
                if link.is_some() {
                    self.admit();
                }
                self.drive_all();
            }
        }
    }

    fn life(&mut self) -> &mut Life {
        self.agent.life.as_mut().expect("a running agent")
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            now: self.schedule.now(),
            at: self.wall_time(),
        }
    }

    fn guest_asks(&mut self, disk: usize) {
        let shape = &self.plan.shape;
        let think = self.draws.guest.between(1, 2 * shape.think_us);
        // Guests rest when the world is healed, after a while.
        let rest = shape.healed_at.after(Duration::from_secs(2));
        if self.schedule.now() < rest {
            self.agent_after(Duration::from_micros(think), AgentEvent::Guest(disk));
        }
        if REQUESTS_MAX <= self.life().disks[disk].requests.len() {
            return;
        }
        let sectors = self.plan.shape.sectors;
        let random = &mut self.draws.guest;
        let from = random.below(sectors);
        let len = match random.chance(100) {
            true => random.between(1, 40),
            false => random.between(1, 9),
        };
        let extent = extent(from, (from + len).min(sectors));
        let kind = match random.below(10) {
            0 => Kind::Zero,
            1 => Kind::Discard,
            _ => Kind::Data,
        };
        let content = match kind {
            Kind::Data => {
                self.agent.contents += 1;
                self.agent.contents
            }
            Kind::Zero | Kind::Discard => 0,
        };
        self.take_turn(disk, Waiting::Guest(extent, kind, content));
    }

    fn take_turn(&mut self, disk: usize, waiting: Waiting) {
        let (extent, mode) = match waiting {
            Waiting::Guest(extent, ..) => (extent, LockMode::Exclusive),
            Waiting::Copy(extent) | Waiting::Hole(extent) => (extent, LockMode::Shared),
        };
        let protected = &mut self.life().disks[disk];
        let (ticket, granted) = protected.lock.acquire(extent, mode);
        protected.requests.insert(ticket, waiting);
        if granted {
            self.local_begins(disk, ticket);
        }
    }

    fn local_begins(&mut self, disk: usize, ticket: LockTicket) {
        let delay = Duration::from_micros(self.draws.guest.between(10, 600));
        self.agent_after(delay, AgentEvent::Local(disk, ticket));
    }

    fn local_done(&mut self, disk: usize, ticket: LockTicket) {
        let waiting = self.life().disks[disk].requests.remove(&ticket);
        match waiting.expect("it holds the lock") {
            Waiting::Guest(extent, kind, content) => self.write(disk, extent, kind, content),
            Waiting::Copy(extent) => self.copy(disk, extent),
            Waiting::Hole(extent) => self.hole(disk, extent),
        }
        let mut granted = Vec::new();
        let protected = &mut self.life().disks[disk];
        protected.lock.release(ticket, |next| granted.push(next));
        for next in granted {
            self.local_begins(disk, next);
        }
        self.wake_packer();
        self.drive(disk);
    }

    /// The splitter: the local disk has done it, then `Seq` and queue, then the answer.
    fn write(&mut self, disk: usize, extent: Extent, kind: Kind, content: Content) {
        let fails = !self.healed
            && self
                .draws
                .guest
                .chance(self.plan.shape.local_error_per_mille);
        if !fails || self.draws.guest.chance(500) {
            self.agent.disks[disk].write(extent, content);
            self.oracle.changed(disk_id(disk), extent, content);
        }
        let stamp = self.stamp();
        let slot = self.life().disks[disk].slot;
        if fails {
            self.outcome.small_faults += 1;
            let lost = self
                .life()
                .order
                .lose_order(slot, LossReason::LocalError, stamp.now);
            if lost {
                self.life().disks[disk].core.handle_order_lost();
            }
            return;
        }
        let change = match kind {
            Kind::Data => {
                let sectors = usize::try_from(extent.sectors().get()).expect("few");
                GuestChange::Data {
                    extent,
                    payload: bytes_of(&vec![content; sectors]),
                }
            }
            Kind::Zero => GuestChange::Zero(extent),
            Kind::Discard => GuestChange::Discard(extent),
        };
        let pushed = self.life().order.push(slot, stamp, change);
        if matches!(pushed, Pushed::Lost { .. }) {
            self.life().disks[disk].core.handle_order_lost();
        }
        self.note_given();
    }

    fn bookmark(&mut self) {
        let delay = Duration::from_millis(self.draws.guest.between(200, 1_500));
        self.agent_after(delay, AgentEvent::Bookmark);
        let stamp = self.stamp();
        // Without order, or without `Seq`s, there is none.
        let taken = self
            .life()
            .order
            .bookmark("point", Consistency::Crash, stamp);
        if taken.is_ok() {
            self.note_given();
            self.wake_packer();
        }
    }

    fn note_given(&mut self) {
        let newest = self.life().order.newest();
        self.oracle.given(newest);
    }

    /// Why the agent is not done; `None` if every disk is level and everything is committed.
    pub(crate) fn agent_unsettled(&mut self) -> Option<String> {
        let Some(life) = &self.agent.life else {
            return Some("the agent does not run".to_owned());
        };
        if !matches!(life.phase, Phase::Open(_)) {
            return Some("no session".to_owned());
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
