//! An agent that is rolled back or cloned: two lives of one machine, each with a disk of its own, and one
//! server history between them.
//!
//! The dirty map names the position up to which it was cleared. A life that does not find the server's
//! position in its own past begins a generation from its map and from every extent that the server's
//! history changed after that position; a server that does not find the position: a full compare. What
//! counts: once a life is connected and has sent all, the newest image at the server is its disk.

use stateright::{Model, Property};

const EXTENTS: usize = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Agents {
    /// Writes of both lives together.
    pub(crate) writes: u8,
    pub(crate) sessions: u8,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The server's changes after the map's position are sent again.
    pub(crate) changed_after_sent: bool,
    /// What is sent again is dirty again, before the map's position moves.
    pub(crate) sent_again_is_dirty: bool,
    /// An agent goes on only where the server's position is in its own past.
    pub(crate) own_past_only: bool,
    /// A bit is cleared only when the newest change of its extent is committed.
    pub(crate) cleared_when_committed: bool,
    /// A bit is cleared only when a flush of the local disk, begun after the write, has succeeded.
    pub(crate) cleared_when_flushed: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        changed_after_sent: true,
        sent_again_is_dirty: true,
        own_past_only: true,
        cleared_when_committed: true,
        cleared_when_flushed: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    lives: Vec<Life>,
    /// The server's history: each change has a name that the chain value tells from all others.
    history: Vec<Change>,
    committed: usize,
    connected: Option<usize>,
    next_version: u8,
    sessions: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Change {
    extent: usize,
    version: u8,
    /// Who sent it, in which session.
    chain: (usize, u8),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Life {
    disk: [u8; EXTENTS],
    /// What of the disk a power cut leaves.
    durable: [u8; EXTENTS],
    dirty: [bool; EXTENTS],
    /// Changes not sent yet.
    queue: Vec<(usize, u8)>,
    /// The history as this life knows it, which it continues.
    past: Vec<Change>,
    /// The position up to which the map was cleared.
    cleared_to: usize,
    cleared_name: Option<Change>,
    order_lost: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Write(usize, usize),
    Connect(usize),
    Send,
    Commit,
    HearCommitted,
    /// A second life, with disk, map and memory as they are now.
    Clone,
    /// The local disk is flushed.
    Flush(usize),
    /// The machine of a life loses power: memory is lost, and what was not flushed; the map stays.
    Crash(usize),
    /// The server loses what is not committed.
    LoseServer,
}

impl State {
    fn image(&self) -> [u8; EXTENTS] {
        let mut image = [0; EXTENTS];
        for change in &self.history {
            image[change.extent] = change.version;
        }
        image
    }
}

impl Model for Agents {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let life = Life {
            disk: [0; EXTENTS],
            durable: [0; EXTENTS],
            dirty: [false; EXTENTS],
            queue: Vec::new(),
            past: Vec::new(),
            cleared_to: 0,
            cleared_name: None,
            order_lost: false,
        };
        vec![State {
            lives: vec![life],
            history: Vec::new(),
            committed: 0,
            connected: None,
            next_version: 1,
            sessions: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for life in 0..state.lives.len() {
            if state.next_version <= self.writes {
                steps.extend((0..EXTENTS).map(|extent| Step::Write(life, extent)));
            }
            if state.sessions < self.sessions && state.connected != Some(life) {
                steps.push(Step::Connect(life));
            }
            if state.sessions < self.sessions {
                steps.push(Step::Crash(life));
            }
            if state.lives[life].durable != state.lives[life].disk {
                steps.push(Step::Flush(life));
            }
        }
        if state.lives.len() == 1 {
            steps.push(Step::Clone);
        }
        if let Some(life) = state.connected {
            if !state.lives[life].queue.is_empty() {
                steps.push(Step::Send);
            }
            steps.push(Step::HearCommitted);
        }
        if state.committed < state.history.len() {
            steps.extend([Step::Commit, Step::LoseServer]);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Write(life, extent) => {
                let version = state.next_version;
                state.next_version += 1;
                let life = &mut state.lives[life];
                life.disk[extent] = version;
                life.dirty[extent] = true;
                if !life.order_lost {
                    life.queue.push((extent, version));
                }
            }
            Step::Connect(life) => self.connect(&mut state, life),
            Step::Send => state.send(),
            Step::Commit => state.committed += 1,
            Step::HearCommitted => self.hear_committed(&mut state),
            Step::Flush(life) => state.lives[life].durable = state.lives[life].disk,
            Step::Clone => state.lives.push(state.lives[0].clone()),
            Step::Crash(life) => {
                if state.connected == Some(life) {
                    state.connected = None;
                }
                let life = &mut state.lives[life];
                life.disk = life.durable;
                life.queue.clear();
                life.past.clear();
                life.order_lost = true;
            }
            Step::LoseServer => {
                state.history.truncate(state.committed);
                state.connected = None;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "who has sent all finds its disk at the server",
                |_, state: &State| {
                    let level = state.connected.map(|life| &state.lives[life]);
                    level.is_none_or(|life| !life.queue.is_empty() || life.disk == state.image())
                },
            ),
            Property::always(
                "what is clean is what its position has",
                |_, state: &State| {
                    state
                        .lives
                        .iter()
                        .all(|life| state.clean_is_committed(life))
                },
            ),
            Property::sometimes("both lives were connected", |_, state: &State| {
                let from = |life| state.history.iter().any(|change| change.chain.0 == life);
                from(0) && from(1)
            }),
        ]
    }
}

impl State {
    fn send(&mut self) {
        let life = self.connected.expect("a session");
        let (extent, version) = self.lives[life].queue.remove(0);
        let change = Change {
            extent,
            version,
            chain: (life, self.sessions),
        };
        self.history.push(change);
        self.lives[life].past.push(change);
    }

    /// After a loss of the agent's memory only the map is left: clean extents must be as the history up
    /// to the map's position has them.
    fn clean_is_committed(&self, life: &Life) -> bool {
        let mut image = [0; EXTENTS];
        for change in self.history.iter().take(life.cleared_to) {
            image[change.extent] = change.version;
        }
        let found = self.position_of(life) == Some(life.cleared_to);
        let clean = (0..EXTENTS).filter(|extent| !life.dirty[*extent]);
        !found
            || clean
                .into_iter()
                .all(|extent| image[extent] == life.disk[extent])
    }

    /// Where the map's position lies in the server's history, if it does.
    fn position_of(&self, life: &Life) -> Option<usize> {
        let name = life
            .cleared_to
            .checked_sub(1)
            .and_then(|at| self.history.get(at));
        (name == life.cleared_name.as_ref()).then_some(life.cleared_to)
    }
}

impl Agents {
    fn connect(&self, state: &mut State, index: usize) {
        state.sessions += 1;
        state.connected = Some(index);
        let life = &state.lives[index];
        let known = life.past.starts_with(&state.history);
        let in_past =
            known || (!self.rules.own_past_only && state.history.len() <= life.past.len());
        if !life.order_lost && in_past {
            let unsent = life.past[state.history.len()..].iter();
            let again = unsent.map(|change| (change.extent, change.version));
            let queue: Vec<_> = again.chain(life.queue.iter().copied()).collect();
            let life = &mut state.lives[index];
            life.queue = queue;
            life.past.clone_from(&state.history);
            return;
        }
        let differs = |extent: usize| match state.position_of(life) {
            Some(position) => {
                let changed = state.history[position..].iter();
                let changed = changed.map(|change| change.extent).any(|at| at == extent);
                life.dirty[extent] || (changed && self.rules.changed_after_sent)
            }
            // A full compare.
            None => true,
        };
        let sent: Vec<usize> = (0..EXTENTS).filter(|extent| differs(*extent)).collect();
        let life = &mut state.lives[index];
        life.queue.clear();
        for extent in sent {
            life.queue.push((extent, life.disk[extent]));
            life.dirty[extent] |= self.rules.sent_again_is_dirty;
        }
        life.past.clone_from(&state.history);
        life.order_lost = false;
    }

    /// The watermark arrives: bits of extents whose newest change is committed are cleared.
    fn hear_committed(&self, state: &mut State) {
        let committed = state.committed;
        let index = state.connected.expect("a session");
        let life = &mut state.lives[index];
        if life.past.len() < committed {
            return;
        }
        for extent in 0..EXTENTS {
            let of_extent = |change: &Change| change.extent == extent;
            let queued = life.queue.iter().any(|(at, _)| *at == extent);
            let uncommitted = life.past[committed..].iter().any(of_extent);
            let newest = !queued && !uncommitted;
            let flushed = life.durable[extent] == life.disk[extent];
            let committed = newest || !self.rules.cleared_when_committed;
            if committed && (flushed || !self.rules.cleared_when_flushed) {
                life.dirty[extent] = false;
            }
        }
        life.cleared_to = committed;
        life.cleared_name = committed.checked_sub(1).map(|at| life.past[at]);
    }
}
