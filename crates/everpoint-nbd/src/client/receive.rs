//! The receiving task: replies in, each to the request whose cookie it bears.
//!
//! Anything that does not fit ends the connection: a client that has lost the thread of the stream
//! must not guess.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_units::ByteOffset;

use super::assembly::Mismatch;
use super::{Answer, Disconnected, Expect, RequestError, Shared, Waiter};
use crate::Errno;
use crate::buffer::{Payload, ReadBuffer};
use crate::reply::{
    ChunkKind, ReplyError, ReplyHeader, cut_extents, parse_error, parse_hole, parse_reply,
    parse_status,
};
use crate::stream::ReadHalf;

/// Alignment of data that was read, so that it can go to an `O_DIRECT` file. Unit: bytes.
const ALIGN: usize = 512;

struct Receiver {
    shared: Arc<Shared>,
    stream: ReadHalf,
    input: ReadBuffer,
    structured: bool,
    /// The number of `base:allocation` on this connection.
    context: Option<u32>,
}

/// Receives until the connection is lost.
pub(super) async fn receive(
    shared: Arc<Shared>,
    stream: ReadHalf,
    structured: bool,
    context: Option<u32>,
) {
    let mut receiver = Receiver {
        shared,
        stream,
        input: ReadBuffer::new(),
        structured,
        context,
    };
    let reason = loop {
        if let Err(reason) = receiver.reply().await {
            break reason;
        }
    };
    let mut state = receiver.shared.lock();
    receiver.shared.lose(&mut state, reason);
}

impl Receiver {
    async fn reply(&mut self) -> Result<(), Disconnected> {
        let header = loop {
            match parse_reply(self.input.unused())? {
                Some(header) => break header,
                None => self.fill().await?,
            }
        };
        self.input.consume(header.wire_len());
        match header {
            ReplyHeader::Simple { cookie, errno } => self.simple(cookie, errno).await,
            ReplyHeader::Chunk {
                cookie,
                done,
                kind,
                len,
            } if self.structured => self.chunk(cookie, done, kind, len).await,
            ReplyHeader::Chunk { .. } => Err(Disconnected::Mismatch),
        }
    }

    async fn simple(&mut self, cookie: u64, errno: Option<Errno>) -> Result<(), Disconnected> {
        let waiter = self.waiter(cookie)?;
        let answer = match (errno, &waiter.expect) {
            // Where replies are structured these are never simple, not even in error.
            (_, Expect::Read(_) | Expect::Status { .. }) if self.structured => {
                return Err(Disconnected::Mismatch);
            }
            (Some(errno), _) => Err(RequestError::Server(errno)),
            (None, Expect::Plain) => Ok(Answer::Plain),
            (None, Expect::Read(read)) => Ok(Answer::Data(self.payload(read.len(), ALIGN).await?)),
            (None, Expect::Status { .. } | Expect::Failed(_)) => {
                return Err(Disconnected::Mismatch);
            }
        };
        waiter.answer(answer);
        Ok(())
    }

    async fn chunk(
        &mut self,
        cookie: u64,
        done: bool,
        kind: ChunkKind,
        len: u32,
    ) -> Result<(), Disconnected> {
        let mut waiter = self.waiter(cookie)?;
        match (kind, &mut waiter.expect) {
            (ChunkKind::None, _) if done => {}
            (ChunkKind::Error, _) => {
                let content = self.payload(len, 1).await?;
                waiter.fail(parse_error(&content)?);
            }
            (ChunkKind::Data, Expect::Read(read)) => {
                let at = ByteOffset(u64::from_be_bytes(self.array().await?));
                // The header's parser has seen that there are more than these eight bytes.
                let from = read.cover(at, len - 8)?;
                let data = self.payload(len - 8, ALIGN).await?;
                read.data(from, data);
            }
            (ChunkKind::Hole, Expect::Read(read)) => {
                let hole = parse_hole(&self.array().await?)?;
                read.cover(hole.at, hole.len)?;
                read.hole();
            }
            (
                ChunkKind::Status,
                Expect::Status {
                    len: asked,
                    extents,
                },
            ) => {
                let content = self.payload(len, 1).await?;
                let (context, told) = parse_status(&content)?;
                if Some(context) != self.context || !extents.is_empty() {
                    return Err(Disconnected::Mismatch);
                }
                *extents = cut_extents(told, *asked, usize::MAX);
            }
            _ => return Err(Disconnected::Mismatch),
        }
        if done {
            return waiter.finish();
        }
        let mut state = self.shared.lock();
        // The sending side may have lost the connection meanwhile; then nobody waits any more.
        if self.shared.lost.borrow().is_none() {
            state.waiting.insert(cookie, waiter);
        }
        Ok(())
    }

