//! The load: several NBD connections, several requests in flight on each, and a record of what was done.
//!
//! ```text
//! draw a request ──▶ nothing in flight overlaps it? ──▶ issue (tick) ──▶ send ──▶ answer
//!                                                        └────── shadow, complete (tick) ◀──┘
//! ```
//!
//! It is a guest like any other: it knows the export and nothing behind it. Writes in flight never overlap.
//! While it is *held* nothing is in flight at all, and the shadow is the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use everpoint_nbd::{ClientConfig, ConnectError, NbdAddress, NbdClient, RequestError, ZeroFlags};
use everpoint_units::{ByteLen, Extent};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::history::{Effect, History, Tick};
use crate::mix::{Mix, Request};
use crate::shadow::{Digest, Shadow, WrongRead};
use crate::stamp::Filling;

/// How long one request may take, also while the process server is down: the guest never waits for it.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// What the load is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadConfig {
    /// The same seed draws the same requests; how they interleave differs.
    pub(crate) seed: u64,
    /// Connections to the export.
    pub(crate) connections: usize,
    /// Requests in flight on each.
    pub(crate) depth: usize,
    /// Unit: bytes a second.
    pub(crate) rate_max: u64,
}

/// A load that runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    /// Locked by who waits for one that ends.
    workers: tokio::sync::Mutex<JoinSet<Result<(), LoadError>>>,
    stop: watch::Sender<bool>,
}

/// The load stands still until this is dropped.
pub(crate) struct Held {
    shared: Arc<Shared>,
    _gate: OwnedRwLockWriteGuard<()>,
}

/// What the load did so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Done {
    /// Writes, zeroes and discards that have completed.
    pub writes: u64,
    /// Data in those writes; zeroes and discards carry none. Unit: bytes.
    pub bytes_written: u64,
    /// Flushes that have completed.
    pub flushes: u64,
    /// Reads that gave back what was written.
    pub reads: u64,
}

/// Why a load ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connection to the export.
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        source: ConnectError,
    },
    /// A request failed; a guest would see an I/O error.
    #[error("the disk answered {request} with an error")]
    Request {
        request: &'static str,
        source: RequestError,
    },
    /// A request took longer than any may.
    #[error("the disk did not answer {request} within {} s", REQUEST_MAX.as_secs())]
    TimedOut { request: &'static str },
    /// The disk gave back something else than what was written.
    #[error(transparent)]
    WrongRead(#[from] WrongRead),
    /// A worker panicked.
    #[error("a worker of the load ended")]
    Ended,
}

struct Shared {
    clients: Vec<NbdClient>,
    filling: Filling,
    rate_max: u64,
    /// Taken by each request to read, by who holds the load to write.
    gate: Arc<RwLock<()>>,
    state: Mutex<State>,
}

struct State {
    history: History,
    shadow: Shadow,
    in_flight: Vec<Extent>,
    done: Done,
    /// When the next request may begin, by the rate.
    next: Instant,
}

impl Load {
    /// Connects and begins.
    ///
    /// # Errors
    ///
    /// [`LoadError::Connect`].
    pub(crate) async fn start(
        address: &NbdAddress,
        size: ByteLen,
        config: LoadConfig,
    ) -> Result<Self, LoadError> {
        let mut clients = Vec::with_capacity(config.connections);
        for _ in 0..config.connections {
            let client = NbdClient::connect(address, &ClientConfig::default()).await;
            clients.push(client.map_err(|source| LoadError::Connect {
                address: address.to_string(),
                source,
            })?);
        }
        let shared = Arc::new(Shared {
            clients,
            filling: Filling::new(config.seed),
            rate_max: config.rate_max,
            gate: Arc::new(RwLock::new(())),
            state: Mutex::new(State {
                history: History::new(),
                shadow: Shadow::new(size),
                in_flight: Vec::new(),
                done: Done::default(),
                next: Instant::now(),
            }),
        });
        let (stop, _) = watch::channel(false);
        let mut workers = JoinSet::new();
        let mut seed = config.seed;
        for client in 0..config.connections {
            for _ in 0..config.depth {
                seed = seed.wrapping_add(1);
                let mix = Mix::new(seed, size);
                workers.spawn(work(Arc::clone(&shared), client, mix, stop.subscribe()));
            }
        }
        Ok(Self {
            shared,
            workers: workers.into(),
            stop,
        })
    }

    /// Waits until the load ends by itself, which it does only for a reason. Cancel-safe.
    pub(crate) async fn failed(&self) -> LoadError {
        match self.workers.lock().await.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(())) | Err(_)) | None => LoadError::Ended,
        }
    }

    /// Lets what is in flight complete and nothing new begin.
    pub(crate) async fn hold(&self) -> Held {
        let gate = Arc::clone(&self.shared.gate).write_owned().await;
        Held {
            shared: Arc::clone(&self.shared),
            _gate: gate,
        }
    }

    /// What was done so far.
    pub(crate) fn done(&self) -> Done {
        self.shared.lock().done
    }

    /// Ends the load; every request that was begun has completed when this returns.
    ///
    /// # Errors
    ///
    /// Why it had ended before.
    pub(crate) async fn finish(self) -> Result<Finished, LoadError> {
        self.stop.send_replace(true);
        let mut workers = self.workers.into_inner();
        while let Some(worker) = workers.join_next().await {
            worker.map_err(|_| LoadError::Ended)??;
        }
        let shared = Arc::into_inner(self.shared).ok_or(LoadError::Ended)?;
        for client in shared.clients {
            client.disconnect().await;
        }
        let state = shared.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        Ok(Finished {
            history: state.history,
            shadow: state.shadow,
            done: state.done,
        })
    }
}

