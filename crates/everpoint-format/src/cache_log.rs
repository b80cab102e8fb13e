//! Cache log: the files that hold change blocks from `cached` until they are committed.
//!
//! A file is one header block and then records, written batch by batch; one sync covers a batch.
//! Files are zeroed or written over before they are used, so what lies behind the last record is
//! zeroes or records of an earlier use. Those never look valid: a record's checksum also covers the
//! file that it lies in (its *binding*: vault, server, journal, file uuid, file number) and its
//! offset.
//!
//! ```text
//! file header, 4,096 bytes
//! offset  size  field
//!      0     4  magic         "EPLF"
//!      4     2  version       1
//!      6     2  record_align  512, or 4096 where the device takes nothing smaller
//!      8     4  incompat      feature bits that a reader must know; none yet
//!     12     4  compat        feature bits that a reader may ignore
//!     16    16  vault         id of the vault that the blocks are for
//!     32    16  server        id of the process server
//!     48     8  level         of the boot's journal
//!     56    16  random        of the boot's journal
//!     72    16  file_uuid     random, fresh for each use of the file
//!     88     8  file_no       from 1, rising over all boots of a directory
//!     96     8  file_len      bytes, this header included
//!    104  3988  reserved      0
//!   4092     4  crc           CRC-32 of bytes 0..4092
//!
//! record, at a multiple of record_align; the first of a batch at a multiple of 4096
//! offset  size  field
//!      0     4  magic           "EPLR"
//!      4     2  version         1
//!      6     1  kind            1 block, 2 mark
//!      7     1  flags           bit 0: last of its batch; other bits: 0
//!      8     8  record_no       from 1, without gaps over all files of a boot
//!     16     8  synced_through  every record up to this number was synced before this one was written
//!     24     8  file_first      number of the first record in this file
//!     32     4  payload_len     bytes; 0 in a mark
//!     36     4  payload_crc     CRC-32 of the payload; 0 in a mark
//!     40     8  crc             CRC-64/NVME of the binding (vault, server, level, random,
//!                               file_uuid, file_no: 80 bytes), the record's file offset (8 bytes)
//!                               and bytes 0..40
//!     48     n  payload         one encoded change block
//!   48+n     …  padding         0, to record_align; after the last of a batch, to 4096
//! ```
//!
//! `synced_through` tells a torn tail from damage: records that no valid record calls synced may
//! have been lost by a crash, in any subset; one that some valid record calls synced was on the
//! medium, perhaps acknowledged, and must still be there. A *mark* is a record that says only that.
//! `file_first` lets any one record of a file tell which ones the file before it must hold.

use std::fmt;
use std::num::NonZeroU32;

use everpoint_units::{ByteLen, ByteOffset, JournalId, Level, ServerId, VaultId};

use crate::DecodeError;
use crate::change::ENCODED_LEN_MAX;
use crate::cursor::{Put, Reader, checked, crc_matches, seal_crc};

/// Size of a file header, and where the first record begins. Unit: bytes.
pub const FILE_HEADER_LEN: usize = 4_096;
/// Size of a record's header. Unit: bytes.
pub const RECORD_HEADER_LEN: usize = 48;
/// Longest payload: one encoded change block. Unit: bytes.
pub const PAYLOAD_LEN_MAX: usize = ENCODED_LEN_MAX;
/// Where a batch begins and ends. 4,096 is the largest sector and the usual filesystem block, so
/// that a batch never rewrites a sector or block that an earlier sync has covered. Unit: bytes.
pub const BATCH_ALIGN: u64 = 4_096;

/// Far beyond what any log writes, so that a reader can always count on.
const RECORD_NO_MAX: RecordNo = RecordNo(u64::MAX / 2);
const FILE_WHAT: &str = "cache-log file header";
const FILE_MAGIC: [u8; 4] = *b"EPLF";
const FILE_RESERVED: usize = FILE_HEADER_LEN - 4 - 104;
const RECORD_WHAT: &str = "cache-log record";
const RECORD_MAGIC: [u8; 4] = *b"EPLR";
const VERSION: u16 = 1;
const KIND_BLOCK: u8 = 1;
const KIND_MARK: u8 = 2;
const FLAG_BATCH_END: u8 = 1 << 0;
const CRC_AT: usize = 40;
const BINDING_LEN: usize = 80;

