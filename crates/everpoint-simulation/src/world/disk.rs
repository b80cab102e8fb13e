//! A protected disk: what each sector holds, as the number of the write that gave it, and the bytes
//! that this stands for.

use bytes::{Bytes, BytesMut};
use everpoint_agent::resync_core::Run;
use everpoint_units::{Extent, SECTOR_LEN};

use super::oracle::{Content, extent, index};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    sectors: Vec<Content>,
}

impl Disk {
    /// A disk that holds this.
    pub(crate) const fn new(sectors: Vec<Content>) -> Self {
        Self { sectors }
    }

    /// Writes the same content to every sector of an extent.
    pub(crate) fn write(&mut self, extent: Extent, content: Content) {
        let (from, to) = (extent.start().sector(), extent.end().sector());
        self.sectors[index(from)..index(to)].fill(content);
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
