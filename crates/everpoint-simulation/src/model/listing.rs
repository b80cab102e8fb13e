//! Sealing through listings that are not one instant: the product's `Sealing`, one request a step.
//!
//! A journal's writer has all its objects under way; two servers seal it. A listing comes in pages of one
//! name, in the order of names: numbers, then `end`. Between two pages objects arrive, a seal is created,
//! `end` is created and objects are deleted.

use std::sync::Arc;

use everpoint_format::object::{self, SEAL_LEN};
use everpoint_journal::path::Listing;
use everpoint_journal::sealing::{Found, SealOrder, Sealing, Step as SealStep};
use everpoint_units::{JournalId, ObjectNo, ServerId, WallTime};
use stateright::{Model, Property};

use super::store::{
    Data, Journal, Object, Seal, VAULT, checksum, journal_id, journal_index, small,
};

const SEALERS: usize = 2;
const JOURNAL: JournalId = journal_id(1, 0);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Listings {
    pub(crate) objects: u8,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// R5: a listing of several pages is made again from the start.
    pub(crate) again_from_start: bool,
    /// R5, R14: `end` is taken from that listing or later, not from before it.
    pub(crate) end_with_listing: bool,
    /// R5: a name that was taken makes the sealer look again.
    pub(crate) taken_is_looked_at: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        again_from_start: true,
        end_with_listing: true,
        taken_is_looked_at: true,
    };
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    journal: Journal,
    frozen: Vec<Arc<Object>>,
    sealers: Vec<Sealer>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Sealer {
    sealing: Sealing,
    /// The pages so far.
    listed: Vec<(u8, bool)>,
    has_end: bool,
    second_time: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Arrive(u8),
    /// A sealer's next request is carried out and answered.
    Request(usize),
    /// A sealer's create is carried out; nobody hears of it.
    ArriveSeal(usize),
    CreateEnd,
    Delete(u8),
}

impl State {
    /// The seal that counts.
    fn seal(&self) -> Option<(u8, Seal)> {
        self.journal.end.or_else(|| self.journal.seals().next())
    }

    fn found(&self, number: u8) -> Found {
        match self.journal.at(number).map(|object| &**object) {
            None => Found::Missing,
            Some(Object::Data(data)) => Found::Data {
                checksum: checksum(data.checksum),
                previous: checksum(data.previous),
            },
            Some(Object::Seal(seal)) => Found::Seal(seal.stored(
                JOURNAL,
                number,
                journal_id(u64::from(seal.successor) + 1, seal.successor),
            )),
        }
    }

    /// Lists one page; the whole listing when that was the last one.
    fn list(&mut self, rules: &Rules, sealer: usize) -> Option<Listing> {
        let journal = &self.journal;
        let sealer = &mut self.sealers[sealer];
        if sealer.listed.is_empty() && !rules.end_with_listing {
            sealer.has_end = journal.end.is_some();
        }
        let after = sealer.listed.last().map_or(0, |(number, _)| *number);
        let next = (after + 1..=journal.top()).find(|number| journal.at(*number).is_some());
        if let Some(number) = next {
            let is_seal = journal.data(number).is_none();
            sealer.listed.push((number, is_seal));
            return None;
        }
        if rules.end_with_listing {
            sealer.has_end = journal.end.is_some();
        }
        let pages = sealer.listed.len() + usize::from(sealer.has_end);
        let objects = std::mem::take(&mut sealer.listed);
        if 1 < pages && !sealer.second_time && rules.again_from_start {
            sealer.second_time = true;
            return None;
        }
        sealer.second_time = false;
        let len = |is_seal| if is_seal { SEAL_LEN as u64 } else { 900 };
        let objects = objects.into_iter();
        let objects = objects.map(|(number, is_seal)| (ObjectNo(u64::from(number)), len(is_seal)));
        Some(Listing {
            objects: objects.collect(),
            has_end: sealer.has_end,
        })
    }

    /// The seal that the sealer would create, if that is what it does next.
    fn to_create(&self, sealer: usize) -> Option<(u8, Seal)> {
        match self.sealers[sealer].sealing.step() {
            SealStep::Create(seal) => {
                let number = small(seal.header.number.0);
                let successor = journal_index(seal.successor);
                Some((number, Seal::of(&seal, successor)))
            }
            _ => None,
        }
    }

