//! Where replicas are, what a server's configuration says of it, and whether a replica is its disk.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_format::replica::Mark;
use everpoint_units::DiskId;
use everpoint_wire::control::ServerReplica;
use serde_json::Value;

use crate::rigs::clouds::{Azurite, LONG, write_secret};
use crate::rigs::page_blobs::PageBlobServer;
use crate::rigs::site::{Agent, Server, Site};
use crate::rigs::vault_place::VaultPlace;
use crate::rigs::{control, tool, wait};

/// The container of replicas, on whatever stands in for Azure.
pub const CONTAINER: &str = "disks";
/// Permissions of a container's SAS that a replica needs, as Azure writes them.
pub const NEEDED: &str = "rcwd";
/// An account's key, where signatures are not looked at.
pub const ANY_KEY: &str = "a2V5";
/// What a replica's file or blob has behind the disk and its padding. Unit: bytes.
const FOOTER_LEN: usize = 512;

/// See the module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaPlace {
    url: String,
    /// How a vault would be reached there; none: no cloud.
    store: Option<String>,
}

impl ReplicaPlace {
    /// In Azurite, in a container that is made for them, by a credential that may what replicas need and no more.
    ///
    /// # Errors
    ///
    /// When Azure's client fails.
    pub async fn in_azurite(azurite: &Azurite) -> Result<Self> {
        azurite.container(CONTAINER).await?;
        let place = azurite.with_sas(CONTAINER, NEEDED, LONG).await?;
        Ok(Self::reached_as(&place))
    }

    /// On the tests' own server.
    ///
    /// # Errors
    ///
    /// When the key's file cannot be written.
    pub fn on(blobs: &PageBlobServer, site: &Site) -> Result<Self> {
        let key = site.path("account.key");
        write_secret(&key, ANY_KEY)?;
        let mut store = "[process.store.azure]\naccount = \"everpoint\"\n".to_owned();
        writeln!(store, "endpoint = {:?}", blobs.endpoint())?;
        writeln!(store, "access_key_file = {:?}", key.display().to_string())?;
        Ok(Self::reached_by(Some(store)))
    }

    /// In [`CONTAINER`], reached as this vault is.
    pub fn reached_as(place: &VaultPlace) -> Self {
        Self::reached_by(place.store.clone())
    }

    fn reached_by(store: Option<String>) -> Self {
        let url = format!("az://{CONTAINER}/site");
        Self { url, store }
    }

    /// VHD files in a directory.
    pub fn in_directory(dir: &Path) -> Self {
        let url = format!("file://{}", dir.display());
        Self { url, store: None }
    }

    /// What a server's configuration has of it. Changes are collected for so long at least and at most.
    pub fn settings(&self, window_ms: (u64, u64)) -> String {
        let (min, max) = window_ms;
        let store = self.store.as_deref().unwrap_or_default();
        let azure = store.replace("[process.store.", "[process.replica.");
        // Texts of TOML are written as those of Rust, for all that URLs of tests hold.
        let url = &self.url;
        format!(
            "[process.replica]\nurl = {url:?}\nwindow_ms_min = {min}\nwindow_ms_max = {max}\n{azure}"
        )
    }

    /// A vault's directory, with the settings by which a command reaches replicas that are here.
    pub fn beside(&self, vault: &Path) -> VaultPlace {
        VaultPlace {
            store: self.store.clone(),
            ..vault.into()
        }
    }
}

/// The blob of a disk in [`CONTAINER`].
pub fn blob_name(disk: DiskId) -> String {
    format!("site/{disk}.vhd")
}

/// Where a command finds that blob.
pub fn blob_url(disk: DiskId) -> String {
    format!("az://{CONTAINER}/{}", blob_name(disk))
}

/// The only file of a directory of replicas.
///
/// # Errors
///
/// When there is none, or there are several.
pub fn only_file(dir: &Path) -> Result<PathBuf> {
    let files: Vec<_> = dir.read_dir()?.collect::<Result<_, _>>()?;
    ensure!(files.len() == 1, "{files:?}");
    Ok(files[0].path())
}

