//! What went wrong, sorted by what the caller does about it.

use everpoint_units::{DiskId, MachineId};
use everpoint_vault::ReadError;
use everpoint_vault::history::HistoryError;

/// What the caller does about an error; the command line makes its exit code of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// Ask for something else: a point, a disk or an output that cannot be meant.
    Usage,
    /// Bytes in the vault are not what was written. Repeating is in vain; other points may be whole.
    Integrity,
    /// What is asked for is not there yet, or needs a newer everpoint.
    Incomplete,
    /// A credential is wrong, has ended, or may not do that.
    Denied,
    /// The vault or the output gave no answer. Worth another try.
    Io,
}

/// Why the history of a machine was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The vault holds no such machine.
    #[error("the vault holds no machine {machine}")]
    NoSuchMachine { machine: MachineId },
    /// No machine that was asked has such a disk, and their histories were read whole.
    #[error("there is no disk {disk}")]
    NoSuchDisk { disk: DiskId },
    /// No machine that was asked has such a disk, as far as their histories can be read.
    #[error(
        "a disk {disk} is not seen, but the history of machine {damaged} is damaged: run a check"
    )]
    DiskNotSeen { disk: DiskId, damaged: MachineId },
    /// The vault gave no answer, or is none.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl LoadError {
    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchMachine { .. } | Self::NoSuchDisk { .. } => ErrorKind::Usage,
            Self::DiskNotSeen { .. } => ErrorKind::Integrity,
            Self::History(source) => kind_of_history(source),
        }
    }
}

/// The kind of an error of the vault's histories.
pub(crate) fn kind_of_history(error: &HistoryError) -> ErrorKind {
    match error {
        HistoryError::NotAVault { .. } => ErrorKind::Usage,
        HistoryError::Header { .. }
        | HistoryError::End { .. }
        | HistoryError::Manifest { .. }
        | HistoryError::Layer { .. }
        | HistoryError::LayerGone { .. }
        | HistoryError::LayerUnread { .. } => ErrorKind::Integrity,
        HistoryError::Read(source) => kind_of_read(source),
        HistoryError::Unsettled { .. }
        | HistoryError::ManifestGone { .. }
        | HistoryError::List(_)
        | HistoryError::Create(_) => ErrorKind::Io,
    }
}

/// The kind of a failed read: bytes that the medium does not give back are damage.
pub(crate) fn kind_of_read(error: &ReadError) -> ErrorKind {
    match error {
        ReadError::Medium { .. } | ReadError::OutOfRange { .. } => ErrorKind::Integrity,
        ReadError::Unavailable { .. } | ReadError::TooLong { .. } => ErrorKind::Io,
    }
}
