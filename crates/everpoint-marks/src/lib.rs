//! What shows that the simulation is not blind: bugs that can be planted in the product, and marks in
//! it that a long run must reach.
//!
//! ```text
//! if planted!(AckBeforeSync) { … }   one wrong step or a missing check, if that bug is chosen
//! reached!(TailOvertaken);           one more run came by here
//! ```
//!
//! Both are there only in a build with `--cfg planted` (`cargo xtask planted` makes it). Anywhere else
//! [`planted!`] is `false` for the compiler and [`reached!`] nothing: the product carries neither a bug
//! nor a counter. The bug is chosen at run time, one for the whole process, and without one a build with
//! the bugs does what a build without them does.
//!
//! The lists are [`Bug`] and [`Mark`]; each name stands in the code that it is about.

mod bug;
mod mark;

pub use bug::{Bug, Search};
pub use mark::{Mark, Reach};

/// Whether a bug is the chosen one. The name is that of a [`Bug`].
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::is_planted($crate::Bug::$bug)
    };
}

/// Counts that a run came by here. The name is that of a [`Mark`].
#[macro_export]
macro_rules! reached {
    ($mark:ident) => {
        $crate::reach($crate::Mark::$mark)
    };
}

/// No bug can be chosen: the build has none. Remedy: `cargo xtask planted`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this build carries no bugs to choose from: `cargo xtask planted` makes one that does")]
pub struct NoBugs;

#[cfg(planted)]
mod carried {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    use super::{Bug, Mark, NoBugs};

    const NONE: usize = usize::MAX;

    static CHOSEN: AtomicUsize = AtomicUsize::new(NONE);
    static COUNTS: [AtomicU64; Mark::ALL.len()] = [const { AtomicU64::new(0) }; Mark::ALL.len()];

    /// Chooses the bug of this process, or none.
    ///
    /// # Errors
    ///
    /// Never in this build.
    pub fn choose(bug: Option<Bug>) -> Result<(), NoBugs> {
        CHOSEN.store(bug.map_or(NONE, |bug| bug as usize), Relaxed);
        Ok(())
    }

    /// How often a mark was reached.
    pub fn count(mark: Mark) -> u64 {
        COUNTS[mark as usize].load(Relaxed)
    }

    /// Whether a bug is the chosen one; for [`planted!`](crate::planted).
    #[inline]
    pub fn is_planted(bug: Bug) -> bool {
        CHOSEN.load(Relaxed) == bug as usize
    }

    /// Counts that a mark was reached; for [`reached!`](crate::reached).
    #[inline]
    pub fn reach(mark: Mark) {
        COUNTS[mark as usize].fetch_add(1, Relaxed);
    }
}

#[cfg(not(planted))]
mod carried {
    use super::{Bug, Mark, NoBugs};

    /// Chooses the bug of this process, or none.
    ///
    /// # Errors
    ///
    /// [`NoBugs`], for every bug: this build has none.
    pub const fn choose(bug: Option<Bug>) -> Result<(), NoBugs> {
        match bug {
            Some(_) => Err(NoBugs),
            None => Ok(()),
        }
    }

    /// How often a mark was reached: this build does not count.
    pub const fn count(_: Mark) -> u64 {
        0
    }

    /// Whether a bug is the chosen one: none is.
    #[inline(always)]
    pub const fn is_planted(_: Bug) -> bool {
        false
    }

    /// Counts nothing.
    #[inline(always)]
    pub const fn reach(_: Mark) {}
}

pub use carried::{choose, count, is_planted, reach};

#[cfg(test)]
mod tests;
