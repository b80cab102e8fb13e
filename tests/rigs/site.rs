//! A site: certificates, a vault, servers and agents as processes of the built `everpoint`, in one directory.
//!
//! A site that is not told that its test passed shows the end of every log when it is dropped.

use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_nbd::NbdAddress;
use everpoint_units::{DiskId, MachineId, ServerId};
use everpoint_wire::control::{AgentDisk, AgentStatus, ServerStatus};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::parts::HOME_VARIABLE;

use crate::rigs::child::{Finished, Process, finish, tail};
use crate::rigs::clouds::{Azurite, LEAST_PERMISSIONS, LONG};
use crate::rigs::control;
use crate::rigs::vault_place::VaultPlace;
use crate::rigs::wait;

/// No command takes so long on the sizes that tests have.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);
/// Room for the images of two tests that run at a time. Unit: bytes.
const IMAGES_ROOM_MIN: u64 = 6 << 30;
/// What an agent's budget has beside the queue. Unit: bytes.
const AGENT_BESIDE_QUEUE: u64 = 256 << 20;
/// Until a process answers on its control socket.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Until a disk is level that holds nothing much.
const LEVEL_TIME_MAX: Duration = Duration::from_secs(60);
/// Until a process has ended in order: it drains first.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// Where the vaults of sites are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Home {
    /// In a directory of the site.
    Directory,
    /// In Azure Blob storage, for which Azurite stands in, by a credential that can read, list and create and
    /// neither overwrite nor delete.
    Azure,
}

/// See the module.
pub struct Site {
    /// Where the vault is, if it is not in the site, and what runs there; it ends before its directory goes.
    cloud: Option<(VaultPlace, Azurite)>,
    dir: TempDir,
    /// Protected disks and restored images. They are written in no order and soon removed, which some
    /// filesystems make dear, and nothing is judged by how they survive.
    images: TempDir,
    /// Paths of sockets are short, whatever the path of the workspace.
    sockets: TempDir,
    program: PathBuf,
    /// A name and its log, in the order of making.
    logs: std::sync::Mutex<Vec<(String, PathBuf)>>,
    passed: bool,
}

/// What a process server is like.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    pub name: String,
    pub id: ServerId,
    pub vault: VaultPlace,
    /// Unit: bytes.
    pub log_quota: u64,
    pub log_file_len: u64,
    pub commit_interval_ms: u64,
    /// Budget of its buffers; none: the product's default. Unit: bytes.
    pub memory_max: Option<u64>,
    /// Where its cache log lies; none: in the site.
    pub log_dir: Option<PathBuf>,
    /// Further sections of its configuration.
    pub more: String,
}

/// What an agent with one disk is like.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// What holds the disk: a file.
    pub source: PathBuf,
    /// Unit: bytes.
    pub queue_max: u64,
    pub block_size: u32,
    /// Past the page cache.
    pub direct: bool,
    /// How fast an initial sync reads. Unit: bytes a second; none: no limit.
    pub resync_rate_max: Option<u64>,
    /// Budget of everything that it holds; none: the product's default. Unit: bytes.
    pub memory_max: Option<u64>,
    /// Further sections of its configuration.
    pub more: String,
}

/// A process of the site that is started, and started again.
pub struct Node {
    name: String,
    command: Vec<PathBuf>,
    pub control: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// A process server.
pub struct Server {
    pub node: Node,
    pub id: ServerId,
    pub config: PathBuf,
    pub spec: ServerSpec,
    /// The directory of its identity.
    pub state_dir: PathBuf,
    /// The directory of its cache log.
    pub log_dir: PathBuf,
    pub address: String,
}

/// An agent with one disk.
pub struct Agent {
    pub node: Node,
    pub machine: MachineId,
    pub disk: DiskId,
    pub address: NbdAddress,
    pub spec: AgentSpec,
}

/// Where a restored image lies, and which instant it is.
#[derive(Clone, Debug)]
pub struct Restored {
    pub path: PathBuf,
    pub seq: u64,
}

impl Site {
    /// An empty site with a CA.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn new(name: &str) -> Result<Self> {
        Self::on(name, Home::wanted()).await
    }

