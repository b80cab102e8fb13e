//! Origin: the object in which a machine's path begins, created before its first block is frozen.
//!
//! ```text
//! offset  size  field
//!      0     4  magic        "EPOR"
//!      4     2  version      1
//!      6     1  made_from    1: the three fields below name a point; 0: they are zero
//!      7     1  reserved     0
//!      8    16  vault
//!     24    16  machine
//!     40     8  level        journal in which the path begins
//!     48    16  random
//!     64     8  created_at   microseconds since 1970 UTC
//!     72    16  from_machine
//!     88    16  from_disk    all zero: the whole machine
//!    104     8  from_seq
//!    112     4  crc          CRC-32 of bytes 0..112
//! ```

use everpoint_units::{DiskId, JournalId, Level, MachineId, Seq, VaultId, WallTime};

use crate::DecodeError;
use crate::cursor::{Put, Reader, checked, seal_crc};

const WHAT: &str = "origin";
const MAGIC: [u8; 4] = *b"EPOR";
const VERSION: u16 = 1;
const ORIGIN_LEN: usize = 116;

/// See the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    pub vault: VaultId,
    pub machine: MachineId,
    pub journal: JournalId,
    pub created_at: WallTime,
    pub made_from: Option<MadeFrom>,
}

/// The point of another machine, or of one of its disks, that this machine was made from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MadeFrom {
    pub machine: MachineId,
    pub disk: Option<DiskId>,
    pub seq: Seq,
}

impl Origin {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ORIGIN_LEN);
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put(&[u8::from(self.made_from.is_some()), 0]);
        out.put(&self.vault.0);
        out.put(&self.machine.0);
        out.put_u64(self.journal.level.0);
        out.put(&self.journal.random);
        out.put_u64(self.created_at.0);
        match self.made_from {
            Some(from) => {
                out.put(&from.machine.0);
                out.put(&from.disk.map_or([0; 16], |disk| disk.0));
                out.put_u64(from.seq.0);
            }
            None => out.put(&[0; 40]),
        }
        seal_crc(&mut out);
        out
    }

    /// Reads an origin that fills `bytes`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::new(WHAT, bytes).open(MAGIC, VERSION)?;
        let mut reader = Reader::new(WHAT, checked(WHAT, bytes)?);
        reader.open(MAGIC, VERSION)?;
        let made = reader.u8()?;
        reader.reserved(1)?;
        let vault = VaultId(reader.array()?);
        let machine = MachineId(reader.array()?);
        let level = Level(reader.u64()?);
        let random = reader.array()?;
        let created_at = WallTime(reader.u64()?);
        let made_from = match made {
            0 => {
                reader.reserved(40)?;
                None
            }
            1 => Some(MadeFrom {
                machine: MachineId(reader.array()?),
                disk: Some(DiskId(reader.array()?)).filter(|disk| disk.0 != [0; 16]),
                seq: Seq(reader.u64()?),
            }),
            _ => return Err(reader.invalid("made_from is neither 0 nor 1")),
        };
        reader.end()?;
        Ok(Self {
            vault,
            machine,
            journal: JournalId { level, random },
            created_at,
            made_from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

    fn sample() -> Origin {
        Origin {
            vault: VaultId([0x11; 16]),
            machine: MachineId([0x33; 16]),
            journal: JournalId {
                level: Level(5),
                random: [0x44; 16],
            },
            created_at: WallTime(1_767_225_600_000_000),
            made_from: Some(MadeFrom {
                machine: MachineId([0x55; 16]),
                disk: Some(DiskId([0x66; 16])),
                seq: Seq(77),
            }),
        }
    }

    #[test]
    fn golden_v1_reads_as_the_sample_and_writes_back_the_same() {
        golden("origin.v1.bin", &sample().encode());
        assert_eq!(Origin::decode(&sample().encode()), Ok(sample()));
        let plain = Origin {
            made_from: None,
            ..sample()
        };
        assert_eq!(Origin::decode(&plain.encode()), Ok(plain));
    }

    #[test]
    fn every_flipped_bit_and_every_short_read_is_refused() {
        let bytes = sample().encode();
        every_flip_is_refused(&bytes, |bytes| Origin::decode(bytes).is_err());
        every_truncation_is_refused(&bytes, |bytes| Origin::decode(bytes).is_err());
    }
}
