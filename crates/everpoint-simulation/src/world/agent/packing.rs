//! Packing: batches leave the queue when they are due, and come to their disks as blocks.

use super::*;

impl World<'_> {
    pub(super) fn wake_packer(&mut self) {
        let now = self.schedule.now();
        let life = self.life();
        if life.pack_at.is_none_or(|at| now < at) {
            life.pack_at = Some(now);
            self.agent_after(Duration::ZERO, AgentEvent::Pack);
        }
    }

    pub(super) fn pack(&mut self) {
        let stamp = self.stamp();
        let life = self.life();
        life.pack_at = None;
        drop(life.order.take_dropped());
        while let Some((slot, batch)) = self.life().order.take_batch(stamp) {
            let delay = Duration::from_micros(self.draws.node.between(20, 2_000));
            let disks = &mut self.life().disks;
            let index = disks.iter().position(|disk| disk.slot == slot);
            let index = index.expect("an attached disk");
            disks[index].packing.push_back(batch);
            self.agent_after(delay, AgentEvent::Packed(index));
        }
        let life = self.life();
        if let Some(deadline) = life.order.deadline()
            && life.pack_at.is_none()
        {
            life.pack_at = Some(deadline);
            let event = Event::Agent(self.agent.life_no, AgentEvent::Pack);
            self.schedule.at(deadline, event);
        }
        self.reserve(None);
    }

    pub(super) fn packed(&mut self, disk: usize) {
        let life = self.life();
        let batch = life.disks[disk].packing.pop_front();
        let packed = batch.expect("it was taken").pack(0, &mut life.scratch);
        life.disks[disk].core.handle_packed(packed);
        self.drive(disk);
    }

    pub(super) fn reserve(&mut self, link: Option<(LinkId, Seq)>) {
        let life = self.life();
        let wanted = match link {
            Some((_, mark)) => Some(mark),
            None if life.reserving => None,
            None => life.order.wanted_reservation(),
        };
        if let Some(until) = wanted {
            life.reserving = true;
            let delay = Duration::from_micros(self.draws.node.between(100, 5_000));
            let event = AgentEvent::Reserved(until, link.map(|(link, _)| link));
            self.agent_after(delay, event);
        }
    }
}
