//! From the sections of a disk to a map layer: every version of its extents, sorted by sector and cut into pages.

use std::collections::{BTreeMap, BTreeSet};

use everpoint_format::Change;
use everpoint_format::change::Frame;
use everpoint_format::digest::{DigestKey, PieceDigest, whole_pieces};
use everpoint_format::index::{BlockEntry, Place, Section};
use everpoint_format::layer::marks::{BookmarkMark, MARKS_LEN_MAX, Marks, RequestMark};
use everpoint_format::layer::page::{
    DigestSeal, ENTRY_LEN, EntryBytes, FRAME_LEN, PAGE_LEN_MAX, Page, PageEntry, PageFrame, Version,
};
use everpoint_format::layer::{FrameHome, LayerBuilder, LayerHeader, LayerObject, LiveObject};
use everpoint_units::{Extent, JournalId, ObjectNo, SECTOR_LEN, Seq, WallTime};

use crate::extent_map::Sectors;

/// A content that sectors were given, wherever it lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    pub sectors: Sectors,
    pub version: Version,
    /// `None`: they read as zeroes.
    pub bytes: Option<GivenBytes>,
}

/// Where the bytes of a record lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GivenBytes {
    pub home: FrameHome,
    /// Unit: bytes from the start of the object.
    pub frame_at: u64,
    pub frame: Frame,
    /// Length of the record. Unit: sectors.
    pub record_sectors: u32,
    /// Sectors of the record before the first that is given.
    pub lead: u32,
    /// Where in the unpacked frame the record begins. Unit: bytes.
    pub raw_at: u32,
    pub seal: DigestSeal,
}

/// A reference names bytes that are not in its frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{seq}: refers to bytes that are not in its frame")]
pub struct BadReference {
    pub seq: Seq,
}

/// A layer of one disk while it is made.
#[derive(Clone, Debug, Default)]
pub struct LayerDraft {
    given: Vec<Given>,
    times: BTreeMap<Seq, WallTime>,
    bookmarks: BTreeMap<Seq, BookmarkMark>,
    lowest: Option<Seq>,
    highest: Seq,
}

impl Given {
    /// As a page of a layer with these objects has it.
    pub fn of(entry: &PageEntry, page: &Page, objects: &[LiveObject]) -> Self {
        let bytes = entry.bytes.map(|bytes| {
            let frame = &page.frames[bytes.frame as usize];
            GivenBytes {
                home: objects[frame.object as usize].home,
                frame_at: frame.at,
                frame: frame.frame,
                record_sectors: bytes.record_sectors,
                lead: bytes.lead,
                raw_at: bytes.raw_at,
                seal: bytes.seal,
            }
        });
        Self {
            sectors: entry.sectors.clone(),
            version: entry.version,
            bytes,
        }
    }
}

impl LayerDraft {
    /// Adds what one section of the disk says; `copy` is the disk's, with this section folded.
    ///
    /// # Errors
    ///
    /// [`BadReference`]; the draft is of no use then.
    pub fn fold(
        &mut self,
        section: &Section,
        (journal, number): (JournalId, ObjectNo),
        copy: u32,
        key: &DigestKey,
    ) -> Result<(), BadReference> {
        let home = FrameHome::Journal(journal, number);
        for block in &section.blocks {
            self.fold_block(block, &section.places, home, copy, key)?;
            self.fold_marks(block);
        }
        Ok(())
    }

