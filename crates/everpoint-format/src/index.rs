//! Journal index: what a data object holds, by disk, readable without its frames.
//!
//! ```text
//! index header       magic "EPIX", version 1 (2), reserved (2), section_count (4),
//!                    release_count (4), reserved (16)                            32 bytes
//! release_count ×    machine (16), successor level (8), successor random (16),
//!                    bit 0: there is a successor (4), reserved (4)               48 bytes
//! section_count ×
//!   section header   machine (16), disk (16), generation (16), first_block (8),
//!                    chain_before (8), block_count (4), record_count (4), digest_count (4),
//!                    place_count (4), text_len (4), reserved (4)                 88 bytes
//!   block_count ×    complete_through (8), first_at (8), last_at (8), clock_offset (8),
//!                    chain (8), frame_at (8), stored_len (4), raw_len (4), crc (4),
//!                    record_count (4), flags (4: bit 0 LZ4), key_no (4), nonce (12),
//!                    tag (16)                                                   100 bytes
//!   record_count ×   record, see `record.rs`                                     32 bytes
//!   digest_count ×   keyed BLAKE3, under the vault's digest key, of the BLAKE3 of a piece; for each
//!                    data or reference record, in order, one for each 4 KiB that it covers whole,
//!                    at multiples of 4 KiB of the disk                           32 bytes
//!   place_count ×    place of a reference: level (8), random (16), number (8), frame_at (8),
//!                    raw_at (4), stored_len (4), raw_len (4), crc (4), flags (4), key_no (4),
//!                    nonce (12), tag (16), reserved (4)                          92 bytes
//!   text_len         texts of the records, in order
//!
//! frame_at counts from the object's beginning, raw_at from the beginning of the unpacked frame. A section
//! holds consecutive blocks of one generation of one disk. Its records' bytes lie in the frames of its blocks,
//! in order. Sections stand in the order of commit.
//! ```

use bytes::Bytes;
use everpoint_units::{
    BlockNo, ChainValue, DiskId, GenerationId, JournalId, Level, MachineId, ObjectNo, Seq, WallTime,
};

use crate::change::{BlockHeader, Captured, ChangeBlock, Frame, RECORD_COUNT_MAX};
use crate::cursor::{Put, Reader};
use crate::digest::{PieceDigest, whole_pieces};
use crate::record::{RECORD_LEN, Record};
use crate::{Change, DecodeError, DiskPosition};

const WHAT: &str = "journal index";
const MAGIC: [u8; 4] = *b"EPIX";
const VERSION: u16 = 1;
const SECTION_LEN: usize = 88;
const BLOCK_LEN: usize = 100;
const PLACE_LEN: usize = 92;
const RELEASE_LEN: usize = 48;

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Index {
    pub releases: Vec<Release>,
    pub sections: Vec<Section>,
}

/// The record with which one machine leaves this journal (R7). Without successor the path is closed
/// for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Release {
    pub machine: MachineId,
    pub successor: Option<JournalId>,
}

/// Consecutive blocks of one generation of one disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    pub machine: MachineId,
    pub disk: DiskId,
    pub generation: GenerationId,
    pub first_block: BlockNo,
    pub chain_before: ChainValue,
    /// Never empty.
    pub blocks: Vec<BlockEntry>,
    pub places: Vec<Place>,
}

/// One block: what it says, and where its frame lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockEntry {
    pub complete_through: Seq,
    pub captured: Captured,
    pub chain: ChainValue,
    /// Unit: bytes from the start of the object.
    pub frame_at: u64,
    pub frame: Frame,
    pub records: Vec<Record>,
    /// Of data and reference records, in order.
    pub digests: Vec<PieceDigest>,
}

/// Bytes of an earlier object that a reference names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    pub journal: JournalId,
    pub number: ObjectNo,
    pub frame_at: u64,
    pub frame: Frame,
    /// Where in the raw frame the bytes begin. Unit: bytes.
    pub raw_at: u32,
}

impl Index {
    /// The bytes to store between frames and footer.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_len(self.sections.len());
        out.put_len(self.releases.len());
        out.put(&[0; 16]);
        for release in &self.releases {
            release.put(&mut out);
        }
        for section in &self.sections {
            section.put(&mut out);
        }
        Bytes::from(out)
    }

    /// Reads an index that fills `bytes`, whose checksum the caller has compared.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. Counts are held against the bytes that are there before anything is
    /// allocated.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.open(MAGIC, VERSION)?;
        reader.reserved(2)?;
        let section_count = reader.u32()? as usize;
        let release_count = reader.count(RELEASE_LEN)?;
        reader.reserved(16)?;
        let releases = (0..release_count)
            .map(|_| Release::read(&mut reader))
            .collect::<Result<_, _>>()?;
        if reader.left() / SECTION_LEN < section_count {
            return Err(reader.invalid("more sections than bytes for them"));
        }
        let sections = (0..section_count)
            .map(|_| Section::read(&mut reader))
            .collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { releases, sections })
    }
}

