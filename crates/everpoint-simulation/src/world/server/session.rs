//! Sessions with the agent: hellos, blocks, what is answered.

use super::*;

impl World<'_> {
    /// The agent connects; `None` where nobody listens.
    pub(crate) fn begin_link(&mut self, server: usize) -> Option<LinkId> {
        let now = self.schedule.now();
        let node = &self.servers[server];
        let listens = node.life.as_ref().is_some_and(|life| life.serves);
        if !listens || node.frozen_until(now).is_some() {
            return None;
        }
        let link = Link::new(server, self.agent.life_no, node.life_no);
        self.links.push(link);
        Some(self.links.len() - 1)
    }

    pub(super) fn server_hears(&mut self, server: usize, link: LinkId, message: Message) {
        if !self.links[link].open_at_server {
            return;
        }
        match message {
            Message::Hello(hello) => {
                let life = self.server_life(server);
                life.greetings.push((link, hello));
                match life.machine {
                    // Whoever was refused may have become the owner since.
                    Owned::Unknown | Owned::Refused(_) => self.load_machine(server),
                    Owned::Loading => (),
                    Owned::Serves(_) => self.greet(server),
                }
            }
            Message::OpenDisk(disk) => {
                let life = self.server_life(server);
                let (Some((at, session)), Owned::Serves(core)) = (life.link, &mut life.machine)
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
        let life = self.server_life(server);
        if let Some((at, session)) = life.link
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
        damaged[super::super::oracle::index(at)] ^= 1 << self.draws.link.below(8);
        Bytes::from(damaged)
    }

    /// Answers the hellos that wait, now that the machine is loaded or is not this server's.
    pub(crate) fn greet(&mut self, server: usize) {
        let clock = self.wall_time();
        let greetings = std::mem::take(&mut self.server_life(server).greetings);
        for (link, hello) in greetings {
            let life = self.server_life(server);
            let journal = life.journal.expect("it serves");
            let refusal = |reason, text: &str| ToAgent::Refusal {
                reason,
                text: text.to_owned(),
            };
            let answer = match &mut life.machine {
                Owned::Serves(_) if journal.level < hello.highest_epoch => {
                    refusal(RefusalReason::NotOwner, "a higher epoch was seen")
                }
                Owned::Serves(core) => {
                    let begun = core.begin_session();
                    let old = life.link.replace((link, begun.session));
                    life.inbox.clear();
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
        let Some(life) = &mut self.servers[server].life else {
            return;
        };
        if life.link.is_some_and(|(at, _)| at == link) {
            life.link = None;
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
            let Owned::Serves(core) = &mut life.machine else {
                return;
            };
            let bytes = match what {
                Arrived::Block(bytes) => bytes,
                Arrived::Compare(asked) => {
                    if let Some(about) = core.compared(session, disk) {
                        self.begin_job(server, Job::compare(link, about, asked));
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
                (BlockAnswer::Marks, _) => self.send_marks(server, disk),
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

    pub(super) fn send_marks(&mut self, server: usize, disk: DiskId) {
        let life = self.server_life(server);
        let epoch = life.journal.expect("it serves").level;
        let (Some((link, _)), Owned::Serves(core)) = (life.link, &life.machine) else {
            return;
        };
        if let Some(marks) = core.watermarks(disk, epoch) {
            let said = Message::Said(disk, ToAgent::Watermarks(marks));
            self.send(link, Side::Server, said);
        }
    }
}
