//! Resyncs: reads of the local disk under the range lock, and what they queue.

use super::*;

impl World<'_> {
    /// Does the next thing that the disk's resync wants.
    pub(super) fn resync(&mut self, machine: usize, disk: usize) {
        let now = self.schedule.now();
        let agent = &mut self.agents[machine];
        let local = &agent.disks[disk];
        let life = agent.life.as_mut().expect("a running agent");
        let protected = &mut life.disks[disk];
        if protected.resync_busy {
            return;
        }
        let Some(resync) = &mut protected.resync else {
            return;
        };
        match resync.need(now) {
            Need::Until(at) => {
                protected.resync_busy = true;
                let event = Event::Agent(machine, agent.life_no, AgentEvent::Resync(disk));
                self.schedule.at(at, event);
            }
            Need::Room { len } => {
                // Without room, whoever frees some calls again.
                protected.room = life.order.take_resync_room(len);
                if protected.room.is_some() {
                    resync.handle_room();
                    self.resync(machine, disk);
                }
            }
            Need::Allocation(window) => {
                let runs = local.allocation(window);
                resync.handle_allocation(&runs);
                self.resync_again(machine, disk);
            }
            Need::Digests(extent) => {
                let bytes = local.read(extent);
                let question = resync.handle_digests(digests(&bytes));
                if let Some(question) = question {
                    protected.core.handle_question(question);
                    self.send_next(machine, disk);
                }
                self.resync_again(machine, disk);
            }
            Need::Hole(extent) => {
                protected.resync_busy = true;
                self.take_turn(machine, disk, Waiting::Hole(extent));
            }
            Need::Copy(extent) => {
                protected.resync_busy = true;
                self.take_turn(machine, disk, Waiting::Copy(extent));
            }
            Need::Settle(extent) => {
                protected.resync_busy = true;
                self.take_turn(machine, disk, Waiting::Settle(extent));
            }
            Need::Answer => (),
            Need::Complete => {
                if self.push_own(machine, disk, Change::ResyncComplete, None) {
                    self.tell(|| format!("machine {machine}, disk {disk}: resync complete"));
                    self.wake_packer(machine);
                }
                self.life(machine).disks[disk].resync = None;
            }
        }
    }

    pub(super) fn resync_again(&mut self, machine: usize, disk: usize) {
        self.life(machine).disks[disk].resync_busy = true;
        let delay = Duration::from_micros(self.draws.node.between(50, 2_000));
        self.agent_after(machine, delay, AgentEvent::Resync(disk));
    }

    pub(super) fn copy(&mut self, machine: usize, disk: usize, extent: Extent, bytes: &Bytes) {
        let wanted = self.resync_wants(machine, disk, Need::Copy(extent));
        let changes = match &mut self.life(machine).disks[disk].resync {
            Some(resync) if wanted => resync.handle_copied(bytes),
            _ => Vec::new(),
        };
        self.give_back_room(machine, disk);
        for (change, piece) in changes {
            if !self.push_own(machine, disk, change, piece) {
                self.life(machine).disks[disk].resync = None;
                break;
            }
        }
        self.resync_again(machine, disk);
    }

    pub(super) fn hole(&mut self, machine: usize, disk: usize, extent: Extent) {
        let runs = self.agents[machine].disks[disk].allocation(extent);
        let wanted = self.resync_wants(machine, disk, Need::Hole(extent));
        let change = match &mut self.life(machine).disks[disk].resync {
            Some(resync) if wanted => resync.handle_hole(Some(&runs)),
            _ => None,
        };
        self.give_back_room(machine, disk);
        if let Some(change) = change
            && !self.push_own(machine, disk, change, None)
        {
            self.life(machine).disks[disk].resync = None;
        }
        self.resync_again(machine, disk);
    }

    /// Whatever was under way there has ended.
    pub(super) fn settled(&mut self, machine: usize, disk: usize, extent: Extent) {
        let wanted = self.resync_wants(machine, disk, Need::Settle(extent));
        let resync = self.life(machine).disks[disk].resync.as_mut();
        if let Some(resync) = resync.filter(|_| wanted) {
            resync.handle_settled();
        }
        self.resync_again(machine, disk);
    }

    pub(super) fn give_back_room(&mut self, machine: usize, disk: usize) {
        let life = self.life(machine);
        if let Some(room) = life.disks[disk].room.take() {
            life.order.give_back_resync_room(room);
        }
    }

    /// Whether the turn was taken for the resync that goes on, and not for one that was stopped.
    pub(super) fn resync_wants(&mut self, machine: usize, disk: usize, need: Need) -> bool {
        let now = self.schedule.now();
        let resync = self.life(machine).disks[disk].resync.as_mut();
        resync.is_some_and(|resync| resync.need(now) == need)
    }

    pub(super) fn push_own(
        &mut self,
        machine: usize,
        disk: usize,
        change: Change,
        piece: Option<Bytes>,
    ) -> bool {
        let stamp = self.stamp(machine);
        let life = self.life(machine);
        let (slot, generation) = (life.disks[disk].slot, life.disks[disk].generation);
        let pushed = life.order.push_own(slot, generation, stamp, change, piece);
        self.note_given(machine);
        self.wake_packer(machine);
        pushed.is_ok()
    }
}
