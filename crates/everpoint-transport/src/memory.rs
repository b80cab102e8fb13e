//! Links without a network: two ends in one process, for tests of the layers above.
//!
//! Framing, limits, budget, deadlines and close reasons are the real ones; only the bytes go through
//! a pipe of [`PIPE_LEN`] instead of a socket. There is no loss, no TLS and no delay, so that a test
//! with a paused clock sees every deadline exactly.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::budget::ByteBudget;
use crate::close::{CloseReason, Closed};
use crate::link::{
    BoxFuture, ByteSink, ByteSource, Halves, Link, LinkDriver, LinkStats, Pace, Peer, StreamFault,
};

/// What a stream holds between its ends, each way. Unit: bytes.
pub const PIPE_LEN: usize = 64 * 1024;

/// One end of a link: whom it sees at the other end, and what it may hold.
#[derive(Clone, Debug)]
pub struct End {
    /// Whom this end sees.
    pub peer: Peer,
    /// What its received frames are taken from.
    pub budget: ByteBudget,
    /// How patient it is.
    pub pace: Pace,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    A,
    B,
}

/// How the link ended: who closed it, and with what words. `None` as long as it lives.
type Ended = watch::Sender<Option<(Side, CloseReason, String)>>;

struct MemoryDriver {
    side: Side,
    ended: Arc<Ended>,
    opens: mpsc::UnboundedSender<Halves>,
    accepts: Mutex<mpsc::UnboundedReceiver<Halves>>,
    /// Streams that this side may still open, and those that the peer may.
    mine: Arc<Allowance>,
    peers: Arc<Allowance>,
}

/// How many streams one side may have open.
struct Allowance {
    free: Arc<Semaphore>,
    allowed: std::sync::Mutex<u32>,
}

struct MemorySink {
    pipe: DuplexStream,
    life: Life,
}

struct MemorySource {
    pipe: DuplexStream,
    life: Life,
}