/// What a load leaves: what it did, and the disk as it must be.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) history: History,
    pub(crate) shadow: Shadow,
    pub(crate) done: Done,
}

impl Held {
    /// The digest of the disk as it is now, and the tick of the newest completion.
    pub(crate) async fn source(&self) -> (Digest, Tick) {
        let shared = Arc::clone(&self.shared);
        let digest = tokio::task::spawn_blocking(move || {
            let state = shared.lock();
            (state.shadow.digest(), state.history.now())
        });
        digest.await.expect("hashing memory does not panic")
    }
}

/// Does requests until it is told to stop.
async fn work(
    shared: Arc<Shared>,
    client: usize,
    mut mix: Mix,
    stop: watch::Receiver<bool>,
) -> Result<(), LoadError> {
    while !*stop.borrow() {
        let request = mix.draw();
        shared.pace(&request).await;
        let gate = Arc::clone(&shared.gate).read_owned().await;
        if shared.reserve(&request) {
            let done = timeout(REQUEST_MAX, shared.carry_out(client, &request)).await;
            let late = |_| LoadError::TimedOut {
                request: name(&request),
            };
            done.map_err(late)??;
            shared.release(&request);
        }
        drop(gate);
    }
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the rate allows the request.
    async fn pace(&self, request: &Request) {
        let len = request.extent().map_or(0, |extent| extent.byte_len().0);
        let data = !matches!(request, Request::Zero { .. } | Request::Discard { .. });
        let len = if data { len } else { 4_096 };
        let at = {
            let mut state = self.lock();
            let at = state.next.max(Instant::now());
            let micros = len.saturating_mul(1_000_000) / self.rate_max;
            state.next = at + Duration::from_micros(micros);
            at
        };
        sleep_until(at).await;
    }

    /// Takes the request's extent, unless something in flight overlaps it.
    fn reserve(&self, request: &Request) -> bool {
        let Some(extent) = request.extent() else {
            return true;
        };
        let mut state = self.lock();
        let free = state.in_flight.iter().all(|other| !other.overlaps(extent));
        if free {
            state.in_flight.push(extent);
        }
        free
    }

    fn release(&self, request: &Request) {
        let extent = request.extent();
        let mut state = self.lock();
        state.in_flight.retain(|other| Some(*other) != extent);
    }

    async fn carry_out(&self, client: usize, request: &Request) -> Result<(), LoadError> {
        let client = &self.clients[client];
        let failed = |source| LoadError::Request {
            request: name(request),
            source,
        };
        match *request {
            Request::Write { extent, noisy, fua } => {
                let number = self.lock().history.issue(extent, Effect::Stamps);
                let payload = Bytes::from(self.filling.payload(number, extent, noisy));
                let at = extent.start().byte_offset();
                let written = client.write(at, payload.clone(), fua).await;
                written.map_err(failed)?;
                let mut state = self.lock();
                state.shadow.write(extent, &payload);
                state.history.complete(number);
                state.done.writes += 1;
                state.done.bytes_written += payload.len() as u64;
            }
            Request::Zero { extent, fua } => {
                let number = self.lock().history.issue(extent, Effect::Zeroes);
                let flags = ZeroFlags {
                    fua,
                    ..ZeroFlags::default()
                };
                let at = extent.start().byte_offset();
                let zeroed = client.write_zeroes(at, request_len(extent), flags).await;
                zeroed.map_err(failed)?;
                let mut state = self.lock();
                state.shadow.zero(extent);
                state.history.complete(number);
                state.done.writes += 1;
            }
            Request::Discard { extent } => self.discard(client, extent).await?,
            Request::Read { extent } => {
                let at = extent.start().byte_offset();
                let read = client.read(at, request_len(extent)).await;
                let read = read.map_err(failed)?;
                let mut state = self.lock();
                state.shadow.compare(extent, &read)?;
                state.done.reads += 1;
            }
            Request::Flush => {
                client.flush().await.map_err(failed)?;
                self.lock().done.flushes += 1;
            }
        }
        Ok(())
    }

    /// A discard may do nothing, so what it did is read back before it counts as complete.
    async fn discard(&self, client: &NbdClient, extent: Extent) -> Result<(), LoadError> {
        let failed = |source| LoadError::Request {
            request: "a discard",
            source,
        };
        let number = self.lock().history.issue(extent, Effect::Zeroes);
        let (at, len) = (extent.start().byte_offset(), request_len(extent));
        client.trim(at, len, false).await.map_err(failed)?;
        let read = client.read(at, len).await.map_err(failed)?;
        let mut state = self.lock();
        let zeroed = state.shadow.discarded(extent, &read)?;
        if let Some(zeroed) = zeroed {
            state.shadow.zero(zeroed);
        }
        state.history.complete_discard(number, zeroed);
        state.done.writes += 1;
        Ok(())
    }
}

fn request_len(extent: Extent) -> u32 {
    let len = u32::try_from(extent.byte_len().0);
    len.expect("requests are no longer than 1 MiB")
}

const fn name(request: &Request) -> &'static str {
    match request {
        Request::Write { .. } => "a write",
        Request::Zero { .. } => "a write of zeroes",
        Request::Discard { .. } => "a discard",
        Request::Read { .. } => "a read",
        Request::Flush => "a flush",
    }
}

#[cfg(test)]
mod tests;
