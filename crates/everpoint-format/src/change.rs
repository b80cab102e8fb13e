//! Change block: consecutive changes of one disk, as they travel, as they are logged.
//!
//! The agent builds it once; the same bytes cross the wire and lie in the cache log, and the payload
//! (the *frame*) lies in the journal object. Whoever holds a block can check it without asking.
//!
//! ```text
//! offset  size  field
//!      0     4  magic             "EPCB"
//!      4     2  version           1
//!      6     2  flags             bit 0: payload is LZ4; other bits 0
//!      8     4  records_len       records and their texts, bytes
//!     12     4  payload_len       bytes as stored
//!     16     4  raw_len           bytes before compression, at most 1 MiB
//!     20     4  record_count      at most 4,096
//!     24    16  machine
//!     40    16  disk
//!     56    16  generation
//!     72     8  block_no          from 1, without gaps in the generation
//!     80     8  complete_through  no change of this disk at or below this seq is missing
//!     88     8  first_at          capture of the first request, microseconds since 1970 UTC
//!     96     8  last_at           capture of the last request
//!    104     8  clock_offset      the agent's measured clock error, microseconds, signed
//!    112     8  chain_before      chain value of block_no - 1; 0 for the first
//!    120     8  chain             CRC-64/NVME over bytes 0..120, 128..136, records, payload
//!    128     4  payload_crc       CRC-32 of the payload as stored
//!    132     4  records_crc       CRC-32 of records and texts
//!    136     4  key_no            0: not encrypted
//!    140    12  nonce             0 where not encrypted
//!    152    16  tag               0 where not encrypted
//!    168     4  reserved          0
//!    172     4  header_crc        CRC-32 of bytes 0..172
//!    176        records           32 bytes each, see `record.rs`; then their texts in order
//!               payload           to the end
//! ```
//!
//! A block without records is *empty*: it only raises `complete_through`.

use bytes::Bytes;
use everpoint_units::{BlockNo, ChainValue, DiskId, GenerationId, MachineId, Seq, WallTime};

use crate::cursor::{Put, Reader, checked, crc_matches, seal_crc};
use crate::digest::{PIECE_LEN, PieceDigest};
use crate::record::{RECORD_LEN, Record};
use crate::{Change, DecodeError, DiskPosition, PackScratch, decompress_exact};

/// Size of an encoded header. Unit: bytes.
pub const HEADER_LEN: usize = 176;
/// Most payload before compression. Unit: bytes.
pub const RAW_LEN_MAX: usize = 1 << 20;
/// Most records in one block.
pub const RECORD_COUNT_MAX: usize = 4_096;
/// Most bytes of an encoded block: payload stored raw, and 192 KiB for everything else.
pub const ENCODED_LEN_MAX: usize = RAW_LEN_MAX + (192 << 10);

const WHAT: &str = "change block";
const MAGIC: [u8; 4] = *b"EPCB";
const VERSION: u16 = 1;
const FLAG_LZ4: u16 = 1;
const INDEX_FLAG_LZ4: u32 = 1;
const CHAIN_AT: usize = 120;
const CRCS_AT: usize = 128;
const KEY_AT: usize = 136;

/// Everything in a block but its records and payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockHeader {
    pub machine: MachineId,
    pub disk: DiskId,
    pub generation: GenerationId,
    pub block_no: BlockNo,
    /// No change of this disk at or below this `Seq` is missing.
    pub complete_through: Seq,
    /// When its changes were captured, and how wrong the agent believes its clock to be.
    pub captured: Captured,
    pub chain_before: ChainValue,
    pub chain: ChainValue,
    pub record_count: u32,
    pub frame: Frame,
    records_len: u32,
    records_crc: u32,
}

/// When the first and the last request in a block were captured. Metadata only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Captured {
    pub first: WallTime,
    pub last: WallTime,
    /// What to add to both to get true time. Unit: microseconds.
    pub clock_offset_us: i64,
}

