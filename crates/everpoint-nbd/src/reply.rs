//! Replies of the transmission phase: their bytes, both ways.
//!
//! | simple reply | offset | length | field                                   |
//! |--------------|--------|--------|-----------------------------------------|
//! |              | 0      | 4      | magic `67446698`                        |
//! |              | 4      | 4      | error, 0 for success                    |
//! |              | 8      | 8      | cookie                                  |
//! |              | 16     |        | data of a read that succeeded           |
//!
//! | chunk        | offset | length | field                                   |
//! |--------------|--------|--------|-----------------------------------------|
//! |              | 0      | 4      | magic `668e33ef`                        |
//! |              | 4      | 2      | flags; bit 0: the last of this reply    |
//! |              | 6      | 2      | kind                                    |
//! |              | 8      | 8      | cookie                                  |
//! |              | 16     | 4      | length of what follows. Unit: bytes     |
//! |              | 20     |        | by kind                                 |

use everpoint_units::ByteOffset;

use crate::protocol::{
    CHUNK_HEADER_LEN, NAME_LEN_MAX, PAYLOAD_LEN_MAX, REPLY_FLAG_DONE, REPLY_TYPE_BLOCK_STATUS,
    REPLY_TYPE_ERROR, REPLY_TYPE_ERROR_BIT, REPLY_TYPE_NONE, REPLY_TYPE_OFFSET_DATA,
    REPLY_TYPE_OFFSET_HOLE, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO,
    STRUCTURED_REPLY_MAGIC,
};
use crate::{Allocation, Errno};

/// Most extents in one status reply; what lies beyond is cut off, and the client asks again. Ours:
/// 32 KiB on the wire.
pub const EXTENTS_MAX: usize = 4_096;

/// Most bytes of one chunk that is not read data, as a client accepts it. Ours: what the most
/// talkative server known sends (128 Ki extents).
const CHUNK_LEN_MAX: u32 = 4 + (1 << 20);

/// The beginning of a reply, as a client reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyHeader {
    /// The whole answer, but for the data of a read.
    Simple {
        /// Names the request.
        cookie: u64,
        /// `None` is success.
        errno: Option<Errno>,
    },
    /// A part of the answer.
    Chunk {
        /// Names the request.
        cookie: u64,
        /// No chunk follows for this request.
        done: bool,
        /// What follows the header.
        kind: ChunkKind,
        /// How long that is. Unit: bytes; within the bounds of its kind.
        len: u32,
    },
}

/// What a chunk carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkKind {
    /// Nothing: success, unless an error came before.
    None,
    /// An offset and bytes.
    Data,
    /// An offset and a length that read as zeroes.
    Hole,
    /// A context and extents.
    Status,
    /// An error, known or not.
    Error,
}

/// What stands in a hole chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hole {
    /// Where.
    pub at: ByteOffset,
    /// Unit: bytes; not 0.
    pub len: u32,
}

/// A reply that breaks the protocol. The connection cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// The stream does not carry replies.
    #[error("reply begins with {found:08x} instead of a magic")]
    BadMagic {
        /// What stood there.
        found: u32,
    },
    /// A chunk that no client knows and that is not an error.
    #[error("chunk of unknown type {kind}")]
    UnknownChunk {
        /// Its type.
        kind: u16,
    },
    /// A chunk whose length its kind does not allow.
    #[error("chunk of type {kind} has {len} B")]
    ChunkLen {
        /// Its type.
        kind: u16,
        /// Its length. Unit: bytes.
        len: u32,
    },
    /// A chunk whose content contradicts itself.
    #[error("chunk of type {kind} contradicts itself")]
    ChunkContent {
        /// Its type.
        kind: u16,
    },
}

/// Appends a simple reply; the data of a read goes after it.
pub fn push_simple(out: &mut Vec<u8>, cookie: u64, errno: Option<Errno>) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&errno.map_or(0, Errno::code).to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// Appends the head of a read's only chunk; `len` bytes of data go after it.
///
/// # Panics
///
/// If `len` is above [`PAYLOAD_LEN_MAX`], which no admitted read is.
pub fn push_data_head(out: &mut Vec<u8>, cookie: u64, at: ByteOffset, len: u32) {
    assert!(len <= PAYLOAD_LEN_MAX, "reads are bounded when admitted");
    push_chunk_header(out, cookie, REPLY_TYPE_OFFSET_DATA, 8 + len);
    out.extend_from_slice(&at.0.to_be_bytes());
}

