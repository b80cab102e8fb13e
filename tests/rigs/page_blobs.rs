//! A server that behaves like Azure's page blobs where Azurite does not, with a switch for each fault.
//!
//! It speaks the REST API over HTTP/1.1, path-style as Azurite does (`/ACCOUNT/container/blob`), and keeps all in
//! memory: sparse, so that terabytes of room cost nothing, and shared with snapshots. What the reference of the
//! REST API says is what it does: limits, alignment, differences between snapshots, sequence numbers, leases,
//! copies, error codes. Where the reference is silent, it is strict: every list has 10,000 entries at most.
//!
//! | module | what it does |
//! |---|---|
//! | `pages`, `blob`, `lease`, `conditions` | the semantics, without HTTP or a clock |
//! | `request`, `checksums`, `dates` | what is asked for |
//! | `account` | the blobs, each under a lock of its own |
//! | `faults`, `counts` | what goes wrong, and how often it did |
//! | `serve`, `answer`, `refusal` | from a request to its answer |
//! | `view` | what a test sees |
//!
//! Left out: signatures (Azurite checks those), lists of blocks, append blobs, tags, tiers, versions, soft delete,
//! incremental copies, conditions on the source of a copy, and leases of containers. Asked for one of these, it
//! says 501.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use anyhow::{Context as _, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

mod account;
mod answer;
mod blob;
mod checksums;
mod conditions;
mod counts;
mod dates;
mod faults;
mod lease;
mod pages;
mod refusal;
mod request;
mod serve;
mod view;

pub use blob::{LoggedWrite, WriteKind};
pub use conditions::{SequenceCondition, SequenceOrder};
pub use counts::{Counts, FaultCounts, OperationCounts, OperationKind};
pub use faults::{FaultPlan, Faults, Late, Throttle};
pub use refusal::Refusal;
pub use view::BlobView;

use account::Account;
use serve::{LateWrite, State};

/// Late writes that wait for who keeps their time; more than that wait with their connections.
const LATE_QUEUE_MAX: usize = 64;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct PageBlobSpec {
    pub account: String,
    /// Those that are there from the start.
    pub containers: Vec<String>,
    /// None: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Of what chance chooses.
    pub seed: u64,
    /// Whether each blob keeps a log of the writes that were done.
    pub log_writes: bool,
    /// How many threads of its own it has; none: it runs on the runtime that it is started on.
    pub threads: Option<usize>,
}

/// A server that runs until it is dropped. Requests that are on their way then are not answered, and late writes
/// that are still to come are not done.
#[derive(Debug)]
pub struct PageBlobServer {
    endpoint: String,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<Running>,
}

#[derive(Debug)]
enum Running {
    Thread(thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Default for PageBlobSpec {
    /// One container named `disks`, plain HTTP, one thread.
    fn default() -> Self {
        Self {
            account: "everpoint".to_owned(),
            containers: vec!["disks".to_owned()],
            tls: None,
            seed: 1,
            log_writes: false,
            threads: Some(1),
        }
    }
}

impl PageBlobServer {
    /// Starts one on a port of 127.0.0.1 that is free.
    ///
    /// # Errors
    ///
    /// When the system gives no port or no thread, or when it is to run on a runtime and there is none.
    pub fn start(spec: PageBlobSpec) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let scheme = if spec.tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}/{}", listener.local_addr()?, spec.account);
        let (late, late_writes) = mpsc::channel(LATE_QUEUE_MAX);
        let (stop, stopped) = oneshot::channel();
        let state = Arc::new(State {
            account: Account::new(&spec.containers, spec.log_writes),
            account_name: spec.account,
            faults: Faults::new(spec.seed),
            counts: std::sync::Mutex::default(),
            arrived: AtomicU64::new(0),
            late,
            late_count: watch::Sender::new(0),
            land: watch::Sender::new(()),
        });
        let door = Door {
            state: state.clone(),
            tls: spec.tls.map(TlsAcceptor::from),
        };
        let running = match spec.threads {
            Some(threads) => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(threads.max(1))
                    .thread_name("page-blobs")
                    .enable_all()
                    .build()?;
                let serve = move || {
                    runtime.block_on(async move {
                        // On a worker, where the connections are.
                        let serving = tokio::spawn(door.serve(listener, late_writes, stopped));
                        // A panic has been reported where it happened.
                        let _ = serving.await;
                    });
                };
                let builder = thread::Builder::new().name("page-blobs".to_owned());
                Running::Thread(builder.spawn(serve)?)
            }
            None => {
                let runtime = tokio::runtime::Handle::try_current();
                let runtime = runtime.context("a server without threads needs a runtime")?;
                Running::Task(runtime.spawn(door.serve(listener, late_writes, stopped)))
            }
        };
        Ok(Self {
            endpoint,
            state,
            stop: Some(stop),
            running: Some(running),
        })
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The switches.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// What was asked for, and what went wrong, until now.
    pub fn counts(&self) -> Counts {
        self.state.counts().clone()
    }

