//! A server, an honest agent that goes on, and what the server counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use everpoint_process_server::{ProcessServer, Stopped};
use everpoint_transport::CloseReason;
use everpoint_units::MachineId;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinHandle;

use crate::forge::CANARY;
use crate::raw::{self, Ended, Raw};
use crate::rig::{Agent, DISK, Disk, MACHINE, Site, data, soon};

/// What the honest agent writes.
const HONEST: &[u8; 24] = b"what-an-honest-peer-sent";
/// How often it writes.
const EVERY: Duration = Duration::from_millis(2);
/// Counters belong to the process: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());
static COUNTERS: OnceLock<PrometheusHandle> = OnceLock::new();

/// See the module.
pub(crate) struct World {
    pub(crate) site: Site,
    pub(crate) server: ProcessServer,
    honest: Option<JoinHandle<(Agent, Disk)>>,
    stop: watch::Sender<bool>,
    cached: watch::Receiver<u64>,
    before: BTreeMap<String, u64>,
    expected: BTreeMap<String, u64>,
    machines: u8,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) async fn begin() -> Self {
        let turn = TURN.lock().await;
        let site = Site::new();
        let mut config = site.server_config(1);
        config.commit.interval_ms = 1_000;
        config.machines_max = 64;
        let server = site.start(config).await;
        let (stop, stopping) = watch::channel(false);
        let (caches, cached) = watch::channel(0);
        let honest = Agent::connect(&site, &server).await;
        let disk = honest.open(DISK).await;
        let honest = tokio::spawn(write_on((honest, disk), stopping, caches));
        Self {
            before: counters(),
            site,
            server,
            honest: Some(honest),
            stop,
            cached,
            expected: BTreeMap::new(),
            machines: 0,
            _turn: turn,
        }
    }

    /// A certificate of a machine that nobody has seen yet, and its connection.
    pub(crate) async fn peer(&mut self) -> Raw {
        self.peer_with(1 << 20).await
    }

    /// The same with so much room for answers. Unit: bytes.
    pub(crate) async fn peer_with(&mut self, window: u32) -> Raw {
        self.machines += 1;
        let machine = MachineId([self.machines; 16]);
        self.link(machine, window).await
    }

    /// One more connection of a machine.
    pub(crate) async fn link(&self, machine: MachineId, window: u32) -> Raw {
        let issued = self.site.issue(machine, Site::validity());
        let who = (machine, Some(issued));
        let connected = raw::connect(&self.site, self.server.local_address(), who, window).await;
        connected.expect("the certificate is good")
    }

    /// A peer breaks a rule, and loses its connection for it; nobody else notices.
    pub(crate) async fn broken<T>(
        &mut self,
        what: &str,
        reason: CloseReason,
        breaks: impl AsyncFnOnce(&Raw) -> T,
    ) {
        let peer = self.peer().await;
        let _kept = breaks(&peer).await;
        self.ended(what, reason, &peer).await;
    }

    /// A peer loses its connection for this reason, which is counted.
    pub(crate) async fn ended(&mut self, what: &str, reason: CloseReason, peer: &Raw) {
        assert_eq!(peer.ended().await, Ended::with(reason), "{what}");
        self.expect(&ended_for(reason));
        if reason != CloseReason::Slow {
            let name = reason.name();
            self.expect(&format!(
                "everpoint_server_violations_total{{reason=\"{name}\"}}"
            ));
        }
        self.unharmed(what).await;
    }

    /// One more of a counter.
    pub(crate) fn expect(&mut self, counter: &str) {
        *self.expected.entry(counter.to_owned()).or_default() += 1;
    }

    /// What the honest agent writes from now on is cached.
    pub(crate) async fn unharmed(&mut self, after: &str) {
        let now = *self.cached.borrow();
        // Two: the next one may have been on its way already.
        let goes_on = self.cached.wait_for(|cached| now + 2 <= *cached);
        let goes_on = tokio::time::timeout(Duration::from_secs(30), goes_on).await;
        assert!(
            goes_on.is_ok_and(|still| still.is_ok()),
            "harmed by {after}"
        );
    }

    /// Everything was counted once, the honest agent has all that it wrote, and of the others nothing is
    /// left.
    pub(crate) async fn end(mut self) {
        self.stop.send_replace(true);
        let honest = self.honest.take().expect("begun with it");
        let (_agent, mut disk) = soon("the last block", honest).await.expect("unharmed");
        disk.committed(*self.cached.borrow()).await;
        // Whoever was closed is counted a moment after it heard of it.
        let counted = async {
            while !self
                .expected
                .iter()
                .all(|(name, count)| self.counted(name) == *count)
            {
                tokio::time::sleep(EVERY).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(10), counted).await;
        for (name, count) in &self.expected {
            assert_eq!(self.counted(name), *count, "{name}: {settled:?}");
        }
        let (high, capacity) = self.server.memory_high_water();
        assert!(high <= capacity, "{high} of {capacity} bytes");
        let (history, walked) = self.site.history(MACHINE).await;
        assert_eq!(walked.damage, []);
        assert_eq!(history.disks()[&DISK].position, disk.tail);
        let (log, vault) = (self.site.path("server-1-log"), self.site.vault_dir());
        assert!(!lies_in(CANARY, &log));
        assert_eq!(self.server.stop().await, Stopped::Drained);
        assert!(lies_in(HONEST, &vault), "or else nothing would be found");
        for dir in [&log, &vault] {
            assert!(!lies_in(CANARY, dir), "{}", dir.display());
        }
    }

    fn counted(&self, name: &str) -> u64 {
        let before = self.before.get(name).copied().unwrap_or(0);
        counters().get(name).copied().unwrap_or(0) - before
    }
}

pub(crate) fn ended_for(reason: CloseReason) -> String {
    let name = reason.name();
    format!("everpoint_server_connections_ended_total{{reason=\"{name}\"}}")
}

/// An agent that writes a piece after the other, each after the one before is cached.
async fn write_on(
    (agent, mut disk): (Agent, Disk),
    stop: watch::Receiver<bool>,
    cached: watch::Sender<u64>,
) -> (Agent, Disk) {
    let first = disk.first_block();
    disk.send(&first).await;
    let mut number = 1;
    while !*stop.borrow() {
        disk.cached(number).await;
        cached.send_replace(number);
        let raw = HONEST.iter().copied().cycle().take(4_096).collect();
        let block = disk.block_of(data(8 * (number % 1_000), 8), raw);
        disk.send(&block).await;
        number += 1;
        tokio::time::sleep(EVERY).await;
    }
    disk.cached(number).await;
    cached.send_replace(number);
    (agent, disk)
}

/// Every counter with its labels.
fn counters() -> BTreeMap<String, u64> {
    let handle = COUNTERS.get_or_init(|| {
        let installed = PrometheusBuilder::new().install_recorder();
        installed.expect("the first recorder of this process")
    });
    let text = handle.render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let counts = lines.filter_map(|line| {
        let (name, count) = line.rsplit_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    counts.collect()
}

/// Whether `needle` lies in a file below `dir`.
fn lies_in(needle: &[u8], dir: &Path) -> bool {
    let mut unread: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = unread.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            unread.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            // A file of the log may have been freed a moment ago.
            let bytes = std::fs::read(&path).unwrap_or_default();
            let mut starts = bytes.windows(needle.len());
            if starts.any(|window| window == needle) {
                return true;
            }
        }
    }
    false
}
