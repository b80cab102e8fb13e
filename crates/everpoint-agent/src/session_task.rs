//! The machine's session with whichever process server owns it: links, files and waiting. What is
//! tried and believed is decided in [`crate::session_core`].

mod hello;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use everpoint_transport::pki::{CredentialPaths, Credentials, EXPIRY_WARNING, LoadError};
use everpoint_transport::{
    BindError, ByteBudget, ClientTransportConfig, CloseReason, Closed, ConnectError, Connector,
    ExpectedServer, Identity, Link, RecvError, SendError, ServerNameError, TransportTuning,
};
use everpoint_units::{Level, MachineId, VaultId, WallTime};
use everpoint_wire::{HelloAnswer, WireError};
use futures::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};

use crate::blocking::blocking;
use crate::clock::wall;
use crate::config::{AgentConfig, ServerConfig, TlsConfig};
use crate::disk_table::DiskTable;
use crate::disk_task::Session;
use crate::machine::Machine;
use crate::reserve_task::reserve;
use crate::session_core::{
    Admission, AnswerError, Attempt, SessionCore, SessionState, Step, announcement,
};
use crate::splitter::chain;
use crate::state::{StateDir, StateError};

/// Addresses of one server that are tried: a name that has more says nothing of use.
const ADDRESSES_MAX: usize = 8;
/// How long an epoch that could not be remembered stands before the next attempt.
const REMEMBER_RETRY: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct SessionTask {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) state: Arc<StateDir>,
    pub(crate) disks: Arc<DiskTable>,
    pub(crate) budget: ByteBudget,
    pub(crate) sessions: watch::Sender<Option<Session>>,
    pub(crate) shared: Arc<SessionShared>,
}

/// What others see of the session, and how they end it.
pub(crate) struct SessionShared {
    pub(crate) report: watch::Sender<SessionReport>,
    /// Rung to begin a new session, for more disks than were announced.
    pub(crate) restart: Notify,
    /// Disk streams that were announced.
    pub(crate) announced: AtomicU32,
}

/// Where the session stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionReport {
    /// As configured; empty while there is none.
    pub(crate) server: String,
    pub(crate) connected: bool,
    pub(crate) last_error: String,
    pub(crate) epoch: Level,
    pub(crate) vault: Option<VaultId>,
    pub(crate) certificate_expires_at: WallTime,
    /// Attempts that gave no session.
    pub(crate) failure_count: u64,
}

