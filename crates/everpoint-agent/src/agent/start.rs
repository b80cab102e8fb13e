//! How an agent begins: what is durable first, what is seen from outside last.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock};

use everpoint_capture::{OrderLimits, Reservation, WriteOrder};
use everpoint_format::record::Consistency;
use everpoint_nbd::{Server as NbdServer, ServerConfig as NbdServerConfig};
use everpoint_transport::control::ControlSocket;
use everpoint_transport::{ByteBudget, ExpectedServer, Identity};
use everpoint_units::{ByteLen, MachineId};
use everpoint_wire::{CONTROL_LEN_MAX, DISKS_MAX};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::{Agent, Inner};
use crate::app_point::AppPoints;
use crate::blocking::outcome;
use crate::config::{AgentConfig, DiskConfig};
use crate::control;
use crate::disk_table::DiskTable;
use crate::error::StartError;
use crate::machine::Machine;
use crate::meter_task;
use crate::packer_task::{self, PackRoutes};
use crate::point_task;
use crate::reserve_task;
use crate::session_task::{SessionReport, SessionShared, SessionTask, load_credentials};
use crate::state::{CleanDisk, StateDir};

/// The transport's share of the memory budget: one endpoint, one link, answers. Unit: bytes.
const TRANSPORT_BYTES: usize = 24 << 20;
/// Left for blocks that are being packed. Unit: bytes.
const PACKING_BYTES: u64 = 24 << 20;
/// Longest request of a guest. Unit: bytes. The largest that NBD clients send.
const PAYLOAD_LEN_MAX: u32 = 32 << 20;

impl Agent {
    /// Starts an agent. When this returns, guests can connect; the server need not be reachable.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing runs then.
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        config.check()?;
        let guest = guest_runtime(&config)?;
        let background = background_runtime(&config)?;
        let mut agent = Starting {
            guest: Some(guest),
            background: Some(background),
        };
        let inner = agent.inner(config).await?;
        Ok(Self {
            inner,
            guest: agent.guest.take(),
            background: agent.background.take(),
        })
    }
}

/// Threads that end at once if the start fails.
struct Starting {
    guest: Option<Runtime>,
    background: Option<Runtime>,
}

