//! Readers of machine 0: each has one hold, and reads from one manifest.

use super::{Holds, Manifest, PIECES, Place, Pruning, State, Step, names};

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Reader {
    pub(super) reading: Reading,
    /// The number that its hold names, while the hold stands.
    hold: Option<u8>,
    lapsed: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) enum Reading {
    #[default]
    Idle,
    Listed(u8),
    Held(u8),
    Chosen(u8),
    Layer(u8, Manifest),
    /// And the pieces that it still has to read, one bit each.
    Pieces(u8, Manifest, u8),
    Done(u8),
    Failed,
}

impl Reader {
    /// The number that its hold names, for whoever lists holds.
    pub(super) fn hold(&self) -> Option<u8> {
        self.hold.filter(|_| !self.lapsed)
    }
}

impl Holds {
    /// Whether a hold that names `named` keeps the manifest.
    pub(super) const fn keep(self, named: u8, manifest: u8) -> bool {
        match self {
            Self::From => named <= manifest,
            Self::Exactly => named == manifest,
        }
    }
}

impl Pruning {
    pub(super) fn reader_steps(state: &State, index: usize, steps: &mut Vec<Step>) {
        let reader = &state.readers[index];
        match reader.reading {
            Reading::Idle => steps.push(Step::List(index)),
            Reading::Listed(_) => steps.push(Step::CreateHold(index)),
            Reading::Held(_) => steps.push(Step::ListAgain(index)),
            Reading::Chosen(_) => steps.push(Step::ReadManifest(index)),
            Reading::Layer(..) => steps.push(Step::ReadLayer(index)),
            Reading::Pieces(.., left) => {
                let left = (0..PIECES).filter(|piece| left & (1 << piece) != 0);
                steps.extend(left.map(|piece| Step::ReadPiece(index, piece)));
            }
            Reading::Done(_) | Reading::Failed => {
                if reader.hold.is_some() {
                    steps.push(Step::EndHold(index));
                }
                return;
            }
        }
        if reader.hold().is_some() {
            steps.push(Step::Lapse(index));
        }
    }

    pub(super) fn read(&self, state: &mut State, step: Step) {
        match step {
            Step::List(index) => {
                state.readers[index].reading = Reading::Listed(state.machines[0].highest());
            }
            Step::CreateHold(index) => {
                let reader = &mut state.readers[index];
                if let Reading::Listed(number) = reader.reading {
                    reader.hold = Some(number);
                    reader.reading = Reading::Held(number);
                }
            }
            Step::ListAgain(index) => self.list_again(state, index),
            Step::ReadManifest(index) => {
                let Reading::Chosen(number) = state.readers[index].reading else {
                    return;
                };
                match state.machines[0].manifest(number) {
                    None => state.miss(index),
                    Some(manifest) => {
                        state.readers[index].reading = Reading::Layer(number, manifest);
                    }
                }
            }
            Step::ReadLayer(index) => state.read_layer(index),
            Step::ReadPiece(index, piece) => state.read_piece(index, piece),
            Step::EndHold(index) => state.readers[index].hold = None,
            Step::Lapse(index) => state.readers[index].lapsed = true,
            _ => (),
        }
    }

    fn list_again(&self, state: &mut State, index: usize) {
        let highest = state.machines[0].highest();
        let reader = &mut state.readers[index];
        let Reading::Held(number) = reader.reading else {
            return;
        };
        if !self.rules.listed_after_hold {
            reader.reading = Reading::Chosen(number);
        } else if self.holds == Holds::Exactly && number != highest {
            // Another hold, under another name.
            reader.hold = None;
            reader.lapsed = false;
            reader.reading = Reading::Listed(highest);
        } else {
            reader.reading = Reading::Chosen(highest);
        }
    }
}

impl State {
    /// Something is not there: a reader whose hold lapsed fails, and no other may meet this.
    fn miss(&mut self, index: usize) {
        let reader = &mut self.readers[index];
        reader.reading = Reading::Failed;
        if !reader.lapsed {
            self.broken = Some("a reader misses what it holds");
        }
    }

    fn read_layer(&mut self, index: usize) {
        let Reading::Layer(number, manifest) = self.readers[index].reading else {
            return;
        };
        let missing = match manifest.layer {
            Some(layer) => !self.machines[0].layers.contains(&layer),
            // Where `end` stands nothing of the journal counts that no manifest has (R14).
            None => !manifest.passed && self.end,
        };
        if missing {
            self.miss(index);
            return;
        }
        let wanted = |piece: &usize| manifest.read_from(*piece).is_some();
        let left = (0..PIECES).filter(wanted);
        let left = left.fold(0, |left, piece| left | 1 << piece);
        self.readers[index].reading = Reading::Pieces(number, manifest, left).or_done();
    }

    fn read_piece(&mut self, index: usize, piece: usize) {
        let Reading::Pieces(number, manifest, left) = self.readers[index].reading else {
            return;
        };
        let place = manifest.read_from(piece).expect("it was wanted");
        match self.bytes_at(0, piece, place) {
            None => self.miss(index),
            Some(bytes) => {
                if bytes != piece {
                    self.broken = Some("a reader reads other bytes");
                }
                let left = left & !(1 << piece);
                self.readers[index].reading = Reading::Pieces(number, manifest, left).or_done();
            }
        }
    }
}

impl Manifest {
    /// Where a reader finds a piece: by the layer, or in the journal that is not folded yet.
    fn read_from(&self, piece: usize) -> Option<Place> {
        let tail = !self.passed && names(piece, 0);
        self.place(piece).or(tail.then_some(Place::Journal))
    }
}

impl Reading {
    const fn or_done(self) -> Self {
        match self {
            Self::Pieces(number, _, 0) => Self::Done(number),
            reading => reading,
        }
    }
}
