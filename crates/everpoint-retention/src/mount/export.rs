//! A mounted point as an NBD export: read-only, or written to over an overlay. `file` shows the same as a file.
//!
//! All connections share the point, the overlay's file and its syncs, so a flush on one covers the writes of all.
//! What cannot be had is an I/O error for the request that asked for it, and one line of the log; the mount goes on.

use std::fmt::Display;
use std::io;

use bytes::Bytes;
use everpoint_nbd::{Allocation, BlockSizes, Errno, Export, ExportInfo, ZeroFlags, ZeroSupport};
use everpoint_units::{ByteLen, ByteOffset, DiskId, Extent, Lba, SECTOR_LEN, Seq};
use futures::{StreamExt as _, TryStreamExt as _};

use super::MountedPoint;
use super::overlay::Overlay;
use super::overlay_map::Origin;
use super::reader::PointReader;
use crate::restore::Sectors;

/// Allocation that one answer tells, at most. Unit: runs.
const STATUS_COUNT_MAX: usize = 1_024;
/// Parts of one read that are under way at a time. Unit: parts.
const PART_COUNT_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct MountExport {
    disk: DiskId,
    name: String,
    seq: Seq,
    size: ByteLen,
    reader: PointReader,
    overlay: Option<Overlay>,
}

impl MountExport {
    /// The point, read-only unless there is an overlay to write to.
    pub fn new(point: &MountedPoint, overlay: Option<Overlay>) -> Self {
        Self {
            disk: point.disk,
            name: point.name.clone(),
            seq: point.seq,
            size: point.size,
            reader: point.reader.clone(),
            overlay,
        }
    }

    /// How much of the point holds data.
    pub(super) fn allocated(&self) -> ByteLen {
        let runs = self.reader.data(0..self.size.0 / SECTOR_LEN);
        ByteLen(runs.map(|run| (run.end - run.start) * SECTOR_LEN).sum())
    }

    fn overlay(&self) -> Result<&Overlay, Errno> {
        self.overlay.as_ref().ok_or(Errno::Perm)
    }

    async fn read_point(&self, sectors: &Sectors) -> Result<Bytes, Errno> {
        let extent = between(sectors)?;
        self.reader.read(extent).await.map_err(|error| {
            let source = std::error::Error::source(&*error).map(ToString::to_string);
            tracing::error!(
                disk = %self.disk, seq = %self.seq, %extent, object = %error.object(), %error,
                source = source.unwrap_or_default(), "the point cannot be read here"
            );
            Errno::Io
        })
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Errno + '_ {
        move |error| {
            let disk: &dyn Display = &self.disk;
            tracing::error!(%disk, %error, what, "the overlay fails");
            Errno::from_io(&error)
        }
    }

    /// Which parts of these sectors are of the overlay.
    fn spans(&self, sectors: Sectors) -> Vec<(Sectors, Origin)> {
        match &self.overlay {
            Some(overlay) => overlay.spans(sectors),
            None => vec![(sectors, Origin::Point)],
        }
    }

    /// Adds what is known of sectors of the point.
    fn add_status(&self, found: &mut Vec<Allocation>, sectors: &Sectors) {
        let mut at = sectors.start;
        for data in self.reader.data(sectors.clone()) {
            if STATUS_COUNT_MAX <= found.len() {
                return;
            }
            push(found, data.start - at, true);
            push(found, data.end - data.start, false);
            at = data.end;
        }
        push(found, sectors.end - at, true);
    }
}

impl Export for MountExport {
    fn describe(&self) -> ExportInfo {
        ExportInfo {
            size: self.size,
            blocks: BlockSizes::SECTORS,
            read_only: self.overlay.is_none(),
            multi_conn: true,
            trim: true,
            zeroes: ZeroSupport::Plain,
            description: format!("{} (disk {}) as of {}", self.name, self.disk, self.seq),
        }
    }

    async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, Errno> {
        let sectors = sectors_of(extent(at, len)?);
        let spans = self.spans(sectors.clone());
        if let [(_, Origin::Point)] = spans[..] {
            return self.read_point(&sectors).await;
        }
        let parts = futures::stream::iter(spans).map(async |(part, origin)| {
            let bytes = match origin {
                Origin::Point => self.read_point(&part).await,
                Origin::Overlay => {
                    let read = self.overlay()?.read(between(&part)?).await;
                    read.map_err(self.failed("read"))
                }
            };
            bytes.map(|bytes| (part, bytes))
        });
        let mut parts = std::pin::pin!(parts.buffer_unordered(PART_COUNT_MAX));
        let mut whole = vec![0; len as usize];
        while let Some((part, bytes)) = parts.try_next().await? {
            let from = (part.start - sectors.start) * SECTOR_LEN;
            let from = usize::try_from(from).map_err(|_| Errno::Inval)?;
            whole[from..from + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(whole.into())
    }

    async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), Errno> {
        let len = ByteLen(data.len() as u64);
        let extent = Extent::from_bytes(at, len).ok_or(Errno::Inval)?;
        let written = self.overlay()?.write(extent, data, fua).await;
        written.map_err(self.failed("write"))
    }

    async fn flush(&self) -> Result<(), Errno> {
        match &self.overlay {
            Some(overlay) => overlay.flush().await.map_err(self.failed("flush")),
            None => Ok(()),
        }
    }

    async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), Errno> {
        let trimmed = self.overlay()?.zero(extent(at, len)?, false, fua).await;
        trimmed.map_err(self.failed("trim"))
    }

    async fn write_zeroes(&self, at: ByteOffset, len: u32, flags: ZeroFlags) -> Result<(), Errno> {
        let zeroed = self
            .overlay()?
            .zero(extent(at, len)?, flags.no_hole, flags.fua);
        zeroed.await.map_err(self.failed("zero"))
    }

    async fn block_status(&self, at: ByteOffset, len: u32) -> Result<Vec<Allocation>, Errno> {
        let sectors = sectors_of(extent(at, len)?);
        let mut found = Vec::new();
        for (part, origin) in self.spans(sectors) {
            if STATUS_COUNT_MAX <= found.len() {
                break;
            }
            match origin {
                Origin::Point => self.add_status(&mut found, &part),
                // What was zeroed may be a hole; to call it data is always true.
                Origin::Overlay => push(&mut found, part.end - part.start, false),
            }
        }
        Ok(found)
    }
}

/// Adds sectors to what is known; nothing where there are none.
fn push(found: &mut Vec<Allocation>, sectors: u64, hole: bool) {
    let len = u32::try_from(sectors * SECTOR_LEN).expect("a part of a request");
    match found.last_mut() {
        Some(last) if last.hole == hole => last.len += len,
        _ if len == 0 => {}
        _ => found.push(Allocation {
            len,
            hole,
            zero: hole,
        }),
    }
}

fn extent(at: ByteOffset, len: u32) -> Result<Extent, Errno> {
    Extent::from_bytes(at, ByteLen(u64::from(len))).ok_or(Errno::Inval)
}

fn between(sectors: &Sectors) -> Result<Extent, Errno> {
    let [start, end] = [sectors.start, sectors.end].map(Lba::new);
    let extent = start
        .zip(end)
        .and_then(|(start, end)| Extent::between(start, end));
    extent.ok_or(Errno::Inval)
}

fn sectors_of(extent: Extent) -> Sectors {
    extent.start().sector()..extent.end().sector()
}
