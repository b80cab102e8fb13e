//! A link to an authenticated peer, and what a transport must do to carry one.
//!
//! A [`Link`] carries streams; a stream carries frames ([`SendHalf`], [`RecvHalf`]). The types are
//! the same whatever is underneath: QUIC today ([`crate::Listener`], [`crate::Connector`]), memory in
//! tests ([`crate::memory`]); TCP with TLS can be added behind the same [`LinkDriver`].
//!
//! ```text
//! Link ──▶ LinkDriver      opens, accepts, closes, tells why it ended
//!  │
//!  ├─▶ SendHalf ──▶ ByteSink      pieces out, no copy
//!  └─▶ RecvHalf ──▶ ByteSource    bytes in; framing, limits, budget and deadlines are above it
//! ```
//!
//! All streams of a link share its receive window: a stream that is left unread can come to hold all
//! of it, and then the others stand still too. Whoever holds a stream back on purpose says so with
//! [`Link::hold_deadlines`], so that the peer is not called slow for it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use everpoint_units::WallTime;
use tokio::io::AsyncRead;

use crate::budget::ByteBudget;
use crate::close::{CloseReason, Closed};
use crate::identity::Identity;
use crate::stream::{RecvHalf, SendHalf};

/// A link to a peer whose certificate was checked. Cheap to clone; the link closes when its last
/// clone and its last stream are gone.
#[derive(Clone)]
pub struct Link {
    core: Arc<LinkCore>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Whom its certificate names.
    pub identity: Identity,
    /// When that certificate ends.
    pub expires_at: WallTime,
    /// Where it was when the link began.
    pub address: SocketAddr,
}

/// How patient a side is with its peer. Each has a meaning only while the peer has something to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// For a frame's header, from its first byte on.
    pub header: Duration,
    /// For a frame's body, and on top of it the time that its length takes at `rate_min`.
    pub body: Duration,
    /// Slowest rate for a body. Unit: bytes a second; at least 1.
    pub rate_min: u32,
    /// How long a send may make no progress at all before the link is closed. `None`: for ever, for
    /// a side whose peer holds it back by right.
    pub send_stall: Option<Duration>,
}

/// What a link has seen so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LinkStats {
    /// Round trip, smoothed.
    pub rtt: Duration,
    /// Packets held to be lost.
    pub packets_lost: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Everything sent, with headers and repeats. Unit: bytes.
    pub bytes_sent: u64,
    /// Everything received, with headers and repeats. Unit: bytes.
    pub bytes_received: u64,
    /// Largest datagram that the path takes now. Unit: bytes of UDP payload.
    pub mtu: u16,
    /// What the peer may send ahead of what was read. Unit: bytes.
    pub receive_window: u32,
}

/// As long as it lives, no frame of its link counts as late.
#[must_use = "deadlines run again when it is dropped"]
pub struct Hold {
    holds: Arc<Holds>,
}

/// The two ends of a new stream, below the framing.
pub type Halves = (Box<dyn ByteSink>, Box<dyn ByteSource>);

/// A future in a box, for what is called rarely.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a transport does for a link. All futures are cancel-safe.
pub trait LinkDriver: Send + Sync + 'static {
    /// Opens a stream, waiting until the peer allows one more.
    fn open(&self) -> BoxFuture<'_, Result<Halves, Closed>>;
    /// The next stream that the peer opened.
    fn accept(&self) -> BoxFuture<'_, Result<Halves, Closed>>;
    /// Lets the peer have up to `count_max` streams open at a time.
    fn allow_streams(&self, count_max: u32);
    /// Ends the link. The first reason counts.
    fn close(&self, reason: CloseReason, text: &str);
    /// Waits for the end of the link and says how it came.
    fn closed(&self) -> BoxFuture<'_, Closed>;
    /// What was seen so far.
    fn stats(&self) -> LinkStats;
}

/// The sending end of a stream.
pub trait ByteSink: Send {
    /// Writes from the front of `pieces`, never empty, and says how many are wholly written; a piece
    /// that went in part is left with its rest. `Ready(0)` is progress within the first piece.
    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &mut [Bytes])
    -> Poll<io::Result<usize>>;
    /// Says that nothing more comes; what was written still arrives.
    fn finish(&mut self);
    /// Breaks off; what was written may not arrive.
    fn reset(&mut self, reason: CloseReason);
}

