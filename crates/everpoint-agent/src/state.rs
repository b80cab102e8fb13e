//! What an agent must remember: small TOML files in one directory, each replaced whole.
//!
//! | file | holds | written |
//! |---|---|---|
//! | `lock` | nothing; locked as long as an agent runs | |
//! | `seq.toml` | the mark below which `Seq`s may have been used | before the first `Seq` above the old mark |
//! | `session.toml` | the vault, the highest epoch | before either is acted upon |
//! | `disks.toml` | disks that were attached or detached while the agent ran | before it is answered |
//! | `clean.toml` | where each disk stood at a stop in good order | at that stop; removed before a guest's first write |
//!
//! A file is written under another name, synced, renamed, and the directory synced: after a crash
//! the old or the new content is there. Losing the directory costs a full compare, never data: the
//! server states the highest `Seq` that it knows.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use everpoint_format::DiskPosition;
use everpoint_units::{BlockNo, ChainValue, DiskId, GenerationId, Level, MachineId, Seq, VaultId};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{DiskConfig, IdText};
use crate::disk_source::SourceIdentity;
use crate::session_core::SessionState;
use crate::start_core::Stood;

const SEQ: &str = "seq.toml";
const SESSION: &str = "session.toml";
const DISKS: &str = "disks.toml";
const CLEAN: &str = "clean.toml";

/// See the module. Holds the directory's lock.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    /// One writer at a time: two tasks may save at once.
    writing: Mutex<()>,
    /// The durable mark of reserved `Seq`s. It never goes back, whoever asks last.
    reserved: Mutex<Seq>,
    _lock: File,
}

/// Why the state was not read or written; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent runs with it.
    #[error("{path:?} is in use by another agent: stop it, or set another state_dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is not what this version wrote.
    #[error(
        "{path:?} is damaged or of another version: restore it, or remove it (every disk is then \
         compared with the server, nothing is lost)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: Option<Box<toml::de::Error>>,
    },
    /// The operating system refused.
    #[error("{path:?}: {operation}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What was decided about disks while the agent ran.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DisksState {
    version: Version,
    /// Configured disks that are not to be protected any more.
    pub(crate) detached: Vec<IdText<DiskId>>,
    pub(crate) attached: Vec<DiskConfig>,
}

/// Where one disk stood when the agent stopped in good order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CleanDisk {
    pub(crate) disk: DiskId,
    pub(crate) stood: Stood<SourceIdentity>,
}

