//! Guests: their requests take turns on the local disk, and get their place in the order.

use super::*;

/// Requests of a guest that are under way on one disk, at most.
const REQUESTS_MAX: usize = 4;
/// A queue may be over its budget by what the agent itself adds. Unit: bytes.
const OWN_CHANGES_MAX: u64 = 64 << 10;
/// How much faster a guest writes in a burst.
const BURST: u64 = 40;

/// What waits for the range lock, or for the local disk behind it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    Guest {
        extent: Extent,
        kind: Kind,
        content: Content,
        /// The local disk has it already, and has not said so.
        written: bool,
    },
    Copy(Extent),
    Hole(Extent),
    Settle(Extent),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Data,
    Zero,
    Discard,
}

impl World<'_> {
    pub(super) fn guest_asks(&mut self, machine: usize, disk: usize) {
        let shape = &self.plan.shape;
        let now = self.schedule.now();
        let bursts = now < self.agents[machine].bursts_until;
        let think = self.draws.guest.between(1, 2 * shape.think_us);
        let think = if bursts { think / BURST } else { think };
        if self.guests_are_awake() {
            let think = Duration::from_micros(think);
            self.agent_after(machine, think, AgentEvent::Guest(disk));
        }
        if self.agents[machine].stopping.is_some()
            || REQUESTS_MAX <= self.life(machine).disks[disk].requests.len()
        {
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
        let kind = match random.below(12) {
            0 => Kind::Zero,
            1 => Kind::Discard,
            2 => {
                let takes = Duration::from_micros(random.between(100, 3_000));
                return self.agent_after(machine, takes, AgentEvent::Flush(disk));
            }
            _ => Kind::Data,
        };
        let content = match kind {
            Kind::Data => {
                self.agents[machine].contents += 1;
                self.agents[machine].contents
            }
            Kind::Zero | Kind::Discard => 0,
        };
        let waiting = Waiting::Guest {
            extent,
            kind,
            content,
            written: false,
        };
        self.take_turn(machine, disk, waiting);
    }

    /// Guests rest when the world is healed, after a while.
    fn guests_are_awake(&self) -> bool {
        let rest = self.plan.shape.healed_at.after(Duration::from_secs(1));
        self.schedule.now() < rest
    }

    pub(super) fn take_turn(&mut self, machine: usize, disk: usize, waiting: Waiting) {
        let (extent, mode) = match waiting {
            Waiting::Guest { extent, .. } => (extent, LockMode::Exclusive),
            Waiting::Copy(extent) | Waiting::Hole(extent) | Waiting::Settle(extent) => {
                (extent, LockMode::Shared)
            }
        };
        let protected = &mut self.life(machine).disks[disk];
        let (ticket, granted) = protected.lock.acquire(extent, mode);
        protected.requests.insert(ticket, waiting);
        if granted {
            self.local_begins(machine, disk, ticket);
        }
    }

    /// The local disk begins what has the lock: it reads at once, and writes now or later.
    fn local_begins(&mut self, machine: usize, disk: usize, ticket: LockTicket) {
        let delay = Duration::from_micros(self.draws.guest.between(10, 600));
        let early = self.draws.guest.chance(500);
        let agent = &mut self.agents[machine];
        let life = agent.life.as_mut().expect("a running agent");
        let protected = &mut life.disks[disk];
        match protected.requests.get_mut(&ticket) {
            Some(Waiting::Copy(extent)) => {
                let bytes = agent.disks[disk].read(*extent);
                protected.read.insert(ticket, bytes);
            }
            Some(Waiting::Guest {
                extent,
                content,
                written,
                ..
            }) if early => {
                // It is true of the disk at a `Seq` only once it has one.
                *written = true;
                agent.disks[disk].write(*extent, *content);
            }
            _ => (),
        }
        self.agent_after(machine, delay, AgentEvent::Local(disk, ticket));
    }

    pub(super) fn local_done(&mut self, machine: usize, disk: usize, ticket: LockTicket) {
        let waiting = self.life(machine).disks[disk].requests.remove(&ticket);
        match waiting.expect("it holds the lock") {
            Waiting::Guest {
                extent,
                kind,
                content,
                written,
            } => self.write(machine, disk, (extent, kind, content), written),
            Waiting::Copy(extent) => {
                let bytes = self.life(machine).disks[disk].read.remove(&ticket);
                self.copy(machine, disk, extent, &bytes.expect("it was read"));
            }
            Waiting::Hole(extent) => self.hole(machine, disk, extent),
            Waiting::Settle(extent) => self.settled(machine, disk, extent),
        }
        let mut granted = Vec::new();
        let protected = &mut self.life(machine).disks[disk];
        protected.lock.release(ticket, |next| granted.push(next));
        for next in granted {
            self.local_begins(machine, disk, next);
        }
        self.wake_packer(machine);
        self.drive(machine, disk);
    }

    /// The splitter: the local disk has done it, then `Seq` and queue, then the answer.
    fn write(
        &mut self,
        machine: usize,
        disk: usize,
        (extent, kind, content): (Extent, Kind, Content),
        written: bool,
    ) {
        let often = self.plan.shape.local_error_per_mille;
        let fails = !self.healed && self.draws.guest.chance(often);
        let now = self.schedule.now();
        if written {
            let truth = self.oracle.of(machine);
            truth.changed(disk, extent, content, now);
        } else if !fails || self.draws.guest.chance(500) {
            self.disk_changes(machine, disk, extent, content);
        }
        let stamp = self.stamp(machine);
        let slot = self.life(machine).disks[disk].slot;
        if fails {
            self.outcome.small_faults += 1;
            let order = &mut self.life(machine).order;
            if order.lose_order(slot, LossReason::LocalError, stamp.now) {
                self.life(machine).disks[disk].core.handle_order_lost();
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
        let pushed = self.life(machine).order.push(slot, stamp, change);
        if let Pushed::Lost { reason } = pushed {
            self.tell(|| {
                format!(
                    "machine {machine}, disk {disk}: order lost: {}",
                    reason.word()
                )
            });
            self.life(machine).disks[disk].core.handle_order_lost();
        }
        self.note_given(machine);
        self.check_queue(machine);
    }

    /// The queue keeps to its budget, whatever happens.
    fn check_queue(&mut self, machine: usize) {
        let most = self.plan.shape.queue_bytes_max + OWN_CHANGES_MAX;
        let used = self.life(machine).order.used();
        if most < used {
            self.violate(format!(
                "the queue of machine {machine} takes {used} bytes of {most}"
            ));
        }
    }

    pub(super) fn bookmark(&mut self, machine: usize) {
        let delay = Duration::from_millis(self.draws.guest.between(150, 900));
        if self.guests_are_awake() {
            self.agent_after(machine, delay, AgentEvent::Bookmark);
        }
        if self.agents[machine].stopping.is_some() {
            return;
        }
        let stamp = self.stamp(machine);
        // Without order, or without `Seq`s, there is none.
        let order = &mut self.life(machine).order;
        if order.bookmark("point", Consistency::Crash, stamp).is_ok() {
            self.note_given(machine);
            self.wake_packer(machine);
        }
    }
}
