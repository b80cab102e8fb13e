//! The server's side of a handshake: options in, answers out, until an export is chosen.
//!
//! Whatever a client sends here costs one option of memory, and no more time than the deadline that
//! the caller sets.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::registry::{Entry, Registry};
use crate::export::ExportInfo;
use crate::handshake::{
    ClientFlags, ClientOption, ContextQuery, ExportQuery, GreetingError, encode_greeting,
    encode_text, parse_client_flags, parse_option, parse_option_header, push_option_reply,
};
use crate::protocol::{
    CONTEXT_ALLOCATION, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, OPT_GO,
    OPTION_HEADER_LEN, OPTION_LEN_MAX, REP_ACK, REP_ERR_INVALID, REP_ERR_PLATFORM, REP_ERR_POLICY,
    REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO, REP_META_CONTEXT, REP_SERVER,
};
use crate::request::Terms;

/// The number under which status replies speak of `base:allocation`.
pub(super) const ALLOCATION_CONTEXT: u32 = 1;

/// Options in one handshake. Ours: a client that asks four things about each of a thousand exports
/// still passes.
const OPTION_COUNT_MAX: u32 = 4_096;

/// Answers are sent once this much of them waits. Unit: bytes.
const ANSWERS_LEN_MAX: usize = 64 << 10;

/// What a handshake arrived at.
pub(super) struct Agreed {
    pub(super) name: String,
    pub(super) entry: Arc<dyn Entry>,
    pub(super) terms: Terms,
}

/// Why a handshake arrived at nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeEnd {
    /// The client asked to end it, or left.
    #[error("the client left")]
    Left,
    /// The client broke the protocol.
    #[error("the client broke the protocol")]
    Garbage(#[source] GreetingError),
    /// An option above [`OPTION_LEN_MAX`].
    #[error("the client sends an option of {len} B")]
    OptionTooLong {
        /// Its length. Unit: bytes.
        len: u32,
    },
    /// More than [`OPTION_COUNT_MAX`] options.
    #[error("the client sends more than {OPTION_COUNT_MAX} options")]
    TooManyOptions,
    /// The client chose, in the old way, an export that does not exist.
    #[error("the client wants an export that is not attached")]
    UnknownExport,
    /// The client sends options that it has said it does not know.
    #[error("the client mixes old and new handshake")]
    NotFixedNewstyle,
    /// The socket failed.
    #[error("the socket failed")]
    Broken(#[source] io::Error),
    /// The client took longer than it may.
    #[error("the client took too long")]
    TimedOut,
    /// The server shuts down.
    #[error("the server shuts down")]
    Stopped,
}

struct Handshake<'s, S> {
    stream: &'s mut S,
    registry: &'s Registry,
    payload_len_max: u32,
    flags: ClientFlags,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    allocation: Option<Arc<dyn Entry>>,
    out: Vec<u8>,
}

