//! The client's side of a handshake.

use std::io;

use everpoint_units::ByteLen;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{ClientConfig, ConnectError};
use crate::address::{Endpoint, NbdAddress};
use crate::export::ExportInfo;
use crate::handshake::{
    ContextQuery, ExportQuery, GREETING_LEN, Info, encode_client_flags, parse_greeting, parse_info,
    parse_option_reply, push_option,
};
use crate::protocol::{
    CONTEXT_ALLOCATION, FLAG_SEND_FLUSH, FLAG_SEND_FUA, INFO_BLOCK_SIZE, INFO_DESCRIPTION,
    OPT_EXPORT_NAME, OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_REPLY_HEADER_LEN,
    REP_ACK, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_ERROR_BIT,
    REP_INFO, REP_META_CONTEXT,
};
use crate::request::Terms;
use crate::stream::Stream;

/// Replies to one option. Ours: an `INFO` and a name for everything that servers tell, and more.
const REPLY_COUNT_MAX: usize = 64;

/// A connection that is ready for requests.
pub(super) struct Connected<S = Stream> {
    pub(super) stream: S,
    pub(super) terms: Terms,
    /// The number of `base:allocation`, if the server has it.
    pub(super) context: Option<u32>,
}

struct Handshake<'c, S> {
    stream: S,
    name: &'c str,
    no_zeroes: bool,
}

/// A reply to an option.
struct Reply {
    reply: u32,
    data: Vec<u8>,
}

pub(super) async fn connect(
    address: &NbdAddress,
    config: &ClientConfig,
) -> Result<Connected, ConnectError> {
    let connecting = async {
        let stream = open(&address.endpoint).await;
        let stream = stream.map_err(ConnectError::Unreachable)?;
        negotiate(stream, &address.export, config.structured).await
    };
    timeout(config.handshake_max, connecting)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

async fn open(endpoint: &Endpoint) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Endpoint::Tcp { host, port } => {
            Stream::tcp(TcpStream::connect((host.as_str(), *port)).await?)
        }
    }
}

