//! A directory in memory that fails as real disks fail: for tests and simulation.
//!
//! It keeps apart what a real machine keeps apart. Each file has a *medium* (what survives), a
//! *cached* view (what readers see) and the writes between them that no sync has covered. A power
//! cut keeps any subset of those, torn at 512 bytes, and any subset of the renames, creations and
//! removals that no sync of the directory has covered. A failed sync drops its writes from the list
//! and leaves them visible until the cache is dropped, as Linux does; the next sync succeeds.
//!
//! Everything is drawn from one seed, so a history can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everpoint_format::cache_log::RecordAlign;
use everpoint_units::{ByteLen, ByteOffset};

use super::{Entry, LogFile, Storage};
use crate::FileName;
use crate::buffer::BUFFER_ALIGN;

const SECTOR: usize = 512;

/// One directory in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

/// What goes wrong, and when. Operations are counted from 1 over the life of the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// The process dies at this operation: half of it may happen, and none after it.
    pub dies_at: Option<u64>,
    /// The first sync at or after this operation fails, and loses what it covered.
    pub sync_fails_at: Option<u64>,
    /// The first write at or after this operation fails with an I/O error.
    pub write_fails_at: Option<u64>,
    /// Bytes that all files together may take; writes and creations beyond fail for want of space.
    pub capacity: Option<u64>,
    /// Writes fail for want of space, also inside files, as on a copy-on-write file system.
    pub no_space_for_writes: bool,
    /// Syncs say that they succeeded and make nothing durable, neither contents nor names.
    pub syncs_lie: bool,
}

#[derive(Clone, Debug)]
struct Disk {
    align: RecordAlign,
    random: u64,
    operations: u64,
    faults: Faults,
    is_dead: bool,
    files: Vec<FileState>,
    names: BTreeMap<FileName, usize>,
    durable_names: BTreeMap<FileName, usize>,
    unsynced_names: Vec<NameChange>,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    medium: Vec<u8>,
    cached: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    bad_sectors: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
enum NameChange {
    Create(FileName, usize),
    Rename(FileName, FileName),
    Remove(FileName),
}

struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    index: usize,
}

impl MemoryStorage {
    /// An empty directory whose accidents are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            align: RecordAlign::Sector512,
            random: seed,
            operations: 0,
            faults: Faults::default(),
            is_dead: false,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// A disk of its own in the same state.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            disk: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// From now on, these faults.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// From now on, this alignment.
    pub fn set_align(&self, align: RecordAlign) {
        self.lock().align = align;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Whether `dies_at` was reached.
    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// Bytes that all files take.
    pub fn total_len(&self) -> u64 {
        let disk = self.lock();
        let used = disk.names.values();
        used.map(|&index| disk.files[index].cached.len() as u64)
            .sum()
    }

    /// The process is gone, the machine is not: what was written and not synced is still on its way,
    /// and readers see it.
    pub fn kill(&self) {
        let mut disk = self.lock();
        disk.is_dead = false;
        disk.faults = Faults::default();
    }

    /// The machine is gone: of what was not synced any part is kept. Faults end.
    pub fn cut_power(&self) {
        let mut disk = self.lock();
        disk.is_dead = false;
        disk.faults = Faults::default();
        disk.lose_unsynced_writes();
        disk.lose_unsynced_names();
    }

    /// Flips one bit of a file, on the medium and in the cached view.
    ///
    /// # Panics
    ///
    /// When there is no such file or byte.
    pub fn flip(&self, name: FileName, at: ByteOffset, bit: u8) {
        let at = index(at.0);
        self.lock().with_file(name, |file| {
            file.medium[at] ^= 1 << bit;
            file.cached[at] ^= 1 << bit;
        });
    }

    /// Flips a bit somewhere in a file's used part, drawn as accidents are, half of them in its last sector,
    /// where it may look like a write that was torn. Answers with the file, if anything was ever written.
    pub fn rot(&self) -> Option<FileName> {
        let mut disk = self.lock();
        let used = disk.used_sectors();
        if used.is_empty() {
            return None;
        }
        let (name, file, mut sector) = used[index(disk.draw(used.len() as u64))];
        if disk.draw(2) == 0 {
            let of_file = used.iter().filter(|(_, of, _)| *of == file);
            sector = of_file
                .map(|(_, _, sector)| *sector)
                .max()
                .unwrap_or(sector);
        }
        let at = sector * SECTOR + index(disk.draw(SECTOR as u64));
        let bit = 1 << disk.draw(8);
        let file = &mut disk.files[file];
        file.cached[at] ^= bit;
        if let Some(byte) = file.medium.get_mut(at) {
            *byte ^= bit;
        }
        Some(name)
    }

    /// Makes the 512 bytes around `at` unreadable until they are written again.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn spoil(&self, name: FileName, at: ByteOffset) {
        let sector = index(at.0) / SECTOR;
        self.lock().with_file(name, |file| {
            file.bad_sectors.insert(sector);
        });
    }

