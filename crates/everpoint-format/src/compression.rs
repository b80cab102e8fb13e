//! Payloads: LZ4 blocks, made once by the agent, or raw where LZ4 does not shrink them.

use bytes::Bytes;

use crate::DecodeError;

const WHAT: &str = "payload";

/// Compresses `raw`; `None` when the result would not be shorter, and then `raw` is stored as it is.
pub fn pack_payload(raw: &[u8]) -> Option<Bytes> {
    let mut out = vec![0; lz4_flex::block::get_maximum_output_size(raw.len())];
    let len = lz4_flex::block::compress_into(raw, &mut out)
        .expect("the buffer has the length that the codec asked for");
    if raw.len() <= len {
        return None;
    }
    // The tail of the worst-case buffer would otherwise stay allocated for as long as the payload
    // waits in a queue.
    out.truncate(len);
    out.shrink_to_fit();
    Some(Bytes::from(out))
}

/// Decompresses into a fresh buffer of exactly `raw_len` bytes, which the caller has bounded.
///
/// # Errors
///
/// `Invalid` when the block is malformed or gives more or fewer bytes than it claims.
pub fn decompress_exact(packed: &[u8], raw_len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut raw = vec![0; raw_len];
    match lz4_flex::block::decompress_into(packed, &mut raw) {
        Ok(len) if len == raw_len => Ok(raw),
        Ok(_) => Err(DecodeError::Invalid {
            what: WHAT,
            rule: "decompresses to fewer bytes than it claims",
        }),
        Err(_) => Err(DecodeError::Invalid {
            what: WHAT,
            rule: "is no LZ4 block of the length that it claims",
        }),
    }
}
