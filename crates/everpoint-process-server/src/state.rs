//! The server's own memory: who it is, and which journals it opened. One small file, replaced whole.
//!
//! A journal is written down here, durably, before anything names it. So a later boot finds every
//! journal that this server may have left open and seals it. Losing the file costs an operator's
//! take-over, never data.
//!
//! ```text
//! everpoint-server 1
//! server 0d9f…
//! journal 00000000000000000007-ab12…
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use everpoint_units::{JournalId, ServerId};
use rustix::fs::{FlockOperation, flock};

const HEAD: &str = "everpoint-server 1";
const NAME: &str = "server";
/// Journals of which one may be open; sealed ones are dropped at the next start. A start that fails
/// behind its note leaves one, and a service manager may try each second: this is 11 days of it.
const JOURNALS_MAX: usize = 1_000_000;

/// See the module. Holds the directory's lock.
#[derive(Debug)]
pub(crate) struct ServerState {
    dir: PathBuf,
    _lock: File,
    pub(crate) server: ServerId,
    /// Oldest first.
    pub(crate) journals: Vec<JournalId>,
}

/// Why the state was not opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path:?} is in use by another process server: stop it, or set another state_dir")]
    InUse { path: PathBuf },
    #[error(
        "{path:?}, line {line}: not what this version wrote; restore it, or take the journals over"
    )]
    Damaged { path: PathBuf, line: usize },
    #[error("{path:?} belongs to server {found}, the configuration says {wanted}")]
    OtherServer {
        path: PathBuf,
        found: ServerId,
        wanted: ServerId,
    },
    #[error("{path:?}: {operation}")]
    Io {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
}

impl ServerState {
    /// Opens the state, or begins one for `wanted`, or else for `fresh`.
    pub(crate) fn open(
        dir: &Path,
        wanted: Option<ServerId>,
        fresh: ServerId,
    ) -> Result<Self, StateError> {
        let failed = |operation| io_error(dir, operation);
        std::fs::create_dir_all(dir).map_err(failed("cannot make the directory"))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("cannot open its lock file"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StateError::InUse {
                path: dir.to_owned(),
            });
        }
        let path = dir.join(NAME);
        let (server, journals) = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|line| StateError::Damaged {
                path: path.clone(),
                line,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (wanted.unwrap_or(fresh), Vec::new())
            }
            Err(source) => return Err(io_error(&path, "cannot be read")(source)),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != server) {
            return Err(StateError::OtherServer {
                path,
                found: server,
                wanted,
            });
        }
        let state = Self {
            dir: dir.to_owned(),
            _lock: lock,
            server,
            journals,
        };
        state.save()?;
        Ok(state)
    }

    /// Notes a journal before anything names it.
    pub(crate) fn add(&mut self, journal: JournalId) -> Result<(), StateError> {
        self.journals.push(journal);
        self.save()
    }

    /// Forgets journals that were seen sealed.
    pub(crate) fn keep_only(&mut self, open: JournalId) -> Result<(), StateError> {
        self.journals.retain(|journal| *journal == open);
        self.save()
    }

    fn save(&self) -> Result<(), StateError> {
        let mut text = format!("{HEAD}\nserver {}\n", self.server);
        for journal in &self.journals {
            text.push_str(&format!("journal {journal}\n"));
        }
        let (path, staged) = (self.dir.join(NAME), self.dir.join("server.new"));
        let write = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&staged, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(io_error(&path, "cannot be written"))
    }
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        path,
        operation,
        source,
    }
}

/// Reads the file; an error is the number of the line that makes no sense.
fn parse(text: &str) -> Result<(ServerId, Vec<JournalId>), usize> {
    let mut lines = (1_usize..).zip(text.lines());
    let (_, head) = lines.next().ok_or(1_usize)?;
    let (_, server) = lines.next().ok_or(2_usize)?;
    if head != HEAD || JOURNALS_MAX + 2 < text.lines().count() {
        return Err(1);
    }
    let server = server
        .strip_prefix("server ")
        .and_then(|id| id.parse().ok())
        .ok_or(2_usize)?;
    let journals = lines
        .map(|(number, line)| {
            let id = line.strip_prefix("journal ").and_then(|id| id.parse().ok());
            id.ok_or(number)
        })
        .collect::<Result<_, _>>()?;
    Ok((server, journals))
}

#[cfg(test)]
mod tests {
    use everpoint_units::Level;

    use super::*;

    const FRESH: ServerId = ServerId([7; 16]);

    fn journal(level: u64) -> JournalId {
        JournalId {
            level: Level(level),
            random: [1; 16],
        }
    }

    #[test]
    fn identity_and_journals_outlive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = ServerState::open(dir.path(), None, FRESH).expect("fresh");
        state.add(journal(3)).expect("saved");
        state.add(journal(4)).expect("saved");
        drop(state);
        let mut state = ServerState::open(dir.path(), None, ServerId([8; 16])).expect("again");
        assert_eq!(state.server, FRESH);
        assert_eq!(state.journals, [journal(3), journal(4)]);
        state.keep_only(journal(4)).expect("saved");
        drop(state);
        let state = ServerState::open(dir.path(), Some(FRESH), FRESH).expect("again");
        assert_eq!(state.journals, [journal(4)]);
    }

    #[test]
    fn many_starts_that_failed_do_not_keep_the_next_from_starting() {
        let dir = tempfile::tempdir().expect("a directory");
        let notes: String = (1..=50_000)
            .map(|level| format!("journal {}\n", journal(level)))
            .collect();
        let text = format!("{HEAD}\nserver {FRESH}\n{notes}");
        std::fs::write(dir.path().join(NAME), text).expect("written");
        let state = ServerState::open(dir.path(), None, FRESH).expect("opened");
        assert_eq!(state.journals.len(), 50_000);
    }

    #[test]
    fn one_server_a_directory_and_one_directory_a_server() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = ServerState::open(dir.path(), None, FRESH).expect("fresh");
        assert!(matches!(
            ServerState::open(dir.path(), None, FRESH),
            Err(StateError::InUse { .. })
        ));
        drop(state);
        assert!(matches!(
            ServerState::open(dir.path(), Some(ServerId([9; 16])), FRESH),
            Err(StateError::OtherServer { .. })
        ));
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = format!("{HEAD}\nserver {FRESH}\njournal nonsense\n");
        std::fs::write(dir.path().join(NAME), text).expect("written");
        assert!(matches!(
            ServerState::open(dir.path(), None, FRESH),
            Err(StateError::Damaged { line: 3, .. })
        ));
    }
}
