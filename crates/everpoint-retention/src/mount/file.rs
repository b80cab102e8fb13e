//! A mounted point as a file: the export behind another door. It reads and writes nothing itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use everpoint_fuse::{Errno, FileInfo, FixedFile, Run};
use everpoint_nbd::{Export as _, ZeroFlags};
use everpoint_units::{ByteLen, DiskId, Extent, WallTime};

use super::MountedPoint;
use super::export::MountExport;

/// Longest disk name that a file is named after. Unit: bytes.
const NAME_LEN_MAX: usize = 200;
/// What follows the name.
const SUFFIX: &str = ".raw";

/// See the module.
#[derive(Debug)]
pub struct MountFile {
    export: MountExport,
    name: String,
    modified: SystemTime,
}

impl MountFile {
    /// The point, by the name of its disk, or by its id where the name is none for a file.
    pub fn new(point: &MountedPoint, export: MountExport) -> Self {
        Self {
            export,
            name: file_name(&point.name, point.disk),
            modified: point.time.map_or(UNIX_EPOCH, system_time),
        }
    }
}

impl FixedFile for MountFile {
    fn describe(&self) -> FileInfo {
        let info = self.export.describe();
        FileInfo {
            name: self.name.clone(),
            size: info.size,
            allocated: self.export.allocated(),
            writable: !info.read_only,
            modified: self.modified,
        }
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, Errno> {
        let read = self.export.read(extent.start().byte_offset(), len(extent)?);
        read.await.map_err(number)
    }

    async fn write(&self, extent: Extent, data: Bytes) -> Result<(), Errno> {
        let written = self.export.write(extent.start().byte_offset(), data, false);
        written.await.map_err(number)
    }

    async fn zero(&self, extent: Extent, keep: bool) -> Result<(), Errno> {
        let flags = ZeroFlags {
            no_hole: keep,
            ..ZeroFlags::default()
        };
        let at = extent.start().byte_offset();
        let zeroed = self.export.write_zeroes(at, len(extent)?, flags);
        zeroed.await.map_err(number)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.export.flush().await.map_err(number)
    }

    async fn runs(&self, extent: Extent) -> Result<Vec<Run>, Errno> {
        let at = extent.start().byte_offset();
        let found = self.export.block_status(at, len(extent)?).await;
        let found = found.map_err(number)?.into_iter();
        let runs = found.map(|allocation| Run {
            len: ByteLen(u64::from(allocation.len)),
            is_hole: allocation.hole && allocation.zero,
        });
        Ok(runs.collect())
    }
}

fn file_name(name: &str, disk: DiskId) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_one = (1..=NAME_LEN_MAX).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with(['.', '-']);
    if is_one {
        format!("{name}{SUFFIX}")
    } else {
        format!("{disk}{SUFFIX}")
    }
}

/// No request of a file is as long as what an export takes at once.
fn len(extent: Extent) -> Result<u32, Errno> {
    u32::try_from(extent.byte_len().0).map_err(|_| Errno::INVAL)
}

/// The protocol's numbers are the system's.
fn number(error: everpoint_nbd::Errno) -> Errno {
    let code = i32::try_from(error.code());
    code.map_or(Errno::IO, Errno::from_raw_os_error)
}

fn system_time(time: WallTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_whose_name_is_none_for_a_file_goes_by_its_id() {
        let disk: DiskId = "c7baab51-4c56-e20e-66c2-4572ecd690fd".parse().unwrap();
        assert_eq!(file_name("db-1.data", disk), "db-1.data.raw");
        for name in [
            "",
            "..",
            "../up",
            "a b",
            "-f",
            "gr\u{f6}\u{df}e",
            &"n".repeat(201),
        ] {
            assert_eq!(file_name(name, disk), format!("{disk}.raw"), "{name:?}");
        }
    }

    #[test]
    fn what_an_export_refuses_is_refused_by_the_system_s_number() {
        assert_eq!(number(everpoint_nbd::Errno::NoSpace), Errno::NOSPC);
        assert_eq!(number(everpoint_nbd::Errno::Perm), Errno::PERM);
        assert_eq!(number(everpoint_nbd::Errno::Io), Errno::IO);
        assert_eq!(number(everpoint_nbd::Errno::NotSup), Errno::OPNOTSUPP);
    }
}
