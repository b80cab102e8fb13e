//! The acts in their order: set up, write, mark, attack, stop, restore, compare.

use std::path::PathBuf;
use std::time::Duration;

use everpoint_agent::{Agent, Point};
use everpoint_process_server::Stopped;
use everpoint_units::{ByteLen, DiskId, MachineId, Seq};
use everpoint_vault::{ObjectPrefix, OpenError, OpenOptions, Vault, VaultConfig, VaultUrl};
use tokio::time::{Instant, timeout};

use crate::acts::{Acts, sample};
use crate::error::QuickstartError;
use crate::folder::Folder;
use crate::history::Tick;
use crate::load::{Done, Finished, Load, LoadConfig};
use crate::report::{Attack, PointReport, Quantiles, Report, reduction_ratio};
use crate::restores;
use crate::server_host::ServerHost;
use crate::setting::Setting;
use crate::shadow::Digest;

/// Smallest disk. Unit: bytes; room for all requests in flight.
pub const SIZE_MIN: u64 = 32 << 20;
/// Largest disk: its contents are kept in memory. Unit: bytes.
pub const SIZE_MAX: u64 = 4 << 30;
/// Longest load. Unit: seconds.
pub const SECONDS_MAX: u64 = 24 * 3_600;

/// The load is a guest with several queues, no faster than a busy disk. A slower machine than the load
/// would lose the order of writes, and that is another story than the one that is told here.
const CONNECTIONS: usize = 4;
const DEPTH: usize = 4;
/// Unit: bytes a second.
const RATE_MAX: u64 = 40_000_000;
/// How long a first copy may take, which is of an empty disk.
const PROTECTED_MAX: Duration = Duration::from_secs(60);
/// How long the last write may take to the vault.
const COMMITTED_MAX: Duration = Duration::from_secs(120);
/// How long the agent may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct QuickstartConfig {
    /// Empty or missing; `None`: a fresh one.
    pub dir: Option<PathBuf>,
    /// Leave the directory in place.
    pub keep: bool,
    /// Of the disk: [`SIZE_MIN`] to [`SIZE_MAX`], whole 4 KiB.
    pub size: ByteLen,
    /// How long the load runs: 1 to [`SECONDS_MAX`].
    pub seconds: u64,
    /// `None`: one in the directory.
    pub vault: Option<VaultUrl>,
    /// Kill the process server once while the load runs.
    pub attack: bool,
    /// Of the load's random numbers.
    pub seed: u64,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The process server takes agents.
    ServerRuns { address: String, vault: String },
    /// Guests can connect.
    Exported { uri: String, size: ByteLen },
    /// The first copy is complete, and points are made from now on.
    Protected,
    /// Told each second while the load runs. `bytes_per_s` since the last time.
    Writing {
        elapsed: Duration,
        total: Duration,
        done: Done,
        bytes_per_s: u64,
        rpo_lag: Duration,
    },
    /// A bookmark was taken; what it is worth comes later.
    Bookmark {
        name: String,
        seq: Seq,
        source: Digest,
    },
    /// The process server was killed.
    ServerKilled,
    /// It takes agents again.
    ServerBack { down: Duration },
    /// The load has ended, and all that it wrote is committed.
    Committed { done: Done, took: Duration },
    /// Agent and process server have stopped: from now on there is only the vault.
    Stopped,
    /// A bookmark was restored.
    PointRestored(PointReport),
    /// A position without a bookmark was restored. `violation` says why it does not hold, if it does not.
    PositionRestored {
        seq: Seq,
        index: usize,
        count: usize,
        writes: usize,
        restore_ms: u64,
        violation: Option<String>,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub report: Report,
    /// What was left in place.
    pub kept: Option<Kept>,
    /// Removed when this is dropped, which may take a while: the verdict need not wait for it.
    _folder: Folder,
}