/// What a server says of the replica of an agent's disk; `None` while it does not know of it.
///
/// # Errors
///
/// When it does not answer.
pub async fn replica(server: &Server, agent: &Agent) -> Result<Option<ServerReplica>> {
    let status = server.status().await?;
    let disk = control::disk_of(&status, &agent.disk.0);
    Ok(disk.and_then(|disk| disk.replica.clone()))
}

/// Waits until the replica is a state of the disk.
///
/// # Errors
///
/// When it is not in time.
pub async fn until_level(server: &Server, agent: &Agent, within: Duration) -> Result<()> {
    wait::until("the replica is level", within, async || {
        let replica = replica(server, agent).await?;
        Ok(replica.filter(|replica| replica.level).map(drop))
    })
    .await
}

/// Waits until the replica has everything of the disk that was captured before the call, and is a state of it.
///
/// # Errors
///
/// When it has not in time, with the end of what the server printed.
pub async fn until_applied(server: &Server, agent: &Agent, within: Duration) -> Result<()> {
    let seq = agent.until_settled(server, within).await?;
    wait::until("the replica has it all", within, async || {
        let replica = replica(server, agent).await?;
        let has_all = |replica: &ServerReplica| {
            replica.level && seq <= replica.applied_through && replica.staged_bytes == 0
        };
        Ok(replica.filter(has_all).map(drop))
    })
    .await
    .with_context(|| format!("{:?}", server.node.printed().map(|text| tail_of(&text))))
}

fn tail_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Runs `everpoint replica verify`; gives its exit code and what it printed.
///
/// # Errors
///
/// When it prints no report.
pub async fn verify(
    site: &Site,
    vault: &VaultPlace,
    disk: DiskId,
    replica: &str,
) -> Result<(Option<i32>, Value)> {
    let disk = disk.to_string();
    let mut words = vec!["replica", "verify", "--json", "--disk", &disk];
    words.extend(["--replica", replica]);
    let ended = site.ask_vault(vault, &words, &[]).await?;
    let report = serde_json::from_str(&ended.stdout);
    let report = report.with_context(|| format!("{ended:?}"))?;
    Ok((ended.status.code(), report))
}

/// The same, of one that does not differ.
///
/// # Errors
///
/// When it differs.
pub async fn expect_verified(
    site: &Site,
    vault: &VaultPlace,
    disk: DiskId,
    replica: &str,
) -> Result<Value> {
    let (code, report) = verify(site, vault, disk, replica).await?;
    ensure!(code == Some(0), "{code:?}, {report}");
    ensure!(report["differing_bytes"] == 0, "{report}");
    Ok(report)
}

/// A replica's bytes are the disk's, zeroes up to whole MiB, and a footer with its mark.
///
/// # Errors
///
/// Where it differs.
pub fn expect_bytes(replica: &[u8], source: &Path) -> Result<()> {
    let disk = std::fs::read(source)?;
    let padded = disk.len().next_multiple_of(1 << 20);
    ensure!(
        replica.len() == padded + FOOTER_LEN,
        "{} bytes",
        replica.len()
    );
    let differs = (0..disk.len()).find(|at| replica[*at] != disk[*at]);
    ensure!(differs.is_none(), "differs at {differs:?}");
    ensure!(replica[disk.len()..padded].iter().all(|byte| *byte == 0));
    let page = replica[padded..].first_chunk().context("a page")?;
    let mark = Mark::decode(page)?.context("a mark")?;
    ensure!(mark.sectors == disk.len() as u64 / 512);
    ensure!(mark.applied.is_some_and(|applied| applied.is_level));
    Ok(())
}

/// The same of a file, and qemu reads it so.
///
/// # Errors
///
/// Where it differs, or what qemu says.
pub async fn expect_disk(replica: &Path, source: &Path) -> Result<()> {
    expect_bytes(&std::fs::read(replica)?, source)?;
    // qemu compares up to the shorter end, and wants zeroes behind it.
    let args = ["compare", "-f", "vpc", "-F", "raw"].map(Into::into);
    let paths = [replica, source].map(PathBuf::from);
    let compared = tool::run("qemu-img", args.into_iter().chain(paths)).await?;
    ensure!(compared.contains("Images are identical"), "{compared}");
    Ok(())
}
