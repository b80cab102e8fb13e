//! What a writable mount writes: a sparse file of this machine, as long as the disk, and which sectors of it count.
//!
//! A request is whole sectors, and sectors are what is remembered, so nothing is ever filled in from the point.
//! What was zeroed or discarded is a hole of the file. Nothing of it goes to the vault.
//!
//! Unless it is to be kept, the file loses its name as soon as it is made: nothing stays, however the mount ends.
//! A kept overlay has a list beside it (`.sectors`, written when it is closed): a line for each run of sectors that
//! was written, first and count. The rest of the file is the point's to say.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use everpoint_units::{ByteLen, Extent};
use rand::Rng as _;
use rustix::fs::{FallocateFlags, fallocate};

use super::overlay_map::{Origin, OverlayMap};
use crate::joined::unless_panicked;
use crate::restore::Sectors;

/// Zeroes are written in pieces of this length where a file can have no holes. Unit: bytes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Where an overlay is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OverlayPlace {
    /// Somewhere in this directory, without a name.
    Nameless(PathBuf),
    /// In this file, which must not be there yet, and stays.
    Kept(PathBuf),
}

/// Why there is no overlay, or no list of what a kept one holds.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct OverlayError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// See the module. Clones are the same overlay.
#[derive(Clone, Debug)]
pub struct Overlay(Arc<Written>);

#[derive(Debug)]
struct Written {
    file: File,
    /// Where it stays.
    kept: Option<PathBuf>,
    map: Mutex<OverlayMap>,
    /// Whether a sync failed. Held while one runs: the kernel tells of lost pages once, to whoever asks next.
    sync_failed: Mutex<bool>,
}

impl Overlay {
    /// Makes an empty one for a disk of this size.
    ///
    /// # Errors
    ///
    /// Where the file cannot be made, or is there already.
    pub fn create(place: &OverlayPlace, size: ByteLen) -> Result<Self, OverlayError> {
        let (path, kept) = match place {
            OverlayPlace::Nameless(directory) => {
                let name = format!("everpoint-overlay-{:032x}", rand::rng().random::<u128>());
                (directory.join(name), None)
            }
            OverlayPlace::Kept(path) => (path.clone(), Some(path.clone())),
        };
        let failed = |operation| {
            let path = path.clone();
            move |source| OverlayError {
                operation,
                path,
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("cannot make"))?;
        if kept.is_none() {
            std::fs::remove_file(&path).map_err(failed("cannot remove"))?;
        }
        file.set_len(size.0).map_err(failed("cannot lengthen"))?;
        Ok(Self(Arc::new(Written {
            file,
            kept,
            map: Mutex::default(),
            sync_failed: Mutex::new(false),
        })))
    }

    /// Where it stays, if it does.
    pub fn kept(&self) -> Option<&Path> {
        self.0.kept.as_deref()
    }

    /// Makes what is to be kept durable, and says which sectors it holds. Nobody writes any more.
    ///
    /// # Errors
    ///
    /// Where the list cannot be written.
    pub fn close(self) -> Result<(), OverlayError> {
        let Some(path) = &self.0.kept else {
            return Ok(());
        };
        let mut list = path.clone().into_os_string();
        list.push(".sectors");
        let list = PathBuf::from(list);
        let mut text = String::new();
        for sectors in self.0.map().written() {
            text += &format!("{} {}\n", sectors.start, sectors.end - sectors.start);
        }
        let written = self.0.sync().and_then(|()| {
            let mut file = File::create(&list)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|source| OverlayError {
            operation: "cannot write",
            path: list,
            source,
        })
    }

    /// Where each of these sectors is read from.
    pub(super) fn spans(&self, sectors: Sectors) -> Vec<(Sectors, Origin)> {
        self.0.map().spans(sectors)
    }

    /// Reads sectors that are the overlay's.
    pub(super) async fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.on_a_thread(move |written| {
            let len = usize::try_from(extent.byte_len().0).expect("a target has 64 bits");
            let mut bytes = vec![0; len];
            let at = extent.start().byte_offset().0;
            written.file.read_exact_at(&mut bytes, at)?;
            Ok(bytes.into())
        })
        .await
    }

    /// Writes `bytes` over the extent. They count once all of them are in the file.
    pub(super) async fn write(&self, extent: Extent, bytes: Bytes, fua: bool) -> io::Result<()> {
        self.on_a_thread(move |written| {
            let at = extent.start().byte_offset().0;
            written.file.write_all_at(&bytes, at)?;
            written.mark(extent, fua)
        })
        .await
    }

    /// Makes the extent read as zeroes; with `no_hole` it keeps its place in the file.
    pub(super) async fn zero(&self, extent: Extent, no_hole: bool, fua: bool) -> io::Result<()> {
        self.on_a_thread(move |written| {
            written.zero(extent, no_hole)?;
            written.mark(extent, fua)
        })
        .await
    }

    /// Makes everything durable that was written before.
    pub(super) async fn flush(&self) -> io::Result<()> {
        self.on_a_thread(Written::sync).await
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Written) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let written = Arc::clone(&self.0);
        unless_panicked(tokio::task::spawn_blocking(move || work(&written)).await).await
    }
}

