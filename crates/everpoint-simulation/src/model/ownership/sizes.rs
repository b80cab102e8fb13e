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

    /// Its size and its faults, in words.
    pub(crate) fn bounds(&self) -> String {
        let sizes = format!(
            "{} machines, {} servers, {} writes, {} journals, {} objects a boot with {} under way, \
             {} generations",
            self.machines,
            self.servers,
            self.writes,
            self.journals,
            self.objects,
            self.in_flight,
            self.generations
        );
        let faults = self.faults.counted();
        let faults = faults.into_iter().filter(|(_, count)| 0 < *count);
        faults.fold(sizes, |bounds, (fault, count)| {
            format!("{bounds}, {count} {fault}")
        })
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

            fn counted(&self) -> Vec<(&'static str, u8)> {
                vec![$((stringify!($fault), self.$fault)),*]
            }
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
