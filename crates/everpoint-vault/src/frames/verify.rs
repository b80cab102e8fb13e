//! Reading a batch of frames and verifying it: stored checksum, unpacked length, every piece's digest.

use bytes::Bytes;
use everpoint_format::digest::{DigestKey, PIECE_LEN, piece_digests};
use everpoint_format::layer::page::DigestSeal;
use everpoint_units::{ByteLen, ByteOffset};

use super::{Batch, Check, FrameJob, IntegrityError, SealCheck};
use crate::error::ReadError;
use crate::name::ObjectName;
use crate::vault::Vault;

/// What reading a batch gave.
pub enum BatchRead {
    /// All of it.
    Whole(Bytes),
    /// Not all bytes are there. What is missing may be of a frame that is not needed: each by itself, then.
    InParts,
}

/// Reads all frames of a batch at once.
///
/// # Errors
///
/// Only where the vault gives no answer.
pub async fn read_batch(vault: &Vault, batch: &Batch) -> Result<BatchRead, ReadError> {
    match vault.read_range(&batch.object, batch.at, batch.len).await {
        Ok(Some(bytes)) => Ok(BatchRead::Whole(bytes)),
        Ok(None) | Err(ReadError::Medium { .. } | ReadError::OutOfRange { .. }) => {
            Ok(BatchRead::InParts)
        }
        Err(error) => Err(error),
    }
}

/// Reads one frame; the inner error says that its bytes are not there.
///
/// # Errors
///
/// Only where the vault gives no answer.
pub async fn read_frame(
    vault: &Vault,
    object: &ObjectName,
    job: &FrameJob,
) -> Result<Result<Bytes, IntegrityError>, ReadError> {
    let len = ByteLen(u64::from(job.frame.stored_len));
    let object = object.clone();
    match vault.read_range(&object, job.frame_at, len).await {
        Ok(Some(bytes)) => Ok(Ok(bytes)),
        Ok(None) => Ok(Err(IntegrityError::Gone { object })),
        Err(source @ (ReadError::Medium { .. } | ReadError::OutOfRange { .. })) => {
            let frame_at = job.frame_at;
            Ok(Err(IntegrityError::FrameUnread {
                object,
                frame_at,
                source,
            }))
        }
        Err(error) => Err(error),
    }
}

/// Opens a frame whose object was read from `bytes_at` on, and compares every digest that its job names.
///
/// # Errors
///
/// The first thing that is not as it was stored.
pub fn open_frame(
    object: &ObjectName,
    job: &FrameJob,
    bytes: &Bytes,
    bytes_at: ByteOffset,
    key: &DigestKey,
) -> Result<Bytes, IntegrityError> {
    let at = usize::try_from(job.frame_at.0 - bytes_at.0).expect("inside what was read");
    let stored = bytes.slice(at..at + job.frame.stored_len as usize);
    let raw = job.frame.open(&stored);
    let raw = raw.map_err(|source| IntegrityError::Frame {
        object: object.clone(),
        frame_at: job.frame_at,
        source,
    })?;
    let piece_of = |check: &Check| {
        let from = raw.get(check.raw_at..).unwrap_or_default();
        from.first_chunk::<PIECE_LEN>()
    };
    // Up to the first that is cut off, which is then the one that is named.
    let digests = key.digest_all(job.checks.iter().map_while(piece_of));
    let of_each = digests.iter().map(Some).chain(std::iter::repeat(None));
    for (check, digest) in job.checks.iter().zip(of_each) {
        if digest != Some(&check.digest) {
            return Err(IntegrityError::Digest {
                object: object.clone(),
                frame_at: job.frame_at,
                raw_at: ByteOffset(check.raw_at as u64),
                disk_at: check.disk_at,
            });
        }
    }
    for seal in &job.seals {
        open_record(object, job, seal, &raw, key)?;
    }
    Ok(raw)
}

/// Holds a record of a frame against what stands for its digests.
fn open_record(
    object: &ObjectName,
    job: &FrameJob,
    check: &SealCheck,
    raw: &[u8],
    key: &DigestKey,
) -> Result<(), IntegrityError> {
    let disk_at = check.extent.start().byte_offset();
    let len = usize::try_from(check.extent.byte_len().0).expect("a target has 64 bits");
    let Some(bytes) = raw.get(check.raw_at..check.raw_at.saturating_add(len)) else {
        let object = object.clone();
        return Err(IntegrityError::Reference { object, disk_at });
    };
    if DigestSeal::of(key, &piece_digests(key, check.extent, bytes)) == check.seal {
        return Ok(());
    }
    Err(IntegrityError::Digest {
        object: object.clone(),
        frame_at: job.frame_at,
        raw_at: ByteOffset(check.raw_at as u64),
        disk_at,
    })
}
