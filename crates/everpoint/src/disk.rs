//! `everpoint disk`: the disks of a vault, from the vault alone.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use everpoint_retention::{
    DiskList, DiskState, DiskSummary, Instant, PointList, Subject, Window, list_disks, list_points,
};
use everpoint_units::{DiskId, MachineId};
use everpoint_wire::control::StatusRequest;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use serde::Serialize;

use crate::control::{ask, not_understood};
use crate::failure::Failure;
use crate::output::{self, Table};
use crate::replica_status::Replica;
use crate::vault::VaultArg;

/// What is asked about disks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all disks of a vault.
    List(VaultArg),
    /// Show one disk and where it can be restored.
    Show(Show),
}

/// Which disk.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    vault: VaultArg,
    /// The disk's id.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
    /// The disk's machine, where it is known: saves a search through the vault.
    #[arg(long, value_name = "ID")]
    machine: Option<MachineId>,
    /// Control socket of the server that serves the disk: shows its replica, what that was asked for by day, and what it
    /// costs.
    #[arg(long, value_name = "PATH")]
    server_control: Option<PathBuf>,
}

/// A disk, and how its replica is.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    points: PointList,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<Replica>,
}

/// Does what is asked.
///
/// # Errors
///
/// Why it was not done.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(vault) => {
            let vault = vault.open().await?;
            let list = list_disks(&vault).await?;
            output::print(json, &list, lines)
        }
        Command::Show(show) => {
            let vault = show.vault.open().await?;
            let subject = Subject::Disk(show.disk);
            let points = list_points(&vault, subject, show.machine).await?;
            let replica = match &show.server_control {
                None => None,
                Some(socket) => replica(socket, show.disk).await?,
            };
            let shown = Shown { points, replica };
            output::print(json, &shown, |shown| {
                let mut text = show_lines(&shown.points, show.disk);
                if let Some(replica) = &shown.replica {
                    text.push('\n');
                    text.push_str(&replica.lines());
                }
                text
            })
        }
    }
}

/// What the server says of the disk's replica.
async fn replica(socket: &Path, disk: DiskId) -> Result<Option<Replica>, Failure> {
    let request = Request::Status(StatusRequest {});
    let Answer::ServerStatus(status) = ask(socket, request).await? else {
        return Err(not_understood());
    };
    let disks = status.machines.iter().flat_map(|machine| &machine.disks);
    let found = disks.into_iter().find(|found| found.disk == disk.0[..]);
    let replica = found.and_then(|found| found.replica.as_ref());
    Ok(replica.map(Replica::of))
}

fn lines(list: &DiskList) -> String {
    let mut table = Table::new(&[
        "machine",
        "disk",
        "name",
        "size",
        "state",
        "newest point",
        "taken at",
    ]);
    for disk in &list.disks {
        table.row([
            &disk.machine.to_string(),
            &disk.disk.to_string(),
            &disk.name,
            &output::bytes(disk.size_bytes.0),
            state(disk.state),
            &position(disk.latest),
            &time(disk.latest),
        ]);
    }
    let mut text = table.render();
    for machine in &list.damage {
        for note in &machine.damage {
            let what = format!("damage in machine {}: {}\n", machine.machine, note.what);
            text.push_str(&output::escape_lines(&what));
        }
    }
    text
}

fn show_lines(points: &PointList, disk: DiskId) -> String {
    let mut text = points
        .disks
        .iter()
        .find(|summary| summary.disk == disk)
        .map_or(String::new(), facts);
    text.push('\n');
    text.push_str(&windows(&points.windows));
    text
}

fn facts(disk: &DiskSummary) -> String {
    let mut table = Table::plain();
    table.row(["disk", &disk.disk.to_string()]);
    table.row(["name", &disk.name]);
    table.row(["machine", &disk.machine.to_string()]);
    table.row(["size", &output::bytes(disk.size_bytes.0)]);
    table.row(["block size", &format!("{} B", disk.block_size)]);
    table.row(["state", state(disk.state)]);
    table.row(["complete through", &disk.complete_through.to_string()]);
    table.row(["newest point", &position(disk.latest)]);
    table.row(["taken at", &time(disk.latest)]);
    table.render()
}

/// Where every request is a recovery point.
pub(crate) fn windows(windows: &[Window]) -> String {
    if windows.is_empty() {
        return "nothing can be restored yet: the initial sync is not finished\n".to_owned();
    }
    let mut table = Table::new(&["every request from", "at", "through", "at"]);
    for window in windows {
        table.row([
            &window.from.seq.to_string(),
            &time(Some(window.from)),
            &window.through.seq.to_string(),
            &time(Some(window.through)),
        ]);
    }
    table.render()
}

pub(crate) fn position(instant: Option<Instant>) -> String {
    instant.map_or_else(|| "-".to_owned(), |instant| instant.seq.to_string())
}

pub(crate) fn time(instant: Option<Instant>) -> String {
    let time = instant.and_then(|instant| instant.time);
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

const fn state(state: DiskState) -> &'static str {
    match state {
        DiskState::Level => "level",
        DiskState::Syncing => "syncing",
        DiskState::Ended => "ended",
        DiskState::Damaged => "damaged",
    }
}
