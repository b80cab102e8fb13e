//! The agent as a whole: threads, tasks, and the order in which they begin and end.
//!
//! | threads | what runs there |
//! |---|---|
//! | guest | the NBD server and everything between a request and its completion |
//! | background, of lower priority | packing, sending, the session, resyncs, the control socket |
//!
//! So a guest's request never waits for a processor that compresses or encrypts. Both kinds belong to
//! the agent: several agents can live in one process, and each can be killed alone.

mod disks;
mod start;
mod stop;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use everpoint_capture::Stamp;
use everpoint_format::record::NAME_LEN_MAX;
use everpoint_nbd::Server as NbdServer;
use everpoint_units::{MachineId, Seq, WallTime};
use everpoint_wire::control::AgentStatus;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app_point::AppPoints;
use crate::config::AgentConfig;
use crate::disk::Disk;
use crate::disk_core::report::DiskStateWord;
use crate::disk_table::DiskTable;
use crate::disk_task::Session;
use crate::error::CreatePointError;
use crate::machine::Machine;
use crate::meters;
use crate::packer_task::PackRoutes;
use crate::point_core::{Fate, LevelDisk, Mark, mark};
use crate::session_task::SessionShared;
use crate::state::StateDir;
use crate::status;

pub use stop::Stopped;

/// A running agent. Dropped, it ends at once, as if it were killed.
pub struct Agent {
    inner: Arc<Inner>,
    guest: Option<Runtime>,
    background: Option<Runtime>,
}

/// What the agent's parts are reached by.
pub(crate) struct Inner {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) state: Arc<StateDir>,
    pub(crate) nbd: NbdServer,
    /// Where the NBD server listens on TCP, with the port that it got.
    pub(crate) tcp: OnceLock<SocketAddr>,
    pub(crate) disks: Arc<DiskTable>,
    pub(crate) routes: Arc<PackRoutes>,
    pub(crate) sessions: watch::Sender<Option<Session>>,
    pub(crate) session: Arc<SessionShared>,
    pub(crate) app_points: AppPoints,
    /// Attaching and detaching, one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) guest: Handle,
    pub(crate) background: Handle,
    /// Tasks that live as long as the agent.
    pub(crate) tasks: Mutex<JoinSet<()>>,
}

/// A mark that has its place.
pub(crate) struct Made {
    pub(crate) mark: Mark,
    pub(crate) disks: Vec<Arc<Disk>>,
    pub(crate) stamp: Stamp,
}

/// A point that was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Point {
    /// Its position.
    pub seq: Seq,
    /// Its time by the agent's clock, made true by what the agent knows of the server's: as it is listed.
    pub at: WallTime,
    /// Whether it was seen committed while that was waited for.
    pub committed: bool,
    /// Whether a disk lost its write order while that was waited for: the point may have gone under,
    /// and has to be made again.
    pub lost: bool,
    /// For how long writes were held for it, where filesystems were frozen.
    pub held: Option<Duration>,
}

impl Agent {
    /// The machine that it protects.
    pub fn machine(&self) -> MachineId {
        self.inner.machine.id
    }

    /// Where everything stands, as the control socket says it.
    pub fn status(&self) -> AgentStatus {
        status::of(&self.inner)
    }

    /// Where the NBD server listens on TCP, if it does.
    pub fn nbd_tcp(&self) -> Option<SocketAddr> {
        self.inner.tcp.get().copied()
    }

