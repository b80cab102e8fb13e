//! A point at which applications hold still: scripts round it, and filesystems that are frozen for it.
//!
//! ```text
//! pre-script ─▶ sync, freeze ─▶ mark ─▶ thaw ─▶ "held until now" ─▶ post-script
//!                                └──── nothing leaves the queue ────┘
//! ```
//!
//! The mark leaves the queue only with the freezer's word that everything was frozen from before it until after it.
//! Without that word it was never there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::agent::{Inner, Made, Point};
use crate::blocking::{blocking, outcome};
use crate::config::AgentConfig;
use crate::error::{CreatePointError, FreezeError, ScriptError};
use crate::freeze_core::freeze_order;
use crate::freezer::places::{self, Place};
use crate::freezer::{Freezer, ScriptSpec, run_script};
use crate::machine::Machine;
use crate::meters;
use crate::point_core::begin_app_mark;
use crate::splitter::chain;

/// See the module.
pub(crate) struct AppPoints {
    is_set: bool,
    filesystems: Vec<PathBuf>,
    places: Vec<Place>,
    pre_script: Option<PathBuf>,
    post_script: Option<PathBuf>,
    script_time_max: Duration,
    /// One point at a time. None: nothing is frozen.
    freezer: Mutex<Option<Freezer>>,
}

/// A mark that may be taken back. Dropped, it was never there.
struct Unproven<'a> {
    machine: &'a Machine,
    stays: bool,
}

impl AppPoints {
    /// Starts the freezer, if there is anything to freeze.
    ///
    /// # Errors
    ///
    /// It does not start, or something of the agent's lies on what would be frozen.
    pub(crate) async fn start(config: &AgentConfig) -> Result<Self, FreezeError> {
        let wanted = &config.app_points;
        let filesystems = freeze_order(wanted.filesystems.clone());
        let places = Place::of(config);
        let mut freezer = None;
        if !filesystems.is_empty() {
            check(filesystems.clone(), places.clone()).await?;
            let hold_max = Duration::from_millis(u64::from(wanted.deadline_ms));
            let freezer = freezer.insert(Freezer::new(filesystems.clone(), hold_max));
            freezer.start().await?;
        }
        Ok(Self {
            is_set: wanted.is_set(),
            filesystems,
            places,
            pre_script: wanted.pre_script.clone(),
            post_script: wanted.post_script.clone(),
            script_time_max: Duration::from_secs(u64::from(wanted.script_timeout_s)),
            freezer: Mutex::new(freezer),
        })
    }

    async fn script(&self, script: Option<&Path>, point: &str) -> Result<(), ScriptError> {
        match script {
            Some(path) => {
                let within = self.script_time_max;
                run_script(ScriptSpec {
                    path,
                    point,
                    within,
                })
                .await
            }
            None => Ok(()),
        }
    }
}

async fn check(filesystems: Vec<PathBuf>, places: Vec<Place>) -> Result<(), FreezeError> {
    blocking(move || places::check(&filesystems, &places)).await
}

impl Inner {
    /// See [`crate::Agent::create_app_point`]. Goes on when nobody waits any more, so that no script is left half
    /// done.
    pub(crate) async fn create_app_point(
        self: &Arc<Self>,
        name: &str,
        wait: Duration,
    ) -> Result<Point, CreatePointError> {
        let (agent, point) = (Arc::clone(self), name.to_owned());
        let making = async move {
            let made = agent.app_point(&point).await;
            meters::point("app", made.as_ref().err().map(CreatePointError::word));
            made
        };
        let (made, held) = outcome(self.background.spawn(making).await).await?;
        let mut point = self.settle(made, name, wait).await;
        point.held = held;
        Ok(point)
    }

    async fn app_point(&self, name: &str) -> Result<(Made, Option<Duration>), CreatePointError> {
        let app = &self.app_points;
        if !app.is_set {
            return Err(CreatePointError::NoAppPoints);
        }
        let mut freezer = app.freezer.lock().await;
        // Before anybody is made to hold still for nothing.
        self.level_disks(name)?;
        let mut places = app.places.clone();
        let sources = self.disks.all();
        let sources = sources
            .iter()
            .map(|disk| Place::source(&disk.config.source));
        places.extend(sources.flatten());
        let checked = check(app.filesystems.clone(), places).await;
        checked.map_err(CreatePointError::Freeze)?;
        let made = match app.script(app.pre_script.as_deref(), name).await {
            Ok(()) => self.mark_held(freezer.as_mut(), name).await,
            Err(error) => Err(CreatePointError::PreScript(error)),
        };
        if let Err(error) = app.script(app.post_script.as_deref(), name).await {
            let error = chain(&error);
            tracing::error!(machine = %self.machine.id, name, error, "the script after a point did not succeed");
        }
        let (made, held) = made?;
        let (seq, held_ms) = (made.mark.seq.0, held.map(|held| held.as_millis()));
        tracing::info!(machine = %self.machine.id, seq, name, held_ms, "app-consistent point made");
        held.into_iter().for_each(meters::held);
        Ok((made, held))
    }

    async fn mark_held(
        &self,
        freezer: Option<&mut Freezer>,
        name: &str,
    ) -> Result<(Made, Option<Duration>), CreatePointError> {
        let (disks, level) = self.level_disks(name)?;
        let frozen = match freezer {
            Some(freezer) => Some(freezer.freeze().await.map_err(CreatePointError::Freeze)?),
            None => None,
        };
        let stamp = self.machine.clock.stamp();
        let begun = begin_app_mark(&mut self.machine.order(), &level, name, stamp);
        let begun = begun.map(|mark| (mark, Unproven::new(&self.machine)));
        let held = match frozen {
            Some(frozen) => Some(frozen.thaw().await.map_err(CreatePointError::Freeze)?),
            None => None,
        };
        let (mark, unproven) = begun?;
        unproven.stay();
        Ok((Made { mark, disks, stamp }, held))
    }
}

impl<'a> Unproven<'a> {
    const fn new(machine: &'a Machine) -> Self {
        let stays = false;
        Self { machine, stays }
    }

    fn stay(mut self) {
        self.stays = true;
    }
}

impl Drop for Unproven<'_> {
    fn drop(&mut self) {
        self.machine.order().end_bookmark(self.stays);
        self.machine.packer.notify_one();
    }
}
