//! From the runs that an object gives to the frames that have to be read, verified and cut up.

mod error;
mod verify;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use everpoint_format::Change;
use everpoint_format::change::Frame;
use everpoint_format::digest::{PIECE_SECTORS, PieceDigest, whole_pieces};
use everpoint_format::index::{BlockEntry, Index, Section};
use everpoint_format::layer::FrameHome;
use everpoint_format::layer::page::DigestSeal;
use everpoint_format::name;
use everpoint_journal::extent_map::Run;
use everpoint_journal::sweep::Found;
use everpoint_units::{
    ByteLen, ByteOffset, Extent, JournalId, Lba, MachineId, ObjectNo, SECTOR_LEN,
};

use crate::name::ObjectName;

pub use error::IntegrityError;
pub use verify::{BatchRead, open_frame, read_batch, read_frame};

/// Most bytes of one read, unless one frame is longer. Unit: bytes.
const READ_LEN_MAX: u64 = 4 << 20;
/// Most bytes that the frames of one read unpack to, unless one frame does. Unit: bytes.
const RAW_LEN_MAX: u64 = 8 << 20;
/// Bytes between two frames that are read too, to save a request; what they hold is not looked at.
const GAP_MAX: u64 = 64 << 10;

/// A frame that gives something, with what is to be verified and written of it.
#[derive(Debug)]
pub struct FrameJob {
    pub frame_at: ByteOffset,
    pub frame: Frame,
    pub cuts: Vec<Cut>,
    /// By place in the frame, each piece once.
    pub checks: Vec<Check>,
    /// Of records that a map layer gives, each once.
    pub seals: Vec<SealCheck>,
}

/// Bytes of a frame, and where on the disk they go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    pub raw_at: usize,
    pub len: usize,
    pub disk_at: ByteOffset,
}

/// The digest of a piece that lies in a frame whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Check {
    pub raw_at: usize,
    pub digest: PieceDigest,
    pub disk_at: ByteOffset,
}

/// What stands for the digests of a record that lies in a frame whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SealCheck {
    pub raw_at: usize,
    pub extent: Extent,
    pub seal: DigestSeal,
}

/// Frames of one object that are read at once.
#[derive(Debug)]
pub struct Batch {
    pub object: ObjectName,
    pub at: ByteOffset,
    pub len: ByteLen,
    pub raw_len: ByteLen,
    /// By place in the object.
    pub jobs: Vec<FrameJob>,
}

/// Which frame: the object, the place, and what the index says of it. Two indexes that disagree about a
/// frame make two jobs, and one of them fails.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct FrameKey {
    home: FrameHome,
    frame_at: u64,
    stored_len: u32,
    raw_len: u32,
    crc: u32,
}

/// A record of a block: its bytes and digests among those of the block.
struct RecordParts<'a> {
    extent: Extent,
    key: FrameKey,
    frame: Frame,
    raw_at: usize,
    digests: &'a [PieceDigest],
}

/// Where the parts of the records before one end.
#[derive(Clone, Copy, Default)]
struct Passed {
    records: usize,
    raw: u64,
    digests: usize,
}

/// The reads that give `runs`, all of which lie in one object with this index, by object and place.
///
/// # Errors
///
/// [`IntegrityError::Reference`].
pub fn batches(
    journal: JournalId,
    number: ObjectNo,
    index: &Index,
    runs: &[Run],
) -> Result<Vec<Batch>, IntegrityError> {
    let mut jobs: BTreeMap<FrameKey, FrameJob> = BTreeMap::new();
    for of_block in runs.chunk_by(|a, b| block_of(a) == block_of(b)) {
        let (section, block) = block_of(&of_block[0]);
        let section = &index.sections[section as usize];
        let entry = &section.blocks[block as usize];
        let mut passed = Passed::default();
        for run in of_block {
            let record = run.source.record as usize;
            let parts = record_parts((journal, number), section, entry, record, &mut passed);
            let Some(parts) = parts else {
                return Err(IntegrityError::Reference {
                    object: object_name(journal, number),
                    disk_at: run.extent.start().byte_offset(),
                });
            };
            let job = jobs.entry(parts.key).or_insert_with(|| FrameJob {
                frame_at: ByteOffset(parts.key.frame_at),
                frame: parts.frame,
                cuts: Vec::new(),
                checks: Vec::new(),
                seals: Vec::new(),
            });
            job.add(&parts, run);
        }
    }
    let name_of = |home| match home {
        FrameHome::Journal(journal, number) => object_name(journal, number),
        FrameHome::Pack(_) => unreachable!("an index names journal objects alone"),
    };
    Ok(coalesce(jobs, name_of))
}

