//! Which bytes of the vault lie in an extent of the disk: its runs at one `Seq`, each resolved to a frame.
//!
//! Made in one pass over the machine's indexes, and never asked for an index again: what a reader needs to verify
//! a frame is kept too. Of the digests of a record's pieces that is a *seal*: the first 16 bytes of their keyed
//! digest (of the digest itself, where a record covers one piece). So a terabyte of data takes megabytes here, where
//! its digests would take eight gigabytes.
//!
//! A run takes at most 120 bytes: 16 of its own, 40 for the record that gives it, 64 for the frame that this lies
//! in; runs of one record, and records of one frame, share them. While the map is made it is at most three times as
//! much again, and 8 MiB.
//!
//! Nothing outside knows how runs are found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;

use everpoint_format::Change;
use everpoint_format::change::Frame;
use everpoint_format::digest::{DigestKey, piece_digests, whole_pieces};
use everpoint_format::index::{BlockEntry, Section};
use everpoint_format::layer::FrameHome;
use everpoint_format::layer::page::{DigestSeal, Version};
use everpoint_journal::extent_map::{ExtentMap, RecordPlace};
use everpoint_journal::sweep::Found;
use everpoint_units::{ByteLen, ByteOffset, Extent, Lba, MachineId, SECTOR_LEN, Seq};
use everpoint_vault::ObjectName;
use everpoint_vault::frames::{FrameJob, IntegrityError, home_name};

use super::PointReadError;
use crate::layers::uncovered;
use crate::machine::WalkedObject;
use crate::restore::{Changes, Sectors, sectors_of};

/// Records that are looked through for what is needed no more only once there are so many. Unit: records.
const FOUND_COUNT_MIN: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct RunMap {
    machine: MachineId,
    objects: Vec<FrameHome>,
    /// By object and place.
    frames: Vec<MappedFrame>,
    /// By frame.
    records: Vec<MappedRecord>,
    /// Rising, disjoint, inside the disk.
    runs: Vec<MappedRun>,
}

/// A frame of the map.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct FrameId(u32);

/// A part of an extent that one frame gives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) sectors: Sectors,
    pub(super) frame: FrameId,
    /// Where in the frame it begins. Unit: bytes.
    pub(super) raw_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct MappedFrame {
    frame: Frame,
    at: u64,
    object: u32,
    /// Its records begin here, and end where those of the next frame begin.
    records_from: u32,
}

#[derive(Clone, Copy, Debug)]
struct MappedRecord {
    first: u64,
    seal: DigestSeal,
    sectors: u32,
    /// Where in the frame its bytes begin. Unit: bytes.
    raw_at: u32,
    frame: u32,
}

#[derive(Clone, Copy, Debug)]
struct MappedRun {
    first: u64,
    sectors: u32,
    record: u32,
}

/// The map while indexes are read.
pub(super) struct Mapping {
    map: ExtentMap,
    through: Seq,
    key: DigestKey,
    /// Of every record that gives a run still, and of some that do not any more.
    found: HashMap<RecordPlace, Record>,
    object_indexes: BTreeMap<FrameHome, u32>,
    /// What was read so far covers.
    covered: Changes,
}

/// Where a record's bytes lie.
#[derive(Clone, Copy)]
struct Record {
    key: FrameKey,
    frame: Frame,
    raw_at: u32,
    first: u64,
    sectors: u32,
    seal: DigestSeal,
}

/// Which record.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Source {
    Index(RecordPlace),
    Layer(Version),
}

/// Which frame, and what is said of it. Two indexes that disagree about a frame make two, and one of them fails.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct FrameKey {
    object: u32,
    at: u64,
    stored_len: u32,
    raw_len: u32,
    crc: u32,
    lz4: bool,
}

impl Mapping {
    /// The map of a disk as of `through`, before anything was read.
    pub(super) fn new(through: Seq, key: DigestKey) -> Self {
        Self {
            map: ExtentMap::new(through),
            through,
            key,
            found: HashMap::new(),
            object_indexes: BTreeMap::new(),
            covered: Changes::default(),
        }
    }

    /// Folds one section of the disk, in path order.
    pub(super) fn fold(&mut self, section: &Section, object: &WalkedObject, section_index: u32) {
        self.map.fold(section, object.ordinal, section_index);
        self.covered.fold(section, |seq| seq <= self.through);
        for (block, entry) in (0_u32..).zip(&section.blocks) {
            self.find_records(section, entry, object, (section_index, block));
        }
        if FOUND_COUNT_MIN.max(self.map.run_count() * 2) < self.found.len() {
            let live: HashSet<_> = self.map.runs().map(|run| run.source).collect();
            self.found.retain(|place, _| live.contains(place));
        }
    }

