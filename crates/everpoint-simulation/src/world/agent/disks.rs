//! Disks: what their cores want done, and what is sent.

use super::*;

impl World<'_> {
    pub(super) fn drive_all(&mut self) {
        for disk in 0..self.agent.disks.len() {
            self.drive(disk);
        }
    }

    /// Does what a disk's core wants done.
    pub(super) fn drive(&mut self, disk: usize) {
        loop {
            let fresh = GenerationId(self.draws.node.bits());
            let stamp = self.stamp();
            let life = self.life();
            let effect = life.disks[disk].core.poll(stamp, &mut life.order, fresh);
            match effect {
                Some(effect) => self.act(disk, effect),
                None => break,
            }
        }
        self.send_next(disk);
        let now = self.schedule.now();
        let protected = &mut self.life().disks[disk];
        if let Some(at) = protected.core.deadline()
            && protected.look_at.is_none_or(|look| at < look || look < now)
        {
            protected.look_at = Some(at);
            let event = Event::Agent(self.agent.life_no, AgentEvent::Look(disk));
            self.schedule.at(at, event);
        }
    }

    pub(super) fn act(&mut self, disk: usize, effect: Effect) {
        match effect {
            Effect::OpenStream => {
                if let Some(link) = self.life().phase.link() {
                    self.send(link, Side::Agent, Message::OpenDisk(disk_id(disk)));
                }
            }
            Effect::CloseLink { fault } => {
                self.tell(|| format!("disk {disk}: {fault}"));
                if let Some(link) = self.life().phase.link() {
                    self.close(link, Side::Agent, CloseReason::Order);
                    self.agent_after(Duration::ZERO, AgentEvent::Session);
                    self.session_ended(true, false);
                }
            }
            Effect::OrderLost { because, .. } => {
                self.tell(|| format!("disk {disk}: order lost: {}", because.word()));
                self.life().disks[disk].core.handle_order_lost();
            }
            Effect::Freed { wake } => {
                if wake {
                    self.wake_packer();
                }
                self.room_was_made(disk);
            }
            Effect::Begun { wanted, generation } => {
                self.tell(|| format!("disk {disk}: generation on {:?}", wanted.base));
                self.note_given();
                let sectors = self.plan.shape.sectors;
                let protected = &mut self.life().disks[disk];
                protected.generation = generation;
                protected.resync = Some(ResyncCore::new(ResyncPlan {
                    generation,
                    sectors,
                    compares: wanted.base.is_some(),
                    rate_max: None,
                }));
                self.wake_packer();
                self.resync(disk);
            }
            Effect::StopResync => self.life().disks[disk].resync = None,
            Effect::Reserve => self.reserve(None),
            Effect::Marks(marks) => {
                let cut = self.life().committed_cut.max(marks.committed_cut);
                self.life().committed_cut = cut;
                self.oracle.committed_cut = self.oracle.committed_cut.max(cut);
                self.agent.remembered = self.agent.remembered.risen_to(marks.epoch);
            }
            Effect::Answer(answer) => {
                if let Some(resync) = &mut self.life().disks[disk].resync {
                    resync.handle_answer(answer);
                }
                self.resync(disk);
            }
            Effect::Drained(_) => (),
        }
    }

    /// Others may wait for the same room.
    pub(super) fn room_was_made(&mut self, disk: usize) {
        for other in 0..self.agent.disks.len() {
            self.resync(other);
            if other != disk && self.life().disks[other].core.waits_for_room() {
                self.agent_after(Duration::ZERO, AgentEvent::Look(other));
            }
        }
    }

    pub(super) fn send_next(&mut self, disk: usize) {
        let life = self.life();
        let Some(link) = life.phase.link().filter(|link| life.phase.is_open(*link)) else {
            return;
        };
        if life.disks[disk].sending {
            return;
        }
        let Some(outgoing) = life.disks[disk].core.next_to_send() else {
            return;
        };
        life.disks[disk].sending = true;
        let id = disk_id(disk);
        let message = match outgoing {
            Outgoing::Block(block) => {
                let header = &block.header;
                let sent = &mut life.disks[disk].sent;
                sent.insert(
                    (header.generation, header.block_no),
                    header.complete_through,
                );
                Message::Block(id, block.to_bytes())
            }
            Outgoing::Compare(compare) => Message::Compare(id, compare),
        };
        self.send(link, Side::Agent, message);
        let delay = Duration::from_micros(self.draws.link.between(20, 3_000));
        self.agent_after(delay, AgentEvent::Sent(disk, link));
    }
}
