//! A data object as a whole: built from checked blocks without copying a frame, read by its tail.

use std::collections::BTreeMap;

use bytes::Bytes;
use everpoint_units::{DiskId, JournalId, ObjectNo, VaultId};

use crate::DecodeError;
use crate::change::{BlockHeader, ChangeBlock, FrameSeal};
use crate::digest::PieceDigest;
use crate::index::{BlockEntry, Index, Release, Section};
use crate::object::{
    FOOTER_LEN, Footer, HEADER_LEN, OBJECT_LEN_MAX, ObjectChecksum, ObjectHeader, ObjectType,
};

const WHAT: &str = "journal object";

/// Collects blocks, in commit order, until they are frozen into one object.
#[derive(Debug)]
pub struct DataBuilder {
    index: Index,
    newest_section: BTreeMap<DiskId, usize>,
    frames: Vec<Bytes>,
    next_frame_at: u64,
}

/// A frozen data object: name, bytes and checksum never change again (R9).
#[derive(Clone, Debug)]
pub struct DataObject {
    pub header: ObjectHeader,
    pub checksum: ObjectChecksum,
    /// The object's bytes, in order, as pieces that share memory with the blocks.
    pub pieces: Vec<Bytes>,
    pub index: Index,
    /// Unit: bytes.
    pub len: u64,
}

/// Header and index of a data object, checked against each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataIndex {
    pub header: ObjectHeader,
    pub checksum: ObjectChecksum,
    pub index: Index,
}

impl Default for DataBuilder {
    fn default() -> Self {
        Self {
            index: Index::default(),
            newest_section: BTreeMap::new(),
            frames: Vec::new(),
            next_frame_at: HEADER_LEN as u64,
        }
    }
}

impl DataBuilder {
    /// Adds a block behind those of the same disk; `digests` are those of its data records.
    pub fn push(&mut self, block: &ChangeBlock, digests: Vec<PieceDigest>) {
        let header: &BlockHeader = block.header();
        let newest = self.newest_section.get(&header.disk).copied();
        let at = newest
            .filter(|&at| self.index.sections[at].continues_with(header))
            .unwrap_or_else(|| {
                self.index.sections.push(Section::begin(header));
                self.index.sections.len() - 1
            });
        self.newest_section.insert(header.disk, at);
        let entry = BlockEntry::of(block, self.next_frame_at, digests);
        self.index.sections[at].blocks.push(entry);
        let frame = block.payload();
        self.next_frame_at += frame.len() as u64;
        if !frame.is_empty() {
            self.frames.push(frame);
        }
    }

    /// Adds the record with which a machine leaves the journal.
    pub fn release(&mut self, release: Release) {
        self.index.releases.push(release);
    }

    /// Bytes of frames so far. Unit: bytes.
    pub const fn frames_len(&self) -> u64 {
        self.next_frame_at - HEADER_LEN as u64
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.index.sections.is_empty() && self.index.releases.is_empty()
    }

    /// Makes the object; from here on it never changes.
    pub fn freeze(self, header: ObjectHeader) -> DataObject {
        let front = header.encode(ObjectType::Data);
        let index = self.index.encode();
        let checksum = ObjectChecksum::of(&front, &index);
        let len = self.next_frame_at + index.len() as u64 + FOOTER_LEN as u64;
        let footer = Footer {
            index_at: self.next_frame_at,
            index_len: index.len() as u64,
            object_len: len,
            checksum,
            seal: FrameSeal::default(),
        };
        let mut pieces = Vec::with_capacity(self.frames.len() + 3);
        pieces.push(Bytes::from(front));
        pieces.extend(self.frames);
        pieces.push(index);
        pieces.push(Bytes::from(footer.encode()));
        DataObject {
            header,
            checksum,
            pieces,
            index: self.index,
            len,
        }
    }
}

impl DataIndex {
    /// Checks header and index of an object against its footer, and every frame's place against the
    /// object's shape.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(front: &[u8], index: &[u8], footer: &Footer) -> Result<Self, DecodeError> {
        let (kind, header) = ObjectHeader::decode(front)?;
        let invalid = |rule| DecodeError::Invalid { what: WHAT, rule };
        if kind != ObjectType::Data {
            return Err(invalid("is a seal, not data"));
        }
        let checksum = ObjectChecksum::of(&front[..HEADER_LEN], index);
        if checksum != footer.checksum {
            let head = |sum: ObjectChecksum| {
                u64::from_be_bytes(*sum.0.first_chunk().expect("32 bytes hold 8"))
            };
            return Err(DecodeError::Corrupt {
                what: WHAT,
                stored: head(footer.checksum),
                computed: head(checksum),
            });
        }
        let index = Index::decode(index)?;
        let frames = index.sections.iter().flat_map(|section| &section.blocks);
        let mut stored: u64 = 0;
        for block in frames {
            let len = u64::from(block.frame.stored_len);
            let end = block.frame_at.checked_add(len);
            if block.frame_at < HEADER_LEN as u64 || end.is_none_or(|end| footer.index_at < end) {
                return Err(invalid("a frame lies outside the frames"));
            }
            stored += len;
        }
        if stored != footer.index_at - HEADER_LEN as u64 {
            return Err(invalid("the frames do not fill the object"));
        }
        Ok(Self {
            header,
            checksum,
            index,
        })
    }

    /// Reads a whole object that fills `bytes` and checks all of it, every frame included (stored
    /// bytes only; digests need the vault's key).
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode_whole(bytes: &Bytes) -> Result<Self, DecodeError> {
        let len = bytes.len() as u64;
        let tail_at = bytes.len().checked_sub(FOOTER_LEN);
        let Some(tail_at) = tail_at.filter(|&at| HEADER_LEN <= at && len <= OBJECT_LEN_MAX) else {
            return Err(DecodeError::Truncated {
                what: WHAT,
                have: bytes.len(),
                need: HEADER_LEN + FOOTER_LEN,
            });
        };
        let footer = Footer::decode(&bytes[tail_at..], len)?;
        let index_at = usize::try_from(footer.index_at).expect("inside the object");
        let decoded = Self::decode(bytes, &bytes[index_at..tail_at], &footer)?;
        for section in &decoded.index.sections {
            for block in &section.blocks {
                let at = usize::try_from(block.frame_at).expect("inside the object");
                let stored = bytes.slice(at..at + block.frame.stored_len as usize);
                block.frame.open(&stored)?;
            }
        }
        Ok(decoded)
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
        self.header.expect_at(vault, journal, number)
    }
}
