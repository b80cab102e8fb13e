//! `everpoint agent`: runs an agent, asks one, and gives it disks or takes them away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use everpoint_agent::{AddDiskError, Agent, StartError};
use everpoint_units::DiskId;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{AgentDisk, AgentStatus, AttachDisk, DetachDisk, StatusRequest};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::config::{self, Where};
use crate::control::{ask, id, not_understood};
use crate::failure::{Code, Failure};
use crate::metrics;
use crate::output::{self, Table};
use crate::signals::Signals;

/// Longest wait for a sync: longer than any that is worth waiting for at a prompt.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How often an agent is asked that is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What is asked of an agent.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an agent until SIGTERM or SIGINT, then drain and end.
    Run(Run),
    /// Show where each protected disk stands.
    Status(Standing),
    /// Protect one more disk, now and after a restart.
    Attach(Attach),
    /// Protect a disk no longer.
    Detach(Detach),
}

/// How an agent is run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Whose disks.
#[derive(Debug, Args)]
pub(crate) struct Standing {
    #[command(flatten)]
    which: Where,
    /// Wait so long until the agent answers and all of its disks, one at least, are protected. Default: do not
    /// wait.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX.as_secs()))]
    wait: Option<u64>,
}

/// Which disk is protected.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    which: Where,
    /// The disk's name, and that of its export. 1 to 255 bytes.
    #[arg(long)]
    name: String,
    /// What holds its bytes: a path of a file or block device, nbd://… or nbd+unix://….
    #[arg(long, value_name = "PATH|ADDRESS")]
    source: String,
    /// The disk's id. Default: a new random one.
    #[arg(long, value_name = "ID")]
    disk: Option<DiskId>,
    /// Its block size in bytes. Default: the source's own.
    #[arg(long, value_name = "512|4096", value_parser = ["512", "4096"])]
    block_size: Option<String>,
}

/// Which disk is let go.
#[derive(Debug, Args)]
pub(crate) struct Detach {
    #[command(flatten)]
    which: Where,
    /// The disk's id.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
    /// Also record that the disk ends here: points of its machine no longer need it.
    #[arg(long)]
    end: bool,
}

/// How a run ended.
#[derive(Debug, Serialize)]
struct RunEnded {
    /// Disks that go on at the next start where they stood.
    clean: Vec<String>,
    /// Disks that were drained, and are compared at the next start: their source proves nothing.
    unproven: Vec<String>,
    /// Disks that were not drained, and are compared at the next start.
    undrained: Vec<String>,
}

/// Does what is asked.
///
/// # Errors
///
/// Why it was not done.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Run(args) => serve(&args.config, json).await,
        Command::Status(args) => status(args, json).await,
        Command::Attach(args) => attach(args, json).await,
        Command::Detach(args) => {
            let request = Request::Detach(DetachDisk {
                disk: Bytes::copy_from_slice(&args.disk.0),
                end: args.end,
            });
            done(&args.which.agent()?, request, args.disk, json).await
        }
    }
}

async fn status(args: &Standing, json: bool) -> Result<(), Failure> {
    let socket = args.which.agent()?;
    let deadline = Instant::now() + Duration::from_secs(args.wait.unwrap_or(0));
    loop {
        let asked = ask(&socket, Request::Status(StatusRequest {})).await;
        let asked = match asked {
            Ok(Answer::AgentStatus(status)) => Ok(Status::of(&status)),
            Ok(_) => return Err(not_understood()),
            Err(failure) => Err(failure),
        };
        let protected = asked.as_ref().is_ok_and(Status::is_protected);
        if !protected && Instant::now() < deadline {
            sleep(ASK_AGAIN).await;
            continue;
        }
        output::print(json, &asked?, Status::lines)?;
        if args.wait.is_some() && !protected {
            return Err(
                Failure::new(Code::Incomplete, "not every disk is protected yet")
                    .help("what is missing stands in the list; wait longer where a sync goes on"),
            );
        }
        return Ok(());
    }
}

async fn attach(args: &Attach, json: bool) -> Result<(), Failure> {
    let disk = args.disk.unwrap_or_else(|| DiskId(rand::random()));
    let block_size = args.block_size.as_deref().map(str::parse);
    let request = Request::Attach(AttachDisk {
        disk: Bytes::copy_from_slice(&disk.0),
        name: args.name.clone(),
        source: args.source.clone(),
        block_size: block_size.and_then(Result::ok).unwrap_or(0),
    });
    done(&args.which.agent()?, request, disk, json).await
}

