//! What went wrong, sorted by what the caller does about it.

use everpoint_format::DecodeError;
use everpoint_units::{ByteOffset, DiskId, MachineId};
use everpoint_vault::history::{HistoryError, ObjectDamage, ObjectFound};
use everpoint_vault::{ObjectName, ReadError};

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

/// Where bytes in the vault are not what was written.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityError {
    /// An object does not decode any more.
    #[error("{object} does not decode")]
    Object {
        object: ObjectName,
        source: ObjectDamage,
    },
    /// An object is gone.
    #[error("{object} is gone")]
    Gone { object: ObjectName },
    /// An object is another than when the history was walked.
    #[error("{object} was replaced while it was read")]
    Replaced { object: ObjectName },
    /// A frame's bytes are not there.
    #[error("{object}, frame at {}: the bytes are not there", frame_at.0)]
    FrameUnread {
        object: ObjectName,
        frame_at: ByteOffset,
        source: ReadError,
    },
    /// A frame's bytes are not what was stored.
    #[error("{object}, frame at {}", frame_at.0)]
    Frame {
        object: ObjectName,
        frame_at: ByteOffset,
        source: DecodeError,
    },
    /// A frame holds other content than its index says.
    #[error(
        "{object}, frame at {}, {} bytes into it: the digest of the piece at {} of the disk differs",
        frame_at.0, raw_at.0, disk_at.0
    )]
    Digest {
        object: ObjectName,
        frame_at: ByteOffset,
        raw_at: ByteOffset,
        disk_at: ByteOffset,
    },
    /// A reference names bytes beyond the end of a frame.
    #[error("{object}: a reference for {} of the disk leaves the frame that it names", disk_at.0)]
    Reference {
        object: ObjectName,
        disk_at: ByteOffset,
    },
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

impl IntegrityError {
    /// Whatever was found instead of the object that was walked.
    pub(crate) fn instead_of(object: ObjectName, found: ObjectFound) -> Self {
        match found {
            ObjectFound::Damaged(source) => Self::Object { object, source },
            ObjectFound::Missing => Self::Gone { object },
            ObjectFound::Data(..) | ObjectFound::Seal(_) => Self::Replaced { object },
        }
    }

    /// The object that it is about.
    pub const fn object(&self) -> &ObjectName {
        match self {
            Self::Object { object, .. }
            | Self::Gone { object }
            | Self::Replaced { object }
            | Self::FrameUnread { object, .. }
            | Self::Frame { object, .. }
            | Self::Digest { object, .. }
            | Self::Reference { object, .. } => object,
        }
    }

    /// Where in the object the frame that it is about begins.
    pub const fn frame_at(&self) -> Option<ByteOffset> {
        match self {
            Self::FrameUnread { frame_at, .. }
            | Self::Frame { frame_at, .. }
            | Self::Digest { frame_at, .. } => Some(*frame_at),
            Self::Object { .. }
            | Self::Gone { .. }
            | Self::Replaced { .. }
            | Self::Reference { .. } => None,
        }
    }
}

/// The kind of an error of the vault's histories.
pub(crate) fn kind_of_history(error: &HistoryError) -> ErrorKind {
    match error {
        HistoryError::NotAVault { .. } => ErrorKind::Usage,
        HistoryError::Header { .. } | HistoryError::End { .. } => ErrorKind::Integrity,
        HistoryError::Read(source) => kind_of_read(source),
        HistoryError::Unsettled { .. } | HistoryError::List(_) | HistoryError::Create(_) => {
            ErrorKind::Io
        }
    }
}

/// The kind of a failed read: bytes that the medium does not give back are damage.
pub(crate) fn kind_of_read(error: &ReadError) -> ErrorKind {
    match error {
        ReadError::Medium { .. } | ReadError::OutOfRange { .. } => ErrorKind::Integrity,
        ReadError::Unavailable { .. } | ReadError::TooLong { .. } => ErrorKind::Io,
    }
}
