//! `everpoint point`: what can be restored, from the vault alone; and bookmarks, from a running agent.

use std::time::Duration;

use clap::{Args, Subcommand};
use everpoint_format::record::NAME_LEN_MAX;
use everpoint_retention::{
    At, BookmarkClass, PointDiff, PointList, Subject, diff_points, list_points,
};
use everpoint_units::{DiskId, MachineId, WallTime};
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{CreatePoint, PointCreated};
use serde::Serialize;

use crate::config::Where;
use crate::control::{ask, not_understood};
use crate::disk;
use crate::failure::{Code, Failure};
use crate::output::{self, Table};
use crate::progress::Bar;
use crate::vault::VaultArg;

/// Longest wait for a commit: longer than any that is worth waiting for at a prompt.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What is asked about points.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what can be restored of a machine or a disk.
    List(List),
    /// Show which extents of a disk differ between two points, and how much that is.
    Diff(Diff),
    /// Mark this instant with a name, on all disks of the agent's machine.
    Create(Create),
}

/// Whose points.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    vault: VaultArg,
    #[command(flatten)]
    whose: Whose,
}

/// One of them at least, and the help says so.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Whose {
    /// All disks of this machine together; with --disk it saves a search through the vault.
    #[arg(long, value_name = "ID")]
    machine: Option<MachineId>,
    /// This disk alone.
    #[arg(long, value_name = "ID")]
    disk: Option<DiskId>,
}

/// Which points.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    vault: VaultArg,
    /// The disk.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
    /// The disk's machine: saves a search through the vault.
    #[arg(long, value_name = "ID")]
    machine: Option<MachineId>,
    /// List every extent, not only how much they are.
    #[arg(long)]
    extents: bool,
    /// One point: latest, latest-app, a bookmark's name, an RFC 3339 time or seq:N.
    #[arg(value_name = "FROM")]
    from: At,
    /// The point that is held against it.
    #[arg(value_name = "TO")]
    to: At,
}

/// Which bookmark.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    which: Where,
    /// The bookmark's name, 1 to 255 bytes.
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// Make applications hold still for it: scripts are run and filesystems frozen as the agent's configuration
    /// says. Without proof that they held still there is no point.
    #[arg(long)]
    app: bool,
    /// Wait so long until it is committed to the vault. Default: do not wait.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=WAIT_MAX.as_secs()))]
    wait: Option<u64>,
}

/// Does what is asked.
///
/// # Errors
///
/// Why it was not done.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(args) => {
            let subject = match (args.whose.disk, args.whose.machine) {
                (Some(disk), _) => Subject::Disk(disk),
                (None, Some(machine)) => Subject::Machine(machine),
                (None, None) => {
                    return Err(Failure::usage("neither --machine nor --disk is given"));
                }
            };
            let vault = args.vault.open().await?;
            let points = list_points(&vault, subject, args.whose.machine).await?;
            output::print(json, &points, lines)
        }
        Command::Diff(args) => diff(args, json).await,
        Command::Create(args) => create(args, json).await,
    }
}

async fn diff(args: &Diff, json: bool) -> Result<(), Failure> {
    let vault = args.vault.open().await?;
    let bar = Bar::new("comparing");
    let show = |progress: &_| bar.show(progress);
    let points = (&args.from, &args.to);
    let found = diff_points(&vault, args.disk, args.machine, points, &show).await;
    bar.bar.finish_and_clear();
    let mut found = found?;
    if !args.extents {
        found.extents = None;
    }
    output::print(json, &found, difference)
}

async fn create(args: &Create, json: bool) -> Result<(), Failure> {
    let wait_ms = args.wait.unwrap_or(0).saturating_mul(1_000);
    let request = Request::CreatePoint(CreatePoint {
        name: args.name.clone(),
        wait_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX),
        app: args.app,
    });
    let Answer::PointCreated(created) = ask(&args.which.agent()?, request).await? else {
        return Err(not_understood());
    };
    let created = Created::of(args, created);
    output::print(json, &created, Created::lines)?;
    if args.wait.is_some() && !created.committed {
        return Err(Failure::new(Code::Incomplete, "the bookmark is not committed yet")
            .help("it is on its way: `everpoint agent status` says how far, `everpoint point list` when it is there"));
    }
    Ok(())
}

