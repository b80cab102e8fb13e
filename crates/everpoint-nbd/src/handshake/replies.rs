//! Replies to options, as a client reads them.

use everpoint_units::ByteLen;

use crate::BlockSizes;
use crate::protocol::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, NAME_LEN_MAX, OPTION_LEN_MAX,
    OPTION_REPLY_HEADER_LEN, OPTION_REPLY_MAGIC,
};

/// The header of a reply to an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OptionReply {
    /// Which option it answers.
    pub option: u32,
    /// Its type; bit 31 marks an error.
    pub reply: u32,
    /// Length of what follows. Unit: bytes; at most [`OPTION_LEN_MAX`].
    pub len: u32,
}

/// What a server tells about an export.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Info<'a> {
    /// Size and transmission flags.
    Export {
        /// How large the device is.
        size: ByteLen,
        /// What it offers.
        flags: u16,
    },
    /// The name under which it is listed.
    Name(&'a str),
    /// For people.
    Description(&'a str),
    /// Which requests fit.
    Blocks(BlockSizes),
    /// Something that this crate does not know.
    Unknown,
}

/// A reply that breaks the protocol. The connection cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionReplyError {
    /// The stream does not carry replies to options.
    #[error("reply to an option begins with {found:016x} instead of its magic")]
    BadMagic {
        /// What stood there.
        found: u64,
    },
    /// More than any reply of a sane server.
    #[error("reply to an option has {len} B, above {OPTION_LEN_MAX} B")]
    TooLong {
        /// Its length. Unit: bytes.
        len: u32,
    },
    /// A length, a text or a number that its type does not allow.
    #[error("information of type {info} contradicts itself")]
    BadInfo {
        /// Its type.
        info: u16,
    },
}

/// Reads the header of a reply to an option.
///
/// # Errors
///
/// [`OptionReplyError`]: close the connection.
pub fn parse_option_reply(
    bytes: &[u8; OPTION_REPLY_HEADER_LEN],
) -> Result<OptionReply, OptionReplyError> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, rest @ ..] = *bytes;
    let [o0, o1, o2, o3, r0, r1, r2, r3, len @ ..] = rest;
    let found = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
    if found != OPTION_REPLY_MAGIC {
        return Err(OptionReplyError::BadMagic { found });
    }
    let len = u32::from_be_bytes(len);
    if len > OPTION_LEN_MAX {
        return Err(OptionReplyError::TooLong { len });
    }
    Ok(OptionReply {
        option: u32::from_be_bytes([o0, o1, o2, o3]),
        reply: u32::from_be_bytes([r0, r1, r2, r3]),
        len,
    })
}

/// Reads the content of a reply that informs about an export.
///
/// # Errors
///
/// [`OptionReplyError::BadInfo`]: close the connection.
pub fn parse_info(data: &[u8]) -> Result<Info<'_>, OptionReplyError> {
    let Some((&info, rest)) = data.split_first_chunk() else {
        return Err(OptionReplyError::BadInfo { info: u16::MAX });
    };
    let info = u16::from_be_bytes(info);
    let parsed = match info {
        INFO_EXPORT => parse_export(rest),
        INFO_NAME => text(rest).map(Info::Name),
        INFO_DESCRIPTION => text(rest).map(Info::Description),
        INFO_BLOCK_SIZE => parse_blocks(rest),
        _ => Some(Info::Unknown),
    };
    parsed.ok_or(OptionReplyError::BadInfo { info })
}

fn parse_export(data: &[u8]) -> Option<Info<'_>> {
    let (&size, flags) = data.split_first_chunk()?;
    let size = u64::from_be_bytes(size);
    i64::try_from(size).ok()?;
    Some(Info::Export {
        size: ByteLen(size),
        flags: u16::from_be_bytes(*flags.as_array()?),
    })
}

fn parse_blocks(data: &[u8]) -> Option<Info<'_>> {
    let ([min, preferred, max], []) = data.as_chunks::<4>() else {
        return None;
    };
    let preferred = u32::from_be_bytes(*preferred);
    // A server may state less than one preferred block for an export that is smaller than that;
    // the end of the export binds such requests anyway.
    let payload_max = u32::from_be_bytes(*max).max(preferred);
    BlockSizes::new(u32::from_be_bytes(*min), preferred, payload_max).map(Info::Blocks)
}

fn text(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    (text.len() <= NAME_LEN_MAX).then_some(text)
}
