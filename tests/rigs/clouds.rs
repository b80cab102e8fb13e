//! What stands in for clouds: Azurite for Azure Blob storage and moto for S3, as processes of their own.
//!
//! They are written by others, and so are the clients (`clouds/cloud.py`) that make containers, buckets and
//! credentials on them.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use object_store::azure::{AzureAccessKey, AzureCredential};
use rand::Rng as _;
use xtask::clouds::Clouds;
use xtask::workspace::Workspace;

use crate::rigs::child::{Process, finish, tail};
use crate::rigs::tool::tool;
use crate::rigs::vault_place::VaultPlace;
use crate::rigs::wait;

/// Until one of them answers.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Until one of their makers' clients has done something.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(60);
/// The account that Azurite is given.
const ACCOUNT: &str = "everpoint";
/// Read, create, list: what a vault needs, and no more. As Azure writes permissions.
pub const LEAST_PERMISSIONS: &str = "rcl";
/// Longer than a test.
pub const LONG: Duration = Duration::from_secs(86_400);

/// A running Azurite, its blobs in memory.
#[derive(Debug)]
pub struct Azurite {
    endpoint: String,
    key: String,
    /// Secrets lie here.
    dir: PathBuf,
    root: PathBuf,
    python: PathBuf,
    _process: Process,
}

/// A running moto, its objects in memory.
#[derive(Debug)]
pub struct Moto {
    endpoint: String,
    dir: PathBuf,
    root: PathBuf,
    python: PathBuf,
    _process: Process,
}

impl Azurite {
    /// Starts one whose files and log lie in `dir`.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not answer.
    pub async fn start(dir: &Path) -> Result<Self> {
        let workspace = Workspace::here()?;
        let clouds = Clouds::of(&workspace);
        let port = free_port()?;
        let key = base64(&rand::rng().random::<[u8; 63]>());
        let mut command = tool("node")?;
        command
            .arg(is_installed(clouds.azurite())?)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--extentMemoryLimit", "4096"])
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{key}"))
            .current_dir(dir);
        let process = started("azurite", command, dir, port).await?;
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{port}/{ACCOUNT}"),
            key,
            dir: dir.to_owned(),
            root: workspace.root,
            python: clouds.python("python"),
            _process: process,
        })
    }

    /// Makes a container.
    ///
    /// # Errors
    ///
    /// When Azure's client fails.
    pub async fn container(&self, name: &str) -> Result<()> {
        let args = ["container", &self.endpoint, ACCOUNT, &self.key, name];
        client(&self.python, &self.root, &args).await.map(drop)
    }

    /// Removes a container, with all that is in it.
    ///
    /// # Errors
    ///
    /// When Azure's client fails.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let args = ["remove", &self.endpoint, ACCOUNT, &self.key, name];
        client(&self.python, &self.root, &args).await.map(drop)
    }

    /// Has Azure's client read a blob into a file.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub async fn download(&self, container: &str, name: &str, to: &Path) -> Result<()> {
        let to = to.to_string_lossy();
        let args = [
            "download",
            &self.endpoint,
            ACCOUNT,
            &self.key,
            container,
            name,
            &to,
        ];
        client(&self.python, &self.root, &args).await.map(drop)
    }

    /// A vault in a container, reached with the account's key.
    ///
    /// # Errors
    ///
    /// When the key's file cannot be written.
    pub fn with_key(&self, container: &str) -> Result<VaultPlace> {
        self.place(container, "access_key_file", "account.key", &self.key)
    }

    /// A vault in a container, reached with a SAS that gives these permissions, as Azure writes them, for so
    /// long from now on; one whose time is zero has ended.
    ///
    /// # Errors
    ///
    /// When Azure's client fails.
    pub async fn with_sas(
        &self,
        container: &str,
        permissions: &str,
        time: Duration,
    ) -> Result<VaultPlace> {
        let sas = self.sas_text(container, permissions, time).await?;
        let file = format!("{container}-{permissions}-{}.sas", time.as_secs());
        self.place(container, "sas_file", &file, &sas)
    }

    /// Where it is reached, and the account's name in it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The account's key, as a client takes it.
    ///
    /// # Errors
    ///
    /// Never: the key was made here.
    pub fn key(&self) -> Result<AzureCredential> {
        Ok(AzureCredential::AccessKey(AzureAccessKey::try_new(
            &self.key,
        )?))
    }

    /// A SAS as [`Self::with_sas`] makes it, as a client takes it.
    ///
    /// # Errors
    ///
    /// When Azure's client fails.
    pub async fn sas(
        &self,
        container: &str,
        permissions: &str,
        time: Duration,
    ) -> Result<AzureCredential> {
        let sas = self.sas_text(container, permissions, time).await?;
        let pairs = form_urlencoded::parse(sas.as_bytes());
        Ok(AzureCredential::SASToken(pairs.into_owned().collect()))
    }

    async fn sas_text(&self, container: &str, permissions: &str, time: Duration) -> Result<String> {
        let seconds = time.as_secs().to_string();
        let args = [
            "sas",
            &self.endpoint,
            ACCOUNT,
            &self.key,
            container,
            permissions,
            &seconds,
        ];
        let sas = client(&self.python, &self.root, &args).await?;
        Ok(sas.trim().to_owned())
    }

    /// A vault in a container, reached with a secret of this kind.
    ///
    /// # Errors
    ///
    /// When the secret's file cannot be written.
    pub fn place(
        &self,
        container: &str,
        kind: &str,
        file: &str,
        secret: &str,
    ) -> Result<VaultPlace> {
        let path = self.dir.join(file);
        write_secret(&path, secret)?;
        let mut store = "[process.store.azure]\n".to_owned();
        writeln!(store, "account = {ACCOUNT:?}")?;
        writeln!(store, "endpoint = {:?}", self.endpoint)?;
        writeln!(store, "{kind} = {:?}", path.display().to_string())?;
        Ok(VaultPlace {
            url: format!("az://{container}/protected/vault"),
            store: Some(store),
        })
    }
}

