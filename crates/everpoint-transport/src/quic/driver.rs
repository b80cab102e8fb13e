//! One quinn connection as the driver of a link.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use everpoint_units::Moment;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::window::{Window, Wish};
use crate::budget::{ByteBudget, Taken};
use crate::close::{CLOSE_TEXT_LEN_MAX, CloseReason, Closed};
use crate::link::{BoxFuture, ByteSink, ByteSource, Halves, LinkDriver, LinkStats, StreamFault};

/// What a byte of window can cost at worst. quinn-proto 0.11.19 lets a stream's buffers take up to
/// 1.5 times the unread bytes on top of them before it copies them together
/// (`Assembler::insert`), and a peer that sends tiny frames gets there; the rest is bookkeeping.
const WINDOW_COST: usize = 3;

/// Part of the budget that growing windows leave free for frames.
const BUDGET_LEFT_PART: usize = 2;

/// A connection and what it holds; it closes when the last user is gone.
pub(super) struct QuicShared {
    connection: quinn::Connection,
    closed_by_us: OnceLock<CloseReason>,
    flow: Flow,
    /// Opened already while connecting, see [`super::Connector`].
    first_stream: Mutex<Option<(quinn::SendStream, quinn::RecvStream)>>,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// The receive window and what was taken for it.
pub(super) struct Flow {
    read: AtomicU64,
    /// Bytes read at which the window is looked at again.
    look_at: AtomicU64,
    began: Instant,
    budget: ByteBudget,
    /// What the endpoint's socket can hold for all links together.
    socket: ByteBudget,
    state: Mutex<FlowState>,
    /// The window that it began with, held to the end. With many links these alone exceed the
    /// socket; then the second is `None`, and no window grows.
    _start: (Taken, Option<Taken>),
}

struct FlowState {
    window: Window,
    /// What the window has grown by.
    grown: Option<WindowHeld>,
    /// Given back, but the peer may still use it until so many bytes were read.
    leaving: Option<(u64, WindowHeld)>,
}

/// What a part of a window costs, in both budgets.
struct WindowHeld {
    memory: Taken,
    socket: Taken,
}

pub(super) struct QuicDriver(pub(super) Arc<QuicShared>);

struct QuicSink {
    stream: quinn::SendStream,
    shared: Arc<QuicShared>,
}

struct QuicSource {
    stream: quinn::RecvStream,
    shared: Arc<QuicShared>,
}

/// What a window of `len` bytes is charged. Unit: bytes.
pub(super) fn window_cost(len: u32) -> usize {
    bytes(len) * WINDOW_COST
}

impl QuicShared {
    pub(super) fn new(
        connection: quinn::Connection,
        flow: Flow,
        first_stream: Option<(quinn::SendStream, quinn::RecvStream)>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        metrics::gauge!("everpoint_transport_links").increment(1.0);
        Self {
            connection,
            closed_by_us: OnceLock::new(),
            flow,
            first_stream: Mutex::new(first_stream),
            _permits: permits,
        }
    }

    fn closed_by(&self, error: ConnectionError) -> Closed {
        closed_by(error, self.closed_by_us.get().copied())
    }

