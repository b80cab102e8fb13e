//! Requests of the transmission phase: their bytes, and whether one fits what was agreed.
//!
//! | offset | length | field                       |
//! |--------|--------|-----------------------------|
//! | 0      | 4      | magic `25609513`            |
//! | 4      | 2      | flags                       |
//! | 6      | 2      | command                     |
//! | 8      | 8      | cookie, echoed in the reply |
//! | 16     | 8      | offset. Unit: bytes         |
//! | 24     | 4      | length. Unit: bytes         |
//!
//! A write's payload follows. Everything here is pure: bytes in, a decision out.

use everpoint_units::{ByteLen, ByteOffset};

use crate::Errno;
use crate::export::{ExportInfo, ZeroFlags, ZeroSupport};
use crate::protocol::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE,
    CMD_FLAG_REQ_ONE, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, REQUEST_LEN,
    REQUEST_MAGIC,
};

/// A request's header as it came. Nothing in it has been checked but its magic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// Bits that change what the command does.
    pub flags: u16,
    /// Which command.
    pub command: u16,
    /// Chosen by the client; names the request in replies.
    pub cookie: u64,
    /// Where. Unit: bytes.
    pub offset: u64,
    /// How much. Unit: bytes.
    pub len: u32,
}

/// What a request asks for, once it is known to fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Send `len` bytes.
    Read {
        /// Where.
        at: ByteOffset,
        /// Unit: bytes.
        len: u32,
        /// In one content chunk.
        whole: bool,
    },
    /// Take the payload of `len` bytes that follows.
    Write {
        /// Where.
        at: ByteOffset,
        /// Unit: bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make what was answered durable.
    Flush,
    /// The bytes are not needed.
    Trim {
        /// Where.
        at: ByteOffset,
        /// Unit: bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make the bytes zero.
    WriteZeroes {
        /// Where.
        at: ByteOffset,
        /// Unit: bytes.
        len: u32,
        /// How.
        flags: ZeroFlags,
    },
    /// Say what is allocated.
    BlockStatus {
        /// Where.
        at: ByteOffset,
        /// Unit: bytes.
        len: u32,
        /// Only the first extent, no longer than asked.
        one: bool,
    },
    /// Finish what was begun and close.
    Disconnect,
}

/// What client and server agreed on for one connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// The facts that the client was told.
    pub info: ExportInfo,
    /// Replies to reads are structured.
    pub structured: bool,
    /// The context `base:allocation` was selected for this export.
    pub allocation: bool,
    /// Flushes are offered. Ours always are; other servers' need not be.
    pub flush: bool,
    /// Durability of a single request is offered. Ours always is.
    pub fua: bool,
}

/// The stream does not carry requests. The connection cannot go on: nobody knows where the next
/// request would begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("request begins with {found:08x} instead of its magic")]
pub struct BadMagic {
    /// What stood there.
    pub found: u32,
}

/// A request that does not fit what was agreed. The connection goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No such command.
    #[error("unknown command")]
    UnknownCommand,
    /// A flag that this command does not have, or that was not agreed on.
    #[error("a flag that this command does not take")]
    UnknownFlag,
    /// A command that the export does not offer.
    #[error("the export does not offer this command")]
    NotOffered,
    /// A change to an export that refuses changes.
    #[error("the export is read-only")]
    ReadOnly,
    /// Nothing was asked for, or something of a command that takes no extent.
    #[error("length and offset make no sense for this command")]
    NoExtent,
    /// Offset or length is not whole minimum blocks.
    #[error("offset or length is not whole blocks")]
    Misaligned,
    /// More than one payload may carry.
    #[error("longer than the largest payload")]
    TooLong,
    /// A read, trim or status query past the end.
    #[error("past the end of the export")]
    PastTheEnd,
    /// A write past the end.
    #[error("write past the end of the export")]
    WritePastTheEnd,
}

/// Reads a request's header.
///
/// # Errors
///
/// [`BadMagic`]: close the connection.
pub fn parse_request(bytes: &[u8; REQUEST_LEN]) -> Result<Request, BadMagic> {
    let [m0, m1, m2, m3, f0, f1, c0, c1, rest @ ..] = *bytes;
    let [k0, k1, k2, k3, k4, k5, k6, k7, rest @ ..] = rest;
    let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
    let found = u32::from_be_bytes([m0, m1, m2, m3]);
    if found != REQUEST_MAGIC {
        return Err(BadMagic { found });
    }
    Ok(Request {
        flags: u16::from_be_bytes([f0, f1]),
        command: u16::from_be_bytes([c0, c1]),
        cookie: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
        offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
        len: u32::from_be_bytes([l0, l1, l2, l3]),
    })
}

/// Writes a request's header.
pub fn encode_request(request: &Request) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&request.flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&request.command.to_be_bytes());
    bytes[8..16].copy_from_slice(&request.cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&request.offset.to_be_bytes());
    bytes[24..28].copy_from_slice(&request.len.to_be_bytes());
    bytes
}

impl Request {
    /// How many bytes of payload follow the header, whether or not the request is refused. Unit:
    /// bytes.
    pub const fn payload_len(&self) -> u32 {
        if self.command == CMD_WRITE {
            self.len
        } else {
            0
        }
    }

