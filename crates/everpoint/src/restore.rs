//! `everpoint restore`: a disk, or all disks of a machine, as they were, from the vault alone.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};
use everpoint_replica::BlobAddress;
use everpoint_retention::{
    At, BlobRestored, BlobTarget, DamageNote, DiskAt, ImageFormat, Progress, RestoreConfig,
    RestoreRequest, Restored, Subject, restore, restore_to_blob,
};
use everpoint_units::{DiskId, MachineId, Seq, WallTime};
use everpoint_wire::control::StatusRequest;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;

use crate::blob;
use crate::config;
use crate::control::ask;
use crate::failure::{Code, Failure};
use crate::output::{self, Table};
use crate::progress::Bar;
use crate::size::Size;
use crate::vault::VaultArg;

/// Where an agent's configuration is, unless said otherwise.
const AGENT_CONFIG: &str = "/etc/everpoint/agent.toml";

/// What is restored, and where to.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["output", "to", "to_sas"])))]
pub(crate) struct Restore {
    #[command(flatten)]
    vault: VaultArg,
    /// Restore this disk, into a file or a block device, or to Azure.
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
    output: Option<PathBuf>,
    /// The page blob to make of the disk, as a fixed VHD; it must not exist yet.
    #[arg(long, value_name = "az://CONTAINER/BLOB", requires = "disk")]
    to: Option<BlobAddress>,
    /// A file with the URL that `az disk grant-access --access-level Write` gives for a managed disk that was made
    /// with `az disk create --for-upload`.
    #[arg(long, value_name = "FILE", requires = "disk")]
    to_sas: Option<PathBuf>,
    /// Begin with a copy of this replica of the disk, which the service makes, and send only what differs.
    #[arg(long, value_name = "az://CONTAINER/BLOB", requires = "to")]
    from_replica: Option<BlobAddress>,
    /// What an image looks like. Default: raw; in Azure it is always vhd.
    #[arg(long, value_enum)]
    format: Option<Format>,
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
    let config = RestoreConfig {
        memory_max: args.memory.0,
        ..RestoreConfig::default()
    };
    let damage = match (&args.output, args.disk) {
        (Some(output), _) => to_images(args, output, &config, json).await?,
        (None, Some(disk)) => to_azure(args, disk, &config, json).await?,
        (None, None) => return Err(Failure::usage("--to and --to-sas take one --disk")),
    };
    if !damage.is_empty() && may_mean_later(&args.at) {
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

async fn to_images(
    args: &Restore,
    output: &Path,
    config: &RestoreConfig,
    json: bool,
) -> Result<Vec<DamageNote>, Failure> {
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
            None | Some(Format::Raw) => ImageFormat::Raw,
            Some(Format::Vhd) => ImageFormat::Vhd,
        },
        output: output.to_owned(),
        overwrite: args.overwrite,
        force_overwrite: args.force_overwrite.clone(),
        sources: sources(args.agent_config.as_deref()).await?,
    };
    let vault = args.vault.open().await?;
    let bar = Bar::new("restoring");
    let restored = restore(&vault, &request, config, &|progress| bar.show(progress)).await;
    bar.bar.finish_and_clear();
    let restored = restored?;
    output::print(json, &restored, lines)?;
    Ok(restored.damage)
}

async fn to_azure(
    args: &Restore,
    disk: DiskId,
    config: &RestoreConfig,
    json: bool,
) -> Result<Vec<DamageNote>, Failure> {
    if args.overwrite || args.force_overwrite.is_some() {
        return Err(Failure::usage("nothing in Azure is overwritten")
            .help("remove the blob that is there, or choose another name"));
    }
    if matches!(args.format, Some(Format::Raw)) {
        return Err(
            Failure::usage("--format raw: a disk in Azure is made of a VHD").help("leave it out"),
        );
    }
    let store = args.vault.config()?;
    let target = match (&args.to, &args.to_sas) {
        (Some(to), _) => {
            let blob = blob::pages(&store, to)?;
            match &args.from_replica {
                None => BlobTarget::New(blob),
                Some(replica) => BlobTarget::FromReplica {
                    blob,
                    replica: blob::pages(&store, replica)?,
                },
            }
        }
        (None, Some(file)) => BlobTarget::Disk(blob::of_sas_file(&store, file)?),
        (None, None) => return Err(Failure::usage("neither --to nor --to-sas is given")),
    };
    let what = DiskAt {
        disk,
        machine: args.machine,
        at: args.at.clone(),
    };
    let vault = args.vault.open().await?;
    let bar = Bar::new("restoring");
    let show = |progress: &Progress| bar.show(progress);
    let restored = restore_to_blob(&vault, &what, &target, config, &show).await;
    bar.bar.finish_and_clear();
    let restored = restored?;
    output::print(json, &restored, blob_lines)?;
    Ok(restored.damage)
}

/// Whether a damaged history may hide the point that this instant means, behind an older one.
pub(crate) const fn may_mean_later(at: &At) -> bool {
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

fn lines(restored: &Restored) -> String {
    let facts = point_facts(restored.machine, restored.seq, restored.time);
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
    text.push_str(&damage_lines(&restored.damage));
    text
}

fn blob_lines(restored: &BlobRestored) -> String {
    let mut facts = point_facts(restored.machine, restored.seq, restored.time);
    facts.row(["disk", &restored.disk.to_string()]);
    facts.row(["name", &restored.name]);
    facts.row(["size", &output::bytes(restored.size_bytes.0)]);
    facts.row(["VHD", &restored.target]);
    if let Some(changed) = restored.changed_bytes {
        facts.row(["changed", &output::bytes(changed)]);
    }
    facts.row(["put", &output::bytes(restored.put_bytes.0)]);
    facts.row(["cleared", &output::bytes(restored.cleared_bytes.0)]);
    facts.render() + &damage_lines(&restored.damage)
}

/// What is said first, whatever the target.
pub(crate) fn point_facts(machine: MachineId, seq: Seq, time: Option<WallTime>) -> Table {
    let mut facts = Table::plain();
    facts.row(["machine", &machine.to_string()]);
    facts.row(["point", &seq.to_string()]);
    let time = time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    facts.row(["taken at", &time]);
    facts
}

pub(crate) fn damage_lines(damage: &[DamageNote]) -> String {
    let notes = damage.iter().map(|note| {
        let note = format!("damage elsewhere in the history: {}\n", note.what);
        output::escape_lines(&note)
    });
    notes.collect()
}
