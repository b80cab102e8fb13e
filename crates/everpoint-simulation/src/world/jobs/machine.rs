//! A machine's path: does it lead here?

use everpoint_journal::path::Damage;

use super::*;

impl World<'_> {
    /// Reads a machine's path, to see whether it leads here.
    pub(crate) fn load_machine(&mut self, server: usize, machine: MachineId) {
        let life = self.server_life(server);
        let Some(before) = life.journal else { return };
        life.machine(machine).owned = Owned::Loading;
        self.begin_job(server, loading(machine, OwnershipCore::default(), before));
    }

    pub(super) fn load_step(&mut self, server: usize, job: Job, reply: &Reply) -> Option<Job> {
        let Job::Load {
            machine,
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
                Created::Mine | Created::Others => {
                    Some(self.load_again(server, machine, ownership))
                }
                settled => Some(Job::Load {
                    machine,
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
            && let Some(data) = stored.index()
        {
            for section in &data.index.sections {
                history.fold(section, journal, number);
            }
        }
        let Some(end) = walk.end() else {
            return Some(Job::Load {
                machine,
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
                let index = machine_of(machine);
                self.tell(|| format!("server {server} owns machine {index}"));
                self.oracle.of(index).forget_cached(|of| of != server);
                let core = MachineCore::new(machine, &history);
                self.loaded(server, machine, Owned::Serves(Box::new(core)));
                if self.servers[server].life.is_some() {
                    self.begin_replicas(server, &history);
                }
                None
            }
            Claim::ReadAgain => Some(self.load_again(server, machine, ownership)),
            Claim::CreateOrigin => {
                let origin = Origin {
                    vault: VAULT,
                    machine,
                    journal: before,
                    created_at: self.wall_time(Node::Server(server)),
                    made_from: None,
                };
                Some(Job::Load {
                    machine,
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
                    self.path_is_broken(walk.damage());
                }
                self.tell(|| format!("server {server}: {why}"));
                self.loaded(server, machine, Owned::Refused(why));
                None
            }
        }
    }

    /// A path that cannot be followed is a broken promise, unless an object rotted.
    pub(crate) fn path_is_broken(&mut self, damage: &[Damage]) {
        if self.store.rotten.is_empty() {
            self.violate(format!("a path is broken: {damage:?}"));
        } else {
            self.outcome.detected += 1;
        }
    }

    fn load_again(&mut self, server: usize, machine: MachineId, ownership: OwnershipCore) -> Job {
        let before = self.server_life(server).journal.expect("it has one");
        loading(machine, ownership, before)
    }

    fn loaded(&mut self, server: usize, machine: MachineId, owned: Owned) {
        let life = self.server_life(server);
        life.machine(machine).owned = owned;
        if let BootStep::TakeUp { .. } = life.boot_step() {
            return self.boot(server);
        }
        self.check_cached(server, machine_of(machine));
        self.greet(server, machine);
        self.commit(server);
    }
}
