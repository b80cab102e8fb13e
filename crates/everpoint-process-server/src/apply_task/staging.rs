//! Where the bytes of a window wait for their requests: a file without a name. One whose window is gone is used again,
//! because a page that the kernel has at hand costs less than a new one.
//!
//! It is no promise and is never synced: everything in it is in the vault.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use everpoint_units::SECTOR_LEN;
use rustix::fs::{Mode, OFlags};

/// The share of what windows may hold that is kept in files that none uses, as one part of so many.
const SPARE_PART: u64 = 8;
/// Files that are kept for later, at most.
const SPARES_MAX: usize = 64;
/// Files of windows at once, from which on there is little room.
const ARENAS_MAX: u64 = 1_024;

/// All windows' bytes, in one directory.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    /// Unit: bytes.
    len_max: u64,
    used: AtomicU64,
    arenas: AtomicU64,
    spares: Mutex<Vec<Place>>,
}

/// One window's bytes.
#[derive(Debug)]
pub(crate) struct Arena {
    /// None only while it is dropped.
    place: Option<Place>,
    len: AtomicU64,
    staging: Arc<Staging>,
}

/// A file, and how long it was at most.
#[derive(Debug)]
struct Place {
    file: File,
    /// Unit: bytes.
    len: u64,
}

impl Staging {
    /// In a directory, which exists; windows are to hold at most so many bytes together.
    pub(crate) fn new(dir: &Path, len_max: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            len_max,
            used: AtomicU64::new(0),
            arenas: AtomicU64::new(0),
            spares: Mutex::default(),
        }
    }

    /// A place for the bytes of a window.
    pub(crate) fn arena(self: &Arc<Self>) -> io::Result<Arena> {
        let spare = self.spares().pop();
        let place = match spare {
            Some(place) => place,
            None => Place {
                file: nameless(&self.dir)?,
                len: 0,
            },
        };
        self.arenas.fetch_add(1, Ordering::Relaxed);
        Ok(Arena {
            place: Some(place),
            len: AtomicU64::new(0),
            staging: Arc::clone(self),
        })
    }

    /// Whether windows hold all that they may.
    pub(crate) fn is_full(&self) -> bool {
        self.len_max <= self.used.load(Ordering::Relaxed)
    }

    /// Whether they hold half of it, or are many.
    pub(crate) fn is_crowded(&self) -> bool {
        self.len_max / 2 <= self.used.load(Ordering::Relaxed)
            || ARENAS_MAX <= self.arenas.load(Ordering::Relaxed)
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, place: Place) {
        let mut spares = self.spares();
        let len: u64 = spares.iter().map(|spare| spare.len).sum();
        if spares.len() < SPARES_MAX && len + place.len <= self.len_max / SPARE_PART {
            spares.push(place);
        }
    }
}

impl Arena {
    /// Puts whole sectors behind what is there; where they begin, in sectors.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let len = bytes.len() as u64;
        let at = self.len.fetch_add(len, Ordering::Relaxed);
        self.staging.used.fetch_add(len, Ordering::Relaxed);
        self.file().write_all_at(bytes, at)?;
        Ok(at / SECTOR_LEN)
    }

    /// Fills `bytes` with what lies at a sector.
    pub(crate) fn read(&self, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file().read_exact_at(bytes, sector * SECTOR_LEN)
    }

    fn file(&self) -> &File {
        &self.place.as_ref().expect("it is not dropped").file
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let len = *self.len.get_mut();
        self.staging.used.fetch_sub(len, Ordering::Relaxed);
        self.staging.arenas.fetch_sub(1, Ordering::Relaxed);
        if let Some(mut place) = self.place.take() {
            place.len = place.len.max(len);
            self.staging.give_back(place);
        }
    }
}

fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(dir, flags, mode) {
        Ok(file) => Ok(File::from(file)),
        // Not every filesystem has files without names.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => named(dir),
        Err(error) => Err(error.into()),
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

    fn read(arena: &Arena, sector: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        arena.read(sector, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_appended_is_read_and_counts_until_the_window_is_gone() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let staging = Arc::new(Staging::new(dir.path(), 3_072));
        let arena = staging.arena()?;
        assert_eq!(arena.append(&[1; 1_024])?, 0);
        assert!(!staging.is_crowded());
        assert_eq!(arena.append(&[2; 512])?, 2);
        assert_eq!(read(&arena, 1, 1_024), [[1; 512], [2; 512]].concat());
        assert!(staging.is_crowded() && !staging.is_full());
        arena.append(&[3; 1_536])?;
        assert!(staging.is_full());
        assert_eq!(dir.path().read_dir()?.count(), 0);
        drop(arena);
        assert!(!staging.is_crowded());
        Ok(())
    }

    #[test]
    fn a_file_is_used_again_unless_it_is_too_long() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let staging = Arc::new(Staging::new(dir.path(), SPARE_PART * 1_024));
        let long = staging.arena()?;
        long.append(&[1; 2_048])?;
        drop(long);
        assert_eq!(staging.spares().len(), 0);
        let [one, other] = [staging.arena()?, staging.arena()?];
        for arena in [&one, &other] {
            arena.append(&[2; 1_024])?;
        }
        drop((one, other));
        assert_eq!(staging.spares().len(), 1);
        let again = staging.arena()?;
        assert_eq!(staging.spares().len(), 0);
        assert_eq!(again.append(&[3; 512])?, 0);
        assert_eq!(read(&again, 0, 512), [3; 512]);
        drop(again);
        // It is as long as it ever was.
        assert_eq!(staging.spares()[0].len, 1_024);
        Ok(())
    }

    #[test]
    fn many_windows_leave_little_room() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let staging = Arc::new(Staging::new(dir.path(), 1 << 30));
        let _arena = staging.arena()?;
        staging.arenas.fetch_add(ARENAS_MAX - 2, Ordering::Relaxed);
        assert!(!staging.is_crowded());
        let _one_more = staging.arena()?;
        assert!(staging.is_crowded());
        Ok(())
    }
}