    /// Marks this instant in the write order of all disks, under `name`, and waits up to `wait`
    /// until it is committed, or lost.
    ///
    /// # Errors
    ///
    /// See [`CreatePointError`]; nothing was marked.
    pub async fn create_point(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<Point, CreatePointError> {
        self.inner.create_point(name, wait).await
    }

    /// Marks an instant at which applications hold still: see [`crate::AppPointsConfig`].
    ///
    /// # Errors
    ///
    /// See [`CreatePointError`]; nothing was marked.
    pub async fn create_app_point(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<Point, CreatePointError> {
        self.inner.create_app_point(name, wait).await
    }

    /// Waits until every disk is protected. Cancel-safe.
    pub async fn wait_protected(&self) {
        self.wait_for(|state| state == DiskStateWord::Protected)
            .await;
    }

    /// Waits until every disk's state is one that `is_good`. Cancel-safe.
    pub async fn wait_for(&self, is_good: impl Fn(DiskStateWord) -> bool) {
        loop {
            let disks = self.inner.disks.all();
            let waits_for = disks.iter().find(|disk| !is_good(disk.state()));
            let Some(disk) = waits_for else {
                return;
            };
            let mut reports = disk.report.subscribe();
            let failing = || {
                disk.progress
                    .failing
                    .load(std::sync::atomic::Ordering::Relaxed)
            };
            let reached = reports
                .wait_for(|report| is_good(report.state(failing())))
                .await;
            reached.expect("the disk holds the sender");
        }
    }
}

impl Inner {
    pub(crate) async fn create_point(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<Point, CreatePointError> {
        let made = self.crash_point(name, wait).await;
        meters::point("crash", made.as_ref().err().map(CreatePointError::word));
        made
    }

    async fn crash_point(&self, name: &str, wait: Duration) -> Result<Point, CreatePointError> {
        let (disks, level) = self.level_disks(name)?;
        let stamp = self.machine.clock.stamp();
        let marked = mark(&mut self.machine.order(), &level, name, stamp);
        let mark = marked?;
        self.machine.packer.notify_one();
        tracing::info!(machine = %self.machine.id, seq = mark.seq.0, name, "point made");
        let made = Made { mark, disks, stamp };
        Ok(self.settle(made, name, wait).await)
    }

    /// All disks of the machine, and the generations in which they are level.
    ///
    /// # Errors
    ///
    /// Why nothing can be marked under this name.
    pub(crate) fn level_disks(
        &self,
        name: &str,
    ) -> Result<(Vec<Arc<Disk>>, Vec<LevelDisk>), CreatePointError> {
        if name.is_empty() || NAME_LEN_MAX < name.len() {
            return Err(CreatePointError::Name);
        }
        let disks = self.disks.all();
        if disks.is_empty() {
            return Err(CreatePointError::NoDisk);
        }
        let mut level = Vec::with_capacity(disks.len());
        for disk in &disks {
            let state = disk.state();
            // Without a server a point is recorded as writes are, and committed later.
            let generation = disk.report.borrow().level_generation();
            let generation = generation.filter(|_| state != DiskStateWord::Failed);
            let Some(generation) = generation else {
                let name = disk.config.name.clone();
                return Err(CreatePointError::NotProtected { name, state });
            };
            let slot = disk.slot;
            level.push(LevelDisk { slot, generation });
        }
        Ok((disks, level))
    }

    /// Waits up to `wait` until a mark is committed or lost, and tells of it.
    pub(crate) async fn settle(&self, made: Made, name: &str, wait: Duration) -> Point {
        let fate = self.fate(&made.mark, &made.disks, wait).await;
        let seq = made.mark.seq;
        if fate == Fate::Lost {
            tracing::warn!(machine = %self.machine.id, seq = seq.0, name, "point lost");
        }
        Point {
            seq,
            at: made.stamp.at.shifted(self.machine.clock_offset()),
            committed: fate == Fate::Committed,
            lost: fate == Fate::Lost,
            held: None,
        }
    }

    /// Waits up to `wait` until what was recorded of `disks` is committed or lost. Cancel-safe.
    async fn fate(&self, mark: &Mark, disks: &[Arc<Disk>], wait: Duration) -> Fate {
        let mut cuts = self.machine.committed_cut.subscribe();
        // A disk says so in its report when its order is lost; nothing else would end the wait then.
        let reports = disks.iter().map(|disk| disk.report.subscribe());
        let mut reports: Vec<_> = reports.collect();
        let settled = async {
            loop {
                // Read before the order is looked at: see `Mark::fate`.
                let cut = *cuts.borrow_and_update();
                let fate = mark.fate(&self.machine.order(), cut);
                if fate != Fate::Open {
                    return fate;
                }
                let changes = reports.iter_mut().map(|report| Box::pin(report.changed()));
                // Both are cancel-safe, and their senders live as long as the machine and `disks`.
                tokio::select! {
                    _ = cuts.changed() => {}
                    _ = futures::future::select_all(changes) => {}
                }
            }
        };
        let waited = tokio::time::timeout(wait, settled).await;
        waited.unwrap_or(Fate::Open)
    }
}
