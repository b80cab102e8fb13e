//! What holds for each sector of a disk, as runs: later ones cut earlier ones.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use everpoint_units::{EXTENT_SECTORS_MAX, Extent, Lba};

/// What a run says of its sectors.
pub trait RunValue: Copy {
    /// What the part says that begins so many sectors further on.
    #[must_use]
    fn after(self, sectors: u64) -> Self;
}

/// Runs of sectors, disjoint, each with a value. Memory follows the number of runs.
#[derive(Clone, Debug)]
pub struct RunMap<V> {
    /// By first sector: the sector after the last, and the value.
    runs: BTreeMap<u64, (u64, V)>,
}

/// A value that is the same all over a run.
impl RunValue for () {
    fn after(self, _sectors: u64) -> Self {}
}

impl<V> Default for RunMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> RunMap<V> {
    /// No runs.
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
        }
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Forgets all runs.
    pub fn clear(&mut self) {
        self.runs.clear();
    }
}

impl<V: RunValue> RunMap<V> {
    /// From now on this holds for the sectors of `extent`.
    pub fn insert(&mut self, extent: Extent, value: V) {
        self.remove(extent.start(), extent.end());
        let (start, end) = (extent.start().sector(), extent.end().sector());
        self.runs.insert(start, (end, value));
    }

    /// From now on nothing holds for the sectors from `start` to before `end`.
    pub fn remove(&mut self, start: Lba, end: Lba) {
        let (start, end) = (start.sector(), end.sector());
        if end <= start {
            return;
        }
        let before = self.runs.range(..start).next_back();
        if let Some((&at, &(run_end, value))) = before
            && start < run_end
        {
            self.runs.insert(at, (start, value));
            if end < run_end {
                self.runs.insert(end, (run_end, value.after(end - at)));
            }
        }
        while let Some((&at, &(run_end, value))) = self.runs.range(start..end).next() {
            self.runs.remove(&at);
            if end < run_end {
                self.runs.insert(end, (run_end, value.after(end - at)));
            }
        }
    }

    /// The runs, rising.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, V)> + '_ {
        let runs = self.runs.iter();
        runs.map(|(&start, &(end, value))| (between(start, end), value))
    }

    /// The parts of runs that lie in `extent`, rising.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = (Extent, V)> + '_ {
        let (start, end) = (extent.start().sector(), extent.end().sector());
        let before = self.runs.range(..start).next_back();
        let parts = before.into_iter().chain(self.runs.range(start..end));
        parts.filter_map(move |(&at, &(run_end, value))| {
            let (from, to) = (at.max(start), run_end.min(end));
            (from < to).then(|| (between(from, to), value.after(from - at)))
        })
    }

    /// How many sectors something holds for. Unit: sectors.
    pub fn sectors(&self) -> u64 {
        let runs = self.runs.iter();
        runs.map(|(start, (end, _))| end - start).sum()
    }
}

impl<V: RunValue + Eq> RunMap<V> {
    /// As [`Self::insert`], and neighbours of which the same holds become one run. For values that are the same all
    /// over a run.
    pub fn insert_joined(&mut self, extent: Extent, value: V) {
        self.remove(extent.start(), extent.end());
        let (mut start, mut end) = (extent.start().sector(), extent.end().sector());
        let longest = u64::from(EXTENT_SECTORS_MAX);
        if let Some((&at, &(run_end, before))) = self.runs.range(..start).next_back()
            && run_end == start
            && before == value
            && end - at <= longest
        {
            start = at;
        }
        if let Some(&(run_end, after)) = self.runs.get(&end)
            && after == value
            && run_end - start <= longest
        {
            self.runs.remove(&end);
            end = run_end;
        }
        self.runs.insert(start, (end, value));
    }
}

fn between(start: u64, end: u64) -> Extent {
    let sectors = u32::try_from(end - start).ok().and_then(NonZeroU32::new);
    Lba::new(start)
        .zip(sectors)
        .and_then(|(start, sectors)| Extent::new(start, sectors))
        .expect("a part of an extent is an extent")
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the test disk has a few dozen sectors"
)]
mod tests;
