//! The numbers of the protocol, under the names that its specification gives them.
//!
//! Source: "The NBD protocol", <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.
//! All integers on the wire are big-endian.

/// Longest export name, query or error text. Unit: bytes. Source: specification, "Terminology":
/// strings are at most 4096 bytes.
pub const NAME_LEN_MAX: usize = 4_096;

/// Longest payload of one read or write, and what a client may expect any server to take. Unit:
/// bytes. Source: specification, "Block size constraints" (2^25).
pub const PAYLOAD_LEN_MAX: u32 = 32 << 20;

/// Longest option that the server takes. Unit: bytes. Ours: room for the longest name and 4,096
/// information requests or a hundred context queries.
pub const OPTION_LEN_MAX: u32 = 16 << 10;

/// Length of a request's header on the wire. Unit: bytes.
pub const REQUEST_LEN: usize = 28;
/// Length of a simple reply's header on the wire. Unit: bytes.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length of a structured reply chunk's header on the wire. Unit: bytes.
pub const CHUNK_HEADER_LEN: usize = 20;
/// Length of an option's header on the wire. Unit: bytes.
pub const OPTION_HEADER_LEN: usize = 16;
/// Length of an option reply's header on the wire. Unit: bytes.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;

pub(crate) const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
pub(crate) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

// Handshake flags of the server, and the client's answer to them (same bits).
pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
pub(crate) const FLAG_NO_ZEROES: u16 = 1 << 1;

// Transmission flags.
pub(crate) const FLAG_HAS_FLAGS: u16 = 1 << 0;
pub(crate) const FLAG_READ_ONLY: u16 = 1 << 1;
pub(crate) const FLAG_SEND_FLUSH: u16 = 1 << 2;
pub(crate) const FLAG_SEND_FUA: u16 = 1 << 3;
pub(crate) const FLAG_SEND_TRIM: u16 = 1 << 5;
pub(crate) const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(crate) const FLAG_SEND_DF: u16 = 1 << 7;
pub(crate) const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
pub(crate) const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

// Options.
pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

// Replies to options.
pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
pub(crate) const REP_ERROR_BIT: u32 = 1 << 31;
pub(crate) const REP_ERR_UNSUP: u32 = REP_ERROR_BIT | 1;
pub(crate) const REP_ERR_POLICY: u32 = REP_ERROR_BIT | 2;
pub(crate) const REP_ERR_INVALID: u32 = REP_ERROR_BIT | 3;
pub(crate) const REP_ERR_PLATFORM: u32 = REP_ERROR_BIT | 4;
pub(crate) const REP_ERR_TLS_REQD: u32 = REP_ERROR_BIT | 5;
pub(crate) const REP_ERR_UNKNOWN: u32 = REP_ERROR_BIT | 6;
pub(crate) const REP_ERR_SHUTDOWN: u32 = REP_ERROR_BIT | 7;
pub(crate) const REP_ERR_TOO_BIG: u32 = REP_ERROR_BIT | 9;

// Information about an export.
pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_DESCRIPTION: u16 = 2;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

// Commands and their flags.
pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;
pub(crate) const CMD_FLAG_FUA: u16 = 1 << 0;
pub(crate) const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub(crate) const CMD_FLAG_DF: u16 = 1 << 2;
pub(crate) const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
pub(crate) const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

// Chunks of a structured reply.
pub(crate) const REPLY_FLAG_DONE: u16 = 1 << 0;
pub(crate) const REPLY_TYPE_NONE: u16 = 0;
pub(crate) const REPLY_TYPE_OFFSET_DATA: u16 = 1;
pub(crate) const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
pub(crate) const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
pub(crate) const REPLY_TYPE_ERROR_BIT: u16 = 1 << 15;
pub(crate) const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_ERROR_BIT | 1;

// Status of an extent in the context `base:allocation`.
pub(crate) const CONTEXT_ALLOCATION: &str = "base:allocation";
pub(crate) const STATE_HOLE: u32 = 1 << 0;
pub(crate) const STATE_ZERO: u32 = 1 << 1;
