//! What can go wrong with the log, and what to do about each.

use std::fmt;
use std::io;
use std::path::PathBuf;

use everpoint_format::DecodeError;
use everpoint_format::cache_log::{LogFileNo, RecordNo};
use everpoint_units::{ByteOffset, ServerId, VaultId};

use crate::{FileName, LogPosition};

/// Why the log could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting breaks its bound.
    #[error("cache-log setting {setting}: {rule}")]
    Setting {
        setting: &'static str,
        rule: &'static str,
    },

    /// The directory itself cannot be used.
    #[error("cache-log directory {}: {operation} failed", path.display())]
    Directory {
        path: PathBuf,
        operation: Operation,
        #[source]
        source: IoFault,
    },

    /// The directory is not this user's alone.
    #[error("cache-log directory {} {refusal}", path.display())]
    NotPrivate { path: PathBuf, refusal: Refusal },

    /// Another process has this log open.
    #[error("cache-log directory {} is in use by another process", path.display())]
    InUse { path: PathBuf },

    /// Something that only looks like a file of the log.
    #[error("cache-log file {file} {refusal}")]
    Refused { file: FileName, refusal: Refusal },

    /// The directory belongs to a server of another vault.
    #[error("cache-log file {file} belongs to vault {found}, not to {expected}")]
    ForeignVault {
        file: FileName,
        found: VaultId,
        expected: VaultId,
    },

    /// The directory belongs to another server.
    #[error("cache-log file {file} belongs to server {found}, not to {expected}")]
    ForeignServer {
        file: FileName,
        found: ServerId,
        expected: ServerId,
    },

    /// A boot of this journal has written here before. Every boot opens a journal of its own (R1).
    #[error("cache-log file {file} was written by an earlier boot of the same journal")]
    JournalReused { file: FileName },

    /// Written by a newer build, or by rules that this build does not know.
    #[error("cache-log file {file} cannot be read by this build")]
    Unreadable {
        file: FileName,
        #[source]
        source: DecodeError,
    },

    /// Synced records are missing.
    #[error("cache log is damaged: {0}")]
    Damaged(Damage),

    /// A file operation failed while the log was examined or its tail repaired.
    #[error("cache-log file {file}: {operation} failed")]
    File {
        file: FileName,
        operation: Operation,
        #[source]
        source: IoFault,
    },

    /// An operation on the directory failed while the log was examined.
    #[error("cache-log directory: {operation} failed")]
    Storage {
        operation: Operation,
        #[source]
        source: IoFault,
    },

    /// The system gave no thread.
    #[error("no thread for the cache log")]
    Thread {
        #[source]
        source: IoFault,
    },
}

/// Why an append was not made durable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AppendError {
    /// The log failed, for ever: nothing is acknowledged any more.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),

    /// The log was closed before this record was written.
    #[error("the cache log is closed")]
    Closed,

    /// A payload is 1 to `max` bytes long.
    #[error("a payload of {len} bytes, the cache log takes 1 to {max}")]
    WrongLen { len: usize, max: usize },
}

/// The failure that ended the log. What an operation left on the medium is unknown after it, so it
/// is never repeated: only a new process, which reads the medium, can tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the cache log failed: {operation} of {file}")]
pub struct Poisoned {
    pub file: FileName,
    pub operation: Operation,
    #[source]
    pub source: IoFault,
}

/// Why a record could not be read back.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Everything in this file was settled, and the file was freed.
    #[error("{position} was freed")]
    Freed { position: LogPosition },

    /// The bytes are not what was synced.
    #[error("{position} is damaged")]
    Damaged {
        position: LogPosition,
        #[source]
        source: DecodeError,
    },

    /// The file could not be read.
    #[error("{position}: {operation} failed")]
    File {
        position: LogPosition,
        operation: Operation,
        #[source]
        source: IoFault,
    },
}

/// Synced records that are not there any more.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Damage {
    /// A file's first block cannot be read, so none of its records can.
    #[error("{file} byte 0: no file header")]
    Header {
        file: LogFileNo,
        #[source]
        source: DecodeError,
    },

    /// The record that should lie here is gone, yet a later one says that it was synced.
    #[error("{file} {offset}: {missing} is missing, and everything through {proven} was synced")]
    Records {
        file: LogFileNo,
        offset: ByteOffset,
        missing: RecordNo,
        proven: RecordNo,
    },
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// Change the named setting, directory or file, then start again.
    Correct,
    /// End the process; the next one reads the medium.
    Exit,
    /// Bytes are lost. Stop, and let an operator decide.
    AskOperator,
    /// The request came too late or was wrong; the log is sound.
    GiveUp,
}

/// Why a file or directory is not to be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    Symlink,
    NotADirectory,
    NotAFile,
    Owner { uid: u32 },
    HardLinks { count: u64 },
    WritableByOthers { mode: u32 },
}

/// What was tried.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    Create,
    Examine,
    List,
    Lock,
    Open,
    Read,
    Remove,
    Rename,
    Sync,
    SyncDirectory,
    Write,
}

/// What the system answered. Plain data, because one failure is told to many waiters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IoFault {
    pub kind: io::ErrorKind,
    pub code: Option<i32>,
}

impl OpenError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Setting { .. }
            | Self::Directory { .. }
            | Self::NotPrivate { .. }
            | Self::InUse { .. }
            | Self::Refused { .. }
            | Self::ForeignVault { .. }
            | Self::ForeignServer { .. }
            | Self::JournalReused { .. }
            | Self::Unreadable { .. } => Remedy::Correct,
            Self::Damaged(_) => Remedy::AskOperator,
            Self::File { .. } | Self::Storage { .. } | Self::Thread { .. } => Remedy::Exit,
        }
    }
}

impl AppendError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Poisoned(_) => Remedy::Exit,
            Self::Closed | Self::WrongLen { .. } => Remedy::GiveUp,
        }
    }
}

impl ReadError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Freed { .. } => Remedy::GiveUp,
            Self::Damaged { .. } => Remedy::AskOperator,
            Self::File { .. } => Remedy::Exit,
        }
    }
}

impl IoFault {
    /// Whether the file system is out of space: the one failure that heals by waiting.
    pub fn is_out_of_space(self) -> bool {
        matches!(
            self.kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

impl From<&io::Error> for IoFault {
    fn from(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            code: error.raw_os_error(),
        }
    }
}

impl From<io::Error> for IoFault {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl std::error::Error for IoFault {}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code).fmt(f),
            None => self.kind.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("is a symbolic link"),
            Self::NotADirectory => f.write_str("is not a directory"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::Owner { uid } => write!(f, "is owned by user {uid}, not by this process's user"),
            Self::HardLinks { count } => write!(f, "has {count} hard links"),
            Self::WritableByOthers { mode } => {
                write!(
                    f,
                    "can be written by other users (mode {:04o})",
                    mode & 0o7777
                )
            }
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Examine => "examine",
            Self::List => "list",
            Self::Lock => "lock",
            Self::Open => "open",
            Self::Read => "read",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync of the directory",
            Self::Write => "write",
        })
    }
}
