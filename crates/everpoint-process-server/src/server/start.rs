//! Starting: who this server is, a journal of its own, what earlier boots left behind.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use everpoint_cache_log::{CacheLog, CacheLogConfig, LogOwner, Recovered};
use everpoint_format::change::{ChangeBlock, ENCODED_LEN_MAX};
use everpoint_format::digest::DigestKey;
use everpoint_format::name;
use everpoint_format::vault::VaultHeader;
use everpoint_journal::commit::CommitLimits;
use everpoint_journal::path::gapless_run;
use everpoint_journal::sealing::SealOrder;
use everpoint_transport::control::{ControlBindError, ControlSocket};
use everpoint_transport::pki::{CredentialPaths, Credentials, LoadError};
use everpoint_transport::{BindError, ByteBudget, Identity, Listener, ServerTransportConfig};
use everpoint_units::{ByteLen, JournalId, MachineId, ServerId, VaultId};
use everpoint_vault::history::{self, HistoryError, list_journal, list_journals, seal_journal};
use everpoint_vault::{ObjectName, OpenOptions, SettleError, Vault, VaultUrl};
use everpoint_wire::CONTROL_LEN_MAX;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{ProcessServer, accept, set_gauges};
use crate::blocking::blocking;
use crate::boot_core::{BootCore, BootStep};
use crate::clock::{Clock, wall_time};
use crate::commit_task::CommitTask;
use crate::config::{ProcessServerConfig, SettingError};
use crate::control::{self, Facts};
use crate::log_task;
use crate::machine_task::Request;
use crate::ownership::NotOwned;
use crate::replicas::{ReplicaError, Replicas};
use crate::shared::Shared;
use crate::state::{ServerState, StateError};
use crate::tail_core::TailCore;

/// Blocks on their way from machines to the log, at most.
const LOG_ITEMS_MAX: usize = 64;
/// How long an agent may leave what it is sent unread. It has nothing else to do with it.
const SEND_STALL_MAX: Duration = Duration::from_secs(60);
/// Commands for the commit that wait, at most.
const COMMANDS_MAX: usize = 16;