impl Written {
    fn map(&self) -> MutexGuard<'_, OverlayMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, extent: Extent, fua: bool) -> io::Result<()> {
        let sectors = extent.start().sector()..extent.end().sector();
        self.map().mark(sectors);
        if fua { self.sync() } else { Ok(()) }
    }

    fn zero(&self, extent: Extent, no_hole: bool) -> io::Result<()> {
        let how = if no_hole {
            FallocateFlags::ZERO_RANGE
        } else {
            FallocateFlags::PUNCH_HOLE
        };
        let (at, len) = (extent.start().byte_offset().0, extent.byte_len().0);
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, at, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeroes(at, len),
            done => done.map_err(io::Error::from),
        }
    }

    fn write_zeroes(&self, at: u64, len: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROES.len() as u64);
            let step_len = usize::try_from(step).expect("less than 64 KiB");
            self.file.write_all_at(&ZEROES[..step_len], at + done)?;
            done += step;
        }
        Ok(())
    }

    /// One sync at a time, and none after one that failed: what was lost is lost.
    fn sync(&self) -> io::Result<()> {
        let failed = self.sync_failed.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use everpoint_units::{Lba, SECTOR_LEN};

    use super::*;

    fn extent(start: u64, sectors: u32) -> Extent {
        let sectors = NonZeroU32::new(sectors).expect("not empty");
        Extent::new(Lba::new(start).expect("small"), sectors).expect("small")
    }

    fn entries(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_nameless_overlay_is_never_seen_and_a_kept_one_says_which_sectors_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let size = ByteLen(1 << 20);
        let nameless = OverlayPlace::Nameless(directory.path().into());
        let nameless = Overlay::create(&nameless, size).unwrap();
        nameless
            .write(extent(0, 1), vec![1; 512].into(), true)
            .await
            .unwrap();
        assert_eq!(entries(directory.path()), [""; 0]);
        nameless.close().unwrap();

        let place = OverlayPlace::Kept(directory.path().join("kept"));
        let kept = Overlay::create(&place, size).unwrap();
        kept.write(extent(8, 2), vec![2; 1_024].into(), false)
            .await
            .unwrap();
        kept.zero(extent(100, 4), false, false).await.unwrap();
        kept.close().unwrap();
        assert_eq!(entries(directory.path()), ["kept", "kept.sectors"]);
        let list = std::fs::read_to_string(directory.path().join("kept.sectors")).unwrap();
        assert_eq!(list, "8 2\n100 4\n");
        let again = Overlay::create(&place, size).unwrap_err();
        assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
    }

    #[tokio::test]
    async fn what_was_written_and_then_zeroed_reads_as_zeroes_with_and_without_a_hole() {
        let directory = tempfile::tempdir().unwrap();
        let place = OverlayPlace::Nameless(directory.path().into());
        let overlay = Overlay::create(&place, ByteLen(1 << 20)).unwrap();
        for no_hole in [false, true] {
            overlay
                .write(extent(3, 9), vec![7; 9 * 512].into(), false)
                .await
                .unwrap();
            overlay.zero(extent(4, 2), no_hole, true).await.unwrap();
            let mut expected = vec![7; 9 * 512];
            expected[512..3 * 512].fill(0);
            assert!(overlay.read(extent(3, 9)).await.unwrap() == expected);
        }
        let at = |sector: u64| sector * SECTOR_LEN;
        overlay.0.write_zeroes(at(3), at(9)).unwrap();
        assert!(overlay.read(extent(3, 9)).await.unwrap() == vec![0; 9 * 512]);
    }

    #[tokio::test]
    async fn no_sync_is_tried_after_one_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let place = OverlayPlace::Nameless(directory.path().into());
        let overlay = Overlay::create(&place, ByteLen(1 << 20)).unwrap();
        overlay.flush().await.unwrap();
        *overlay.0.sync_failed.lock().unwrap() = true;
        assert!(overlay.flush().await.is_err());
        assert!(
            overlay
                .write(extent(0, 1), vec![1; 512].into(), true)
                .await
                .is_err()
        );
    }
}