/// How a payload is stored, wherever it lies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Frame {
    pub lz4: bool,
    /// Unit: bytes, as stored.
    pub stored_len: u32,
    /// Unit: bytes, before compression; at most [`RAW_LEN_MAX`].
    pub raw_len: u32,
    /// CRC-32 of the bytes as stored.
    pub crc: u32,
    pub seal: FrameSeal,
}

/// What decryption needs; all zero where nothing is encrypted. Format 1 has the fields, nothing
/// writes them yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FrameSeal {
    pub key_no: u32,
    pub nonce: [u8; 12],
    pub tag: [u8; 16],
}

/// A block whose bytes were checked: lengths, checksums, chain value, every record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChangeBlock {
    header: BlockHeader,
    records: Vec<Record>,
    bytes: Bytes,
}

/// Changes with their payload compressed, not yet numbered. Packing is the dear part and needs no
/// order; [`PackedBlock::freeze`] is cheap and makes the order.
#[derive(Clone, Debug)]
pub struct PackedBlock {
    records: Vec<Record>,
    captured: Captured,
    frame: Frame,
    payload: Bytes,
}

/// Where a block stands in its disk's history.
#[derive(Clone, Copy, Debug)]
pub struct BlockPlace {
    pub machine: MachineId,
    pub disk: DiskId,
    /// The block before.
    pub after: DiskPosition,
    pub complete_through: Seq,
}

/// A numbered block, for ever the same bytes: `head` followed by `payload`.
#[derive(Clone, Debug)]
pub struct FrozenBlock {
    pub header: BlockHeader,
    /// Header, records and texts.
    pub head: Bytes,
    pub payload: Bytes,
}

impl PackedBlock {
    /// Packs changes whose data lies, in order, in `raw`.
    ///
    /// # Panics
    ///
    /// As [`Self::pack_with`].
    pub fn pack(records: Vec<Record>, raw: Bytes, captured: Captured) -> Self {
        Self::pack_with(&mut PackScratch::default(), records, &[raw], captured)
    }

    /// Packs changes whose data lies, in order, in `pieces`.
    ///
    /// # Panics
    ///
    /// If there are too many records or bytes, `pieces` are not as long as the data records say, or a
    /// record refers to another place: the caller closes blocks before that.
    pub fn pack_with(
        scratch: &mut PackScratch,
        records: Vec<Record>,
        pieces: &[Bytes],
        captured: Captured,
    ) -> Self {
        let raw_len: usize = pieces.iter().map(Bytes::len).sum();
        assert!(records.len() <= RECORD_COUNT_MAX && raw_len <= RAW_LEN_MAX);
        let data: u64 = records.iter().map(|record| record.change.raw_len()).sum();
        assert_eq!(data, raw_len as u64, "data records and payload disagree");
        let (payload, lz4) = scratch.pack(pieces);
        let raw_len = u32::try_from(raw_len).expect("at most 1 MiB");
        let frame = Frame {
            lz4,
            stored_len: u32::try_from(payload.len()).expect("at most 1 MiB"),
            raw_len,
            crc: crc32fast::hash(&payload),
            seal: FrameSeal::default(),
        };
        Self {
            records,
            captured,
            frame,
            payload,
        }
    }

    /// The `Seq` of its last record.
    pub fn last_seq(&self) -> Option<Seq> {
        self.records.last().map(|record| record.seq)
    }