/// What both ends of a pipe watch: whether it was broken off, and whether the link ended.
struct Life {
    side: Side,
    ended: Arc<Ended>,
    end: BoxFuture<'static, ()>,
    broken: Arc<OnceLock<u32>>,
    /// The opener's right to one stream, as long as it holds either half.
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// Two ends of one link. Neither can open streams before the other allows some.
pub fn pair(a: End, b: End) -> (Link, Link) {
    let ended = Arc::new(Ended::new(None));
    let (a_opens, b_accepts) = mpsc::unbounded_channel();
    let (b_opens, a_accepts) = mpsc::unbounded_channel();
    let (a_may, b_may) = (Arc::new(Allowance::none()), Arc::new(Allowance::none()));
    let first = MemoryDriver {
        side: Side::A,
        ended: Arc::clone(&ended),
        opens: a_opens,
        accepts: Mutex::new(a_accepts),
        mine: Arc::clone(&a_may),
        peers: Arc::clone(&b_may),
    };
    let second = MemoryDriver {
        side: Side::B,
        ended,
        opens: b_opens,
        accepts: Mutex::new(b_accepts),
        mine: b_may,
        peers: a_may,
    };
    (
        Link::new(Box::new(first), a.peer, a.budget, a.pace),
        Link::new(Box::new(second), b.peer, b.budget, b.pace),
    )
}

impl LinkDriver for MemoryDriver {
    fn open(&self) -> BoxFuture<'_, Result<Halves, Closed>> {
        Box::pin(async {
            let free = Arc::clone(&self.mine.free);
            let permit = tokio::select! {
                biased;
                closed = self.closed() => return Err(closed),
                permit = free.acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let permit = Some(Arc::new(permit));
            let (mine, theirs) = (self.side, self.side.other());
            let (sink, their_source) = self.pipe((mine, permit.clone()), (theirs, None));
            let (their_sink, source) = self.pipe((theirs, None), (mine, permit));
            let halves: Halves = (Box::new(their_sink), Box::new(their_source));
            // If the other end is gone, the link has ended and the next use says so.
            let _ = self.opens.send(halves);
            Ok((Box::new(sink) as _, Box::new(source) as _))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Halves, Closed>> {
        Box::pin(async {
            let mut accepts = self.accepts.lock().await;
            tokio::select! {
                biased;
                closed = self.closed() => Err(closed),
                Some(halves) = accepts.recv() => Ok(halves),
            }
        })
    }

    fn allow_streams(&self, count_max: u32) {
        self.peers.set(count_max);
    }

    fn close(&self, reason: CloseReason, text: &str) {
        close(&self.ended, self.side, reason, text);
    }

    fn closed(&self) -> BoxFuture<'_, Closed> {
        Box::pin(async {
            let mut ended = self.ended.subscribe();
            let end = ended.wait_for(Option::is_some).await;
            seen_by(
                self.side,
                &end.expect("the sender lives as long as the driver"),
            )
        })
    }

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

impl Drop for MemoryDriver {
    fn drop(&mut self) {
        close(&self.ended, self.side, CloseReason::Unspecified, "");
    }
}

impl MemoryDriver {
    fn pipe(
        &self,
        (from, from_permit): (Side, Option<Arc<OwnedSemaphorePermit>>),
        (to, to_permit): (Side, Option<Arc<OwnedSemaphorePermit>>),
    ) -> (MemorySink, MemorySource) {
        let (pipe_in, pipe_out) = duplex(PIPE_LEN);
        let broken = Arc::new(OnceLock::new());
        let life = |side, permit| {
            let mut watch = self.ended.subscribe();
            Life {
                side,
                ended: Arc::clone(&self.ended),
                end: Box::pin(async move {
                    // An error means that every sender is gone, which is an end as well.
                    let _ = watch.wait_for(Option::is_some).await;
                }),
                broken: Arc::clone(&broken),
                _permit: permit,
            }
        };
        let sink = MemorySink {
            pipe: pipe_in,
            life: life(from, from_permit),
        };
        let source = MemorySource {
            pipe: pipe_out,
            life: life(to, to_permit),
        };
        (sink, source)
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl Allowance {
    fn none() -> Self {
        Self {
            free: Arc::new(Semaphore::new(0)),
            allowed: std::sync::Mutex::new(0),
        }
    }

    fn set(&self, count_max: u32) {
        let mut allowed = self.allowed.lock().expect("nobody panics while holding it");
        let (before, after) = (*allowed, count_max);
        *allowed = after;
        let count = |count: u32| usize::try_from(count).expect("a u32 fits in memory's range");
        if after > before {
            self.free.add_permits(count(after - before));
        } else {
            // Streams that are open stay so; this takes back only what is unused.
            self.free.forget_permits(count(before - after));
        }
    }
}

impl Life {
    /// The error to give if the link has ended; otherwise the task is woken when it does.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        self.end.as_mut().poll(cx).is_ready().then(|| {
            let closed = seen_by(self.side, &self.ended.borrow());
            // The future is spent; an end stays an end.
            self.end = Box::pin(std::future::ready(()));
            StreamFault::Link(closed).into_io()
        })
    }

    fn broken_off(&self) -> Option<io::Error> {
        let code = u64::from(*self.broken.get()?);
        Some(StreamFault::Broken { code }.into_io())
    }
}

impl ByteSink for MemorySink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<io::Result<usize>> {
        if let Some(ended) = self.life.poll_ended(cx) {
            return Poll::Ready(Err(ended));
        }
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, &pieces[0]));
        Poll::Ready(match written {
            Ok(len) => {
                pieces[0].advance(len);
                Ok(usize::from(pieces[0].is_empty()))
            }
            Err(error) => Err(self.life.broken_off().unwrap_or(error)),
        })
    }

    fn finish(&mut self) {
        // The reader sees an end when this half is dropped, which is next.
    }

    fn reset(&mut self, reason: CloseReason) {
        // The first to break it off says why.
        let _ = self.life.broken.set(reason.code());
    }
}

impl AsyncRead for MemorySource {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ended) = self.life.poll_ended(cx) {
            return Poll::Ready(Err(ended));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        match self.life.broken_off() {
            Some(error) if buf.filled().len() == before => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl ByteSource for MemorySource {
    fn stop(&mut self, reason: CloseReason) {
        // The first to break it off says why.
        let _ = self.life.broken.set(reason.code());
    }
}

fn close(ended: &Ended, side: Side, reason: CloseReason, text: &str) {
    ended.send_if_modified(|end| {
        let first = end.is_none();
        if first {
            *end = Some((side, reason, text.to_owned()));
        }
        first
    });
}

fn seen_by(side: Side, end: &Option<(Side, CloseReason, String)>) -> Closed {
    match end {
        Some((by, reason, text)) if *by != side => {
            Closed::by_peer(u64::from(reason.code()), text.as_bytes())
        }
        Some((_, reason, _)) => Closed::ByUs { reason: *reason },
        None => Closed::Forgotten,
    }
}
