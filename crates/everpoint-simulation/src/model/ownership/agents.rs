//! The agents: what a guest wrote, how it is sent, and when a dirty bit is cleared.
//!
//! An agent numbers blocks without gaps within a generation. When it does not find the server's
//! position in its own past it begins a generation with every dirty write in its first block.

use std::sync::Arc;

use super::super::store::Block;
use super::{Agent, EndQuestion, State, World, follows};

impl World {
    pub(crate) fn write(&self, state: &mut State, machine: u8) {
        let agent = Arc::make_mut(&mut state.agents[usize::from(machine)]);
        let bit = 1 << agent.written;
        agent.written += 1;
        agent.dirty |= bit;
        if !agent.lost && 0 < agent.generation {
            agent.queue.push(Block {
                machine,
                generation: agent.generation,
                number: agent.next_number,
                writes: bit,
            });
            agent.next_number += 1;
        }
    }

    /// Whether the agent would take a session with this boot (R12).
    pub(crate) fn may_connect(&self, state: &State, machine: u8, boot: u8) -> bool {
        let index = usize::from(machine);
        let agent = &state.agents[index];
        let server = &state.boots[usize::from(boot)];
        let generation = agent.generation.max(server.positions[index].0);
        server.serves()
            && server.owned[index]
            && server.rotating.is_none()
            && agent.boot != Some(boot)
            && generation < self.generations
            && (!self.rules.epochs_refused || agent.epoch <= server.epochs[index])
    }

    /// A session begins: the agent goes on where the server stands, or begins a generation.
    pub(crate) fn connect(&self, state: &mut State, machine: u8, boot: u8) {
        if self.rules.end_question == EndQuestion::AtHello && !self.greets(state, boot) {
            return;
        }
        let server = &state.boots[usize::from(boot)];
        let stands = server.positions[usize::from(machine)];
        let epoch = server.epochs[usize::from(machine)];
        let agent = Arc::make_mut(&mut state.agents[usize::from(machine)]);
        agent.epoch = agent.epoch.max(epoch);
        if agent.continues(stands) {
            agent.queue.retain(|block| stands.1 < block.number);
        } else if !agent.has_whole_generation(stands) {
            agent.generation = agent.generation.max(stands.0) + 1;
            agent.next_number = 2;
            agent.lost = false;
            agent.queue = vec![Block {
                machine,
                generation: agent.generation,
                number: 1,
                writes: agent.dirty,
            }];
        }
        agent.boot = Some(boot);
    }

    /// R10 in a weaker form: the journal is looked at when an agent comes, and not again.
    fn greets(&self, state: &mut State, boot: u8) -> bool {
        let server = &state.boots[usize::from(boot)];
        let journal = &state.journals[usize::from(server.journal)];
        let strange = |number: u8| {
            let own = server.frozen.get(usize::from(number) - 1);
            journal.at(number).is_some_and(|object| Some(object) != own)
        };
        if journal.end.is_some() || (1..=journal.top()).any(strange) {
            self.fence(state, boot);
            return false;
        }
        Arc::make_mut(&mut state.boots[usize::from(boot)]).greeted = true;
        true
    }

    /// The next block reaches the server's cache log; `false` where there is none.
    pub(crate) fn send(&self, state: &mut State, machine: u8) -> bool {
        let index = usize::from(machine);
        let Some(boot) = state.agents[index].boot else {
            return false;
        };
        let server = Arc::make_mut(&mut state.boots[usize::from(boot)]);
        let stands = server.positions[index];
        let queue = &state.agents[index].queue;
        let Some(&block) = queue.iter().find(|block| follows(stands, block)) else {
            return false;
        };
        server.positions[index] = (block.generation, block.number);
        server.take(block);
        state.servers[usize::from(server.server)]
            .cache_log
            .push(block);
        true
    }

    /// The agent learns what is cached and forgets those payloads; `false` where it knew.
    pub(crate) fn hear_cached(&self, state: &mut State, machine: u8) -> bool {
        let index = usize::from(machine);
        let Some(boot) = state.agents[index].boot else {
            return false;
        };
        let stands = state.boots[usize::from(boot)].positions[index];
        let agent = &mut state.agents[index];
        let news = agent.queue.iter().any(|block| block.number <= stands.1);
        if agent.generation != stands.0 || !news {
            return false;
        }
        let agent = Arc::make_mut(agent);
        agent.queue.retain(|block| stands.1 < block.number);
        true
    }

    /// The agent learns, sooner or later, what a boot may call committed.
    pub(crate) fn hear_committed(&self, state: &mut State, machine: u8, boot: u8) {
        let writes = self.acknowledged_writes(&state.boots[usize::from(boot)], machine);
        Arc::make_mut(&mut state.agents[usize::from(machine)]).dirty &= !writes;
    }

    /// The agents' machines crash: dirty maps stay, queues and order are lost.
    pub(crate) fn crash_agents(&self, state: &mut State) {
        for agent in &mut state.agents {
            let agent = Arc::make_mut(agent);
            agent.queue.clear();
            agent.boot = None;
            agent.lost = true;
        }
    }
}

impl Agent {
    /// The number from which it could send.
    fn from(&self) -> u8 {
        self.queue
            .first()
            .map_or(self.next_number, |block| block.number)
    }

    fn continues(&self, stands: (u8, u8)) -> bool {
        !self.lost
            && self.generation == stands.0
            && stands.1 < self.next_number
            && self.from() <= stands.1 + 1
    }

    /// Whether a generation that the server has not seen is still there from its first block on.
    fn has_whole_generation(&self, stands: (u8, u8)) -> bool {
        let writes = self.queue.iter().fold(0, |seen, block| seen | block.writes);
        !self.lost
            && stands.0 < self.generation
            && self.from() == 1
            && !self.queue.is_empty()
            && writes & self.dirty == self.dirty
    }
}