/// The receiving end of a stream. An error that the link caused is a [`StreamFault`] inside the
/// [`io::Error`].
pub trait ByteSource: AsyncRead + Send + Unpin {
    /// Asks the peer to send no more.
    fn stop(&mut self, reason: CloseReason);
}

/// Why bytes stopped flowing on a stream.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StreamFault {
    /// The peer broke this stream off; the link goes on.
    #[error("the peer broke the stream off with code {code}")]
    Broken { code: u64 },
    /// The link ended.
    #[error("the link ended")]
    Link(#[source] Closed),
}

/// What all streams of a link share.
pub(crate) struct LinkCore {
    pub(crate) driver: Box<dyn LinkDriver>,
    pub(crate) peer: Peer,
    pub(crate) budget: ByteBudget,
    pub(crate) pace: Pace,
    pub(crate) holds: Arc<Holds>,
}

/// Whether this side, not the peer, keeps a link's frames waiting, or did so since some moment.
#[derive(Default)]
pub(crate) struct Holds {
    active: AtomicUsize,
    begun: AtomicU64,
}

impl Link {
    /// A link over `driver`. Bodies of received frames are taken from `budget`.
    pub fn new(driver: Box<dyn LinkDriver>, peer: Peer, budget: ByteBudget, pace: Pace) -> Self {
        Self {
            core: Arc::new(LinkCore {
                driver,
                peer,
                budget,
                pace,
                holds: Arc::default(),
            }),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.core.peer
    }

    /// Opens a stream, waiting until the peer allows one more. The peer sees it with its first
    /// frame. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the link has ended.
    pub async fn open_stream(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        self.core
            .driver
            .open()
            .await
            .map(|halves| self.frame(halves))
    }

    /// The next stream that the peer opened. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the link has ended.
    pub async fn accept_stream(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        self.core
            .driver
            .accept()
            .await
            .map(|halves| self.frame(halves))
    }

    /// Lets the peer have up to `count_max` streams open at a time: for an agent its disks and two.
    /// Fewer than before closes none that are open.
    pub fn allow_streams(&self, count_max: u32) {
        self.core.driver.allow_streams(count_max);
    }

    /// Ends the link; pending and later operations fail with [`Closed::ByUs`]. The first reason
    /// counts. `text` is for people, up to [`crate::CLOSE_TEXT_LEN_MAX`] bytes of it travel.
    pub fn close(&self, reason: CloseReason, text: &str) {
        self.core.driver.close(reason, text);
    }

    /// Waits for the end of the link and says how it came. Cancel-safe.
    pub async fn closed(&self) -> Closed {
        self.core.driver.closed().await
    }

    /// What was seen so far.
    pub fn stats(&self) -> LinkStats {
        self.core.driver.stats()
    }

    /// Stops the deadlines of this link's frames as long as the result lives, for a side that leaves
    /// a stream unread on purpose.
    pub fn hold_deadlines(&self) -> Hold {
        Hold::begin(&self.core.holds)
    }

    fn frame(&self, (sink, source): Halves) -> (SendHalf, RecvHalf) {
        (
            SendHalf::new(Arc::clone(&self.core), sink),
            RecvHalf::new(Arc::clone(&self.core), source),
        )
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.core.peer)
            .finish_non_exhaustive()
    }
}

impl Default for Pace {
    /// Ten seconds for a header; for a body half a minute and what it takes at 64 KiB a second.
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            rate_min: 64 * 1024,
            send_stall: None,
        }
    }
}

impl Pace {
    /// How long a body of `len` bytes may take.
    pub(crate) fn for_body(&self, len: u32) -> Duration {
        let at_rate_ms = u64::from(len) * 1_000 / u64::from(self.rate_min.max(1));
        self.body.saturating_add(Duration::from_millis(at_rate_ms))
    }
}

impl Hold {
    pub(crate) fn begin(holds: &Arc<Holds>) -> Self {
        holds.active.fetch_add(1, Ordering::AcqRel);
        holds.begun.fetch_add(1, Ordering::AcqRel);
        Self {
            holds: Arc::clone(holds),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Holds {
    /// A mark to compare with later.
    pub(crate) fn mark(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// True if a hold is on, or one began after `mark`.
    pub(crate) fn since(&self, mark: u64) -> bool {
        self.active.load(Ordering::Acquire) > 0 || self.mark() != mark
    }
}

impl StreamFault {
    /// As an error of a byte stream.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
