//! What the target holds, as far as it was put there a while ago and its bytes are staged still: gaps are filled with it
//! instead of being read.

use std::collections::VecDeque;

use everpoint_reduction::{RunMap, RunValue};

use super::window::{Piece, Window};
use super::{ByteLen, Extent, PartFrom, WorkPart};

/// Windows that are kept, at most: each is a file that is open.
const WINDOWS_MAX: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    pieces: RunMap<Held>,
    /// Their numbers and lengths, the oldest first.
    windows: VecDeque<(u64, u64)>,
}

/// What sectors hold, and the window that put it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Held {
    window: u64,
    piece: Piece,
}

impl RunValue for Held {
    fn after(self, sectors: u64) -> Self {
        Self {
            piece: self.piece.after(sectors),
            ..self
        }
    }
}

impl Known {
    /// A window is in the target, and its mark, too: it is known from now on, within `len_max`. Returns the windows
    /// that are not needed any more.
    pub(super) fn add(&mut self, window: &Window, len_max: ByteLen) -> Vec<u64> {
        let number = window.number();
        for (extent, piece) in window.pieces() {
            let held = Held {
                window: number,
                piece,
            };
            self.pieces.insert(extent, held);
        }
        self.windows.push_back((number, window.len().0));
        let mut gone = Vec::new();
        while WINDOWS_MAX < self.windows.len() || len_max.0 < self.len() {
            let oldest = self.windows.pop_front();
            gone.extend(oldest.map(|(number, _)| number));
        }
        if !gone.is_empty() {
            let mut kept = RunMap::new();
            for (extent, held) in self.pieces.iter() {
                if !gone.contains(&held.window) {
                    kept.insert(extent, held);
                }
            }
            self.pieces = kept;
        }
        gone
    }

    /// Nothing is known any more. Returns the windows that are not needed now.
    pub(super) fn forget(&mut self) -> Vec<u64> {
        self.pieces.clear();
        self.windows.drain(..).map(|(number, _)| number).collect()
    }

    /// What is known where.
    pub(super) const fn pieces(&self) -> &RunMap<Held> {
        &self.pieces
    }

    /// The parts of sectors that are known.
    pub(super) fn parts(&self, extent: Extent) -> impl Iterator<Item = WorkPart> + '_ {
        let held = self.pieces.within(extent);
        held.map(|(extent, held)| WorkPart {
            extent,
            from: PartFrom::of(held.window, held.piece),
        })
    }

    fn len(&self) -> u64 {
        self.windows.iter().map(|(_, len)| len).sum()
    }
}
