//! Why a quickstart came to no verdict.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use everpoint_agent::CreatePointError;
use everpoint_process_server::Ended;
use everpoint_retention::{LoadError as HistoryLoadError, RestoreError};
use everpoint_transport::pki::{IssueError, WriteError};
use everpoint_units::{ByteLen, Seq};
use everpoint_vault::{ListError, OpenError};

use crate::load::LoadError;

/// Why a quickstart came to no verdict. A difference between source and restore is a verdict, not an error.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// A size outside its bounds.
    #[error("size is {}, it must be whole 4 KiB from {min} to {max}", size.0)]
    Size { size: ByteLen, min: u64, max: u64 },
    /// A duration outside its bounds.
    #[error("seconds is {seconds}, it must be 1 to {max}")]
    Seconds { seconds: u64, max: u64 },
    /// The directory cannot be used.
    #[error("directory {path:?}")]
    Dir { path: PathBuf, source: io::Error },
    /// The directory holds something.
    #[error("directory {path:?} is not empty: name another, or none")]
    DirNotEmpty { path: PathBuf },
    /// The directory's path cannot be written in a vault's URL.
    #[error("directory {path:?} cannot hold a vault")]
    DirUrl {
        path: PathBuf,
        source: everpoint_vault::ParseVaultUrlError,
    },
    /// The directory's path is no text.
    #[error("directory {path:?} is not UTF-8, and a disk's source is text")]
    DirNotText { path: PathBuf },
    /// The disk's file was not made.
    #[error("disk {path:?}")]
    Disk { path: PathBuf, source: io::Error },
    /// A certificate was not made.
    #[error("certificates")]
    Issue(#[from] IssueError),
    /// A certificate was not written.
    #[error("certificates")]
    Write(#[from] WriteError),
    /// No threads for the process server.
    #[error("threads cannot be started")]
    Threads(#[source] io::Error),
    /// The process server did not start.
    #[error("the process server does not start")]
    Server(#[source] Box<everpoint_process_server::StartError>),
    /// The process server ended by itself.
    #[error("the process server ended by itself")]
    ServerEnded(#[source] Arc<Ended>),
    /// The process server could not commit everything.
    #[error("the process server could not commit everything that it had cached")]
    LeftInLog,
    /// The agent did not start.
    #[error("the agent does not start")]
    Agent(#[source] Box<everpoint_agent::StartError>),
    /// The first copy took too long.
    #[error("the disk was not protected within {waited_s} s: it is {state}")]
    NotProtected { waited_s: u64, state: String },
    /// The load ended by itself.
    #[error("the load ended by itself")]
    Load(#[from] LoadError),
    /// No bookmark.
    #[error("bookmark {name:?} was not taken")]
    Bookmark {
        name: String,
        source: CreatePointError,
    },
    /// What was written did not reach the vault in time.
    #[error("what was written was not committed within {waited_s} s")]
    NotCommitted { waited_s: u64 },
    /// The vault cannot be read.
    #[error("the vault cannot be opened")]
    Vault(#[from] OpenError),
    /// The vault cannot be listed.
    #[error("the vault cannot be listed")]
    List(#[from] ListError),
    /// The vault's history cannot be read.
    #[error("the vault's history cannot be read")]
    History(#[from] HistoryLoadError),
    /// A point that was committed is not there.
    #[error("bookmark {name:?} is not a recovery point in the vault")]
    PointMissing { name: String },
    /// There are too few positions to try.
    #[error("the vault has {found} recovery points without a bookmark, {wanted} are tried")]
    TooFewPoints { found: usize, wanted: usize },
    /// A restore failed.
    #[error("the restore at {at} failed")]
    Restore {
        at: String,
        source: Box<RestoreError>,
    },
    /// A restored image could not be read.
    #[error("restored image {path:?}")]
    Image { path: PathBuf, source: io::Error },
    /// A restored image has another size than the disk.
    #[error("the image restored at {seq} has {} bytes, the disk {}", found.0, expected.0)]
    ImageSize {
        seq: Seq,
        found: ByteLen,
        expected: ByteLen,
    },
}

/// What the caller does about an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// Ask for something else.
    Usage,
    /// Data is not what was written.
    Integrity,
    /// Nothing is wrong with the data, and not everything was tried.
    Incomplete,
    /// Something did not work.
    Failed,
}

impl QuickstartError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Size { .. }
            | Self::Seconds { .. }
            | Self::DirNotEmpty { .. }
            | Self::DirUrl { .. }
            | Self::DirNotText { .. } => ErrorKind::Usage,
            Self::Vault(error) if error.remedy() == everpoint_vault::Remedy::Report => {
                ErrorKind::Usage
            }
            Self::Load(LoadError::WrongRead(_))
            | Self::PointMissing { .. }
            | Self::ImageSize { .. } => ErrorKind::Integrity,
            Self::Restore { source, .. } => match source.kind() {
                everpoint_retention::ErrorKind::Io => ErrorKind::Failed,
                _ => ErrorKind::Integrity,
            },
            Self::History(error) => match error.kind() {
                everpoint_retention::ErrorKind::Integrity => ErrorKind::Integrity,
                _ => ErrorKind::Failed,
            },
            Self::NotProtected { .. }
            | Self::NotCommitted { .. }
            | Self::Bookmark { .. }
            | Self::LeftInLog
            | Self::TooFewPoints { .. } => ErrorKind::Incomplete,
            _ => ErrorKind::Failed,
        }
    }

    /// What may help, where that is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Bookmark {
                source: CreatePointError::NotProtected { .. },
                ..
            } => Some(
                "this machine is too slow for the load, so the disk lost its order of writes: name a faster --dir",
            ),
            Self::NotProtected { .. } | Self::NotCommitted { .. } | Self::LeftInLog => {
                Some("name a --dir or a --vault on a faster disk")
            }
            Self::TooFewPoints { .. } => Some("let the load run longer: --seconds 20"),
            _ => None,
        }
    }
}