    /// Removes a file, durably, as an accident would.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn lose(&self, name: FileName) {
        let mut disk = self.lock();
        disk.names.remove(&name).expect("the file exists");
        disk.durable_names.remove(&name);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, index: usize) -> Box<dyn LogFile> {
        Box::new(MemoryFile {
            disk: Arc::clone(&self.disk),
            index,
        })
    }
}

impl Storage for MemoryStorage {
    fn record_align(&self) -> RecordAlign {
        self.lock().align
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.lock().step(|disk| {
            let entry = |(&name, &index): (&FileName, &usize)| Entry {
                name,
                len: ByteLen(disk.files[index].cached.len() as u64),
                refusal: None,
            };
            Ok(disk.names.iter().map(entry).collect())
        })
    }

    fn create(&self, name: FileName, len: ByteLen) -> io::Result<Box<dyn LogFile>> {
        let index = self.lock().step(|disk| {
            if disk.names.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let index = disk.files.len();
            disk.files.push(FileState::default());
            disk.change_names(NameChange::Create(name, index));
            disk.needs_room(len.0)?;
            Ok(index)
        })?;
        Ok(self.file(index))
    }

    fn open(&self, name: FileName) -> io::Result<Box<dyn LogFile>> {
        let found = self
            .lock()
            .step(|disk| Ok(disk.names.get(&name).copied()))?;
        let index = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(index))
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        self.lock().step(|disk| {
            assert!(!disk.names.contains_key(&to), "{to} would be replaced");
            disk.change_names(NameChange::Rename(from, to));
            Ok(())
        })
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.lock().step(|disk| {
            disk.change_names(NameChange::Remove(name));
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.lock().step(|disk| {
            if disk.faults.syncs_lie {
                return Ok(());
            }
            disk.unsynced_names.clear();
            if disk.sync_fails() {
                return Err(input_output_error());
            }
            disk.durable_names = disk.names.clone();
            Ok(())
        })
    }
}

impl MemoryFile {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile for MemoryFile {
    fn write(&self, bytes: &[u8], at: ByteOffset) -> io::Result<()> {
        self.lock().step(|disk| {
            check_alignment(bytes, at.0, disk.align.step());
            if due(&mut disk.faults.write_fails_at, disk.operations) {
                return Err(input_output_error());
            }
            let end = at.0 + bytes.len() as u64;
            let grown = end.saturating_sub(disk.files[self.index].cached.len() as u64);
            if disk.faults.no_space_for_writes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.needs_room(grown)?;
            let sectors = bytes.len() / SECTOR;
            let written = if disk.is_dead {
                index(disk.draw(sectors as u64 + 1)) * SECTOR
            } else {
                bytes.len()
            };
            disk.files[self.index].write(index(at.0), &bytes[..written]);
            Ok(())
        })
    }

