//! An open file whose writes last once they are synced, and of which nothing is trusted after a sync that failed.
//!
//! The kernel says once that it could not write pages, to whoever syncs next, who need not be the one that wrote them,
//! and takes them for written from then on. So one sync runs at a time, and none after one that failed.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Who makes files durable: the kernel, or a test that has it fail.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// All that was written to the file before this was called, and its length, last when it returns.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug)]
pub(super) struct Kernel;

/// See the module.
#[derive(Debug)]
pub(super) struct Durable {
    file: File,
    disk: Arc<dyn Disk>,
    /// The number of the last sync that was begun.
    begun: Mutex<u64>,
    /// The number of the last one that succeeded; held while one runs.
    done: Mutex<u64>,
    failure: OnceLock<String>,
}

/// Something was written before this was had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Syncs of higher numbers begin later.
    after: u64,
}

/// It is not known to last; [`Durable::failure`] says why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotDurable;

impl Disk for Kernel {
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

impl Durable {
    pub(super) const fn new(file: File, disk: Arc<dyn Disk>) -> Self {
        Self {
            file,
            disk,
            begun: Mutex::new(0),
            done: Mutex::new(0),
            failure: OnceLock::new(),
        }
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// What was written up to now is to last.
    pub(super) fn written(&self) -> Written {
        let after = *lock(&self.begun);
        Written { after }
    }

    /// Makes it last, unless a sync that began later has done so. Waits for the one that runs.
    pub(super) fn sync(&self, written: Written) -> Result<(), NotDurable> {
        let mut done = lock(&self.done);
        if self.failure().is_some() {
            return Err(NotDurable);
        }
        if written.after < *done {
            return Ok(());
        }
        let number = {
            let mut begun = lock(&self.begun);
            *begun += 1;
            *begun
        };
        match self.disk.sync(&self.file) {
            Ok(()) => {
                *done = number;
                Ok(())
            }
            Err(error) => {
                self.failure.get_or_init(|| error.to_string());
                Err(NotDurable)
            }
        }
    }

    /// Why nothing of it is trusted any more; `None` while it is.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

fn lock(number: &Mutex<u64>) -> MutexGuard<'_, u64> {
    number.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Fails in its third sync, and in no other.
    #[derive(Debug, Default)]
    struct Third(AtomicU64);

    impl Disk for Third {
        fn sync(&self, _: &File) -> io::Result<()> {
            match self.0.fetch_add(1, Ordering::Relaxed) + 1 {
                3 => Err(io::Error::other("lost")),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn a_sync_is_for_all_that_was_written_before_it_began_and_none_follows_one_that_failed() {
        let disk = Arc::new(Third::default());
        let shared: Arc<dyn Disk> = disk.clone();
        let durable = Durable::new(tempfile::tempfile().unwrap(), shared);
        let syncs = || disk.0.load(Ordering::Relaxed);
        let (first, second) = (durable.written(), durable.written());
        assert_eq!(durable.sync(first), Ok(()));
        assert_eq!(durable.sync(second), Ok(()));
        assert_eq!(syncs(), 1);
        let third = durable.written();
        assert_eq!(durable.sync(third), Ok(()));
        assert_eq!((syncs(), durable.failure()), (2, None));
        let lost = durable.written();
        for _ in 0..2 {
            assert_eq!(durable.sync(lost), Err(NotDurable));
            assert_eq!(durable.sync(third), Err(NotDurable), "also what lasted");
            assert_eq!((syncs(), durable.failure()), (3, Some("lost")));
        }
    }
}
