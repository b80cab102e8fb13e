//! The client: one connection to one export of any server, with many requests in flight.
//!
//! ```text
//! caller ─▶ send queue ─▶ socket        by the caller itself, as far as there is room
//!               └──▶ sending task ─▶ socket        the rest
//! socket ─▶ receiving task ─▶ caller    by the cookie of the request
//! ```
//!
//! A connection that is lost stays lost: every request fails with the reason, and whoever owns the
//! client decides whether to connect again. Requests are sent in the order in which they were
//! first polled; a server may finish them in any. A request that was given up (its future dropped)
//! is still carried out by the server.

mod assembly;
mod connect;
mod error;
mod receive;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use everpoint_units::ByteOffset;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use self::assembly::Assembly;
use self::connect::Connected;
use crate::Errno;
use crate::address::NbdAddress;
use crate::export::{Allocation, ExportInfo, ZeroFlags};
use crate::protocol::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLUSH,
    CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
};
use crate::queue::{SLICES_MAX, SendQueue};
use crate::request::{Request, Terms, encode_request};
use crate::stream::WriteHalf;

pub use self::error::{ConnectError, Disconnected, Remedy, RequestError};

/// How long an orderly end may take before the socket is simply closed.
const DISCONNECT_MAX: Duration = Duration::from_secs(5);

/// What a client asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientConfig {
    /// Requests in flight at one time; more wait. At least 1. What they carry is the caller's.
    pub request_count_max: usize,
    /// Ask for structured replies. Without them there is no allocation status.
    pub structured: bool,
    /// How long connecting may take, handshake included.
    pub handshake_max: Duration,
}

/// A connection to an export. Methods take `&self` and may run side by side.
pub struct NbdClient {
    shared: Arc<Shared>,
    terms: Terms,
    tasks: [JoinHandle<()>; 2],
}

struct Shared {
    state: Mutex<State>,
    stream: WriteHalf,
    /// Rung when the socket was full and bytes are left.
    full: Notify,
    /// Places for requests in flight.
    places: Arc<Semaphore>,
    place_count: u32,
    /// Why the connection is gone, once it is.
    lost: watch::Sender<Option<Disconnected>>,
}

struct State {
    queue: SendQueue<()>,
    /// Requests that have not been answered, by cookie.
    waiting: HashMap<u64, Waiter>,
    cookie: u64,
}

/// A request that waits for its answer. Dropping it tells the caller that the connection is lost.
struct Waiter {
    expect: Expect,
    reply: oneshot::Sender<Result<Answer, RequestError>>,
    _place: OwnedSemaphorePermit,
}

/// What may come as an answer.
enum Expect {
    Plain,
    Read(Assembly),
    Status {
        /// How much was asked about. Unit: bytes.
        len: u32,
        extents: Vec<Allocation>,
    },
    /// The end of a reply that has brought this error.
    Failed(Errno),
}

enum Answer {
    Plain,
    Data(Bytes),
    Status(Vec<Allocation>),
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            request_count_max: 128,
            structured: true,
            handshake_max: Duration::from_secs(10),
        }
    }
}

impl NbdClient {
    /// Connects, and agrees on as much as the server offers.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; see [`ConnectError::remedy`].
    pub async fn connect(
        address: &NbdAddress,
        config: &ClientConfig,
    ) -> Result<Self, ConnectError> {
        let connected = connect::connect(address, config).await?;
        Ok(Self::run(connected, config))
    }

