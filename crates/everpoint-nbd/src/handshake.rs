//! The handshake's bytes, both ways: greetings, options, and the replies to options.
//!
//! | greeting | offset | length | field                              |
//! |----------|--------|--------|------------------------------------|
//! | server   | 0      | 8      | `NBDMAGIC`                         |
//! |          | 8      | 8      | `IHAVEOPT`                         |
//! |          | 16     | 2      | flags: fixed newstyle, no zeroes   |
//! | client   | 0      | 4      | the same flags, those it takes     |
//!
//! | option   | offset | length | field                              |
//! |----------|--------|--------|------------------------------------|
//! |          | 0      | 8      | `IHAVEOPT`                         |
//! |          | 8      | 4      | which                              |
//! |          | 12     | 4      | length of what follows             |
//!
//! | reply    | offset | length | field                              |
//! |----------|--------|--------|------------------------------------|
//! |          | 0      | 8      | magic `0003e889045565a9`           |
//! |          | 8      | 4      | which option it answers            |
//! |          | 12     | 4      | type; bit 31: an error             |
//! |          | 16     | 4      | length of what follows             |
//!
//! Parsing is pure, never panics and allocates nothing: texts are borrowed.

mod replies;

use crate::protocol::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INIT_MAGIC, NAME_LEN_MAX, OPT_ABORT, OPT_EXPORT_NAME,
    OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS,
    OPT_STRUCTURED_REPLY, OPTION_HEADER_LEN, OPTION_MAGIC, OPTION_REPLY_HEADER_LEN,
    OPTION_REPLY_MAGIC,
};

pub use replies::{Info, OptionReply, OptionReplyError, parse_info, parse_option_reply};

/// Length of the server's greeting. Unit: bytes.
pub const GREETING_LEN: usize = 18;

/// What the two sides agreed on before the first option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientFlags {
    /// The client understands replies to options; without it only `EXPORT_NAME` makes sense.
    pub fixed_newstyle: bool,
    /// The client does not want 124 zeroes after `EXPORT_NAME`.
    pub no_zeroes: bool,
}

/// Which option comes, and how long it is. The length has not been bounded yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OptionHeader {
    /// Which.
    pub option: u32,
    /// How long. Unit: bytes.
    pub len: u32,
}

/// What a client asks for during the handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientOption<'a> {
    /// Use this export, with the old shape of answer, which cannot say no.
    ExportName(&'a str),
    /// End the session.
    Abort,
    /// Name all exports.
    List,
    /// Encrypt.
    StartTls,
    /// Tell about an export.
    Info(ExportQuery<'a>),
    /// Tell about an export and use it.
    Go(ExportQuery<'a>),
    /// Answer reads in structured replies.
    StructuredReply,
    /// Name the contexts of an export.
    ListMetaContext(ContextQuery<'a>),
    /// Select contexts of an export.
    SetMetaContext(ContextQuery<'a>),
    /// An option that this crate does not know.
    Unknown,
}

/// An export, and what is asked about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExportQuery<'a> {
    /// Its name; empty for the default export.
    pub name: &'a str,
    infos: &'a [[u8; 2]],
}

/// An export, and which contexts are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ContextQuery<'a> {
    /// The export's name; empty for the default export.
    pub name: &'a str,
    /// How many queries there are.
    pub count: u32,
    queries: &'a [u8],
}

/// The stream does not carry a handshake. The connection cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GreetingError {
    /// The other side does not speak the protocol.
    #[error("greeting begins with {found:016x} instead of a magic")]
    NotNbd {
        /// What stood there.
        found: u64,
    },
    /// The server speaks the protocol of before 2011.
    #[error("server does not speak the fixed newstyle handshake")]
    NotFixedNewstyle,
    /// The client sets flags that the server never offered.
    #[error("client flags {flags:08x} hold one that was not offered")]
    UnknownClientFlag {
        /// All of them.
        flags: u32,
    },
    /// What should be an option is none.
    #[error("option begins with {found:016x} instead of its magic")]
    NotAnOption {
        /// What stood there.
        found: u64,
    },
}

/// An option whose content makes no sense. The handshake goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionError {
    /// It ends in the middle of a field.
    #[error("option ends inside a field")]
    Truncated,
    /// It goes on after its last field, or carries data where it takes none.
    #[error("option has {len} B too many")]
    TooMuch {
        /// How many. Unit: bytes.
        len: usize,
    },
    /// A name or query above [`NAME_LEN_MAX`].
    #[error("text of {len} B is above {NAME_LEN_MAX} B")]
    TextTooLong {
        /// Its length. Unit: bytes.
        len: usize,
    },
    /// A name or query that is not UTF-8, or holds a NUL.
    #[error("text is not UTF-8 without NUL")]
    NotText,
}

