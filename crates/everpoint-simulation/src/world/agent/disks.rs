//! Disks: what their cores want done, and what is sent.

use super::*;

impl World<'_> {
    pub(super) fn drive_all(&mut self, machine: usize) {
        for disk in 0..self.plan.shape.disks {
            self.drive(machine, disk);
        }
    }

    /// Does what a disk's core wants done.
    pub(super) fn drive(&mut self, machine: usize, disk: usize) {
        loop {
            let fresh = GenerationId(self.draws.node.bits());
            let stamp = self.stamp(machine);
            let life = self.life(machine);
            let effect = life.disks[disk].core.poll(stamp, &mut life.order, fresh);
            match effect {
                Some(effect) => self.act(machine, disk, effect),
                None => break,
            }
        }
        self.send_next(machine, disk);
        let now = self.schedule.now();
        let protected = &mut self.life(machine).disks[disk];
        if let Some(at) = protected.core.deadline()
            && protected.look_at.is_none_or(|look| at < look || look < now)
        {
            protected.look_at = Some(at);
            let event = Event::Agent(
                machine,
                self.agents[machine].life_no,
                AgentEvent::Look(disk),
            );
            self.schedule.at(at, event);
        }
    }

    pub(super) fn act(&mut self, machine: usize, disk: usize, effect: Effect) {
        match effect {
            Effect::OpenStream => {
                if let Some(link) = self.life(machine).phase.link() {
                    self.send(link, Side::Agent, Message::OpenDisk(disk_id(machine, disk)));
                }
            }
            Effect::CloseLink { fault } => {
                self.tell(|| format!("machine {machine}, disk {disk}: {fault}"));
                if let Some(link) = self.life(machine).phase.link() {
                    self.close(link, Side::Agent, CloseReason::Order);
                    self.agent_after(machine, Duration::ZERO, AgentEvent::Session);
                    self.session_ended(machine, true, false);
                }
            }
            Effect::OrderLost { because, .. } => {
                self.tell(|| {
                    format!(
                        "machine {machine}, disk {disk}: order lost: {}",
                        because.word()
                    )
                });
                self.life(machine).disks[disk].core.handle_order_lost();
            }
            Effect::Freed { wake } => {
                if wake {
                    self.wake_packer(machine);
                }
                self.room_was_made(machine, disk);
            }
            Effect::Begun { wanted, generation } => {
                self.tell(|| {
                    format!(
                        "machine {machine}, disk {disk}: generation on {:?}",
                        wanted.base
                    )
                });
                self.note_given(machine);
                self.oracle.of(machine).writes(generation);
                let sectors = self.plan.shape.sectors;
                let protected = &mut self.life(machine).disks[disk];
                protected.generation = generation;
                protected.resync = Some(ResyncCore::new(ResyncPlan {
                    generation,
                    sectors,
                    compares: wanted.base.is_some(),
                    rate_max: None,
                }));
                self.wake_packer(machine);
                self.resync(machine, disk);
            }
            Effect::StopResync => {
                self.life(machine).disks[disk].resync = None;
                self.give_back_room(machine, disk);
            }
            Effect::Reserve => self.reserve(machine, None),
            Effect::Marks(marks) => {
                let cut = self.life(machine).committed_cut.max(marks.committed_cut);
                self.life(machine).committed_cut = cut;
                let session = &mut self.agents[machine].state.session;
                *session = session.risen_to(marks.epoch);
                // Marks of another disk may have been longer under way: those may be of an earlier.
                self.oracle.of(machine).believes(marks.epoch);
            }
            Effect::Answer(answer) => {
                if let Some(resync) = &mut self.life(machine).disks[disk].resync {
                    resync.handle_answer(answer);
                }
                self.resync(machine, disk);
            }
            Effect::Drained(tail) => self.drained(machine, disk, tail),
        }
    }

    /// Others may wait for the same room.
    pub(super) fn room_was_made(&mut self, machine: usize, disk: usize) {
        for other in 0..self.plan.shape.disks {
            self.resync(machine, other);
            if other != disk && self.life(machine).disks[other].core.waits_for_room() {
                self.agent_after(machine, Duration::ZERO, AgentEvent::Look(other));
            }
        }
    }

    pub(super) fn send_next(&mut self, machine: usize, disk: usize) {
        let life = self.life(machine);
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
        let id = disk_id(machine, disk);
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
        self.agent_after(machine, delay, AgentEvent::Sent(disk, link));
    }
}