    fn read(&self, into: &mut [u8], at: ByteOffset) -> io::Result<()> {
        self.lock().step(|disk| {
            check_alignment(into, at.0, BUFFER_ALIGN as u64);
            let file = &disk.files[self.index];
            let (start, end) = (index(at.0), index(at.0) + into.len());
            let Some(bytes) = file.cached.get(start..end) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let sectors = start / SECTOR..end.div_ceil(SECTOR);
            if file.bad_sectors.range(sectors).next().is_some() {
                return Err(input_output_error());
            }
            into.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.lock().step(|disk| {
            if disk.faults.syncs_lie {
                return Ok(());
            }
            let fails = disk.sync_fails();
            let file = &mut disk.files[self.index];
            let unsynced = std::mem::take(&mut file.unsynced);
            if fails {
                return Err(input_output_error());
            }
            for (at, bytes) in unsynced {
                file.keep(at, &bytes);
            }
            Ok(())
        })
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.lock().step(|disk| {
            disk.files[self.index].forget();
            Ok(())
        })
    }
}

impl Disk {
    /// Counts an operation and does it. If the process dies here it is done or not, and the caller
    /// never hears which.
    fn step<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if self.is_dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.operations += 1;
        self.is_dead = self.faults.dies_at.is_some_and(|at| at <= self.operations);
        if self.is_dead && self.draw(2) == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let answer = act(self);
        if self.is_dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        answer
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn sync_fails(&mut self) -> bool {
        due(&mut self.faults.sync_fails_at, self.operations)
    }

    fn needs_room(&self, grown: u64) -> io::Result<()> {
        let files = self.names.values().map(|&index| &self.files[index]);
        let used: u64 = files.map(|file| file.cached.len() as u64).sum();
        match self.faults.capacity {
            Some(capacity) if 0 < grown && capacity < used + grown => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Sectors that hold anything, by file.
    fn used_sectors(&self) -> Vec<(FileName, usize, usize)> {
        let sectors = self.names.iter().flat_map(|(&name, &file)| {
            let sectors = self.files[file].cached.chunks(SECTOR).enumerate();
            let used = sectors.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
            used.map(move |(sector, _)| (name, file, sector))
        });
        sectors.collect()
    }

    fn with_file(&mut self, name: FileName, change: impl FnOnce(&mut FileState)) {
        let index = *self.names.get(&name).expect("the file exists");
        change(&mut self.files[index]);
    }

    fn lose_unsynced_writes(&mut self) {
        for index in 0..self.files.len() {
            let unsynced = std::mem::take(&mut self.files[index].unsynced);
            let mode = self.draw(4);
            let cut = self.draw(unsynced.len() as u64 + 1);
            for (number, (at, bytes)) in unsynced.into_iter().enumerate() {
                for (sector, piece) in bytes.chunks(SECTOR).enumerate() {
                    let is_kept = match mode {
                        0 => false,
                        1 => true,
                        2 => (number as u64) < cut,
                        _ => self.draw(2) == 0,
                    };
                    if is_kept {
                        self.files[index].keep(at + sector * SECTOR, piece);
                    }
                }
            }
            self.files[index].forget();
        }
    }

    fn lose_unsynced_names(&mut self) {
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.draw(2) == 0 {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
    }

    /// A number below `bound` (splitmix64, Steele et al. 2014).
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl FileState {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.cached, at, bytes);
        self.unsynced.push((at, bytes.to_vec()));
        let sectors = at / SECTOR..(at + bytes.len()).div_ceil(SECTOR);
        self.bad_sectors.retain(|sector| !sectors.contains(sector));
    }

    /// Bytes reach the medium.
    fn keep(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.medium, at, bytes);
    }

    /// The cached view becomes the medium and the writes that are still on their way to it.
    fn forget(&mut self) {
        self.cached = self.medium.clone();
        for (at, bytes) in &self.unsynced {
            put(&mut self.cached, *at, bytes);
        }
    }
}

impl NameChange {
    /// Nothing, if an earlier change that this one builds on was lost.
    fn apply(self, names: &mut BTreeMap<FileName, usize>) {
        match self {
            Self::Create(name, index) => {
                names.insert(name, index);
            }
            Self::Rename(from, to) => {
                if let Some(index) = names.remove(&from) {
                    names.insert(to, index);
                }
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

fn put(into: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[at..end].copy_from_slice(bytes);
}

/// Whether a fault that strikes once is due, and strikes.
fn due(fault: &mut Option<u64>, operations: u64) -> bool {
    fault.take_if(|at| *at <= operations).is_some()
}

fn check_alignment(bytes: &[u8], at: u64, step: u64) {
    assert!(at.is_multiple_of(step), "offset {at} is not aligned");
    let len = bytes.len() as u64;
    assert!(len.is_multiple_of(step), "length {len} is not aligned");
    let gap = bytes.as_ptr().align_offset(BUFFER_ALIGN);
    assert_eq!(gap, 0, "the buffer is not aligned");
}

fn input_output_error() -> io::Error {
    rustix::io::Errno::IO.into()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a file in memory is small")
}

#[cfg(test)]
mod tests;
