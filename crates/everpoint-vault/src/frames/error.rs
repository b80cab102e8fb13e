//! Where bytes in a vault are not what was written.

use everpoint_format::DecodeError;
use everpoint_units::ByteOffset;

use crate::error::ReadError;
use crate::history::{ObjectDamage, ObjectFound};
use crate::name::ObjectName;

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

impl IntegrityError {
    /// Whatever was found instead of the object that was walked.
    pub fn instead_of(object: ObjectName, found: ObjectFound) -> Self {
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
