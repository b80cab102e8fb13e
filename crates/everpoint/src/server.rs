//! `everpoint server`: runs a process server, retention or both, asks one, and takes another's machines over.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use everpoint_process_server::{Ended, ProcessServer, StartError, Stopped};
use everpoint_retention::run_retention;
use everpoint_units::{JournalId, ServerId};
use everpoint_vault::history::HistoryError;
use everpoint_vault::{Cause, OpenError};
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{ServerStatus, StatusRequest, TakeOver, TakenOver};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{self, Roles, Where};
use crate::control::{ask, id, not_understood};
use crate::failure::{Code, Failure};
use crate::metrics;
use crate::output::{self, Table};
use crate::replica_status::{self, Replica};
use crate::signals::Signals;

/// What is asked of a server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the roles of a configuration file (process server, retention) until SIGTERM or SIGINT, then drain and end.
    Run(Run),
    /// Show how a running server is, and how far each disk is.
    Status(Where),
    /// Seal the journals of a server that is gone: its machines belong to the running one from then on.
    TakeOver(TakeOverArgs),
}

/// How a server is run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Whose machines are taken over, and by whom.
#[derive(Debug, Args)]
pub(crate) struct TakeOverArgs {
    #[command(flatten)]
    which: Where,
    #[command(flatten)]
    whose: Whose,
}

/// Whose journals are sealed.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// All open journals in which this server wrote.
    #[arg(long, value_name = "ID")]
    server: Option<ServerId>,
    /// This journal, also when nothing was ever written in it.
    #[arg(long, value_name = "JOURNAL")]
    journal: Option<JournalId>,
}

/// How a run ended.
#[derive(Debug, Serialize)]
struct RunEnded {
    /// `drained` or `left-in-log`.
    stopped: &'static str,
}

/// Does what is asked.
///
/// # Errors
///
/// Why it was not done.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Run(args) => serve(args, json).await,
        Command::Status(which) => {
            let request = Request::Status(StatusRequest {});
            match ask(&which.server()?, request).await? {
                Answer::ServerStatus(status) => {
                    output::print(json, &Status::of(&status), Status::lines)
                }
                _ => Err(not_understood()),
            }
        }
        Command::TakeOver(args) => {
            let server = args
                .whose
                .server
                .map_or(Bytes::new(), |id| Bytes::copy_from_slice(&id.0));
            let journal = args.whose.journal.map(|journal| journal.to_string());
            let request = Request::TakeOver(TakeOver {
                server,
                journal: journal.unwrap_or_default(),
            });
            match ask(&args.which.server()?, request).await? {
                Answer::TakenOver(taken) => output::print(json, &Taken::of(taken), Taken::lines),
                _ => Err(not_understood()),
            }
        }
    }
}

async fn serve(args: &Run, json: bool) -> Result<(), Failure> {
    let Roles { process, retention } = config::server(&args.config)?;
    let of_process = process.as_ref().and_then(|config| config.metrics_listen);
    let of_retention = retention.as_ref().and_then(|config| config.metrics_listen);
    if let Some(address) = of_process.or(of_retention) {
        metrics::listen(address)?;
    }
    let mut signals = Signals::listen()?;
    let started = async {
        match process {
            None => Ok(None),
            Some(config) => ProcessServer::start(config).await.map(Some),
        }
    };
    let started = tokio::select! {
        started = started => started,
        signal = signals.received() => {
            return Err(Failure::new(Code::Incomplete, format!("{signal} before the server ran")));
        }
    };
    let server = started.map_err(|error| not_started(&error, &args.config))?;
    // Behind the process server, which may have been told to begin the vault.
    let retention =
        retention.map(|config| AbortOnDropHandle::new(tokio::spawn(run_retention(config))));
    let ended_by_itself = async {
        match &server {
            Some(server) => server.ended().await,
            None => std::future::pending().await,
        }
    };
    let signal = tokio::select! {
        why = ended_by_itself => return Err(ended(&why)),
        signal = signals.received() => signal,
    };
    drop(retention);
    tracing::info!(signal, "the server drains");
    let stopped = match server {
        Some(server) => signals.drain(server.stop()).await,
        None => Stopped::Drained,
    };
    match stopped {
        Stopped::Drained => {
            let ended = RunEnded { stopped: "drained" };
            output::print(json, &ended, |_| String::new())
        }
        Stopped::LeftInLog => {
            let ended = RunEnded {
                stopped: "left-in-log",
            };
            output::print(json, &ended, |_| String::new())?;
            Err(
                Failure::new(Code::Incomplete, "something is cached and not committed")
                    .help("it is safe in the cache log: the next start commits it"),
            )
        }
    }
}