    fn run(connected: Connected, config: &ClientConfig) -> Self {
        let Connected {
            stream,
            terms,
            context,
        } = connected;
        let (read, write) = stream.into_split();
        let place_count = config.request_count_max.clamp(1, 1 << 20);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: SendQueue::new(),
                waiting: HashMap::new(),
                cookie: 0,
            }),
            stream: write,
            full: Notify::new(),
            places: Arc::new(Semaphore::new(place_count)),
            place_count: u32::try_from(place_count).expect("clamped"),
            lost: watch::Sender::new(None),
        });
        let receiving = receive::receive(Arc::clone(&shared), read, terms.structured, context);
        let tasks = [
            tokio::spawn(receiving),
            tokio::spawn(send_rest(Arc::clone(&shared))),
        ];
        Self {
            shared,
            terms,
            tasks,
        }
    }

    /// What the server says about the export.
    pub fn info(&self) -> &ExportInfo {
        &self.terms.info
    }

    /// Whether replies are structured.
    pub fn is_structured(&self) -> bool {
        self.terms.structured
    }

    /// Whether [`Self::block_status`] can be asked.
    pub fn has_block_status(&self) -> bool {
        self.terms.allocation
    }

    /// Whether the server makes writes durable when it is told to: without it [`Self::flush`] is
    /// refused, and nobody can know what would survive.
    pub fn can_flush(&self) -> bool {
        self.terms.flush
    }

    /// Reads `len` bytes at `at`.
    ///
    /// # Errors
    ///
    /// [`RequestError`], as every request; see [`RequestError::remedy`].
    pub async fn read(&self, at: ByteOffset, len: u32) -> Result<Bytes, RequestError> {
        let expect = Expect::Read(Assembly::new(at, len));
        let request = request(CMD_READ, 0, at, len);
        match self.request(request, Bytes::new(), expect).await? {
            Answer::Data(data) => Ok(data),
            Answer::Plain | Answer::Status(_) => unreachable!("the receiver answers in kind"),
        }
    }

    /// Writes `data` at `at`; with `fua` it is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn write(&self, at: ByteOffset, data: Bytes, fua: bool) -> Result<(), RequestError> {
        // A length that does not fit is longer than any payload, and refused as that.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let request = request(CMD_WRITE, flag(fua, CMD_FLAG_FUA), at, len);
        self.request(request, data, Expect::Plain).await?;
        Ok(())
    }

    /// Makes every write durable that has succeeded before.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn flush(&self) -> Result<(), RequestError> {
        let request = request(CMD_FLUSH, 0, ByteOffset(0), 0);
        self.request(request, Bytes::new(), Expect::Plain).await?;
        Ok(())
    }

    /// Says that the bytes are not needed.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; refused here if the server does not offer it.
    pub async fn trim(&self, at: ByteOffset, len: u32, fua: bool) -> Result<(), RequestError> {
        let request = request(CMD_TRIM, flag(fua, CMD_FLAG_FUA), at, len);
        self.request(request, Bytes::new(), Expect::Plain).await?;
        Ok(())
    }

    /// Makes the bytes zero.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; refused here if the server does not offer it, or not
    /// [`ZeroFlags::fast_only`].
    pub async fn write_zeroes(
        &self,
        at: ByteOffset,
        len: u32,
        flags: ZeroFlags,
    ) -> Result<(), RequestError> {
        let flags = flag(flags.no_hole, CMD_FLAG_NO_HOLE)
            | flag(flags.fast_only, CMD_FLAG_FAST_ZERO)
            | flag(flags.fua, CMD_FLAG_FUA);
        let request = request(CMD_WRITE_ZEROES, flags, at, len);
        self.request(request, Bytes::new(), Expect::Plain).await?;
        Ok(())
    }

    /// What is allocated from `at` on: consecutive extents, at least one, of together at most
    /// `len` bytes. A server may tell about less than was asked.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; refused here unless [`Self::has_block_status`].
    pub async fn block_status(
        &self,
        at: ByteOffset,
        len: u32,
    ) -> Result<Vec<Allocation>, RequestError> {
        let expect = Expect::Status {
            len,
            extents: Vec::new(),
        };
        let request = request(CMD_BLOCK_STATUS, 0, at, len);
        match self.request(request, Bytes::new(), expect).await? {
            Answer::Status(extents) => Ok(extents),
            Answer::Plain | Answer::Data(_) => unreachable!("the receiver answers in kind"),
        }
    }

    /// Waits until the connection is lost, and says why. Cancel-safe.
    pub async fn lost(&self) -> Disconnected {
        self.shared.wait_lost().await
    }

    /// Waits for what is in flight, and ends the connection in order. If the server does not follow
    /// within five seconds the socket is closed anyway.
    pub async fn disconnect(self) {
        let ending = async {
            let all = self.shared.places.acquire_many(self.shared.place_count);
            let _all = all.await.expect("the places are never closed");
            let goodbye = request(CMD_DISC, 0, ByteOffset(0), 0);
            self.shared.send(goodbye, Bytes::new(), None);
            self.lost().await;
        };
        // What is left after that is closed by dropping it.
        let _ = tokio::time::timeout(DISCONNECT_MAX, ending).await;
    }

    /// Sends a request that fits what was agreed, and waits for its answer.
    async fn request(
        &self,
        request: Request,
        payload: Bytes,
        expect: Expect,
    ) -> Result<Answer, RequestError> {
        self.terms.admit(&request)?;
        let place = Arc::clone(&self.shared.places).acquire_owned().await;
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter {
            expect,
            reply,
            _place: place.expect("the places are never closed"),
        };
        self.shared.send(request, payload, Some(waiter));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(RequestError::Disconnected(self.lost().await)),
        }
    }
}

fn request(command: u16, flags: u16, at: ByteOffset, len: u32) -> Request {
    Request {
        flags,
        command,
        cookie: 0,
        offset: at.0,
        len,
    }
}

fn flag(set: bool, flag: u16) -> u16 {
    if set { flag } else { 0 }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request and sends what the socket takes. Drops `waiter` if the connection is lost,
    /// which tells the caller.
    fn send(&self, mut request: Request, payload: Bytes, waiter: Option<Waiter>) {
        let mut state = self.lock();
        if self.lost.borrow().is_some() {
            return;
        }
        state.cookie += 1;
        request.cookie = state.cookie;
        state
            .queue
            .heads()
            .extend_from_slice(&encode_request(&request));
        if !payload.is_empty() {
            state.queue.push_payload(payload, ());
        }
        if let Some(waiter) = waiter {
            state.waiting.insert(request.cookie, waiter);
        }
        self.send_queued(&mut state);
    }

    /// Sends as much as the socket takes now; the sending task does the rest.
    fn send_queued(&self, state: &mut State) {
        while !state.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = state.queue.fill(&mut slices);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(len) => state.queue.advance(len, drop),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full.notify_one();
                    return;
                }
                Err(error) => return self.lose(state, Disconnected::Broken(Arc::new(error))),
            }
        }
    }

    /// Ends everything with the first reason that is given.
    fn lose(&self, state: &mut State, reason: Disconnected) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(reason);
            first
        });
        state.queue.clear(drop);
        state.waiting.clear();
    }

    async fn wait_lost(&self) -> Disconnected {
        let mut lost = self.lost.subscribe();
        let reason = lost.wait_for(Option::is_some).await;
        let reason = reason.ok().and_then(|reason| reason.clone());
        reason.expect("its sender is in self, and the wait was for Some")
    }
}

/// Sends what did not fit into the socket at once. Ends with the connection.
async fn send_rest(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.full.notified() => {}
            _ = shared.wait_lost() => return,
        }
        let writable = shared.stream.writable().await;
        let mut state = shared.lock();
        match writable {
            Ok(()) => shared.send_queued(&mut state),
            Err(error) => shared.lose(&mut state, Disconnected::Broken(Arc::new(error))),
        }
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
