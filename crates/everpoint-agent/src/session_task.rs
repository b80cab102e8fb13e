//! The machine's session with whichever process server owns it.
//!
//! ```text
//! servers in turn ─▶ link ─▶ hello ─▶ checked, remembered ─▶ disks open their streams ─▶ … ─▶ closed
//!        ▲                     └─ refused: the next one                                        │
//!        └──────────── a round without success: back-off, 100 ms to 30 s, full jitter ◀────────┘
//! ```
//!
//! An answer counts only when it comes from the vault of the first contact and from an epoch that is
//! not lower than the highest seen (R12); both are remembered durably before a disk's stream is
//! opened. `Seq`s go on above whatever the server states.

mod hello;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use everpoint_capture::Reservation;
use everpoint_transport::pki::{CredentialPaths, Credentials, EXPIRY_WARNING, LoadError};
use everpoint_transport::{
    BindError, ByteBudget, ClientTransportConfig, CloseReason, Closed, ConnectError, Connector,
    ExpectedServer, Identity, Link, RecvError, SendError, ServerNameError, TransportTuning,
};
use everpoint_units::{Level, MachineId, Seq, VaultId, WallTime};
use everpoint_wire::{HelloAnswer, RefusalReason, WireError};
use futures::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::blocking::blocking;
use crate::clock::wall;
use crate::config::{AgentConfig, ServerConfig, TlsConfig};
use crate::disk_table::DiskTable;
use crate::disk_task::Session;
use crate::machine::Machine;
use crate::reserve_task::reserve;
use crate::splitter::chain;
use crate::state::{SessionState, StateDir, StateError};

/// First and longest wait between two rounds. Source: the piece of work that this was built for.
const BACKOFF_FROM: Duration = Duration::from_millis(100);
const BACKOFF_TO: Duration = Duration::from_secs(30);
/// A round that took this long was a session, not an attempt: the next wait is short again.
const SESSION_MIN: Duration = Duration::from_secs(10);
/// Highest `Seq` that a server is believed; servers refuse higher ones too.
const SEQ_MAX: Seq = Seq(1 << 62);

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
    #[error("the server answered something else")]
    Unexpected,
    #[error("the server refuses: {reason:?}: {text:?}")]
    Refused { reason: RefusalReason, text: String },
    #[error(
        "the server belongs to vault {found}, this agent to {wanted}: correct `servers`, or remove \
         session.toml from state_dir to move the machine to another vault"
    )]
    Vault { found: VaultId, wanted: VaultId },
    #[error("the server speaks for {offered}, and {seen} was seen before: it was taken over")]
    OldEpoch { offered: Level, seen: Level },
    #[error("the server states a position that no machine reaches: {stated}")]
    Seq { stated: Seq },
    #[error("the session cannot be remembered")]
    State(#[from] StateError),
}