fn not_started(error: &StartError, config: &std::path::Path) -> Failure {
    use everpoint_cache_log::OpenError as Log;
    let code = match error {
        StartError::Setting(_)
        | StartError::VaultUrl { .. }
        | StartError::Tls(_)
        | StartError::NotAServer { .. }
        | StartError::OtherServer { .. }
        | StartError::Log(Log::Setting { .. } | Log::NotPrivate { .. })
        | StartError::Vault(
            OpenError::Access(_)
            | OpenError::Config(_)
            | OpenError::Missing { .. }
            | OpenError::NotADirectory { .. }
            | OpenError::NetworkFilesystem { .. }
            | OpenError::Unavailable {
                source: Cause::NoContainer { .. },
            },
        ) => Code::Usage,
        StartError::Vault(error) if error.is_denied() => Code::NotAuthorised,
        StartError::Log(Log::Damaged(_) | Log::Unreadable { .. })
        | StartError::LogRead(_)
        | StartError::Block(_) => Code::Integrity,
        StartError::History(HistoryError::NotAVault { .. }) => Code::Usage,
        StartError::History(HistoryError::Header { .. } | HistoryError::End { .. }) => {
            Code::Integrity
        }
        _ => Code::Failed,
    };
    let failure = Failure::of(code, error).while_doing(config.display());
    match error {
        StartError::Vault(OpenError::Missing { .. }) => {
            failure.help("mount it, or set create_vault = true to begin a new vault")
        }
        StartError::Log(Log::Damaged(_)) => failure.help(
            "keep a copy of cache_log.dir; cache_log.accept_damage = true goes on without what is missing",
        ),
        _ => failure,
    }
}

fn ended(why: &Ended) -> Failure {
    let code = match why {
        Ended::LogRead(_) | Ended::Block(_) => Code::Integrity,
        _ => Code::Failed,
    };
    Failure::of(code, why).while_doing("the process server ended")
}

/// A server's status, to print.
#[derive(Debug, Serialize)]
struct Status {
    server: String,
    vault: String,
    vault_url: String,
    journal: String,
    state: String,
    last_object: u64,
    log_bytes: u64,
    log_quota_bytes: u64,
    memory_bytes: u64,
    memory_bytes_max: u64,
    uncommitted_bytes: u64,
    oldest_uncommitted_ms: u64,
    certificate_days: i64,
    last_error: Option<String>,
    machines: Vec<Machine>,
}

#[derive(Debug, Serialize)]
struct Machine {
    machine: String,
    connected: bool,
    committed_cut: u64,
    disks: Vec<Disk>,
}

#[derive(Debug, Serialize)]
struct Disk {
    disk: String,
    name: String,
    size_bytes: u64,
    level: bool,
    generation: String,
    cached_block: u64,
    committed_block: u64,
    complete_through: u64,
    replica: Option<Replica>,
}

