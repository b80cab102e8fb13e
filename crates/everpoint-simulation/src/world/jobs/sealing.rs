//! Sealing: in a boot, for a take-over, for a rotation.

use super::*;

impl World<'_> {
    /// The job that seals a journal in a boot.
    pub(crate) fn sealing(&self, server: usize, journal: JournalId, successor: JournalId) -> Job {
        self.sealing_for(server, journal, successor, Purpose::Boot)
    }

    pub(super) fn sealing_for(
        &self,
        server: usize,
        journal: JournalId,
        successor: JournalId,
        purpose: Purpose,
    ) -> Job {
        let order = SealOrder {
            vault: VAULT,
            journal,
            successor,
            server: server_id(server),
            assignment: 0,
            now: self.wall_time(Node::Server(server)),
        };
        Job::Seal {
            sealing: Sealing::new(order),
            successor,
            compares: false,
            purpose,
        }
    }

    pub(super) fn seal_step(&mut self, server: usize, job: Job, reply: &Reply) -> Option<Job> {
        let Job::Seal {
            mut sealing,
            successor,
            mut compares,
            purpose,
        } = job
        else {
            return None;
        };
        match sealing.step() {
            Step::List => {
                if let Reply::Listing(listing) = reply {
                    sealing.handle_listing(listing);
                }
            }
            Step::Read(_) => {
                let Reply::Object(found) = reply else {
                    panic!("a read is answered with an object");
                };
                let found = found.as_ref().and_then(|stored| stored.found.as_ref());
                sealing.handle_read(match found {
                    Some(ObjectFound::Data(data, _)) => Found::Data {
                        checksum: data.checksum,
                        previous: data.header.previous,
                    },
                    Some(ObjectFound::Seal(seal)) => Found::Seal(*seal),
                    Some(ObjectFound::Damaged(_)) => Found::Damaged,
                    Some(ObjectFound::Missing) | None => Found::Missing,
                });
            }
            Step::Create(seal) => {
                let bytes = Bytes::from(seal.encode().to_vec());
                match created(reply, &bytes) {
                    Created::Mine => sealing.handle_created(true),
                    Created::Others => sealing.handle_created(false),
                    Created::Compare => compares = true,
                    Created::Again => compares = false,
                }
            }
            Step::ReadEnd | Step::Sealed(_) => (),
        }
        if let Step::Sealed(seal) = sealing.step() {
            self.sealed(server, &seal, successor, purpose);
            return None;
        }
        if !matches!(sealing.step(), Step::Create(_)) {
            compares = false;
        }
        Some(Job::Seal {
            sealing,
            successor,
            compares,
            purpose,
        })
    }

    pub(super) fn sealed(
        &mut self,
        server: usize,
        seal: &Seal,
        wanted: JournalId,
        purpose: Purpose,
    ) {
        let (journal, found) = (seal.header.journal, seal.successor);
        self.tell(|| format!("server {server}: {journal} is sealed, {found} goes on"));
        match purpose {
            Purpose::Boot => self.boot_step_done(server),
            Purpose::TakeOver => {
                // Its machines may be this server's now: the next hellos find out.
                for machine in self.server_life(server).machines.values_mut() {
                    if matches!(machine.owned, Owned::Refused(_)) {
                        machine.owned = Owned::Unknown;
                    }
                }
            }
            Purpose::Rotate { then } => {
                let now = self.schedule.now();
                let life = self.server_life(server);
                let commit = life.commit.as_mut().expect("it serves");
                if found != wanted || !commit.wrote_all_of(seal) {
                    return self.server_ends(server, "fenced");
                }
                commit.begin_journal(wanted, now);
                life.journal = Some(wanted);
                life.rotating = false;
                let job = self.sealing_for(server, then, wanted, Purpose::TakeOver);
                self.begin_job(server, job);
                self.commit(server);
                // The commit reads the log, and the server ends where that has rotted.
                if self.servers[server].life.is_some() {
                    self.replicas_go_on(server);
                }
            }
        }
    }

    /// An operator has `by` take over the journals of `of`.
    pub(crate) fn order_take_over(&mut self, by: usize, of: usize) -> bool {
        let Some(target) = self.servers[of].journals.last().copied() else {
            return false;
        };
        by != of && self.take_over(by, target)
    }

    /// Nobody owns the machine and nobody will: its server forgot its journals with its disk.
    pub(crate) fn take_over_lost_journal(&mut self, journal: JournalId) {
        for server in 0..self.servers.len() {
            if self.take_over(server, journal) {
                return;
            }
        }
    }

    pub(super) fn take_over(&mut self, by: usize, target: JournalId) -> bool {
        let frozen = self.servers[by].frozen_until(self.schedule.now()).is_some();
        let Some(life) = self.servers[by].life.as_mut().filter(|life| life.serves) else {
            return false;
        };
        let own = life.journal.expect("it serves");
        if frozen || life.rotating || own == target {
            return false;
        }
        if target.level < own.level {
            let job = self.sealing_for(by, target, own, Purpose::TakeOver);
            self.begin_job(by, job);
        } else {
            life.rotating = true;
            life.rotate_for = Some(target);
            self.commit(by);
        }
        true
    }

    /// Goes on with a rotation once nothing is on its way.
    pub(crate) fn rotate_if_settled(&mut self, server: usize) {
        let random = self.draws.node.bits();
        let life = self.server_life(server);
        let settled = life
            .commit
            .as_ref()
            .is_some_and(|commit| commit.is_settled());
        if !life.rotating || !settled {
            return;
        }
        let Some(target) = life.rotate_for.take() else {
            return;
        };
        let own = life.journal.expect("it serves");
        let successor = next_journal([own.level, target.level], random);
        self.servers[server].journals.push(successor);
        self.oracle.opened(successor, server);
        let purpose = Purpose::Rotate { then: target };
        let job = self.sealing_for(server, own, successor, purpose);
        self.begin_job(server, job);
    }
}