    /// Bytes that the frozen block will have, at most. Unit: bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.records.len() * (RECORD_LEN + 255) + self.payload.len()
    }

    /// Numbers the block and chains it on to the one before.
    ///
    /// # Panics
    ///
    /// If a record lies above `complete_through`.
    pub fn freeze(self, place: BlockPlace) -> FrozenBlock {
        assert!(self.last_seq() <= Some(place.complete_through));
        let mut records = Vec::with_capacity(self.records.len() * RECORD_LEN);
        let mut texts = Vec::new();
        for record in &self.records {
            record.put(&mut records, &mut texts);
        }
        records.append(&mut texts);
        let mut header = BlockHeader {
            machine: place.machine,
            disk: place.disk,
            generation: place.after.generation,
            block_no: place.after.block_no.next(),
            complete_through: place.complete_through,
            captured: self.captured,
            chain_before: place.after.chain,
            chain: ChainValue::START,
            record_count: u32::try_from(self.records.len()).expect("at most 4,096"),
            frame: self.frame,
            records_len: u32::try_from(records.len()).expect("bounded by the record count"),
            records_crc: crc32fast::hash(&records),
        };
        header.chain = header.chain_over(&records, &self.payload);
        let mut head = header.encode();
        head.append(&mut records);
        FrozenBlock {
            header,
            head: Bytes::from(head),
            payload: self.payload,
        }
    }
}

impl FrozenBlock {
    /// Its place, for whoever follows it.
    pub const fn position(&self) -> DiskPosition {
        self.header.position()
    }

    /// Unit: bytes.
    pub fn encoded_len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// The block as one run of bytes.
    pub fn to_bytes(&self) -> Bytes {
        [self.head.as_ref(), self.payload.as_ref()].concat().into()
    }
}

impl BlockHeader {
    /// The block itself, as a position.
    pub const fn position(&self) -> DiskPosition {
        DiskPosition {
            generation: self.generation,
            block_no: self.block_no,
            chain: self.chain,
        }
    }

