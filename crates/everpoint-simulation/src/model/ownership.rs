//! Ownership, commit and deletion (R1 to R14), with agents, servers, retention and readers.
//!
//! One store operation a step. A frozen object or seal may be created at any later time: also after its
//! sender's death, and again after a deletion. Replies are lost; servers crash, lose their disk,
//! restart with or without the tail of their cache log, sleep, rotate, and are resumed from a snapshot of
//! their memory while the life before goes on or not; readers sleep between journals.
//!
//! | part           | whose it is                                                           |
//! |----------------|-----------------------------------------------------------------------|
//! | reading a path | the product's `PathWalk`                                              |
//! | sealing        | the product's `Sealing`                                               |
//! | committing     | the product's `Commit`                                                |
//! | the rest       | the model's own: `agents.rs`, `boots.rs`, `takeover.rs`, and `retention.rs` for R13 and R14, which the product has no rule for yet |
//!
//! A rule is left out by a flag in [`Rules`]: the model then does without it, or ignores what the core
//! answers. No core knows of that.

mod agents;
mod boots;
mod paths;
mod properties;
mod retention;
mod sizes;
mod steps;
mod takeover;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use everpoint_journal::commit::{Commit, CommitLimits};

use super::store::{Block, Journal, Object, Seal, small};

/// Machines of the largest world.
pub(crate) const MACHINES_MAX: usize = 2;
/// Journals are numbered below this; the healing of a world opens more than the world itself may.
const JOURNALS_MAX: u8 = 60;

/// A world: its size, its faults, its rules.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) machines: u8,
    pub(crate) servers: u8,
    /// Writes of each guest.
    pub(crate) writes: u8,
    /// Journals that are opened by all servers together.
    pub(crate) journals: u8,
    /// Objects of one boot, and how many of them are under way at once.
    pub(crate) objects: u8,
    pub(crate) in_flight: u8,
    /// Generations of each disk.
    pub(crate) generations: u8,
    pub(crate) faults: Faults,
    pub(crate) rules: Rules,
    /// Whether each state is asked if it heals once faults stop.
    pub(crate) heals: bool,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Faults {
    pub(crate) crashes: u8,
    /// Crashes that lose the cache log.
    pub(crate) losses: u8,
    pub(crate) agent_crashes: u8,
    pub(crate) deletions: u8,
    pub(crate) releases: u8,
    /// Releases to nobody.
    pub(crate) closings: u8,
    pub(crate) resumes: u8,
    /// Resumes while the life before goes on.
    pub(crate) clones: u8,
    pub(crate) seals: u8,
    pub(crate) rotations: u8,
    pub(crate) readers: u8,
}

/// The rules; each may be left out to see what it is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rules {
    /// R2: successors have higher levels.
    pub(crate) levels_rise: bool,
    /// R3: only a release inside the journal's prefix counts.
    pub(crate) release_inside_prefix: bool,
    /// R4: the prefix ends where neighbours disagree.
    pub(crate) neighbours_agree: bool,
    /// R4, R5: a seal states the prefix, not the gapless run.
    pub(crate) seal_states_prefix: bool,
    /// R4: a seal leads on also where the prefix ends before the run.
    pub(crate) sealed_leads_on: bool,
    /// R5: the seal goes into the first missing number.
    pub(crate) seal_in_first_gap: bool,
    /// R6: a boot owns only what it has read after the seal.
    pub(crate) path_is_read: bool,
    /// R6: a rotation owns only when its seal says what the boot itself has written.
    pub(crate) rotation_compares: bool,
    /// R7: what was cached goes in before the release.
    pub(crate) release_comes_last: bool,
    /// R7: who released a machine never takes it again in this journal.
    pub(crate) released_for_ever: bool,
    /// R9: an object that exists is compared.
    pub(crate) existing_compared: bool,
    /// R10: `committed` moves over own successes without gaps.
    pub(crate) gapless: bool,
    /// R10: `end` is asked for after them.
    pub(crate) end_question: EndQuestion,
    /// R11: the hello answer states what was inherited.
    pub(crate) inherited_stated: bool,
    /// R12: an agent refuses a lower epoch.
    pub(crate) epochs_refused: bool,
    /// R13: deletion only in sealed journals.
    pub(crate) only_sealed_deleted: bool,
    /// R13: every machine's manifest has passed the journal.
    pub(crate) every_manifest_passed: bool,
    /// R13, R14: `end` is created before the first deletion.
    pub(crate) end_first: bool,
    /// R14: a reader that finds `end` looks at the manifest again.
    pub(crate) manifest_read_again: bool,
}

