//! Sessions with agents: hellos, blocks, what is answered.

use super::*;

impl World<'_> {
    /// An agent connects; `None` where nobody listens.
    pub(crate) fn begin_link(&mut self, machine: usize, server: usize) -> Option<LinkId> {
        let now = self.schedule.now();
        let node = &self.servers[server];
        let listens = node.life.as_ref().is_some_and(|life| life.serves);
        let parted = self.conditions.are_parted(machine, server, now);
        if !listens || parted || node.frozen_until(now).is_some() {
            return None;
        }
        let agent_life = self.agents[machine].life_no;
        let link = Link::new((machine, agent_life), (server, node.life_no));
        self.links.push(link);
        Some(self.links.len() - 1)
    }

    pub(super) fn server_hears(&mut self, server: usize, link: LinkId, message: Message) {
        if !self.links[link].open_at_server {
            return;
        }
        let id = machine_id(self.links[link].machine);
        match message {
            Message::Hello(hello) => {
                let machine = self.server_life(server).machine(id);
                machine.greetings.push((link, hello));
                match machine.owned {
                    // Whoever was refused may have become the owner since.
                    Owned::Unknown | Owned::Refused(_) => self.load_machine(server, id),
                    Owned::Loading => (),
                    Owned::Serves(_) => self.greet(server, id),
                }
            }
            Message::OpenDisk(disk) => {
                let machine = self.server_life(server).machine(id);
                let (Some((at, session)), Owned::Serves(core)) = (machine.link, &mut machine.owned)
                else {
                    return;
                };
                if at != link {
                    return;
                }
                if let Some(state) = core.open_disk(session, disk) {
                    let said = Message::Said(disk, ToAgent::DiskState(state));
                    self.send(link, Side::Server, said);
                }
            }
            Message::Block(disk, bytes) => {
                let bytes = self.damage(bytes);
                self.arrived(server, link, disk, Arrived::Block(bytes));
            }
            Message::Compare(disk, asked) => {
                self.arrived(server, link, disk, Arrived::Compare(asked));
            }
            Message::Greeting(_) | Message::Said(..) => (),
        }
    }

    pub(super) fn arrived(&mut self, server: usize, link: LinkId, disk: DiskId, what: Arrived) {
        let id = machine_id(self.links[link].machine);
        let life = self.server_life(server);
        if let Some((at, session)) = life.machine(id).link
            && at == link
        {
            life.inbox.push_back((link, session, disk, what));
            self.work_inbox(server);
        }
    }

    /// A block may be damaged on its way.
    pub(super) fn damage(&mut self, bytes: Bytes) -> Bytes {
        let often = self.plan.shape.corrupt_per_million;
        if self.healed || often <= self.draws.link.below(1_000_000) {
            return bytes;
        }
        self.outcome.small_faults += 1;
        let mut damaged = bytes.to_vec();
        let at = self.draws.link.below(damaged.len() as u64);
        damaged[index(at)] ^= 1 << self.draws.link.below(8);
        Bytes::from(damaged)
    }

    /// Answers the hellos that wait, now that the machine is loaded or is not this server's.
    pub(crate) fn greet(&mut self, server: usize, id: MachineId) {
        let clock = self.wall_time(Node::Server(server));
        let greetings = std::mem::take(&mut self.server_life(server).machine(id).greetings);
        for (link, hello) in greetings {
            let life = self.server_life(server);
            let journal = life.journal.expect("it serves");
            let machine = life.machines.entry(id).or_default();
            let refusal = |reason, text: &str| ToAgent::Refusal {
                reason,
                text: text.to_owned(),
            };
            let answer = match &mut machine.owned {
                Owned::Serves(_) if journal.level < hello.highest_epoch => {
                    refusal(RefusalReason::NotOwner, "a higher epoch was seen")
                }
                Owned::Serves(core) => {
                    let begun = core.begin_session();
                    let old = machine.link.replace((link, begun.session));
                    life.inbox
                        .retain(|(_, _, disk, _)| place_of(*disk).0 != machine_of(id));
                    if let Some((old, _)) = old {
                        self.close(old, Side::Server, CloseReason::Superseded);
                    }
                    ToAgent::HelloAnswer(HelloAnswer {
                        protocol: PROTOCOL,
                        vault: VAULT,
                        journal,
                        highest_seq: begun.highest_seq,
                        clock,
                        disks: begun.disks,
                    })
                }
                Owned::Refused(why) => refusal(RefusalReason::NotOwner, &why.to_string()),
                Owned::Unknown | Owned::Loading => refusal(RefusalReason::Busy, "not loaded"),
            };
            self.send(link, Side::Server, Message::Greeting(answer));
        }
    }

    pub(crate) fn server_loses_link(&mut self, server: usize, link: LinkId) {
        let id = machine_id(self.links[link].machine);
        let Some(life) = &mut self.servers[server].life else {
            return;
        };
        let machine = life.machine(id);
        if machine.link.is_some_and(|(at, _)| at == link) {
            machine.link = None;
        }
    }

    /// Takes blocks while the log has room for them.
    pub(super) fn work_inbox(&mut self, server: usize) {
        let now = self.schedule.now();
        loop {
            let life = self.server_life(server);
            let log = life.log.as_ref().expect("it serves");
            if !log.has_room() {
                // The log calls again when it has.
                return self.wake_log(server);
            }
            let Some((link, session, disk, what)) = life.inbox.pop_front() else {
                return;
            };
            let id = machine_id(place_of(disk).0);
            let Owned::Serves(core) = &mut life.machines.entry(id).or_default().owned else {
                continue;
            };
            let bytes = match what {
                Arrived::Block(bytes) => bytes,
                Arrived::Compare(asked) => {
                    if let Some(about) = core.compared(session, disk) {
                        self.begin_job(server, Job::compare(id, link, about, asked));
                        self.compares_go_on(server);
                    }
                    continue;
                }
            };
            let opened = ChangeBlock::decode(bytes).and_then(|block| {
                let digests = reduce::digests(&DIGEST_KEY, &block)?;
                Ok((block, digests))
            });
            let answer = match &opened {
                Ok((block, _)) => core.handle_block(session, disk, block, now),
                Err(_) => core.handle_corrupt(session, disk),
            };
            match (answer, opened) {
                (BlockAnswer::Append, Ok((block, digests))) => {
                    let append = log.append([block.bytes().clone()]);
                    life.appends.push_back((append, block, digests));
                    self.wake_log(server);
                }
                (BlockAnswer::Append, Err(_)) | (BlockAnswer::Nothing, _) => (),
                (BlockAnswer::Marks, _) => self.send_marks(server, id, disk),
                (BlockAnswer::Refused { reason, tail }, _) => {
                    let said = Message::Said(disk, ToAgent::Refused { reason, tail });
                    self.send(link, Side::Server, said);
                }
                (BlockAnswer::Close(fault), _) => {
                    self.tell(|| format!("server {server} closes: {fault}"));
                    self.close(link, Side::Server, fault.reason());
                    self.server_loses_link(server, link);
                }
            }
        }
    }

    pub(super) fn send_marks(&mut self, server: usize, id: MachineId, disk: DiskId) {
        let life = self.server_life(server);
        let epoch = life.journal.expect("it serves").level;
        let machine = life.machine(id);
        let (Some((link, _)), Owned::Serves(core)) = (machine.link, &machine.owned) else {
            return;
        };
        if let Some(marks) = core.watermarks(disk, epoch) {
            let counted: Vec<DiskId> = core.counted().collect();
            for counted in counted {
                let (machine, disk) = place_of(counted);
                let committed = self.oracle.of(machine).committed.entry(disk).or_default();
                *committed = marks.committed_cut.max(*committed);
            }
            let said = Message::Said(disk, ToAgent::Watermarks(marks));
            self.send(link, Side::Server, said);
        }
    }
}
