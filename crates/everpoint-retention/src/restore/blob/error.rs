//! Why a point does not become a blob, or a replica cannot be used, where no request failed.

use everpoint_format::DecodeError;
use everpoint_replica::{PageError, Refusal, UploadError};
use everpoint_units::{ByteLen, DiskId, JournalId, ObjectNo, VaultId};

use crate::error::ErrorKind;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Something is there.
    #[error("{blob} exists: remove it or choose another name")]
    Exists { blob: String },
    /// The managed disk was created for another length.
    #[error(
        "the managed disk takes {} bytes, and the VHD of this point has {need}: create one with `az disk create \
         --for-upload true --upload-size-bytes {need}`", have.0, need = need.0
    )]
    Length { have: ByteLen, need: ByteLen },
    /// Longer than any page blob.
    #[error("the VHD of this point has {} bytes, and a page blob at most 8 TiB: restore it to a file", need.0)]
    TooLong { need: ByteLen },
    /// The last page of a replica says nothing.
    #[error(
        "{replica} does not say what it holds: it is no replica, or one that is being made or resized; look again, or \
         restore without it"
    )]
    NoMark { replica: String },
    /// The last page of a replica is damaged.
    #[error("the last page of {replica} does not decode")]
    Mark {
        replica: String,
        source: DecodeError,
    },
    /// A replica of another vault.
    #[error("{replica} follows a disk of another vault, {found}")]
    OtherVault { replica: String, found: VaultId },
    /// A replica of another disk.
    #[error("{replica} follows another disk, {found}")]
    OtherDisk { replica: String, found: DiskId },
    /// A replica that is being filled, or was given up.
    #[error(
        "{replica} is not filled yet: restore without it, or wait until its first copy is complete"
    )]
    NotFilled { replica: String },
    /// The replica has more than the vault, or other things.
    #[error(
        "{replica} stands at object {number} of journal {journal}, which is not in the machine's path: the vault is \
         older than the replica, or another's; restore without it"
    )]
    NotInPath {
        replica: String,
        journal: JournalId,
        number: ObjectNo,
    },
    /// What a damaged object changed in the replica cannot be known.
    #[error(
        "the machine's history is damaged, so it is not known what {replica} holds: restore without it"
    )]
    Unsure { replica: String },
    /// Its mark says another size than the vault.
    #[error(
        "{replica} says of its disk that it has {} bytes there, and the vault {}", found.0, expected.0
    )]
    OtherSize {
        replica: String,
        found: ByteLen,
        expected: ByteLen,
    },
    /// Its size changed while it was copied.
    #[error("{replica} was resized while it was copied: begin again")]
    Resized { replica: String },
    /// The service gave the copy up.
    #[error(
        "the service did not complete the copy of {replica}: begin again, or restore without it"
    )]
    CopyFailed { replica: String },
    /// Nobody knows whether the copy was begun.
    #[error(
        "no answer says whether {blob} was begun as a copy: if it is there, remove it, and begin again"
    )]
    CopyUnknown {
        blob: String,
        #[source]
        source: UploadError,
    },
}

impl BlobError {
    /// What the caller does about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Mark { .. } | Self::OtherSize { .. } => ErrorKind::Integrity,
            Self::NoMark { .. } | Self::NotFilled { .. } | Self::Resized { .. } => {
                ErrorKind::Incomplete
            }
            Self::CopyFailed { .. } | Self::CopyUnknown { .. } => ErrorKind::Io,
            Self::Exists { .. }
            | Self::Length { .. }
            | Self::TooLong { .. }
            | Self::OtherVault { .. }
            | Self::OtherDisk { .. }
            | Self::NotInPath { .. }
            | Self::Unsure { .. } => ErrorKind::Usage,
        }
    }
}

/// The kind of an error of a target: what it was told to be by whoever named it, or no answer.
pub(in crate::restore) const fn kind_of_upload(error: &UploadError) -> ErrorKind {
    match error.refusal() {
        Some(Refusal::Credential { .. } | Refusal::Clock { .. }) => ErrorKind::Denied,
        Some(
            Refusal::NoContainer
            | Refusal::Missing
            | Refusal::Exists
            | Refusal::Foreign { .. }
            | Refusal::LeaseHeld
            | Refusal::Immutable { .. },
        ) => ErrorKind::Usage,
        _ => ErrorKind::Io,
    }
}

/// Whether a request may have been carried out.
pub(super) const fn is_unknown(error: &UploadError) -> bool {
    matches!(error, UploadError::Target(PageError::Unknown { .. }))
}
