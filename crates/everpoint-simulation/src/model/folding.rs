//! Folding part of a journal that is still being written: a manifest whose position lies inside it.
//!
//! The product has no manifests yet; what it has is used: `PathWalk` reads the journal whole, `Sealing`
//! seals it. A server's two lives write into one journal, up to two objects each under way. A manifest
//! keeps the number that it was folded to and that object's checksum; a reader goes on behind it.

use everpoint_format::origin::Origin;
use everpoint_journal::path::{Need, ObjectRead, PathWalk, Verdict};
use everpoint_journal::sealing::{Found, SealOrder, Sealing, Step as SealStep};
use everpoint_units::{JournalId, ServerId, WallTime};
use stateright::{Model, Property};
use std::sync::Arc;

use super::store::{Data, Journal, Object, Seal, VAULT, checksum, journal_id, machine_id, small};

const NUMBERS: u8 = 4;
const LIVES: u8 = 2;
const IN_FLIGHT: u8 = 2;
const JOURNAL: JournalId = journal_id(1, 0);
const SUCCESSOR: JournalId = journal_id(2, 1);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Folding {
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A position inside a journal keeps the checksum of its object.
    pub(crate) checksum_kept: bool,
    /// Only the prefix is folded, not the gapless run.
    pub(crate) only_prefix_folded: bool,
    /// R13: nothing is deleted before the position is past the journal.
    pub(crate) nothing_deleted: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        checksum_kept: true,
        only_prefix_folded: true,
        nothing_deleted: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    journal: Journal,
    /// By life: its frozen objects. The second one remembers the first's as of the snapshot.
    lives: Vec<Vec<Arc<Object>>>,
    /// How many of each life's objects it knows to be stored, without gaps.
    stored: Vec<u8>,
    seals: Vec<(u8, Seal)>,
    /// What is folded: a name of each object, in order; and the position's number.
    folded: Vec<u64>,
    position: u8,
    /// The same history, whole, as it was when last looked at: nobody may see less later.
    seen: Vec<u64>,
    deleted: bool,
    broken: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Freeze(usize),
    Arrive(usize, u8),
    HearOfCreate(usize, u8),
    Resume,
    ChooseSeal,
    PutSeal(usize),
    Fold(u8),
    Delete(u8),
}

impl State {
    /// The journal's prefix, by the product's walk: the checksum of each object in it.
    fn prefix(&self) -> Vec<u64> {
        let mut walk = PathWalk::new(machine_id(1));
        walk.handle_origin(Ok(Some(&Origin {
            vault: VAULT,
            machine: machine_id(1),
            journal: JOURNAL,
            created_at: WallTime(0),
            made_from: None,
        })));
        walk.handle_listing(&self.journal.listing());
        let mut prefix = Vec::new();
        while let Some(Need::Object(_, number)) = walk.need() {
            let number = small(number.0);
            match &**self.journal.at(number).expect("it was listed") {
                Object::Data(data) => {
                    let index = data.index(JOURNAL, number, data.previous, |_| SUCCESSOR);
                    if walk.handle_object(ObjectRead::Data(&index)) == Verdict::Fold {
                        prefix.push(data.checksum);
                    }
                }
                Object::Seal(seal) => {
                    let seal = seal.stored(JOURNAL, number, SUCCESSOR);
                    walk.handle_object(ObjectRead::Seal(&seal));
                }
            }
        }
        prefix
    }

    /// The gapless run of data, whoever wrote it.
    fn run(&self) -> Vec<u64> {
        let data = (1..).map_while(|number| self.journal.data(number));
        data.map(|data| data.checksum).collect()
    }

    /// What a reader finds that begins at the manifest's position.
    fn read_from_position(&self, checksum_kept: bool) -> Vec<u64> {
        let mut read = self.folded.clone();
        let sealed = self.journal.seals().next();
        let end = sealed.map_or(self.journal.top(), |(_, seal)| seal.prefix_end);
        let mut previous = self.folded.last().copied().filter(|_| checksum_kept);
        for number in self.position + 1..=end {
            let Some(data) = self.journal.data(number) else {
                break;
            };
            let first = number == 1;
            let follows = previous.is_none_or(|previous| previous == data.previous);
            if sealed.is_none() && !first && !follows {
                break;
            }
            read.push(data.checksum);
            previous = Some(data.checksum);
        }
        read
    }

    fn freeze_seal(&self) -> Option<(u8, Seal)> {
        let mut sealing = Sealing::new(SealOrder {
            vault: VAULT,
            journal: JOURNAL,
            successor: SUCCESSOR,
            server: ServerId([1; 16]),
            assignment: 0,
            now: WallTime(0),
        });
        loop {
            match sealing.step() {
                SealStep::List => sealing.handle_listing(&self.journal.listing()),
                SealStep::ReadEnd | SealStep::Sealed(_) => return None,
                SealStep::Read(number) => {
                    let number = small(number.0);
                    sealing.handle_read(match &**self.journal.at(number).expect("listed") {
                        Object::Data(data) => Found::Data {
                            checksum: checksum(data.checksum),
                            previous: checksum(data.previous),
                        },
                        Object::Seal(seal) => Found::Seal(seal.stored(JOURNAL, number, SUCCESSOR)),
                    });
                }
                SealStep::Create(seal) => {
                    return Some((small(seal.header.number.0), Seal::of(&seal, 1)));
                }
            }
        }
    }
}

