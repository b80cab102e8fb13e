//! The image that a restore writes: a staged file full of holes, or a block device zeroed beforehand.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use everpoint_units::{ByteLen, ByteOffset};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::RestoreError;
use super::pour::Part;

/// What a device does not hold before everything else is on it: partition table and first superblock. So a
/// restore that was cut off does not look like a disk. Unit: bytes.
const FRONT_LEN: usize = 1 << 20;
/// How much of a device is zeroed in one go. Unit: bytes.
pub(super) const ZERO_STEP: u64 = 256 << 20;
/// Most pieces of one write. Source: `IOV_MAX` of Linux is 1,024.
const PIECES_MAX: usize = 512;

/// See the module. Shared by the threads that write: parts that do not overlap need no order.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    path: PathBuf,
    /// The front of a device, held back.
    front: Option<Mutex<Vec<u8>>>,
}

impl Image {
    /// A fresh file, all holes.
    pub(super) fn of_file(file: File, path: PathBuf, len: ByteLen) -> Result<Self, RestoreError> {
        file.set_len(len.0).map_err(|source| RestoreError::File {
            operation: "set the length of",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            file,
            path,
            front: None,
        })
    }

    /// A device whose first `len` bytes become the image. They are to be zeroed by [`Self::zero`] first.
    pub(super) fn of_device(file: File, path: PathBuf, len: ByteLen) -> Self {
        let front = usize::try_from(len.0).map_or(FRONT_LEN, |len| len.min(FRONT_LEN));
        Self {
            file,
            path,
            front: Some(Mutex::new(vec![0; front])),
        }
    }

    pub(super) const fn is_device(&self) -> bool {
        self.front.is_some()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Zeroes a part of a device, by the device's own means where it has some.
    pub(super) fn zero(&self, at: ByteOffset, len: ByteLen) -> Result<(), RestoreError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, at.0, len.0) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => (),
            Err(error) => return Err(self.failed("zero", error.into())),
        }
        let zeroes = vec![0; 1 << 20];
        let mut done = 0;
        while done < len.0 {
            let step = (len.0 - done).min(zeroes.len() as u64);
            let piece = &zeroes[..usize::try_from(step).expect("at most 1 MiB")];
            self.file
                .write_all_at(piece, at.0 + done)
                .map_err(|source| self.failed("zero", source))?;
            done += step;
        }
        Ok(())
    }

    /// Writes parts, which rise and do not overlap; neighbours go out in one write.
    pub(super) fn write(&self, parts: &[Part]) -> Result<(), RestoreError> {
        let held = self.hold_back_front(parts);
        let mut rest = &parts[held..];
        while let Some(first) = rest.first() {
            let mut end = first.at.0;
            let joined = rest.iter().take(PIECES_MAX).take_while(|part| {
                let follows = part.at.0 == end;
                end = part.at.0 + part.bytes.len() as u64;
                follows
            });
            let count = joined.count();
            self.write_joined(&rest[..count])?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Keeps what belongs to a device's front, and says how many parts, from the first, lie in it whole. Of
    /// one that reaches out of it, [`Self::write_joined`] writes the rest.
    fn hold_back_front(&self, parts: &[Part]) -> usize {
        let Some(front) = &self.front else {
            return 0;
        };
        let mut front = front.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = 0;
        for part in parts {
            let Some(at) = usize::try_from(part.at.0)
                .ok()
                .filter(|&at| at < front.len())
            else {
                break;
            };
            let end = (at + part.bytes.len()).min(front.len());
            front[at..end].copy_from_slice(&part.bytes[..end - at]);
            whole += usize::from(end == at + part.bytes.len());
        }
        whole
    }

    /// Writes parts of which each begins where the one before ends.
    fn write_joined(&self, parts: &[Part]) -> Result<(), RestoreError> {
        let held = self.front.as_ref().map_or(0, |_| FRONT_LEN as u64);
        let mut at = parts[0].at.0;
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(&part.bytes)).collect();
        let mut slices = &mut slices[..];
        if at < held {
            let skip = usize::try_from(held - at).expect("at most 1 MiB");
            IoSlice::advance_slices(&mut slices, skip);
            at = held;
        }
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.file, slices, at) {
                Ok(0) => return Err(self.failed("write", io::ErrorKind::WriteZero.into())),
                Ok(len) => {
                    at += len as u64;
                    IoSlice::advance_slices(&mut slices, len);
                }
                Err(Errno::INTR) => (),
                Err(error) => return Err(self.failed("write", error.into())),
            }
        }
        Ok(())
    }

    /// Makes the image complete and durable: `tail`, if any, then everything synced, then a device's
    /// front.
    pub(super) fn complete(&self, tail: Option<(ByteOffset, &[u8])>) -> Result<(), RestoreError> {
        if let Some((at, bytes)) = tail {
            self.file
                .write_all_at(bytes, at.0)
                .map_err(|source| self.failed("write", source))?;
        }
        self.sync()?;
        let Some(front) = &self.front else {
            return Ok(());
        };
        let front = front.lock().unwrap_or_else(PoisonError::into_inner);
        self.file
            .write_all_at(&front, 0)
            .map_err(|source| self.failed("write", source))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), RestoreError> {
        self.file
            .sync_all()
            .map_err(|source| self.failed("sync", source))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> RestoreError {
        RestoreError::File {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}
