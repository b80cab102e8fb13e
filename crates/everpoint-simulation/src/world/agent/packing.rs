//! Packing: batches leave the queue when they are due, and come to their disks as blocks.

use super::*;

impl World<'_> {
    pub(super) fn wake_packer(&mut self, machine: usize) {
        let now = self.schedule.now();
        let life = self.life(machine);
        if life.pack_at.is_none_or(|at| now < at) {
            life.pack_at = Some(now);
            self.agent_after(machine, Duration::ZERO, AgentEvent::Pack);
        }
    }

    pub(super) fn pack(&mut self, machine: usize) {
        let stamp = self.stamp(machine);
        let life = self.life(machine);
        if life.pack_at != Some(stamp.now) {
            // It was woken before: a look that is overtaken must not plan another beside the one that is.
            return;
        }
        life.pack_at = None;
        drop(life.order.take_dropped());
        while let Some((slot, batch)) = self.life(machine).order.take_batch(stamp) {
            let delay = Duration::from_micros(self.draws.node.between(20, 2_000));
            let disks = &mut self.life(machine).disks;
            let index = disks.iter().position(|disk| disk.slot == slot);
            let index = index.expect("an attached disk");
            disks[index].packing.push_back(batch);
            self.agent_after(machine, delay, AgentEvent::Packed(index));
        }
        let life = self.life(machine);
        if let Some(deadline) = life.order.deadline()
            && life.pack_at.is_none()
        {
            life.pack_at = Some(deadline);
            let event = Event::Agent(machine, self.agents[machine].life_no, AgentEvent::Pack);
            self.schedule.at(deadline, event);
        }
        self.reserve(machine, None);
    }

    pub(super) fn packed(&mut self, machine: usize, disk: usize) {
        let life = self.life(machine);
        let batch = life.disks[disk].packing.pop_front();
        let packed = batch.expect("it was taken").pack(0, &mut life.scratch);
        life.disks[disk].core.handle_packed(packed);
        self.drive(machine, disk);
    }

    pub(super) fn reserve(&mut self, machine: usize, link: Option<(LinkId, Seq)>) {
        let life = self.life(machine);
        let wanted = match link {
            Some((_, mark)) => Some(mark),
            None if life.reserving => None,
            None => life.order.wanted_reservation(),
        };
        if let Some(until) = wanted {
            life.reserving = true;
            let delay = Duration::from_micros(self.draws.node.between(100, 5_000));
            let event = AgentEvent::Reserved(until, link.map(|(link, _)| link));
            self.agent_after(machine, delay, event);
        }
    }

    /// Every `Seq` up to a mark is reserved durably.
    pub(super) fn reserved(&mut self, machine: usize, until: Seq, admits: bool) {
        if !self.takes_effect(Node::Agent(machine)) {
            return;
        }
        let state = &mut self.agents[machine].state;
        state.reserved_until = state.reserved_until.max(until);
        self.life(machine).reserving = false;
        self.life(machine).order.extend_reservation(until);
        if admits {
            self.admit(machine);
        }
        self.drive_all(machine);
    }
}
