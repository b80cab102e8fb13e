//! `everpoint replica`: what is done with a replica, beside keeping it.

mod verify;

use bytes::Bytes;
use clap::{Args, Subcommand};
use everpoint_units::DiskId;
use everpoint_wire::control::RebuildReplica;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use serde::Serialize;

use crate::config::Where;
use crate::control::{ask, not_understood};
use crate::export;
use crate::failure::Failure;
use crate::output;

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what makes a managed disk in Azure of a replica. Nothing is asked of Azure.
    Export(export::Export),
    /// Have the running server write all of a disk's replica again, from the vault. Until it is level it is no state of
    /// the disk.
    Rebuild(Rebuild),
    /// Compare a replica with the vault, page by page.
    Verify(verify::Verify),
}

/// Which replica.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    #[command(flatten)]
    which: Where,
    /// The disk's id.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
}

/// What was begun, to print.
#[derive(Debug, Serialize)]
struct Begun {
    disk: String,
    rebuild: &'static str,
}

/// Does it.
///
/// # Errors
///
/// See each command.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Export(args) => export::run(args, json),
        Command::Rebuild(args) => rebuild(args, json).await,
        Command::Verify(args) => verify::run(args, json).await,
    }
}

async fn rebuild(args: &Rebuild, json: bool) -> Result<(), Failure> {
    let disk = Bytes::copy_from_slice(&args.disk.0);
    let request = Request::RebuildReplica(RebuildReplica { disk });
    match ask(&args.which.server()?, request).await? {
        Answer::Done(_) => {
            let begun = Begun {
                disk: args.disk.to_string(),
                rebuild: "begun",
            };
            output::print(json, &begun, |_| {
                "begun; `everpoint server status` shows how far it is\n".to_owned()
            })
        }
        _ => Err(not_understood()),
    }
}
