//! The replicas of the disks that this server serves: where they lie, what they may take, and one task for each.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use everpoint_format::Change;
use everpoint_format::index::Section;
use everpoint_journal::history::MachineHistory;
use everpoint_replica::{
    AzureAccount, BlobAddress, Counted, DayTraffic, PUT_LEN_MAX, PageTarget, PagesConfig,
    ParseBlobAddressError, Prices, SharedTraffic, Traffic, UtcDay, VhdFile,
};
use everpoint_transport::ByteBudget;
use everpoint_units::{ByteLen, DiskId, MachineId};
use everpoint_vault::AccessError;
use tokio::sync::{mpsc, watch};

use crate::apply_core::pace::Pace;
use crate::apply_core::{ApplyLimits, Effect, Followed, PageWork, RUN_LEN, Rates, Room};
use crate::apply_task::staging::{Arena, Staging};
use crate::apply_task::{ApplyTask, Command, ReplicaStatus};
use crate::at_hand::{AtHand, ObjectAtHand};
use crate::clock::{Clock, wall_time};
use crate::config::{ReplicaConfig, SettingError};
use crate::shared::Shared;

/// Commands that wait, at most.
const COMMANDS_MAX: usize = 4;
/// Pauses after something that failed, first and longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The share of the memory of replicas that is for runs of windows, as one part of so many.
const RUNS_PART: usize = 4;
/// So many windows that are full of runs have room at once.
const WINDOWS_OF_RUNS_MIN: usize = 4;