    fn fold_block(
        &mut self,
        block: &BlockEntry,
        places: &[Place],
        home: FrameHome,
        copy: u32,
        key: &DigestKey,
    ) -> Result<(), BadReference> {
        let (mut raw_at, mut digests) = (0_u64, block.digests.as_slice());
        for record in &block.records {
            let seq = record.seq;
            let version = Version { copy, seq };
            match record.change {
                Change::Data(extent) => {
                    let own = split(&mut digests, extent);
                    let at = (home, block.frame_at, block.frame, raw_at);
                    let bytes =
                        GivenBytes::new(extent, at, key, own).ok_or(BadReference { seq })?;
                    self.give(sectors_of(extent), version, Some(bytes));
                }
                Change::Reference {
                    extent,
                    place_index,
                } => {
                    let own = split(&mut digests, extent);
                    let place = usize::try_from(place_index)
                        .ok()
                        .and_then(|at| places.get(at));
                    let bytes = place.and_then(|place| {
                        let home = FrameHome::Journal(place.journal, place.number);
                        let at = (home, place.frame_at, place.frame, u64::from(place.raw_at));
                        GivenBytes::new(extent, at, key, own)
                    });
                    let bytes = bytes.ok_or(BadReference { seq })?;
                    self.give(sectors_of(extent), version, Some(bytes));
                }
                Change::Zero(extent) | Change::Discard(extent) => {
                    self.give(sectors_of(extent), version, None);
                }
                // What lies beyond a smaller end is gone, also when the disk grows again.
                Change::Resize { sectors } | Change::DiskBegin { sectors, .. } => {
                    self.give(sectors..u64::MAX, version, None);
                }
                Change::ResyncBegin { base: None } => self.give(0..u64::MAX, version, None),
                Change::Bookmark { .. }
                | Change::ResyncBegin { base: Some(_) }
                | Change::ResyncComplete
                | Change::DiskEnd => self.reach(seq),
            }
            raw_at += record.change.raw_len();
        }
        Ok(())
    }

    fn fold_marks(&mut self, block: &BlockEntry) {
        let offset = block.captured.clock_offset_us;
        for record in &block.records {
            if let Change::Bookmark { class, name, at } = &record.change {
                let at = at.shifted(offset);
                let mark = BookmarkMark {
                    seq: record.seq,
                    at,
                    class: *class,
                    name: name.to_string(),
                };
                self.bookmarks.insert(record.seq, mark);
                self.times.insert(record.seq, at);
            }
        }
        if let Some(last) = block.records.last() {
            self.times
                .insert(last.seq, block.captured.last.shifted(offset));
        }
    }

    fn give(&mut self, sectors: Sectors, version: Version, bytes: Option<GivenBytes>) {
        self.reach(version.seq);
        if !sectors.is_empty() {
            self.given.push(Given {
                sectors,
                version,
                bytes,
            });
        }
    }

    fn reach(&mut self, seq: Seq) {
        self.lowest = Some(self.lowest.map_or(seq, |lowest| lowest.min(seq)));
        self.highest = self.highest.max(seq);
    }

    /// How many contents and times it has: each takes at most about 150 bytes of memory.
    pub fn len(&self) -> usize {
        self.given.len() + self.times.len()
    }

    /// Whether nothing was said.
    pub const fn is_empty(&self) -> bool {
        self.lowest.is_none()
    }

    /// The `Seq` of what it has: below the first, and the last.
    pub fn range(&self) -> (Seq, Seq) {
        let lowest = self.lowest.unwrap_or(Seq::ZERO);
        (Seq(lowest.0.saturating_sub(1)), self.highest)
    }

    /// Makes the layer, with the requests of several changes that were closed meanwhile.
    pub fn finish(self, header: LayerHeader, requests: Vec<RequestMark>) -> LayerObject {
        let mut given = self.given;
        given.sort_unstable_by_key(|given| (given.sectors.start, given.version));
        let mut pages = Pages::default();
        given.iter().for_each(|given| pages.push(given));
        let (mut builder, objects) = pages.finish();
        let marks = Marks {
            times: self.times.into_iter().collect(),
            requests,
            bookmarks: self.bookmarks.into_values().collect(),
        };
        parts(marks).for_each(|marks| builder.push_marks(&marks));
        builder.finish(header, objects)
    }
}

impl GivenBytes {
    /// A record's bytes; `None` where they are not all in the frame.
    fn new(
        extent: Extent,
        (home, frame_at, frame, raw_at): (FrameHome, u64, Frame, u64),
        key: &DigestKey,
        digests: &[PieceDigest],
    ) -> Option<Self> {
        let end = raw_at.checked_add(extent.byte_len().0)?;
        let raw_at = u32::try_from(raw_at).ok()?;
        (end <= u64::from(frame.raw_len)).then(|| Self {
            home,
            frame_at,
            frame,
            record_sectors: extent.sectors().get(),
            lead: 0,
            raw_at,
            seal: DigestSeal::of(key, digests),
        })
    }

