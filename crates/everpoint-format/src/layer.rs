//! Map layer: where the extents of one disk lie, at which `Seq`, over a range of `Seq` and of sectors.
//!
//! ```text
//! 0    magic "EPLY", version 1 (2), reserved (2)                                   8 bytes
//! 8    pages (see layer/page.rs), then marks (see layer/marks.rs): each a frame, LZ4 or raw,
//!      one after the other, no gaps
//!      directory
//!      footer            112
//!
//! directory: magic "EPLX", version 1 (2), kind (1: 1 history, 2 thinned), reserved (1),
//!            vault (16), machine (16), disk (16), number (8) and random (16) of its name,
//!            first sector (8), end sector (8), after (8), through (8), created_at (8),
//!            page_count (4), marks_count (4), object_count (4), reserved (4)      136 bytes
//!   page_count ×     first sector (8), last end (8) of its entries, at (8),
//!                    stored_len (4), raw_len (4), crc (4), flags (4: bit 0 LZ4),
//!                    key_no (4), nonce (12), tag (16)                              72 bytes
//!   marks_count ×    at (8), stored_len … tag as above                             56 bytes
//!   object_count ×   kind (4: 1 journal object, 2 pack), reserved (4), number (8: level, or that
//!                    of the pack's name), random (16), object number (8; pack: 0),
//!                    stored bytes of the frames there that its entries lie in (8)  48 bytes
//!
//! footer:    magic "EPLF", version 1 (2), reserved (2), directory_at (8), directory_len (8),
//!            object_len (8), checksum (32: BLAKE3 of the directory), key_no, nonce, tag of the
//!            directory (32), reserved (12), CRC-32 of what is before it (4)       112 bytes
//! ```
//!
//! A *history* layer has every version of its sectors above `after`, up to `through`. A *thinned* one has those that
//! the points which its manifest keeps at or below `through`, and `through` itself, need; its `after` is 0. Pages rise
//! by the first sector of their entries; `last end` bounds them all. Directory and pages read without anything else of
//! the vault.

pub mod marks;
pub mod page;

use std::ops::Range;

use bytes::Bytes;
use everpoint_units::{
    DiskId, JournalId, Level, MachineId, ManifestNo, ObjectNo, RetentionId, Seq, VaultId, WallTime,
};

use crate::DecodeError;
use crate::change::{Frame, FrameSeal};
use crate::compression::PackScratch;
use crate::cursor::{Put, Reader, checked, seal_crc};
use crate::object::ObjectChecksum;

use marks::Marks;
use page::Page;

/// Length of what stands before the first page. Unit: bytes.
pub const FRONT_LEN: usize = 8;
/// Length of the footer. Unit: bytes.
pub const FOOTER_LEN: usize = 112;
const WHAT: &str = "map layer";
const DIRECTORY: &str = "map layer directory";
const FOOTER: &str = "map layer footer";
const MAGIC: [u8; 4] = *b"EPLY";
const DIRECTORY_MAGIC: [u8; 4] = *b"EPLX";
const FOOTER_MAGIC: [u8; 4] = *b"EPLF";
const VERSION: u16 = 1;
const PAGE_LEN: usize = 72;
const MARKS_LEN: usize = 56;
const OBJECT_LEN: usize = 48;

/// What a layer says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerHeader {
    pub vault: VaultId,
    pub machine: MachineId,
    pub disk: DiskId,
    pub id: RetentionId,
    pub kind: LayerKind,
    /// What it speaks for; the end is the highest number for a layer of the whole disk.
    pub sectors: Range<u64>,
    /// Nothing at or below this is in it.
    pub after: Seq,
    /// Nothing above this is in it.
    pub through: Seq,
    pub created_at: WallTime,
}

/// Which versions a layer has.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LayerKind {
    /// All of its range.
    History,
    /// Those that a kept point shows, or the end of its range.
    Thinned,
}

/// Where frames lie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FrameHome {
    Journal(JournalId, ObjectNo),
    Pack(RetentionId),
}

