//! The commit: from the backlog into objects.

use super::*;

impl World<'_> {
    /// Does what the commit wants done.
    pub(crate) fn commit(&mut self, server: usize) {
        loop {
            let now = self.schedule.now();
            let Some(life) = &mut self.servers[server].life else {
                return;
            };
            let Some(core) = &mut life.commit else {
                return;
            };
            if let Some(effect) = core.poll() {
                match effect {
                    Effect::AskForEnd { after } => {
                        let journal = core.journal();
                        self.begin_job(server, Job::AskForEnd { journal, after });
                    }
                    Effect::Committed { through, what } => {
                        let journal = core.journal();
                        self.committed(server, what);
                        self.replicas_hear(server, journal, through);
                    }
                }
                continue;
            }
            if core.wants_freeze(now) && !life.rotating {
                let writer = Writer {
                    vault: VAULT,
                    server: server_id(server),
                };
                let created_at = self.wall_time(Node::Server(server));
                let life = self.server_life(server);
                let core = life.commit.as_mut().expect("looked at");
                let object = core.freeze(writer, created_at);
                let number = object.header.number;
                self.tell(|| format!("server {server} freezes {number}"));
                let job = Job::put(object.header.journal, object.header.number, &object.pieces);
                self.begin_job(server, job);
                continue;
            }
            if !core.takes() || !self.take(server) {
                break;
            }
        }
        let now = self.schedule.now();
        let Some(life) = &mut self.servers[server].life else {
            return;
        };
        let timeout = life.commit.as_ref().and_then(CommitCore::poll_timeout);
        if let Some(at) = timeout
            && now < at
            && life.commit_at.is_none_or(|known| at < known)
        {
            life.commit_at = Some(at);
            let no = self.servers[server].life_no;
            self.schedule
                .at(at, Event::Server(server, no, ServerEvent::Commit));
        }
        self.rotate_if_settled(server);
    }

    /// Takes one block from the backlog into the batch; false if nothing was to be taken.
    pub(super) fn take(&mut self, server: usize) -> bool {
        let now = self.schedule.now();
        let life = self.server_life(server);
        let cached = match life.backlog.poll() {
            None => return false,
            Some(Next::Block(cached)) => *cached,
            Some(Next::ReadAgain { from }) => match life.read_again(from) {
                Some(cached) => cached,
                None => return self.lost_records(server),
            },
        };
        let (machine, disk) = (cached.block.header().machine, cached.block.header().disk);
        let goes_on = match &life.machines.entry(machine).or_default().owned {
            _ if life.tail_core.discards(machine, cached.position) => false,
            Owned::Unknown | Owned::Loading | Owned::Refused(_) => {
                self.violate(format!(
                    "server {server} has a block of a machine that it does not serve in its log"
                ));
                return false;
            }
            Owned::Serves(core) => {
                let commit = life.commit.as_mut().expect("it serves");
                if !commit.knows(disk) {
                    commit.handle_stands(disk, core.committed(disk));
                }
                commit.goes_on(&cached.block)
            }
        };
        let commit = life.commit.as_mut().expect("it serves");
        if !goes_on {
            let log = life.log.as_ref().expect("it serves");
            if let Some(position) = commit.discard(cached.position) {
                log.free_through(position);
            }
            return true;
        }
        let digests = cached.digests.unwrap_or_else(|| {
            reduce::digests(&DIGEST_KEY, &cached.block).expect("it was opened before")
        });
        commit.push(cached.position, &cached.block, digests, now);
        true
    }

    pub(super) fn lost_records(&mut self, server: usize) -> bool {
        if self.servers[server].is_dead_at_disk() {
            return false;
        }
        if self.servers[server].harmed {
            self.outcome.detected += 1;
            self.server_ends(server, "the log has not what it held");
        } else {
            self.violate(format!(
                "the log of server {server} ends before a block that it holds"
            ));
        }
        false
    }

    /// Records that cannot be read: named, and a new start reads the medium.
    pub(super) fn log_is_damaged(&mut self, server: usize, error: &ReadError) {
        self.tell(|| format!("server {server}: {error}"));
        if self.servers[server].harmed {
            self.outcome.detected += 1;
        }
        self.server_ends(server, "the log cannot be read");
    }

    pub(super) fn committed(
        &mut self,
        server: usize,
        what: Vec<everpoint_process_server::commit_core::Covers>,
    ) {
        for covers in what {
            let life = self.server_life(server);
            for (disk, committed) in &covers.disks {
                if let Owned::Serves(core) = &mut life.machine(committed.machine).owned {
                    let through = committed.complete_through;
                    core.handle_committed(*disk, committed.position, through);
                }
            }
            if let (Some(position), Some(log)) = (covers.through, &life.log) {
                log.free_through(position);
            }
            for (disk, committed) in &covers.disks {
                self.send_marks(server, committed.machine, *disk);
            }
        }
        self.wake_log(server);
        self.compares_go_on(server);
    }

    /// Where a server stands, for the story.
    pub(crate) fn server_state(&self, server: usize) -> String {
        let Some(life) = &self.servers[server].life else {
            return format!("server {server} does not run");
        };
        format!(
            "server {server}: log {:?}, {} arrived, {} appending, {} bytes wait, jobs {:?}, rotating {}, {:?}",
            life.log.as_ref().map(SteppedLog::usage),
            life.inbox.len(),
            life.appends.len(),
            life.backlog.waiting(),
            life.jobs.keys(),
            life.rotating,
            life.commit,
        )
    }

    /// A server's own word about its log, held against what it found there.
    pub(crate) fn check_cached(&mut self, server: usize, machine: usize) {
        let Some(life) = &self.servers[server].life else {
            return;
        };
        let owned = life.machines.get(&machine_id(machine));
        let Some(Owned::Serves(core)) = owned.map(|machine| &machine.owned) else {
            return;
        };
        let mut broken = Vec::new();
        for ((of, disk), through) in &self.oracle.of(machine).cached {
            let has = core.held_through(disk_id(machine, *disk));
            if *of == server && has < *through {
                broken.push(format!(
                    "server {server} said that disk {disk} of machine {machine} is cached through {through}, and has it through {has}"
                ));
            }
        }
        let harmed = self.servers[server].harmed_quietly || !self.store.rotten.is_empty();
        if harmed && !broken.is_empty() {
            // Its disk lied, or rotted where a torn write would be, or the path that its tail went on is
            // damaged: agents will find out, and say so.
            self.outcome.detected += 1;
            return self.oracle.of(machine).forget_cached(|of| of == server);
        }
        for what in broken {
            self.violate(what);
        }
    }
}