/// Why replicas cannot be had as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error(
        "replica.url: {text:?} is no place for replicas: write az://container/prefix or file:///dir"
    )]
    Url { text: String },
    #[error("replica.url")]
    Address(#[from] ParseBlobAddressError),
    #[error("replica.url: {path:?} is no directory: create it first")]
    NoDirectory { path: PathBuf },
    #[error("replica.azure")]
    Access(#[from] AccessError),
    #[error("replica.azure")]
    Client(#[from] object_store::Error),
    #[error("replica.staging_dir: {path:?}")]
    Staging { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Replicas {
    place: Place,
    pub(crate) limits: ApplyLimits,
    /// For what is staged and sent.
    pub(crate) budget: ByteBudget,
    pub(crate) at_hand: AtHand,
    staging: Arc<Staging>,
    runs: Runs,
    /// Of all targets together.
    account: Mutex<Pace>,
    clock: Clock,
    pub(crate) prices: Prices,
    slots: Mutex<BTreeMap<DiskId, Slot>>,
}

/// Runs that all windows together remember. Clones count the same.
#[derive(Clone, Debug)]
struct Runs {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// Those of one replica; dropped, there are none of it.
#[derive(Debug)]
pub(crate) struct RunCount {
    all: Runs,
    own: usize,
}

#[derive(Debug)]
enum Place {
    Azure {
        account: AzureAccount,
        container: String,
        prefix: String,
    },
    Directory(PathBuf),
}

#[derive(Debug)]
struct Slot {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ReplicaStatus>,
    traffic: SharedTraffic,
}

impl Replicas {
    /// The replicas that a configuration wants, in so much memory. `default_staging` is where windows wait if nothing
    /// else is said.
    pub(crate) fn new(
        config: &ReplicaConfig,
        default_staging: PathBuf,
        memory: usize,
        clock: Clock,
    ) -> Result<Self, ReplicaError> {
        config.check()?;
        let place = Place::of(config)?;
        let staging_dir = config.staging_dir.clone().unwrap_or(default_staging);
        std::fs::create_dir_all(&staging_dir).map_err(|source| ReplicaError::Staging {
            path: staging_dir.clone(),
            source,
        })?;
        let rates = Rates {
            requests_per_s: config.requests_per_s,
            bytes_per_s: config.bytes_per_s,
        };
        let account = Rates {
            requests_per_s: config.account_requests_per_s,
            bytes_per_s: config.account_bytes_per_s,
        };
        let for_runs = memory / RUNS_PART;
        let budget = ByteBudget::new(memory - for_runs);
        let runs = Runs {
            count: Arc::default(),
            max: for_runs / RUN_LEN,
        };
        Ok(Self {
            place,
            limits: ApplyLimits {
                window_min: Duration::from_millis(config.window_ms_min),
                window_max: Duration::from_millis(config.window_ms_max),
                window_len_max: ByteLen(config.window_bytes_max),
                window_runs_max: runs.max / WINDOWS_OF_RUNS_MIN,
                known_len_max: ByteLen(config.window_bytes_max),
                in_flight_max: config.in_flight_max,
                rates,
                put_len_max: ByteLen(PUT_LEN_MAX),
                back_off_min: BACK_OFF_MIN,
                back_off_max: BACK_OFF_MAX,
            },
            at_hand: AtHand::new(budget.capacity() as u64),
            budget,
            staging: Arc::new(Staging::new(&staging_dir, config.staging_bytes_max)),
            runs,
            account: Mutex::new(Pace::new(account)),
            clock,
            prices: config.prices.clone(),
            slots: Mutex::default(),
        })
    }

    /// Brings the replicas of a machine's disks forward, from now on.
    pub(crate) fn begin_all(self: &Arc<Self>, shared: &Arc<Shared>, history: &MachineHistory) {
        for (disk, known) in history.disks() {
            if !known.has_ended() && 0 < known.sectors {
                self.begin(shared, history.machine(), *disk, known.sectors);
            }
        }
    }

    /// An object is committed: it is at hand for a while, and a disk that begins in it is followed from now on.
    pub(crate) fn committed(self: &Arc<Self>, shared: &Arc<Shared>, object: ObjectAtHand) {
        let object = Arc::new(object);
        for section in &object.index.sections {
            if let Some(sectors) = begins_with(section) {
                self.begin(shared, section.machine, section.disk, sectors);
            }
        }
        self.at_hand.push(object);
    }

    fn begin(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        machine: MachineId,
        disk: DiskId,
        sectors: u64,
    ) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots
            .get(&disk)
            .is_some_and(|slot| !slot.commands.is_closed())
        {
            return;
        }
        let about = Followed {
            vault: shared.header.vault,
            machine,
            disk,
            sectors,
        };
        // A task that begins again goes on counting.
        let traffic = slots.get(&disk).map(|slot| slot.traffic.clone());
        let traffic = traffic.unwrap_or_default();
        let today = || UtcDay::of(wall_time());
        let target = Arc::new(Counted::new(self.target(disk), traffic.clone(), today));
        let task = ApplyTask::new(Arc::clone(shared), Arc::clone(self), about, target);
        let (commands, commands_rx) = mpsc::channel(COMMANDS_MAX);
        let (status_tx, status) = watch::channel(task.status());
        let slot = Slot {
            commands,
            status,
            traffic,
        };
        slots.insert(disk, slot);
        drop(slots);
        shared.spawn(task.run(commands_rx, status_tx));
    }

    fn target(&self, disk: DiskId) -> Arc<dyn PageTarget> {
        match &self.place {
            Place::Azure {
                account,
                container,
                prefix,
            } => Arc::new(account.pages(container, blob_name(prefix, disk))),
            Place::Directory(dir) => Arc::new(VhdFile::new(dir, disk.to_string())),
        }
    }

    /// Where the replica of a disk lies.
    pub(crate) fn url(&self, disk: DiskId) -> String {
        match &self.place {
            Place::Azure {
                container, prefix, ..
            } => format!("az://{container}/{}", blob_name(prefix, disk)),
            Place::Directory(dir) => format!("file://{}/{disk}", dir.display()),
        }
    }

    /// How the replica of a disk is, and what its target was asked for; `None` where there is none.
    pub(crate) fn status(&self, disk: DiskId) -> Option<(ReplicaStatus, Traffic)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(&disk)?;
        Some((slot.status.borrow().clone(), slot.traffic.now()))
    }

    /// What all targets were asked for today.
    pub(crate) fn traffic_today(&self) -> DayTraffic {
        let today = UtcDay::of(wall_time());
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = DayTraffic::default();
        for slot in slots.values() {
            if let Some((_, day)) = slot.traffic.now().days().find(|(day, _)| *day == today) {
                all.add(&day);
            }
        }
        all
    }

    /// Has a replica written again; whether there is one.
    pub(crate) fn rebuild(&self, disk: DiskId) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(&disk);
        slot.is_some_and(|slot| slot.commands.try_send(Command::Rebuild).is_ok())
    }

    /// A place for the bytes of a window.
    pub(crate) fn arena(&self) -> io::Result<Arena> {
        self.staging.arena()
    }

    /// A replica's count of the runs that it remembers.
    pub(crate) fn run_count(&self) -> RunCount {
        RunCount {
            all: self.runs.clone(),
            own: 0,
        }
    }

    /// How much room windows have.
    pub(crate) fn room(&self) -> Room {
        let runs = self.runs.count.load(Ordering::Relaxed);
        if self.staging.is_full() || self.runs.max <= runs {
            Room::None
        } else if self.staging.is_crowded() || self.runs.max / 2 <= runs {
            Room::Little
        } else {
            Room::Plenty
        }
    }

    /// Waits until the account takes a request.
    pub(crate) async fn account_pace(&self, effect: &Effect) {
        let len = match effect {
            Effect::Work {
                work: PageWork::Put { extent, .. },
                ..
            } => extent.byte_len().0,
            _ => 0,
        };
        loop {
            let now = self.clock.now();
            let ready_at = {
                let mut pace = self.account.lock().unwrap_or_else(PoisonError::into_inner);
                if pace.take(1, len, now) {
                    return;
                }
                pace.ready_at()
            };
            self.clock.sleep_until(Some(ready_at)).await;
        }
    }
}

impl RunCount {
    /// It remembers so many now.
    pub(crate) fn set(&mut self, runs: usize) {
        self.all.count.fetch_add(runs, Ordering::Relaxed);
        self.all.count.fetch_sub(self.own, Ordering::Relaxed);
        self.own = runs;
    }
}

impl Drop for RunCount {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Place {
    fn of(config: &ReplicaConfig) -> Result<Self, ReplicaError> {
        let text = config.url.trim_end_matches('/');
        if let Some(path) = text.strip_prefix("file://") {
            let path = PathBuf::from(path);
            if !path.is_absolute() || !path.is_dir() {
                return Err(ReplicaError::NoDirectory { path });
            }
            return Ok(Self::Directory(path));
        }
        let Some(rest) = text.strip_prefix("az://") else {
            let text = config.url.clone();
            return Err(ReplicaError::Url { text });
        };
        let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // What is no name for a blob is none for a replica either.
        let sample: BlobAddress =
            format!("az://{container}/{}", blob_name(prefix, DiskId([0; 16]))).parse()?;
        let access = config.azure.credentials(sample.container())?;
        let pages = PagesConfig {
            ca_pem: access.ca_pem,
            ..PagesConfig::default()
        };
        let account =
            AzureAccount::new(access.account, access.endpoint, access.credentials, pages)?;
        Ok(Self::Azure {
            account,
            container: container.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

fn blob_name(prefix: &str, disk: DiskId) -> String {
    match prefix {
        "" => format!("{disk}.vhd"),
        prefix => format!("{prefix}/{disk}.vhd"),
    }
}

/// The size that a section gives a disk that begins in it. Unit: sectors.
fn begins_with(section: &Section) -> Option<u64> {
    let records = section.blocks.iter().flat_map(|block| &block.records);
    let mut sectors = None;
    for record in records {
        match record.change {
            Change::DiskBegin { sectors: of, .. } => sectors = Some(of),
            Change::Resize { sectors: of } => sectors = sectors.map(|_| of),
            _ => (),
        }
    }
    sectors.filter(|sectors| 0 < *sectors)
}