/// Appends a read's only chunk: `len` zeroes, not sent as bytes.
pub fn push_hole(out: &mut Vec<u8>, cookie: u64, at: ByteOffset, len: u32) {
    push_chunk_header(out, cookie, REPLY_TYPE_OFFSET_HOLE, 12);
    out.extend_from_slice(&at.0.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
}

/// Appends a structured error, with `text` for people.
pub fn push_error(out: &mut Vec<u8>, cookie: u64, errno: Errno, text: &str) {
    // Texts are constants of this crate; one that did not fit would be left out, not cut.
    let text = if text.len() <= NAME_LEN_MAX { text } else { "" };
    let text_len = u16::try_from(text.len()).expect("at most NAME_LEN_MAX");
    push_chunk_header(out, cookie, REPLY_TYPE_ERROR, 6 + u32::from(text_len));
    out.extend_from_slice(&errno.code().to_be_bytes());
    out.extend_from_slice(&text_len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a status reply for `context`.
///
/// # Panics
///
/// If there is no extent, or more than [`EXTENTS_MAX`].
pub fn push_status(out: &mut Vec<u8>, cookie: u64, context: u32, extents: &[Allocation]) {
    assert!(!extents.is_empty(), "a status reply has an extent");
    assert!(extents.len() <= EXTENTS_MAX, "the caller cuts them off");
    let len = u32::try_from(4 + 8 * extents.len()).expect("at most EXTENTS_MAX");
    push_chunk_header(out, cookie, REPLY_TYPE_BLOCK_STATUS, len);
    out.extend_from_slice(&context.to_be_bytes());
    for extent in extents {
        let hole = if extent.hole { STATE_HOLE } else { 0 };
        let zero = if extent.zero { STATE_ZERO } else { 0 };
        out.extend_from_slice(&extent.len.to_be_bytes());
        out.extend_from_slice(&(hole | zero).to_be_bytes());
    }
}

/// Every chunk that the server sends is the last of its reply.
fn push_chunk_header(out: &mut Vec<u8>, cookie: u64, kind: u16, len: u32) {
    out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&REPLY_FLAG_DONE.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
}

/// Reads the beginning of a reply; `None` if more bytes are needed. It took
/// [`ReplyHeader::wire_len`] bytes.
///
/// # Errors
///
/// [`ReplyError`]: close the connection.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<ReplyHeader>, ReplyError> {
    let Some(&magic) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    match u32::from_be_bytes(magic) {
        SIMPLE_REPLY_MAGIC => Ok(bytes.first_chunk().map(parse_simple)),
        STRUCTURED_REPLY_MAGIC => bytes.first_chunk().map(parse_chunk_header).transpose(),
        found => Err(ReplyError::BadMagic { found }),
    }
}

fn parse_simple(bytes: &[u8; SIMPLE_REPLY_LEN]) -> ReplyHeader {
    let [_, _, _, _, e0, e1, e2, e3, cookie @ ..] = *bytes;
    ReplyHeader::Simple {
        cookie: u64::from_be_bytes(cookie),
        errno: Errno::from_code(u32::from_be_bytes([e0, e1, e2, e3])),
    }
}

fn parse_chunk_header(bytes: &[u8; CHUNK_HEADER_LEN]) -> Result<ReplyHeader, ReplyError> {
    let [_, _, _, _, f0, f1, t0, t1, rest @ ..] = *bytes;
    let [c0, c1, c2, c3, c4, c5, c6, c7, len @ ..] = rest;
    let number = u16::from_be_bytes([t0, t1]);
    let len = u32::from_be_bytes(len);
    let (kind, fits) = match number {
        REPLY_TYPE_NONE => (ChunkKind::None, len == 0),
        REPLY_TYPE_OFFSET_DATA => (ChunkKind::Data, len > 8),
        REPLY_TYPE_OFFSET_HOLE => (ChunkKind::Hole, len == 12),
        REPLY_TYPE_BLOCK_STATUS => (
            ChunkKind::Status,
            (12..=CHUNK_LEN_MAX).contains(&len) && len % 8 == 4,
        ),
        _ if number & REPLY_TYPE_ERROR_BIT != 0 => {
            (ChunkKind::Error, (6..=CHUNK_LEN_MAX).contains(&len))
        }
        kind => return Err(ReplyError::UnknownChunk { kind }),
    };
    if !fits {
        return Err(ReplyError::ChunkLen { kind: number, len });
    }
    Ok(ReplyHeader::Chunk {
        cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
        done: u16::from_be_bytes([f0, f1]) & REPLY_FLAG_DONE != 0,
        kind,
        len,
    })
}

/// Reads the content of a hole chunk.
///
/// # Errors
///
/// [`ReplyError::ChunkContent`] if the hole is empty.
pub fn parse_hole(bytes: &[u8; 12]) -> Result<Hole, ReplyError> {
    let [o0, o1, o2, o3, o4, o5, o6, o7, len @ ..] = *bytes;
    let hole = Hole {
        at: ByteOffset(u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7])),
        len: u32::from_be_bytes(len),
    };
    if hole.len == 0 {
        let kind = REPLY_TYPE_OFFSET_HOLE;
        return Err(ReplyError::ChunkContent { kind });
    }
    Ok(hole)
}