/// Why there is no session with a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot resolve {address:?}")]
    Resolve {
        address: String,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error(transparent)]
    Name(#[from] ServerNameError),
    #[error("the certificate cannot be used")]
    Credentials(#[from] LoadError),
    #[error("the certificate names {found}, and this agent is the one of machine {machine}")]
    Identity { found: Identity, machine: MachineId },
    #[error("no socket for the link")]
    Bind(#[from] BindError),
    #[error("no link")]
    Connect(#[from] ConnectError),
    #[error("the link ended")]
    Closed(#[source] Closed),
    #[error("the hello was not sent")]
    Send(#[from] SendError),
    #[error("the answer did not come")]
    Receive(#[from] RecvError),
    #[error("the server took too long to answer the hello")]
    TimedOut,
    #[error("the server broke the protocol")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the session cannot be remembered")]
    State(#[from] StateError),
}

impl SessionTask {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let servers = &self.config.servers;
        let clock = self.machine.clock;
        let mut core = SessionCore::new(servers.len());
        loop {
            let server = match core.attempt(clock.now()) {
                Attempt::Server(index) => &servers[index],
                Attempt::Until(moment) => {
                    sleep_until(clock.instant(moment)).await;
                    continue;
                }
            };
            let ended = self.session(server).await;
            let jitter = rand::random();
            match ended {
                Ok(()) => core.handle_ended(clock.now(), jitter),
                Err(error) => {
                    self.note_failure(server, &error);
                    core.handle_failed(clock.now(), jitter);
                }
            }
        }
    }

    fn note_failure(&self, server: &ServerConfig, error: &SessionError) {
        let text = chain(error);
        tracing::warn!(machine = %self.machine.id, server = server.address, error = text, "no session");
        metrics::counter!("everpoint_agent_session_failures_total").increment(1);
        self.shared.report.send_modify(|report| {
            report.last_error = format!("{}: {text}", server.address);
            report.failure_count += 1;
        });
    }

    /// One session, from the first packet until the link ends.
    ///
    /// # Errors
    ///
    /// See [`SessionError`]; a session that was established ends with `Ok`.
    async fn session(&self, server: &ServerConfig) -> Result<(), SessionError> {
        let credentials = self.load_credentials().await?;
        let mut transport = ClientTransportConfig::new(credentials);
        transport.tuning = tuning(self.config.mtu_max);
        let connector = Connector::bind(transport, self.budget.clone())?;
        let link = connect(&connector, server).await?;
        let established = self.establish(&link).await;
        let (answer, control) = established.inspect_err(|error| {
            link.close(CloseReason::Unspecified, &chain(error));
        })?;
        let epoch = answer.journal.level;
        tracing::info!(machine = %self.machine.id, server = server.address, epoch = epoch.0, "session begun");
        self.shared.report.send_modify(|report| {
            report.server.clone_from(&server.address);
            report.connected = true;
            report.last_error.clear();
            report.epoch = epoch;
            report.vault = Some(answer.vault);
        });
        let link_of_disks = link.clone();
        self.sessions.send_replace(Some(Session {
            link: link_of_disks,
            epoch,
        }));
        let ended = self.until_closed(&link, control).await;
        self.sessions.send_replace(None);
        tracing::info!(machine = %self.machine.id, server = server.address, reason = ended, "session ended");
        self.shared.report.send_modify(|report| {
            report.server.clear();
            report.connected = false;
            report.last_error = ended;
        });
        Ok(())
    }

    /// Waits for the end of the link; what the server still says on the first stream is a refusal.
    /// All arms are cancel-safe.
    async fn until_closed(&self, link: &Link, mut control: hello::Control) -> String {
        loop {
            tokio::select! {
                closed = link.closed() => return chain(&closed),
                refused = control.refused() => {
                    let text = chain(&refused);
                    link.close(CloseReason::Unspecified, &text);
                    return text;
                }
                () = self.shared.restart.notified() => {
                    link.close(CloseReason::Shutdown, "more disks than announced");
                }
                () = self.watch_epoch() => {}
            }
        }
    }

    /// Remembers a higher epoch that a disk's marks brought: the server went on in a new journal.
    /// Cancel-safe: what was cut short is done again.
    async fn watch_epoch(&self) {
        let mut seen = self.machine.epoch.subscribe();
        let known = self.shared.report.borrow().epoch;
        let risen = seen
            .wait_for(|epoch| known < *epoch)
            .await
            .map(|epoch| *epoch);
        let epoch = risen.expect("the machine keeps the sender");
        match self.remember(move |session| session.risen_to(epoch)).await {
            Ok(()) => self
                .shared
                .report
                .send_modify(|report| report.epoch = epoch),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the epoch cannot be remembered");
                sleep(REMEMBER_RETRY).await;
            }
        }
    }

    async fn load_credentials(&self) -> Result<Credentials, SessionError> {
        let credentials = load_credentials(&self.config.tls).await?;
        let found = credentials.identity();
        let machine = self.machine.id;
        if found != Identity::Agent(machine) {
            return Err(SessionError::Identity { found, machine });
        }
        if let Some(expiring) = credentials.warn_if_expiring(wall(), EXPIRY_WARNING) {
            tracing::warn!(%machine, expires_at = %expiring.expires_at, "the certificate ends soon");
        }
        let expires_at = credentials.expires_at();
        self.shared
            .report
            .send_modify(|report| report.certificate_expires_at = expires_at);
        Ok(credentials)
    }

    /// Says hello and does what the answer makes necessary.
    async fn establish(&self, link: &Link) -> Result<(HelloAnswer, hello::Control), SessionError> {
        let remembered = self.remembered().await?;
        // What was rung for before is announced now.
        let _ = self.shared.restart.notified().now_or_never();
        let announced = announcement(self.disks.count());
        self.shared.announced.store(announced, Relaxed);
        let greeting = hello::Greeting {
            machine: self.machine.id,
            remembered,
            announced,
        };
        let (answer, control, offset) = hello::exchange(link, greeting).await?;
        let admission = Admission::check(&answer, remembered)?;
        self.machine.clock_offset_us.store(offset, Relaxed);
        self.admit(admission).await?;
        Ok((answer, control))
    }

    /// Makes durable what has to be, and goes on above every `Seq` that the server knows of.
    async fn admit(&self, mut admission: Admission) -> Result<(), SessionError> {
        loop {
            let now = self.machine.clock.now();
            let step = admission.step(&mut self.machine.order(), now);
            match step {
                Step::Remember(session) => {
                    // A mark that came late in the last session may have raised the epoch since.
                    self.remember(move |known| session.risen_to(known.highest_epoch))
                        .await?;
                    admission.handle_remembered();
                }
                Step::Reserve(mark) => reserve(&self.machine, &self.state, mark).await?,
                Step::Open { lost, .. } => {
                    self.disks.ring_order_lost(&lost);
                    return Ok(());
                }
            }
        }
    }

    async fn remembered(&self) -> Result<SessionState, StateError> {
        let state = Arc::clone(&self.state);
        blocking(move || state.session()).await
    }

    async fn remember(
        &self,
        change: impl FnOnce(SessionState) -> SessionState + Send + 'static,
    ) -> Result<(), StateError> {
        let state = Arc::clone(&self.state);
        blocking(move || state.change_session(change)).await
    }
}

async fn connect(connector: &Connector, server: &ServerConfig) -> Result<Link, SessionError> {
    let unresolved = |source| SessionError::Resolve {
        address: server.address.clone(),
        source,
    };
    let resolved = tokio::net::lookup_host(&server.address).await;
    let resolved = resolved.map_err(|error| unresolved(Some(error)))?;
    let addresses: Vec<_> = resolved.take(ADDRESSES_MAX).collect();
    let name = server.name.as_deref().or(server.host());
    let expected = ExpectedServer::named(name.unwrap_or_default())?;
    match connector.connect_any(&addresses, &expected).await {
        Some(link) => Ok(link?),
        None => Err(unresolved(None)),
    }
}

/// Reads certificate, key and CA.
///
/// # Errors
///
/// See [`LoadError`].
pub(crate) async fn load_credentials(tls: &TlsConfig) -> Result<Credentials, LoadError> {
    let paths = CredentialPaths {
        certificate: tls.cert.clone(),
        key: tls.key.clone(),
        ca: tls.ca.clone(),
    };
    blocking(move || Credentials::load(&paths, wall())).await
}

/// An agent receives answers only, so its windows stay small.
pub(crate) fn tuning(mtu_max: u16) -> TransportTuning {
    TransportTuning {
        mtu_max,
        receive_window_max: 2 << 20,
        ..TransportTuning::default()
    }
}
