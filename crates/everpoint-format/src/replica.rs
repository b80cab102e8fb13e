//! Replica mark: the last page of a replica, which is its fixed VHD footer and says what is in it.
//!
//! ```text
//! offset  size  field
//!      0    85  VHD footer, see `vhd.rs`; its unique id is the disk's id
//!     85    11  zero
//!     96     4  magic        "EPRM"
//!    100     2  version      1
//!    102     2  flags        bit 0: applied is known; bit 1: the disk is level; bit 2: it has a position
//!    104    16  vault
//!    120    16  machine
//!    136    16  disk
//!    152     8  sectors      of the disk; the VHD is rounded up
//!    160     8  level        every object of the machine's path through this one is in the replica
//!    168    16  random
//!    184     8  number
//!    192    32  position     the disk's last block in it: generation, block, chain value
//!    224     8  through      no change of the disk at or below this is missing
//!    232     4  crc          CRC-32 of bytes 96..232
//!    236   276  zero
//! ```
//!
//! Fields from 96 on are little-endian, those of the footer are not; the footer's checksum covers both, and the page
//! is written in one put, so a VHD and what is known of it are never apart. Where `applied` is not known, fields from
//! 160 on are zero: somebody began to fill it. Later changes than the mark says may be in it, earlier ones all are.

use everpoint_units::{
    ByteLen, DiskId, JournalId, Level, MachineId, ObjectNo, SECTOR_LEN, Seq, VaultId, WallTime,
};

use crate::cursor::{Put, Reader, checked, seal_crc};
use crate::position::POSITION_LEN;
use crate::vhd::{self, FOOTER_LEN};
use crate::{DecodeError, DiskPosition};

const WHAT: &str = "replica mark";
const MAGIC: [u8; 4] = *b"EPRM";
const VERSION: u16 = 1;
/// Where the footer's own fields end.
const RESERVED_AT: usize = 85;
const MARK_AT: usize = 96;
const MARK_LEN: usize = 140;
/// What lies between `sectors` and the checksum.
const BEHIND_SECTORS: usize = 72;
const FLAG_APPLIED: u16 = 1;
const FLAG_LEVEL: u16 = 2;
const FLAG_POSITION: u16 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    pub vault: VaultId,
    pub machine: MachineId,
    pub disk: DiskId,
    /// The disk's own size. Unit: sectors.
    pub sectors: u64,
    /// `None`: nothing is known of the bytes.
    pub applied: Option<Applied>,
}

/// How far a replica follows its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Applied {
    /// The last object of the machine's path that is in it, with all before it.
    pub journal: JournalId,
    pub number: ObjectNo,
    /// The disk's last block; `None` before its first.
    pub position: Option<DiskPosition>,
    /// No change of the disk at or below this is missing.
    pub through: Seq,
    /// Whether it is a state of the disk; it is none in the middle of a full copy or a resync.
    pub is_level: bool,
}

impl Mark {
    /// How long a replica of a disk is: whole MiB, and the page. Unit: bytes.
    pub fn target_len(sectors: u64) -> ByteLen {
        ByteLen(vhd::padded_size(ByteLen(sectors * SECTOR_LEN)).0 + FOOTER_LEN as u64)
    }

    /// The page to write at the end of the replica.
    pub fn encode(&self, created_at: WallTime) -> [u8; FOOTER_LEN] {
        let size = vhd::padded_size(ByteLen(self.sectors * SECTOR_LEN));
        let mut page = vhd::fixed_footer(size, self.disk.0, created_at);
        let mut mark = Vec::with_capacity(MARK_LEN);
        mark.put(&MAGIC);
        mark.put_u16(VERSION);
        mark.put_u16(self.flags());
        mark.put(&self.vault.0);
        mark.put(&self.machine.0);
        mark.put(&self.disk.0);
        mark.put_u64(self.sectors);
        match &self.applied {
            None => mark.put(&[0; BEHIND_SECTORS]),
            Some(applied) => {
                mark.put_u64(applied.journal.level.0);
                mark.put(&applied.journal.random);
                mark.put_u64(applied.number.0);
                match applied.position {
                    None => mark.put(&[0; POSITION_LEN]),
                    Some(position) => position.put(&mut mark),
                }
                mark.put_u64(applied.through.0);
            }
        }
        seal_crc(&mut mark);
        page[MARK_AT..MARK_AT + MARK_LEN].copy_from_slice(&mark);
        vhd::seal(&mut page);
        page
    }

    /// Reads the last page of a target; `None` for a page without a mark, which may be anything.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]: it has a mark, and is not what was written.
    pub fn decode(page: &[u8; FOOTER_LEN]) -> Result<Option<Self>, DecodeError> {
        if page[MARK_AT..MARK_AT + 4] != MAGIC {
            return Ok(None);
        }
        let mark = checked(WHAT, &page[MARK_AT..MARK_AT + MARK_LEN])?;
        let mut reader = Reader::new(WHAT, mark);
        reader.open(MAGIC, VERSION)?;
        let flags = reader.u16()?;
        let vault = VaultId(reader.array()?);
        let machine = MachineId(reader.array()?);
        let disk = DiskId(reader.array()?);
        let sectors = reader.u64()?;
        let applied = if flags & FLAG_APPLIED == 0 {
            reader.reserved(BEHIND_SECTORS)?;
            None
        } else {
            Some(Applied::read(&mut reader, flags)?)
        };
        reader.end()?;
        let mark = Self {
            vault,
            machine,
            disk,
            sectors,
            applied,
        };
        if flags != mark.flags() {
            return Err(reader.invalid("unknown flags"));
        }
        mark.footer_agrees(page)?;
        Ok(Some(mark))
    }