    /// Notes where the records of a block have their bytes.
    fn find_records(
        &mut self,
        section: &Section,
        entry: &BlockEntry,
        object: &WalkedObject,
        (section_index, block): (u32, u32),
    ) {
        let (mut raw_at, mut digests) = (0_u64, entry.digests.as_slice());
        for (record, found) in (0_u32..).zip(&entry.records) {
            let (journal, number, frame_at, frame, at, extent) = match found.change {
                Change::Data(extent) => {
                    let (journal, number) = (object.journal, object.number);
                    (journal, number, entry.frame_at, entry.frame, raw_at, extent)
                }
                Change::Reference {
                    extent,
                    place_index,
                } => {
                    let index = usize::try_from(place_index).expect("a target has 64 bits");
                    let place = &section.places[index];
                    let raw_at = u64::from(place.raw_at);
                    let (journal, number) = (place.journal, place.number);
                    (journal, number, place.frame_at, place.frame, raw_at, extent)
                }
                _ => continue,
            };
            raw_at += found.change.raw_len();
            let (own, rest) = digests.split_at(whole_pieces(extent).1);
            digests = rest;
            if self.through < found.seq {
                continue;
            }
            let place = RecordPlace {
                object: object.ordinal,
                section: section_index,
                block,
                record,
            };
            let object = self.object_index(FrameHome::Journal(journal, number));
            let found = Record {
                key: FrameKey::of(object, frame_at, &frame),
                frame,
                // A place beyond any frame; whoever reads it is told.
                raw_at: u32::try_from(at).unwrap_or(u32::MAX),
                first: extent.start().sector(),
                sectors: extent.sectors().get(),
                seal: DigestSeal::of(&self.key, own),
            };
            self.found.insert(place, found);
        }
    }

    fn object_index(&mut self, home: FrameHome) -> u32 {
        let next = small(self.object_indexes.len());
        *self.object_indexes.entry(home).or_insert(next)
    }

    /// The map of a disk of this size, with what map layers give of it.
    pub(super) fn finish(
        mut self,
        machine: MachineId,
        layered: Vec<Found>,
        size: ByteLen,
    ) -> RunMap {
        let layered = uncovered(layered, &self.covered);
        let end = Lba::new(size.0 / SECTOR_LEN).unwrap_or(Lba::MAX);
        // No writer may write past a disk's end; should one have, that is no part of the disk.
        let inside = self.map.runs().filter_map(|run| {
            let extent = Extent::between(run.extent.start(), run.extent.end().min(end))?;
            Some((sectors_of(&extent), Source::Index(run.source)))
        });
        let mut inside: Vec<_> = inside.collect();
        let mut live = HashMap::new();
        for (_, source) in &inside {
            if let Source::Index(place) = source {
                let found = self.found.get(place);
                let found = *found.expect("the map holds records that were found");
                live.insert(*source, found);
            }
        }
        for found in layered {
            let record = self.record_of(&found);
            let Found { copy, seq, .. } = found;
            let source = Source::Layer(Version { copy, seq });
            live.insert(source, record);
            inside.push((found.sectors, source));
        }
        inside.sort_unstable_by_key(|(sectors, _)| sectors.start);
        let mut live: Vec<_> = live.into_iter().collect();
        live.sort_unstable_by_key(|(place, found)| (found.key, found.raw_at, *place));

        let mut objects: Vec<_> = self.object_indexes.into_iter().collect();
        objects.sort_unstable_by_key(|(_, index)| *index);
        let mut made = RunMap {
            machine,
            objects: objects.into_iter().map(|(object, _)| object).collect(),
            frames: Vec::new(),
            records: Vec::with_capacity(live.len()),
            runs: Vec::with_capacity(inside.len()),
        };
        let mut record_indexes = HashMap::with_capacity(live.len());
        let mut open = None;
        for (place, found) in live {
            let record = small(made.records.len());
            if open != Some(found.key) {
                open = Some(found.key);
                made.frames.push(MappedFrame {
                    frame: found.frame,
                    at: found.key.at,
                    object: found.key.object,
                    records_from: record,
                });
            }
            made.records.push(MappedRecord {
                first: found.first,
                seal: found.seal,
                sectors: found.sectors,
                raw_at: found.raw_at,
                frame: small(made.frames.len() - 1),
            });
            record_indexes.insert(place, record);
        }
        let runs = inside.iter().map(|(sectors, source)| MappedRun {
            first: sectors.start,
            sectors: small_count(sectors.end - sectors.start),
            record: record_indexes[source],
        });
        made.runs.extend(runs);
        made
    }