    /// The same with its vault there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn on(name: &str, home: Home) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(scratch()?)?;
        let cloud = match home {
            Home::Directory => None,
            Home::Azure => {
                let azurite = Azurite::start(dir.path()).await?;
                azurite.container("vault").await?;
                let place = azurite.with_sas("vault", LEAST_PERMISSIONS, LONG).await?;
                Some((place, azurite))
            }
        };
        let site = Self {
            dir,
            cloud,
            images: tempfile::Builder::new()
                .prefix(&format!("everpoint-{name}-"))
                .tempdir_in(images()?)?,
            sockets: tempfile::Builder::new().prefix("everpoint-").tempdir()?,
            program: xtask::built::program("everpoint"),
            logs: std::sync::Mutex::default(),
            passed: false,
        };
        site.everpoint(["pki", "init", "--dir"], &[&site.path("pki")])
            .await?
            .succeeded("pki init")?;
        Ok(site)
    }

    /// A path in the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path for an image.
    pub fn image(&self, name: &str) -> PathBuf {
        self.images.path().join(name)
    }

    /// The path of a socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// Where the vault is, unless a server's spec says otherwise.
    pub fn place(&self) -> VaultPlace {
        match &self.cloud {
            Some((place, _)) => place.clone(),
            None => self.vault().into(),
        }
    }

    /// What stands in for the cloud, where the vault is in one.
    pub fn azurite(&self) -> Option<&Azurite> {
        self.cloud.as_ref().map(|(_, azurite)| azurite)
    }

    /// The vault's directory, for what only a directory can be asked.
    ///
    /// # Panics
    ///
    /// When the vault is in none.
    pub fn vault(&self) -> PathBuf {
        assert!(self.cloud.is_none(), "this test is about a directory");
        self.path("vault")
    }

    /// The log of a process, which is shown when the test fails.
    pub fn log(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.log"));
        let mut logs = self.logs.lock().expect("nobody panics over a list");
        if !logs.iter().any(|(known, _)| known == name) {
            logs.push((name.to_owned(), path.clone()));
        }
        path
    }

    /// An image of zeroes, sparse.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn empty_image(&self, name: &str, len: u64) -> Result<PathBuf> {
        let path = self.image(name);
        fs::File::create(&path)?.set_len(len)?;
        Ok(path)
    }

    /// Runs the command line to its end.
    ///
    /// # Errors
    ///
    /// When it does not end in time; not when it fails.
    pub async fn everpoint<const N: usize>(
        &self,
        words: [&str; N],
        paths: &[&Path],
    ) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(words).args(paths);
        finish(command, COMMAND_TIME_MAX).await
    }

    /// Runs a command that reads a vault, to its end.
    ///
    /// # Errors
    ///
    /// When it does not end in time; not when it fails.
    pub async fn ask_vault(
        &self,
        vault: &VaultPlace,
        words: &[&str],
        paths: &[&Path],
    ) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .args(paths)
            .args(["--vault", &vault.url]);
        if let Some(config) = vault.store_config() {
            let path = self.path("store.toml");
            fs::write(&path, config)?;
            command.arg("--store-config").arg(path);
        }
        finish(command, COMMAND_TIME_MAX).await
    }

    /// What a server needs to run; it is not started yet.
    ///
    /// # Errors
    ///
    /// When a command or file fails.
    pub async fn server(&self, spec: ServerSpec) -> Result<Server> {
        let (name, id) = (spec.name.clone(), spec.id);
        self.issue(
            &["server", "--server", &id.to_string(), "--name", "127.0.0.1"],
            &name,
        )
        .await?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let control = self.socket(&name);
        let state_dir = self.path(&format!("{name}-state"));
        let log_dir = spec.log_dir.clone();
        let log_dir = log_dir.unwrap_or_else(|| self.path(&format!("{name}-log")));
        let mut config = "roles = [\"process\"]\n[process]\n".to_owned();
        setting(&mut config, "state_dir", &state_dir.display());
        writeln!(config, "create_vault = true")?;
        setting(&mut config, "listen", &address);
        setting(&mut config, "control_socket", &control.display());
        if let Some(memory) = spec.memory_max {
            writeln!(config, "memory_bytes_max = {memory}")?;
        }
        config += &spec.vault.settings();
        config += "[process.tls]\n";
        self.tls(&mut config, &name);
        config += "[process.cache_log]\n";
        setting(&mut config, "dir", &log_dir.display());
        writeln!(config, "quota_bytes = {}", spec.log_quota)?;
        writeln!(config, "file_bytes = {}", spec.log_file_len)?;
        writeln!(
            config,
            "[process.commit]\ninterval_ms = {}",
            spec.commit_interval_ms
        )?;
        config += &spec.more;
        let config_path = self.path(&format!("{name}.toml"));
        fs::write(&config_path, config)?;
        Ok(Server {
            node: self.node(&name, "server", &config_path, control),
            id,
            config: config_path,
            spec,
            state_dir,
            log_dir,
            address,
        })
    }

    /// What an agent needs to run; it is not started yet.
    ///
    /// # Errors
    ///
    /// When a command or file fails.
    pub async fn agent(&self, spec: AgentSpec, servers: &[&Server]) -> Result<Agent> {
        let machine = MachineId(rand::random());
        let disk = DiskId(rand::random());
        self.issue(&["agent", "--machine", &machine.to_string()], "agent")
            .await?;
        let (control, nbd) = (self.socket("agent"), self.socket("nbd"));
        let mut config = "[agent]\n".to_owned();
        setting(
            &mut config,
            "state_dir",
            &self.path("agent-state").display(),
        );
        setting(&mut config, "control_socket", &control.display());
        let list = servers
            .iter()
            .map(|server| format!("{{ address = {:?} }}", server.address));
        let list: Vec<String> = list.collect();
        writeln!(config, "servers = [{}]", list.join(", "))?;
        writeln!(config, "queue_bytes_max = {}", spec.queue_max)?;
        let memory_max = spec
            .memory_max
            .unwrap_or(spec.queue_max + AGENT_BESIDE_QUEUE);
        writeln!(config, "memory_bytes_max = {memory_max}")?;
        if let Some(rate) = spec.resync_rate_max {
            writeln!(config, "resync_rate_max = {rate}")?;
        }
        config += "[agent.tls]\n";
        self.tls(&mut config, "agent");
        config += "[agent.nbd]\n";
        setting(&mut config, "unix", &nbd.display());
        config += "[[agent.disks]]\n";
        setting(&mut config, "id", &disk);
        setting(&mut config, "name", &"disk");
        setting(&mut config, "source", &spec.source.display());
        writeln!(config, "block_size = {}", spec.block_size)?;
        writeln!(config, "direct = {}", spec.direct)?;
        config += &spec.more;
        let config_path = self.path("agent.toml");
        fs::write(&config_path, config)?;
        Ok(Agent {
            node: self.node("agent", "agent", &config_path, control),
            machine,
            disk,
            address: NbdAddress::unix(nbd, "disk"),
            spec,
        })
    }

    /// A server and an agent that run, the agent's disk level.
    ///
    /// # Errors
    ///
    /// When one does not start, or the disk is not level in time.
    pub async fn protect(&self, server: ServerSpec, agent: AgentSpec) -> Result<(Server, Agent)> {
        let mut server = self.server(server).await?;
        server.node.start().await?;
        let mut agent = self.agent(agent, &[&server]).await?;
        agent.node.start().await?;
        agent.until_state("protected", LEVEL_TIME_MAX).await?;
        Ok((server, agent))
    }

    /// Restores a disk from a vault alone.
    ///
    /// # Errors
    ///
    /// When the restore fails.
    pub async fn restore(
        &self,
        vault: impl Into<VaultPlace>,
        disk: DiskId,
        at: &str,
        output: &str,
    ) -> Result<Restored> {
        self.restore_as(vault, disk, at, output, "raw").await
    }

    /// The same in a given format.
    ///
    /// # Errors
    ///
    /// When the restore fails.
    pub async fn restore_as(
        &self,
        vault: impl Into<VaultPlace>,
        disk: DiskId,
        at: &str,
        output: &str,
        format: &str,
    ) -> Result<Restored> {
        let path = self.image(output);
        let disk = disk.to_string();
        let mut words = vec!["restore", "--json", "--disk", &disk, "--at", at];
        words.extend(["--format", format, "--output"]);
        let finished = self.ask_vault(&vault.into(), &words, &[&path]).await?;
        let printed = finished.succeeded(&format!("restore --at {at}"))?;
        let printed: Value = serde_json::from_str(&printed)
            .with_context(|| format!("restore --json printed {printed:?}"))?;
        let seq = printed["seq"]
            .as_u64()
            .context("restore --json says which seq")?;
        Ok(Restored { path, seq })
    }

    /// Takes a bookmark and waits until it is committed; returns its `Seq`.
    ///
    /// # Errors
    ///
    /// When it is not, in time.
    pub async fn create_point(&self, agent: &Agent, name: &str) -> Result<u64> {
        let words = [
            "point",
            "create",
            "--json",
            "--wait",
            "60",
            "--name",
            name,
            "--control",
        ];
        let finished = self.everpoint(words, &[&agent.node.control]).await?;
        let printed = finished.succeeded(&format!("point create --name {name:?}"))?;
        let printed: Value = serde_json::from_str(&printed)
            .with_context(|| format!("point create --json printed {printed:?}"))?;
        printed["seq"]
            .as_u64()
            .context("point create --json says which seq")
    }

    /// Says that the test passed, so that nothing is shown, and removes everything.
    pub fn passed(mut self) {
        self.passed = true;
    }

    fn node(&self, name: &str, role: &str, config: &Path, control: PathBuf) -> Node {
        let words = [role, "run", "--config"].map(PathBuf::from);
        let mut command = vec![self.program.clone()];
        command.extend(words);
        command.push(config.to_path_buf());
        Node {
            name: name.to_owned(),
            command,
            control,
            log: self.log(name),
            process: None,
        }
    }

    async fn issue(&self, for_whom: &[&str], file: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["pki", "issue"]).args(for_whom);
        command.arg("--ca-dir").arg(self.path("pki"));
        command.args(["--file", file]);
        finish(command, COMMAND_TIME_MAX)
            .await?
            .succeeded("pki issue")?;
        Ok(())
    }

    fn tls(&self, config: &mut String, name: &str) {
        let pki = self.path("pki");
        setting(config, "ca", &pki.join("ca.pem").display());
        setting(config, "cert", &pki.join(format!("{name}.pem")).display());
        setting(config, "key", &pki.join(format!("{name}.key")).display());
    }
}

