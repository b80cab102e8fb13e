//! The directories of a `file://` vault, made where they are missing and durable before anything relies on
//! them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::backend::Fault;
use crate::file::not_done;
use crate::file::root::{DIRECTORY_FLAGS, DIRECTORY_MODE};
use crate::file::syncs::Syncs;

/// Most directories remembered as durable. A full memory is emptied; forgetting costs a few syncs.
const DURABLE_COUNT_MAX: usize = 4_096;

/// The directories whose entries, up to the root, this process has synced.
#[derive(Debug, Default)]
pub(super) struct Directories {
    durable: Mutex<HashSet<String>>,
}

impl Directories {
    /// A handle to the directory, after every entry from the root to it is durable. The directory's own
    /// entries are for the caller to sync.
    pub(super) fn durable(
        &self,
        root: impl AsFd,
        directory: &str,
        syncs: &Syncs,
    ) -> Result<OwnedFd, Fault> {
        if self.lock().contains(directory) {
            // Gone all the same, when an operator removed it: then it is made anew.
            match rustix::fs::openat(&root, directory, DIRECTORY_FLAGS, Mode::empty()) {
                Ok(handle) => return Ok(handle),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(not_done("open", PathBuf::from(directory), error)),
            }
        }
        let handle = make(root, directory, syncs)?;
        let mut durable = self.lock();
        if DURABLE_COUNT_MAX <= durable.len() {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(handle)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes down from the root, makes what is missing, and syncs each parent whether or not it made the child:
/// another thread or a process that died may have made it and not have synced it.
fn make(root: impl AsFd, directory: &str, syncs: &Syncs) -> Result<OwnedFd, Fault> {
    let failed = |operation, error| not_done(operation, PathBuf::from(directory), error);
    let open = |parent: &dyn AsFd, child: &str| {
        rustix::fs::openat(parent.as_fd(), child, DIRECTORY_FLAGS, Mode::empty())
    };
    let mut parent = open(&root, ".").map_err(|error| failed("open", error))?;
    let mut path = PathBuf::new();
    for segment in Path::new(directory)
        .iter()
        .filter_map(|segment| segment.to_str())
    {
        match rustix::fs::mkdirat(&parent, segment, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("make", error)),
        }
        let child = open(&parent, segment).map_err(|error| failed("open", error))?;
        syncs.directory(&parent, &path)?;
        path.push(segment);
        parent = child;
    }
    Ok(parent)
}
