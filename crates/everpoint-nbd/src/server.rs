//! The server: named exports of any kind, behind unix sockets and TCP ports.
//!
//! ```text
//! listener ─▶ connection task: handshake ─▶ export chosen ─▶ requests, until it ends
//! ```
//!
//! Each connection is one task and shares nothing with others but the byte budget and the export.
//! What a client does wrong costs that client its connection, or only the request.
//!
//! It does not encrypt and knows no users: whoever may open the unix socket may use every export.

mod config;
mod connection;
mod listen;
mod negotiate;
mod registry;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use everpoint_units::ByteLen;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use self::connection::Ended;
use self::listen::Listener;
use self::negotiate::{Agreed, HandshakeEnd, check_served, negotiate};
use self::registry::{AddError, Registry, Session};
use crate::export::{Export, ExportInfoError};
use crate::protocol::NAME_LEN_MAX;
use crate::stream::Stream;

pub use self::config::{ServerConfig, ServerConfigError};
pub use self::listen::ListenError;

/// A server. Clones are the same server. It runs until [`Server::shutdown`], also when every clone
/// has been dropped.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What a server has seen, since it began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerStats {
    /// Connections that are open now, handshakes included.
    pub open_count: u64,
    /// Connections that were closed at once because too many were open.
    pub refused_count: u64,
    /// Handshakes that ended without an export because of the client: broken, too long, too late.
    pub failed_handshake_count: u64,
    /// Connections to an export that were closed because the client broke the protocol or stalled.
    pub offence_count: u64,
    /// Connections to an export that ended in order.
    pub ended_count: u64,
    /// Payload that is held now on the server's account.
    pub held: ByteLen,
}

/// Why an export cannot be served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnservableError {
    /// It says of itself what no client could be told.
    #[error("the export describes itself wrongly")]
    Info(#[from] ExportInfoError),
    /// The server is configured for payloads below one of its blocks.
    #[error("preferred block of {preferred} B is above the payload limit of {payload_len_max} B")]
    BlockTooLarge {
        /// The export's. Unit: bytes.
        preferred: u32,
        /// The server's. Unit: bytes.
        payload_len_max: u32,
    },
}

/// Why an export was not attached. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AttachError {
    /// Another export has the name. Detach that, or choose another.
    #[error("an export of this name is attached")]
    NameTaken,
    /// A name above [`NAME_LEN_MAX`], or with a NUL. Choose another.
    #[error("an export's name has at most {NAME_LEN_MAX} B and no NUL")]
    BadName,
    /// As many are attached as the configuration allows.
    #[error("{count_max} exports are attached, the most that is configured")]
    TooMany {
        /// The limit.
        count_max: usize,
    },
    /// The export itself is at fault.
    #[error("the export cannot be served")]
    Unservable(#[from] UnservableError),
}

struct Shared {
    config: ServerConfig,
    registry: Registry,
    /// Payload bytes that all connections together may hold.
    budget: Arc<Semaphore>,
    /// Places for connections.
    places: Arc<Semaphore>,
    /// True once the server shuts down.
    stop: watch::Sender<bool>,
    accepting: Mutex<Vec<JoinHandle<()>>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    refused: AtomicU64,
    failed_handshakes: AtomicU64,
    offences: AtomicU64,
    ended: AtomicU64,
}

impl Server {
    /// Builds a server that serves nothing and listens nowhere yet.
    ///
    /// # Errors
    ///
    /// [`ServerConfigError`] names the field that does not fit.
    pub fn new(config: ServerConfig) -> Result<Self, ServerConfigError> {
        config.check()?;
        Ok(Self(Arc::new(Shared {
            registry: Registry::default(),
            budget: Arc::new(Semaphore::new(config.budget())),
            places: Arc::new(Semaphore::new(config.connection_count_max)),
            stop: watch::Sender::new(false),
            accepting: Mutex::default(),
            counters: Counters::default(),
            config,
        })))
    }

    /// Serves `export` under `name` from now on.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing has changed then.
    pub fn attach<E: Export>(&self, name: &str, export: Arc<E>) -> Result<(), AttachError> {
        if name.len() > NAME_LEN_MAX || name.contains('\0') {
            return Err(AttachError::BadName);
        }
        let config = &self.0.config;
        check_served(&export.describe(), config.payload_len_max)?;
        let count_max = config.export_count_max;
        let added = self.0.registry.add(name, export, count_max);
        added.map_err(|error| match error {
            AddError::Taken => AttachError::NameTaken,
            AddError::Full => AttachError::TooMany { count_max },
        })
    }

    /// Serves the export of this name no longer: no new connection finds it, those that use it
    /// answer what they have begun and end. Returns when nothing calls the export any more; false if
    /// there is none. Cancel-safe: dropped in the middle, it goes on without a witness.
    pub async fn detach(&self, name: &str) -> bool {
        match self.0.registry.remove(name) {
            Some(entry) => {
                entry.stop().await;
                true
            }
            None => false,
        }
    }

    /// The names of all exports, sorted.
    pub fn exports(&self) -> Vec<String> {
        let list = self.0.registry.list();
        list.into_iter().map(|(name, _)| name).collect()
    }

