//! The `file://` backend: a vault in a directory that survives kills and power loss.
//!
//! ```text
//! <root>/v1/journal/3-5a0c/00000000000000000001     objects, at their names
//! <root>/staged/00000000000000000001.<16 hex>       objects being written, not yet created
//! ```
//!
//! # How an object is created
//!
//! 1. The root is opened, and must be the directory that [`crate::Vault::open`] found. All that follows
//!    goes through this handle, never by path, so nothing is written into a directory that took its place.
//! 2. Directories are made where they are missing; each entry on the way is synced once in the life of this
//!    process, *also those that were found*: who made them may have died before its sync.
//! 3. The bytes go to a staged file, locked (`flock`) while its writer lives; `fdatasync`.
//! 4. `link(2)` to the name: it fails if the name exists, and a name that is visible has all its bytes.
//! 5. The staged name goes; `fsync` of the directory.
//! 6. The path of the root must still lead to the directory of step 1.
//!
//! A crash leaves at most a staged file. Staged files are outside `v1/`, so no listing sees them; an open
//! that asks for it removes those whose lock is free. Taking one from a living writer (a lock lost, a
//! tidy operator) costs that writer a repetition, nothing else.
//!
//! Any error of a sync poisons the backend: see [`syncs`].
//!
//! Left out: deletion (nothing in the vault is deleted yet) and any repair.

mod directories;
mod list;
mod network;
mod read;
mod root;
mod staged;
mod syncs;
#[cfg(test)]
mod tests;
mod turns;
mod write;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use everpoint_units::ByteLen;
use futures::FutureExt as _;
use rustix::io::Errno;

pub use staged::STAGED_DIRECTORY;

use crate::backend::{Attempt, Backend, Comparison, Fault, Found, Landed, Part};
use crate::blocking::Blocking;
use crate::config::{OpenOptions, VaultConfig};
use crate::error::{Cause, OpenError};
use crate::file::directories::Directories;
use crate::file::root::Root;
use crate::file::staged::Staged;
use crate::file::syncs::{Medium, Syncs};
use crate::file::turns::{Turn, Turns};
use crate::file::write::Buffers;
use crate::name::{ObjectName, ObjectPrefix};
use crate::payload::Payload;
use crate::vault::Page;

/// A vault in a directory.
pub(crate) struct FileBackend {
    blocking: Blocking,
    turns: Turns,
    files: Arc<Files>,
}

/// What the jobs on blocking threads share.
struct Files {
    root: Root,
    syncs: Syncs,
    directories: Directories,
    buffers: Buffers,
}

impl FileBackend {
    /// Opens the directory; see [`OpenOptions`] for what that includes.
    pub(crate) async fn open(
        directory: &Path,
        config: &VaultConfig,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        Self::open_on(Box::new(syncs::Kernel), directory, config, options).await
    }

    /// As [`Self::open`], with the syncs going to `medium`.
    pub(crate) async fn open_on(
        medium: Box<dyn Medium>,
        directory: &Path,
        config: &VaultConfig,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let blocking = Blocking::new(config.blocking_threads_max);
        let buffer_count_max = config.blocking_threads_max;
        let directory = directory.to_owned();
        let opened = blocking.run(move || {
            Ok(Files::open(
                Syncs::new(medium),
                &directory,
                buffer_count_max,
                options,
            ))
        });
        let after = Duration::from_millis(config.retry.attempt_ms_max);
        let files = match tokio::time::timeout(after, opened).await {
            Ok(Ok(files)) => files?,
            Ok(Err(fault)) => {
                let source = fault.into_cause();
                return Err(OpenError::Unavailable { source });
            }
            Err(_) => {
                let source = Cause::TimedOut { after };
                return Err(OpenError::Unavailable { source });
            }
        };
        Ok(Self {
            blocking,
            turns: Turns::default(),
            files: Arc::new(files),
        })
    }

    /// Runs one job over the files on a blocking thread.
    fn run<'a, T: Send + 'static>(
        &'a self,
        job: impl FnOnce(&Files) -> Result<T, Fault> + Send + 'static,
    ) -> Attempt<'a, T> {
        let files = Arc::clone(&self.files);
        self.blocking.run(move || job(&files)).boxed()
    }
}

