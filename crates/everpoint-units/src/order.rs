//! Numbers that order things: changes in a machine, blocks in a generation, objects in a journal,
//! journals in a path.

use std::fmt;

/// Position of a change in its *machine's* total write order: one counter for all disks of a
/// machine, rising, with gaps allowed. [`Seq::ZERO`] means "nothing yet".
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

/// Number of a change block in its generation. From 1, without gaps; [`BlockNo::ZERO`] means
/// "nothing yet".
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlockNo(pub u64);

/// CRC-64/NVME over the chain value of the block before and the block as the agent sent it. The
/// first block of a generation chains on to [`ChainValue::START`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ChainValue(pub u64);

/// A number in a journal's name that only rises along a machine's path; the epoch of the machines
/// in that journal (rules R1 and R2). From 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Level(pub u64);

/// Number of an object in its journal. From 1, without gaps in a journal's prefix.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectNo(pub u64);

/// Number of a machine's manifest. From 1; the newest is never deleted (R16).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ManifestNo(pub u64);

impl ChainValue {
    /// What the first block of a generation chains on to.
    pub const START: Self = Self(0);
}

macro_rules! counter {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The one after this.
            ///
            /// # Panics
            ///
            /// After 2^64 steps, which at one a nanosecond is 584 years.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a counter of 64 bits ran out"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

counter!(Seq, "seq:");
counter!(BlockNo, "block ");
counter!(Level, "level ");
counter!(ObjectNo, "object ");
counter!(ManifestNo, "manifest ");

impl fmt::Display for ChainValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
