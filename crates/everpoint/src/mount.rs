//! `everpoint mount`: a disk as it was, served over NBD or as a file at once, while its bytes are still in the vault.

mod door;

use std::path::PathBuf;

use clap::Args;
use everpoint_retention::{
    At, DamageNote, DiskAt, MountConfig, MountError, MountedPoint, Overlay, OverlayPlace,
    mount_point,
};
use everpoint_units::{DiskId, MachineId};
use serde::Serialize;

use self::door::{Door, Doorway};
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::Bar;
use crate::restore::{damage_lines, may_mean_later, point_facts};
use crate::signals::Signals;
use crate::size::Size;
use crate::vault::VaultArg;

/// Which disk, and where it is served.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    #[command(flatten)]
    vault: VaultArg,
    /// Serve this disk.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
    /// Its machine; saves a search through the vault.
    #[arg(long, value_name = "ID")]
    machine: Option<MachineId>,
    /// The instant: latest, latest-app, a bookmark's name, an RFC 3339 time, or seq:N.
    #[arg(long)]
    at: At,
    /// The unix socket to serve on; whoever may open it may read the disk.
    #[arg(long, value_name = "PATH", required_unless_present = "fuse")]
    socket: Option<PathBuf>,
    /// Show it as a file in this empty directory instead, for the user who runs this.
    #[arg(long, value_name = "DIR", conflicts_with = "socket")]
    fuse: Option<PathBuf>,
    /// Take writes too, into a file of this machine. They end with the mount, and never reach the vault.
    #[arg(long)]
    writable: bool,
    /// The directory of that file. Default: the system's temporary one.
    #[arg(long, value_name = "DIR", requires = "writable")]
    overlay: Option<PathBuf>,
    /// Keep that file, and a list of the sectors that it holds.
    #[arg(long, requires = "overlay")]
    keep_overlay: bool,
    /// Memory for what was read from the vault.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: Size,
}

/// What is said once it is served.
#[derive(Debug, Serialize)]
struct Mounted {
    machine: String,
    disk: String,
    name: String,
    seq: u64,
    time: Option<String>,
    size_bytes: u64,
    /// Where clients connect, with `--socket`.
    uri: Option<String>,
    /// The file, with `--fuse`.
    file: Option<String>,
    writable: bool,
    /// Where what is written stays.
    overlay: Option<String>,
    damage: Vec<DamageNote>,
}

/// Serves it until a signal comes, or until the file is unmounted.
///
/// # Errors
///
/// Why it is not served, or that something else may be meant than what was.
pub(crate) async fn run(args: &Mount, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let doorway = Doorway::new(args.socket.as_deref(), args.fuse.as_deref())?;
    let point = tokio::select! {
        point = open(args) => point?,
        // Cancel-safe: nothing was made yet.
        signal = signals.received() => {
            let text = format!("{signal} before the point could be read");
            return Err(Failure::new(Code::Incomplete, text));
        }
    };
    let overlay = overlay(args, &point)?;
    let mut door = doorway.open(&point, overlay.clone())?;
    let mounted = Mounted::of(&point, overlay.as_ref(), &door);
    let said = output::print(json, &mounted, |mounted| lines(mounted, &point));
    if said.is_ok() {
        // Both are cancel-safe.
        let reason = tokio::select! {
            signal = signals.received() => signal,
            () = door.closed() => "unmounted",
        };
        tracing::info!(reason, stats = ?point.reader.stats(), "the mount ends");
    }
    let ended = signals.drain(end(door, &point)).await;
    if let Some(overlay) = overlay {
        let closed = overlay.close();
        closed.map_err(|error| Failure::of(Code::Failed, &error))?;
    }
    said?;
    ended?;
    if !point.damage.is_empty() && may_mean_later(&args.at) {
        let text = format!(
            "what was served is whole, but the history is damaged: --at {} may mean a later point",
            args.at
        );
        return Err(Failure::new(Code::Integrity, text).help(
            "`everpoint check` says what is damaged; a bookmark's name or seq:N asks for one point and no other",
        ));
    }
    Ok(())
}

async fn open(args: &Mount) -> Result<MountedPoint, Failure> {
    let config = MountConfig {
        memory_max: args.memory.0,
        ..MountConfig::default()
    };
    let what = DiskAt {
        disk: args.disk,
        machine: args.machine,
        at: args.at.clone(),
    };
    let vault = args.vault.open().await?;
    let bar = Bar::new("mounting");
    let point = mount_point(&vault, &what, &config, &|progress| bar.show(progress)).await;
    bar.bar.finish_and_clear();
    Ok(point?)
}

fn overlay(args: &Mount, point: &MountedPoint) -> Result<Option<Overlay>, Failure> {
    if !args.writable {
        return Ok(None);
    }
    let directory = args.overlay.clone().unwrap_or_else(std::env::temp_dir);
    let place = if args.keep_overlay {
        let name = format!("{}-{}.overlay", point.disk, point.seq.0);
        OverlayPlace::Kept(directory.join(name))
    } else {
        OverlayPlace::Nameless(directory)
    };
    let overlay = Overlay::create(&place, point.size);
    overlay.map(Some).map_err(|error| {
        Failure::of(Code::Usage, &error)
            .while_doing("--overlay")
            .help("name a directory that is there, has room, and has no overlay of this point")
    })
}

/// Lets every client have the answers that it waits for.
async fn end(door: Door, point: &MountedPoint) -> Result<(), Failure> {
    let closed = door.close().await;
    point.reader.close().await;
    closed
}

impl Mounted {
    fn of(point: &MountedPoint, overlay: Option<&Overlay>, door: &Door) -> Self {
        let kept = overlay.and_then(Overlay::kept);
        Self {
            machine: point.machine.to_string(),
            disk: point.disk.to_string(),
            name: point.name.clone(),
            seq: point.seq.0,
            time: point.time.map(|time| time.to_string()),
            size_bytes: point.size.0,
            uri: door.uri(),
            file: door.file(),
            writable: overlay.is_some(),
            overlay: kept.map(|path| path.display().to_string()),
            damage: point.damage.clone(),
        }
    }
}

fn lines(mounted: &Mounted, point: &MountedPoint) -> String {
    let mut facts = point_facts(point.machine, point.seq, point.time);
    facts.row(["disk", &mounted.disk]);
    facts.row(["name", &mounted.name]);
    facts.row(["size", &output::bytes(mounted.size_bytes)]);
    let writable = if mounted.writable { "yes" } else { "no" };
    facts.row(["writable", writable]);
    if let Some(overlay) = &mounted.overlay {
        facts.row(["overlay", overlay]);
    }
    let served_at = mounted.uri.as_ref().or(mounted.file.as_ref());
    facts.row(["served at", served_at.map_or("", String::as_str)]);
    facts.render() + &damage_lines(&mounted.damage)
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let help = match &error {
            MountError::Config {
                key: "memory_max", ..
            } => Some("give --memory so many bytes"),
            MountError::Point(_) => Some("`everpoint point list` names the points that there are"),
            MountError::Integrity(_) => {
                Some("`everpoint check` says which points are whole; another --at may be")
            }
            MountError::Load(_) => {
                Some("`everpoint disk list` names the machines and disks of the vault")
            }
            MountError::Config { .. } | MountError::History(_) => None,
        };
        let failure = Self::of(error.kind().into(), &error);
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}
