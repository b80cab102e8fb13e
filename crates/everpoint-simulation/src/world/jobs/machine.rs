//! The machine's path: does it lead here?

use super::*;

impl World<'_> {
    /// Reads the machine's path, to see whether it leads here.
    pub(crate) fn load_machine(&mut self, server: usize) {
        let life = self.server_life(server);
        let Some(before) = life.journal else { return };
        life.machine = Owned::Loading;
        self.begin_job(server, loading(OwnershipCore::default(), before));
    }

    pub(super) fn load_step(&mut self, server: usize, job: Job, reply: &Reply) -> Option<Job> {
        let Job::Load {
            mut ownership,
            before,
            mut walk,
            mut history,
            origin,
            ..
        } = job
        else {
            return None;
        };
        if let Some(bytes) = origin {
            return match created(reply, &bytes) {
                // Whoever was faster counts: the path is read again.
                Created::Mine | Created::Others => Some(self.load_again(server, ownership)),
                settled => Some(Job::Load {
                    ownership,
                    before,
                    walk,
                    history,
                    origin: Some(bytes),
                    compares: matches!(settled, Created::Compare),
                }),
            };
        }
        if let Some((journal, number, stored)) = walk_on(&mut walk, reply)
            && let Some(ObjectFound::Data(data, _)) = &stored.found
        {
            for section in &data.index.sections {
                history.fold(section, journal, number);
            }
        }
        let Some(end) = walk.end() else {
            return Some(Job::Load {
                ownership,
                before,
                walk,
                history,
                origin: None,
                compares: false,
            });
        };
        let now = self.server_life(server).journal.expect("it has one");
        match ownership.handle_read(end, before, now) {
            Claim::Serve => {
                self.tell(|| format!("server {server} owns the machine"));
                self.oracle.forget_cached(|of| of != server);
                self.loaded(
                    server,
                    Owned::Serves(Box::new(MachineCore::new(MACHINE, &history))),
                );
                None
            }
            Claim::ReadAgain => Some(self.load_again(server, ownership)),
            Claim::CreateOrigin => {
                let origin = Origin {
                    vault: VAULT,
                    machine: MACHINE,
                    journal: before,
                    created_at: self.wall_time(),
                    made_from: None,
                };
                Some(Job::Load {
                    ownership,
                    before,
                    walk,
                    history,
                    origin: Some(Bytes::from(origin.encode().to_vec())),
                    compares: false,
                })
            }
            Claim::Refuse(why) => {
                if end == PathEnd::Broken {
                    self.violate(format!("the path is broken: {:?}", walk.damage()));
                }
                self.tell(|| format!("server {server}: {why}"));
                self.loaded(server, Owned::Refused(why));
                None
            }
        }
    }

    pub(super) fn load_again(&mut self, server: usize, ownership: OwnershipCore) -> Job {
        let before = self.server_life(server).journal.expect("it has one");
        loading(ownership, before)
    }

    pub(super) fn loaded(&mut self, server: usize, machine: Owned) {
        let life = self.server_life(server);
        life.machine = machine;
        if let BootStep::TakeUp { .. } = life.boot_step() {
            return self.boot(server);
        }
        self.check_cached(server);
        self.greet(server);
        self.commit(server);
    }
}
