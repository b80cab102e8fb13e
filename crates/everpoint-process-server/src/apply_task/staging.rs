//! Where the bytes of a window wait for their requests: a file without a name, given back with the window.
//!
//! It is no promise and is never synced: everything in it is in the vault.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everpoint_units::SECTOR_LEN;
use rustix::fs::{Mode, OFlags};

/// What all windows together hold. Unit: bytes.
#[derive(Debug, Default)]
pub(crate) struct StagedLen(AtomicU64);

impl StagedLen {
    pub(crate) fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One window's bytes.
#[derive(Debug)]
pub(crate) struct Arena {
    file: File,
    len: AtomicU64,
    all: Arc<StagedLen>,
}

impl Arena {
    /// An empty one in a directory.
    pub(crate) fn new(dir: &Path, all: Arc<StagedLen>) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::open(dir, flags, mode) {
            Ok(file) => File::from(file),
            // Not every filesystem has files without names.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => named(dir)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            file,
            len: AtomicU64::new(0),
            all,
        })
    }

    /// Puts whole sectors behind what is there; where they begin, in sectors.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let len = bytes.len() as u64;
        let at = self.len.fetch_add(len, Ordering::Relaxed);
        self.all.0.fetch_add(len, Ordering::Relaxed);
        self.file.write_all_at(bytes, at)?;
        Ok(at / SECTOR_LEN)
    }

    /// Fills `bytes` with what lies at a sector.
    pub(crate) fn read(&self, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, sector * SECTOR_LEN)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let len = *self.len.get_mut();
        self.all.0.fetch_sub(len, Ordering::Relaxed);
    }
}

fn named(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("{:032x}", rand::random::<u128>()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_and_counts_until_the_window_is_gone() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let all = Arc::new(StagedLen::default());
        let arena = Arena::new(dir.path(), Arc::clone(&all))?;
        assert_eq!(arena.append(&[1; 1_024])?, 0);
        assert_eq!(arena.append(&[2; 512])?, 2);
        let mut bytes = [0; 1_024];
        arena.read(1, &mut bytes)?;
        assert_eq!(
            (bytes[..512].to_vec(), bytes[512..].to_vec()),
            (vec![1; 512], vec![2; 512])
        );
        assert_eq!(all.used(), 1_536);
        assert_eq!(dir.path().read_dir()?.count(), 0);
        drop(arena);
        assert_eq!(all.used(), 0);
        Ok(())
    }
}
