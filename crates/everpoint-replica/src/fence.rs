//! The number that says whose writes a target takes.
//!
//! ```text
//! bit 63      0 (the service's numbers are signed)
//! bits 32-62  level: the epoch of the journal whose server writes
//! bits  0-31  counter: raised by that server after every result that it cannot know
//! ```

use std::fmt;

use everpoint_units::Level;

/// Highest level that a fence can hold.
pub const LEVEL_MAX: u64 = (1 << 31) - 1;
/// Highest counter.
pub const COUNTER_MAX: u32 = u32::MAX;

/// A sequence number of a target. A later owner's is higher than any of an earlier one's.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fence(u64);

impl Fence {
    /// No writer has been there.
    pub const NONE: Self = Self(0);

    /// The first of a level; `None` above [`LEVEL_MAX`].
    pub const fn first_of(level: Level) -> Option<Self> {
        if LEVEL_MAX < level.0 {
            return None;
        }
        Some(Self(level.0 << 32))
    }

    /// What a target answered; `None` for a number that no fence can be.
    pub const fn from_number(number: u64) -> Option<Self> {
        if number >> 63 != 0 {
            return None;
        }
        Some(Self(number))
    }

    /// The next one of the same level; `None` after 2^32 of them.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.counter() {
            COUNTER_MAX => None,
            _ => Some(Self(self.0 + 1)),
        }
    }

    /// As the target stores it.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The level.
    pub const fn level(self) -> Level {
        Level(self.0 >> 32)
    }

    /// The counter.
    pub const fn counter(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are meant")]
        let counter = self.0 as u32;
        counter
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fence {}.{}", self.level().0, self.counter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_level_is_above_all_of_an_earlier_one() {
        let last = Fence(Fence::first_of(Level(7)).unwrap().number() + u64::from(u32::MAX));
        assert_eq!((last.level(), last.counter()), (Level(7), COUNTER_MAX));
        assert_eq!(last.next(), None);
        assert!(last < Fence::first_of(Level(8)).unwrap());
    }

    #[test]
    fn the_next_one_stays_in_its_level() {
        let first = Fence::first_of(Level(3)).unwrap();
        let next = first.next().unwrap();
        assert_eq!((next.level(), next.counter()), (Level(3), 1));
        assert_eq!(next.to_string(), "fence 3.1");
    }

    #[test]
    fn a_fence_fits_63_bits() {
        let highest = Fence::first_of(Level(LEVEL_MAX)).unwrap();
        assert_eq!(Fence::from_number(highest.number()), Some(highest));
        assert_eq!(Fence::first_of(Level(LEVEL_MAX + 1)), None);
        assert_eq!(Fence::from_number(1 << 63), None);
    }
}
