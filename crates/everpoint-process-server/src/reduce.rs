//! Reduce: opens a block's frame, checks it, and makes the digests that the index will hold.
//!
//! The agent's word on content is never taken: digests are made here, from bytes that decompressed
//! to exactly what the block claims.

use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::{DigestKey, PieceDigest, pieces};
use everpoint_format::{Change, DecodeError};

/// Frames up to this are opened where they are; longer ones on a thread that may be busy for a
/// while. Unit: bytes before compression.
pub(crate) const INLINE_LEN_MAX: u32 = 16 << 10;

/// Digests of the block's data records, in order.
///
/// # Errors
///
/// `DecodeError` when the frame does not open. The cached bytes were checked by their CRC, so it was
/// the agent that packed nonsense.
pub fn digests(key: &DigestKey, block: &ChangeBlock) -> Result<Vec<PieceDigest>, DecodeError> {
    let raw = block.header().frame.open(&block.payload())?;
    // Of all records together: pieces are digested side by side.
    let mut all = Vec::new();
    let mut rest = raw.as_ref();
    for record in block.records() {
        if let Change::Data(extent) = record.change {
            let len = usize::try_from(extent.byte_len().0).expect("at most the payload");
            let (bytes, behind) = rest.split_at(len);
            all.extend(pieces(extent, bytes));
            rest = behind;
        }
    }
    Ok(key.digest_all(all))
}