    fn halves(self: &Arc<Self>, (send, recv): (quinn::SendStream, quinn::RecvStream)) -> Halves {
        let sink = QuicSink {
            stream: send,
            shared: Arc::clone(self),
        };
        let source = QuicSource {
            stream: recv,
            shared: Arc::clone(self),
        };
        (Box::new(sink), Box::new(source))
    }
}

impl Drop for QuicShared {
    fn drop(&mut self) {
        metrics::gauge!("everpoint_transport_links").decrement(1.0);
        let (by, reason) = match self.connection.close_reason() {
            None => ("us", "unspecified"),
            Some(error) => match self.closed_by(error) {
                Closed::ByUs { reason } => ("us", reason.name()),
                Closed::ByPeer { reason, .. } => {
                    ("peer", reason.map_or("unknown", CloseReason::name))
                }
                Closed::TimedOut => ("peer", "timed_out"),
                Closed::Forgotten => ("peer", "forgotten"),
                Closed::Tls { .. } => ("peer", "tls"),
                Closed::Transport { .. } => ("peer", "transport"),
            },
        };
        metrics::counter!("everpoint_transport_links_closed_total", "by" => by, "reason" => reason)
            .increment(1);
    }
}

impl LinkDriver for QuicDriver {
    fn open(&self) -> BoxFuture<'_, Result<Halves, Closed>> {
        Box::pin(async {
            if let Some(error) = self.0.connection.close_reason() {
                return Err(self.0.closed_by(error));
            }
            let first = lock(&self.0.first_stream).take();
            if let Some(first) = first {
                return Ok(self.0.halves(first));
            }
            match self.0.connection.open_bi().await {
                Ok(streams) => Ok(self.0.halves(streams)),
                Err(error) => Err(self.0.closed_by(error)),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Halves, Closed>> {
        Box::pin(async {
            match self.0.connection.accept_bi().await {
                Ok(streams) => Ok(self.0.halves(streams)),
                Err(error) => Err(self.0.closed_by(error)),
            }
        })
    }

    fn allow_streams(&self, count_max: u32) {
        self.0
            .connection
            .set_max_concurrent_bi_streams(VarInt::from_u32(count_max));
    }

    fn close(&self, reason: CloseReason, text: &str) {
        // The first reason counts.
        let _ = self.0.closed_by_us.set(reason);
        let text = &text.as_bytes()[..text.len().min(CLOSE_TEXT_LEN_MAX)];
        self.0
            .connection
            .close(VarInt::from_u32(reason.code()), text);
    }

    fn closed(&self) -> BoxFuture<'_, Closed> {
        Box::pin(async { self.0.closed_by(self.0.connection.closed().await) })
    }

    fn stats(&self) -> LinkStats {
        let stats = self.0.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            packets_lost: stats.path.lost_packets,
            packets_sent: stats.path.sent_packets,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            mtu: stats.path.current_mtu,
            receive_window: lock(&self.0.flow.state).window.size(),
        }
    }
}

impl Flow {
    /// The window that a link starts with. `memory` is its cost, taken already.
    pub(super) fn new(
        (start, max): (u32, u32),
        memory: Taken,
        budget: ByteBudget,
        socket: ByteBudget,
    ) -> Self {
        Self {
            read: AtomicU64::new(0),
            look_at: AtomicU64::new(u64::from(start)),
            began: Instant::now(),
            state: Mutex::new(FlowState {
                window: Window::new(start, max, Moment(0)),
                grown: None,
                leaving: None,
            }),
            _start: (memory, socket.try_take(bytes(start))),
            budget,
            socket,
        }
    }

    /// `len` more bytes were read from the connection.
    fn handle_read(&self, len: usize, connection: &quinn::Connection) {
        let len = u64::try_from(len).expect("a usize of a 64-bit machine fits");
        let read = self.read.fetch_add(len, Ordering::AcqRel) + len;
        if read < self.look_at.load(Ordering::Acquire) {
            return;
        }
        // Whoever comes at the same time finds the same; one is enough.
        let Ok(mut state) = self.state.try_lock() else {
            return;
        };
        let now = Moment(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if state.leaving.as_ref().is_some_and(|(at, _)| read >= *at) {
            state.leaving = None;
        }
        // The shortest round trip: the usual one contains the queue that a larger window makes.
        match state.window.handle_read(read, now, connection.min_rtt()) {
            Wish::Keep => {}
            Wish::Grow { to } => {
                if let Some(more) = self.take(to - state.window.size()) {
                    merge(&mut state.grown, more);
                    state.window.grant(to);
                    connection.set_receive_window(VarInt::from_u32(to));
                }
            }
            Wish::Shrink { by, to, free_at } => {
                connection.set_receive_window(VarInt::from_u32(to));
                let part = state.grown.as_mut().and_then(|grown| grown.split(by));
                let (at, mut held) = state
                    .leaving
                    .take()
                    .map_or((0, None), |(a, h)| (a, Some(h)));
                if let Some(part) = part {
                    merge(&mut held, part);
                }
                state.leaving = held.map(|held| (at.max(free_at), held));
            }
        }
        let leaving = state.leaving.as_ref().map_or(u64::MAX, |(at, _)| *at);
        let look_at = state.window.round_ends_at().min(leaving);
        self.look_at.store(look_at, Ordering::Release);
    }

    fn take(&self, len: u32) -> Option<WindowHeld> {
        let cost = window_cost(len);
        let room = self.budget.available().checked_sub(cost)?;
        if room < self.budget.capacity() / BUDGET_LEFT_PART {
            return None;
        }
        let socket = self.socket.try_take(bytes(len))?;
        let memory = self.budget.try_take(cost)?;
        Some(WindowHeld { memory, socket })
    }
}

impl WindowHeld {
    /// Parts with what `len` bytes of window cost.
    fn split(&mut self, len: u32) -> Option<Self> {
        let socket = self.socket.split(bytes(len))?;
        let memory = self.memory.split(window_cost(len))?;
        Some(Self { memory, socket })
    }
}

fn merge(held: &mut Option<WindowHeld>, more: WindowHeld) {
    match held {
        None => *held = Some(more),
        Some(held) => {
            held.memory.merge(more.memory);
            held.socket.merge(more.socket);
        }
    }
}

fn bytes(len: u32) -> usize {
    usize::try_from(len).expect("a u32 fits the address space of a 64-bit machine")
}

impl ByteSink for QuicSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<io::Result<usize>> {
        // The future keeps nothing between polls: dropped while pending, it has written nothing.
        let written = ready!(pin!(self.stream.write_chunks(pieces)).poll(cx));
        Poll::Ready(match written {
            Ok(written) => Ok(written.chunks),
            Err(WriteError::Stopped(code)) => Err(broken(code)),
            Err(WriteError::ConnectionLost(error)) => Err(self.shared.lost(error)),
            Err(error @ (WriteError::ClosedStream | WriteError::ZeroRttRejected)) => {
                Err(io::Error::other(error))
            }
        })
    }