const _: () = assert!(CRC_AT + size_of::<u64>() == RECORD_HEADER_LEN);
const _: () = assert!(FILE_HEADER_LEN as u64 == BATCH_ALIGN);

/// Number of a file in its directory: from 1, rising, never used twice while the directory lives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogFileNo(pub u64);

/// Number of a record in its boot: from 1, without gaps. [`RecordNo::ZERO`] means "none yet".
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordNo(pub u64);

/// Where records may begin inside a batch.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecordAlign {
    /// Multiples of 512 bytes.
    Sector512,
    /// Multiples of 4,096 bytes.
    Sector4096,
}

/// The first block of a cache-log file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileHeader {
    pub vault: VaultId,
    pub server: ServerId,
    /// The journal of the boot that wrote the file.
    pub journal: JournalId,
    pub file_uuid: [u8; 16],
    pub file_no: LogFileNo,
    /// Whole [`BATCH_ALIGN`] blocks, at least two.
    pub file_len: ByteLen,
    pub record_align: RecordAlign,
}

/// What a record's checksum covers besides its own bytes: the file that it lies in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileBinding([u8; BINDING_LEN]);

/// One record, without its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordHeader {
    pub record_no: RecordNo,
    /// Every record up to this number was synced before this one was written; below `record_no`.
    pub synced_through: RecordNo,
    /// The first record of this file; at most `record_no`, and at most one above `synced_through`,
    /// because a file is begun when all before it was synced.
    pub file_first: RecordNo,
    pub body: RecordBody,
    /// The last record of a batch is padded to [`BATCH_ALIGN`].
    pub is_batch_end: bool,
}

/// What a record carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordBody {
    /// An encoded change block of `len` bytes, at most [`PAYLOAD_LEN_MAX`], with this CRC-32.
    Block { len: NonZeroU32, crc: u32 },
    /// Nothing: it proves what was synced before it.
    Mark,
}

/// A record that was read whole and checked, padding included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    pub header: RecordHeader,
    /// Empty in a mark.
    pub payload: &'a [u8],
    /// Where the next record begins.
    pub end: ByteOffset,
}

impl LogFileNo {
    /// The one after this.
    ///
    /// # Panics
    ///
    /// After 2^64 files.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("file numbers never run out"))
    }
}

impl RecordNo {
    /// Before the first.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    ///
    /// # Panics
    ///
    /// After 2^64 records.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("record numbers never run out"))
    }
}

impl RecordAlign {
    /// The step between places where a record may begin. Unit: bytes.
    pub const fn step(self) -> u64 {
        match self {
            Self::Sector512 => 512,
            Self::Sector4096 => 4_096,
        }
    }

    fn from_step(step: u16) -> Option<Self> {
        [Self::Sector512, Self::Sector4096]
            .into_iter()
            .find(|align| align.step() == u64::from(step))
    }
}