    /// Whether this is a read, whose reply is structured where that was agreed on.
    pub const fn is_read(&self) -> bool {
        self.command == CMD_READ
    }

    /// Whether this is a status query, whose reply is always structured.
    pub const fn is_block_status(&self) -> bool {
        self.command == CMD_BLOCK_STATUS
    }
}

impl Operation {
    /// How many bytes of payload the operation holds in memory while it runs. Unit: bytes.
    pub const fn payload_len(&self) -> u32 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len,
            _ => 0,
        }
    }
}

impl Terms {
    /// Decides whether a request fits.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: answer [`Refusal::errno`], skip the payload if there is one, and go on.
    pub fn admit(&self, request: &Request) -> Result<Operation, Refusal> {
        self.check_flags(request)?;
        let &Request { flags, len, .. } = request;
        let at = ByteOffset(request.offset);
        let fua = flags & CMD_FLAG_FUA != 0;
        match request.command {
            CMD_READ => {
                self.check_extent(request, Refusal::PastTheEnd)?;
                self.check_payload(len)?;
                let whole = flags & CMD_FLAG_DF != 0;
                Ok(Operation::Read { at, len, whole })
            }
            CMD_WRITE => {
                self.check_writable()?;
                self.check_extent(request, Refusal::WritePastTheEnd)?;
                self.check_payload(len)?;
                Ok(Operation::Write { at, len, fua })
            }
            CMD_DISC => Ok(Operation::Disconnect),
            CMD_FLUSH if !self.flush => Err(Refusal::NotOffered),
            CMD_FLUSH if len == 0 && request.offset == 0 => Ok(Operation::Flush),
            CMD_FLUSH => Err(Refusal::NoExtent),
            CMD_TRIM => {
                self.check_writable()?;
                self.check_offered(self.info.trim)?;
                self.check_extent(request, Refusal::PastTheEnd)?;
                Ok(Operation::Trim { at, len, fua })
            }
            CMD_WRITE_ZEROES => {
                self.check_writable()?;
                self.check_offered(self.info.zeroes != ZeroSupport::None)?;
                self.check_extent(request, Refusal::WritePastTheEnd)?;
                let flags = ZeroFlags {
                    no_hole: flags & CMD_FLAG_NO_HOLE != 0,
                    fast_only: flags & CMD_FLAG_FAST_ZERO != 0,
                    fua,
                };
                Ok(Operation::WriteZeroes { at, len, flags })
            }
            CMD_BLOCK_STATUS => {
                self.check_offered(self.allocation)?;
                self.check_extent(request, Refusal::PastTheEnd)?;
                let one = flags & CMD_FLAG_REQ_ONE != 0;
                Ok(Operation::BlockStatus { at, len, one })
            }
            _ => Err(Refusal::UnknownCommand),
        }
    }

    /// FUA, once announced, is allowed on every command, as the specification asks of servers.
    fn check_flags(&self, request: &Request) -> Result<(), Refusal> {
        let own = match request.command {
            CMD_READ if self.structured => CMD_FLAG_DF,
            CMD_WRITE_ZEROES if self.info.zeroes == ZeroSupport::Fast => {
                CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO
            }
            CMD_WRITE_ZEROES => CMD_FLAG_NO_HOLE,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        let fua = if self.fua { CMD_FLAG_FUA } else { 0 };
        if request.flags & !(own | fua) == 0 {
            Ok(())
        } else {
            Err(Refusal::UnknownFlag)
        }
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.info.read_only {
            Err(Refusal::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn check_offered(&self, offered: bool) -> Result<(), Refusal> {
        if offered {
            Ok(())
        } else {
            Err(Refusal::NotOffered)
        }
    }

    fn check_extent(&self, request: &Request, past_the_end: Refusal) -> Result<(), Refusal> {
        check_extent(
            &self.info,
            ByteOffset(request.offset),
            request.len,
            past_the_end,
        )
    }

    fn check_payload(&self, len: u32) -> Result<(), Refusal> {
        if len <= self.info.blocks.payload_max() {
            Ok(())
        } else {
            Err(Refusal::TooLong)
        }
    }
}

/// Whether `len` bytes at `at` are whole blocks inside the export; `past_the_end` is the answer if
/// they end outside. The client asks the same before it sends.
pub(crate) fn check_extent(
    info: &ExportInfo,
    at: ByteOffset,
    len: u32,
    past_the_end: Refusal,
) -> Result<(), Refusal> {
    let min = info.blocks.min();
    if len == 0 {
        return Err(Refusal::NoExtent);
    }
    if !len.is_multiple_of(min) || !at.0.is_multiple_of(u64::from(min)) {
        return Err(Refusal::Misaligned);
    }
    match at.0.checked_add(u64::from(len)).map(ByteLen) {
        Some(end) if end <= info.size => Ok(()),
        _ => Err(past_the_end),
    }
}

impl Refusal {
    /// What the reply says. Source: specification, "Error values".
    pub const fn errno(self) -> Errno {
        match self {
            Self::ReadOnly => Errno::Perm,
            Self::WritePastTheEnd => Errno::NoSpace,
            _ => Errno::Inval,
        }
    }
}

#[cfg(test)]
mod tests;
