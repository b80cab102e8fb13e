//! Journal object: one numbered, write-once object of a journal, either *data* or the *seal*.
//!
//! ```text
//! data object                     seal                       `end`
//! 0    header          128        0    header       128      0   magic "EPJE", version 1, 0
//! 128  frames, one after          128  prefix_end     8      8   the seal that counts  216
//!      the other, no gaps         136  last_checksum 32      224 CRC-32
//!      index (see index.rs)       168  successor  8 + 16
//!      footer          112        192  reserved      20
//!                                 212  CRC-32 of 0..212
//!
//! prefix_end: number of the prefix's last object, 0 where nothing was written; last_checksum: that object's
//! checksum, or 0; successor: level and random of the journal that goes on
//!
//! header: offset  size  field
//!              0     4  magic       "EPJO"
//!              4     2  version     1
//!              6     1  kind        1 data, 2 seal
//!              7     1  reserved    0
//!              8    16  vault
//!             24     8  level       the journal
//!             32    16  random
//!             48     8  number      from 1
//!             56    16  server      who wrote it
//!             72     8  assignment  0 without a catalog
//!             80    32  previous    checksum of object number - 1; 0 for number 1
//!            112     8  created_at  microseconds since 1970 UTC
//!            120     4  reserved    0
//!            124     4  crc         CRC-32 of bytes 0..124
//!
//! footer: offset  size  field
//!              0     4  magic       "EPJF"
//!              4     2  version     1
//!              6     2  reserved    0
//!              8     8  index_at    offset of the index in the object
//!             16     8  index_len
//!             24     8  object_len  footer included
//!             32    32  checksum    BLAKE3 of header and index: the checksum of the object
//!             64    32  key_no, nonce, tag of the index; 0 where not encrypted
//!             96    12  reserved    0
//!            108     4  crc         CRC-32 of bytes 0..108
//! ```
//!
//! The checksum binds the frames too, through their CRCs and digests in the index; so the index reads
//! without the frames, and two objects with one checksum hold the same history.

use everpoint_units::{JournalId, Level, ObjectNo, ServerId, VaultId, WallTime};

use crate::DecodeError;
use crate::change::FrameSeal;
use crate::cursor::{Put, Reader, checked, seal_crc};

/// Length of the header. Unit: bytes.
pub const HEADER_LEN: usize = 128;
/// Length of a data object's footer. Unit: bytes.
pub const FOOTER_LEN: usize = 112;
/// Length of a seal. Unit: bytes.
pub const SEAL_LEN: usize = 216;
/// Most bytes of one object. A reader refuses larger ones before it allocates. Unit: bytes.
pub const OBJECT_LEN_MAX: u64 = 1 << 30;

const HEADER: &str = "journal object header";
const FOOTER: &str = "journal object footer";
const SEAL: &str = "seal";
const END: &str = "journal end";
const VERSION: u16 = 1;

/// BLAKE3 of a data object's header and index, or of a seal's first 212 bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ObjectChecksum(pub [u8; 32]);

/// What every object says of itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ObjectHeader {
    pub vault: VaultId,
    pub journal: JournalId,
    pub number: ObjectNo,
    pub server: ServerId,
    /// Number of the catalog's assignment; 0 without a catalog.
    pub assignment: u64,
    /// Checksum of the object before; zero for the first.
    pub previous: ObjectChecksum,
    pub created_at: WallTime,
}

/// What an object is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectType {
    Data,
    Seal,
}

/// The end of a data object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Footer {
    /// Unit: bytes from the start of the object.
    pub index_at: u64,
    pub index_len: u64,
    pub object_len: u64,
    pub checksum: ObjectChecksum,
    pub seal: FrameSeal,
}

/// The last object of a journal (R4, R5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Seal {
    pub header: ObjectHeader,
    /// The last number of the journal's prefix; 0 for a journal that never wrote.
    pub prefix_end: ObjectNo,
    /// Checksum of that object.
    pub last_checksum: ObjectChecksum,
    /// The journal that goes on; its level is higher (R2).
    pub successor: JournalId,
}