    /// Writes that are still to be done, though their clients were told that they were not.
    pub fn late_writes(&self) -> usize {
        *self.state.late_count.borrow()
    }

    /// Has all of these done now, whatever time they still had: a test needs no clock for them.
    pub fn land_late_writes(&self) {
        self.state.land.send_replace(());
    }

    /// Returns when there are none of these.
    pub async fn settled(&self) {
        let mut count = self.state.late_count.subscribe();
        let settled = count.wait_for(|count| *count == 0).await;
        settled.expect("the sender lives as long as this server");
    }

    /// A blob as it is now, if it is there.
    pub fn blob(&self, container: &str, name: &str) -> Option<BlobView> {
        self.state.account.look(container, name).map(BlobView::new)
    }

    /// Has somebody else hold a lease without an end, whoever held one before.
    ///
    /// # Errors
    ///
    /// When the blob is not there.
    pub fn other_holder_leases(&self, container: &str, name: &str) -> Result<(), Refusal> {
        let account = &self.state.account;
        account.lease_for_somebody_else(container, name)
    }

    /// Breaks that lease, at once.
    ///
    /// # Errors
    ///
    /// When the blob is not there, or the lease not somebody else's.
    pub fn break_foreign_lease(&self, container: &str, name: &str) -> Result<(), Refusal> {
        let account = &self.state.account;
        account.break_lease_of_somebody_else(container, name)
    }
}

impl Drop for PageBlobServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.running.take() {
            // Its tasks end at their next wait, which is soon: none of them does more than one request without.
            Some(Running::Thread(thread)) => {
                let _ = thread.join();
            }
            Some(Running::Task(task)) => task.abort(),
            None => {}
        }
    }
}

/// Where connections come in.
struct Door {
    state: Arc<State>,
    tls: Option<TlsAcceptor>,
}

impl Door {
    /// Serves until `stopped` says so, or its other end is gone. All tasks are its own, and end with it.
    async fn serve(
        self,
        listener: std::net::TcpListener,
        mut late_writes: mpsc::Receiver<LateWrite>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let listener = TcpListener::from_std(listener).expect("it does not block");
        let mut tasks = JoinSet::new();
        loop {
            // Each of these loses nothing when another is first.
            tokio::select! {
                _ = &mut stopped => break,
                accepted = listener.accept() => self.accept(accepted, &mut tasks),
                Some(write) = late_writes.recv() => {
                    tasks.spawn(self.state.clone().do_late(write));
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    fn accept(&self, accepted: std::io::Result<(TcpStream, SocketAddr)>, tasks: &mut JoinSet<()>) {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("a connection to the page blobs was not accepted: {error}");
                return;
            }
        };
        if self.state.faults.plan().unreachable {
            self.state.fault(|faults| &mut faults.unreachable);
            return;
        }
        // It is slower without, and right all the same.
        let _ = stream.set_nodelay(true);
        let state = self.state.clone();
        match self.tls.clone() {
            None => tasks.spawn(converse(state, stream)),
            Some(tls) => tasks.spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    converse(state, stream).await;
                }
            }),
        };
    }
}

/// Serves one connection to its end.
async fn converse<S>(state: Arc<State>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| state.serve(request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // It ends badly when the client goes, or when a fault says so.
    let _ = connection.await;
}

#[cfg(test)]
mod tests;