impl Home {
    /// Where `cargo xtask` wants it.
    fn wanted() -> Self {
        match std::env::var(HOME_VARIABLE).as_deref() {
            Ok("azure") => Self::Azure,
            Ok(other) => panic!("{HOME_VARIABLE} is {other:?}: it is azure, or not set"),
            Err(_) => Self::Directory,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        let logs = self.logs.lock().expect("nobody panics over a list");
        for (name, log) in &*logs {
            eprintln!("---- the end of {name}'s log ----\n{}", tail(log));
        }
    }
}

impl ServerSpec {
    /// A new server that commits twice a second, with room in its log.
    pub fn new(name: &str, vault: impl Into<VaultPlace>) -> Self {
        Self {
            name: name.to_owned(),
            id: ServerId(rand::random()),
            vault: vault.into(),
            log_quota: 1 << 30,
            log_file_len: 32 << 20,
            commit_interval_ms: 500,
            memory_max: None,
            log_dir: None,
            more: String::new(),
        }
    }
}

impl AgentSpec {
    /// Room for what a burst leaves.
    pub const fn new(source: PathBuf) -> Self {
        Self {
            source,
            queue_max: 256 << 20,
            block_size: 512,
            direct: false,
            resync_rate_max: None,
            memory_max: None,
            more: String::new(),
        }
    }
}

impl Node {
    /// Starts the process, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it runs already, ends, or does not answer.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        self.process = Some(Process::start(&self.name, command, &self.log)?);
        let what = format!("{}'s control socket", self.name);
        wait::until(&what, START_TIME_MAX, async || {
            if let Some(ended) = self.ended()? {
                anyhow::bail!("{} ended: {ended}", self.name);
            }
            let answers = tokio::net::UnixStream::connect(&self.control).await.is_ok();
            Ok(answers.then_some(()))
        })
        .await
    }