    /// Accepts connections on a unix socket at `path`, mode 0600. A socket file that nobody serves
    /// is replaced.
    ///
    /// # Errors
    ///
    /// [`ListenError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn listen_unix(&self, path: &Path) -> Result<(), ListenError> {
        self.accept_from(Listener::unix(path)?);
        Ok(())
    }

    /// Accepts connections on a TCP port; port 0 takes a free one. Returns the address in use.
    ///
    /// # Errors
    ///
    /// [`ListenError::Tcp`].
    pub async fn listen_tcp(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let (listener, bound) = Listener::tcp(address).await?;
        self.accept_from(listener);
        Ok(bound)
    }

    /// What has been seen up to now.
    pub fn stats(&self) -> ServerStats {
        let Shared {
            config,
            budget,
            places,
            counters,
            ..
        } = &*self.0;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let difference = |whole: usize, free: usize| {
            u64::try_from(whole.saturating_sub(free)).expect("usize has at most 64 bits")
        };
        ServerStats {
            open_count: difference(config.connection_count_max, places.available_permits()),
            refused_count: count(&counters.refused),
            failed_handshake_count: count(&counters.failed_handshakes),
            offence_count: count(&counters.offences),
            ended_count: count(&counters.ended),
            held: ByteLen(difference(config.budget(), budget.available_permits())),
        }
    }

    /// Stops listening, lets every connection answer what it has begun, and detaches everything.
    /// Returns when nothing runs any more. It waits for the exports as long as they need.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        let accepting = {
            let mut accepting = self
                .0
                .accepting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *accepting)
        };
        for task in accepting {
            // A task that panicked accepts nothing either.
            let _ = task.await;
        }
        for entry in self.0.registry.remove_all() {
            entry.stop().await;
        }
        // The last step of every connection is to give its place back.
        let places = self.0.config.connection_count_max;
        let places = u32::try_from(places).expect("bounded by the configuration");
        let all = self.0.places.acquire_many(places).await;
        drop(all.expect("the places are never closed"));
    }

    fn accept_from(&self, listener: Listener) {
        let task = tokio::spawn(accept(Arc::clone(&self.0), listener));
        let mut accepting = self
            .0
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        accepting.push(task);
    }
}

/// Accepts until the server stops. Both arms are cancel-safe.
async fn accept(shared: Arc<Shared>, listener: Listener) {
    let mut stop = shared.stop.subscribe();
    loop {
        let stream = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            stream = listener.accept() => stream,
        };
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
            shared.counters.refused.fetch_add(1, Relaxed);
            // Counted, and not above debug: whoever can connect could fill the log otherwise.
            tracing::debug!("nbd connection refused: too many are open");
            continue;
        };
        let span = tracing::info_span!("nbd", export = tracing::field::Empty);
        tokio::spawn(serve(Arc::clone(&shared), stream, place).instrument(span));
    }
}

/// One connection, from its greeting to its end.
async fn serve(shared: Arc<Shared>, mut stream: Stream, place: OwnedSemaphorePermit) {
    let counters = &shared.counters;
    match handshake(&shared, &mut stream).await {
        Ok(Agreed { name, entry, terms }) => {
            tracing::Span::current().record("export", &name);
            tracing::debug!(?terms, "nbd client connected");
            let session = Session {
                terms,
                limits: shared.config.connection_limits(),
                budget: Arc::clone(&shared.budget),
            };
            let ended = entry.serve(stream, session).await;
            match ended {
                Ended::Left | Ended::Stopped => {
                    counters.ended.fetch_add(1, Relaxed);
                    tracing::debug!(reason = %ended, "nbd connection ended");
                }
                // A client that was killed looks like this: nothing that anybody should act upon.
                Ended::Broken(error) => {
                    counters.ended.fetch_add(1, Relaxed);
                    tracing::info!(%error, "nbd connection broken");
                }
                Ended::CutOff => {
                    counters.ended.fetch_add(1, Relaxed);
                    tracing::info!("nbd client left in the middle of a request");
                }
                Ended::Garbage(_) | Ended::PayloadTooLong { .. } | Ended::Stalled => {
                    counters.offences.fetch_add(1, Relaxed);
                    tracing::warn!(reason = %ended, "nbd connection closed");
                }
            }
        }
        Err(HandshakeEnd::Left | HandshakeEnd::Stopped) => {}
        Err(end) => {
            counters.failed_handshakes.fetch_add(1, Relaxed);
            tracing::debug!(reason = %end, "nbd handshake failed");
        }
    }
    drop(place);
}

/// A handshake under its deadline. Both arms may be dropped: nothing outlives a failed handshake.
async fn handshake(shared: &Shared, stream: &mut Stream) -> Result<Agreed, HandshakeEnd> {
    let config = &shared.config;
    let mut stop = shared.stop.subscribe();
    let negotiation = negotiate(stream, &shared.registry, config.payload_len_max);
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Err(HandshakeEnd::Stopped),
        agreed = tokio::time::timeout(config.handshake_max, negotiation) => {
            agreed.unwrap_or(Err(HandshakeEnd::TimedOut))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests_support;