/// An object that a layer has places in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LiveObject {
    pub home: FrameHome,
    /// Stored length of the frames there that entries of the layer lie in. Unit: bytes.
    pub live: u64,
}

/// A page of a layer, before it is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PagePlace {
    /// First sector of its first entry.
    pub first: u64,
    /// No entry of it reaches beyond.
    pub end: u64,
    /// Unit: bytes from the start of the layer.
    pub at: u64,
    pub frame: Frame,
}

/// Marks of a layer, before they are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MarksPlace {
    /// Unit: bytes from the start of the layer.
    pub at: u64,
    pub frame: Frame,
}

/// Everything of a layer but its pages and marks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerDirectory {
    pub header: LayerHeader,
    /// Rising by first sector.
    pub pages: Vec<PagePlace>,
    pub marks: Vec<MarksPlace>,
    pub objects: Vec<LiveObject>,
}

/// A layer that was made: name, bytes and checksum never change again.
#[derive(Clone, Debug)]
pub struct LayerObject {
    pub directory: LayerDirectory,
    /// The object's bytes, in order.
    pub pieces: Vec<Bytes>,
    /// Unit: bytes.
    pub len: u64,
    /// Where its directory begins, which reaches with the footer to its end. Unit: bytes.
    pub directory_at: u64,
    pub checksum: ObjectChecksum,
}

/// Collects pages and marks of one layer.
#[derive(Debug)]
pub struct LayerBuilder {
    scratch: PackScratch,
    pieces: Vec<Bytes>,
    next_at: u64,
    pages: Vec<PagePlace>,
    marks: Vec<MarksPlace>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        let mut front = Vec::with_capacity(FRONT_LEN);
        front.put(&MAGIC);
        front.put_u16(VERSION);
        front.put_u16(0);
        Self {
            scratch: PackScratch::default(),
            pieces: vec![Bytes::from(front)],
            next_at: FRONT_LEN as u64,
            pages: Vec::new(),
            marks: Vec::new(),
        }
    }
}

impl LayerBuilder {
    /// Adds a page whose entries are not before those of the pages already there.
    ///
    /// # Panics
    ///
    /// If the page has no entry: a writer makes none.
    pub fn push_page(&mut self, page: &Page) {
        let first = page
            .entries
            .first()
            .expect("a page has entries")
            .sectors
            .start;
        let ends = page.entries.iter().map(|entry| entry.sectors.end);
        let end = ends.max().expect("a page has entries");
        let (at, frame) = self.push(page.encode());
        let place = PagePlace {
            first,
            end,
            at,
            frame,
        };
        self.pages.push(place);
    }

    /// Adds marks that follow those already there.
    pub fn push_marks(&mut self, marks: &Marks) {
        let (at, frame) = self.push(marks.encode());
        self.marks.push(MarksPlace { at, frame });
    }

    fn push(&mut self, raw: Vec<u8>) -> (u64, Frame) {
        let raw_len = raw.len();
        let (stored, lz4) = self.scratch.pack(&[Bytes::from(raw)]);
        let short = |len: usize| u32::try_from(len).expect("a part is at most 1 MiB");
        let frame = Frame {
            lz4,
            stored_len: short(stored.len()),
            raw_len: short(raw_len),
            crc: crc32fast::hash(&stored),
            seal: FrameSeal::default(),
        };
        let at = self.next_at;
        self.next_at += stored.len() as u64;
        self.pieces.push(stored);
        (at, frame)
    }