/// Reads the content of an error chunk.
///
/// # Errors
///
/// [`ReplyError::ChunkContent`] if it says success, or its text is longer than the chunk.
pub fn parse_error(bytes: &[u8]) -> Result<Errno, ReplyError> {
    let kind = REPLY_TYPE_ERROR;
    let bad = ReplyError::ChunkContent { kind };
    let (&code, rest) = bytes.split_first_chunk::<4>().ok_or(bad)?;
    let (&text_len, text) = rest.split_first_chunk::<2>().ok_or(bad)?;
    if usize::from(u16::from_be_bytes(text_len)) > text.len() {
        return Err(bad);
    }
    Errno::from_code(u32::from_be_bytes(code)).ok_or(bad)
}

/// Reads the content of a status chunk: the context and its extents.
///
/// # Errors
///
/// [`ReplyError::ChunkContent`] if there is no extent, or an empty one.
pub fn parse_status(bytes: &[u8]) -> Result<(u32, Vec<Allocation>), ReplyError> {
    let kind = REPLY_TYPE_BLOCK_STATUS;
    let bad = ReplyError::ChunkContent { kind };
    let (&context, extents) = bytes.split_first_chunk::<4>().ok_or(bad)?;
    let (pairs, rest) = extents.as_chunks::<8>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(bad);
    }
    let extents = pairs
        .iter()
        .map(|&[l0, l1, l2, l3, flags @ ..]| {
            let len = u32::from_be_bytes([l0, l1, l2, l3]);
            let flags = u32::from_be_bytes(flags);
            let (hole, zero) = (flags & STATE_HOLE != 0, flags & STATE_ZERO != 0);
            (len > 0).then_some(Allocation { len, hole, zero })
        })
        .collect::<Option<_>>()
        .ok_or(bad)?;
    Ok((u32::from_be_bytes(context), extents))
}

/// At most `count_max` extents of together at most `len` bytes, none empty, neighbours different.
pub(crate) fn cut_extents(extents: Vec<Allocation>, len: u32, count_max: usize) -> Vec<Allocation> {
    let mut left = len;
    let mut cut: Vec<Allocation> = Vec::with_capacity(extents.len().min(count_max));
    for mut extent in extents {
        extent.len = extent.len.min(left);
        if extent.len == 0 {
            continue;
        }
        left -= extent.len;
        let status = (extent.hole, extent.zero);
        match cut.last_mut() {
            Some(last) if (last.hole, last.zero) == status => last.len += extent.len,
            _ => cut.push(extent),
        }
        if cut.len() > count_max {
            cut.pop();
            break;
        }
    }
    cut
}