impl Starting {
    async fn inner(&self, config: AgentConfig) -> Result<Arc<Inner>, StartError> {
        let (guest, background) = self
            .guest
            .as_ref()
            .zip(self.background.as_ref())
            .expect("made");
        let (guest, background) = (guest.handle().clone(), background.handle().clone());
        let on = background.clone();
        let started = on.spawn(async move { Inner::start(config, guest, background).await });
        match started.await {
            Ok(inner) => inner,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        for runtime in [self.guest.take(), self.background.take()]
            .into_iter()
            .flatten()
        {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    async fn start(
        config: AgentConfig,
        guest: tokio::runtime::Handle,
        background: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, StartError> {
        let credentials = load_credentials(&config.tls).await;
        let credentials = credentials.map_err(StartError::Credentials)?;
        let id = machine_of(&config, credentials.identity())?;
        check_names(&config)?;
        let app_points = AppPoints::start(&config).await;
        let app_points = app_points.map_err(StartError::AppPoints)?;
        let state = Arc::new(StateDir::open(&config.state_dir)?);
        let remembered = state.session()?;
        let machine = Arc::new(Machine::new(id, begin_order(&config, &state)?));
        let clean = state.clean(id)?;
        let nbd = NbdServer::new(nbd_config(&config))?;
        let report = SessionReport {
            epoch: remembered.highest_epoch,
            vault: remembered.vault,
            certificate_expires_at: credentials.expires_at(),
            ..SessionReport::default()
        };
        let inner = Arc::new(Self {
            config: Arc::new(config),
            machine,
            state,
            nbd,
            tcp: OnceLock::new(),
            disks: Arc::new(DiskTable::default()),
            routes: Arc::new(PackRoutes::default()),
            sessions: watch::Sender::new(None),
            session: Arc::new(SessionShared {
                report: watch::Sender::new(report),
                restart: Notify::new(),
                announced: AtomicU32::new(0),
            }),
            app_points,
            changing: tokio::sync::Mutex::default(),
            guest,
            background,
            tasks: Mutex::new(JoinSet::new()),
        });
        inner.add_known_disks(&clean).await?;
        let control = ControlSocket::bind(&inner.config.control_socket, CONTROL_LEN_MAX).await?;
        // From here on guests write.
        inner.state.forget_clean()?;
        inner.listen().await?;
        inner.spawn_tasks(control);
        tracing::info!(machine = %id, disks = inner.disks.all().len(), "agent started");
        Ok(inner)
    }

    /// Protects the disks of the configuration and those that were attached to an earlier process.
    async fn add_known_disks(self: &Arc<Self>, clean: &[CleanDisk]) -> Result<(), StartError> {
        let changes = self.state.disks()?;
        let detached = |disk: &&DiskConfig| changes.detached.contains(&disk.id);
        for disk in self.config.disks.iter().filter(detached) {
            tracing::warn!(disk = %disk.id.0, name = disk.name, "configured, but it was detached: attach it, or remove it from the configuration");
        }
        let configured = self.config.disks.iter().filter(|disk| !detached(disk));
        let known: Vec<&DiskConfig> = configured.chain(&changes.attached).collect();
        for (index, disk) in known.iter().enumerate() {
            // A disk that is in both places counts once, as configured.
            if known[..index].iter().any(|earlier| earlier.id == disk.id) {
                continue;
            }
            let clean = clean.iter().find(|clean| clean.disk == disk.id.0);
            let added = self.add_disk((*disk).clone(), clean).await;
            added.map_err(|source| StartError::Disk {
                name: disk.name.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Lets guests in.
    async fn listen(self: &Arc<Self>) -> Result<(), StartError> {
        if let Some(path) = &self.config.nbd.unix {
            let _guest = self.guest.enter();
            self.nbd.listen_unix(path)?;
        }
        if let Some(address) = self.config.nbd.tcp {
            let nbd = self.nbd.clone();
            let listening = self
                .guest
                .spawn(async move { nbd.listen_tcp(address).await });
            let bound = outcome(listening.await).await?;
            self.tcp.get_or_init(|| bound);
        }
        Ok(())
    }

    fn spawn_tasks(self: &Arc<Self>, control: ControlSocket) {
        let session = SessionTask {
            config: Arc::clone(&self.config),
            machine: Arc::clone(&self.machine),
            state: Arc::clone(&self.state),
            disks: Arc::clone(&self.disks),
            budget: ByteBudget::new(TRANSPORT_BYTES),
            sessions: self.sessions.clone(),
            shared: Arc::clone(&self.session),
        };
        let machine = || Arc::clone(&self.machine);
        self.spawn(packer_task::run(machine(), Arc::clone(&self.routes)));
        self.spawn(reserve_task::run(machine(), Arc::clone(&self.state)));
        self.spawn(session.run());
        // Weak, so that the tasks that the agent owns do not keep it alive.
        self.spawn(meter_task::run(Arc::downgrade(self)));
        for class in [Consistency::Crash, Consistency::App] {
            self.spawn(point_task::run(Arc::downgrade(self), class));
        }
        self.spawn(control::serve(Arc::downgrade(self), control));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self
            .tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.spawn_on(task, &self.background);
    }
}

/// The machine that the certificate names, if that is the configured one.
fn machine_of(config: &AgentConfig, found: Identity) -> Result<MachineId, StartError> {
    let Identity::Agent(machine) = found else {
        return Err(StartError::NotAnAgent { found });
    };
    match config.machine {
        Some(wanted) if wanted.0 != machine => Err(StartError::OtherMachine {
            found,
            wanted: wanted.0,
        }),
        _ => Ok(machine),
    }
}

fn check_names(config: &AgentConfig) -> Result<(), StartError> {
    for (index, server) in config.servers.iter().enumerate() {
        let name = server.name.as_deref().or(server.host()).unwrap_or_default();
        ExpectedServer::named(name).map_err(|source| StartError::ServerName { index, source })?;
    }
    Ok(())
}

/// The machine's order, above every `Seq` that an earlier process may have used. The mark is durable
/// when this returns.
fn begin_order(config: &AgentConfig, state: &StateDir) -> Result<WriteOrder, StartError> {
    let used_until = state.reserved_until()?;
    let until = Reservation::mark_after(used_until).expect("TOML's integers end at 2^63");
    state.reserve(until)?;
    let limits = OrderLimits {
        queue_bytes_max: config.queue_bytes_max,
        ..OrderLimits::default()
    };
    Ok(WriteOrder::new(limits, Reservation::new(used_until, until)))
}

fn nbd_config(config: &AgentConfig) -> NbdServerConfig {
    let beside = config.memory_bytes_max - config.queue_bytes_max;
    let payload = beside - PACKING_BYTES - TRANSPORT_BYTES as u64;
    let defaults = NbdServerConfig::default();
    NbdServerConfig {
        export_count_max: DISKS_MAX,
        payload_len_max: PAYLOAD_LEN_MAX,
        connection_bytes_max: ByteLen(payload.min(defaults.connection_bytes_max.0)),
        server_bytes_max: ByteLen(payload),
        ..defaults
    }
}

fn guest_runtime(config: &AgentConfig) -> Result<Runtime, StartError> {
    Builder::new_multi_thread()
        .worker_threads(config.nbd.guest_threads)
        .thread_name("everpoint-guest")
        .enable_all()
        .build()
        .map_err(StartError::Threads)
}

fn background_runtime(config: &AgentConfig) -> Result<Runtime, StartError> {
    // Said in full and not added to what there is: a new thread begins with that of the one that
    // begins it.
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let nice = (own + config.background_nice).min(19);
    Builder::new_multi_thread()
        .thread_name("everpoint-agent")
        .enable_all()
        .on_thread_start(move || {
            // On Linux the nice value is the thread's own. Without it everything works, less kindly.
            if let Err(error) = rustix::process::setpriority_process(None, nice) {
                tracing::debug!(%error, "the background keeps its priority");
            }
        })
        .build()
        .map_err(StartError::Threads)
}