    fn request(&mut self, rules: &Rules, sealer: usize) {
        match self.sealers[sealer].sealing.step() {
            SealStep::List => {
                if let Some(listing) = self.list(rules, sealer) {
                    self.sealers[sealer].sealing.handle_listing(&listing);
                }
            }
            SealStep::ReadEnd => {
                let end = self.journal.end.map(|(number, _)| number);
                let found = end.map_or(Found::Missing, |_| self.found_end());
                self.sealers[sealer].sealing.handle_read(found);
            }
            SealStep::Read(number) => {
                let found = self.found(small(number.0));
                self.sealers[sealer].sealing.handle_read(found);
            }
            SealStep::Create(_) => {
                let (number, seal) = self.to_create(sealer).expect("it creates");
                let object = Arc::new(Object::Seal(seal));
                self.journal.create(number, &object);
                let mine = self.journal.at(number) == Some(&object);
                let mine = mine || !rules.taken_is_looked_at;
                self.sealers[sealer].sealing.handle_created(mine);
            }
            SealStep::Sealed(_) => (),
        }
    }

    /// Whether a sealer may take `found` for the journal's seal: it is the one that counts, or its own in
    /// a number that was emptied. So creating a seal makes nobody owner (R6).
    fn is_sound(&self, own: u8, found: &object::Seal) -> bool {
        let successor = journal_index(found.successor);
        let of_found = (small(found.header.number.0), Seal::of(found, successor));
        self.seal() == Some(of_found) || (self.journal.deleted && successor == own)
    }

    fn found_end(&self) -> Found {
        let (number, seal) = self.journal.end.expect("it is there");
        let successor = journal_id(u64::from(seal.successor) + 1, seal.successor);
        Found::Seal(seal.stored(JOURNAL, number, successor))
    }
}

impl Model for Listings {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut frozen: Vec<Arc<Object>> = Vec::new();
        let mut previous = 0;
        for number in 1..=self.objects {
            let data = Data::freeze(Vec::new(), None, previous, number);
            previous = data.checksum;
            frozen.push(Arc::new(Object::Data(data)));
        }
        let sealer = |index: u8| Sealer {
            sealing: Sealing::new(SealOrder {
                vault: VAULT,
                journal: JOURNAL,
                successor: journal_id(u64::from(index) + 2, index + 1),
                server: ServerId([1; 16]),
                assignment: 0,
                now: WallTime(0),
            }),
            listed: Vec::new(),
            has_end: false,
            second_time: false,
        };
        vec![State {
            journal: Journal::default(),
            frozen,
            sealers: (0..small(SEALERS as u64)).map(sealer).collect(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for number in 1..=self.objects {
            if state.journal.at(number).is_none() {
                steps.push(Step::Arrive(number));
            }
        }
        for sealer in 0..SEALERS {
            if !matches!(state.sealers[sealer].sealing.step(), SealStep::Sealed(_)) {
                steps.push(Step::Request(sealer));
            }
            if let Some((number, _)) = state.to_create(sealer)
                && state.journal.at(number).is_none()
            {
                steps.push(Step::ArriveSeal(sealer));
            }
        }
        if state.journal.end.is_some() {
            let data = (1..=state.journal.top()).filter(|n| state.journal.data(*n).is_some());
            steps.extend(data.map(Step::Delete));
        } else if state.seal().is_some() {
            steps.push(Step::CreateEnd);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Arrive(number) => {
                let object = Arc::clone(&state.frozen[usize::from(number) - 1]);
                state.journal.create(number, &object);
            }
            Step::Request(sealer) => state.request(&self.rules, sealer),
            Step::ArriveSeal(sealer) => {
                let (number, seal) = state.to_create(sealer)?;
                state.journal.create(number, &Arc::new(Object::Seal(seal)));
            }
            Step::CreateEnd => state.journal.end = state.seal(),
            Step::Delete(number) => {
                state.journal.objects[usize::from(number) - 1] = None;
                state.journal.deleted = true;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "every sealer finds the seal that counts",
                |_, state: &State| {
                    (1..)
                        .zip(&state.sealers)
                        .all(|(own, sealer)| match sealer.sealing.step() {
                            SealStep::Sealed(found) => state.is_sound(own, &found),
                            _ => true,
                        })
                },
            ),
            Property::always(
                "only one seal before something is deleted",
                |_, state: &State| state.journal.deleted || state.journal.seals().count() <= 1,
            ),
            Property::always("a seal states what lies before it", |_, state: &State| {
                let stated = state.seal().filter(|_| !state.journal.deleted);
                stated.is_none_or(|(number, seal)| {
                    let whole = (1..number).all(|at| state.journal.data(at).is_some());
                    whole && seal.prefix_end + 1 == number
                })
            }),
            Property::sometimes("both have sealed", |_, state: &State| {
                let sealed = |sealer: &Sealer| matches!(sealer.sealing.step(), SealStep::Sealed(_));
                state.sealers.iter().all(sealed)
            }),
            Property::sometimes(
                "all is deleted before a sealer is done",
                |_, state: &State| {
                    let sealed =
                        |sealer: &Sealer| matches!(sealer.sealing.step(), SealStep::Sealed(_));
                    state.journal.deleted
                        && !state.journal.holds_data()
                        && !state.sealers.iter().all(sealed)
                },
            ),
        ]
    }
}
