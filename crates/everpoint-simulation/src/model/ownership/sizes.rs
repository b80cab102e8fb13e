//! Describing a world from the smallest one up.

use super::{Faults, Rules, World};

impl World {
    /// Two servers with a journal each, one machine, one write, no faults, all rules.
    pub(crate) const fn small() -> Self {
        Self {
            machines: 1,
            servers: 2,
            writes: 1,
            journals: 2,
            objects: 2,
            in_flight: 2,
            generations: 3,
            faults: Faults::NONE,
            rules: Rules::ALL,
            heals: false,
        }
    }

    /// The same, asked in each state if it heals.
    pub(crate) const fn healing() -> Self {
        Self {
            heals: true,
            ..Self::small()
        }
    }

    /// The same with a rule left out.
    pub(crate) fn without(mut self, leave_out: impl Fn(&mut Rules)) -> Self {
        leave_out(&mut self.rules);
        self
    }
}

macro_rules! sizes {
    ($($size:ident),*) => {
        impl World {
            $(pub(crate) const fn $size(mut self, count: u8) -> Self {
                self.$size = count;
                self
            })*
        }
    };
}

macro_rules! faults {
    ($($fault:ident),*) => {
        impl World {
            $(pub(crate) const fn $fault(mut self, count: u8) -> Self {
                self.faults.$fault = count;
                self
            })*
        }

        impl Faults {
            const NONE: Self = Self { $($fault: 0),* };
        }
    };
}

sizes!(
    machines,
    servers,
    writes,
    journals,
    objects,
    in_flight,
    generations
);
faults!(
    crashes,
    losses,
    agent_crashes,
    deletions,
    releases,
    closings,
    resumes,
    clones,
    seals,
    rotations,
    readers
);
