//! What the load did, and in which order: for each write when it was issued and when it had completed.
//!
//! Both are ticks of one count, which rises with every issue and every completion. `a` *completed before*
//! `b` *was issued* when `a`'s completion has the lower tick. Of two writes that share a sector one always
//! did: the load never has overlapping writes in flight. So the writes of a sector have a total order,
//! which is the order of their numbers.

use std::num::NonZeroU32;

use everpoint_units::Extent;

/// Number of a write, in the order of issue, from 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct WriteNo(pub(crate) NonZeroU32);

/// A moment in the order of issues and completions. [`Tick::ZERO`] is before the first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Tick(pub(crate) u64);

/// What a write leaves behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// Stamped sectors.
    Stamps,
    /// Zeroes.
    Zeroes,
    /// Nothing: a discard that was not passed on.
    Nothing,
}

/// One write, zero or discard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Write {
    /// Which sectors.
    pub(crate) extent: Extent,
    /// What it leaves there.
    pub(crate) effect: Effect,
    /// When it was issued.
    pub(crate) issued: Tick,
    /// When the guest was told that it is done; `None` while it is in flight.
    pub(crate) completed: Option<Tick>,
}

/// All writes of a load, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    writes: Vec<Write>,
    now: Tick,
}

impl WriteNo {
    /// The write of this number; `None` for 0.
    pub(crate) fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// Its place among all writes, from 0.
    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Tick {
    /// Before everything.
    pub(crate) const ZERO: Self = Self(0);
    /// After everything.
    pub(crate) const MAX: Self = Self(u64::MAX);
}

impl History {
    /// Nothing happened yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The tick of the newest issue or completion.
    pub(crate) const fn now(&self) -> Tick {
        self.now
    }

    /// All writes; the one of number *n* stands at *n* - 1.
    pub(crate) fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The write of this number, if there is one.
    pub(crate) fn write(&self, number: WriteNo) -> Option<&Write> {
        self.writes.get(number.index())
    }

    /// Notes that a write is issued, before it is sent.
    ///
    /// # Panics
    ///
    /// After 2^32 - 1 writes, for which no stamp has room; at 10,000 a second that is five days.
    pub(crate) fn issue(&mut self, extent: Extent, effect: Effect) -> WriteNo {
        let issued = self.tick();
        self.writes.push(Write {
            extent,
            effect,
            issued,
            completed: None,
        });
        let number = u32::try_from(self.writes.len()).ok().and_then(WriteNo::new);
        number.expect("a load of less than 2^32 writes")
    }

    /// Notes that a write is done, after its answer came.
    ///
    /// # Panics
    ///
    /// If it had completed before.
    pub(crate) fn complete(&mut self, number: WriteNo) {
        let now = self.tick();
        let write = &mut self.writes[number.index()];
        assert_eq!(write.completed, None, "a write completes once");
        write.completed = Some(now);
    }

    /// The same for a discard, of which only the answer to a later read tells what it did: zeroes on
    /// `zeroed`, or nothing at all.
    ///
    /// # Panics
    ///
    /// If it had completed before.
    pub(crate) fn complete_discard(&mut self, number: WriteNo, zeroed: Option<Extent>) {
        self.complete(number);
        let write = &mut self.writes[number.index()];
        match zeroed {
            Some(extent) => write.extent = extent,
            None => write.effect = Effect::Nothing,
        }
    }

    fn tick(&mut self) -> Tick {
        self.now = Tick(self.now.0 + 1);
        self.now
    }
}