/// What was left in place, so that it can be looked at.
#[derive(Clone, Debug)]
pub struct Kept {
    pub dir: PathBuf,
    pub vault: VaultUrl,
    pub machine: MachineId,
    pub disk: DiskId,
}

/// A bookmark, and what the load knows of its instant.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) seq: Seq,
    pub(crate) source: Digest,
    pub(crate) tick: Tick,
}

/// What the writing half found.
struct Written {
    marks: Vec<Mark>,
    finished: Finished,
    lags: Vec<u64>,
    attacked: Option<Attack>,
    elapsed: Duration,
}

/// Who is told what happens.
pub(crate) type Tell<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// Runs the whole. Dropping the future, or what it returns, ends everything and removes the directory.
///
/// # Errors
///
/// Why there is no verdict. A difference is a verdict, see [`Report::holds`]; then the directory is kept.
pub async fn run(config: &QuickstartConfig, tell: Tell<'_>) -> Result<Outcome, QuickstartError> {
    check(config)?;
    let mut folder = Folder::create(config.dir.as_deref())?;
    if config.keep {
        folder.keep();
    }
    let mut setting = Setting::prepare(&folder, config.size, config.vault.clone())?;
    let before = journal_bytes(&setting.vault).await?;
    let written = write(config, &folder, &mut setting, tell).await?;
    tell(Event::Stopped);

    let vault = Vault::open(&setting.vault, &VaultConfig::default(), OpenOptions::READ).await?;
    let restored = restores::run(
        &vault,
        &folder,
        &setting,
        (&written.marks, &written.finished),
        config.seed,
        tell,
    );
    let restored = restored.await?;
    let journal_bytes = journal_bytes(&setting.vault).await?.saturating_sub(before);
    let done = written.finished.done;
    let report = Report {
        writes: done.writes,
        bytes_written: done.bytes_written,
        points: restored.points,
        prefix_checks: restored.prefix_checks,
        rpo_ms: Quantiles::of(written.lags),
        journal_bytes,
        reduction_ratio: reduction_ratio(done.bytes_written, journal_bytes),
        lost_writes: restored.lost_writes,
        attacked: written.attacked,
        seconds: written.elapsed.as_secs_f64(),
    };
    if !report.holds() {
        // What differs is worth a look.
        folder.keep();
    }
    let kept = (config.keep || !report.holds()).then(|| Kept {
        dir: folder.root().to_owned(),
        vault: setting.vault.clone(),
        machine: setting.machine,
        disk: setting.disk,
    });
    Ok(Outcome {
        report,
        kept,
        _folder: folder,
    })
}

fn check(config: &QuickstartConfig) -> Result<(), QuickstartError> {
    let size = config.size;
    let (min, max) = (SIZE_MIN, SIZE_MAX);
    if !(min..=max).contains(&size.0) || !size.0.is_multiple_of(4_096) {
        return Err(QuickstartError::Size { size, min, max });
    }
    let (seconds, max) = (config.seconds, SECONDS_MAX);
    if !(1..=max).contains(&seconds) {
        return Err(QuickstartError::Seconds { seconds, max });
    }
    Ok(())
}

