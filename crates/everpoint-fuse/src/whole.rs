//! Requests of any bytes, made of requests of whole sectors.
//!
//! The kernel asks for what a program asks for: a write of seven bytes comes as seven bytes. Where it begins or
//! ends inside a sector, that sector is read, changed and written back, and nobody else writes there meanwhile.
//! Whole sectors wait for such a write only where they overlap it.

use bytes::{Bytes, BytesMut};
use everpoint_capture::LockMode;
use everpoint_units::{ByteLen, ByteOffset, Extent, SECTOR_LEN};
use rustix::io::Errno;

use crate::file::FixedFile;
use crate::gate::RangeGate;

/// What is zeroed, or looked at, at once. Unit: bytes, whole sectors.
const STEP_LEN: u64 = 1 << 30;
/// A sector of them.
static ZEROES: [u8; 512] = [0; 512];

/// See the module.
pub(crate) struct WholeSectors<F> {
    file: F,
    size: u64,
    gate: RangeGate,
}

/// Bytes of a write, with room for the rest of the first and the last sector.
#[derive(Debug)]
pub(crate) struct Padded {
    extent: Extent,
    bytes: BytesMut,
    /// What is to be written, within the bytes.
    inside: std::ops::Range<usize>,
}

/// What somebody looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sought {
    Data,
    Hole,
}

impl Padded {
    /// How much memory a request of `len` bytes at `at` takes. Unit: bytes.
    pub(crate) fn takes(at: u64, len: u64) -> u64 {
        around(at, len).map_or(0, |extent| extent.byte_len().0)
    }

    /// Copies the bytes. `None` where there are none, or where no disk has a place for them.
    pub(crate) fn new(at: u64, data: &[u8]) -> Option<Self> {
        let extent = around(at, data.len() as u64)?;
        let from = in_memory(at - extent.start().byte_offset().0);
        let inside = from..from + data.len();
        let mut bytes = BytesMut::zeroed(in_memory(extent.byte_len().0));
        bytes[inside.clone()].copy_from_slice(data);
        Some(Self {
            extent,
            bytes,
            inside,
        })
    }

    fn is_whole(&self) -> bool {
        self.inside.len() == self.bytes.len()
    }
}

impl<F: FixedFile> WholeSectors<F> {
    pub(crate) fn new(file: F, size: ByteLen) -> Self {
        Self {
            file,
            size: size.0,
            gate: RangeGate::default(),
        }
    }

    /// How much of `len` bytes at `at` lies inside. Unit: bytes.
    pub(crate) fn inside(&self, at: u64, len: u64) -> u64 {
        len.min(self.size.saturating_sub(at))
    }

    /// The bytes; fewer at the end of the file, none behind it.
    pub(crate) async fn read(&self, at: u64, len: u64) -> Result<Bytes, Errno> {
        let len = self.inside(at, len);
        let Some(extent) = around(at, len) else {
            return Ok(Bytes::new());
        };
        let bytes = self.file.read(extent).await?;
        let from = in_memory(at - extent.start().byte_offset().0);
        Ok(bytes.slice(from..from + in_memory(len)))
    }

    /// Writes what lies inside.
    pub(crate) async fn write(&self, mut padded: Padded) -> Result<(), Errno> {
        let extent = padded.extent;
        if padded.is_whole() {
            let _turn = self.gate.acquire(extent, LockMode::Shared).await;
            return self.file.write(extent, padded.bytes.freeze()).await;
        }
        let _turn = self.gate.acquire(extent, LockMode::Exclusive).await;
        let (start, end) = (extent.start().byte_offset().0, extent.end().byte_offset().0);
        let sector_len = in_memory(SECTOR_LEN);
        if padded.inside.start != 0 {
            let sector = self.file.read(sector(start)?).await?;
            let before = padded.inside.start;
            padded.bytes[..before].copy_from_slice(&sector[..before]);
        }
        let behind = padded.bytes.len() - padded.inside.end;
        if behind != 0 {
            let sector = self.file.read(sector(end - SECTOR_LEN)?).await?;
            let (to, from) = (padded.inside.end, sector_len - behind);
            padded.bytes[to..].copy_from_slice(&sector[from..]);
        }
        self.file.write(extent, padded.bytes.freeze()).await
    }

    /// Makes the bytes zero; with `keep` they stay allocated.
    pub(crate) async fn zero(&self, at: u64, len: u64, keep: bool) -> Result<(), Errno> {
        let end = at + self.inside(at, len);
        let mut done = at;
        while done < end {
            let into = done % SECTOR_LEN;
            let step = if into != 0 || end - done < SECTOR_LEN {
                let step = (SECTOR_LEN - into).min(end - done);
                let padded = Padded::new(done, &ZEROES[..in_memory(step)]);
                self.write(padded.ok_or(Errno::INVAL)?).await?;
                step
            } else {
                let step = ((end - done) / SECTOR_LEN * SECTOR_LEN).min(STEP_LEN);
                let extent = whole(done, step)?;
                let _turn = self.gate.acquire(extent, LockMode::Shared).await;
                self.file.zero(extent, keep).await?;
                step
            };
            done += step;
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub(crate) async fn flush(&self) -> Result<(), Errno> {
        self.file.flush().await
    }

    /// Where the next data, or the next hole, begins at or behind `at`. The end of the file is a hole.
    pub(crate) async fn seek(&self, at: u64, sought: Sought) -> Result<u64, Errno> {
        if self.size <= at {
            return Err(Errno::NXIO);
        }
        let mut from = at / SECTOR_LEN * SECTOR_LEN;
        while from < self.size {
            let len = (self.size - from).min(STEP_LEN);
            let runs = self.file.runs(whole(from, len)?).await?;
            assert!(!runs.is_empty(), "there is at least one");
            for run in runs {
                if run.is_hole == (sought == Sought::Hole) {
                    return Ok(from.max(at));
                }
                from += run.len.0;
            }
        }
        match sought {
            Sought::Hole => Ok(self.size),
            Sought::Data => Err(Errno::NXIO),
        }
    }
}

/// The sectors that the bytes touch.
fn around(at: u64, len: u64) -> Option<Extent> {
    let end = at.checked_add(len)?.checked_next_multiple_of(SECTOR_LEN)?;
    let start = at / SECTOR_LEN * SECTOR_LEN;
    let len = if len == 0 { 0 } else { end - start };
    Extent::from_bytes(ByteOffset(start), ByteLen(len))
}

fn whole(at: u64, len: u64) -> Result<Extent, Errno> {
    Extent::from_bytes(ByteOffset(at), ByteLen(len)).ok_or(Errno::INVAL)
}

fn sector(at: u64) -> Result<Extent, Errno> {
    whole(at, SECTOR_LEN)
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a target has 64 bits")
}

#[cfg(test)]
mod tests;
