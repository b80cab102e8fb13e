//! The log's steps, and what is said once they are done.

use super::*;

impl World<'_> {
    pub(crate) fn wake_log(&mut self, server: usize) {
        let mut delay = Duration::from_micros(self.draws.node.between(50, 6_000));
        if self.schedule.now() < self.servers[server].slow_until {
            delay += Duration::from_millis(self.draws.node.between(50, 700));
        }
        let life = self.server_life(server);
        if !std::mem::replace(&mut life.log_awake, true) {
            self.server_after(server, delay, ServerEvent::Log);
        }
    }

    pub(super) fn log_step(&mut self, server: usize) {
        let life = self.server_life(server);
        life.log_awake = false;
        let Some(log) = &life.log else { return };
        while log.keep() {}
        let written = log.write();
        while log.keep() {}
        if self.servers[server].is_dead_at_disk() {
            return;
        }
        self.check_quota(server);
        self.settle_appends(server);
        match written {
            Written::Synced => {
                self.wake_log(server);
                self.server_after(server, Duration::from_secs(1), ServerEvent::LogMark);
                self.work_inbox(server);
                self.commit(server);
            }
            Written::Nothing => {
                let life = self.server_life(server);
                let has_room = life.log.as_ref().is_some_and(SteppedLog::has_room);
                if has_room && !life.inbox.is_empty() {
                    self.work_inbox(server);
                }
            }
            // Space is asked for again when it is back.
            Written::OutOfSpace => (),
            Written::Poisoned => self.server_ends(server, "the log failed"),
        }
    }

    /// The log keeps to its quota, whatever happens.
    fn check_quota(&mut self, server: usize) {
        let quota = FILE_LEN * self.plan.shape.log_files;
        let used = self.servers[server].disk.total_len();
        if quota < used {
            self.violate(format!(
                "the log of server {server} takes {used} bytes of {quota}"
            ));
        }
    }

    /// Says what is cached: only the log's own word makes it so.
    pub(super) fn settle_appends(&mut self, server: usize) {
        loop {
            let life = self.server_life(server);
            let Some((append, ..)) = life.appends.front_mut() else {
                return;
            };
            let position = match append.answer() {
                Some(Ok(appended)) => appended.position(),
                Some(Err(AppendError::Poisoned(_))) | None => return,
                Some(Err(error)) => return self.violate(format!("an append failed: {error:?}")),
            };
            let (_, block, digests) = life.appends.pop_front().expect("it was looked at");
            let (machine, disk) = (block.header().machine, block.header().disk);
            let at = block.header().position();
            life.backlog.push(Cached {
                position,
                block,
                digests: Some(digests),
            });
            if let Owned::Serves(core) = &mut life.machine(machine).owned {
                core.handle_cached(disk, at);
            }
            self.send_marks(server, machine, disk);
        }
    }
}