/// When a boot asks for `end`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EndQuestion {
    /// After the successes that it covers, as the core wants it.
    EachTime,
    /// Only when an agent comes.
    AtHello,
    Never,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        levels_rise: true,
        release_inside_prefix: true,
        neighbours_agree: true,
        seal_states_prefix: true,
        sealed_leads_on: true,
        seal_in_first_gap: true,
        path_is_read: true,
        rotation_compares: true,
        release_comes_last: true,
        released_for_ever: true,
        existing_compared: true,
        gapless: true,
        end_question: EndQuestion::EachTime,
        inherited_stated: true,
        epochs_refused: true,
        only_sealed_deleted: true,
        every_manifest_passed: true,
        end_first: true,
        manifest_read_again: true,
    };
}

/// A block with the journal and number that it lies under.
pub(crate) type Placed = (u8, u8, Block);

/// Everything there is at one instant. Parts are shared between states that have them in common.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    pub(crate) journals: Vec<Arc<Journal>>,
    pub(crate) boots: Vec<Arc<Boot>>,
    pub(crate) servers: Vec<Server>,
    pub(crate) manifests: [Arc<Manifest>; MACHINES_MAX],
    pub(crate) agents: [Arc<Agent>; MACHINES_MAX],
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) reader: Option<Arc<Reader>>,
    /// Writes that some boot could have acknowledged as committed, by machine.
    pub(crate) acknowledged: [u8; MACHINES_MAX],
    pub(crate) left: Faults,
    pub(crate) broken: Option<&'static str>,
    pub(crate) paths: Derived<[Arc<Path>; MACHINES_MAX]>,
}

/// What follows from the rest of a state: kept, and no part of its identity.
#[derive(Clone, Debug)]
pub(crate) struct Derived<T>(pub(crate) T);

impl<T> Hash for Derived<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T> PartialEq for Derived<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Derived<T> {}

/// One run of a server, in a journal of its own; two lives of one run share the journal.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Boot {
    pub(crate) journal: u8,
    pub(crate) server: u8,
    pub(crate) life: u8,
    pub(crate) alive: bool,
    pub(crate) commit: Commit,
    /// The numbers whose question for `end` is under way.
    pub(crate) asked: Option<u8>,
    /// Frozen objects, by number.
    pub(crate) frozen: Vec<Arc<Object>>,
    /// Numbers that are known to be stored, one bit each.
    pub(crate) stored: u8,
    /// Whether `end` was looked for when an agent came.
    pub(crate) greeted: bool,
    pub(crate) owned: [bool; MACHINES_MAX],
    pub(crate) released: [bool; MACHINES_MAX],
    pub(crate) epochs: [u8; MACHINES_MAX],
    /// Generation and number of the last block taken.
    pub(crate) positions: [(u8, u8); MACHINES_MAX],
    pub(crate) inherited: [u8; MACHINES_MAX],
    pub(crate) pending: Vec<Block>,
    /// Frozen seals; each may be created at any time.
    pub(crate) seals: Vec<FrozenSeal>,
    /// The seal with which this boot goes on in a new journal.
    pub(crate) rotating: Option<u8>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct FrozenSeal {
    pub(crate) journal: u8,
    pub(crate) number: u8,
    pub(crate) seal: Seal,
    /// For which machine it was made.
    pub(crate) machine: u8,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Server {
    pub(crate) boot: Option<u8>,
    pub(crate) cache_log: Vec<Block>,
}

/// The machine's agent: what its guest wrote, and what it still remembers of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Agent {
    pub(crate) written: u8,
    /// Dirty bits, one a write.
    pub(crate) dirty: u8,
    pub(crate) generation: u8,
    pub(crate) next_number: u8,
    pub(crate) queue: Vec<Block>,
    pub(crate) boot: Option<u8>,
    /// Order was lost: the next session begins a generation.
    pub(crate) lost: bool,
    pub(crate) epoch: u8,
}

/// What retention has folded: whole journals, from the origin.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) passed: Vec<u8>,
    pub(crate) next: u8,
    pub(crate) blocks: Vec<Placed>,
}