    /// The block that it follows, as a position.
    pub fn position_before(&self) -> DiskPosition {
        DiskPosition {
            generation: self.generation,
            block_no: BlockNo(self.block_no.0 - 1),
            chain: self.chain_before,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        self.put_chained_front(&mut out);
        out.put_u64(self.chain.0);
        out.put_u32(self.frame.crc);
        out.put_u32(self.records_crc);
        out.put_u32(self.frame.seal.key_no);
        out.put(&self.frame.seal.nonce);
        out.put(&self.frame.seal.tag);
        out.put_u32(0);
        seal_crc(&mut out);
        debug_assert_eq!(out.len(), HEADER_LEN);
        out
    }

    /// Bytes 0..120.
    fn put_chained_front(&self, out: &mut Vec<u8>) {
        out.put(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(if self.frame.lz4 { FLAG_LZ4 } else { 0 });
        out.put_u32(self.records_len);
        out.put_u32(self.frame.stored_len);
        out.put_u32(self.frame.raw_len);
        out.put_u32(self.record_count);
        out.put(&self.machine.0);
        out.put(&self.disk.0);
        out.put(&self.generation.0);
        out.put_u64(self.block_no.0);
        out.put_u64(self.complete_through.0);
        out.put_u64(self.captured.first.0);
        out.put_u64(self.captured.last.0);
        out.put(&self.captured.clock_offset_us.to_le_bytes());
        out.put_u64(self.chain_before.0);
    }

    fn chain_over(&self, records: &[u8], payload: &[u8]) -> ChainValue {
        let mut front = Vec::with_capacity(CHAIN_AT);
        self.put_chained_front(&mut front);
        let crcs = [self.frame.crc.to_le_bytes(), self.records_crc.to_le_bytes()];
        chain_of([&front, crcs.as_flattened(), records, payload])
    }

    /// Reads the header of a block from the front of `bytes`; records and payload are not looked at.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. The lengths that it states are within this format's bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let front = Reader::new(WHAT, bytes).take(HEADER_LEN)?;
        Reader::new(WHAT, front).open(MAGIC, VERSION)?;
        let body = checked(WHAT, front)?;
        let mut reader = Reader::new(WHAT, body);
        reader.open(MAGIC, VERSION)?;
        let flags = reader.u16()?;
        let records_len = reader.u32()?;
        let stored_len = reader.u32()?;
        let raw_len = reader.u32()?;
        let record_count = reader.u32()?;
        let mut header = Self {
            machine: MachineId(reader.array()?),
            disk: DiskId(reader.array()?),
            generation: GenerationId(reader.array()?),
            block_no: BlockNo(reader.u64()?),
            complete_through: Seq(reader.u64()?),
            captured: Captured {
                first: WallTime(reader.u64()?),
                last: WallTime(reader.u64()?),
                clock_offset_us: reader.i64()?,
            },
            chain_before: ChainValue(reader.u64()?),
            chain: ChainValue(reader.u64()?),
            record_count,
            frame: Frame {
                lz4: flags & FLAG_LZ4 != 0,
                stored_len,
                raw_len,
                crc: reader.u32()?,
                seal: FrameSeal::default(),
            },
            records_len,
            records_crc: reader.u32()?,
        };
        header.frame.seal = FrameSeal::read(&mut reader)?;
        reader.reserved(4)?;
        reader.end()?;
        if flags & !FLAG_LZ4 != 0 {
            return Err(reader.invalid("unknown flags"));
        }
        header.check(&reader)?;
        Ok(header)
    }

    fn check(&self, reader: &Reader<'_>) -> Result<(), DecodeError> {
        let (count, len) = (self.record_count as usize, self.records_len as usize);
        if RECORD_COUNT_MAX < count || RAW_LEN_MAX < self.frame.raw_len as usize {
            return Err(reader.invalid("too many records, or too much payload"));
        }
        if len < count * RECORD_LEN || ENCODED_LEN_MAX - RAW_LEN_MAX - HEADER_LEN < len {
            return Err(reader.invalid("record area and record count disagree"));
        }
        if !self.frame.is_sound() {
            return Err(reader.invalid("payload lengths and flags disagree"));
        }
        let first = self.block_no == BlockNo::ZERO.next();
        if self.block_no == BlockNo::ZERO || (first && self.chain_before != ChainValue::START) {
            return Err(reader.invalid("the first block of a generation has number 1 and no chain"));
        }
        Ok(())
    }

    /// Bytes of the whole block. Unit: bytes.
    pub const fn encoded_len(&self) -> usize {
        HEADER_LEN + self.records_len as usize + self.frame.stored_len as usize
    }

    /// What the opened block takes beyond its bytes: records as they are worked with, and digests.
    /// Blocks of many small changes take twice as much there as they have bytes. Unit: bytes.
    pub const fn opened_len(&self) -> usize {
        let pieces = self.frame.raw_len as usize / PIECE_LEN;
        self.record_count as usize * size_of::<Record>() + pieces * size_of::<PieceDigest>()
    }
}

impl Frame {
    /// Lengths, checksum, flags and seal, as indexes and layers store them: 48 bytes.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.stored_len);
        out.put_u32(self.raw_len);
        out.put_u32(self.crc);
        self.put_flags(out);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (stored_len, raw_len, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        Self::read_behind(reader, stored_len, raw_len, crc)
    }

    /// The flags and the seal.
    pub(crate) fn put_flags(&self, out: &mut Vec<u8>) {
        out.put_u32(if self.lz4 { INDEX_FLAG_LZ4 } else { 0 });
        self.seal.put(out);
    }

    /// The frame whose lengths and checksum were read; flags and seal follow.
    pub(crate) fn read_behind(
        reader: &mut Reader<'_>,
        stored_len: u32,
        raw_len: u32,
        crc: u32,
    ) -> Result<Self, DecodeError> {
        let flags = reader.u32()?;
        let frame = Self {
            lz4: flags & INDEX_FLAG_LZ4 != 0,
            stored_len,
            raw_len,
            crc,
            seal: FrameSeal::read(reader)?,
        };
        let bounded = raw_len as usize <= RAW_LEN_MAX;
        if flags & !INDEX_FLAG_LZ4 != 0 || !bounded || !frame.is_sound() {
            return Err(reader.invalid("a frame has unknown flags or impossible lengths"));
        }
        Ok(frame)
    }