    /// The record that a layer names.
    fn record_of(&mut self, found: &Found) -> Record {
        let bytes = &found.bytes;
        let object = self.object_index(bytes.home);
        Record {
            key: FrameKey::of(object, bytes.frame_at, &bytes.frame),
            frame: bytes.frame,
            raw_at: bytes.raw_at,
            first: found.sectors.start - u64::from(bytes.lead),
            sectors: bytes.record_sectors,
            seal: bytes.seal,
        }
    }
}

impl RunMap {
    /// What of these sectors holds data, rising; the rest reads as zeroes.
    pub(super) fn parts(&self, sectors: Sectors) -> impl Iterator<Item = Part> + '_ {
        let from = self.runs.partition_point(|run| run.end() <= sectors.start);
        let runs = self.runs[from..].iter();
        let end = sectors.end;
        let inside = runs.take_while(move |run| run.first < end);
        inside.map(move |run| {
            let part = run.first.max(sectors.start)..run.end().min(sectors.end);
            let record = &self.records[run.record as usize];
            Part {
                frame: FrameId(record.frame),
                raw_at: u64::from(record.raw_at) + (part.start - record.first) * SECTOR_LEN,
                sectors: part,
            }
        })
    }

    /// How many runs there are.
    pub(super) const fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Where a frame lies, and its name there. The job names no cuts and no checks: see [`Self::verify`].
    pub(super) fn place(&self, id: FrameId) -> (ObjectName, FrameJob) {
        let mapped = &self.frames[id.0 as usize];
        let job = FrameJob {
            frame_at: ByteOffset(mapped.at),
            frame: mapped.frame,
            cuts: Vec::new(),
            checks: Vec::new(),
            seals: Vec::new(),
        };
        (self.object(mapped), job)
    }

    /// Holds an unpacked frame against the seal of every record that the disk has of it.
    ///
    /// # Errors
    ///
    /// The first record whose bytes are not there, or are others.
    pub(super) fn verify(
        &self,
        id: FrameId,
        raw: &[u8],
        key: &DigestKey,
    ) -> Result<(), PointReadError> {
        let mapped = &self.frames[id.0 as usize];
        for record in self.records_of(id) {
            let extent = record.extent();
            let from = record.raw_at as usize;
            let len = usize::try_from(extent.byte_len().0).expect("a target has 64 bits");
            let Some(bytes) = raw.get(from..from.saturating_add(len)) else {
                let (object, disk_at) = (self.object(mapped), extent.start().byte_offset());
                return Err(IntegrityError::Reference { object, disk_at }.into());
            };
            if DigestSeal::of(key, &piece_digests(key, extent, bytes)) != record.seal {
                return Err(PointReadError::Digests {
                    object: self.object(mapped),
                    frame_at: ByteOffset(mapped.at),
                    extent,
                });
            }
        }
        Ok(())
    }

    fn records_of(&self, id: FrameId) -> &[MappedRecord] {
        let (at, next) = (id.0 as usize, id.0 as usize + 1);
        let from = self.frames[at].records_from as usize;
        let end = self.frames.get(next);
        let end = end.map_or(self.records.len(), |next| next.records_from as usize);
        &self.records[from..end]
    }

    fn object(&self, frame: &MappedFrame) -> ObjectName {
        home_name(self.machine, self.objects[frame.object as usize])
    }
}

impl MappedRun {
    const fn end(&self) -> u64 {
        self.first + self.sectors as u64
    }
}

impl MappedRecord {
    fn extent(&self) -> Extent {
        let sectors = NonZeroU32::new(self.sectors);
        Lba::new(self.first)
            .zip(sectors)
            .and_then(|(start, sectors)| Extent::new(start, sectors))
            .expect("it was taken from an extent")
    }
}

impl FrameKey {
    const fn of(object: u32, at: u64, frame: &Frame) -> Self {
        Self {
            object,
            at,
            stored_len: frame.stored_len,
            raw_len: frame.raw_len,
            crc: frame.crc,
            lz4: frame.lz4,
        }
    }
}

/// The length of a run, which lies in one record. Unit: sectors.
fn small_count(sectors: u64) -> u32 {
    u32::try_from(sectors).expect("a record is at most 4 GiB long")
}

/// An index into one of the map's lists.
fn small(index: usize) -> u32 {
    u32::try_from(index).expect("2^32 records would take more than 160 GB")
}

#[cfg(test)]
impl FrameId {
    /// Four frames, for tests of what keeps frames.
    pub(super) const fn first() -> [Self; 4] {
        [Self(0), Self(1), Self(2), Self(3)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_what_the_module_says() {
        let sizes = (
            size_of::<MappedRun>(),
            size_of::<MappedRecord>(),
            size_of::<MappedFrame>(),
        );
        assert_eq!(sizes, (16, 40, 64));
    }
}