/// Everything up to the moment when only the vault is left.
async fn write(
    config: &QuickstartConfig,
    folder: &Folder,
    setting: &mut Setting,
    tell: Tell<'_>,
) -> Result<Written, QuickstartError> {
    let mut host = start_server(folder, setting, tell).await?;
    let agent = Agent::start(setting.agent(folder)).await;
    let agent = agent.map_err(|error| QuickstartError::Agent(Box::new(error)))?;
    tell(Event::Exported {
        uri: setting.export(folder).to_string(),
        size: setting.size,
    });
    wait_protected(&agent, &host).await?;
    tell(Event::Protected);

    let load_config = LoadConfig {
        seed: config.seed,
        connections: CONNECTIONS,
        depth: DEPTH,
        rate_max: RATE_MAX,
    };
    let load = Load::start(&setting.export(folder), setting.size, load_config).await?;
    let begun = Instant::now();
    let total = Duration::from_secs(config.seconds);
    let mut lags = Vec::new();
    let server = setting.server(folder);
    let mut acts = Acts::new(server, &mut host, &agent, &load, tell);
    // Whichever comes first; the sampling never ends, and the load only with an error.
    tokio::select! {
        played = acts.play(begun, total, config.attack) => played?,
        error = load.failed() => return Err(error.into()),
        () = sample(&agent, &load, (begun, total), &mut lags, tell) => {}
    }
    let (mut marks, attacked) = acts.end();
    let elapsed = begun.elapsed();
    let finished = load.finish().await?;
    marks.push(mark_end(&agent, &finished, tell).await?);
    stop(agent, host).await?;
    Ok(Written {
        marks,
        finished,
        lags,
        attacked,
        elapsed,
    })
}

async fn start_server(
    folder: &Folder,
    setting: &mut Setting,
    tell: Tell<'_>,
) -> Result<ServerHost, QuickstartError> {
    let host = ServerHost::start(setting.server(folder)).await?;
    // The agent's configuration, and a later boot, name the port that this one got.
    setting.listen = host.server().local_address();
    tell(Event::ServerRuns {
        address: setting.listen.to_string(),
        vault: setting.vault.to_string(),
    });
    Ok(host)
}

async fn wait_protected(agent: &Agent, host: &ServerHost) -> Result<(), QuickstartError> {
    let protected = tokio::select! {
        protected = timeout(PROTECTED_MAX, agent.wait_protected()) => protected,
        why = host.ended() => return Err(QuickstartError::ServerEnded(why)),
    };
    protected.map_err(|_| QuickstartError::NotProtected {
        waited_s: PROTECTED_MAX.as_secs(),
        state: agent
            .status()
            .disks
            .first()
            .map_or_else(String::new, |disk| disk.state.clone()),
    })
}

/// Marks the end of the load: when that is committed, all is.
async fn mark_end(
    agent: &Agent,
    finished: &Finished,
    tell: Tell<'_>,
) -> Result<Mark, QuickstartError> {
    let begun = Instant::now();
    let name = "end".to_owned();
    let point = create_point(agent, &name, COMMITTED_MAX).await?;
    if !point.committed {
        let waited_s = COMMITTED_MAX.as_secs();
        return Err(QuickstartError::NotCommitted { waited_s });
    }
    tell(Event::Committed {
        done: finished.done,
        took: begun.elapsed(),
    });
    Ok(Mark {
        name,
        seq: point.seq,
        source: finished.shadow.digest(),
        tick: finished.history.now(),
    })
}

/// A bookmark on all disks of the machine.
pub(crate) async fn create_point(
    agent: &Agent,
    name: &str,
    wait: Duration,
) -> Result<Point, QuickstartError> {
    let created = agent.create_point(name, wait).await;
    created.map_err(|source| QuickstartError::Bookmark {
        name: name.to_owned(),
        source,
    })
}

async fn stop(agent: Agent, mut host: ServerHost) -> Result<(), QuickstartError> {
    agent.stop(STOP_MAX).await;
    match host.stop().await {
        Stopped::Drained => Ok(()),
        Stopped::LeftInLog => Err(QuickstartError::LeftInLog),
    }
}

/// Bytes of all journals of a vault; none if there is no vault yet.
async fn journal_bytes(url: &VaultUrl) -> Result<u64, QuickstartError> {
    let opened = Vault::open(url, &VaultConfig::default(), OpenOptions::READ).await;
    let vault = match opened {
        Ok(vault) => vault,
        Err(OpenError::Missing { .. }) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let prefix = ObjectPrefix::new("v1/journal").expect("a prefix of the format");
    let listing = vault.list_to_end(&prefix, None).await?;
    Ok(listing.objects.iter().map(|object| object.len.0).sum())
}