/// The reads that give what a machine's map layers say of a disk, by object and place.
///
/// # Errors
///
/// [`IntegrityError::Reference`]: a layer that names sectors beyond a record.
pub fn found_batches(machine: MachineId, found: &[Found]) -> Result<Vec<Batch>, IntegrityError> {
    let mut jobs: BTreeMap<FrameKey, FrameJob> = BTreeMap::new();
    for found in found {
        let bytes = &found.bytes;
        let key = FrameKey::of(bytes.home, bytes.frame_at, &bytes.frame);
        let job = jobs.entry(key).or_insert_with(|| FrameJob {
            frame_at: ByteOffset(bytes.frame_at),
            frame: bytes.frame,
            cuts: Vec::new(),
            checks: Vec::new(),
            seals: Vec::new(),
        });
        if job.add_found(found).is_none() {
            return Err(IntegrityError::Reference {
                object: home_name(machine, bytes.home),
                disk_at: ByteOffset(found.sectors.start.saturating_mul(SECTOR_LEN)),
            });
        }
    }
    for job in jobs.values_mut() {
        job.seals
            .sort_unstable_by_key(|seal| (seal.raw_at, seal.extent.start()));
        job.seals.dedup();
    }
    Ok(coalesce(jobs, |home| home_name(machine, home)))
}

const fn block_of(run: &Run) -> (u32, u32) {
    (run.source.section, run.source.block)
}

/// The parts of record `at`, which is not before those `passed`; `None` for a reference that leaves its
/// frame.
fn record_parts<'a>(
    object: (JournalId, ObjectNo),
    section: &Section,
    entry: &'a BlockEntry,
    at: usize,
    passed: &mut Passed,
) -> Option<RecordParts<'a>> {
    for record in &entry.records[passed.records..at] {
        passed.raw += record.change.raw_len();
        passed.digests += digest_count(&record.change);
    }
    passed.records = at;
    let change = &entry.records[at].change;
    let digests = &entry.digests[passed.digests..passed.digests + digest_count(change)];
    let (journal, number) = object;
    let (extent, key, frame, raw_at) = match change {
        Change::Data(extent) => {
            let key = FrameKey::of(
                FrameHome::Journal(journal, number),
                entry.frame_at,
                &entry.frame,
            );
            (*extent, key, entry.frame, passed.raw)
        }
        Change::Reference {
            extent,
            place_index,
        } => {
            let place = &section.places[usize::try_from(*place_index).ok()?];
            let end = u64::from(place.raw_at) + extent.byte_len().0;
            if u64::from(place.frame.raw_len) < end {
                return None;
            }
            let key = FrameKey::of(
                FrameHome::Journal(place.journal, place.number),
                place.frame_at,
                &place.frame,
            );
            (*extent, key, place.frame, u64::from(place.raw_at))
        }
        _ => unreachable!("the map holds records that give bytes"),
    };
    Some(RecordParts {
        extent,
        key,
        frame,
        raw_at: usize::try_from(raw_at).expect("a frame unpacks to at most 1 MiB"),
        digests,
    })
}

fn digest_count(change: &Change) -> usize {
    match change {
        Change::Data(extent) | Change::Reference { extent, .. } => whole_pieces(*extent).1,
        _ => 0,
    }
}

impl FrameKey {
    const fn of(home: FrameHome, frame_at: u64, frame: &Frame) -> Self {
        Self {
            home,
            frame_at,
            stored_len: frame.stored_len,
            raw_len: frame.raw_len,
            crc: frame.crc,
        }
    }
}

impl FrameJob {
    /// Adds what `run` takes of a record, and the digests of all pieces of the record that it touches: also
    /// of those that it takes only in part.
    fn add(&mut self, parts: &RecordParts<'_>, run: &Run) {
        let bytes = |sectors: u64| {
            usize::try_from(sectors * SECTOR_LEN).expect("a frame unpacks to at most 1 MiB")
        };
        self.cuts.push(Cut {
            raw_at: parts.raw_at + bytes(run.skip),
            len: bytes(u64::from(run.extent.sectors().get())),
            disk_at: run.extent.start().byte_offset(),
        });
        let (first, _) = whole_pieces(parts.extent);
        let (start, end) = (run.extent.start().sector(), run.extent.end().sector());
        for (piece, digest) in (0_u64..).zip(parts.digests) {
            let piece_start = first.sector() + piece * PIECE_SECTORS;
            if piece_start < end && start < piece_start + PIECE_SECTORS {
                self.checks.push(Check {
                    raw_at: parts.raw_at + bytes(piece_start - parts.extent.start().sector()),
                    digest: *digest,
                    disk_at: ByteOffset(piece_start * SECTOR_LEN),
                });
            }
        }
    }
}

