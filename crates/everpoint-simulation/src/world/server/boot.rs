//! A boot: its steps, the log, the tail that is taken up.

use super::*;

impl World<'_> {
    /// Does the next step of a boot.
    pub(crate) fn boot(&mut self, server: usize) {
        let step = self.server_life(server).boot.step();
        match step {
            BootStep::ListJournals => return self.begin_job(server, Job::ListJournals),
            BootStep::Note { journal } => {
                self.servers[server].journals.push(journal);
                self.oracle.opened(journal, server);
            }
            BootStep::RecoverLog { journal } => {
                if !self.recover_log(server, journal) {
                    return;
                }
            }
            BootStep::Seal { earlier, successor } => {
                let job = self.sealing(server, earlier, successor);
                return self.begin_job(server, job);
            }
            BootStep::Forget { all_but } => {
                self.servers[server].journals.retain(|one| *one == all_but);
            }
            BootStep::TakeUp { journal } => return self.take_up(server, journal),
            BootStep::Serve { .. } => return self.serve(server),
        }
        self.boot_step_done(server);
    }

    /// A step of the boot is done; the next one takes a while.
    pub(crate) fn boot_step_done(&mut self, server: usize) {
        self.server_life(server).boot.handle_done();
        let delay = Duration::from_micros(self.draws.node.between(50, 20_000));
        self.server_after(server, delay, ServerEvent::Boot);
    }

    /// The vault's journals are known.
    pub(crate) fn boot_listed(&mut self, server: usize, journals: &[JournalId]) {
        let random = self.draws.node.bits();
        let life = self.server_life(server);
        life.boot.handle_listed(journals, random);
        let highest = journals.iter().map(|journal| journal.level).max();
        if let BootStep::Note { journal } = life.boot.step()
            && Some(journal.level) <= highest
        {
            self.violate(format!(
                "server {server} boots into {journal}, and the vault has a journal of that level, or above it (R2)"
            ));
        }
        self.server_after(server, Duration::from_micros(100), ServerEvent::Boot);
    }

    pub(super) fn recover_log(&mut self, server: usize, journal: JournalId) -> bool {
        let file_len = ByteLen(FILE_LEN);
        let config = CacheLogConfig {
            file_len,
            reserve: file_len,
            batch_len_max: ByteLen(FILE_LEN / 2),
            queued_len_max: ByteLen(FILE_LEN / 2),
            ..CacheLogConfig::new(ByteLen(FILE_LEN * self.plan.shape.log_files))
        };
        let owner = LogOwner {
            vault: VAULT,
            server: server_id(server),
            journal,
        };
        let mut random = self.servers[server].random.split(journal.level.0 + 7);
        let bits = Box::new(move || random.bits());
        if self.schedule.now() < self.servers[server].sick_until {
            let disk = &self.servers[server].disk;
            disk.set_faults(Faults {
                sync_fails_at: Some(disk.operations() + 1),
                ..self.servers[server].faults()
            });
        }
        let storage = Arc::new(self.servers[server].disk.clone());
        match SteppedLog::open_on(storage, &config, owner, bits) {
            Ok((log, recovered)) => {
                while log.keep() {}
                if let Some(last) = recovered.last() {
                    self.servers[server].was_read(last);
                }
                let life = self.server_life(server);
                life.tail_core = TailCore::new(recovered.last());
                life.log = Some(log);
                life.recovered = Some(recovered);
                true
            }
            Err(error) => {
                self.log_does_not_open(server, &error);
                false
            }
        }
    }

    /// Named damage of a disk that lied or rotted is for an operator, who replaces the disk.
    fn log_does_not_open(&mut self, server: usize, error: &OpenError) {
        self.tell(|| format!("server {server}: {error}"));
        if self.servers[server].harmed {
            self.outcome.detected += 1;
            self.crash_server(server, Duration::from_millis(500), Loss::Disk);
            return;
        }
        if self.healed {
            self.violate(format!(
                "the log of server {server} does not open: {error:?}"
            ));
        }
        self.server_ends(server, "the log does not open");
    }

    /// Reads the recovered tail, block by block; each goes to its machine, once that is loaded.
    pub(super) fn take_up(&mut self, server: usize, journal: JournalId) {
        let life = self.server_life(server);
        if life.journal.is_none() {
            life.journal = Some(journal);
            life.tail = life.recovered.as_ref().and_then(Recovered::reader);
        }
        loop {
            let life = self.server_life(server);
            if life.tail_block.is_none() {
                let Some(reader) = &mut life.tail else { break };
                match reader.next_record() {
                    Ok(Some(record)) => {
                        let block = ChangeBlock::decode(record.payload);
                        life.tail_block = Some(block.expect("what was logged decodes"));
                    }
                    Ok(None) => break,
                    Err(error) => return self.log_is_damaged(server, &error),
                }
            }
            let block = life.tail_block.as_ref().expect("it was read");
            let machine = block.header().machine;
            match &mut life.machines.entry(machine).or_default().owned {
                Owned::Unknown => return self.load_machine(server, machine),
                Owned::Loading => return,
                Owned::Refused(why) => match life.tail_core.handle_refused(machine, *why) {
                    Ok(()) => life.tail_block = None,
                    Err(_) => return self.server_ends(server, "the tail cannot be taken up"),
                },
                Owned::Serves(core) => {
                    let block = life.tail_block.take().expect("it was read");
                    core.recover(&block);
                }
            }
        }
        let life = self.server_life(server);
        life.tail = None;
        if let Some(recovered) = life.recovered.take()
            && let Some((first, last)) = recovered.first().zip(recovered.last())
        {
            let len = recovered.block_len().0;
            life.backlog.recovered(first, last, len);
        }
        for machine in 0..self.agents.len() {
            self.check_cached(server, machine);
        }
        self.boot_step_done(server);
    }

    pub(super) fn serve(&mut self, server: usize) {
        let shape = self.plan.shape;
        let limits = CommitLimits {
            interval: shape.commit_interval,
            object_len_target: 48 << 10,
            in_flight_max: 3,
        };
        let life = self.server_life(server);
        let journal = life.journal.expect("it was noted");
        life.commit = Some(CommitCore::new(journal, limits));
        life.serves = true;
        self.tell(|| format!("server {server} serves in {journal}"));
        self.commit(server);
    }
}