/// The only version there is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SeqFile {
    version: Version,
    reserved_until: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SessionFile {
    version: Version,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    vault: Option<IdText<VaultId>>,
    highest_epoch: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CleanFile {
    version: Version,
    machine: IdText<MachineId>,
    disks: Vec<CleanEntry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CleanEntry {
    disk: IdText<DiskId>,
    generation: IdText<GenerationId>,
    block_no: u64,
    /// Hexadecimal: TOML's integers have a sign.
    chain: String,
    source: SourceIdentity,
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

impl TryFrom<u32> for Version {
    type Error = &'static str;

    fn try_from(version: u32) -> Result<Self, &'static str> {
        if version == 1 {
            Ok(Self)
        } else {
            Err("only version 1 is known")
        }
    }
}

impl StateDir {
    /// Opens the directory, or makes it, mode 0700.
    ///
    /// # Errors
    ///
    /// See [`StateError`].
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(failed(dir, "cannot make the directory"))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path, "cannot be opened"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StateError::InUse {
                path: dir.to_owned(),
            });
        }
        let state = Self {
            dir: dir.to_owned(),
            writing: Mutex::default(),
            reserved: Mutex::default(),
            _lock: lock,
        };
        let reserved = state.reserved_until()?;
        *state
            .reserved
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reserved;
        Ok(state)
    }

    /// The mark below which `Seq`s may have been used; zero at the very first start.
    pub(crate) fn reserved_until(&self) -> Result<Seq, StateError> {
        let file: Option<SeqFile> = self.read(SEQ)?;
        Ok(file.map_or(Seq::ZERO, |file| Seq(file.reserved_until)))
    }

    /// Makes a mark durable, unless a higher one is.
    pub(crate) fn reserve(&self, until: Seq) -> Result<(), StateError> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if until <= *reserved {
            return Ok(());
        }
        let file = SeqFile {
            version: Version,
            reserved_until: until.0,
        };
        self.write(SEQ, &file)?;
        *reserved = until;
        Ok(())
    }

    pub(crate) fn session(&self) -> Result<SessionState, StateError> {
        let file: Option<SessionFile> = self.read(SESSION)?;
        Ok(
            file.map_or_else(SessionState::default, |file| SessionState {
                vault: file.vault.map(|vault| vault.0),
                highest_epoch: Level(file.highest_epoch),
            }),
        )
    }

    /// Replaces it by what `change` makes of it. No other write comes between: a change that was given
    /// up can still be under way, and must not put what it read over what is newer.
    pub(crate) fn change_session(
        &self,
        change: impl FnOnce(SessionState) -> SessionState,
    ) -> Result<(), StateError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let session = change(self.session()?);
        self.replace(
            SESSION,
            &SessionFile {
                version: Version,
                vault: session.vault.map(IdText),
                highest_epoch: session.highest_epoch.0,
            },
        )
    }

    pub(crate) fn disks(&self) -> Result<DisksState, StateError> {
        Ok(self.read(DISKS)?.unwrap_or_default())
    }

    pub(crate) fn save_disks(&self, disks: &DisksState) -> Result<(), StateError> {
        self.write(DISKS, disks)
    }

    /// Where disks stood at a clean stop. What another machine left counts for nothing.
    pub(crate) fn clean(&self, machine: MachineId) -> Result<Vec<CleanDisk>, StateError> {
        let Some(file) = self.read::<CleanFile>(CLEAN)? else {
            return Ok(Vec::new());
        };
        let path = self.dir.join(CLEAN);
        let mine = file.machine.0 == machine;
        let disks = file.disks.into_iter().filter(|_| mine);
        let damaged = || StateError::Damaged {
            path: path.clone(),
            source: None,
        };
        disks
            .map(|entry| {
                let chain = u64::from_str_radix(&entry.chain, 16).map_err(|_| damaged())?;
                Ok(CleanDisk {
                    disk: entry.disk.0,
                    stood: Stood {
                        tail: DiskPosition {
                            generation: entry.generation.0,
                            block_no: BlockNo(entry.block_no),
                            chain: ChainValue(chain),
                        },
                        source: entry.source,
                    },
                })
            })
            .collect()
    }

    /// Forgets it durably: from here on only another clean stop can say so.
    pub(crate) fn forget_clean(&self) -> Result<(), StateError> {
        let path = self.dir.join(CLEAN);
        match std::fs::remove_file(&path) {
            Ok(()) => self.sync_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&path, "cannot be removed")(error)),
        }
    }

    pub(crate) fn save_clean(
        &self,
        machine: MachineId,
        disks: &[CleanDisk],
    ) -> Result<(), StateError> {
        let entry = |CleanDisk { disk, stood }: &CleanDisk| CleanEntry {
            disk: IdText(*disk),
            generation: IdText(stood.tail.generation),
            block_no: stood.tail.block_no.0,
            chain: stood.tail.chain.to_string(),
            source: stood.source,
        };
        self.write(
            CLEAN,
            &CleanFile {
                version: Version,
                machine: IdText(machine),
                disks: disks.iter().map(entry).collect(),
            },
        )
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => match toml::from_str(&text) {
                Ok(value) => Ok(Some(value)),
                Err(source) => Err(StateError::Damaged {
                    path,
                    source: Some(Box::new(source)),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(&path, "cannot be read")(source)),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(name, value)
    }

    /// As [`Self::write`], by whoever holds `writing`.
    fn replace<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let text = toml::to_string(value).expect("plain data has a TOML form");
        let path = self.dir.join(name);
        let staged = self.dir.join(format!("{name}.new"));
        let write = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&staged, &path)
        };
        write().map_err(failed(&path, "cannot be written"))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StateError> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(failed(&self.dir, "cannot be synced"))
    }
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        path,
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&dir.path().join("state")).expect("free");
        (dir, state)
    }

    #[test]
    fn two_agents_do_not_share_a_directory() {
        let (dir, state) = opened();
        let second = StateDir::open(&dir.path().join("state"));
        assert!(matches!(second, Err(StateError::InUse { .. })));
        drop(state);
        assert!(StateDir::open(&dir.path().join("state")).is_ok());
    }

    #[test]
    fn what_was_saved_reads_back_and_nothing_is_nothing() {
        let (_dir, state) = opened();
        assert_eq!(state.reserved_until().expect("none yet"), Seq::ZERO);
        assert_eq!(state.session().expect("none yet"), SessionState::default());
        state.reserve(Seq(1 << 40)).expect("written");
        state.reserve(Seq(5)).expect("nothing to write");
        assert_eq!(state.reserved_until().expect("written"), Seq(1 << 40));
        let session = SessionState {
            vault: Some(VaultId([0xfe; 16])),
            highest_epoch: Level(7),
        };
        state.change_session(|_| session).expect("written");
        assert_eq!(state.session().expect("written"), session);
    }

    #[test]
    fn no_other_write_comes_between_what_a_change_reads_and_writes() {
        let (_dir, state) = opened();
        let changed = state.change_session(|session| {
            assert!(state.writing.try_lock().is_err(), "others wait");
            session.risen_to(Level(5))
        });
        changed.expect("written");
        let changed = state.change_session(|session| session.risen_to(Level(3)));
        changed.expect("written");
        let session = state.session().expect("written");
        assert_eq!(session.highest_epoch, Level(5));
    }

    #[test]
    fn a_clean_stop_counts_once_and_only_for_its_machine() {
        let (_dir, state) = opened();
        let machine = MachineId([1; 16]);
        let source: SourceIdentity =
            toml::from_str("device = 1\ninode = 2\nsize = 3\nmodified = [4, 5]\nchanged = [6, 7]")
                .expect("plain data");
        let disk = CleanDisk {
            disk: DiskId([2; 16]),
            stood: Stood {
                tail: DiskPosition {
                    generation: GenerationId([3; 16]),
                    block_no: BlockNo(9),
                    chain: ChainValue(u64::MAX),
                },
                source,
            },
        };
        state.save_clean(machine, &[disk]).expect("written");
        assert_eq!(state.clean(machine).expect("written"), [disk]);
        let other = MachineId([9; 16]);
        assert_eq!(state.clean(other).expect("a clone's"), []);
        state.forget_clean().expect("removed");
        assert_eq!(state.clean(machine).expect("forgotten"), []);
        state.forget_clean().expect("nothing to remove");
    }

    #[test]
    fn damage_is_named_and_not_taken_for_nothing() {
        let (dir, state) = opened();
        for bad in [
            "",
            "version = 2\nreserved_until = 1",
            "reserved_until = \"x\"",
        ] {
            std::fs::write(dir.path().join("state/seq.toml"), bad).expect("written");
            let error = state.reserved_until().expect_err("damaged");
            assert!(error.to_string().contains("seq.toml"), "{error}");
        }
        drop(state);
        assert!(StateDir::open(&dir.path().join("state")).is_err());
    }
}