impl SessionTask {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let servers = self.config.servers.clone();
        let (mut first, mut short_rounds) = (0, 0);
        loop {
            let began = Instant::now();
            for offset in 0..servers.len() {
                let index = (first + offset) % servers.len();
                match self.session(&servers[index]).await {
                    Ok(()) => {
                        first = index;
                        break;
                    }
                    Err(error) => self.note_failure(&servers[index], &error),
                }
            }
            if SESSION_MIN <= began.elapsed() {
                short_rounds = 0;
            }
            sleep(backoff(short_rounds)).await;
            short_rounds += 1;
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
        match self
            .remember(move |session| session.highest_epoch = epoch)
            .await
        {
            Ok(()) => self
                .shared
                .report
                .send_modify(|report| report.epoch = epoch),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the epoch cannot be remembered");
                sleep(BACKOFF_TO).await;
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

    /// Says hello and acts on the answer.
    async fn establish(&self, link: &Link) -> Result<(HelloAnswer, hello::Control), SessionError> {
        let remembered = self.remembered().await?;
        // What was rung for before is announced now.
        let _ = self.shared.restart.notified().now_or_never();
        let disk_count = self.disks.announcement();
        self.shared.announced.store(disk_count, Relaxed);
        let greeting = hello::Greeting {
            machine: self.machine.id,
            remembered,
            disk_count,
        };
        let (answer, control, offset) = hello::exchange(link, greeting).await?;
        check(&answer, remembered)?;
        self.machine.clock_offset_us.store(offset, Relaxed);
        let epoch = answer.journal.level;
        let pinned = SessionState {
            vault: Some(answer.vault),
            highest_epoch: epoch,
        };
        if pinned != remembered {
            self.remember(move |session| *session = pinned).await?;
        }
        self.raise_seqs(&answer).await?;
        Ok((answer, control))
    }

    async fn remembered(&self) -> Result<SessionState, StateError> {
        let state = Arc::clone(&self.state);
        blocking(move || state.session()).await
    }

    async fn remember(
        &self,
        change: impl FnOnce(&mut SessionState) + Send + 'static,
    ) -> Result<(), StateError> {
        let state = Arc::clone(&self.state);
        blocking(move || {
            let mut session = state.session()?;
            change(&mut session);
            state.save_session(session)
        })
        .await
    }

    /// Goes on above every `Seq` that the server knows of this machine.
    async fn raise_seqs(&self, answer: &HelloAnswer) -> Result<(), SessionError> {
        let stated = answer.disks.iter().map(|disk| disk.complete_through);
        let stated = stated.fold(answer.highest_seq, Seq::max);
        let mark = Reservation::mark_after(stated).filter(|_| stated <= SEQ_MAX);
        let mark = mark.ok_or(SessionError::Seq { stated })?;
        let reserved = self.machine.order().has_reserved_beyond(stated);
        if !reserved {
            reserve(&self.machine, &self.state, mark).await?;
        }
        let now = self.machine.clock.now();
        let lost = self.machine.order().raise_above(stated, now);
        self.disks.ring_order_lost(&lost);
        Ok(())
    }
}

/// What an answer must be before anything else is done with it.
fn check(answer: &HelloAnswer, remembered: SessionState) -> Result<(), SessionError> {
    let (offered, seen) = (answer.journal.level, remembered.highest_epoch);
    if let Some(wanted) = remembered.vault.filter(|wanted| *wanted != answer.vault) {
        let found = answer.vault;
        return Err(SessionError::Vault { found, wanted });
    }
    if offered < seen {
        return Err(SessionError::OldEpoch { offered, seen });
    }
    Ok(())
}

async fn connect(connector: &Connector, server: &ServerConfig) -> Result<Link, SessionError> {
    let resolved = tokio::net::lookup_host(&server.address).await;
    let first = match resolved {
        Ok(mut addresses) => addresses.next().ok_or(None),
        Err(error) => Err(Some(error)),
    };
    let first = first.map_err(|source| SessionError::Resolve {
        address: server.address.clone(),
        source,
    })?;
    let name = server.name.as_deref().or(server.host());
    let expected = ExpectedServer::named(name.unwrap_or_default())?;
    Ok(connector.connect(first, &expected).await?)
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

/// Full jitter: anything up to a limit that doubles.
fn backoff(short_rounds: u32) -> Duration {
    let limit = BACKOFF_FROM.saturating_mul(1 << short_rounds.min(16));
    limit.min(BACKOFF_TO).mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use everpoint_units::JournalId;

    use super::*;

    fn answer(vault: u8, level: u64) -> HelloAnswer {
        HelloAnswer {
            protocol: 1,
            vault: VaultId([vault; 16]),
            journal: JournalId {
                level: Level(level),
                random: [0; 16],
            },
            highest_seq: Seq::ZERO,
            clock: WallTime(0),
            disks: Vec::new(),
        }
    }

    #[test]
    fn another_vault_and_a_lower_epoch_are_refused() {
        let fresh = SessionState::default();
        assert!(check(&answer(1, 1), fresh).is_ok());
        let pinned = SessionState {
            vault: Some(VaultId([1; 16])),
            highest_epoch: Level(5),
        };
        assert!(check(&answer(1, 5), pinned).is_ok());
        assert!(matches!(
            check(&answer(2, 6), pinned),
            Err(SessionError::Vault { .. })
        ));
        assert!(matches!(
            check(&answer(1, 4), pinned),
            Err(SessionError::OldEpoch { .. })
        ));
    }

    #[test]
    fn rounds_without_success_wait_longer_up_to_a_limit() {
        for round in [0, 3, 8, 40, u32::MAX] {
            let limit = BACKOFF_FROM
                .saturating_mul(1 << round.min(16))
                .min(BACKOFF_TO);
            assert!((0..50).all(|_| backoff(round) <= limit));
        }
        let long: Duration = (0..50).map(|_| backoff(20)).sum();
        assert!(BACKOFF_TO < long, "jitter is not always nothing");
    }
}
