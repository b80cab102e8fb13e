//! A boot's life: freezing and storing objects with the product's `Commit`, crashes, restarts, and
//! resuming from a snapshot.

use std::sync::Arc;

use everpoint_journal::commit::Action;
use everpoint_units::{Moment, ObjectNo};

use super::super::store::{Block, Data, Object, Release, small};
use super::{Boot, EndQuestion, Snapshot, State, World, image, open_journal};

/// Nothing here depends on time: every batch is due at once.
const NOW: Moment = Moment(0);

impl Boot {
    pub(crate) fn serves(&self) -> bool {
        self.alive && !self.commit.is_fenced()
    }

    pub(crate) fn frozen_count(&self) -> u8 {
        small(self.frozen.len() as u64)
    }

    /// The end of the run of own successes.
    pub(crate) fn stored_run(&self) -> u8 {
        small(u64::from(self.stored.trailing_ones()))
    }

    pub(crate) fn is_stored(&self, number: u8) -> bool {
        self.stored & (1 << (number - 1)) != 0
    }

    /// Checksum of the last frozen object.
    pub(crate) fn last_checksum(&self) -> u64 {
        match self.frozen.last().map(|object| &**object) {
            Some(Object::Data(data)) => data.checksum,
            _ => 0,
        }
    }

    /// A block joins the batch.
    pub(crate) fn take(&mut self, block: Block) {
        self.pending.push(block);
        self.commit.handle_block(NOW, 1, true);
    }

    /// Whether the core wants an object made of what is pending.
    pub(crate) fn wants_freeze(&self) -> bool {
        self.rotating.is_none() && !self.pending.is_empty() && self.commit.wants_freeze(NOW)
    }

    /// Makes an object of all that is pending.
    pub(crate) fn freeze(&mut self, release: Option<Release>) {
        self.commit.handle_frozen();
        let previous = self.last_checksum();
        let blocks = std::mem::take(&mut self.pending);
        let data = Data::freeze(blocks, release, previous, self.life);
        self.frozen.push(Arc::new(Object::Data(data)));
    }

    fn is_acknowledged(&self, rules: &super::Rules, number: u8) -> bool {
        if !rules.gapless {
            return self.is_stored(number);
        }
        match rules.end_question {
            EndQuestion::EachTime => u64::from(number) <= self.commit.committed().0,
            EndQuestion::AtHello => self.greeted && number <= self.stored_run(),
            EndQuestion::Never => number <= self.stored_run(),
        }
    }
}

impl World {
    /// An attempt to create object `number`, whose answer arrives.
    pub(crate) fn store(&self, state: &mut State, boot: u8, number: u8) {
        let index = usize::from(boot);
        let journal = usize::from(state.boots[index].journal);
        let object = Arc::clone(&state.boots[index].frozen[usize::from(number) - 1]);
        let stored = Arc::make_mut(&mut state.journals[journal]);
        stored.create(number, &object);
        if stored.at(number) != Some(&object) && self.rules.existing_compared {
            self.fence(state, boot);
            return;
        }
        let boot = Arc::make_mut(&mut state.boots[index]);
        boot.stored |= 1 << (number - 1);
        boot.commit.handle_stored(ObjectNo(u64::from(number)));
        self.act(state, index);
    }

    /// The question for `end` gets its answer.
    pub(crate) fn answer(&self, state: &mut State, boot: u8) {
        let index = usize::from(boot);
        let boot_now = &state.boots[index];
        let after = boot_now.asked.expect("a question is under way");
        let journal = &state.journals[usize::from(boot_now.journal)];
        if journal.end.is_some() {
            self.fence(state, boot);
            return;
        }
        let boot = Arc::make_mut(&mut state.boots[index]);
        boot.asked = None;
        boot.commit.handle_end_absent(ObjectNo(u64::from(after)));
        self.act(state, index);
    }

    /// Carries out what the core wants.
    fn act(&self, state: &mut State, index: usize) {
        let boot = Arc::make_mut(&mut state.boots[index]);
        while let Some(action) = boot.commit.poll_action() {
            match action {
                Action::AskForEnd { after } => boot.asked = Some(small(after.0)),
                Action::Committed { .. } => (),
            }
        }
        self.free_log(state, index);
    }

