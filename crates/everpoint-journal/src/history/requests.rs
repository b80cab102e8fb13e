//! A disk's requests of several changes: no recovery point lies inside one.
//!
//! Their changes have consecutive numbers, so a request reaches from its first change to the one that ends
//! it, and no other disk's change lies between. It may never end: what follows is not committed yet, or was
//! lost with the disk's order.

use std::collections::BTreeMap;

use everpoint_units::Seq;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    /// By first `Seq`; disjoint.
    by_first: BTreeMap<Seq, Last>,
    /// The first `Seq` of the one whose changes are still coming.
    open: Option<Seq>,
}

/// The last change of a request that is known.
#[derive(Clone, Copy, Debug)]
struct Last {
    seq: Seq,
    ends: bool,
}

impl Requests {
    /// The disk's next change, and whether it ends its request.
    pub(super) fn fold(&mut self, seq: Seq, ends: bool) {
        let first = match self.open {
            None if ends => return,
            None => seq,
            Some(first) => first,
        };
        self.by_first.insert(first, Last { seq, ends });
        self.open = (!ends).then_some(first);
    }

    /// The disk's order was lost: what it had not ended never will.
    pub(super) const fn cut_off(&mut self) {
        self.open = None;
    }

    /// What lay at or above `first` counts no more.
    pub(super) fn forget_from(&mut self, first: Seq) {
        self.cut_off();
        self.by_first.split_off(&first);
        if let Some(mut last) = self.by_first.last_entry()
            && first <= last.get().seq
        {
            *last.get_mut() = Last {
                seq: Seq(first.0.saturating_sub(1)),
                ends: false,
            };
        }
    }

    /// The request whose changes are still coming: first and last known one.
    pub(super) fn open(&self) -> Option<(Seq, Seq)> {
        let first = self.open?;
        self.by_first.get(&first).map(|last| (first, last.seq))
    }

    /// Goes on with a request whose changes are still coming.
    pub(super) fn take_up(&mut self, (first, seq): (Seq, Seq)) {
        self.by_first.insert(first, Last { seq, ends: false });
        self.open = Some(first);
    }

    /// All but the one that is open: first, last, and whether that ends it.
    pub(super) fn closed(&self) -> impl Iterator<Item = (Seq, Seq, bool)> + '_ {
        let closed = self.by_first.iter();
        let closed = closed.filter(|(first, _)| Some(**first) != self.open);
        closed.map(|(first, last)| (*first, last.seq, last.ends))
    }

    /// Adds one that is known from elsewhere.
    pub(super) fn add(&mut self, first: Seq, seq: Seq, ends: bool) {
        self.by_first.insert(first, Last { seq, ends });
    }

    /// Where `seq` lies inside a request: the point before that, and the one that it ends with, if it does.
    pub(super) fn around(&self, seq: Seq) -> Option<(Seq, Option<Seq>)> {
        let (&first, last) = self.by_first.range(..=seq).next_back()?;
        let is_inside = seq < last.seq || (seq == last.seq && !last.ends);
        let before = Seq(first.0.saturating_sub(1));
        is_inside.then(|| (before, last.ends.then_some(last.seq)))
    }
}
