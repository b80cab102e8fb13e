//! What happens when: events in the order of virtual time, and of their making where times are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use everpoint_units::Moment;

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    /// When, which of all that were made, and where it is kept: events are large, and a heap moves what it
    /// holds.
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    kept: Vec<Option<E>>,
    free: Vec<usize>,
    now: Moment,
    made: u64,
    happened: u64,
}

impl<E> Schedule<E> {
    /// Nothing will happen.
    pub(crate) const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            kept: Vec::new(),
            free: Vec::new(),
            now: Moment(0),
            made: 0,
            happened: 0,
        }
    }

    /// The present.
    pub(crate) const fn now(&self) -> Moment {
        self.now
    }

    /// Events that have happened.
    pub(crate) const fn happened(&self) -> u64 {
        self.happened
    }

    /// Has something happen at a moment; one that has passed is now.
    pub(crate) fn at(&mut self, at: Moment, event: E) {
        self.made += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.kept.push(None);
            self.kept.len() - 1
        });
        self.kept[place] = Some(event);
        self.heap
            .push(Reverse((at.max(self.now), self.made, place)));
    }

    /// Has something happen after a while.
    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// The next event, if it comes before `end`; time goes on to it.
    pub(crate) fn next_before(&mut self, end: Moment) -> Option<E> {
        let Reverse((at, _, _)) = *self.heap.peek()?;
        if end <= at {
            return None;
        }
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.now = at;
        self.happened += 1;
        self.free.push(place);
        self.kept[place].take()
    }
}