/// Asks for something about a disk that is done or not.
async fn done(socket: &Path, request: Request, disk: DiskId, json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Done {
        disk: String,
    }
    match ask(socket, request).await? {
        Answer::Done(_) => {
            let done = Done {
                disk: disk.to_string(),
            };
            output::print(json, &done, |done| format!("disk  {}\n", done.disk))
        }
        _ => Err(not_understood()),
    }
}

async fn serve(path: &Path, json: bool) -> Result<(), Failure> {
    let config = config::agent(path)?;
    if let Some(address) = config.metrics_listen {
        metrics::listen(address)?;
    }
    let patience = Duration::from_secs(config.stop_timeout_s);
    let mut signals = Signals::listen()?;
    let started = tokio::select! {
        started = Agent::start(config) => started,
        signal = signals.received() => {
            return Err(Failure::new(Code::Incomplete, format!("{signal} before the agent ran")));
        }
    };
    let agent = started.map_err(|error| not_started(&error, path))?;
    let signal = signals.received().await;
    tracing::info!(signal, "the agent drains");
    let stopped = signals.drain(agent.stop(patience)).await;
    let ids = |disks: &[DiskId]| disks.iter().map(DiskId::to_string).collect();
    let ended = RunEnded {
        clean: ids(&stopped.clean),
        unproven: ids(&stopped.unproven),
        undrained: ids(&stopped.undrained),
    };
    output::print(json, &ended, |_| String::new())?;
    if ended.undrained.is_empty() {
        return Ok(());
    }
    let text = format!("{} disks were not drained in time", ended.undrained.len());
    let help = "they are compared with the server at the next start";
    Err(Failure::new(Code::Incomplete, text).help(help))
}

/// Why an agent did not start. [`Code::Usage`] is for what only another configuration mends: the unit
/// starts the agent again after anything else, until a source that was not there is.
fn not_started(error: &StartError, path: &Path) -> Failure {
    let code = match error {
        StartError::Setting(_)
        | StartError::Credentials(_)
        | StartError::OtherMachine { .. }
        | StartError::NotAnAgent { .. }
        | StartError::ServerName { .. }
        | StartError::Nbd(_)
        | StartError::AppPoints(_)
        | StartError::Disk {
            source: AddDiskError::Setting { .. } | AddDiskError::Export(_),
            ..
        } => Code::Usage,
        StartError::Disk {
            source: source @ AddDiskError::Source(_),
            ..
        } if !source.may_pass() => Code::Usage,
        _ => Code::Failed,
    };
    let failure = Failure::of(code, error).while_doing(path.display());
    match error {
        StartError::AppPoints(error) => failure.help(error.remedy()),
        _ => failure,
    }
}

/// An agent's status, to print.
#[derive(Debug, Serialize)]
struct Status {
    machine: String,
    vault: String,
    server: Option<String>,
    connected: bool,
    last_error: Option<String>,
    epoch: u64,
    seq: u64,
    queue_bytes: u64,
    queue_bytes_max: u64,
    certificate_days: i64,
    disks: Vec<Disk>,
}

#[derive(Debug, Serialize)]
struct Disk {
    disk: String,
    name: String,
    source: String,
    size_bytes: u64,
    block_size: u32,
    state: String,
    resync_reason: Option<String>,
    resync_done_bytes: u64,
    resync_total_bytes: u64,
    resync_count: u64,
    generation: String,
    written_seq: u64,
    sent_block: u64,
    cached_block: u64,
    committed_block: u64,
    queue_bytes: u64,
    unsent_bytes: u64,
    rpo_lag_ms: u64,
    export_uri: String,
}