impl Backend for FileBackend {
    fn create<'a>(&'a self, name: &'a ObjectName, payload: &'a Payload) -> Attempt<'a, Landed> {
        async move {
            let turn = self.turns.take(name, payload).await;
            let (name, payload) = (name.clone(), payload.clone());
            self.run(move |files| files.create(&name, &payload, &turn))
                .await
        }
        .boxed()
    }

    fn compare<'a>(
        &'a self,
        name: &'a ObjectName,
        payload: &'a Payload,
    ) -> Attempt<'a, Comparison> {
        let (name, payload) = (name.clone(), payload.clone());
        self.run(move |files| files.compare(&name, &payload))
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        part: Part,
        len_max: ByteLen,
    ) -> Attempt<'a, Option<Found>> {
        let name = name.clone();
        self.run(move |files| {
            let root = files.root.enter()?;
            read::read(&root, &name, part, len_max)
        })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, Option<ByteLen>> {
        let name = name.clone();
        self.run(move |files| {
            let root = files.root.enter()?;
            let found = read::open(&root, &name)?;
            Ok(found.map(|(_, len)| len))
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a ObjectPrefix,
        after: Option<&'a ObjectName>,
        count_max: NonZeroUsize,
    ) -> Attempt<'a, Page> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.run(move |files| {
            let root = files.root.enter()?;
            list::list(&root, &prefix, after.as_ref(), count_max)
        })
    }

    fn list_prefixes<'a>(&'a self, prefix: &'a ObjectPrefix) -> Attempt<'a, Vec<ObjectPrefix>> {
        let prefix = prefix.clone();
        self.run(move |files| {
            let root = files.root.enter()?;
            list::list_prefixes(&root, &prefix)
        })
    }

    fn settle<'a>(&'a self, name: &'a ObjectName) -> Attempt<'a, bool> {
        let name = name.clone();
        self.run(move |files| files.settle(&name))
    }
}

impl Files {
    fn open(
        syncs: Syncs,
        directory: &Path,
        buffer_count_max: usize,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        if options.create_root {
            root::make(directory, &syncs)?;
        }
        let (root, handle) = Root::open(directory)?;
        if options.clear_staged {
            staged::clear(&handle);
        }
        Ok(Self {
            root,
            syncs,
            directories: Directories::default(),
            buffers: Buffers::new(buffer_count_max),
        })
    }

    /// The six steps of the module's head.
    fn create(&self, name: &ObjectName, payload: &Payload, turn: &Turn) -> Result<Landed, Fault> {
        self.syncs.check()?;
        let root = self.root.enter()?;
        if turn.has_waited && read::open(&root, name)?.is_some() {
            return Ok(Landed::Exists);
        }
        let (directory, leaf) = name.split();
        let directory_handle = self.directories.durable(&root, directory, &self.syncs)?;
        let staged = Staged::create(&root, leaf)?;
        write::write(staged.file(), payload, &self.buffers)
            .map_err(|error| not_done("write", staged.path(), error))?;
        self.syncs.file(staged.file(), &staged.path())?;
        match staged.link(&directory_handle, leaf) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Landed::Exists),
            // Also for errors that deny it: what is said of a link is not worth a wrong guess.
            Err(error) => {
                return Err(Fault::Unknown(Cause::File {
                    operation: "link",
                    path: PathBuf::from(name.as_str()),
                    source: error.into(),
                }));
            }
        }
        // From here on the object is visible: only success or a failed sync say how it ended.
        drop(staged);
        self.syncs
            .directory(&directory_handle, Path::new(directory))?;
        self.root.check()?;
        // A sync that failed elsewhere meanwhile may have swallowed the news of ours.
        self.syncs.check()?;
        Ok(Landed::New)
    }

    fn compare(&self, name: &ObjectName, payload: &Payload) -> Result<Comparison, Fault> {
        self.syncs.check()?;
        let root = self.root.enter()?;
        let Some((file, len)) = read::open(&root, name)? else {
            return Ok(Comparison::Absent);
        };
        if len != payload.len() || !payload.equals(&file).map_err(read::failed(name))? {
            return Ok(Comparison::Different);
        }
        self.make_durable(&root, name, &file)?;
        Ok(Comparison::Same)
    }

    fn settle(&self, name: &ObjectName) -> Result<bool, Fault> {
        self.syncs.check()?;
        let root = self.root.enter()?;
        let Some((file, _)) = read::open(&root, name)? else {
            return Ok(false);
        };
        self.make_durable(&root, name, &file)?;
        // Advice only: what is not dropped was read from the medium or written to it anyway.
        let dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        if let Err(error) = dropped {
            tracing::debug!(%name, %error, "the page cache keeps an object");
        }
        Ok(true)
    }

    /// Syncs an object that somebody else made, and every directory entry that leads to it.
    fn make_durable(
        &self,
        root: &impl std::os::fd::AsFd,
        name: &ObjectName,
        file: &std::fs::File,
    ) -> Result<(), Fault> {
        let (directory, _) = name.split();
        self.syncs.file(file, Path::new(name.as_str()))?;
        let handle = self.directories.durable(root, directory, &self.syncs)?;
        self.syncs.directory(&handle, Path::new(directory))?;
        self.root.check()?;
        self.syncs.check()
    }
}

/// A step that failed before anything could be seen.
fn not_done(operation: &'static str, path: PathBuf, error: impl Into<std::io::Error>) -> Fault {
    Fault::NotDone(Cause::File {
        operation,
        path,
        source: error.into(),
    })
}
