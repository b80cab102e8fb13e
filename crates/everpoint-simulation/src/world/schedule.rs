//! What happens when: events in the order of virtual time, and of their making where times are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use everpoint_units::Moment;

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    heap: BinaryHeap<Entry<E>>,
    now: Moment,
    made: u64,
    happened: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Moment,
    number: u64,
    event: E,
}

impl<E> Schedule<E> {
    /// Nothing will happen.
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
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
        self.heap.push(Entry {
            at: at.max(self.now),
            number: self.made,
            event,
        });
    }

    /// Has something happen after a while.
    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// The next event, if it comes before `end`; time goes on to it.
    pub(crate) fn next_before(&mut self, end: Moment) -> Option<E> {
        let next = self.heap.peek()?;
        if end <= next.at {
            return None;
        }
        let entry = self.heap.pop().expect("it was looked at");
        self.now = entry.at;
        self.happened += 1;
        Some(entry.event)
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Entry<E> {
    const fn key(&self) -> (Moment, u64) {
        (self.at, self.number)
    }
}

impl<E> Ord for Entry<E> {
    /// The earliest is the greatest: a heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