/// The server's first bytes.
pub fn encode_greeting() -> [u8; GREETING_LEN] {
    let mut bytes = [0; GREETING_LEN];
    bytes[0..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..18].copy_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    bytes
}

/// Reads the server's first bytes; the answer says whether it can leave the 124 zeroes out.
///
/// # Errors
///
/// [`GreetingError::NotNbd`] or [`GreetingError::NotFixedNewstyle`]: close the connection.
pub fn parse_greeting(bytes: &[u8; GREETING_LEN]) -> Result<bool, GreetingError> {
    let [i0, i1, i2, i3, i4, i5, i6, i7, rest @ ..] = *bytes;
    let [o0, o1, o2, o3, o4, o5, o6, o7, flags @ ..] = rest;
    let found = u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
    if found != INIT_MAGIC {
        return Err(GreetingError::NotNbd { found });
    }
    let option = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let flags = u16::from_be_bytes(flags);
    if option != OPTION_MAGIC || flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(GreetingError::NotFixedNewstyle);
    }
    Ok(flags & FLAG_NO_ZEROES != 0)
}

/// The client's answer to the greeting.
pub fn encode_client_flags(no_zeroes: bool) -> [u8; 4] {
    let no_zeroes = if no_zeroes { FLAG_NO_ZEROES } else { 0 };
    u32::from(FLAG_FIXED_NEWSTYLE | no_zeroes).to_be_bytes()
}

/// Reads the client's answer to the greeting.
///
/// # Errors
///
/// [`GreetingError::UnknownClientFlag`]: close the connection, as the specification demands.
pub fn parse_client_flags(bytes: [u8; 4]) -> Result<ClientFlags, GreetingError> {
    let flags = u32::from_be_bytes(bytes);
    let (fixed, no_zeroes) = (u32::from(FLAG_FIXED_NEWSTYLE), u32::from(FLAG_NO_ZEROES));
    if flags & !(fixed | no_zeroes) != 0 {
        return Err(GreetingError::UnknownClientFlag { flags });
    }
    Ok(ClientFlags {
        fixed_newstyle: flags & fixed != 0,
        no_zeroes: flags & no_zeroes != 0,
    })
}

/// Appends an option.
///
/// # Panics
///
/// If `data` is longer than 4 GiB.
pub fn push_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).expect("options are short");
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
}

/// Reads an option's header.
///
/// # Errors
///
/// [`GreetingError::NotAnOption`]: close the connection.
pub fn parse_option_header(bytes: &[u8; OPTION_HEADER_LEN]) -> Result<OptionHeader, GreetingError> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, rest @ ..] = *bytes;
    let [o0, o1, o2, o3, len @ ..] = rest;
    let found = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
    if found != OPTION_MAGIC {
        return Err(GreetingError::NotAnOption { found });
    }
    Ok(OptionHeader {
        option: u32::from_be_bytes([o0, o1, o2, o3]),
        len: u32::from_be_bytes(len),
    })
}

/// Appends a reply to an option.
///
/// # Panics
///
/// If `data` is longer than 4 GiB.
pub fn push_option_reply(out: &mut Vec<u8>, option: u32, reply: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).expect("replies are short");
    out.reserve(OPTION_REPLY_HEADER_LEN + data.len());
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
}

/// Reads an option's content.
///
/// # Errors
///
/// [`OptionError`]: answer that the option is invalid, and go on.
pub fn parse_option(option: u32, data: &[u8]) -> Result<ClientOption<'_>, OptionError> {
    match option {
        OPT_EXPORT_NAME => text(data).map(ClientOption::ExportName),
        // The specification asks to ignore data here.
        OPT_ABORT => Ok(ClientOption::Abort),
        OPT_LIST => nothing(data).map(|()| ClientOption::List),
        OPT_STARTTLS => nothing(data).map(|()| ClientOption::StartTls),
        OPT_INFO => parse_export_query(data).map(ClientOption::Info),
        OPT_GO => parse_export_query(data).map(ClientOption::Go),
        OPT_STRUCTURED_REPLY => nothing(data).map(|()| ClientOption::StructuredReply),
        OPT_LIST_META_CONTEXT => parse_context_query(data).map(ClientOption::ListMetaContext),
        OPT_SET_META_CONTEXT => parse_context_query(data).map(ClientOption::SetMetaContext),
        _ => Ok(ClientOption::Unknown),
    }
}

