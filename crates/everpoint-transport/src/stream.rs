//! Frames on a stream: out without a copy, in with every limit held before a byte is allocated.
//!
//! Receiving a frame goes through three stages, and a cancelled wait goes on where it stood:
//!
//! ```text
//! header ──(limit of its kind)──▶ charge ──(bytes from the budget)──▶ body ──▶ frame
//!   deadline from its first byte     no deadline: the wait is ours      deadline by length
//! ```
//!
//! A peer that breaks a limit or a deadline has its link closed here, with a numbered reason; the
//! caller only learns of it. Between frames a stream may rest as long as it likes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::{TakeError, Taken};
use crate::close::{CloseReason, Closed};
use crate::frame::{FRAME_HEADER_LEN, FrameError, FrameHeader};
use crate::link::{BoxFuture, ByteSink, ByteSource, Hold, Holds, LinkCore, StreamFault};

/// What a received frame costs beyond its body: the buffer's owner and its bookkeeping, so that a
/// flood of tiny frames is counted too. Unit: bytes.
pub const FRAME_COST: usize = 128;

/// Most that is copied out of the transport at a time. Unit: bytes. The transport's lock is held
/// meanwhile, and the packets of all other streams wait for it.
const READ_LEN_MAX: usize = 256 * 1024;

/// A frame that arrived whole.
///
/// The body carries its charge: the bytes go back to the budget with its last clone or slice.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What the body is.
    pub kind: u8,
    /// At least one byte, contiguous.
    pub body: Bytes,
}

/// The sending half of a stream. Dropped, it finishes the stream, or breaks it off if half a frame is
/// still to be sent.
pub struct SendHalf {
    core: Arc<LinkCore>,
    sink: Box<dyn ByteSink>,
    /// What was accepted and not written yet: at most one frame.
    pending: Vec<Bytes>,
}

/// The receiving half of a stream. Dropped, it asks the peer to send no more.
pub struct RecvHalf {
    core: Arc<LinkCore>,
    source: Box<dyn ByteSource>,
    stage: Stage,
}