/// Agrees on as much as the server offers.
pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    name: &str,
    structured: bool,
) -> Result<Connected<S>, ConnectError> {
    let mut greeting = [0; GREETING_LEN];
    stream.read_exact(&mut greeting).await?;
    let no_zeroes = parse_greeting(&greeting).map_err(ConnectError::Greeting)?;
    stream.write_all(&encode_client_flags(no_zeroes)).await?;
    let mut handshake = Handshake {
        stream,
        name,
        no_zeroes,
    };
    let structured = structured && handshake.structured_reply().await?;
    let context = if structured {
        handshake.allocation_context().await?
    } else {
        None
    };
    let (info, flags) = match handshake.go().await? {
        Some(facts) => facts,
        None => handshake.export_name().await?,
    };
    Ok(Connected {
        stream: handshake.stream,
        terms: Terms {
            info,
            structured,
            allocation: context.is_some(),
            flush: flags & FLAG_SEND_FLUSH != 0,
            fua: flags & FLAG_SEND_FUA != 0,
        },
        context,
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    async fn structured_reply(&mut self) -> Result<bool, ConnectError> {
        self.send(OPT_STRUCTURED_REPLY, b"").await?;
        let reply = self.reply(OPT_STRUCTURED_REPLY).await?;
        if reply.reply == REP_ERR_TLS_REQD {
            return Err(ConnectError::TlsRequired);
        }
        Ok(reply.reply == REP_ACK)
    }

    /// Selects `base:allocation`; `None` if the server does not have it.
    async fn allocation_context(&mut self) -> Result<Option<u32>, ConnectError> {
        let query = ContextQuery::encode(self.name, &[CONTEXT_ALLOCATION]);
        self.send(OPT_SET_META_CONTEXT, &query).await?;
        let mut context = None;
        for _ in 0..REPLY_COUNT_MAX {
            let Reply { reply, data } = self.reply(OPT_SET_META_CONTEXT).await?;
            match (reply, data.split_first_chunk()) {
                (REP_ACK, _) => return Ok(context),
                (REP_META_CONTEXT, Some((&id, name))) if name == CONTEXT_ALLOCATION.as_bytes() => {
                    context = Some(u32::from_be_bytes(id));
                }
                // An export that does not exist is told of again, and better, by `go`.
                (reply, _) if reply & REP_ERROR_BIT != 0 => return Ok(None),
                (reply, _) => return Err(unexpected(OPT_SET_META_CONTEXT, reply)),
            }
        }
        Err(unexpected(OPT_SET_META_CONTEXT, REP_META_CONTEXT))
    }

    /// Chooses the export, which comes with its transmission flags; `None` if the server knows only
    /// the old way.
    async fn go(&mut self) -> Result<Option<(ExportInfo, u16)>, ConnectError> {
        let query = ExportQuery::encode(self.name, &[INFO_BLOCK_SIZE, INFO_DESCRIPTION]);
        self.send(OPT_GO, &query).await?;
        let mut facts = None;
        let mut blocks = None;
        let mut description = String::new();
        for _ in 0..REPLY_COUNT_MAX {
            let Reply { reply, data } = self.reply(OPT_GO).await?;
            match reply {
                REP_INFO => match parse_info(&data).map_err(ConnectError::Reply)? {
                    Info::Export { size, flags } => facts = Some((size, flags)),
                    Info::Blocks(sizes) => blocks = Some(sizes),
                    Info::Description(text) => text.clone_into(&mut description),
                    Info::Name(_) | Info::Unknown => {}
                },
                REP_ACK => {
                    let (size, flags) = facts.ok_or(ConnectError::NoSize)?;
                    let mut info = ExportInfo::from_flags(size, flags);
                    info.blocks = blocks.unwrap_or(info.blocks);
                    info.description = description;
                    return Ok(Some((info, flags)));
                }
                REP_ERR_UNSUP => return Ok(None),
                REP_ERR_UNKNOWN => return Err(ConnectError::UnknownExport),
                REP_ERR_TLS_REQD => return Err(ConnectError::TlsRequired),
                REP_ERR_SHUTDOWN => return Err(ConnectError::ShuttingDown),
                reply if reply & REP_ERROR_BIT != 0 => {
                    return Err(ConnectError::Refused { reply });
                }
                reply => return Err(unexpected(OPT_GO, reply)),
            }
        }
        Err(unexpected(OPT_GO, REP_INFO))
    }

    /// Chooses the export in the old way: a server that does not have it closes the connection.
    async fn export_name(&mut self) -> Result<(ExportInfo, u16), ConnectError> {
        self.send(OPT_EXPORT_NAME, self.name.as_bytes()).await?;
        let mut size = [0; 8];
        self.stream.read_exact(&mut size).await?;
        let mut flags = [0; 2];
        self.stream.read_exact(&mut flags).await?;
        if !self.no_zeroes {
            self.stream.read_exact(&mut [0; 124]).await?;
        }
        let size = ByteLen(u64::from_be_bytes(size));
        let flags = u16::from_be_bytes(flags);
        Ok((ExportInfo::from_flags(size, flags), flags))
    }

    async fn send(&mut self, option: u32, data: &[u8]) -> Result<(), ConnectError> {
        let mut out = Vec::new();
        push_option(&mut out, option, data);
        Ok(self.stream.write_all(&out).await?)
    }

    async fn reply(&mut self, option: u32) -> Result<Reply, ConnectError> {
        let mut header = [0; OPTION_REPLY_HEADER_LEN];
        self.stream.read_exact(&mut header).await?;
        let header = parse_option_reply(&header).map_err(ConnectError::Reply)?;
        if header.option != option {
            return Err(unexpected(header.option, header.reply));
        }
        let mut data = vec![0; usize::try_from(header.len).expect("bounded by the parser")];
        self.stream.read_exact(&mut data).await?;
        Ok(Reply {
            reply: header.reply,
            data,
        })
    }
}

fn unexpected(option: u32, reply: u32) -> ConnectError {
    ConnectError::UnexpectedReply { option, reply }
}

impl From<io::Error> for ConnectError {
    /// The only operation of a handshake that can fail in the system is the exchange of bytes.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

#[cfg(test)]
mod tests;
