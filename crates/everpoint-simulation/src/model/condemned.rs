//! Condemned lists (R15): garbage collection deletes a piece that other journals may refer to.
//!
//! The product never lets a reference leave its journal and has no garbage collection; the model has the
//! rule by itself. One piece, unreferenced at first. Two boots, each with a journal of its own, whose
//! objects may refer to the piece; one of them may live twice, resumed from a snapshot. A prefix ends
//! where neighbours disagree (R4), and a sealed one is what its seal states.

use stateright::{Model, Property};

const BOOTS: usize = 2;
const IN_FLIGHT: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Condemned {
    /// Objects of each life, and whether one of them is resumed from a snapshot.
    pub(crate) objects: u8,
    pub(crate) resumes: bool,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Object 1 of a journal refers to nothing outside.
    pub(crate) first_refers_to_nothing: bool,
    /// The lists are read after object 1 has landed.
    pub(crate) read_after_first: bool,
    /// A boot refers to nothing that a list names which it has seen.
    pub(crate) lists_obeyed: bool,
    /// Deletion waits until every unsealed journal states the list.
    pub(crate) stated_by_all: bool,
    /// What was referred to meanwhile is looked for again.
    pub(crate) marked_again: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        first_refers_to_nothing: true,
        read_after_first: true,
        lists_obeyed: true,
        stated_by_all: true,
        marked_again: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    journals: [Journal; BOOTS],
    /// Lives: the journal of each, what it froze, what it has seen.
    lives: Vec<Life>,
    collector: Collector,
    piece_deleted: bool,
    may_resume: bool,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Journal {
    objects: Vec<Option<Object>>,
    /// The prefix that the seal states.
    sealed: Option<u8>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Object {
    refers: bool,
    /// It states that it has seen the list.
    states: bool,
    life: u8,
    /// The life that froze the object before it.
    previous_life: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Life {
    journal: usize,
    number: u8,
    frozen: Vec<Object>,
    stored: u8,
    /// The lists were read, and the piece was named there.
    read: bool,
    seen: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Collector {
    /// It has marked the piece as referred to by nothing.
    Marked,
    Published,
    /// The journals that it waits for, one bit each.
    Waiting(u8),
    Ready,
    Done,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    ReadLists(usize),
    Freeze(usize, bool),
    Arrive(usize, u8),
    Store(usize, u8),
    Seal(usize),
    Resume(usize),
    Publish,
    ListJournals,
    SeeStated(usize),
    MarkAgain,
    Delete,
}

impl Journal {
    fn at(&self, number: u8) -> Option<Object> {
        *self.objects.get(usize::from(number) - 1)?
    }

    fn create(&mut self, number: u8, object: Object) {
        let index = usize::from(number) - 1;
        if self.objects.len() <= index {
            self.objects.resize(index + 1, None);
        }
        self.objects[index].get_or_insert(object);
    }

    fn prefix(&self) -> Vec<Object> {
        let mut prefix: Vec<Object> = Vec::new();
        for object in self.objects.iter().map_while(|object| *object) {
            let follows = prefix
                .last()
                .is_none_or(|last| last.life == object.previous_life);
            if !follows {
                break;
            }
            prefix.push(object);
        }
        let end = self.sealed.map_or(prefix.len(), usize::from);
        prefix.truncate(end);
        prefix
    }

    fn refers(&self) -> bool {
        self.prefix().iter().any(|object| object.refers)
    }
}

impl Model for Condemned {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let life = |journal| Life {
            journal,
            number: u8::try_from(journal).expect("few journals"),
            frozen: Vec::new(),
            stored: 0,
            read: false,
            seen: false,
        };
        vec![State {
            journals: Default::default(),
            lives: (0..BOOTS).map(life).collect(),
            collector: Collector::Marked,
            piece_deleted: false,
            may_resume: self.resumes,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (index, life) in state.lives.iter().enumerate() {
            let landed = 0 < life.stored;
            if !life.seen && (landed || !self.rules.read_after_first) {
                steps.push(Step::ReadLists(index));
            }
            let count = u8::try_from(life.frozen.len()).expect("few objects");
            if count < self.objects && count < life.stored + IN_FLIGHT {
                steps.push(Step::Freeze(index, false));
                let first = count == 0;
                let unread = if first {
                    self.rules.first_refers_to_nothing
                } else {
                    self.rules.read_after_first && !life.read
                };
                let condemned = life.seen && self.rules.lists_obeyed;
                // A piece that is gone cannot be found to refer to.
                if !unread && !condemned && !state.piece_deleted {
                    steps.push(Step::Freeze(index, true));
                }
            }
            for number in 1..=count {
                if state.journals[life.journal].at(number).is_none() {
                    steps.push(Step::Arrive(index, number));
                }
                if life.stored + 1 == number {
                    steps.push(Step::Store(index, number));
                }
            }
            if state.may_resume {
                steps.push(Step::Resume(index));
            }
        }
        for (index, journal) in state.journals.iter().enumerate() {
            if journal.sealed.is_none() {
                steps.push(Step::Seal(index));
            }
        }
        self.collector_steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::ReadLists(life) => {
                let published = last.collector != Collector::Marked;
                let life = &mut state.lives[life];
                life.read = true;
                life.seen = published;
            }
            Step::Freeze(life, refers) => state.lives[life].freeze(refers),
            Step::Arrive(life, number) => state.arrive(life, number),
            Step::Store(life, number) => {
                state.arrive(life, number);
                let life = &mut state.lives[life];
                let own = life.frozen[usize::from(number) - 1];
                if state.journals[life.journal].at(number) != Some(own) {
                    return None;
                }
                life.stored = number;
            }
            Step::Seal(journal) => {
                let journal = &mut state.journals[journal];
                let prefix = u8::try_from(journal.prefix().len()).expect("few objects");
                journal.sealed = Some(prefix);
            }
            Step::Resume(life) => {
                let number = u8::try_from(state.lives.len()).expect("few lives");
                let life = state.lives[life].clone();
                state.lives.push(Life { number, ..life });
                state.may_resume = false;
            }
            Step::Publish => state.collector = Collector::Published,
            Step::ListJournals => state.collector = Collector::Waiting(0b11),
            Step::SeeStated(journal) => {
                if let Collector::Waiting(left) = &mut state.collector {
                    *left &= !(1 << journal);
                }
            }
            Step::MarkAgain => {
                let referred = state.journals.iter().any(Journal::refers);
                let takes_back = referred && self.rules.marked_again;
                state.collector = if takes_back {
                    Collector::Done
                } else {
                    Collector::Ready
                };
            }
            Step::Delete => {
                state.piece_deleted = true;
                state.collector = Collector::Done;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nothing readable refers to what is deleted",
                |_, state: &State| {
                    !state.piece_deleted || !state.journals.iter().any(Journal::refers)
                },
            ),
            Property::sometimes("deleted", |_, state: &State| state.piece_deleted),
            Property::sometimes("taken back", |_, state: &State| {
                state.collector == Collector::Done && !state.piece_deleted
            }),
        ]
    }
}

impl State {
    fn arrive(&mut self, life: usize, number: u8) {
        let life = &self.lives[life];
        let object = life.frozen[usize::from(number) - 1];
        let journal = &mut self.journals[life.journal];
        // Behind its seal nothing is of any history.
        journal.create(number, object);
    }
}

impl Life {
    fn freeze(&mut self, refers: bool) {
        let previous = self.frozen.last().map_or(self.number, |object| object.life);
        self.frozen.push(Object {
            refers,
            states: self.seen,
            life: self.number,
            previous_life: previous,
        });
    }
}

impl Condemned {
    fn collector_steps(&self, state: &State, steps: &mut Vec<Step>) {
        match state.collector {
            Collector::Marked => steps.push(Step::Publish),
            Collector::Published => steps.push(Step::ListJournals),
            Collector::Waiting(left) => {
                let waits = |journal: &usize| left & (1 << journal) != 0;
                let seen = (0..BOOTS).filter(waits).filter(|journal| {
                    let journal = &state.journals[*journal];
                    let states = journal.prefix().iter().any(|object| object.states);
                    // A journal without objects is on no list of journals.
                    let listed = journal.objects.iter().any(Option::is_some);
                    states || journal.sealed.is_some() || !listed || !self.rules.stated_by_all
                });
                steps.extend(seen.map(Step::SeeStated));
                if left == 0 {
                    steps.push(Step::MarkAgain);
                }
            }
            Collector::Ready => steps.push(Step::Delete),
            Collector::Done => (),
        }
    }
}