/// A server's memory and cache log at an instant.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) boot_index: u8,
    pub(crate) boot: Arc<Boot>,
    pub(crate) cache_log: Vec<Block>,
}

/// A reader that may sleep between journals.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Reader {
    pub(crate) machine: u8,
    pub(crate) manifest_number: usize,
    pub(crate) passed: Vec<u8>,
    pub(crate) at: u8,
    pub(crate) blocks: Vec<Placed>,
    /// What was acknowledged before it began.
    pub(crate) owed: u8,
}

/// A machine's history as a reader finds it now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Path {
    pub(crate) blocks: Vec<Placed>,
    pub(crate) journals: Vec<u8>,
    pub(crate) end: PathEnd,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PathEnd {
    Open,
    Closed,
    /// It cannot be followed: a circle, or damage.
    Broken,
}

impl Path {
    pub(crate) fn last(&self) -> u8 {
        *self.journals.last().expect("a path has a journal")
    }

    /// The writes that it holds.
    pub(crate) fn image(&self) -> u8 {
        image(&self.blocks)
    }
}

impl World {
    /// Servers each with a journal of their own; the first one owns every machine.
    pub(crate) fn first_state(&self) -> State {
        let empty = Path {
            blocks: Vec::new(),
            journals: vec![0],
            end: PathEnd::Open,
        };
        let agent = Agent {
            written: 0,
            dirty: 0,
            generation: 0,
            next_number: 1,
            queue: Vec::new(),
            boot: None,
            lost: true,
            epoch: 0,
        };
        let mut state = State {
            journals: Vec::new(),
            boots: Vec::new(),
            servers: vec![Server::default(); usize::from(self.servers)],
            manifests: Default::default(),
            agents: std::array::from_fn(|_| Arc::new(agent.clone())),
            snapshot: None,
            reader: None,
            acknowledged: [0; MACHINES_MAX],
            left: self.faults,
            broken: None,
            paths: Derived(std::array::from_fn(|_| Arc::new(empty.clone()))),
        };
        for server in 0..self.servers {
            let journal = open_journal(&mut state, server + 1);
            self.boot(&mut state, server, journal);
        }
        let first = Arc::make_mut(&mut state.boots[0]);
        first.owned = [true; MACHINES_MAX];
        first.epochs = [1; MACHINES_MAX];
        state
    }

    /// Starts a boot of `server` in `journal`.
    pub(crate) fn boot(&self, state: &mut State, server: u8, journal: u8) -> u8 {
        let index = small(state.boots.len() as u64);
        state.boots.push(Arc::new(Boot {
            journal,
            server,
            life: 0,
            alive: true,
            commit: self.new_commit(),
            asked: None,
            frozen: Vec::new(),
            stored: 0,
            greeted: true,
            owned: [false; MACHINES_MAX],
            released: [false; MACHINES_MAX],
            epochs: [0; MACHINES_MAX],
            positions: [(0, 0); MACHINES_MAX],
            inherited: [0; MACHINES_MAX],
            pending: Vec::new(),
            seals: Vec::new(),
            rotating: None,
        }));
        state.servers[usize::from(server)].boot = Some(index);
        index
    }

    fn new_commit(&self) -> Commit {
        Commit::new(CommitLimits {
            interval: std::time::Duration::ZERO,
            object_len_target: u64::MAX,
            in_flight_max: u64::from(self.in_flight),
        })
    }
}

/// A new journal under a name that nobody ever had (R1).
pub(crate) fn open_journal(state: &mut State, level: u8) -> u8 {
    let index = small(state.journals.len() as u64);
    assert!(index < JOURNALS_MAX, "a world opens few journals");
    state.journals.push(Arc::new(Journal {
        level,
        ..Journal::default()
    }));
    index
}

/// The writes in these blocks.
pub(crate) fn image(blocks: &[Placed]) -> u8 {
    blocks.iter().fold(0, |seen, placed| seen | placed.2.writes)
}

/// Generation and number of the last block.
pub(crate) fn position(blocks: &[Placed]) -> (u8, u8) {
    let last = blocks.last();
    last.map_or((0, 0), |placed| (placed.2.generation, placed.2.number))
}

/// Whether `block` is the next after `position`: of the same generation, or the first of a later one.
pub(crate) fn follows(position: (u8, u8), block: &Block) -> bool {
    let goes_on = block.generation == position.0 && block.number == position.1 + 1;
    goes_on || (position.0 < block.generation && block.number == 1)
}