fn if_any(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Disk {
    fn of(disk: &AgentDisk) -> Self {
        Self {
            disk: id(&disk.disk),
            name: disk.name.clone(),
            source: disk.source.clone(),
            size_bytes: disk.size_bytes,
            block_size: disk.block_size,
            state: disk.state.clone(),
            resync_reason: if_any(&disk.resync_reason),
            resync_done_bytes: disk.resync_done_bytes,
            resync_total_bytes: disk.resync_total_bytes,
            resync_count: disk.resync_count,
            generation: id(&disk.generation),
            written_seq: disk.written_seq,
            sent_block: disk.sent_block,
            cached_block: disk.cached_block,
            committed_block: disk.committed_block,
            queue_bytes: disk.queue_bytes,
            unsent_bytes: disk.unsent_bytes,
            rpo_lag_ms: disk.rpo_lag_ms,
            export_uri: disk.export_uri.clone(),
        }
    }

    /// The state, and how far a sync is.
    fn state(&self) -> String {
        let percent = self.resync_done_bytes.saturating_mul(100);
        match percent.checked_div(self.resync_total_bytes) {
            Some(percent) if matches!(self.state.as_str(), "initial-sync" | "resync") => {
                format!("{} {percent} %", self.state)
            }
            _ => self.state.clone(),
        }
    }
}

impl Status {
    fn of(status: &AgentStatus) -> Self {
        Self {
            machine: id(&status.machine),
            vault: id(&status.vault),
            server: if_any(&status.server),
            connected: status.connected,
            last_error: if_any(&status.last_error),
            epoch: status.epoch,
            seq: status.seq,
            queue_bytes: status.queue_bytes,
            queue_bytes_max: status.queue_bytes_max,
            certificate_days: status.certificate_days,
            disks: status.disks.iter().map(Disk::of).collect(),
        }
    }

    /// Every disk is, and there is one.
    fn is_protected(&self) -> bool {
        let all = self.disks.iter().all(|disk| disk.state == "protected");
        all && !self.disks.is_empty()
    }

    fn lines(&self) -> String {
        let queue = output::bytes(self.queue_bytes);
        let queue_max = output::bytes(self.queue_bytes_max);
        let server = match (&self.server, self.connected) {
            (Some(server), true) => format!("{server}, connected"),
            (Some(server), false) => format!("{server}, not connected"),
            (None, _) => "not connected".to_owned(),
        };
        let mut facts = Table::plain();
        facts.row(["machine", &self.machine]);
        facts.row(["server", &server]);
        facts.row(["epoch", &self.epoch.to_string()]);
        facts.row(["newest change", &format!("seq:{}", self.seq)]);
        facts.row(["queue", &format!("{queue} of {queue_max}")]);
        facts.row([
            "certificate",
            &format!("ends in {} days", self.certificate_days),
        ]);
        if let Some(error) = &self.last_error {
            facts.row(["last error", error]);
        }
        let heading = [
            "disk", "name", "size", "state", "RPO lag", "queue", "resyncs", "export",
        ];
        let mut disks = Table::new(&heading);
        for disk in &self.disks {
            disks.row([
                disk.disk.as_str(),
                &disk.name,
                &output::bytes(disk.size_bytes),
                &disk.state(),
                &format!("{} ms", disk.rpo_lag_ms),
                &output::bytes(disk.queue_bytes),
                &disk.resync_count.to_string(),
                &disk.export_uri,
            ]);
        }
        format!("{}\n{}", facts.render(), disks.render())
    }
}

#[cfg(test)]
mod tests {
    use everpoint_agent::SourceOpenError;

    use super::*;

    /// How an agent ends that finds this wrong with a source.
    fn code_of(source: SourceOpenError) -> Code {
        let error = StartError::Disk {
            name: "data".into(),
            source: source.into(),
        };
        not_started(&error, Path::new("agent.toml")).code()
    }

    #[test]
    fn a_source_that_is_not_there_yet_is_no_fault_of_the_configuration() {
        let path = || PathBuf::from("/dev/later");
        let missing = SourceOpenError::Io {
            path: path(),
            operation: "cannot be found",
            source: std::io::ErrorKind::NotFound.into(),
        };
        assert_eq!(code_of(missing), Code::Failed);
        let busy = SourceOpenError::InUse { path: path() };
        assert_eq!(code_of(busy), Code::Failed);
        let forbidden = SourceOpenError::Io {
            path: path(),
            operation: "cannot be opened",
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(code_of(forbidden), Code::NotAuthorised);
        let unfit = SourceOpenError::Kind { path: path() };
        assert_eq!(code_of(unfit), Code::Usage);
        let read_only = SourceOpenError::ReadOnly {
            source_name: "nbd://ps1/data".into(),
        };
        assert_eq!(code_of(read_only), Code::Usage);
    }

    #[test]
    fn a_sync_says_how_far_it_is() {
        let disk = AgentDisk {
            state: "resync".into(),
            resync_done_bytes: 50,
            resync_total_bytes: 200,
            ..AgentDisk::default()
        };
        assert_eq!(Disk::of(&disk).state(), "resync 25 %");
        let disk = AgentDisk {
            state: "protected".into(),
            ..disk
        };
        assert_eq!(Disk::of(&disk).state(), "protected");
    }

    #[test]
    fn an_agent_without_a_server_says_so_and_prints_every_disk() {
        let status = AgentStatus {
            last_error: "ps1:7411: no link\u{1b}[31m".into(),
            disks: vec![AgentDisk {
                name: "data".into(),
                state: "disconnected".into(),
                ..AgentDisk::default()
            }],
            ..AgentStatus::default()
        };
        let lines = Status::of(&status).lines();
        assert!(lines.contains("server         not connected"), "{lines}");
        assert!(
            lines.contains("data") && lines.contains("disconnected"),
            "{lines}"
        );
        assert!(!lines.contains('\u{1b}'), "{lines}");
    }
}