impl ObjectHeader {
    /// The bytes to store in front.
    pub fn encode(&self, kind: ObjectType) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.put(b"EPJO");
        out.put_u16(VERSION);
        out.put(&[kind.code(), 0]);
        out.put(&self.vault.0);
        out.put_u64(self.journal.level.0);
        out.put(&self.journal.random);
        out.put_u64(self.number.0);
        out.put(&self.server.0);
        out.put_u64(self.assignment);
        out.put(&self.previous.0);
        out.put_u64(self.created_at.0);
        out.put_u32(0);
        seal_crc(&mut out);
        out
    }

    /// Reads the header from the front of an object.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<(ObjectType, Self), DecodeError> {
        let front = Reader::new(HEADER, bytes).take(HEADER_LEN)?;
        Reader::new(HEADER, front).open(*b"EPJO", VERSION)?;
        let mut reader = Reader::new(HEADER, checked(HEADER, front)?);
        reader.open(*b"EPJO", VERSION)?;
        let kind = match reader.u8()? {
            1 => ObjectType::Data,
            2 => ObjectType::Seal,
            _ => return Err(reader.invalid("neither data nor seal")),
        };
        reader.reserved(1)?;
        let header = Self {
            vault: VaultId(reader.array()?),
            journal: JournalId {
                level: Level(reader.u64()?),
                random: reader.array()?,
            },
            number: ObjectNo(reader.u64()?),
            server: ServerId(reader.array()?),
            assignment: reader.u64()?,
            previous: ObjectChecksum(reader.array()?),
            created_at: WallTime(reader.u64()?),
        };
        reader.reserved(4)?;
        reader.end()?;
        let first = header.number == ObjectNo::ZERO.next();
        if header.number == ObjectNo::ZERO
            || (first && header.previous != ObjectChecksum::default())
        {
            return Err(reader.invalid("numbers start at 1, and nothing lies before the first"));
        }
        Ok((kind, header))
    }

    /// Refuses an object that lies under another name than its own.
    ///
    /// # Errors
    ///
    /// `Misplaced`, naming the field that differs.
    pub fn expect_at(
        &self,
        vault: VaultId,
        journal: JournalId,
        number: ObjectNo,
    ) -> Result<(), DecodeError> {
        let field = if self.vault != vault {
            "vault"
        } else if self.journal != journal {
            "journal"
        } else if self.number != number {
            "number"
        } else {
            return Ok(());
        };
        Err(DecodeError::Misplaced {
            what: HEADER,
            field,
        })
    }
}

impl ObjectType {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Seal => 2,
        }
    }
}

impl ObjectChecksum {
    /// The checksum of a data object, from its encoded header and index.
    pub fn of(header: &[u8], index: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header);
        hasher.update(index);
        Self(*hasher.finalize().as_bytes())
    }
}

impl Footer {
    /// The bytes to store behind the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        out.put(b"EPJF");
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u64(self.index_at);
        out.put_u64(self.index_len);
        out.put_u64(self.object_len);
        out.put(&self.checksum.0);
        self.seal.put(&mut out);
        out.put(&[0; 12]);
        seal_crc(&mut out);
        out
    }

    /// Reads the footer from the last [`FOOTER_LEN`] bytes of an object of `object_len` bytes.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; the index that it names lies inside the object.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self, DecodeError> {
        Reader::new(FOOTER, bytes).open(*b"EPJF", VERSION)?;
        let mut reader = Reader::new(FOOTER, checked(FOOTER, bytes)?);
        reader.open(*b"EPJF", VERSION)?;
        reader.reserved(2)?;
        let footer = Self {
            index_at: reader.u64()?,
            index_len: reader.u64()?,
            object_len: reader.u64()?,
            checksum: ObjectChecksum(reader.array()?),
            seal: FrameSeal::read(&mut reader)?,
        };
        reader.reserved(12)?;
        reader.end()?;
        let end = footer
            .index_at
            .checked_add(footer.index_len)
            .and_then(|end| end.checked_add(FOOTER_LEN as u64));
        if end != Some(object_len)
            || footer.object_len != object_len
            || footer.index_at < HEADER_LEN as u64
            || OBJECT_LEN_MAX < object_len
        {
            return Err(reader.invalid("index and footer do not fill the object's end"));
        }
        Ok(footer)
    }
}