    const fn flags(&self) -> u16 {
        match &self.applied {
            None => 0,
            Some(applied) => {
                let level = if applied.is_level { FLAG_LEVEL } else { 0 };
                let position = match applied.position {
                    None => 0,
                    Some(_) => FLAG_POSITION,
                };
                FLAG_APPLIED | level | position
            }
        }
    }

    /// The rest of the page is the footer that this mark has, but for the time.
    fn footer_agrees(&self, page: &[u8; FOOTER_LEN]) -> Result<(), DecodeError> {
        let reader = Reader::new(WHAT, page);
        let size = self.sectors.checked_mul(SECTOR_LEN);
        let Some(size) = size.filter(|size| *size <= u64::MAX / 2) else {
            return Err(reader.invalid("more sectors than can be"));
        };
        let created_at = vhd::created_at(page);
        let mut expected =
            vhd::fixed_footer(vhd::padded_size(ByteLen(size)), self.disk.0, created_at);
        expected[MARK_AT..MARK_AT + MARK_LEN].copy_from_slice(&page[MARK_AT..MARK_AT + MARK_LEN]);
        vhd::seal(&mut expected);
        if *page == expected {
            Ok(())
        } else {
            Err(reader.invalid("the footer is not that of the mark"))
        }
    }
}

impl Applied {
    fn read(reader: &mut Reader<'_>, flags: u16) -> Result<Self, DecodeError> {
        let level = Level(reader.u64()?);
        let random = reader.array()?;
        let number = ObjectNo(reader.u64()?);
        let position = if flags & FLAG_POSITION == 0 {
            reader.reserved(POSITION_LEN)?;
            None
        } else {
            Some(DiskPosition::read(reader)?)
        };
        Ok(Self {
            journal: JournalId { level, random },
            number,
            position,
            through: Seq(reader.u64()?),
            is_level: flags & FLAG_LEVEL != 0,
        })
    }
}

// The mark lies in bytes that the VHD's specification reserves, and fits the page.
const _: () = assert!(RESERVED_AT < MARK_AT && MARK_AT + MARK_LEN <= FOOTER_LEN);

#[cfg(test)]
mod tests {
    use everpoint_units::{BlockNo, ChainValue, GenerationId};

    use super::*;
    use crate::tests::{every_flip_is_refused, golden};

    fn sample() -> Mark {
        Mark {
            vault: VaultId([0x11; 16]),
            machine: MachineId([0x33; 16]),
            disk: DiskId([0x44; 16]),
            sectors: 20_001,
            applied: Some(Applied {
                journal: JournalId {
                    level: Level(5),
                    random: [0x55; 16],
                },
                number: ObjectNo(77),
                position: Some(DiskPosition {
                    generation: GenerationId([0x66; 16]),
                    block_no: BlockNo(9),
                    chain: ChainValue(0x0123_4567_89ab_cdef),
                }),
                through: Seq(4_711),
                is_level: true,
            }),
        }
    }

    const AT: WallTime = WallTime(1_767_225_600_000_000);

    #[test]
    fn golden_v1_reads_as_the_sample() {
        let page = sample().encode(AT);
        golden("replica-mark.v1.bin", &page);
        assert_eq!(Mark::decode(&page), Ok(Some(sample())));
    }

    #[test]
    fn what_is_not_known_is_read_as_that() {
        let begun = Mark {
            applied: None,
            ..sample()
        };
        assert_eq!(Mark::decode(&begun.encode(AT)), Ok(Some(begun)));
        let mut empty = sample();
        let applied = empty.applied.as_mut().unwrap();
        (applied.position, applied.is_level) = (None, false);
        assert_eq!(Mark::decode(&empty.encode(AT)), Ok(Some(empty)));
    }

    #[test]
    fn a_page_without_a_mark_is_none() {
        assert_eq!(Mark::decode(&[0; FOOTER_LEN]), Ok(None));
        let footer = vhd::fixed_footer(ByteLen(1 << 20), [7; 16], AT);
        assert_eq!(Mark::decode(&footer), Ok(None));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_no_mark() {
        let page = sample().encode(AT);
        every_flip_is_refused(&page, |bytes| {
            let page = bytes.first_chunk().expect("a page");
            !matches!(Mark::decode(page), Ok(Some(_)))
        });
    }

    #[test]
    fn the_target_is_whole_mib_and_a_page() {
        assert_eq!(Mark::target_len(1), ByteLen((1 << 20) + 512));
        assert_eq!(Mark::target_len(4_096), ByteLen((2 << 20) + 512));
    }
}