impl FileHeader {
    /// The block to store; [`FILE_HEADER_LEN`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_LEN);
        out.put(&FILE_MAGIC);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.record_align.step()).expect("512 or 4096"));
        out.put_u32(0);
        out.put_u32(0);
        out.put(&self.vault.0);
        out.put(&self.server.0);
        out.put_u64(self.journal.level.0);
        out.put(&self.journal.random);
        out.put(&self.file_uuid);
        out.put_u64(self.file_no.0);
        out.put_u64(self.file_len.0);
        out.put(&[0; FILE_RESERVED]);
        seal_crc(&mut out);
        out
    }

    /// Reads a header from a block of [`FILE_HEADER_LEN`] bytes.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; `Invalid` also for a file that needs features which this build lacks.
    pub fn decode(block: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(FILE_WHAT, block);
        reader.open(FILE_MAGIC, VERSION)?;
        reader.take(FILE_HEADER_LEN - 6)?;
        reader.end()?;

        let mut reader = Reader::new(FILE_WHAT, checked(FILE_WHAT, block)?);
        reader.open(FILE_MAGIC, VERSION)?;
        let record_align = RecordAlign::from_step(reader.u16()?);
        let incompat = reader.u32()?;
        let _compat = reader.u32()?;
        let vault = VaultId(reader.array()?);
        let server = ServerId(reader.array()?);
        let level = Level(reader.u64()?);
        let random = reader.array()?;
        let file_uuid = reader.array()?;
        let file_no = LogFileNo(reader.u64()?);
        let file_len = ByteLen(reader.u64()?);
        reader.reserved(FILE_RESERVED)?;
        reader.end()?;

        if incompat != 0 {
            return Err(reader.invalid("needs features that this build does not know"));
        }
        let record_align =
            record_align.ok_or_else(|| reader.invalid("record_align is 512 or 4096"))?;
        if level == Level::ZERO || file_no == LogFileNo(0) {
            return Err(reader.invalid("level and file_no start at 1"));
        }
        let longest = i64::MAX.unsigned_abs();
        if !(2 * BATCH_ALIGN..=longest).contains(&file_len.0)
            || !file_len.0.is_multiple_of(BATCH_ALIGN)
        {
            return Err(reader.invalid("file_len is two whole blocks or more"));
        }
        Ok(Self {
            vault,
            server,
            journal: JournalId { level, random },
            file_uuid,
            file_no,
            file_len,
            record_align,
        })
    }

    /// What the checksums of this file's records cover.
    pub fn binding(&self) -> FileBinding {
        let mut out = [0; BINDING_LEN];
        out[0..16].copy_from_slice(&self.vault.0);
        out[16..32].copy_from_slice(&self.server.0);
        out[32..40].copy_from_slice(&self.journal.level.0.to_le_bytes());
        out[40..56].copy_from_slice(&self.journal.random);
        out[56..72].copy_from_slice(&self.file_uuid);
        out[72..80].copy_from_slice(&self.file_no.0.to_le_bytes());
        FileBinding(out)
    }
}

impl FileBinding {
    fn crc(&self, at: ByteOffset, fields: &[u8; CRC_AT]) -> u64 {
        let mut covered = [0; BINDING_LEN + 8 + CRC_AT];
        covered[..BINDING_LEN].copy_from_slice(&self.0);
        covered[BINDING_LEN..BINDING_LEN + 8].copy_from_slice(&at.0.to_le_bytes());
        covered[BINDING_LEN + 8..].copy_from_slice(fields);
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &covered)
    }
}

impl RecordHeader {
    /// The bytes to store in front of the payload of a record at offset `at` of the file with this
    /// binding.
    pub fn encode(&self, file: &FileBinding, at: ByteOffset) -> [u8; RECORD_HEADER_LEN] {
        let (kind, len, payload_crc) = match self.body {
            RecordBody::Block { len, crc } => (KIND_BLOCK, len.get(), crc),
            RecordBody::Mark => (KIND_MARK, 0, 0),
        };
        let flags = if self.is_batch_end { FLAG_BATCH_END } else { 0 };

        let mut fields = [0; CRC_AT];
        fields[0..4].copy_from_slice(&RECORD_MAGIC);
        fields[4..6].copy_from_slice(&VERSION.to_le_bytes());
        fields[6] = kind;
        fields[7] = flags;
        fields[8..16].copy_from_slice(&self.record_no.0.to_le_bytes());
        fields[16..24].copy_from_slice(&self.synced_through.0.to_le_bytes());
        fields[24..32].copy_from_slice(&self.file_first.0.to_le_bytes());
        fields[32..36].copy_from_slice(&len.to_le_bytes());
        fields[36..40].copy_from_slice(&payload_crc.to_le_bytes());

        let mut out = [0; RECORD_HEADER_LEN];
        out[..CRC_AT].copy_from_slice(&fields);
        out[CRC_AT..].copy_from_slice(&file.crc(at, &fields).to_le_bytes());
        debug_assert_eq!(Self::decode(&out, file, at).as_ref(), Ok(self));
        out
    }

