//! Several disks in one machine: one order of writes, a stream a disk, and a cut over all of them.
//!
//! What is committed is folded by the product's `MachineHistory`, and the cut is the newest recovery
//! point that it gives for the machine. The agent is the model's own: one counter for all disks, blocks of
//! one or of all queued changes, `complete_through` in each, and an empty block that lifts it.

use std::num::NonZeroU32;

use everpoint_format::Change;
use everpoint_format::change::{Captured, Frame};
use everpoint_format::index::{BlockEntry, Section};
use everpoint_format::record::Record;
use everpoint_journal::history::MachineHistory;
use everpoint_units::{
    BlockNo, ChainValue, DiskId, Extent, GenerationId, Lba, ObjectNo, Seq, WallTime,
};
use stateright::{Model, Property};

use super::store::{journal_id, machine_id};

const DISKS: usize = 2;
/// Each disk begins with three records; the guest's first write comes after those of all disks.
const FIRST_WRITE: u64 = 3 * DISKS as u64 + 1;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Disks {
    pub(crate) writes: u64,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A block promises nothing beyond a change of its disk that is still queued.
    pub(crate) promises_hold: bool,
    /// A write gets its `Seq` and its place in the queue in one step.
    pub(crate) order_and_place_together: bool,
    /// The machine's cut is the least of its disks'.
    pub(crate) cut_is_least: bool,
    /// An empty block lifts an idle disk's promise.
    pub(crate) empty_blocks: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        promises_hold: true,
        order_and_place_together: true,
        cut_is_least: true,
        empty_blocks: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    newest: u64,
    /// Written, and not in a queue yet: only where that is not one step.
    unplaced: [Option<u64>; DISKS],
    queues: [Vec<u64>; DISKS],
    frozen: [Vec<Block>; DISKS],
    /// Disk of each committed block, in path order.
    committed: Vec<usize>,
    /// The machine's cut after the last commit.
    cut: u64,
    went_back: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Block {
    changes: Vec<u64>,
    complete_through: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Write(usize),
    Place(usize),
    /// One queued change, or all of them.
    Freeze(usize, bool),
    Commit(usize),
}

impl State {
    fn committed_of(&self, disk: usize) -> usize {
        self.committed.iter().filter(|at| **at == disk).count()
    }

    /// What a disk has promised so far.
    fn promised(&self, disk: usize) -> u64 {
        let last = self.frozen[disk].last();
        last.map_or(FIRST_WRITE - 1, |block| block.complete_through)
    }

    fn freeze(&mut self, rules: &Rules, disk: usize, all: bool) {
        let count = if all { self.queues[disk].len() } else { 1 };
        let changes: Vec<u64> = self.queues[disk].drain(..count).collect();
        let rest = self.queues[disk].first().filter(|_| rules.promises_hold);
        let complete_through = rest.map_or(self.newest, |next| next - 1);
        self.frozen[disk].push(Block {
            changes,
            complete_through,
        });
    }

    /// The committed history, as the product folds it.
    fn history(&self) -> MachineHistory {
        let mut history = MachineHistory::new(machine_id(1));
        let mut number = ObjectNo::ZERO;
        let mut fold = |section: &Section| {
            number = number.next();
            assert!(history.fold(section, journal_id(1, 0), number));
        };
        (0..DISKS).for_each(|disk| fold(&first_section(disk)));
        let mut next = [0; DISKS];
        for disk in &self.committed {
            let block = &self.frozen[*disk][next[*disk]];
            next[*disk] += 1;
            fold(&section(*disk, next[*disk] as u64, block));
        }
        history
    }

    fn cut(&self, rules: &Rules) -> u64 {
        let history = self.history();
        let cut = if rules.cut_is_least {
            history.latest(None)
        } else {
            let ends = (0..DISKS).map(|disk| history.latest(Some(disk_id(disk))));
            ends.max_by_key(|end| end.clone().ok())
                .expect("there are disks")
        };
        cut.expect("every disk is level from the start").0
    }
}

impl Model for Disks {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let newest = FIRST_WRITE - 1;
        vec![State {
            newest,
            unplaced: [None; DISKS],
            queues: Default::default(),
            frozen: Default::default(),
            committed: Vec::new(),
            cut: newest,
            went_back: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for disk in 0..DISKS {
            if state.unplaced[disk].is_some() {
                steps.push(Step::Place(disk));
            } else if state.newest < FIRST_WRITE - 1 + self.writes {
                steps.push(Step::Write(disk));
            }
            let lifts = self.rules.empty_blocks && state.promised(disk) < state.newest;
            if !state.queues[disk].is_empty() {
                steps.extend([Step::Freeze(disk, false), Step::Freeze(disk, true)]);
            } else if lifts {
                steps.push(Step::Freeze(disk, true));
            }
            if state.committed_of(disk) < state.frozen[disk].len() {
                steps.push(Step::Commit(disk));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Write(disk) => {
                state.newest += 1;
                if self.rules.order_and_place_together {
                    state.queues[disk].push(state.newest);
                } else {
                    state.unplaced[disk] = Some(state.newest);
                }
            }
            Step::Place(disk) => {
                let placed = state.unplaced[disk].take();
                state.queues[disk].extend(placed);
            }
            Step::Freeze(disk, all) => state.freeze(&self.rules, disk, all),
            Step::Commit(disk) => {
                state.committed.push(disk);
                let cut = state.cut(&self.rules);
                state.went_back = cut < state.cut;
                state.cut = cut;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every change up to the cut is there", |_, state: &State| {
                let committed = (0..DISKS).flat_map(|disk| {
                    let blocks = &state.frozen[disk][..state.committed_of(disk)];
                    blocks.iter().flat_map(|block| &block.changes)
                });
                let there: Vec<u64> = committed.copied().collect();
                (FIRST_WRITE..=state.cut).all(|seq| there.contains(&seq))
            }),
            Property::always("the cut never goes back", |_, state: &State| {
                !state.went_back
            }),
            Property::always(
                "when all is committed the cut is the newest",
                |model: &Self, state: &State| {
                    let mut steps = Vec::new();
                    model.actions(state, &mut steps);
                    let waits = steps.iter().any(|step| !matches!(step, Step::Write(_)));
                    waits || state.cut == state.newest
                },
            ),
        ]
    }
}

fn disk_id(disk: usize) -> DiskId {
    DiskId([u8::try_from(disk).expect("few disks") + 1; 16])
}

/// With what a disk begins.
fn first_section(disk: usize) -> Section {
    let first = 3 * disk as u64 + 1;
    let changes = [
        Change::DiskBegin {
            sectors: 64,
            block_size: 512,
            name: "disk".into(),
        },
        Change::ResyncBegin { base: None },
        Change::ResyncComplete,
    ];
    let records = (first..).zip(changes);
    let records = records.map(|(seq, change)| record(seq, change)).collect();
    section_of(disk, 0, entry(0, FIRST_WRITE - 1, records))
}

fn section(disk: usize, number: u64, block: &Block) -> Section {
    let extent = Extent::new(Lba::ZERO, NonZeroU32::MIN).expect("the first sector");
    let records = block.changes.iter();
    let records = records.map(|seq| record(*seq, Change::Zero(extent)));
    let entry = entry(number, block.complete_through, records.collect());
    section_of(disk, number, entry)
}

fn section_of(disk: usize, number: u64, block: BlockEntry) -> Section {
    Section {
        machine: machine_id(1),
        disk: disk_id(disk),
        generation: GenerationId(disk_id(disk).0),
        first_block: BlockNo(number + 1),
        chain_before: ChainValue(number),
        blocks: vec![block],
        places: Vec::new(),
    }
}

fn entry(number: u64, complete_through: u64, records: Vec<Record>) -> BlockEntry {
    BlockEntry {
        complete_through: Seq(complete_through),
        captured: Captured {
            first: WallTime(0),
            last: WallTime(0),
            clock_offset_us: 0,
        },
        chain: ChainValue(number + 1),
        frame_at: 0,
        frame: Frame::default(),
        records,
        digests: Vec::new(),
    }
}

const fn record(seq: u64, change: Change) -> Record {
    Record {
        seq: Seq(seq),
        ends_request: true,
        change,
    }
}
