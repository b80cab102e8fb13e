//! Resyncs: reads of the local disk under the range lock, and what they queue.

use super::*;

impl World<'_> {
    /// Does the next thing that the disk's resync wants.
    pub(super) fn resync(&mut self, disk: usize) {
        let now = self.schedule.now();
        let local = &self.agent.disks[disk];
        let life = self.agent.life.as_mut().expect("a running agent");
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
                let event = Event::Agent(self.agent.life_no, AgentEvent::Resync(disk));
                self.schedule.at(at, event);
            }
            Need::Room { len } => {
                // Without room, whoever frees some calls again.
                if life.order.has_resync_room(len) {
                    resync.handle_room();
                    self.resync(disk);
                }
            }
            Need::Allocation(window) => {
                let runs = local.allocation(window);
                resync.handle_allocation(&runs);
                self.resync_again(disk);
            }
            Need::Digests(extent) => {
                let bytes = local.read(extent);
                let question = resync.handle_digests(digests(&bytes));
                if let Some(question) = question {
                    protected.core.handle_question(question);
                    self.send_next(disk);
                }
                self.resync_again(disk);
            }
            Need::Hole(extent) => {
                protected.resync_busy = true;
                self.take_turn(disk, Waiting::Hole(extent));
            }
            Need::Copy(extent) => {
                protected.resync_busy = true;
                self.take_turn(disk, Waiting::Copy(extent));
            }
            Need::Answer => (),
            Need::Complete => {
                if self.push_own(disk, Change::ResyncComplete, None) {
                    self.tell(|| format!("disk {disk}: resync complete"));
                    self.wake_packer();
                }
                self.life().disks[disk].resync = None;
            }
        }
    }

    pub(super) fn resync_again(&mut self, disk: usize) {
        self.life().disks[disk].resync_busy = true;
        let delay = Duration::from_micros(self.draws.node.between(50, 2_000));
        self.agent_after(delay, AgentEvent::Resync(disk));
    }

    pub(super) fn copy(&mut self, disk: usize, extent: Extent) {
        let bytes = self.agent.disks[disk].read(extent);
        let wanted = self.resync_wants(disk, Need::Copy(extent));
        let changes = match &mut self.life().disks[disk].resync {
            Some(resync) if wanted => resync.handle_copied(&bytes),
            _ => Vec::new(),
        };
        for (change, piece) in changes {
            if !self.push_own(disk, change, piece) {
                self.life().disks[disk].resync = None;
                break;
            }
        }
        self.resync_again(disk);
    }

    pub(super) fn hole(&mut self, disk: usize, extent: Extent) {
        let runs = self.agent.disks[disk].allocation(extent);
        let wanted = self.resync_wants(disk, Need::Hole(extent));
        let change = match &mut self.life().disks[disk].resync {
            Some(resync) if wanted => resync.handle_hole(Some(&runs)),
            _ => None,
        };
        if let Some(change) = change
            && !self.push_own(disk, change, None)
        {
            self.life().disks[disk].resync = None;
        }
        self.resync_again(disk);
    }

    /// Whether the turn was taken for the resync that goes on, and not for one that was stopped.
    pub(super) fn resync_wants(&mut self, disk: usize, need: Need) -> bool {
        let now = self.schedule.now();
        let resync = self.life().disks[disk].resync.as_mut();
        resync.is_some_and(|resync| resync.need(now) == need)
    }

    pub(super) fn push_own(
        &mut self,
        disk: usize,
        change: Change,
        piece: Option<bytes::Bytes>,
    ) -> bool {
        let stamp = self.stamp();
        let life = self.life();
        let (slot, generation) = (life.disks[disk].slot, life.disks[disk].generation);
        let pushed = life.order.push_own(slot, generation, stamp, change, piece);
        self.note_given();
        self.wake_packer();
        pushed.is_ok()
    }
}