    /// Makes the layer; `objects` are those that its pages name by their place in this list.
    pub fn finish(self, header: LayerHeader, objects: Vec<LiveObject>) -> LayerObject {
        let directory = LayerDirectory {
            header,
            pages: self.pages,
            marks: self.marks,
            objects,
        };
        let bytes = directory.encode();
        let checksum = ObjectChecksum(*blake3::hash(&bytes).as_bytes());
        let directory_at = self.next_at;
        let len = directory_at + (bytes.len() + FOOTER_LEN) as u64;
        let mut footer = Vec::with_capacity(FOOTER_LEN);
        footer.put(&FOOTER_MAGIC);
        footer.put_u16(VERSION);
        footer.put_u16(0);
        footer.put_u64(directory_at);
        footer.put_u64(bytes.len() as u64);
        footer.put_u64(len);
        footer.put(&checksum.0);
        FrameSeal::default().put(&mut footer);
        footer.put(&[0; 12]);
        seal_crc(&mut footer);
        let mut pieces = self.pieces;
        pieces.extend([Bytes::from(bytes), Bytes::from(footer)]);
        LayerObject {
            directory,
            pieces,
            len,
            directory_at,
            checksum,
        }
    }
}

impl LayerKind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::History => 1,
            Self::Thinned => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::History),
            2 => Some(Self::Thinned),
            _ => None,
        }
    }
}

impl LayerDirectory {
    /// Reads directory and footer from `tail`, the end of a layer of `object_len` bytes.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]. Counts are held against the bytes that are there before anything is allocated.
    pub fn decode_tail(
        tail: &[u8],
        object_len: u64,
    ) -> Result<(Self, ObjectChecksum), DecodeError> {
        let Some((bytes, footer)) = tail.split_last_chunk::<FOOTER_LEN>() else {
            return Err(DecodeError::Truncated {
                what: WHAT,
                have: tail.len(),
                need: FOOTER_LEN,
            });
        };
        Reader::new(FOOTER, footer).open(FOOTER_MAGIC, VERSION)?;
        let mut reader = Reader::new(FOOTER, checked(FOOTER, footer)?);
        reader.open(FOOTER_MAGIC, VERSION)?;
        reader.reserved(2)?;
        let (at, len, whole) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let checksum = ObjectChecksum(reader.array()?);
        let seal = FrameSeal::read(&mut reader)?;
        reader.reserved(12)?;
        reader.end()?;
        let ends = at
            .checked_add(len)
            .and_then(|end| end.checked_add(FOOTER_LEN as u64));
        if ends != Some(whole) || whole != object_len || len != bytes.len() as u64 {
            return Err(reader.invalid("lengths disagree with the object's"));
        }
        if seal.key_no != 0 {
            return Err(reader.invalid("is encrypted, and this build reads no encrypted vaults"));
        }
        if ObjectChecksum(*blake3::hash(bytes).as_bytes()) != checksum {
            return Err(reader.invalid("the directory is not the one that was stored"));
        }
        let directory = Self::decode(bytes)?;
        let (pages, marks) = (directory.pages.iter(), directory.marks.iter());
        let places = pages.map(|page| (page.at, page.frame));
        let mut next = FRONT_LEN as u64;
        for (found, frame) in places.chain(marks.map(|marks| (marks.at, marks.frame))) {
            if found != next {
                return Err(reader.invalid("pages and marks do not follow one another"));
            }
            next += u64::from(frame.stored_len);
        }
        if next != at {
            return Err(reader.invalid("pages and marks do not reach to the directory"));
        }
        Ok((directory, checksum))
    }