impl Seal {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header.encode(ObjectType::Seal);
        out.put_u64(self.prefix_end.0);
        out.put(&self.last_checksum.0);
        out.put_u64(self.successor.level.0);
        out.put(&self.successor.random);
        out.put(&[0; 20]);
        seal_crc(&mut out);
        out
    }

    /// Reads a seal that fills `bytes`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. That the successor's level is higher is for the path to judge (R2).
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (kind, header) = ObjectHeader::decode(bytes)?;
        let mut reader = Reader::new(SEAL, checked(SEAL, bytes)?);
        reader.take(HEADER_LEN)?;
        let seal = Self {
            header,
            prefix_end: ObjectNo(reader.u64()?),
            last_checksum: ObjectChecksum(reader.array()?),
            successor: JournalId {
                level: Level(reader.u64()?),
                random: reader.array()?,
            },
        };
        reader.reserved(20)?;
        reader.end()?;
        if kind != ObjectType::Seal || seal.header.number <= seal.prefix_end {
            return Err(reader.invalid("not a seal, or its prefix reaches past itself"));
        }
        Ok(seal)
    }

    /// The bytes of the journal's `end`: a copy of this seal.
    pub fn encode_end(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + SEAL_LEN + 4);
        out.put(b"EPJE");
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put(&self.encode());
        seal_crc(&mut out);
        out
    }

    /// Reads an `end` that fills `bytes`.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode_end(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::new(END, bytes).open(*b"EPJE", VERSION)?;
        let mut reader = Reader::new(END, checked(END, bytes)?);
        reader.open(*b"EPJE", VERSION)?;
        reader.reserved(2)?;
        let seal = Self::decode(reader.take(SEAL_LEN)?)?;
        reader.end()?;
        Ok(seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{every_flip_is_refused, every_truncation_is_refused, golden};

    fn header(number: u64) -> ObjectHeader {
        ObjectHeader {
            vault: VaultId([0x11; 16]),
            journal: JournalId {
                level: Level(3),
                random: [0x22; 16],
            },
            number: ObjectNo(number),
            server: ServerId([0x33; 16]),
            assignment: 0,
            previous: ObjectChecksum([if number == 1 { 0 } else { 0x44 }; 32]),
            created_at: WallTime(1_767_225_600_000_000),
        }
    }

    fn seal() -> Seal {
        Seal {
            header: header(9),
            prefix_end: ObjectNo(8),
            last_checksum: ObjectChecksum([0x55; 32]),
            successor: JournalId {
                level: Level(4),
                random: [0x66; 16],
            },
        }
    }

    #[test]
    fn golden_v1_seal_end_and_footer_read_as_the_samples() {
        golden("seal.v1.bin", &seal().encode());
        golden("journal-end.v1.bin", &seal().encode_end());
        assert_eq!(Seal::decode(&seal().encode()), Ok(seal()));
        assert_eq!(Seal::decode_end(&seal().encode_end()), Ok(seal()));
        assert_eq!(seal().encode().len(), SEAL_LEN);
    }

    #[test]
    fn every_flipped_bit_and_every_short_read_is_refused() {
        let bytes = seal().encode();
        every_flip_is_refused(&bytes, |bytes| Seal::decode(bytes).is_err());
        every_truncation_is_refused(&bytes, |bytes| Seal::decode(bytes).is_err());
        let bytes = seal().encode_end();
        every_flip_is_refused(&bytes, |bytes| Seal::decode_end(bytes).is_err());
        every_truncation_is_refused(&bytes, |bytes| Seal::decode_end(bytes).is_err());
        let bytes = header(1).encode(ObjectType::Data);
        every_flip_is_refused(&bytes, |bytes| ObjectHeader::decode(bytes).is_err());
    }

    #[test]
    fn an_object_under_another_name_is_refused() {
        let header = header(9);
        let at = |number| header.expect_at(header.vault, header.journal, ObjectNo(number));
        assert_eq!(at(9), Ok(()));
        assert!(matches!(
            at(8),
            Err(DecodeError::Misplaced {
                field: "number",
                ..
            })
        ));
    }

    #[test]
    fn a_footer_whose_index_leaves_the_object_is_refused() {
        let footer = Footer {
            index_at: 128,
            index_len: 60,
            object_len: 300,
            checksum: ObjectChecksum([1; 32]),
            seal: FrameSeal::default(),
        };
        assert_eq!(Footer::decode(&footer.encode(), 300), Ok(footer));
        assert!(Footer::decode(&footer.encode(), 301).is_err());
        let bytes = footer.encode();
        every_flip_is_refused(&bytes, |bytes| Footer::decode(bytes, 300).is_err());
    }
}
