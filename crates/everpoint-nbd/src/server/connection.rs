//! One connection after its handshake: requests in, calls to the export, replies out.
//!
//! One task does all of it, in rounds, until nothing moves:
//!
//! ```text
//! running futures ─▶ replies     what finished since the last round
//! read buffer ─▶ export ─▶ replies, or running futures     polled once; most are ready at once
//! replies ─▶ socket              one vectored write
//! socket ─▶ read buffer          one read, only when no whole request is left in it
//! ```
//!
//! So a write that the export finishes at once is answered with no change of task: one read, the
//! export's own work, one write. Nothing here is ever polled after it has finished, and each source
//! that is not ready has this task's waker.
//!
//! What it promises is in [`crate::export`]: calls begin in the order of arrival, and whatever was
//! begun is finished, also when the client has gone.

mod answer;
mod running;
mod stall;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::answer::{Done, Outcome};
use self::running::Running;
use self::stall::Stall;
use crate::Export;
use crate::buffer::{Payload, PayloadMemory, ReadBuffer};
use crate::protocol::{PAYLOAD_LEN_MAX, REQUEST_LEN};
use crate::queue::{SLICES_MAX, SendQueue};
use crate::reply::{push_error, push_simple};
use crate::request::{BadMagic, Operation, Refusal, Request, Terms, parse_request};

/// Replies are sent once this much of them waits. Unit: bytes of heads. Ours, measured: eight
/// simple replies; fewer cost system calls, more let the client idle while the server works.
const BATCH_LEN: usize = 128;

/// Rounds before the task lets others run. Unit: rounds, each at most one read buffer of requests.
const ROUNDS_MAX: usize = 8;

/// Alignment of payloads is that of the export's blocks, but not above a page, which is what the
/// strictest `O_DIRECT` asks. Unit: bytes.
const ALIGN_MAX: u32 = 4_096;

/// What bounds one connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// Requests that run at one time.
    pub(crate) request_count_max: usize,
    /// Payload bytes of requests that are not answered; one request may exceed it alone.
    pub(crate) bytes_max: usize,
    /// How long the peer may owe bytes, or leave replies unread, while nearly nothing moves.
    pub(crate) stall_max: Duration,
    /// The same once the connection is ending.
    pub(crate) drain_max: Duration,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The client said so, or ended its stream between two requests.
    #[error("the client left")]
    Left,
    /// The export was detached, or the server shut down.
    #[error("the export is served no longer")]
    Stopped,
    /// The client ended its stream inside a request.
    #[error("the client's stream ended inside a request")]
    CutOff,
    /// The client broke the protocol.
    #[error("the client broke the protocol")]
    Garbage(#[source] BadMagic),
    /// The client sends a payload that no client may send.
    #[error("the client sends a payload of {len} B")]
    PayloadTooLong {
        /// Its length. Unit: bytes.
        len: u32,
    },
    /// The socket failed.
    #[error("the socket failed")]
    Broken(#[source] io::Error),
    /// The client stopped in the middle of a request, or does not read its replies.
    #[error("the client neither sends nor reads")]
    Stalled,
}

struct Connection<'e, E, S> {
    export: &'e E,
    terms: &'e Terms,
    limits: &'e ConnectionLimits,
    budget: &'e Semaphore,
    stream: S,
    input: ReadBuffer,
    memory: PayloadMemory,
    stage: Stage<'e>,
    running: Running<'e, Done<'e>>,
    output: SendQueue<Held<'e>>,
    /// Payload bytes of requests that are not answered. Unit: bytes.
    held_bytes: usize,
    /// Bytes received and sent, for the stall clock. Unit: bytes.
    moved_bytes: u64,
    stall: Stall,
    /// Set once; from then on nothing is read, and what runs is finished.
    ended: Option<Ended>,
    /// Replies still reach the client.
    sending: bool,
}