    fn encode(&self) -> Vec<u8> {
        let header = &self.header;
        let mut out = Vec::new();
        out.put(&DIRECTORY_MAGIC);
        out.put_u16(VERSION);
        out.put(&[header.kind.code(), 0]);
        out.put(&header.vault.0);
        out.put(&header.machine.0);
        out.put(&header.disk.0);
        out.put_u64(header.id.number.0);
        out.put(&header.id.random);
        out.put_u64(header.sectors.start);
        out.put_u64(header.sectors.end);
        out.put_u64(header.after.0);
        out.put_u64(header.through.0);
        out.put_u64(header.created_at.0);
        out.put_len(self.pages.len());
        out.put_len(self.marks.len());
        out.put_len(self.objects.len());
        out.put_u32(0);
        for page in &self.pages {
            out.put_u64(page.first);
            out.put_u64(page.end);
            out.put_u64(page.at);
            page.frame.put(&mut out);
        }
        for marks in &self.marks {
            out.put_u64(marks.at);
            marks.frame.put(&mut out);
        }
        for object in &self.objects {
            object.put(&mut out);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(DIRECTORY, bytes);
        reader.open(DIRECTORY_MAGIC, VERSION)?;
        let kind = LayerKind::from_code(reader.u8()?);
        let kind = kind.ok_or_else(|| reader.invalid("neither history nor thinned"))?;
        reader.reserved(1)?;
        let header = LayerHeader {
            vault: VaultId(reader.array()?),
            machine: MachineId(reader.array()?),
            disk: DiskId(reader.array()?),
            id: read_id(&mut reader)?,
            kind,
            sectors: reader.u64()?..reader.u64()?,
            after: Seq(reader.u64()?),
            through: Seq(reader.u64()?),
            created_at: WallTime(reader.u64()?),
        };
        if header.sectors.is_empty() || header.through < header.after {
            return Err(
                reader.invalid("speaks for no sectors, or its end lies before its beginning")
            );
        }
        let page_count = reader.count(PAGE_LEN)?;
        let marks_count = reader.count(MARKS_LEN)?;
        let object_count = reader.count(OBJECT_LEN)?;
        reader.reserved(4)?;
        let pages = (0..page_count).map(|_| {
            Ok(PagePlace {
                first: reader.u64()?,
                end: reader.u64()?,
                at: reader.u64()?,
                frame: Frame::read(&mut reader)?,
            })
        });
        let pages: Vec<_> = pages.collect::<Result<_, DecodeError>>()?;
        let inside = |page: &PagePlace| page.first < page.end && page.end <= header.sectors.end;
        if !pages.is_sorted_by_key(|page| page.first) || !pages.iter().all(inside) {
            return Err(reader.invalid("pages do not rise inside the layer"));
        }
        let marks = (0..marks_count).map(|_| {
            let at = reader.u64()?;
            let frame = Frame::read(&mut reader)?;
            Ok(MarksPlace { at, frame })
        });
        let marks = marks.collect::<Result<_, DecodeError>>()?;
        let objects = (0..object_count).map(|_| LiveObject::read(&mut reader));
        let objects = objects.collect::<Result<_, DecodeError>>()?;
        reader.end()?;
        Ok(Self {
            header,
            pages,
            marks,
            objects,
        })
    }
}

impl LiveObject {
    fn put(&self, out: &mut Vec<u8>) {
        match self.home {
            FrameHome::Journal(journal, number) => {
                out.put_u32(1);
                out.put_u32(0);
                out.put_u64(journal.level.0);
                out.put(&journal.random);
                out.put_u64(number.0);
            }
            FrameHome::Pack(id) => {
                out.put_u32(2);
                out.put_u32(0);
                out.put_u64(id.number.0);
                out.put(&id.random);
                out.put_u64(0);
            }
        }
        out.put_u64(self.live);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u32()?;
        reader.reserved(4)?;
        let (number, random, object) = (reader.u64()?, reader.array()?, ObjectNo(reader.u64()?));
        let home = match kind {
            1 if object != ObjectNo::ZERO => {
                let level = Level(number);
                FrameHome::Journal(JournalId { level, random }, object)
            }
            2 if object == ObjectNo::ZERO => {
                let number = ManifestNo(number);
                FrameHome::Pack(RetentionId { number, random })
            }
            _ => return Err(reader.invalid("a place is in no object of a known kind")),
        };
        let live = reader.u64()?;
        Ok(Self { home, live })
    }
}

/// Checks what stands before the first page.
///
/// # Errors
///
/// See [`DecodeError`].
pub fn check_front(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(WHAT, bytes);
    reader.open(MAGIC, VERSION)?;
    reader.reserved(2)?;
    reader.end()
}

/// A layer's or pack's name.
pub(crate) fn read_id(reader: &mut Reader<'_>) -> Result<RetentionId, DecodeError> {
    Ok(RetentionId {
        number: ManifestNo(reader.u64()?),
        random: reader.array()?,
    })
}

#[cfg(test)]
mod tests;