impl Model for Folding {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            journal: Journal::default(),
            lives: vec![Vec::new()],
            stored: vec![0],
            seals: Vec::new(),
            folded: Vec::new(),
            position: 0,
            seen: Vec::new(),
            deleted: false,
            broken: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (life, frozen) in state.lives.iter().enumerate() {
            let count = small(frozen.len() as u64);
            if count < NUMBERS && count < state.stored[life] + IN_FLIGHT {
                steps.push(Step::Freeze(life));
            }
            for number in 1..=count {
                if state.journal.at(number).is_none() {
                    steps.push(Step::Arrive(life, number));
                }
                if state.stored[life] + 1 == number {
                    steps.push(Step::HearOfCreate(life, number));
                }
            }
        }
        if state.lives.len() < usize::from(LIVES) {
            steps.push(Step::Resume);
        }
        if state.seals.len() < 2 {
            steps.push(Step::ChooseSeal);
        }
        let open = |seal: &usize| state.journal.at(state.seals[*seal].0).is_none();
        steps.extend((0..state.seals.len()).filter(open).map(Step::PutSeal));
        let whole = if self.rules.only_prefix_folded {
            state.prefix()
        } else {
            state.run()
        };
        steps.extend((state.position + 1..=small(whole.len() as u64)).map(Step::Fold));
        if !self.rules.nothing_deleted && !state.deleted {
            steps.extend((1..=state.position).map(Step::Delete));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Freeze(life) => {
                let previous = match state.lives[life].last().map(|object| &**object) {
                    Some(Object::Data(data)) => data.checksum,
                    _ => 0,
                };
                let number = small(state.lives[life].len() as u64) + 1;
                let life_number = small(life as u64) * 16 + number;
                let data = Data::freeze(Vec::new(), None, previous, life_number);
                state.lives[life].push(Arc::new(Object::Data(data)));
            }
            Step::Arrive(life, number) => {
                let object = Arc::clone(&state.lives[life][usize::from(number) - 1]);
                state.journal.create(number, &object);
            }
            Step::HearOfCreate(life, number) => {
                let object = Arc::clone(&state.lives[life][usize::from(number) - 1]);
                state.journal.create(number, &object);
                // Other bytes: this life is fenced and knows of no more successes.
                if state.journal.at(number) != Some(&object) {
                    return None;
                }
                state.stored[life] = number;
            }
            Step::Resume => {
                state.lives.push(state.lives[0].clone());
                state.stored.push(state.stored[0]);
            }
            Step::ChooseSeal => {
                let seal = state.freeze_seal()?;
                if state.seals.contains(&seal) {
                    return None;
                }
                state.seals.push(seal);
            }
            Step::PutSeal(seal) => {
                let (number, seal) = state.seals[seal];
                state.journal.create(number, &Arc::new(Object::Seal(seal)));
            }
            Step::Fold(number) => {
                let whole = state.read_from_position(self.rules.checksum_kept);
                let run = state.run();
                let whole = if self.rules.only_prefix_folded {
                    whole
                } else {
                    run
                };
                state.folded = whole.into_iter().take(usize::from(number)).collect();
                state.position = small(state.folded.len() as u64);
            }
            Step::Delete(number) => {
                state.journal.objects[usize::from(number) - 1] = None;
                state.deleted = true;
            }
        }
        let now = state.read_from_position(self.rules.checksum_kept);
        state.broken |= !now.starts_with(&last.seen);
        state.seen = now;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "from a position one reads what one reads whole",
                |_, state: &State| state.deleted || state.prefix() == state.seen,
            ),
            Property::always("no reader goes back", |_, state: &State| !state.broken),
            Property::always("what a life knows as stored is read", |_, state: &State| {
                state
                    .stored
                    .iter()
                    .zip(&state.lives)
                    .all(|(stored, frozen)| {
                        let is_there = usize::from(*stored) <= state.seen.len();
                        let mut stored = frozen.iter().take(usize::from(*stored)).zip(&state.seen);
                        let same = |(object, seen): (&Arc<Object>, &u64)| match &**object {
                            Object::Data(data) => data.checksum == *seen,
                            Object::Seal(_) => false,
                        };
                        is_there && stored.all(same)
                    })
            }),
            Property::sometimes("folded in a journal that goes on", |_, state: &State| {
                0 < state.position && state.position < small(state.seen.len() as u64)
            }),
            Property::sometimes("the prefix ends before the run", |_, state: &State| {
                state.prefix().len() < state.run().len()
            }),
        ]
    }
}