    /// Where in the unpacked frame the first sector that is given begins. Unit: bytes.
    pub fn first_at(&self) -> u64 {
        u64::from(self.raw_at) + u64::from(self.lead) * SECTOR_LEN
    }
}

fn split<'a>(digests: &mut &'a [PieceDigest], extent: Extent) -> &'a [PieceDigest] {
    let (own, rest) = digests.split_at(whole_pieces(extent).1);
    *digests = rest;
    own
}

fn sectors_of(extent: Extent) -> Sectors {
    extent.start().sector()..extent.end().sector()
}

/// Pages while they are filled.
#[derive(Default)]
struct Pages {
    builder: LayerBuilder,
    page: Page,
    /// The page's frames, by object and place.
    frames: BTreeMap<(u32, u64, u32), u32>,
    objects: Vec<LiveObject>,
    object_indexes: BTreeMap<FrameHome, u32>,
    /// Frames of the whole layer, by object and place.
    live: BTreeSet<(u32, u64, u32)>,
}

impl Pages {
    fn push(&mut self, given: &Given) {
        if PAGE_LEN_MAX < self.page.encoded_len() + ENTRY_LEN + FRAME_LEN {
            self.close();
        }
        let bytes = given.bytes.as_ref().map(|bytes| EntryBytes {
            frame: self.frame(bytes),
            record_sectors: bytes.record_sectors,
            lead: bytes.lead,
            raw_at: bytes.raw_at,
            seal: bytes.seal,
        });
        self.page.entries.push(PageEntry {
            sectors: given.sectors.clone(),
            version: given.version,
            bytes,
        });
    }

    fn frame(&mut self, bytes: &GivenBytes) -> u32 {
        let next = small(self.objects.len());
        let object = *self.object_indexes.entry(bytes.home).or_insert_with(|| {
            let home = bytes.home;
            self.objects.push(LiveObject { home, live: 0 });
            next
        });
        // Two indexes that disagree about a frame make two, and one of them fails.
        let key = (object, bytes.frame_at, bytes.frame.crc);
        if self.live.insert(key) {
            self.objects[object as usize].live += u64::from(bytes.frame.stored_len);
        }
        let frames = &mut self.page.frames;
        *self.frames.entry(key).or_insert_with(|| {
            frames.push(PageFrame {
                object,
                at: bytes.frame_at,
                frame: bytes.frame,
            });
            small(frames.len() - 1)
        })
    }

    fn close(&mut self) {
        if !self.page.entries.is_empty() {
            self.builder.push_page(&self.page);
        }
        self.page = Page::default();
        self.frames.clear();
    }

    fn finish(mut self) -> (LayerBuilder, Vec<LiveObject>) {
        self.close();
        (self.builder, self.objects)
    }
}

/// Marks in parts of bounded length.
fn parts(marks: Marks) -> impl Iterator<Item = Marks> {
    /// Of each kind: together less than a part may have.
    const COUNT_MAX: usize = MARKS_LEN_MAX / 4 / 274;
    const SMALL_COUNT_MAX: usize = MARKS_LEN_MAX / 4 / 24;
    let times = marks.times.chunks(SMALL_COUNT_MAX).map(|times| Marks {
        times: times.to_vec(),
        ..Marks::default()
    });
    let requests = marks
        .requests
        .chunks(SMALL_COUNT_MAX)
        .map(|requests| Marks {
            requests: requests.to_vec(),
            ..Marks::default()
        });
    let bookmarks = marks.bookmarks.chunks(COUNT_MAX).map(|bookmarks| Marks {
        bookmarks: bookmarks.to_vec(),
        ..Marks::default()
    });
    let all: Vec<_> = times.chain(requests).chain(bookmarks).collect();
    all.into_iter()
}

fn small(index: usize) -> u32 {
    u32::try_from(index).expect("a layer is at most 256 MiB")
}

#[cfg(test)]
mod tests;