impl Moto {
    /// Starts one whose log lies in `dir`.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not answer.
    pub async fn start(dir: &Path) -> Result<Self> {
        let workspace = Workspace::here()?;
        let clouds = Clouds::of(&workspace);
        let port = free_port()?;
        let mut command = Command::new(is_installed(clouds.python("moto_server"))?);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = started("moto", command, dir, port).await?;
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            dir: dir.to_owned(),
            root: workspace.root,
            python: clouds.python("python"),
            _process: process,
        })
    }

    /// Makes a bucket.
    ///
    /// # Errors
    ///
    /// When AWS's client fails.
    pub async fn bucket(&self, name: &str) -> Result<()> {
        let args = ["bucket", &self.endpoint, name];
        client(&self.python, &self.root, &args).await.map(drop)
    }

    /// A vault in a bucket.
    ///
    /// # Errors
    ///
    /// When the secret's file cannot be written.
    pub fn place(&self, bucket: &str) -> Result<VaultPlace> {
        let secret = self.dir.join("s3.secret");
        write_secret(&secret, "everpoint")?;
        let mut store = "[process.store.s3]\n".to_owned();
        writeln!(store, "endpoint = {:?}", self.endpoint)?;
        writeln!(store, "access_key_id = \"everpoint\"")?;
        let path = secret.display().to_string();
        writeln!(store, "secret_access_key_file = {path:?}")?;
        Ok(VaultPlace {
            url: format!("s3://{bucket}/protected/vault"),
            store: Some(store),
        })
    }
}

/// The Python that has their makers' clients, and what checks templates for them.
///
/// # Errors
///
/// When it is not installed.
pub fn python() -> Result<PathBuf> {
    is_installed(Clouds::of(&Workspace::here()?).python("python"))
}

fn is_installed(program: PathBuf) -> Result<PathBuf> {
    ensure!(
        program.is_file(),
        "{} is not there: `cargo xtask test tools` installs it",
        program.display()
    );
    Ok(program)
}

/// A file of its owner's alone.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_secret(path: &Path, secret: &str) -> Result<()> {
    fs::write(path, secret)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A server that answers on its port.
async fn started(name: &str, command: Command, dir: &Path, port: u16) -> Result<Process> {
    let log = dir.join(format!("{name}.log"));
    let mut process = Process::start(name, command, &log)?;
    let what = format!("{name} on port {port}");
    wait::until(&what, START_TIME_MAX, async || {
        if let Some(ended) = process.poll()? {
            bail!("{name} ended: {ended}\n{}", tail(&log));
        }
        let answers = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        Ok(answers.is_ok().then_some(()))
    })
    .await?;
    Ok(process)
}

/// Runs `cloud.py`, and gives what it printed.
async fn client(python: &Path, root: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(python);
    command
        .arg(root.join("tests/rigs/clouds/cloud.py"))
        .args(args);
    let finished = finish(command, CLIENT_TIME_MAX).await?;
    finished
        .succeeded("cloud.py")
        .with_context(|| format!("cloud.py {}", args[0]))
}

/// A port that is free now: these servers do not say which one they took.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Bytes whose number is divisible by three, as Azure writes keys.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (threes, rest) = bytes.as_chunks::<3>();
    assert!(rest.is_empty(), "no padding is written here");
    let letters = threes.iter().flat_map(|three| {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        [18, 12, 6, 0].map(|shift| LETTERS[(bits >> shift) as usize & 63])
    });
    letters.map(char::from).collect()
}
