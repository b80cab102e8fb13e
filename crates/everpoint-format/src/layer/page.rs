//! Page of a map layer: versions of extents, by sector, and the frames that they lie in.
//!
//! ```text
//! entry_count (4), frame_count (4)                                                  8 bytes
//! frame_count ×   object (4: its place in the layer's list), reserved (4), frame_at (8),
//!                 stored_len (4), raw_len (4), crc (4), flags (4: bit 0 LZ4),
//!                 key_no (4), nonce (12), tag (16)                                 64 bytes
//! entry_count ×   first sector (8), end sector (8), seq (8), copy (4),
//!                 frame (4: its place among the page's; 0xffffffff: reads as zeroes),
//!                 record's sectors (4), lead (4), raw_at (4), seal (16)             60 bytes
//! ```
//!
//! An entry says that a change gave its sectors a content: from `seq` on, in the disk's `copy`-th copy that builds
//! on nothing. Of the versions of a sector at or below a `Seq`, the one with the highest (copy, seq) counts. Of a
//! record with bytes, `lead` sectors lie before the entry's first one, and its bytes begin at `raw_at` in the unpacked
//! frame; the *seal* is made over the digests of the record's whole 4 KiB pieces (see `index.rs`): zeroes for none, the
//! first 16 bytes of the one, or of the keyed BLAKE3 of them all. Entries rise by first sector, copy and `seq`.

use std::ops::Range;

use everpoint_units::{EXTENT_SECTORS_MAX, SECTOR_LEN, Seq};

use crate::DecodeError;
use crate::change::Frame;
use crate::cursor::{Put, Reader};
use crate::digest::{DIGEST_LEN, DigestKey, PieceDigest};

/// Most bytes of a page before it is compressed. Unit: bytes.
pub const PAGE_LEN_MAX: usize = 64 << 10;
/// Length of a seal: nobody finds other bytes with the same. Unit: bytes.
pub const SEAL_LEN: usize = 16;
/// What a frame takes in a page. Unit: bytes.
pub const FRAME_LEN: usize = 64;
/// What an entry takes in a page. Unit: bytes.
pub const ENTRY_LEN: usize = 60;
/// What a page takes before its first frame. Unit: bytes.
pub const HEAD_LEN: usize = 8;

const WHAT: &str = "page of a map layer";
const ZEROES: u32 = u32::MAX;

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    pub frames: Vec<PageFrame>,
    pub entries: Vec<PageEntry>,
}

/// A frame that entries of the page lie in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PageFrame {
    /// Its place in the layer's list.
    pub object: u32,
    /// Unit: bytes from the start of the object.
    pub at: u64,
    pub frame: Frame,
}

/// A content that sectors were given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageEntry {
    /// They may reach beyond any disk: a resize clears all that is behind.
    pub sectors: Range<u64>,
    pub version: Version,
    /// `None`: they read as zeroes.
    pub bytes: Option<EntryBytes>,
}

/// Which change of a disk: what is higher counts.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// How many copies that build on nothing the disk had begun.
    pub copy: u32,
    pub seq: Seq,
}

/// Where the bytes of an entry lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EntryBytes {
    /// Its place among the page's.
    pub frame: u32,
    /// Length of the record. Unit: sectors.
    pub record_sectors: u32,
    /// Sectors of the record before the entry's first.
    pub lead: u32,
    /// Where in the unpacked frame the record begins. Unit: bytes.
    pub raw_at: u32,
    pub seal: DigestSeal,
}

/// What stands for the digests of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DigestSeal(pub [u8; SEAL_LEN]);

impl DigestSeal {
    /// The seal over a record's digests, in order.
    pub fn of(key: &DigestKey, digests: &[PieceDigest]) -> Self {
        let whole = match digests {
            [] => [0; DIGEST_LEN],
            [only] => only.0,
            several => {
                let bytes: Vec<u8> = several.iter().flat_map(|digest| digest.0).collect();
                key.digest(&bytes).0
            }
        };
        let first = whole.first_chunk();
        Self(*first.expect("a digest is longer than a seal"))
    }
}

impl Page {
    /// Its length before compression. Unit: bytes.
    pub const fn encoded_len(&self) -> usize {
        HEAD_LEN + self.frames.len() * FRAME_LEN + self.entries.len() * ENTRY_LEN
    }