/// Where in a request the input stands.
enum Stage<'e> {
    /// Before a header.
    Header,
    /// The header has come; waits until this connection holds less.
    Room(Request, Operation),
    /// Waits until the server holds less.
    Budget(Request, Operation, BoxFuture<'e, SemaphorePermit<'e>>),
    /// The payload is coming.
    Payload(Request, Operation, Held<'e>, Payload),
    /// The payload of a refused write is coming and is thrown away.
    Skip(Request, Refusal, usize),
}

/// A share of the byte budget, held as long as a payload is in memory on the server's account.
struct Held<'e>(SemaphorePermit<'e>);

/// Serves `export` until the connection ends. When this returns, no call to the export is running
/// any more. `stop` ends it from outside: requests that have begun are answered.
pub(crate) async fn serve<E: Export, S: AsyncRead + AsyncWrite + Unpin>(
    export: &E,
    stream: S,
    terms: &Terms,
    limits: &ConnectionLimits,
    budget: &Semaphore,
    stop: impl Future<Output = ()>,
) -> Ended {
    let mut stop = pin!(stop);
    let mut connection = Connection {
        export,
        terms,
        limits,
        budget,
        stream,
        input: ReadBuffer::new(),
        memory: PayloadMemory::default(),
        stage: Stage::Header,
        running: Running::new(),
        output: SendQueue::new(),
        held_bytes: 0,
        moved_bytes: 0,
        stall: Stall::new(),
        ended: None,
        sending: true,
    };
    poll_fn(|cx| connection.poll(cx, stop.as_mut())).await
}