impl Section {
    /// A section that begins with `block`; its entry is pushed apart.
    pub const fn begin(block: &BlockHeader) -> Self {
        Self {
            machine: block.machine,
            disk: block.disk,
            generation: block.generation,
            first_block: block.block_no,
            chain_before: block.chain_before,
            blocks: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Whether `block` follows the last block of this section.
    pub fn continues_with(&self, block: &BlockHeader) -> bool {
        self.machine == block.machine
            && self.disk == block.disk
            && self.end() == block.position_before()
    }

    /// The block before the first, as a position.
    pub fn before(&self) -> DiskPosition {
        DiskPosition {
            generation: self.generation,
            block_no: BlockNo(self.first_block.0 - 1),
            chain: self.chain_before,
        }
    }

    /// The last block, as a position.
    pub fn end(&self) -> DiskPosition {
        DiskPosition {
            generation: self.generation,
            block_no: BlockNo(self.first_block.0 - 1 + self.blocks.len() as u64),
            chain: self.blocks.last().map_or(self.chain_before, |b| b.chain),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let sum = |count: fn(&BlockEntry) -> usize| self.blocks.iter().map(count).sum::<usize>();
        let (mut records, mut texts) = (Vec::new(), Vec::new());
        for record in self.blocks.iter().flat_map(|block| &block.records) {
            record.put(&mut records, &mut texts);
        }
        out.put(&self.machine.0);
        out.put(&self.disk.0);
        out.put(&self.generation.0);
        out.put_u64(self.first_block.0);
        out.put_u64(self.chain_before.0);
        out.put_len(self.blocks.len());
        out.put_len(sum(|block| block.records.len()));
        out.put_len(sum(|block| block.digests.len()));
        out.put_len(self.places.len());
        out.put_len(texts.len());
        out.put_u32(0);
        self.blocks.iter().for_each(|block| block.put(out));
        out.append(&mut records);
        for digest in self.blocks.iter().flat_map(|block| &block.digests) {
            out.put(&digest.0);
        }
        self.places.iter().for_each(|place| place.put(out));
        out.append(&mut texts);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut section = Self {
            machine: MachineId(reader.array()?),
            disk: DiskId(reader.array()?),
            generation: GenerationId(reader.array()?),
            first_block: BlockNo(reader.u64()?),
            chain_before: ChainValue(reader.u64()?),
            blocks: Vec::new(),
            places: Vec::new(),
        };
        let block_count = reader.count(BLOCK_LEN)?;
        let record_count = reader.count(RECORD_LEN)?;
        let digest_count = reader.count(32)?;
        let place_count = reader.count(PLACE_LEN)?;
        let text_len = reader.count(1)?;
        reader.reserved(4)?;
        let last_block = section.first_block.0.checked_add(block_count as u64);
        if block_count == 0 || section.first_block == BlockNo::ZERO || last_block.is_none() {
            return Err(reader.invalid("a section has no blocks, or block numbers below 1"));
        }
        let mut counts = Vec::with_capacity(block_count);
        for _ in 0..block_count {
            let (block, count) = BlockEntry::read(reader)?;
            section.blocks.push(block);
            counts.push(count);
        }
        if counts.iter().sum::<usize>() != record_count {
            return Err(reader.invalid("the blocks of a section do not hold its records"));
        }
        let mut records = Reader::new(WHAT, reader.take(record_count * RECORD_LEN)?);
        let mut digests = Reader::new(WHAT, reader.take(digest_count * 32)?);
        for _ in 0..place_count {
            section.places.push(Place::read(reader)?);
        }
        let mut texts = Reader::new(WHAT, reader.take(text_len)?);
        for (block, count) in section.blocks.iter_mut().zip(counts) {
            block.read_records(count, place_count, &mut records, &mut digests, &mut texts)?;
        }
        records.end()?;
        digests.end()?;
        texts.end()?;
        Ok(section)
    }
}

impl BlockEntry {
    /// The entry of a checked block whose frame will lie at `frame_at`.
    pub fn of(block: &ChangeBlock, frame_at: u64, digests: Vec<PieceDigest>) -> Self {
        let header = block.header();
        Self {
            complete_through: header.complete_through,
            captured: header.captured,
            chain: header.chain,
            frame_at,
            frame: header.frame,
            records: block.records().to_vec(),
            digests,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.complete_through.0);
        out.put_u64(self.captured.first.0);
        out.put_u64(self.captured.last.0);
        out.put(&self.captured.clock_offset_us.to_le_bytes());
        out.put_u64(self.chain.0);
        out.put_u64(self.frame_at);
        out.put_u32(self.frame.stored_len);
        out.put_u32(self.frame.raw_len);
        out.put_u32(self.frame.crc);
        out.put_len(self.records.len());
        self.frame.put_flags(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, usize), DecodeError> {
        let complete_through = Seq(reader.u64()?);
        let captured = Captured {
            first: WallTime(reader.u64()?),
            last: WallTime(reader.u64()?),
            clock_offset_us: reader.i64()?,
        };
        let chain = ChainValue(reader.u64()?);
        let frame_at = reader.u64()?;
        let (stored_len, raw_len, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let record_count = reader.u32()? as usize;
        let frame = Frame::read_behind(reader, stored_len, raw_len, crc)?;
        if RECORD_COUNT_MAX < record_count {
            return Err(reader.invalid("a block has too many records"));
        }
        let block = Self {
            complete_through,
            captured,
            chain,
            frame_at,
            frame,
            records: Vec::new(),
            digests: Vec::new(),
        };
        Ok((block, record_count))
    }

    fn read_records(
        &mut self,
        count: usize,
        place_count: usize,
        records: &mut Reader<'_>,
        digests: &mut Reader<'_>,
        texts: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        let (mut last, mut raw_len) = (Seq::ZERO, 0);
        for _ in 0..count {
            let record = Record::read(records, texts)?;
            if record.seq <= last {
                return Err(records.invalid("the records of a block do not rise"));
            }
            last = record.seq;
            raw_len += record.change.raw_len();
            match record.change {
                Change::Reference { place_index, .. } if place_count as u64 <= place_index => {
                    return Err(records.invalid("a reference has no place"));
                }
                Change::Data(extent) | Change::Reference { extent, .. } => {
                    let (_, pieces) = whole_pieces(extent);
                    digests.check_left(pieces)?;
                    for _ in 0..pieces {
                        self.digests.push(PieceDigest(digests.array()?));
                    }
                }
                _ => (),
            }
            self.records.push(record);
        }
        if self.complete_through < last || raw_len != u64::from(self.frame.raw_len) {
            return Err(records.invalid("records disagree with complete_through or the frame"));
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// A long reference must not make a loop of reads that all fail one by one.
    fn check_left(&self, digests: usize) -> Result<(), DecodeError> {
        if self.left() / 32 < digests {
            return Err(self.invalid("a record has fewer digests than pieces"));
        }
        Ok(())
    }
}

impl Place {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.journal.level.0);
        out.put(&self.journal.random);
        out.put_u64(self.number.0);
        out.put_u64(self.frame_at);
        out.put_u32(self.raw_at);
        out.put_u32(self.frame.stored_len);
        out.put_u32(self.frame.raw_len);
        out.put_u32(self.frame.crc);
        self.frame.put_flags(out);
        out.put_u32(0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let journal = JournalId {
            level: Level(reader.u64()?),
            random: reader.array()?,
        };
        let number = ObjectNo(reader.u64()?);
        let frame_at = reader.u64()?;
        let raw_at = reader.u32()?;
        let (stored_len, raw_len, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let frame = Frame::read_behind(reader, stored_len, raw_len, crc)?;
        reader.reserved(4)?;
        if raw_len <= raw_at {
            return Err(reader.invalid("a place begins behind its frame"));
        }
        Ok(Self {
            journal,
            number,
            frame_at,
            frame,
            raw_at,
        })
    }
}

impl Release {
    fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.machine.0);
        match self.successor {
            Some(journal) => {
                out.put_u64(journal.level.0);
                out.put(&journal.random);
            }
            None => out.put(&[0; 24]),
        }
        out.put_u32(u32::from(self.successor.is_some()));
        out.put_u32(0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let machine = MachineId(reader.array()?);
        let journal = JournalId {
            level: Level(reader.u64()?),
            random: reader.array()?,
        };
        let named = reader.u32()?;
        reader.reserved(4)?;
        let unnamed_is_zero = named == 1 || (journal.level, journal.random) == (Level(0), [0; 16]);
        if 1 < named || !unnamed_is_zero {
            return Err(reader.invalid("a release has unknown flags, or a successor unnamed"));
        }
        Ok(Self {
            machine,
            successor: (named == 1).then_some(journal),
        })
    }
}

#[cfg(test)]
mod tests;
