//! `everpoint restore`: a disk, or all disks of a machine, as they were, from the vault alone.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::{Args, ValueEnum};
use everpoint_retention::{
    At, ImageFormat, Progress, RestoreConfig, RestoreRequest, Restored, Subject, restore,
};
use everpoint_units::{DiskId, MachineId};
use everpoint_wire::control::StatusRequest;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;

use crate::config;
use crate::control::ask;
use crate::failure::{Code, Failure};
use crate::output::{self, Table};
use crate::progress;
use crate::size::Size;
use crate::vault::VaultArg;

/// Where an agent's configuration is, unless said otherwise.
const AGENT_CONFIG: &str = "/etc/everpoint/agent.toml";

/// What is restored, and where to.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    vault: VaultArg,
    /// Restore this disk, into a file or a block device.
    #[arg(long, value_name = "ID", required_unless_present = "machine")]
    disk: Option<DiskId>,
    /// Restore all disks of this machine, into a directory; with --disk it saves a search through the vault.
    #[arg(long, value_name = "ID")]
    machine: Option<MachineId>,
    /// The instant: latest, latest-app, a bookmark's name, an RFC 3339 time, or seq:N.
    #[arg(long)]
    at: At,
    /// The file, block device or, for a machine, directory to restore into.
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// What an image looks like.
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
    /// Overwrite this block device; the same path as --output, letter by letter.
    #[arg(long, value_name = "DEVICE")]
    force_overwrite: Option<PathBuf>,
    /// Memory for what is read and not yet written.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: Size,
    /// Configuration of the agent on this machine: what it protects is never an output. Default:
    /// /etc/everpoint/agent.toml, where that is there.
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
}

/// What an image looks like.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// Fixed VHD, as Azure takes it.
    Vhd,
}

/// Does it.
///
/// # Errors
///
/// Why nothing was restored, or that something else may be meant than what was.
pub(crate) async fn run(args: &Restore, json: bool) -> Result<(), Failure> {
    let subject = match (args.disk, args.machine) {
        (Some(disk), _) => Subject::Disk(disk),
        (None, Some(machine)) => Subject::Machine(machine),
        (None, None) => return Err(Failure::usage("neither --disk nor --machine is given")),
    };
    let request = RestoreRequest {
        subject,
        machine: args.machine,
        at: args.at.clone(),
        format: match args.format {
            Format::Raw => ImageFormat::Raw,
            Format::Vhd => ImageFormat::Vhd,
        },
        output: args.output.clone(),
        overwrite: args.overwrite,
        force_overwrite: args.force_overwrite.clone(),
        sources: sources(args.agent_config.as_deref()).await?,
    };
    let config = RestoreConfig {
        memory_max: args.memory.0,
        ..RestoreConfig::default()
    };
    let vault = args.vault.open().await?;
    let bar = Bar::new();
    let restored = restore(&vault, &request, &config, &|progress| bar.show(progress)).await;
    bar.bar.finish_and_clear();
    let restored = restored?;
    output::print(json, &restored, lines)?;
    if !restored.damage.is_empty() && may_mean_later(&args.at) {
        let text = format!(
            "what was restored is whole, but the history is damaged: --at {} may mean a later point",
            args.at
        );
        return Err(Failure::new(Code::Integrity, text).help(
            "`everpoint check` says what is damaged; a bookmark's name or seq:N asks for one point and no other",
        ));
    }
    Ok(())
}

/// Whether a damaged history may hide the point that this instant means, behind an older one.
const fn may_mean_later(at: &At) -> bool {
    match at {
        At::Latest | At::LatestApp | At::Time(_) => true,
        At::Seq(_) | At::Bookmark(_) => false,
    }
}

/// What is protected on this machine, as far as its agent's configuration, and the agent itself if it runs,
/// say.
async fn sources(given: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let path = given.unwrap_or(Path::new(AGENT_CONFIG));
    if given.is_none() && !path.exists() {
        return Ok(Vec::new());
    }
    let config = config::agent(path)?;
    let mut sources: Vec<PathBuf> = config
        .disks
        .iter()
        .map(|disk| (&disk.source).into())
        .collect();
    let request = Request::Status(StatusRequest {});
    if let Ok(Answer::AgentStatus(status)) = ask(&config.control_socket, request).await {
        sources.extend(status.disks.iter().map(|disk| PathBuf::from(&disk.source)));
    }
    // Other machines' exports are no outputs.
    sources.retain(|source| source.is_absolute());
    Ok(sources)
}

/// One bar for each disk, one after the other.
struct Bar {
    bar: indicatif::ProgressBar,
    disk_index: Mutex<usize>,
}

impl Bar {
    fn new() -> Self {
        Self {
            bar: progress::bytes("reading the history"),
            disk_index: Mutex::new(0),
        }
    }

    fn show(&self, progress: &Progress) {
        let mut index = self
            .disk_index
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *index != progress.disk_index {
            *index = progress.disk_index;
            self.bar.reset();
        }
        let (what, at, of) = if progress.total.0 == 0 {
            let (done, all) = (progress.planned_count, progress.plan_count);
            ("planning", done as u64, all as u64)
        } else {
            ("restoring", progress.done.0, progress.total.0)
        };
        let disk = progress.disk_index + 1;
        self.bar
            .set_prefix(format!("{what} disk {disk} of {}", progress.disk_count));
        self.bar.set_length(of);
        self.bar.set_position(at);
    }
}

fn lines(restored: &Restored) -> String {
    let mut facts = Table::plain();
    facts.row(["machine", &restored.machine.to_string()]);
    facts.row(["point", &restored.seq.to_string()]);
    let time = restored
        .time
        .map_or_else(|| "-".to_owned(), |time| time.to_string());
    facts.row(["taken at", &time]);
    let mut disks = Table::new(&["disk", "name", "size", "data", "image"]);
    for disk in &restored.disks {
        disks.row([
            &disk.disk.to_string(),
            &disk.name,
            &output::bytes(disk.size_bytes.0),
            &output::bytes(disk.data_bytes.0),
            &disk.path.display().to_string(),
        ]);
    }
    let mut text = format!("{}\n{}", facts.render(), disks.render());
    for note in &restored.damage {
        let note = format!("damage elsewhere in the history: {}\n", note.what);
        text.push_str(&output::escape_lines(&note));
    }
    text
}