impl Status {
    fn of(status: &ServerStatus) -> Self {
        let machines = status.machines.iter().map(|machine| Machine {
            machine: id(&machine.machine),
            connected: machine.connected,
            committed_cut: machine.committed_cut,
            disks: machine
                .disks
                .iter()
                .map(|disk| Disk {
                    disk: id(&disk.disk),
                    name: disk.name.clone(),
                    size_bytes: disk.size_bytes,
                    level: disk.level,
                    generation: id(&disk.generation),
                    cached_block: disk.cached_block,
                    committed_block: disk.committed_block,
                    complete_through: disk.complete_through,
                    replica: disk.replica.as_ref().map(Replica::of),
                })
                .collect(),
        });
        let last_error = Some(status.last_error.clone());
        Self {
            server: id(&status.server),
            vault: id(&status.vault),
            vault_url: status.vault_url.clone(),
            journal: status.journal.clone(),
            state: status.state.clone(),
            last_object: status.last_object,
            log_bytes: status.log_bytes,
            log_quota_bytes: status.log_quota_bytes,
            memory_bytes: status.memory_bytes,
            memory_bytes_max: status.memory_bytes_max,
            uncommitted_bytes: status.uncommitted_bytes,
            oldest_uncommitted_ms: status.oldest_uncommitted_ms,
            certificate_days: status.certificate_days,
            last_error: last_error.filter(|error| !error.is_empty()),
            machines: machines.collect(),
        }
    }

    fn lines(&self) -> String {
        let of = |used, all| format!("{} of {}", output::bytes(used), output::bytes(all));
        let mut facts = Table::plain();
        facts.row(["server", &self.server]);
        facts.row(["state", &self.state]);
        facts.row(["vault", &self.vault_url]);
        facts.row([
            "journal",
            &format!("{}, object {}", self.journal, self.last_object),
        ]);
        facts.row(["cache log", &of(self.log_bytes, self.log_quota_bytes)]);
        facts.row(["memory", &of(self.memory_bytes, self.memory_bytes_max)]);
        let oldest = format!(
            "{}, the oldest for {} ms",
            output::bytes(self.uncommitted_bytes),
            self.oldest_uncommitted_ms
        );
        facts.row(["not committed", &oldest]);
        facts.row([
            "certificate",
            &format!("ends in {} days", self.certificate_days),
        ]);
        if let Some(error) = &self.last_error {
            facts.row(["last error", error]);
        }
        let mut disks = Table::new(&[
            "machine",
            "agent",
            "disk",
            "name",
            "size",
            "state",
            "cached",
            "committed",
            "complete through",
        ]);
        for machine in &self.machines {
            for disk in &machine.disks {
                disks.row([
                    machine.machine.as_str(),
                    if machine.connected {
                        "connected"
                    } else {
                        "away"
                    },
                    &disk.disk,
                    &disk.name,
                    &output::bytes(disk.size_bytes),
                    if disk.level { "level" } else { "syncing" },
                    &disk.cached_block.to_string(),
                    &disk.committed_block.to_string(),
                    &format!("seq:{}", disk.complete_through),
                ]);
            }
        }
        let mut text = format!("{}\n{}", facts.render(), disks.render());
        let disks = self.machines.iter().flat_map(|machine| &machine.disks);
        let replicas: Vec<_> = disks
            .filter_map(|disk| Some((disk.disk.as_str(), disk.replica.as_ref()?)))
            .collect();
        if !replicas.is_empty() {
            text.push('\n');
            text.push_str(&replica_status::table(&replicas));
        }
        text
    }
}

/// What was taken over, to print.
#[derive(Debug, Serialize)]
struct Taken {
    journals: Vec<Sealed>,
}

#[derive(Debug, Serialize)]
struct Sealed {
    journal: String,
    successor: String,
}

impl Taken {
    fn of(taken: TakenOver) -> Self {
        let journals = taken.journals.into_iter().map(|sealed| Sealed {
            journal: sealed.journal,
            successor: sealed.successor,
        });
        Self {
            journals: journals.collect(),
        }
    }

    fn lines(&self) -> String {
        let mut table = Table::new(&["sealed", "goes on in"]);
        for sealed in &self.journals {
            table.row([&sealed.journal, &sealed.successor]);
        }
        table.render()
    }
}
