//! A protected disk: what each sector holds, as the number of the write that gave it, and the bytes
//! that this stands for. What was not flushed may be lost with the power.

use bytes::{Bytes, BytesMut};
use everpoint_agent::resync_core::Run;
use everpoint_units::{Extent, SECTOR_LEN};

use super::oracle::{Content, extent, index};
use super::random::Random;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    sectors: Vec<Content>,
    /// What is there if the power goes now, at least.
    flushed: Vec<Content>,
    /// Rises with every write, as a file's modification time does.
    version: u64,
}

impl Disk {
    /// A disk that holds this.
    pub(crate) fn new(sectors: Vec<Content>) -> Self {
        Self {
            flushed: sectors.clone(),
            sectors,
            version: 0,
        }
    }

    /// What it is, for who wants to know whether somebody wrote to it.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// Writes the same content to every sector of an extent.
    pub(crate) fn write(&mut self, extent: Extent, content: Content) {
        let (from, to) = (extent.start().sector(), extent.end().sector());
        self.sectors[index(from)..index(to)].fill(content);
        self.version += 1;
    }

    /// Makes everything durable.
    pub(crate) fn flush(&mut self) {
        self.flushed.clone_from(&self.sectors);
    }

    /// The power goes: of what was not flushed any part is kept. What changed by it.
    pub(crate) fn cut_power(&mut self, random: &mut Random) -> Vec<(Extent, Content)> {
        let kept = random.below(3) * 500;
        let now = self.sectors.iter_mut().zip(&self.flushed).zip(0..);
        let mut changed = Vec::new();
        for ((holds, flushed), sector) in now {
            if holds != flushed && !random.chance(kept) {
                *holds = *flushed;
                changed.push((extent(sector, sector + 1), *flushed));
            }
        }
        self.flush();
        changed
    }

    /// What differs from another state of the same disk, as it is there.
    pub(crate) fn differences(&self, other: &Self) -> Vec<(Extent, Content)> {
        let pairs = self.sectors.iter().zip(&other.sectors).zip(0..);
        let differs = pairs.filter(|((mine, theirs), _)| mine != theirs);
        differs
            .map(|((_, theirs), sector)| (extent(sector, sector + 1), *theirs))
            .collect()
    }

    /// The bytes of an extent.
    pub(crate) fn read(&self, extent: Extent) -> Bytes {
        let (from, to) = (extent.start().sector(), extent.end().sector());
        bytes_of(&self.sectors[index(from)..index(to)])
    }

    /// What is allocated of an extent: sectors of zeroes are holes.
    pub(crate) fn allocation(&self, of: Extent) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for sector in of.start().sector()..of.end().sector() {
            let hole = self.sectors[index(sector)] == 0;
            match runs.last_mut() {
                Some(last) if last.hole == hole => {
                    last.extent = extent(last.extent.start().sector(), sector + 1);
                }
                _ => runs.push(Run {
                    extent: extent(sector, sector + 1),
                    hole,
                }),
            }
        }
        runs
    }
}

/// The bytes that contents stand for: each sector says its content twice, so that bytes that moved or
/// mixed are seen.
pub(crate) fn bytes_of(contents: &[Content]) -> Bytes {
    let len = index(SECTOR_LEN);
    let mut bytes = BytesMut::zeroed(contents.len() * len);
    for (sector, content) in bytes.chunks_mut(len).zip(contents) {
        sector[..8].copy_from_slice(&content.to_le_bytes());
        sector[len - 8..].copy_from_slice(&content.to_le_bytes());
    }
    bytes.freeze()
}

/// The contents that bytes stand for; `None` where a sector is none that was ever written.
pub(crate) fn contents_of(bytes: &[u8]) -> Option<Vec<Content>> {
    let sectors = bytes.chunks(index(SECTOR_LEN));
    sectors
        .map(|sector| {
            let first = sector.first_chunk()?;
            let last = sector.last_chunk()?;
            let middle = &sector[8..sector.len() - 8];
            let same = first == last && middle.iter().all(|byte| *byte == 0);
            same.then(|| Content::from_le_bytes(*first))
        })
        .collect()
}