    /// Reads a record's header from the front of `bytes`, which lie at offset `at` of the file with
    /// this binding. What lies behind it is left alone.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; `Corrupt` is also what a record of another file, an earlier use of this
    /// one or another offset gives.
    pub fn decode(bytes: &[u8], file: &FileBinding, at: ByteOffset) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(RECORD_WHAT, bytes);
        let fields: [u8; CRC_AT] = reader.array()?;
        let stored = reader.u64()?;
        let mut reader = Reader::new(RECORD_WHAT, &fields);
        reader.open(RECORD_MAGIC, VERSION)?;
        let computed = file.crc(at, &fields);
        if stored != computed {
            return Err(DecodeError::Corrupt {
                what: RECORD_WHAT,
                stored,
                computed,
            });
        }

        let [kind, flags] = reader.array()?;
        let record_no = RecordNo(reader.u64()?);
        let synced_through = RecordNo(reader.u64()?);
        let file_first = RecordNo(reader.u64()?);
        let len = NonZeroU32::new(reader.u32()?);
        let crc = reader.u32()?;
        let body = match (kind, len, crc) {
            (KIND_BLOCK, Some(len), crc) if len.get() as usize <= PAYLOAD_LEN_MAX => {
                RecordBody::Block { len, crc }
            }
            (KIND_MARK, None, 0) => RecordBody::Mark,
            _ => return Err(reader.invalid("kind, payload_len and payload_crc disagree")),
        };
        if record_no <= synced_through {
            return Err(reader.invalid("a record was synced before it was written"));
        }
        if RECORD_NO_MAX < record_no {
            return Err(reader.invalid("record_no is too large to count on from"));
        }
        let begun = file_first <= record_no && file_first.0.wrapping_sub(1) <= synced_through.0;
        if !begun {
            return Err(reader.invalid("a file was begun before all ahead of it was synced"));
        }
        if flags & !FLAG_BATCH_END != 0 {
            return Err(reader.invalid("an unknown flag is set"));
        }
        Ok(Self {
            record_no,
            synced_through,
            file_first,
            body,
            is_batch_end: flags & FLAG_BATCH_END != 0,
        })
    }

    /// Bytes of the payload.
    pub const fn payload_len(&self) -> usize {
        match self.body {
            RecordBody::Block { len, .. } => len.get() as usize,
            RecordBody::Mark => 0,
        }
    }

    /// Where the next record begins when this one begins at `at`.
    pub const fn end(&self, at: ByteOffset, align: RecordAlign) -> ByteOffset {
        let step = if self.is_batch_end {
            BATCH_ALIGN
        } else {
            align.step()
        };
        ByteOffset((at.0 + (RECORD_HEADER_LEN + self.payload_len()) as u64).next_multiple_of(step))
    }
}

/// Reads the record at the front of `bytes`, which lie at offset `at` of the file with this binding
/// and alignment: header, payload, padding. What lies behind it is left alone.
///
/// # Errors
///
/// See [`DecodeError`]; `Truncated` says how many bytes the record needs once its header is sound.
pub fn decode_record<'a>(
    bytes: &'a [u8],
    file: &FileBinding,
    align: RecordAlign,
    at: ByteOffset,
) -> Result<Record<'a>, DecodeError> {
    let header = RecordHeader::decode(bytes, file, at)?;
    let end = header.end(at, align);
    let need = usize::try_from(end.0 - at.0).expect("a record is below 2 MiB");
    let mut reader = Reader::new(RECORD_WHAT, bytes);
    let record = reader.take(need)?;
    let (payload, padding) = record[RECORD_HEADER_LEN..].split_at(header.payload_len());
    if let RecordBody::Block { crc, .. } = header.body {
        crc_matches(RECORD_WHAT, crc, payload)?;
    }
    if padding.iter().any(|&byte| byte != 0) {
        return Err(reader.invalid("a byte of the padding is not zero"));
    }
    Ok(Record {
        header,
        payload,
        end,
    })
}

impl fmt::Display for LogFileNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log file {}", self.0)
    }
}

impl fmt::Display for RecordNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.0)
    }
}

#[cfg(test)]
mod tests;
