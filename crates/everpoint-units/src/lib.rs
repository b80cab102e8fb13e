//! The words every other crate speaks: positions, lengths, sequence numbers, levels, ids and moments.
//!
//! Only units, identifiers and ranges live here. What is none of these belongs to the crate that
//! needs it. Nothing here reads a clock or makes a random number: both are handed in.

mod extent;
mod id;
mod order;
mod time;

pub use extent::{ByteLen, ByteOffset, EXTENT_SECTORS_MAX, Extent, Lba, SECTOR_LEN};
pub use id::{
    DiskId, GenerationId, JournalId, MachineId, ParseIdError, RetentionId, ServerId, VaultId,
    decimal20,
};
pub use order::{BlockNo, ChainValue, Level, ManifestNo, ObjectNo, Seq};
pub use time::{Moment, WallTime};