    fn waiter(&self, cookie: u64) -> Result<Waiter, Disconnected> {
        let waiter = self.shared.lock().waiting.remove(&cookie);
        waiter.ok_or(Disconnected::Mismatch)
    }

    /// Reads some more.
    async fn fill(&mut self) -> Result<(), Disconnected> {
        let Self { input, stream, .. } = self;
        match poll_fn(|cx| input.poll_fill(cx, stream)).await {
            Ok(0) if input.unused().is_empty() => Err(Disconnected::Closed),
            Ok(0) => Err(Disconnected::CutOff),
            Ok(_) => Ok(()),
            Err(error) => Err(Disconnected::Broken(Arc::new(error))),
        }
    }

    async fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Disconnected> {
        loop {
            if let Some(&array) = self.input.unused().first_chunk() {
                self.input.consume(LEN);
                return Ok(array);
            }
            self.fill().await?;
        }
    }

    async fn payload(&mut self, len: u32, align: usize) -> Result<Bytes, Disconnected> {
        let mut payload = Payload::new(len, align);
        payload.take_from(&mut self.input);
        while !payload.is_complete() {
            let stream = &mut self.stream;
            match poll_fn(|cx| payload.poll_fill(cx, stream)).await {
                Ok(0) => return Err(Disconnected::CutOff),
                Ok(_) => {}
                Err(error) => return Err(Disconnected::Broken(Arc::new(error))),
            }
        }
        Ok(payload.into_bytes())
    }
}

impl Waiter {
    /// The caller may have given up; then nobody hears it.
    fn answer(self, answer: Result<Answer, RequestError>) {
        let _ = self.reply.send(answer);
    }

    /// Notes an error chunk. Of what is not a read, the first error is the answer to be.
    fn fail(&mut self, errno: Errno) {
        match &mut self.expect {
            Expect::Read(read) => read.fail(errno),
            expect @ (Expect::Plain | Expect::Status { .. }) => *expect = Expect::Failed(errno),
            Expect::Failed(_) => {}
        }
    }

    /// Answers, now that the last chunk has come.
    fn finish(mut self) -> Result<(), Disconnected> {
        let expect = std::mem::replace(&mut self.expect, Expect::Plain);
        let answer = match expect {
            Expect::Plain => Ok(Answer::Plain),
            Expect::Read(read) => match read.finish()? {
                Ok(data) => Ok(Answer::Data(data)),
                Err(errno) => Err(RequestError::Server(errno)),
            },
            Expect::Status { extents, .. } if extents.is_empty() => {
                return Err(Disconnected::Mismatch);
            }
            Expect::Status { extents, .. } => Ok(Answer::Status(extents)),
            Expect::Failed(errno) => Err(RequestError::Server(errno)),
        };
        self.answer(answer);
        Ok(())
    }
}

impl From<ReplyError> for Disconnected {
    fn from(error: ReplyError) -> Self {
        Self::Reply(error)
    }
}

impl From<Mismatch> for Disconnected {
    fn from(_: Mismatch) -> Self {
        Self::Mismatch
    }
}

#[cfg(test)]
mod tests;