    fn finish(&mut self) {
        // Finished or reset before: then there is nothing left to say.
        let _ = self.stream.finish();
    }

    fn reset(&mut self, reason: CloseReason) {
        // As above.
        let _ = self.stream.reset(VarInt::from_u32(reason.code()));
    }
}

impl AsyncRead for QuicSource {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match ready!(this.stream.poll_read_buf(cx, buf)) {
            Ok(()) => {
                let len = buf.filled().len() - before;
                this.shared.flow.handle_read(len, &this.shared.connection);
                Poll::Ready(Ok(()))
            }
            Err(ReadError::Reset(code)) => Poll::Ready(Err(broken(code))),
            Err(ReadError::ConnectionLost(error)) => Poll::Ready(Err(this.shared.lost(error))),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }
}

impl ByteSource for QuicSource {
    fn stop(&mut self, reason: CloseReason) {
        // Ended or stopped before: then there is nothing left to ask for.
        let _ = self.stream.stop(VarInt::from_u32(reason.code()));
    }
}

impl QuicShared {
    fn lost(&self, error: ConnectionError) -> io::Error {
        StreamFault::Link(self.closed_by(error)).into_io()
    }
}

/// How a connection ended, in everpoint's words.
pub(super) fn closed_by(error: ConnectionError, by_us: Option<CloseReason>) -> Closed {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            Closed::by_peer(close.error_code.into_inner(), &close.reason)
        }
        ConnectionError::ConnectionClosed(close) => transport(u64::from(close.error_code), true),
        ConnectionError::TransportError(error) => transport(u64::from(error.code), false),
        ConnectionError::LocallyClosed => Closed::ByUs {
            reason: by_us.unwrap_or(CloseReason::Unspecified),
        },
        ConnectionError::TimedOut => Closed::TimedOut,
        ConnectionError::Reset => Closed::Forgotten,
        ConnectionError::VersionMismatch => Closed::Transport {
            code: VERSION_NEGOTIATION_ERROR,
        },
        ConnectionError::CidsExhausted => Closed::Transport {
            code: INTERNAL_ERROR,
        },
    }
}

/// RFC 9368, section 10.2, and RFC 9000, section 20.1.
const VERSION_NEGOTIATION_ERROR: u64 = 0x11;
const INTERNAL_ERROR: u64 = 0x1;

/// A TLS alert travels as 0x100 plus its number (RFC 9001, section 4.8).
fn transport(code: u64, by_peer: bool) -> Closed {
    let alert = code.checked_sub(0x100).and_then(|n| u8::try_from(n).ok());
    match alert {
        Some(alert) => Closed::Tls {
            alert: AlertDescription::from(alert),
            by_peer,
        },
        None => Closed::Transport { code },
    }
}

fn broken(code: VarInt) -> io::Error {
    StreamFault::Broken {
        code: code.into_inner(),
    }
    .into_io()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside is whole at every moment; a panic elsewhere ends the process anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