impl ReplyHeader {
    /// How many bytes the header took. Unit: bytes.
    pub const fn wire_len(&self) -> usize {
        match self {
            Self::Simple { .. } => SIMPLE_REPLY_LEN,
            Self::Chunk { .. } => CHUNK_HEADER_LEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simple_reply_is_laid_out_as_the_table_says() {
        let mut out = Vec::new();
        push_simple(&mut out, 0x0102_0304_0506_0708, Some(Errno::NoSpace));
        assert_eq!(
            out,
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            parse_reply(&out),
            Ok(Some(ReplyHeader::Simple {
                cookie: 0x0102_0304_0506_0708,
                errno: Some(Errno::NoSpace)
            }))
        );
    }

    #[test]
    fn a_hole_is_laid_out_as_the_table_says() {
        let mut out = Vec::new();
        push_hole(&mut out, 9, ByteOffset(0x0102), 0x0a00);
        assert_eq!(
            out,
            [
                0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 12, 0, 0, 0,
                0, 0, 0, 1, 2, 0, 0, 0x0a, 0
            ]
        );
        let hole = parse_hole(out[20..].first_chunk().unwrap());
        let (at, len) = (ByteOffset(0x0102), 0x0a00);
        assert_eq!(hole, Ok(Hole { at, len }));
    }

    #[test]
    fn data_is_announced_with_its_offset_in_the_length() {
        let mut out = Vec::new();
        push_data_head(&mut out, 3, ByteOffset(512), 4_096);
        assert_eq!(
            parse_reply(&out),
            Ok(Some(ReplyHeader::Chunk {
                cookie: 3,
                done: true,
                kind: ChunkKind::Data,
                len: 4_104
            }))
        );
        assert_eq!(out[20..], 512_u64.to_be_bytes());
    }

    #[test]
    fn an_error_reads_back_and_one_that_says_success_is_refused() {
        let mut out = Vec::new();
        push_error(&mut out, 3, Errno::Inval, "too long");
        assert_eq!(parse_error(&out[20..]), Ok(Errno::Inval));
        out[20..24].fill(0);
        assert!(parse_error(&out[20..]).is_err());
        out[24..26].copy_from_slice(&9_u16.to_be_bytes());
        out[23] = 5;
        assert!(parse_error(&out[20..]).is_err(), "text longer than chunk");
    }

    #[test]
    fn a_status_reads_back_and_an_empty_extent_is_refused() {
        let extents = [
            Allocation {
                len: 4_096,
                hole: true,
                zero: true,
            },
            Allocation {
                len: 512,
                hole: false,
                zero: true,
            },
        ];
        let mut out = Vec::new();
        push_status(&mut out, 3, 1, &extents);
        assert_eq!(parse_status(&out[20..]), Ok((1, extents.to_vec())));
        out[24..28].fill(0);
        assert!(parse_status(&out[20..]).is_err());
        assert!(parse_status(&[0; 4]).is_err(), "no extent");
    }

    #[test]
    fn a_header_waits_for_all_its_bytes() {
        let mut out = Vec::new();
        push_hole(&mut out, 9, ByteOffset(0), 512);
        for len in 0..CHUNK_HEADER_LEN {
            assert_eq!(parse_reply(&out[..len]), Ok(None), "{len}");
        }
        assert!(matches!(parse_reply(&out), Ok(Some(_))));
    }

    #[test]
    fn a_chunk_of_impossible_length_is_refused_before_anything_is_allocated() {
        let header = |kind: u16, len: u32| {
            let mut out = Vec::new();
            push_chunk_header(&mut out, 1, kind, len);
            parse_reply(&out)
        };
        for (kind, len) in [
            (REPLY_TYPE_NONE, 1),
            (REPLY_TYPE_OFFSET_DATA, 8),
            (REPLY_TYPE_OFFSET_HOLE, 11),
            (REPLY_TYPE_BLOCK_STATUS, 4),
            (REPLY_TYPE_BLOCK_STATUS, 13),
            (REPLY_TYPE_BLOCK_STATUS, u32::MAX - 3),
            (REPLY_TYPE_ERROR, 5),
            (REPLY_TYPE_ERROR, u32::MAX),
        ] {
            assert_eq!(header(kind, len), Err(ReplyError::ChunkLen { kind, len }));
        }
        assert_eq!(header(77, 0), Err(ReplyError::UnknownChunk { kind: 77 }));
        assert!(header(REPLY_TYPE_ERROR_BIT | 99, 6).is_ok(), "an error");
    }

    fn extent(len: u32, hole: bool) -> Allocation {
        Allocation {
            len,
            hole,
            zero: hole,
        }
    }

    #[test]
    fn extents_are_joined_cut_at_the_question_and_counted() {
        let extents = vec![
            extent(512, true),
            extent(0, false),
            extent(512, true),
            extent(1_024, false),
            extent(4_096, true),
        ];
        assert_eq!(
            cut_extents(extents.clone(), 3_072, 10),
            [
                extent(1_024, true),
                extent(1_024, false),
                extent(1_024, true)
            ]
        );
        assert_eq!(cut_extents(extents, 1 << 20, 1), [extent(1_024, true)]);
        assert!(cut_extents(vec![extent(0, true)], 512, 10).is_empty());
    }
}
