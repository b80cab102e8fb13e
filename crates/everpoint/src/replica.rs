//! `everpoint replica`: what is done with a replica, beside keeping it.

use clap::Subcommand;

use crate::export;
use crate::failure::Failure;

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what makes a managed disk in Azure of a replica. Nothing is asked of Azure.
    Export(export::Export),
}

/// Does it.
///
/// # Errors
///
/// See each command.
pub(crate) async fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Export(args) => export::run(args, json),
    }
}
