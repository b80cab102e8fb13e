//! `everpoint replica verify`: a replica against the vault, page by page.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use everpoint_replica::{BlobAddress, ParseBlobAddressError};
use everpoint_retention::{ReplicaPlace, ReplicaReport, RestoreConfig, verify_replica};
use everpoint_units::DiskId;
use everpoint_vault::{ParseVaultUrlError, VaultUrl};

use crate::blob;
use crate::failure::{Code, Failure};
use crate::output::{self, Table};
use crate::progress::Bar;
use crate::size::Size;
use crate::vault::VaultArg;

/// Which replica.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    vault: VaultArg,
    /// The disk that it follows.
    #[arg(long, value_name = "ID")]
    disk: DiskId,
    /// The replica: az://container/blob, or file:///dir/name.vhd for a VHD that nobody writes to meanwhile.
    #[arg(long, value_name = "URL")]
    replica: ReplicaUrl,
    /// Memory for what is read and not yet compared.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: Size,
}

/// Where a replica lies, as it is written.
#[derive(Clone, Debug)]
enum ReplicaUrl {
    Blob(BlobAddress),
    File(PathBuf),
}

/// Why a text is not where a replica lies.
#[derive(Debug, thiserror::Error)]
enum ParseReplicaUrlError {
    #[error("{text:?} is no replica: write az://container/blob or file:///dir/name.vhd")]
    Scheme { text: String },
    #[error(transparent)]
    Blob(#[from] ParseBlobAddressError),
    #[error(transparent)]
    File(#[from] ParseVaultUrlError),
}

impl FromStr for ReplicaUrl {
    type Err = ParseReplicaUrlError;

    fn from_str(text: &str) -> Result<Self, ParseReplicaUrlError> {
        if text.starts_with("az://") {
            return Ok(Self::Blob(text.parse()?));
        }
        let scheme = || ParseReplicaUrlError::Scheme { text: text.into() };
        if !text.starts_with("file://") {
            return Err(scheme());
        }
        // Files are written as directories of vaults are.
        let url: VaultUrl = text.parse()?;
        let path = url.directory().ok_or_else(scheme)?;
        Ok(Self::File(path.to_owned()))
    }
}

/// Does it.
///
/// # Errors
///
/// Why there is no answer, or that there is damage.
pub(crate) async fn run(args: &Verify, json: bool) -> Result<(), Failure> {
    let config = RestoreConfig {
        memory_max: args.memory.0,
        ..RestoreConfig::default()
    };
    let place = match &args.replica {
        ReplicaUrl::Blob(address) => {
            ReplicaPlace::Blob(blob::pages(&args.vault.config()?, address)?)
        }
        ReplicaUrl::File(path) => ReplicaPlace::File(path.clone()),
    };
    let vault = args.vault.open().await?;
    let bar = Bar::new("comparing");
    let show = |progress: &_| bar.show(progress);
    let report = verify_replica(&vault, args.disk, &place, &config, &show).await;
    bar.bar.finish_and_clear();
    let report = report?;
    output::print(json, &report, lines)?;
    match report.differing_bytes.0 {
        0 => Ok(()),
        bytes => {
            let text = format!(
                "the replica differs from the vault in {}",
                output::bytes(bytes)
            );
            Err(Failure::new(Code::Integrity, text)
                .help("what is in the vault counts: have the replica made again"))
        }
    }
}

fn lines(report: &ReplicaReport) -> String {
    let mut facts = Table::plain();
    facts.row(["replica", &report.replica]);
    facts.row(["machine", &report.machine.to_string()]);
    facts.row(["disk", &report.disk.to_string()]);
    facts.row(["holds all through", &report.through.to_string()]);
    facts.row(["last object", &report.object]);
    let state = if report.is_level {
        "a state of the disk"
    } else {
        "in the middle of a copy"
    };
    facts.row(["which is", state]);
    facts.row(["size", &output::bytes(report.size_bytes.0)]);
    facts.row(["data compared", &output::bytes(report.data_bytes.0)]);
    facts.row(["newer in the vault", &output::bytes(report.newer_bytes.0)]);
    facts.row(["differs", &output::bytes(report.differing_bytes.0)]);
    let mut text = facts.render();
    for place in &report.differing {
        text.push_str(&format!("differs: byte {}, {} long\n", place.at, place.len));
    }
    text
}