    /// Whether lengths and compression agree: LZ4 only where it shrinks.
    pub(crate) const fn is_sound(&self) -> bool {
        if self.lz4 {
            0 < self.stored_len && self.stored_len < self.raw_len
        } else {
            self.stored_len == self.raw_len
        }
    }

    /// Checks the stored bytes and gives the raw ones; no copy where nothing was compressed.
    ///
    /// # Errors
    ///
    /// `Truncated` or `Corrupt` when `stored` is not what was stored, `Invalid` when it does not
    /// decompress to exactly `raw_len` bytes, or is encrypted (this build has no keys).
    pub fn open(&self, stored: &Bytes) -> Result<Bytes, DecodeError> {
        const WHAT: &str = "frame";
        if stored.len() != self.stored_len as usize {
            return Err(DecodeError::Truncated {
                what: WHAT,
                have: stored.len(),
                need: self.stored_len as usize,
            });
        }
        crc_matches(WHAT, self.crc, stored)?;
        if self.seal.key_no != 0 {
            return Err(DecodeError::Invalid {
                what: WHAT,
                rule: "is encrypted, and this build reads no encrypted vaults",
            });
        }
        if self.lz4 {
            decompress_exact(stored, self.raw_len as usize).map(Bytes::from)
        } else {
            Ok(stored.clone())
        }
    }
}

impl FrameSeal {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.put_u32(self.key_no);
        out.put(&self.nonce);
        out.put(&self.tag);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key_no: reader.u32()?,
            nonce: reader.array()?,
            tag: reader.array()?,
        })
    }
}

impl ChangeBlock {
    /// Reads a block that fills `bytes` and checks all of it; the payload is not decompressed.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]: nothing of a refused block may be used.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let header = BlockHeader::decode(&bytes)?;
        let mut reader = Reader::new(WHAT, &bytes);
        reader.take(HEADER_LEN)?;
        let record_area = reader.take(header.records_len as usize)?;
        let payload = reader.take(header.frame.stored_len as usize)?;
        reader.end()?;
        crc_matches(WHAT, header.records_crc, record_area)?;
        crc_matches(WHAT, header.frame.crc, payload)?;
        let chain = chain_of([
            &bytes[..CHAIN_AT],
            &bytes[CRCS_AT..KEY_AT],
            record_area,
            payload,
        ]);
        if chain != header.chain {
            return Err(DecodeError::Corrupt {
                what: WHAT,
                stored: header.chain.0,
                computed: chain.0,
            });
        }
        let records = read_records(&header, record_area)?;
        Ok(Self {
            header,
            records,
            bytes,
        })
    }

    pub const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// The changes, rising by `Seq`.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The block as it came.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The payload as stored: a slice of the block, not a copy.
    pub fn payload(&self) -> Bytes {
        self.bytes
            .slice(self.bytes.len() - self.header.frame.stored_len as usize..)
    }
}

fn read_records(header: &BlockHeader, area: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let count = header.record_count as usize;
    let (fixed, texts) = area.split_at(count * RECORD_LEN);
    let (mut fixed, mut texts) = (Reader::new(WHAT, fixed), Reader::new(WHAT, texts));
    let mut records = Vec::with_capacity(count);
    let (mut last, mut data) = (Seq::ZERO, 0);
    for _ in 0..count {
        let record = Record::read(&mut fixed, &mut texts)?;
        if record.seq <= last || matches!(record.change, Change::Reference { .. }) {
            return Err(fixed.invalid("records do not rise, or refer to other places"));
        }
        last = record.seq;
        data += record.change.raw_len();
        records.push(record);
    }
    texts.end()?;
    if data != u64::from(header.frame.raw_len) || header.complete_through < last {
        return Err(fixed.invalid("records disagree with the payload or complete_through"));
    }
    Ok(records)
}

fn chain_of(parts: [&[u8]; 4]) -> ChainValue {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    for part in parts {
        digest.update(part);
    }
    ChainValue(digest.finalize())
}

#[cfg(test)]
pub(crate) mod tests;