    /// How it ended, if it has, by itself.
    ///
    /// # Errors
    ///
    /// When it was never started.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process()?.poll()
    }

    /// Asks it to stop, waits until it has drained, and returns how it ended.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(STOP_TIME_MAX).await
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end in time.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = self.process()?.ended(within).await?;
        self.process = None;
        Ok(ended)
    }

    /// Kills it; it is gone when this returns.
    ///
    /// # Errors
    ///
    /// When it does not run, or had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(ended) = self.ended()? {
            anyhow::bail!("{} had ended by itself: {ended}", self.name);
        }
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// The id of the process.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn id(&mut self) -> Result<u32> {
        Ok(self.process()?.id())
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// Waits until a SIGSTOP has reached all of its threads.
    ///
    /// # Errors
    ///
    /// When it does not run, or is not stopped in time.
    pub async fn until_stopped(&mut self, within: Duration) -> Result<()> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.process()?.id()));
        wait::until("a stopped process", within, async || {
            for task in tasks.read_dir()? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                // The state follows the name, which is in parentheses (proc(5)).
                let state = stat
                    .rsplit_once(')')
                    .and_then(|(_, rest)| rest.trim_start().chars().next());
                if state != Some('T') {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// Everything that it printed, in all of its lives.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        self.process
            .as_mut()
            .with_context(|| format!("{name} does not run"))
    }
}

impl Server {
    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn status(&self) -> Result<ServerStatus> {
        control::server_status(&self.node.control).await
    }

    /// Bytes of its cache log's files.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn log_len(&self) -> Result<u64> {
        let mut len = 0;
        for entry in self.log_dir.read_dir()? {
            match entry?.metadata() {
                Ok(metadata) => len += metadata.len(),
                // Removed a moment ago.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(len)
    }
}

impl Agent {
    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn status(&self) -> Result<AgentStatus> {
        control::agent_status(&self.node.control).await
    }

    /// What it says of its disk.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn disk(&self) -> Result<AgentDisk> {
        Ok(control::only_disk(&self.status().await?)?.clone())
    }

    /// Waits until its disk is in a state.
    ///
    /// # Errors
    ///
    /// When it is not in time.
    pub async fn until_state(&self, state: &str, within: Duration) -> Result<AgentDisk> {
        wait::until(&format!("state {state}"), within, async || {
            let disk = self.disk().await?;
            Ok((disk.state == state).then_some(disk))
        })
        .await
    }

    /// Waits until everything that was captured before the call is a recovery point.
    ///
    /// # Errors
    ///
    /// When it is not in time.
    pub async fn until_settled(&self, server: &Server, within: Duration) -> Result<u64> {
        let seq = self.status().await?.seq;
        wait::until("everything is a recovery point", within, async || {
            let level = self.disk().await?.state == "protected";
            let status = server.status().await?;
            let of_it = |id: &[u8]| id == self.machine.0;
            let found = status
                .machines
                .iter()
                .find(|machine| of_it(&machine.machine));
            let committed = found.is_some_and(|machine| seq <= machine.committed_cut);
            Ok((level && committed).then_some(seq))
        })
        .await
    }
}

/// Where sites are made: beside what cargo builds, on a real disk.
fn scratch() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    // A test lies in target/release/deps, a program in target/release.
    let mut folders = exe.ancestors().skip(1);
    let target = folders
        .find(|folder| !folder.ends_with("deps"))
        .and_then(Path::parent)
        .context("tests and programs lie in cargo's folders")?;
    let scratch = target.join("tmp");
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

/// Where images lie: in memory where there is plenty, else beside everything else.
fn images() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    if IMAGES_ROOM_MIN <= room && !crate::rigs::is_soak() {
        return Ok(memory.to_owned());
    }
    scratch()
}

/// A UDP port that nobody has at present.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn setting(config: &mut String, key: &str, value: &impl std::fmt::Display) {
    // Texts of TOML are written as those of Rust, for all that paths of tests hold.
    let _ = writeln!(config, "{key} = {:?}", value.to_string());
}