    /// The bytes to compress.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.put_len(self.entries.len());
        out.put_len(self.frames.len());
        for frame in &self.frames {
            out.put_u32(frame.object);
            out.put_u32(0);
            out.put_u64(frame.at);
            frame.frame.put(&mut out);
        }
        for entry in &self.entries {
            out.put_u64(entry.sectors.start);
            out.put_u64(entry.sectors.end);
            out.put_u64(entry.version.seq.0);
            out.put_u32(entry.version.copy);
            let Some(bytes) = &entry.bytes else {
                out.put_u32(ZEROES);
                out.put(&[0; 28]);
                continue;
            };
            out.put_u32(bytes.frame);
            out.put_u32(bytes.record_sectors);
            out.put_u32(bytes.lead);
            out.put_u32(bytes.raw_at);
            out.put(&bytes.seal.0);
        }
        out
    }

    /// Reads a page that was unpacked, of a layer with so many objects.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8], object_count: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        let entry_count = reader.count(ENTRY_LEN)?;
        let frame_count = reader.count(FRAME_LEN)?;
        let frames = (0..frame_count).map(|_| PageFrame::read(&mut reader, object_count));
        let frames: Vec<_> = frames.collect::<Result<_, _>>()?;
        let entries = (0..entry_count).map(|_| PageEntry::read(&mut reader, &frames));
        let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        reader.end()?;
        let order = |entry: &PageEntry| (entry.sectors.start, entry.version);
        if !entries.is_sorted_by_key(order) {
            return Err(reader.invalid("entries do not rise"));
        }
        Ok(Self { frames, entries })
    }
}

impl PageFrame {
    fn read(reader: &mut Reader<'_>, object_count: usize) -> Result<Self, DecodeError> {
        let object = reader.u32()?;
        reader.reserved(4)?;
        if object_count <= object as usize {
            return Err(reader.invalid("a frame lies in an object that the layer does not have"));
        }
        Ok(Self {
            object,
            at: reader.u64()?,
            frame: Frame::read(reader)?,
        })
    }
}

impl PageEntry {
    fn read(reader: &mut Reader<'_>, frames: &[PageFrame]) -> Result<Self, DecodeError> {
        let sectors = reader.u64()?..reader.u64()?;
        let seq = Seq(reader.u64()?);
        let copy = reader.u32()?;
        let frame = reader.u32()?;
        if sectors.is_empty() {
            return Err(reader.invalid("an entry has no sectors"));
        }
        let version = Version { copy, seq };
        if frame == ZEROES {
            reader.reserved(28)?;
            return Ok(Self {
                sectors,
                version,
                bytes: None,
            });
        }
        let bytes = EntryBytes {
            frame,
            record_sectors: reader.u32()?,
            lead: reader.u32()?,
            raw_at: reader.u32()?,
            seal: DigestSeal(reader.array()?),
        };
        let Some(frame) = frames.get(frame as usize) else {
            return Err(reader.invalid("an entry lies in a frame that the page does not have"));
        };
        let entry = Self {
            sectors,
            version,
            bytes: Some(bytes),
        };
        if !entry.is_sound(&bytes, &frame.frame) {
            return Err(reader.invalid("an entry reaches out of its record or frame"));
        }
        Ok(entry)
    }

    /// Whether its sectors lie in its record, on a disk, and the record in the frame.
    fn is_sound(&self, bytes: &EntryBytes, frame: &Frame) -> bool {
        let record = u64::from(bytes.record_sectors);
        let end = u64::from(bytes.lead).checked_add(self.sectors.end - self.sectors.start);
        let in_frame = u64::from(bytes.raw_at) + record * SECTOR_LEN <= u64::from(frame.raw_len);
        let first = self.sectors.start.checked_sub(u64::from(bytes.lead));
        let last = everpoint_units::Lba::MAX.sector();
        let on_disk = first.is_some_and(|first| first <= last && record <= last - first);
        let bounded = bytes.record_sectors <= EXTENT_SECTORS_MAX;
        end.is_some_and(|end| end <= record) && in_frame && on_disk && bounded
    }
}