/// Leads a handshake to its end.
pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    registry: &Registry,
    payload_len_max: u32,
) -> Result<Agreed, HandshakeEnd> {
    stream.write_all(&encode_greeting()).await?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).await?;
    let flags = parse_client_flags(flags).map_err(HandshakeEnd::Garbage)?;
    let mut handshake = Handshake {
        stream,
        registry,
        payload_len_max,
        flags,
        structured: false,
        allocation: None,
        out: Vec::new(),
    };
    for _ in 0..OPTION_COUNT_MAX {
        if let ControlFlow::Break(agreed) = handshake.option().await? {
            return Ok(agreed);
        }
    }
    Err(HandshakeEnd::TooManyOptions)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    /// Reads one option and answers it.
    async fn option(&mut self) -> Result<ControlFlow<Agreed>, HandshakeEnd> {
        let mut header = [0; OPTION_HEADER_LEN];
        self.stream.read_exact(&mut header).await?;
        let header = parse_option_header(&header).map_err(HandshakeEnd::Garbage)?;
        let (option, len) = (header.option, header.len);
        if len > OPTION_LEN_MAX {
            self.reply(option, REP_ERR_TOO_BIG, b"option is too long");
            self.send().await?;
            return Err(HandshakeEnd::OptionTooLong { len });
        }
        let mut data = vec![0; usize::try_from(len).expect("bounded above")];
        self.stream.read_exact(&mut data).await?;
        let parsed = parse_option(option, &data);
        if !self.flags.fixed_newstyle && !matches!(parsed, Ok(ClientOption::ExportName(_))) {
            return Err(HandshakeEnd::NotFixedNewstyle);
        }
        let mut next = ControlFlow::Continue(());
        match parsed {
            Ok(ClientOption::ExportName(name)) => {
                next = ControlFlow::Break(self.export_name(name)?);
            }
            Ok(ClientOption::Abort) => {
                self.reply(option, REP_ACK, b"");
                // The client may have closed without waiting for the answer.
                let _ = self.send().await;
                return Err(HandshakeEnd::Left);
            }
            Ok(ClientOption::List) => self.list(option).await?,
            Ok(ClientOption::StartTls) => {
                self.reply(option, REP_ERR_POLICY, b"this server does not encrypt");
            }
            Ok(ClientOption::Info(query) | ClientOption::Go(query)) => {
                next = self.info(option, query);
            }
            Ok(ClientOption::StructuredReply) => {
                self.structured = true;
                self.reply(option, REP_ACK, b"");
            }
            Ok(ClientOption::ListMetaContext(query)) => self.list_contexts(option, query),
            Ok(ClientOption::SetMetaContext(query)) => self.set_contexts(option, query),
            Ok(ClientOption::Unknown) => self.reply(option, REP_ERR_UNSUP, b"unknown option"),
            Err(error) => self.reply(option, REP_ERR_INVALID, error.to_string().as_bytes()),
        }
        self.send().await?;
        Ok(next)
    }

    fn reply(&mut self, option: u32, reply: u32, data: &[u8]) {
        push_option_reply(&mut self.out, option, reply, data);
    }

    async fn send(&mut self) -> Result<(), HandshakeEnd> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The old way: no answer but the export's facts, or the end.
    fn export_name(&mut self, name: &str) -> Result<Agreed, HandshakeEnd> {
        let agreed = self
            .registry
            .find(name)
            .and_then(|(name, entry)| self.agree(name, entry))
            .ok_or(HandshakeEnd::UnknownExport)?;
        let info = &agreed.terms.info;
        self.out.extend_from_slice(&info.size.0.to_be_bytes());
        let flags = info.transmission_flags(self.structured);
        self.out.extend_from_slice(&flags.to_be_bytes());
        if !self.flags.no_zeroes {
            self.out.extend_from_slice(&[0; 124]);
        }
        Ok(agreed)
    }

    async fn list(&mut self, option: u32) -> Result<(), HandshakeEnd> {
        for (name, entry) in self.registry.list() {
            let mut data = encode_text(&name);
            data.extend_from_slice(entry.describe().description.as_bytes());
            self.reply(option, REP_SERVER, &data);
            if self.out.len() > ANSWERS_LEN_MAX {
                self.send().await?;
            }
        }
        self.reply(option, REP_ACK, b"");
        Ok(())
    }

    fn info(&mut self, option: u32, query: ExportQuery<'_>) -> ControlFlow<Agreed> {
        let Some((name, entry)) = self.registry.find(query.name) else {
            self.reply(option, REP_ERR_UNKNOWN, b"no such export");
            return ControlFlow::Continue(());
        };
        let Some(agreed) = self.agree(name, entry) else {
            self.reply(option, REP_ERR_PLATFORM, b"the export cannot be served");
            return ControlFlow::Continue(());
        };
        let Agreed { name, terms, .. } = &agreed;
        let info = &terms.info;
        self.reply_info(option, INFO_EXPORT, |data| {
            data.extend_from_slice(&info.size.0.to_be_bytes());
            data.extend_from_slice(&info.transmission_flags(terms.structured).to_be_bytes());
        });
        if query.asks(INFO_NAME) {
            self.reply_info(option, INFO_NAME, |data| {
                data.extend_from_slice(name.as_bytes());
            });
        }
        if query.asks(INFO_DESCRIPTION) && !info.description.is_empty() {
            self.reply_info(option, INFO_DESCRIPTION, |data| {
                data.extend_from_slice(info.description.as_bytes());
            });
        }
        // Also to those who did not ask: they may ignore it, and gain by not doing so.
        self.reply_info(option, INFO_BLOCK_SIZE, |data| {
            for size in [
                info.blocks.min(),
                info.blocks.preferred(),
                info.blocks.payload_max(),
            ] {
                data.extend_from_slice(&size.to_be_bytes());
            }
        });
        self.reply(option, REP_ACK, b"");
        if option == OPT_GO {
            ControlFlow::Break(agreed)
        } else {
            ControlFlow::Continue(())
        }
    }

    fn reply_info(&mut self, option: u32, info: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut data = info.to_be_bytes().to_vec();
        fill(&mut data);
        self.reply(option, REP_INFO, &data);
    }

    /// What the two sides agree on if the client takes this export now; `None` if the export says
    /// of itself what no client can be told.
    fn agree(&self, name: String, entry: Arc<dyn Entry>) -> Option<Agreed> {
        let info = entry.describe();
        if let Err(error) = check_served(&info, self.payload_len_max) {
            tracing::error!(export = name, %error, "export describes itself wrongly");
            return None;
        }
        let allocation = self
            .allocation
            .as_ref()
            .is_some_and(|chosen| std::ptr::addr_eq(Arc::as_ptr(chosen), Arc::as_ptr(&entry)));
        let blocks = info.blocks.capped(self.payload_len_max);
        Some(Agreed {
            name,
            entry,
            terms: Terms {
                info: ExportInfo { blocks, ..info },
                structured: self.structured,
                allocation: allocation && self.structured,
                flush: true,
                fua: true,
            },
        })
    }

    fn list_contexts(&mut self, option: u32, query: ContextQuery<'_>) {
        if self.registry.find(query.name).is_none() {
            return self.reply(option, REP_ERR_UNKNOWN, b"no such export");
        }
        // "base:" is the wildcard of its namespace here; other namespaces are ignored.
        let all = query.count == 0;
        if all
            || query
                .queries()
                .any(|q| q == CONTEXT_ALLOCATION || q == "base:")
        {
            self.reply_context(option, 0);
        }
        self.reply(option, REP_ACK, b"");
    }

    fn set_contexts(&mut self, option: u32, query: ContextQuery<'_>) {
        self.allocation = None;
        if !self.structured {
            return self.reply(option, REP_ERR_INVALID, b"needs structured replies");
        }
        let Some((_, entry)) = self.registry.find(query.name) else {
            return self.reply(option, REP_ERR_UNKNOWN, b"no such export");
        };
        if query.queries().any(|q| q == CONTEXT_ALLOCATION) {
            self.allocation = Some(entry);
            self.reply_context(option, ALLOCATION_CONTEXT);
        }
        self.reply(option, REP_ACK, b"");
    }

    fn reply_context(&mut self, option: u32, id: u32) {
        let mut data = id.to_be_bytes().to_vec();
        data.extend_from_slice(CONTEXT_ALLOCATION.as_bytes());
        self.reply(option, REP_META_CONTEXT, &data);
    }
}

/// Whether a server with this limit can serve the export.
pub(super) fn check_served(
    info: &ExportInfo,
    payload_len_max: u32,
) -> Result<(), super::UnservableError> {
    info.check()?;
    let preferred = info.blocks.preferred();
    if preferred > payload_len_max {
        return Err(super::UnservableError::BlockTooLarge {
            preferred,
            payload_len_max,
        });
    }
    Ok(())
}

impl From<io::Error> for HandshakeEnd {
    /// The only operation of a handshake that can fail in the system is the exchange of bytes.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Left,
            _ => Self::Broken(error),
        }
    }
}

#[cfg(test)]
mod tests;