/// Why a frame was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Frames are never empty and never 4 GiB: a mistake of the caller, nothing was sent.
    #[error("a frame of kind {kind} with {len} bytes cannot be sent")]
    Length { kind: u8, len: usize },
    /// The peer wants no more of this stream; the link goes on.
    #[error("the peer stopped the stream with code {code}")]
    Stopped { code: u64 },
    /// The peer took nothing for too long; the link was closed.
    #[error("the peer took nothing for {stalled:?}")]
    Stalled { stalled: Duration },
    /// The link ended.
    #[error("the link ended")]
    Link(#[source] Closed),
    /// The transport failed in its own way.
    #[error("the stream could not be written")]
    Io(#[source] io::Error),
}

/// Why no frame was received.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The peer broke the framing; the link was closed with [`CloseReason::Frame`].
    #[error("the peer broke the framing")]
    Frame(#[source] FrameError),
    /// The peer began a frame and did not end it in time; the link was closed with
    /// [`CloseReason::Slow`].
    #[error("the peer did not end a frame within {allowed:?}")]
    Slow { allowed: Duration },
    /// The whole budget is smaller than what this kind of frame may be: a mistake of the
    /// configuration. The link was closed with [`CloseReason::Internal`].
    #[error("the frame is larger than the budget")]
    Budget(#[source] TakeError),
    /// The peer broke this stream off; the link goes on.
    #[error("the peer broke the stream off with code {code}")]
    Broken { code: u64 },
    /// The link ended.
    #[error("the link ended")]
    Link(#[source] Closed),
    /// The transport failed in its own way.
    #[error("the stream could not be read")]
    Io(#[source] io::Error),
}

enum Stage {
    Header {
        bytes: [u8; FRAME_HEADER_LEN],
        have: usize,
        due: Option<Due>,
    },
    Charge {
        header: FrameHeader,
        take: BoxFuture<'static, Result<Taken, TakeError>>,
        _hold: Hold,
    },
    Body {
        header: FrameHeader,
        buffer: Vec<u8>,
        taken: Taken,
        due: Due,
    },
    /// Nothing more comes.
    Ended,
}

/// When the peer must have delivered, unless this side kept it waiting meanwhile.
struct Due {
    at: Instant,
    allowed: Duration,
    mark: u64,
}

impl SendHalf {
    pub(crate) fn new(core: Arc<LinkCore>, sink: Box<dyn ByteSink>) -> Self {
        Self {
            core,
            sink,
            pending: Vec::new(),
        }
    }

    /// Sends one frame whose body is `pieces` in a row; their bytes are not copied, and stay alive
    /// until the peer has acknowledged them. Returns when the transport has accepted all of it.
    ///
    /// Cancel-safe in this sense: from its first poll on the frame counts as handed over. Dropped
    /// early, the rest of it goes out with the next [`SendHalf::send_frame`] or
    /// [`SendHalf::flush`], never twice and never in part.
    ///
    /// # Errors
    ///
    /// [`SendError`]. After `Length` the stream is as before; after any other it is of no more use.
    pub async fn send_frame(&mut self, kind: u8, pieces: &[Bytes]) -> Result<(), SendError> {
        let len = pieces.iter().map(Bytes::len).sum();
        let body_len = u32::try_from(len)
            .ok()
            .filter(|&len| len > 0)
            .ok_or(SendError::Length { kind, len })?;
        self.flush().await?;
        let header = FrameHeader { kind, body_len }.encode();
        self.pending.push(Bytes::copy_from_slice(&header));
        let full = pieces.iter().filter(|piece| !piece.is_empty());
        self.pending.extend(full.cloned());
        self.flush().await
    }

    /// Ends what a cancelled [`SendHalf::send_frame`] left over. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`SendHalf::send_frame`], but never `Length`.
    pub async fn flush(&mut self) -> Result<(), SendError> {
        while !self.pending.is_empty() {
            let (sink, pending) = (&mut self.sink, &mut self.pending);
            let write = std::future::poll_fn(|cx| sink.poll_write(cx, pending));
            let written = match self.core.pace.send_stall {
                None => write.await,
                Some(stalled) => timeout(stalled, write).await.map_err(|_| {
                    let text = "nothing was taken for too long";
                    self.core.driver.close(CloseReason::Slow, text);
                    SendError::Stalled { stalled }
                })?,
            };
            self.pending.drain(..written.map_err(SendError::from_io)?);
        }
        Ok(())
    }

    /// Says that no more frames come; all that were sent still arrive.
    ///
    /// # Errors
    ///
    /// As [`SendHalf::flush`], which it does first.
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.flush().await?;
        self.sink.finish();
        Ok(())
    }

    /// Breaks off; frames that were sent may not arrive. The link goes on.
    pub fn reset(mut self, reason: CloseReason) {
        self.sink.reset(reason);
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            // Half a frame followed by an orderly end would be the peer's proof of bad framing.
            self.sink.reset(CloseReason::Unspecified);
        }
    }
}

impl RecvHalf {
    pub(crate) fn new(core: Arc<LinkCore>, source: Box<dyn ByteSource>) -> Self {
        Self {
            core,
            source,
            stage: Stage::header(),
        }
    }

    /// The next frame, or `None` after the last one. `limit` gives the longest body of a kind in
    /// bytes, or `None` for a kind that this stream does not take.
    ///
    /// Cancel-safe: dropped early, the next call goes on where this one stood, also in the queue of
    /// the budget. Deadlines go on meanwhile, so a caller should come back soon.
    ///
    /// # Errors
    ///
    /// [`RecvError`]; the stream is of no more use after any of them.
    pub async fn recv_frame(
        &mut self,
        limit: impl Fn(u8) -> Option<u32>,
    ) -> Result<Option<Frame>, RecvError> {
        let result = self.advance(limit).await;
        match &result {
            Ok(Some(_)) => self.stage = Stage::header(),
            Ok(None) | Err(_) => self.stage = Stage::Ended,
        }
        if let Err(error) = &result {
            self.core.answer(error);
        }
        result
    }

    /// Asks the peer to send no more on this stream. The link goes on.
    pub fn stop(mut self, reason: CloseReason) {
        self.source.stop(reason);
    }

    async fn advance(
        &mut self,
        limit: impl Fn(u8) -> Option<u32>,
    ) -> Result<Option<Frame>, RecvError> {
        loop {
            match &mut self.stage {
                Stage::Header { bytes, have, due } => {
                    if !read_header(&mut self.source, &self.core, bytes, have, due).await? {
                        return Ok(None);
                    }
                    let header = FrameHeader::parse(*bytes, &limit).map_err(RecvError::Frame)?;
                    self.stage = Stage::charge(&self.core, header);
                }
                Stage::Charge { header, take, .. } => {
                    let taken = take.await.map_err(RecvError::Budget)?;
                    let header = *header;
                    self.stage = Stage::body(&self.core, header, taken);
                }
                Stage::Body {
                    header,
                    buffer,
                    due,
                    ..
                } => {
                    let header = *header;
                    read_body(&mut self.source, &self.core, header, buffer, due).await?;
                    let whole = std::mem::replace(&mut self.stage, Stage::Ended);
                    return Ok(whole.into_frame());
                }
                Stage::Ended => return Ok(None),
            }
        }
    }
}

/// Fills `bytes`; `false` if the stream ended before the first of them.
async fn read_header(
    source: &mut Box<dyn ByteSource>,
    core: &LinkCore,
    bytes: &mut [u8; FRAME_HEADER_LEN],
    have: &mut usize,
    due: &mut Option<Due>,
) -> Result<bool, RecvError> {
    while *have < bytes.len() {
        let read = source.read(&mut bytes[*have..]);
        let count = match due {
            None => read.await.map_err(RecvError::from_io)?,
            Some(due) => match due.wait(&core.holds, read).await? {
                Some(count) => count,
                None => continue,
            },
        };
        match count {
            0 if *have == 0 => return Ok(false),
            0 => {
                return Err(RecvError::Frame(FrameError::Truncated {
                    have: *have,
                    want: bytes.len(),
                }));
            }
            _ => *have += count,
        }
        due.get_or_insert_with(|| Due::after(core.pace.header, &core.holds));
    }
    Ok(true)
}

/// Fills `buffer` up to the body's length: one copy, into memory that was never zeroed.
async fn read_body(
    source: &mut Box<dyn ByteSource>,
    core: &LinkCore,
    header: FrameHeader,
    buffer: &mut Vec<u8>,
    due: &mut Due,
) -> Result<(), RecvError> {
    let want = body_len(header);
    while buffer.len() < want {
        let rest = (want - buffer.len()).min(READ_LEN_MAX);
        let mut space = (&mut *buffer).limit(rest);
        let read = source.read_buf(&mut space);
        let Some(count) = due.wait(&core.holds, read).await? else {
            continue;
        };
        if count == 0 {
            return Err(RecvError::Frame(FrameError::Truncated {
                have: buffer.len(),
                want,
            }));
        }
    }
    Ok(())
}

impl Stage {
    fn header() -> Self {
        Self::Header {
            bytes: [0; FRAME_HEADER_LEN],
            have: 0,
            due: None,
        }
    }

    fn charge(core: &LinkCore, header: FrameHeader) -> Self {
        let cost = body_len(header) + FRAME_COST;
        match core.budget.try_take(cost) {
            Some(taken) => Self::body(core, header, taken),
            None => Self::Charge {
                header,
                take: Box::pin(core.budget.take(cost)),
                _hold: Hold::begin(&core.holds),
            },
        }
    }

    fn body(core: &LinkCore, header: FrameHeader, taken: Taken) -> Self {
        Self::Body {
            header,
            buffer: Vec::with_capacity(body_len(header)),
            taken,
            due: Due::after(core.pace.for_body(header.body_len), &core.holds),
        }
    }

    fn into_frame(self) -> Option<Frame> {
        match self {
            Self::Body {
                header,
                buffer,
                taken,
                ..
            } => Some(Frame {
                kind: header.kind,
                body: taken.charge(buffer),
            }),
            _ => None,
        }
    }
}

impl Due {
    fn after(allowed: Duration, holds: &Holds) -> Self {
        Self {
            at: Instant::now() + allowed,
            allowed,
            mark: holds.mark(),
        }
    }

    /// Waits for `read` until it is due; `None` if the time ran out by this side's own doing, and
    /// begins anew.
    async fn wait(
        &mut self,
        holds: &Holds,
        read: impl Future<Output = io::Result<usize>>,
    ) -> Result<Option<usize>, RecvError> {
        match timeout_at(self.at, read).await {
            Ok(read) => read.map(Some).map_err(RecvError::from_io),
            Err(_) if holds.since(self.mark) => {
                *self = Self::after(self.allowed, holds);
                Ok(None)
            }
            Err(_) => Err(RecvError::Slow {
                allowed: self.allowed,
            }),
        }
    }
}

impl LinkCore {
    /// Closes the link when the peer broke a rule, or cannot be served.
    fn answer(&self, error: &RecvError) {
        match error {
            RecvError::Frame(fault) => self.driver.close(CloseReason::Frame, &fault.to_string()),
            RecvError::Slow { .. } => {
                self.driver
                    .close(CloseReason::Slow, "a frame took too long");
            }
            RecvError::Budget(fault) => {
                self.driver.close(CloseReason::Internal, &fault.to_string());
            }
            RecvError::Broken { .. } | RecvError::Link(_) | RecvError::Io(_) => {}
        }
    }
}

impl SendError {
    fn from_io(error: io::Error) -> Self {
        match error.downcast::<StreamFault>() {
            Ok(StreamFault::Broken { code }) => Self::Stopped { code },
            Ok(StreamFault::Link(closed)) => Self::Link(closed),
            Err(error) => Self::Io(error),
        }
    }
}

impl RecvError {
    fn from_io(error: io::Error) -> Self {
        match error.downcast::<StreamFault>() {
            Ok(StreamFault::Broken { code }) => Self::Broken { code },
            Ok(StreamFault::Link(closed)) => Self::Link(closed),
            Err(error) => Self::Io(error),
        }
    }
}

fn body_len(header: FrameHeader) -> usize {
    usize::try_from(header.body_len).expect("a u32 fits the address space of a 64-bit machine")
}

/// Bytes past the framing, for tests that play a bad peer.
#[cfg(test)]
pub(crate) struct RawSend(SendHalf);

#[cfg(test)]
impl SendHalf {
    pub(crate) fn into_raw(self) -> RawSend {
        RawSend(self)
    }
}

#[cfg(test)]
impl RawSend {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.pending.push(Bytes::copy_from_slice(bytes));
        self.0.flush().await.expect("the peer takes it");
    }
}

#[cfg(test)]
mod tests;