fn parse_name(name: &str) -> Result<String, String> {
    if name.is_empty() || NAME_LEN_MAX < name.len() {
        return Err(format!(
            "a name has 1 to {NAME_LEN_MAX} bytes, this one has {}",
            name.len()
        ));
    }
    let means_else = matches!(name, "latest" | "latest-app")
        || name.starts_with("seq:")
        || WallTime::parse_rfc3339(name).is_some();
    if means_else {
        return Err("--at would take that for something else: choose another name".to_owned());
    }
    Ok(name.to_owned())
}

/// A bookmark, to print.
#[derive(Debug, Serialize)]
struct Created {
    name: String,
    seq: u64,
    time: String,
    class: &'static str,
    /// For how long writes were held, where filesystems were frozen.
    held_us: Option<u64>,
    committed: bool,
}

impl Created {
    fn of(args: &Create, created: PointCreated) -> Self {
        Self {
            name: args.name.clone(),
            class: if args.app { "app" } else { "crash" },
            held_us: (created.held_us != 0).then_some(created.held_us),
            seq: created.seq,
            time: WallTime(created.at_us).to_string(),
            committed: created.committed,
        }
    }

    fn lines(&self) -> String {
        let mut table = Table::plain();
        table.row(["name", &self.name]);
        table.row(["point", &format!("seq:{}", self.seq)]);
        table.row(["time", &self.time]);
        table.row(["class", self.class]);
        if let Some(held_us) = self.held_us {
            table.row([
                "writes held for",
                &format!("{} ms", held_us.div_ceil(1_000)),
            ]);
        }
        table.row(["committed", if self.committed { "yes" } else { "not yet" }]);
        table.render()
    }
}

fn lines(points: &PointList) -> String {
    let mut facts = Table::plain();
    facts.row(["machine", &points.machine.to_string()]);
    if let Some(disk) = points.disk {
        facts.row(["disk", &disk.to_string()]);
    }
    facts.row(["newest point", &disk::position(points.latest)]);
    facts.row(["taken at", &disk::time(points.latest)]);
    let mut text = format!("{}\n{}\n", facts.render(), disk::windows(&points.windows));
    let mut bookmarks = Table::new(&["bookmark", "class", "point", "time", "restorable"]);
    for bookmark in &points.bookmarks {
        bookmarks.row([
            bookmark.name.as_str(),
            class(bookmark.class),
            &bookmark.seq.to_string(),
            &bookmark.time.to_string(),
            if bookmark.restorable { "yes" } else { "no" },
        ]);
    }
    if points.bookmarks.is_empty() {
        text.push_str("no bookmarks\n");
    } else {
        text.push_str(&bookmarks.render());
    }
    for note in &points.damage {
        text.push_str(&output::escape_lines(&format!("damage: {}\n", note.what)));
    }
    text
}

fn difference(found: &PointDiff) -> String {
    let mut facts = Table::plain();
    facts.row(["machine", &found.machine.to_string()]);
    facts.row(["disk", &found.disk.to_string()]);
    for (name, point, size) in [
        ("from", found.from, found.from_size_bytes),
        ("to", found.to, found.to_size_bytes),
    ] {
        let (position, time) = (disk::position(Some(point)), disk::time(Some(point)));
        let size = output::bytes(size.0);
        facts.row([name, &format!("{position}, {time}, {size}")]);
    }
    facts.row(["changed", &output::bytes(found.changed_bytes.0)]);
    facts.row(["of that zeroed", &output::bytes(found.zeroed_bytes.0)]);
    facts.row(["extents", &found.extent_count.to_string()]);
    let mut text = facts.render();
    if let Some(extents) = &found.extents {
        let mut table = Table::new(&["offset", "bytes", "now"]);
        for extent in extents {
            table.row([
                extent.at.0.to_string(),
                extent.len.0.to_string(),
                if extent.is_zero { "zeroes" } else { "data" }.to_owned(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    for note in &found.damage {
        text.push_str(&output::escape_lines(&format!("damage: {}\n", note.what)));
    }
    text
}

const fn class(class: BookmarkClass) -> &'static str {
    match class {
        BookmarkClass::Crash => "crash",
        BookmarkClass::App => "app",
        BookmarkClass::Group => "group",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_at_would_take_for_something_else_is_refused() {
        for name in ["latest", "latest-app", "seq:5", "2026-11-22T10:00:00Z", ""] {
            assert!(parse_name(name).is_err(), "{name}");
        }
        assert!(parse_name(&"x".repeat(NAME_LEN_MAX + 1)).is_err());
        assert_eq!(
            parse_name("before the upgrade"),
            Ok("before the upgrade".to_owned())
        );
    }
}