    /// Blocks that are acknowledged leave the cache log.
    fn free_log(&self, state: &mut State, index: usize) {
        let boot = &state.boots[index];
        let done = self.acknowledged_numbers(boot);
        let done: Vec<Block> = done.flat_map(|(_, data)| data.blocks.clone()).collect();
        let log = &mut state.servers[usize::from(boot.server)].cache_log;
        log.retain(|block| !done.contains(block));
    }

    /// What the boot may call committed, by number.
    pub(crate) fn acknowledged_numbers<'a>(
        &'a self,
        boot: &'a Boot,
    ) -> impl Iterator<Item = (u8, &'a Data)> {
        let numbered = (1..).zip(&boot.frozen);
        numbered.filter_map(|(number, object)| match &**object {
            Object::Data(data) if boot.is_acknowledged(&self.rules, number) => Some((number, data)),
            _ => None,
        })
    }

    /// The blocks of a machine that the boot may call committed, with their places.
    pub(crate) fn acknowledged_blocks(&self, boot: &Boot, machine: u8) -> Vec<super::Placed> {
        let placed = self.acknowledged_numbers(boot).flat_map(|(number, data)| {
            let own = data.blocks.iter().filter(|block| block.machine == machine);
            own.map(move |block| (boot.journal, number, *block))
        });
        placed.collect()
    }

    /// The writes that the boot may call committed to the machine's agent.
    pub(crate) fn acknowledged_writes(&self, boot: &Boot, machine: u8) -> u8 {
        let own = image(&self.acknowledged_blocks(boot, machine));
        if self.rules.inherited_stated {
            own | boot.inherited[usize::from(machine)]
        } else {
            own
        }
    }

    /// The boot's journal is over, for ever.
    pub(crate) fn fence(&self, state: &mut State, boot: u8) {
        let fenced = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        fenced.commit.handle_fenced();
        fenced.asked = None;
        fenced.owned = Default::default();
        fenced.pending.clear();
        hang_up(state, boot);
    }

    /// The process ends; its cache log stays.
    pub(crate) fn kill(&self, state: &mut State, boot: u8) {
        let dead = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        dead.alive = false;
        dead.pending.clear();
        dead.owned = Default::default();
        let server = usize::from(dead.server);
        if state.servers[server].boot == Some(boot) {
            state.servers[server].boot = None;
        }
        hang_up(state, boot);
    }

    /// A new boot of the server, in a journal above its own ones or above all (R2).
    pub(crate) fn restart(&self, state: &mut State, server: u8, above_own_only: bool) {
        if let Some(boot) = state.servers[usize::from(server)].boot {
            self.kill(state, boot);
        }
        let known = state.boots.iter();
        let known = known.filter(|boot| !above_own_only || boot.server == server);
        let levels = known.map(|boot| state.journals[usize::from(boot.journal)].level);
        let journal = open_journal(state, levels.max().unwrap_or(0) + 1);
        self.boot(state, server, journal);
    }

    /// Remembers a boot's memory and its server's cache log.
    pub(crate) fn snapshot(&self, state: &mut State, boot: u8) {
        let now = &state.boots[usize::from(boot)];
        state.snapshot = Some(Arc::new(Snapshot {
            boot_index: boot,
            boot: Arc::clone(now),
            cache_log: state.servers[usize::from(now.server)].cache_log.clone(),
        }));
    }

    /// The boot of the snapshot lives again; the life before ends, or goes on beside it.
    pub(crate) fn resume(&self, state: &mut State, life_before_goes_on: bool) {
        let snapshot = state.snapshot.take().expect("there is a snapshot");
        let index = small(state.boots.len() as u64);
        let mut boot = Boot::clone(&snapshot.boot);
        boot.life = state.boots[usize::from(snapshot.boot_index)].life + index;
        boot.greeted = false;
        if life_before_goes_on {
            boot.server = small(state.servers.len() as u64);
            state.servers.push(super::Server::default());
        } else {
            let now = state.servers[usize::from(boot.server)].boot;
            now.into_iter().for_each(|boot| self.kill(state, boot));
        }
        let server = &mut state.servers[usize::from(boot.server)];
        server.boot = Some(index);
        server.cache_log.clone_from(&snapshot.cache_log);
        state.boots.push(Arc::new(boot));
    }
}

/// Agents that are connected to the boot lose their connection.
pub(crate) fn hang_up(state: &mut State, boot: u8) {
    for agent in &mut state.agents {
        if agent.boot == Some(boot) {
            Arc::make_mut(agent).boot = None;
        }
    }
}