fn parse_export_query(data: &[u8]) -> Result<ExportQuery<'_>, OptionError> {
    let (name, rest) = counted_text(data)?;
    let (&count, rest) = rest.split_first_chunk().ok_or(OptionError::Truncated)?;
    let count = usize::from(u16::from_be_bytes(count));
    let (infos, odd) = rest.as_chunks::<2>();
    if infos.len() < count {
        return Err(OptionError::Truncated);
    }
    let (infos, more) = infos.split_at(count);
    nothing(odd)?;
    nothing(more.as_flattened())?;
    Ok(ExportQuery { name, infos })
}

fn parse_context_query(data: &[u8]) -> Result<ContextQuery<'_>, OptionError> {
    let (name, rest) = counted_text(data)?;
    let (&count, queries) = rest.split_first_chunk().ok_or(OptionError::Truncated)?;
    let count = u32::from_be_bytes(count);
    let mut rest = queries;
    for _ in 0..count {
        // Each query takes four bytes at least, so a count that lies ends here soon.
        (_, rest) = counted_text(rest)?;
    }
    nothing(rest)?;
    Ok(ContextQuery {
        name,
        count,
        queries,
    })
}

/// A text with its length of 32 bits before it, and what comes after.
fn counted_text(data: &[u8]) -> Result<(&str, &[u8]), OptionError> {
    let (&len, rest) = data.split_first_chunk().ok_or(OptionError::Truncated)?;
    let len = usize::try_from(u32::from_be_bytes(len)).map_err(|_| OptionError::Truncated)?;
    let (bytes, rest) = rest.split_at_checked(len).ok_or(OptionError::Truncated)?;
    Ok((text(bytes)?, rest))
}

fn text(bytes: &[u8]) -> Result<&str, OptionError> {
    let len = bytes.len();
    if len > NAME_LEN_MAX {
        return Err(OptionError::TextTooLong { len });
    }
    match str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&0) => Ok(text),
        _ => Err(OptionError::NotText),
    }
}

fn nothing(rest: &[u8]) -> Result<(), OptionError> {
    match rest.len() {
        0 => Ok(()),
        len => Err(OptionError::TooMuch { len }),
    }
}

impl<'a> ExportQuery<'a> {
    /// Whether this kind of information is asked for.
    pub fn asks(&self, info: u16) -> bool {
        self.infos.contains(&info.to_be_bytes())
    }

    /// The content of an `INFO` or `GO` option.
    ///
    /// # Panics
    ///
    /// If `name` is longer than 4 GiB, or there are more than 65,535 questions.
    pub fn encode(name: &'a str, infos: &[u16]) -> Vec<u8> {
        let mut out = encode_text(name);
        let count = u16::try_from(infos.len()).expect("a handful of questions");
        out.extend_from_slice(&count.to_be_bytes());
        for info in infos {
            out.extend_from_slice(&info.to_be_bytes());
        }
        out
    }
}

impl<'a> ContextQuery<'a> {
    /// The queries, in order.
    pub fn queries(&self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.queries;
        std::iter::from_fn(move || {
            let (query, after) = counted_text(rest).ok()?;
            rest = after;
            Some(query)
        })
    }

    /// The content of a `LIST_META_CONTEXT` or `SET_META_CONTEXT` option.
    ///
    /// # Panics
    ///
    /// If a text or the count passes 32 bits.
    pub fn encode(name: &'a str, queries: &[&str]) -> Vec<u8> {
        let mut out = encode_text(name);
        let count = u32::try_from(queries.len()).expect("a handful of queries");
        out.extend_from_slice(&count.to_be_bytes());
        for query in queries {
            out.extend_from_slice(&encode_text(query));
        }
        out
    }
}

pub(crate) fn encode_text(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).expect("names are short");
    let mut out = Vec::with_capacity(4 + text.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

#[cfg(test)]
mod tests;