/// Why a process server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("vault: {text:?} is not a vault's address")]
    VaultUrl {
        text: String,
        source: everpoint_vault::ParseVaultUrlError,
    },
    #[error("tls")]
    Tls(#[from] LoadError),
    #[error(
        "tls.cert: the certificate names {identity}, not a server; use `everpoint pki issue server`"
    )]
    NotAServer { identity: Identity },
    #[error("server: the configuration says {wanted}, the certificate {found}")]
    OtherServer { wanted: ServerId, found: ServerId },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the vault cannot be opened")]
    Vault(#[from] everpoint_vault::OpenError),
    #[error("the vault's history cannot be read")]
    History(#[from] HistoryError),
    #[error("the last objects of an earlier boot cannot be settled")]
    Settle(#[from] SettleError),
    #[error("cache_log: cannot be opened")]
    Log(#[from] everpoint_cache_log::OpenError),
    #[error("cache_log: what an earlier boot cached cannot be read")]
    LogRead(#[from] everpoint_cache_log::ReadError),
    #[error(
        "machine {machine}: what an earlier boot cached of it cannot be taken up now; nothing is lost, \
         start again once the cause is gone"
    )]
    TakeUp {
        machine: MachineId,
        #[source]
        why: Box<dyn Error + Send + Sync>,
    },
    #[error("cache_log: a block of an earlier boot does not decode")]
    Block(#[from] everpoint_format::DecodeError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error("listen: cannot take agents")]
    Bind(#[from] BindError),
    #[error("listen: the socket has no address")]
    Address(#[source] io::Error),
    #[error(transparent)]
    Control(#[from] ControlBindError),
}

impl ProcessServer {
    /// Starts a server. When this returns, agents can connect.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing was promised to anybody.
    pub async fn start(config: ProcessServerConfig) -> Result<Self, StartError> {
        config.check()?;
        let credentials = load_credentials(&config)?;
        let Identity::Server(id) = credentials.identity() else {
            return Err(StartError::NotAServer {
                identity: credentials.identity(),
            });
        };
        if let Some(wanted) = config
            .server
            .map(|text| text.0)
            .filter(|wanted| *wanted != id)
        {
            return Err(StartError::OtherServer { wanted, found: id });
        }
        let mut state = ServerState::open(&config.state_dir, Some(id), id)?;
        let (vault, header) = open_vault(&config).await?;
        let begun = begin(&config, &vault, &header, &mut state).await?;
        let Begun {
            journal,
            log,
            recovered,
        } = begun;

        let parts = config.memory_parts();
        let budgets = [parts.ingest, parts.commit, parts.compare].map(ByteBudget::new);
        let clock = Clock::start();
        let replicas = match &config.replica {
            None => None,
            Some(replica) => {
                let staging = config.state_dir.join("replicas");
                let memory = parts.replica;
                Some(Arc::new(Replicas::new(replica, staging, memory, clock)?))
            }
        };
        let expires_at = credentials.expires_at();
        let mut transport = ServerTransportConfig::new(config.listen, credentials);
        transport.tuning.mtu_max = config.mtu_max;
        transport.tuning.pace.send_stall = Some(SEND_STALL_MAX);
        let listener = Listener::bind(transport, budgets[0].clone())?;
        let local_address = listener.local_address().map_err(StartError::Address)?;
        let control = ControlSocket::bind(&config.control_socket, CONTROL_LEN_MAX).await?;

        let (log_items, log_items_rx) = mpsc::channel(LOG_ITEMS_MAX);
        let (commands, commands_rx) = mpsc::channel(COMMANDS_MAX);
        let machines_max = config.machines_max;
        let shared = Arc::new(Shared::new(
            vault,
            header,
            state,
            log,
            budgets,
            clock,
            journal,
            log_items,
            commands,
            machines_max,
            replicas,
        ));
        let tail = take_up(&shared, &recovered).await?;

        let mut tasks = JoinSet::new();
        tasks.spawn(log_task::run(Arc::clone(&shared), log_items_rx));
        let commit = CommitTask::new(Arc::clone(&shared), commit_limits(&config), tail);
        tasks.spawn(commit.run(commands_rx));
        tasks.spawn(set_gauges(Arc::clone(&shared)));
        let facts = Arc::new(Facts {
            vault_url: config.vault.clone(),
            certificate_expires_at: expires_at,
        });
        let for_control = Arc::clone(&shared);
        tasks.spawn(control.serve(move |body| {
            control::answer(Arc::clone(&for_control), Arc::clone(&facts), body)
        }));
        let (stopping, stopping_rx) = watch::channel(false);
        let accepting = tokio::spawn(accept(Arc::clone(&shared), listener, stopping_rx));
        tracing::info!(server = %id, %journal, %local_address, "the process server runs");
        Ok(Self {
            shared,
            local_address,
            stopping,
            accepting,
            tasks,
            drain_timeout: Duration::from_secs(config.drain_timeout_s),
        })
    }
}

fn load_credentials(config: &ProcessServerConfig) -> Result<Credentials, StartError> {
    let paths = CredentialPaths {
        certificate: config.tls.cert.clone(),
        key: config.tls.key.clone(),
        ca: config.tls.ca.clone(),
    };
    let credentials = Credentials::load(&paths, wall_time())?;
    let ahead = everpoint_transport::pki::EXPIRY_WARNING;
    if let Some(expiring) = credentials.warn_if_expiring(wall_time(), ahead) {
        tracing::warn!(expires_at = %expiring.expires_at, "the server's certificate ends soon");
    }
    Ok(credentials)
}

async fn open_vault(config: &ProcessServerConfig) -> Result<(Vault, VaultHeader), StartError> {
    let text = &config.vault;
    let url: VaultUrl = text.parse().map_err(|source| StartError::VaultUrl {
        text: text.clone(),
        source,
    })?;
    let options = if config.create_vault {
        OpenOptions::CREATE
    } else {
        OpenOptions::WRITE
    };
    let vault = Vault::open(&url, &config.store, options).await?;
    let header = if config.create_vault {
        let fresh = VaultHeader {
            vault: VaultId(rand::random()),
            digest_key: DigestKey(rand::random()),
            created_at: wall_time(),
        };
        history::create_header(&vault, &fresh).await?
    } else {
        history::read_header(&vault).await?
    };
    Ok((vault, header))
}

/// What a boot has when it can take up its tail.
struct Begun {
    journal: JournalId,
    log: CacheLog,
    recovered: Recovered,
}

/// Does the steps of a boot, in the core's order, until the tail can be taken up.
async fn begin(
    config: &ProcessServerConfig,
    vault: &Vault,
    header: &VaultHeader,
    state: &mut ServerState,
) -> Result<Begun, StartError> {
    let mut boot = BootCore::new(&state.journals);
    let mut opened = None;
    loop {
        match boot.step() {
            BootStep::ListJournals => {
                let journals = list_journals(vault).await?;
                boot.handle_listed(&journals, rand::random());
                continue;
            }
            BootStep::Note { journal } => state.add(journal)?,
            BootStep::RecoverLog { journal } => {
                opened = Some(open_log(config, header, state, journal)?);
            }
            BootStep::Seal { earlier, successor } => {
                seal_earlier(vault, header.vault, state.server, (earlier, successor)).await?;
            }
            BootStep::Forget { all_but } => state.keep_only(all_but)?,
            BootStep::TakeUp { journal } | BootStep::Serve { journal } => {
                let (log, recovered) = opened.expect("the log is recovered before");
                return Ok(Begun {
                    journal,
                    log,
                    recovered,
                });
            }
        }
        boot.handle_done();
    }
}

fn open_log(
    config: &ProcessServerConfig,
    header: &VaultHeader,
    state: &ServerState,
    journal: JournalId,
) -> Result<(CacheLog, Recovered), StartError> {
    let file_len = ByteLen(config.cache_log.file_bytes);
    let log_config = CacheLogConfig {
        file_len,
        reserve: file_len,
        accepts_damage: config.cache_log.accept_damage,
        ..CacheLogConfig::new(ByteLen(config.cache_log.quota_bytes))
    };
    let owner = LogOwner {
        vault: header.vault,
        server: state.server,
        journal,
    };
    let random = Box::new(rand::random);
    let opened = CacheLog::open(&config.cache_log.dir, &log_config, owner, random)?;
    for damage in &opened.1.damage {
        tracing::error!(%damage, "damage in the cache log was accepted");
    }
    Ok(opened)
}

/// Seals the journal of an earlier boot, naming the new one (R5). Its last object is read from the
/// medium, not from a cache that a crash may have left ahead of it.
async fn seal_earlier(
    vault: &Vault,
    id: VaultId,
    server: ServerId,
    (journal, successor): (JournalId, JournalId),
) -> Result<(), StartError> {
    let last = gapless_run(&list_journal(vault, journal).await?);
    let name = name::journal_object(journal, last);
    let name = ObjectName::new(&name).expect("the format's names are names");
    vault.forget_cached(&name).await?;
    let order = SealOrder {
        vault: id,
        journal,
        successor,
        server,
        assignment: 0,
        now: wall_time(),
    };
    let seal = seal_journal(vault, order).await?;
    if seal.successor != successor {
        tracing::warn!(%journal, successor = %seal.successor, "an earlier journal was taken over");
    }
    Ok(())
}

/// Takes up the tail that earlier boots cached and did not commit: where it continues the path of a
/// machine that this server owns, it is committed again; the rest is discarded (R11).
///
/// # Errors
///
/// When the log cannot be read, or nobody can say now whose a machine is: nothing is discarded then, and
/// the next start takes up the same tail.
async fn take_up(shared: &Arc<Shared>, recovered: &Recovered) -> Result<TailCore, StartError> {
    let mut tail = TailCore::new(recovered.last());
    let Some((first, last)) = recovered.first().zip(recovered.last()) else {
        return Ok(tail);
    };
    let mut reader = recovered.reader().expect("there is a first block");
    let (mut taken, mut discarded) = (0_u64, 0_u64);
    loop {
        let read = move || {
            let record = reader.next_record();
            (reader, record)
        };
        let (came_back, record) = blocking(read).await;
        reader = came_back;
        let Some(record) = record? else { break };
        let block = ChangeBlock::decode(record.payload)?;
        let machine = block.header().machine;
        // Once for the tail: asking again would read the machine's path again for each of its blocks.
        if tail.discards(machine, record.position) {
            discarded += 1;
            continue;
        }
        let goes_on = match shared.registry.machine(shared, machine).await {
            Ok(handle) => {
                let asked = handle.ask(|reply| Request::Recovered { block, reply });
                asked.await.unwrap_or(false)
            }
            Err(why) => {
                let why = match why {
                    NotOwned::NotServed(why) => match tail.handle_refused(machine, why) {
                        Ok(()) => None,
                        Err(why) => Some(why.into()),
                    },
                    why => Some(why),
                };
                if let Some(why) = why {
                    let why = Box::new(why);
                    return Err(StartError::TakeUp { machine, why });
                }
                false
            }
        };
        if goes_on {
            taken += 1;
        } else {
            discarded += 1;
        }
    }
    tracing::info!(
        taken,
        discarded,
        "the cached tail of earlier boots was read"
    );
    let len = recovered.block_len().0;
    shared.backlog.recovered(first, last, len);
    Ok(tail)
}

/// The commit's limits, within what memory allows. The objects under way, the batch, and a block
/// beyond its target always fit the commit's own quarter: otherwise a batch could wait for memory
/// that only its own freezing would free.
fn commit_limits(config: &ProcessServerConfig) -> CommitLimits {
    let commit = &config.commit;
    let objects = commit.in_flight_max + 1;
    let share = config.memory_parts().commit as u64 / objects - ENCODED_LEN_MAX as u64;
    CommitLimits {
        interval: Duration::from_millis(commit.interval_ms),
        object_len_target: commit.object_bytes.min(share),
        in_flight_max: commit.in_flight_max,
    }
}
