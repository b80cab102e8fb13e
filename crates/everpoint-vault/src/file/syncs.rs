//! Syncs, and the memory that one has failed.
//!
//! After a failed `fsync` Linux marks the pages clean: the next one succeeds and the bytes are gone. So
//! no sync is tried again: the first failure poisons the backend, and every later create gives it as its
//! answer until the process ends. EINTR counts as a failure like any other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use crate::backend::Fault;
use crate::error::SyncFailure;

/// Where bytes come to rest. One implementation asks the kernel; tests watch, and break it.
pub(crate) trait Medium: Send + Sync {
    /// Bytes and length of a file.
    fn sync_file(&self, file: BorrowedFd<'_>, what: &Path) -> io::Result<()>;

    /// The entries of a directory.
    fn sync_directory(&self, directory: BorrowedFd<'_>, what: &Path) -> io::Result<()>;
}

/// The medium that is there.
pub(super) struct Kernel;

/// All syncs of one backend go through here.
pub(super) struct Syncs {
    medium: Box<dyn Medium>,
    failure: OnceLock<SyncFailure>,
}

impl Medium for Kernel {
    fn sync_file(&self, file: BorrowedFd<'_>, _: &Path) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(file)?)
    }

    fn sync_directory(&self, directory: BorrowedFd<'_>, _: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(directory)?)
    }
}

impl Syncs {
    pub(super) fn new(medium: Box<dyn Medium>) -> Self {
        Self {
            medium,
            failure: OnceLock::new(),
        }
    }

    /// The first failure, for ever.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match self.failure.get() {
            Some(failure) => Err(Fault::SyncFailed(failure.clone())),
            None => Ok(()),
        }
    }

    /// Makes a file's bytes and length durable.
    pub(super) fn file(&self, file: impl AsFd, what: &Path) -> Result<(), Fault> {
        self.check()?;
        let outcome = self.medium.sync_file(file.as_fd(), what);
        self.note(outcome, what)
    }

    /// Makes a directory's entries durable.
    pub(super) fn directory(&self, directory: impl AsFd, what: &Path) -> Result<(), Fault> {
        self.check()?;
        let outcome = self.medium.sync_directory(directory.as_fd(), what);
        self.note(outcome, what)
    }

    fn note(&self, outcome: io::Result<()>, what: &Path) -> Result<(), Fault> {
        let Err(error) = outcome else {
            return Ok(());
        };
        let failure = SyncFailure::new(what.to_owned(), &error);
        let first = self.failure.get_or_init(|| failure);
        Err(Fault::SyncFailed(first.clone()))
    }
}