impl<'e, E: Export, S: AsyncRead + AsyncWrite + Unpin> Connection<'e, E, S> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Ended> {
        if self.ended.is_none() && stop.poll(cx).is_ready() {
            self.end(Ended::Stopped);
        }
        for _ in 0..ROUNDS_MAX {
            let moved = self.poll_running(cx)
                | self.take_requests(cx)
                | self.poll_output(cx)
                | self.poll_input(cx);
            if moved {
                continue;
            }
            let idle = self.running.is_empty() && self.output.is_empty();
            if idle && let Some(ended) = self.ended.take() {
                return Poll::Ready(ended);
            }
            if !self.poll_stall(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end(&mut self, ended: Ended) {
        self.stage = Stage::Header;
        self.ended.get_or_insert(ended);
    }

    /// Replies no longer reach the client: they are dropped, also those to come.
    fn hang_up(&mut self, ended: Ended) {
        self.sending = false;
        self.output.clear(drop);
        self.end(ended);
    }

    /// Answers what has finished.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let mut moved = false;
        while let Poll::Ready(done) = self.running.poll_next(cx) {
            self.answer(done);
            moved = true;
        }
        moved
    }

    /// Starts what has arrived, in order, as far as the limits allow.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.ended.is_none() && self.may_start() {
            match self.step(cx) {
                ControlFlow::Continue(()) => moved = true,
                ControlFlow::Break(stage) => {
                    self.stage = stage;
                    break;
                }
            }
        }
        moved
    }

    fn may_start(&self) -> bool {
        self.running.len() < self.limits.request_count_max && self.output.heads_len() < BATCH_LEN
    }

    /// Takes the input one step on, or says in which stage it has to wait.
    fn step(&mut self, cx: &mut Context<'_>) -> ControlFlow<Stage<'e>> {
        match mem::replace(&mut self.stage, Stage::Header) {
            Stage::Header => self.take_header(cx),
            Stage::Room(request, operation) => self.admit(cx, request, operation),
            Stage::Budget(request, operation, mut permit) => match permit.as_mut().poll(cx) {
                Poll::Ready(permit) => self.begin(cx, request, operation, permit),
                Poll::Pending => ControlFlow::Break(Stage::Budget(request, operation, permit)),
            },
            Stage::Payload(request, operation, held, mut payload) => {
                payload.take_from(&mut self.input);
                if !payload.is_complete() {
                    return ControlFlow::Break(Stage::Payload(request, operation, held, payload));
                }
                self.start(cx, request, operation, payload.into_bytes(), Some(held));
                ControlFlow::Continue(())
            }
            Stage::Skip(request, refusal, left) => {
                let part = self.input.unused().len().min(left);
                self.input.consume(part);
                if part < left {
                    return ControlFlow::Break(Stage::Skip(request, refusal, left - part));
                }
                self.refuse(&request, refusal);
                ControlFlow::Continue(())
            }
        }
    }

    fn take_header(&mut self, cx: &mut Context<'_>) -> ControlFlow<Stage<'e>> {
        let Some(header) = self.input.unused().first_chunk::<REQUEST_LEN>() else {
            return ControlFlow::Break(Stage::Header);
        };
        let request = match parse_request(header) {
            Ok(request) => request,
            Err(bad) => {
                self.end(Ended::Garbage(bad));
                return ControlFlow::Continue(());
            }
        };
        self.input.consume(REQUEST_LEN);
        let len = request.payload_len();
        if len > PAYLOAD_LEN_MAX {
            self.end(Ended::PayloadTooLong { len });
            return ControlFlow::Continue(());
        }
        match self.terms.admit(&request) {
            Ok(Operation::Disconnect) => {
                self.end(Ended::Left);
                ControlFlow::Continue(())
            }
            Ok(operation) => self.admit(cx, request, operation),
            Err(refusal) => {
                let left = usize::try_from(len).expect("bounded above");
                self.stage = Stage::Skip(request, refusal, left);
                ControlFlow::Continue(())
            }
        }
    }

    /// Takes the request's share of both byte budgets.
    fn admit(
        &mut self,
        cx: &mut Context<'_>,
        request: Request,
        operation: Operation,
    ) -> ControlFlow<Stage<'e>> {
        let share = operation.payload_len();
        if share == 0 {
            self.start(cx, request, operation, Bytes::new(), None);
            return ControlFlow::Continue(());
        }
        let len = usize::try_from(share).expect("admitted requests are bounded");
        if self.held_bytes > 0 && self.held_bytes + len > self.limits.bytes_max {
            return ControlFlow::Break(Stage::Room(request, operation));
        }
        let budget = self.budget;
        if let Ok(permit) = budget.try_acquire_many(share) {
            return self.begin(cx, request, operation, permit);
        }
        let permit = Box::pin(async move {
            let permit = budget.acquire_many(share).await;
            permit.expect("the budget is never closed")
        });
        self.stage = Stage::Budget(request, operation, permit);
        ControlFlow::Continue(())
    }

    /// The budget allows the request: a write waits for its payload, a read starts.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        request: Request,
        operation: Operation,
        permit: SemaphorePermit<'e>,
    ) -> ControlFlow<Stage<'e>> {
        self.held_bytes += permit.num_permits();
        let held = Held(permit);
        if let Operation::Write { len, .. } = operation {
            let align = self.terms.info.blocks.min().min(ALIGN_MAX);
            let align = usize::try_from(align).expect("at most a page");
            let payload = self.memory.payload(len, align);
            self.stage = Stage::Payload(request, operation, held, payload);
        } else {
            self.start(cx, request, operation, Bytes::new(), Some(held));
        }
        ControlFlow::Continue(())
    }

    /// Calls the export and polls it once. What is ready is answered at once; the rest runs on.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        request: Request,
        operation: Operation,
        payload: Bytes,
        held: Option<Held<'e>>,
    ) {
        let work = perform(self.export, request.cookie, operation, payload, held);
        if let Poll::Ready(done) = self.running.start(cx, work) {
            self.answer(done);
        }
    }

    fn refuse(&mut self, request: &Request, refusal: Refusal) {
        tracing::debug!(?request, %refusal, "nbd request refused");
        let heads = self.output.heads();
        let structured = self.terms.structured && (request.is_read() || request.is_block_status());
        if structured {
            push_error(heads, request.cookie, refusal.errno(), &refusal.to_string());
        } else {
            push_simple(heads, request.cookie, Some(refusal.errno()));
        }
    }

    /// Sends replies until none is left or the socket is full.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.output.fill(&mut slices);
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => break,
                Poll::Ready(Ok(len)) if len > 0 => {
                    self.moved_bytes += u64::try_from(len).expect("usize has at most 64 bits");
                    let held_bytes = &mut self.held_bytes;
                    self.output
                        .advance(len, |held| *held_bytes -= held.0.num_permits());
                }
                Poll::Ready(Ok(_)) => {
                    self.hang_up(Ended::Broken(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Err(error)) => self.hang_up(Ended::Broken(error)),
            }
            moved = true;
        }
        moved
    }

    /// Reads once, if what has arrived is used up.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let read = match &mut self.stage {
            Stage::Header if self.input.unused().len() >= REQUEST_LEN => return false,
            Stage::Room(..) | Stage::Budget(..) => return false,
            // All there, and waits for replies to leave or for others to finish: reading on would
            // find no room, which looks like the end of the stream.
            Stage::Payload(_, _, _, payload) if payload.is_complete() => return false,
            Stage::Skip(..) if !self.input.unused().is_empty() => return false,
            Stage::Payload(_, _, _, payload) => payload.poll_fill(cx, &mut self.stream),
            Stage::Header | Stage::Skip(..) => self.input.poll_fill(cx, &mut self.stream),
        };
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) if self.mid_request() => self.end(Ended::CutOff),
            Poll::Ready(Ok(0)) => self.end(Ended::Left),
            Poll::Ready(Ok(len)) => {
                self.moved_bytes += u64::try_from(len).expect("usize has at most 64 bits");
            }
            Poll::Ready(Err(error)) => self.hang_up(Ended::Broken(error)),
        }
        true
    }

    /// Whether the client owes the rest of a request.
    fn mid_request(&self) -> bool {
        let unused = self.input.unused().len();
        match &self.stage {
            Stage::Header => unused > 0 && unused < REQUEST_LEN,
            Stage::Room(..) | Stage::Budget(..) => false,
            Stage::Payload(_, _, _, payload) => !payload.is_complete(),
            Stage::Skip(_, _, left) => unused < *left,
        }
    }

    /// Watches a client on which the server waits. True if it was given up.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> bool {
        let ending = self.ended.is_some();
        if self.output.is_empty() && (ending || !self.mid_request()) {
            self.stall.relax();
            return false;
        }
        let limit = if ending {
            self.limits.drain_max
        } else {
            self.limits.stall_max
        };
        let stalled = self.stall.poll(cx, limit, self.moved_bytes).is_ready();
        if stalled {
            self.hang_up(Ended::Stalled);
        }
        stalled
    }
}

/// Does one request, from the call of the export to what it answered.
async fn perform<'e, E: Export>(
    export: &'e E,
    cookie: u64,
    operation: Operation,
    payload: Bytes,
    held: Option<Held<'e>>,
) -> Done<'e> {
    let outcome = match operation {
        Operation::Read { at, len, .. } => Outcome::Data(export.read(at, len).await),
        Operation::Write { at, fua, .. } => Outcome::Plain(export.write(at, payload, fua).await),
        Operation::Flush => Outcome::Plain(export.flush().await),
        Operation::Trim { at, len, fua } => Outcome::Plain(export.trim(at, len, fua).await),
        Operation::WriteZeroes { at, len, flags } => {
            Outcome::Plain(export.write_zeroes(at, len, flags).await)
        }
        Operation::BlockStatus { at, len, .. } => {
            Outcome::Status(export.block_status(at, len).await)
        }
        Operation::Disconnect => Outcome::Plain(Ok(())),
    };
    Done {
        cookie,
        operation,
        outcome,
        held,
    }
}

#[cfg(test)]
mod tests;
