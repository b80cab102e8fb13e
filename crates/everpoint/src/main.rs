//! The everpoint command line: parses, calls, prints.
//!
//! One file for each group of commands; what they share lies in `failure` (exit codes, causes, help), `output`
//! (tables, JSON, nothing that steers a terminal), `config`, `control`, `vault`, `blob`, `logging`, `signals`, `size`
//! and `progress`. Nothing here decides anything about data.

mod agent;
mod blob;
mod check;
mod config;
mod control;
mod disk;
mod export;
mod failure;
mod logging;
mod metrics;
mod mount;
mod output;
mod pki;
mod point;
mod progress;
mod quickstart;
mod replica;
mod replica_status;
mod restore;
mod server;
mod signals;
mod size;
mod vault;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Code, Failure};

/// Copies disks, write by write, and brings them back as they were after any completed write.
#[derive(Debug, Parser)]
#[command(name = "everpoint", version, max_term_width = 100)]
struct Cli {
    /// Print one JSON object instead of text.
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Which logs go to stderr, as in `debug` or `info,quinn=warn`
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "FILTER"
    )]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all on this machine: protect a disk, write to it, attack, restore, compare.
    Quickstart(quickstart::Quickstart),
    /// Run a process server, or ask a running one.
    #[command(subcommand)]
    Server(server::Command),
    /// Run an agent on a protected machine, or ask a running one.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Make certificates for agents and servers.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Show the disks of a vault.
    #[command(subcommand)]
    Disk(disk::Command),
    /// Show what can be restored, or mark an instant.
    #[command(subcommand)]
    Point(point::Command),
    /// Restore a disk, or all disks of a machine, as they were.
    Restore(restore::Restore),
    /// Serve a disk as it was over NBD, at once: its bytes are read as they are asked for.
    Mount(mount::Mount),
    /// Check a vault.
    Check(check::Check),
    /// Work with replicas.
    #[command(subcommand)]
    Replica(replica::Command),
    /// Freeze and thaw filesystems for an agent, which starts this by itself.
    #[command(hide = true)]
    Freezer(Freezer),
}

/// Which filesystems.
#[derive(Debug, clap::Args)]
struct Freezer {
    /// Only thaw what another freezer leaves frozen.
    #[arg(long)]
    guard: bool,
    /// The root of a mounted filesystem; once for each.
    #[arg(long = "filesystem", value_name = "DIR", required = true)]
    filesystems: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => Code::Done.exit(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.code().exit()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    logging::start(cli.log.as_deref(), cli.command.log_default())?;
    logging::abort_on_panic();
    if let Command::Freezer(args) = &cli.command {
        // Before there are threads: it is small, and stays in memory.
        everpoint_agent::run_freezer(&args.filesystems, args.guard);
        return Ok(());
    }
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return Err(Failure::new(
            Code::Failed,
            "another crypto provider is installed",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::of(Code::Failed, &error).while_doing("threads"))?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let json = cli.json;
    match &cli.command {
        Command::Quickstart(args) => quickstart::run(args, json).await,
        Command::Server(command) => server::run(command, json).await,
        Command::Agent(command) => agent::run(command, json).await,
        Command::Pki(command) => pki::run(command, json),
        Command::Disk(command) => disk::run(command, json).await,
        Command::Point(command) => point::run(command, json).await,
        Command::Restore(args) => restore::run(args, json).await,
        Command::Mount(args) => mount::run(args, json).await,
        Command::Check(args) => check::run(args, json).await,
        Command::Replica(command) => replica::run(command, json).await,
        Command::Freezer(_) => Ok(()),
    }
}

impl Command {
    /// What is logged unless `--log` says otherwise: what runs for long tells what it does, what is asked
    /// answers, and the quickstart tells its own story.
    const fn log_default(&self) -> &'static str {
        match self {
            Self::Server(server::Command::Run(_)) | Self::Agent(agent::Command::Run(_)) => "info",
            Self::Quickstart(_) => "error",
            _ => "warn",
        }
    }
}