impl FrameJob {
    /// Adds what a layer gives of a record; `None` where the record is on no disk, or does not reach so far.
    fn add_found(&mut self, found: &Found) -> Option<()> {
        let bytes = &found.bytes;
        let first = found.sectors.start.checked_sub(u64::from(bytes.lead))?;
        let extent = Extent::new(Lba::new(first)?, NonZeroU32::new(bytes.record_sectors)?)?;
        let is_inside = found.sectors.end <= extent.end().sector();
        let small = |len: u64| usize::try_from(len).ok().filter(|_| is_inside);
        self.cuts.push(Cut {
            raw_at: small(bytes.first_at())?,
            len: small((found.sectors.end - found.sectors.start) * SECTOR_LEN)?,
            disk_at: ByteOffset(found.sectors.start * SECTOR_LEN),
        });
        self.seals.push(SealCheck {
            raw_at: bytes.raw_at as usize,
            extent,
            seal: bytes.seal,
        });
        Some(())
    }
}

/// Groups frames that lie close together into reads.
fn coalesce(
    jobs: BTreeMap<FrameKey, FrameJob>,
    name_of: impl Fn(FrameHome) -> ObjectName,
) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut open: Option<FrameHome> = None;
    for (key, mut job) in jobs {
        // A piece that several runs touch is verified once.
        job.checks.sort_unstable_by_key(|check| check.raw_at);
        job.checks.dedup();
        let (stored, raw) = (u64::from(key.stored_len), u64::from(key.raw_len));
        let last = batches.last_mut().filter(|_| open == Some(key.home));
        if let Some(batch) = last
            && batch.takes(key.frame_at, stored, raw)
        {
            batch.len.0 = batch.len.0.max(key.frame_at + stored - batch.at.0);
            batch.raw_len.0 += raw;
            batch.jobs.push(job);
            continue;
        }
        open = Some(key.home);
        batches.push(Batch {
            object: name_of(key.home),
            at: job.frame_at,
            len: ByteLen(stored),
            raw_len: ByteLen(raw),
            jobs: vec![job],
        });
    }
    batches
}

impl Batch {
    /// Whether a frame of the same object, not before the others, may be read with them.
    fn takes(&self, frame_at: u64, stored: u64, raw: u64) -> bool {
        let end = frame_at.checked_add(stored);
        let len = end.map(|end| end - self.at.0);
        frame_at <= self.at.0.saturating_add(self.len.0).saturating_add(GAP_MAX)
            && len.is_some_and(|len| len <= READ_LEN_MAX)
            && self.raw_len.0 + raw <= RAW_LEN_MAX
    }

    /// What it takes to hold what is read and what it unpacks to. Unit: bytes.
    pub const fn memory(&self) -> u64 {
        self.len.0 + self.raw_len.0
    }
}

/// The name of an object that frames of a machine lie in.
pub fn home_name(machine: MachineId, home: FrameHome) -> ObjectName {
    match home {
        FrameHome::Journal(journal, number) => object_name(journal, number),
        FrameHome::Pack(id) => {
            ObjectName::new(&name::pack(machine, id)).expect("the format's names are names")
        }
    }
}

/// The name of a journal object.
pub fn object_name(journal: JournalId, number: ObjectNo) -> ObjectName {
    ObjectName::new(&name::journal_object(journal, number)).expect("the format's names are names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_at_the_end_of_all_numbers_are_refused_and_no_panic() {
        let journal = JournalId {
            level: everpoint_units::Level(1),
            random: [1; 16],
        };
        let batch = Batch {
            object: object_name(journal, ObjectNo(1)),
            at: ByteOffset(u64::MAX - 10),
            len: ByteLen(100),
            raw_len: ByteLen(100),
            jobs: Vec::new(),
        };
        assert!(batch.takes(u64::MAX - 5, 5, 5));
        assert!(!batch.takes(u64::MAX - 5, 6, 6));
    }
}
