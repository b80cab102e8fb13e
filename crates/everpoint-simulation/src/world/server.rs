//! A process server's shell as the world makes it: boots, sessions, the log, the commit.

mod boot;
mod commit;
mod log;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_cache_log::storage::memory::{Faults, MemoryStorage};
use everpoint_cache_log::{
    Append, AppendError, CacheLogConfig, FileName, LogOwner, LogPosition, LogReader, OpenError,
    ReadError, Recovered, SteppedLog, Written,
};
use everpoint_format::cache_log::LogFileNo;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_journal::commit::CommitLimits;
use everpoint_process_server::apply_core;
use everpoint_process_server::backlog_core::{BacklogCore, Cached, Next};
use everpoint_process_server::boot_core::{BootCore, BootStep};
use everpoint_process_server::commit_core::{CommitCore, Effect, Writer};
use everpoint_process_server::machine_core::{BlockAnswer, MachineCore, SessionId};
use everpoint_process_server::ownership_core::NotServed;
use everpoint_process_server::reduce;
use everpoint_process_server::tail_core::TailCore;
use everpoint_replica::Remedy;
use everpoint_transport::CloseReason;
use everpoint_units::{ByteLen, DiskId, JournalId, MachineId, Moment, ObjectNo};
use everpoint_wire::{Compare, Hello, HelloAnswer, PROTOCOL, RefusalReason, ToAgent};

use super::faults::{Loss, Node};
use super::jobs::Job;
use super::link::{Link, LinkId, Message, Side};
use super::oracle::index;
use super::random::Random;
use super::replica::{Place, Replica};
use super::store::Reply;
use super::target::Told;
use super::{
    DIGEST_KEY, Event, VAULT, World, disk_id, machine_id, machine_of, place_of, server_id,
};

/// Length of a file of the log. Unit: bytes.
const FILE_LEN: u64 = 128 << 10;
/// Blocks that lie in memory, beyond which they are read again. Unit: bytes.
const BACKLOG_MEMORY_MAX: usize = 24 << 10;

/// A server: what outlives its process, and the process.
pub(crate) struct Server {
    index: usize,
    random: Random,
    disk: MemoryStorage,
    /// Its own memory of the journals that it opened.
    pub(crate) journals: Vec<JournalId>,
    pub(crate) life_no: u32,
    pub(crate) life: Option<Life>,
    frozen_until: Moment,
    no_space: bool,
    /// Every sync of its log fails until then.
    pub(crate) sick_until: Moment,
    /// Its disk takes long until then.
    pub(crate) slow_until: Moment,
    lies: bool,
    /// Whether its machine dies with its process in the middle of an operation of its disk.
    power_goes_too: bool,
    /// Its disk lied or rotted: what it says it holds may not be there, and that has to be noticed.
    pub(crate) harmed: bool,
    /// The harm may pass for a write that was torn: then only those who held its word against it can notice.
    pub(crate) harmed_quietly: bool,
    /// The last of the log's files in which a boot found records: what is in these was read and synced, and
    /// may never pass for torn.
    read_through: Option<LogFileNo>,
    /// The log's files in which a bit turned since a boot read them.
    rotten: BTreeSet<FileName>,
    /// Its disk, and its memory of its journals, as they once were.
    remembered: Option<Picture>,
}

/// What a server's disk held.
struct Picture {
    disk: MemoryStorage,
    journals: Vec<JournalId>,
    harmed: bool,
    harmed_quietly: bool,
}

/// A running server.
pub(crate) struct Life {
    boot: BootCore,
    pub(crate) journal: Option<JournalId>,
    pub(crate) log: Option<SteppedLog>,
    recovered: Option<Recovered>,
    tail_core: TailCore,
    /// The tail that is taken up, and the block that waits for its machine.
    tail: Option<LogReader>,
    tail_block: Option<ChangeBlock>,
    pub(crate) serves: bool,
    pub(crate) machines: BTreeMap<MachineId, Machine>,
    /// What came and was not looked at, in its order.
    inbox: VecDeque<(LinkId, SessionId, DiskId, Arrived)>,
    appends: VecDeque<(Append, ChangeBlock, Vec<PieceDigest>)>,
    log_awake: bool,
    pub(crate) commit: Option<CommitCore>,
    /// The last object of the own journal that is committed.
    pub(crate) committed: Option<Place>,
    /// Of the disks of its machines.
    pub(crate) replicas: BTreeMap<DiskId, Replica>,
    pub(crate) replicas_begun: u64,
    backlog: BacklogCore,
    reader: Option<LogReader>,
    commit_at: Option<Moment>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) next_job: u64,
    /// A new journal is to be begun; nothing is frozen until then.
    pub(crate) rotating: bool,
    /// What is to be taken over in it.
    pub(crate) rotate_for: Option<JournalId>,
}

/// What a server has of a machine.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) owned: Owned,
    link: Option<(LinkId, SessionId)>,
    /// Hellos that wait until the machine is loaded.
    greetings: Vec<(LinkId, Hello)>,
}

/// What came on a disk's stream.
enum Arrived {
    Block(Bytes),
    Compare(Compare),
}

/// What is known of a machine.
#[derive(Default)]
pub(crate) enum Owned {
    #[default]
    Unknown,
    Loading,
    Serves(Box<MachineCore>),
    Refused(NotServed),
}

/// What happens in a server.
pub(crate) enum ServerEvent {
    /// Its supervisor starts it, if it does not run.
    Start,
    /// The next step of its boot.
    Boot,
    Heard(LinkId, Message),
    /// The log takes its steps.
    Log,
    /// The log notes that its last batch was synced.
    LogMark,
    Commit,
    Answered(u64, Reply),
    /// A job asks again.
    Again(u64),
    /// A replica has something to do by time alone.
    Replica(DiskId),
    /// A target answered that replica of the disk which has this number.
    TargetSays(DiskId, u64, Box<(apply_core::Effect, Result<Told, Remedy>)>),
    /// A replica is to be written again.
    Rebuild(DiskId),
}

impl Server {
    pub(crate) fn new(index: usize, seed: u64) -> Self {
        let random = Random::new(seed).split(100 + index as u64);
        Self {
            index,
            disk: MemoryStorage::new(random.split(1).next()),
            random,
            journals: Vec::new(),
            life_no: 0,
            life: None,
            frozen_until: Moment(0),
            no_space: false,
            sick_until: Moment(0),
            slow_until: Moment(0),
            lies: false,
            power_goes_too: false,
            harmed: false,
            harmed_quietly: false,
            read_through: None,
            rotten: BTreeSet::new(),
            remembered: None,
        }
    }

    /// Until when it stands still, if it does.
    pub(crate) fn frozen_until(&self, now: Moment) -> Option<Moment> {
        (now < self.frozen_until).then_some(self.frozen_until)
    }

    pub(crate) fn freeze(&mut self, until: Moment) -> bool {
        self.frozen_until = self.frozen_until.max(until);
        self.life.is_some()
    }

    /// Nothing is wrong with it any more. If it stands still, it goes on when it would have: what came
    /// meanwhile waits in its order.
    pub(crate) fn heal(&mut self) {
        self.sick_until = Moment(0);
        self.slow_until = Moment(0);
        self.lies = false;
        self.disk.set_faults(self.faults());
    }

    pub(crate) fn fail_next_sync(&mut self) -> bool {
        self.set_faults_while_serving(|disk, faults| Faults {
            sync_fails_at: Some(disk.operations() + 1),
            ..faults
        })
    }

    pub(crate) fn fail_next_write(&mut self) -> bool {
        self.set_faults_while_serving(|disk, faults| Faults {
            write_fails_at: Some(disk.operations() + 1),
            ..faults
        })
    }

    pub(crate) fn die_at_disk(&mut self, operations: u64, power: bool) -> bool {
        self.power_goes_too = power;
        self.set_faults_while_serving(|disk, faults| Faults {
            dies_at: Some(disk.operations() + operations),
            ..faults
        })
    }

    fn set_faults_while_serving(
        &mut self,
        change: impl FnOnce(&MemoryStorage, Faults) -> Faults,
    ) -> bool {
        let serves = self.life.as_ref().is_some_and(|life| life.serves);
        if serves {
            self.disk.set_faults(change(&self.disk, self.faults()));
        }
        serves
    }

    /// What dies with the process that died in an operation of its disk.
    pub(crate) const fn loss_at_disk(&self) -> Loss {
        if self.power_goes_too {
            Loss::Unsynced
        } else {
            Loss::Nothing
        }
    }

    /// Whether the process died in an operation of its disk.
    pub(crate) fn is_dead_at_disk(&self) -> bool {
        self.life.is_some() && self.disk.is_dead()
    }

    pub(crate) fn take_space(&mut self) -> bool {
        self.no_space = true;
        self.disk.set_faults(self.faults());
        self.life.is_some()
    }

    /// Its disk lies about syncs from now on.
    pub(crate) fn lie(&mut self) -> bool {
        self.lies = true;
        self.harmed = true;
        self.harmed_quietly = true;
        self.disk.set_faults(self.faults());
        self.life.is_some()
    }

    pub(crate) fn stop_lying(&mut self) {
        self.lies = false;
    }

    /// A bit of its log turns. One cannot pass for a write that was torn, in what a boot has read and put its
    /// mark behind; of two in one file, the second may have taken the mark.
    pub(crate) fn rot(&mut self) -> bool {
        let Some(file) = self.disk.rot() else {
            return false;
        };
        let was_read = |no| self.read_through.is_some_and(|through| no <= through);
        self.harmed = true;
        self.harmed_quietly |= !matches!(file, FileName::Log(no) if was_read(no));
        self.harmed_quietly |= !self.rotten.insert(file);
        true
    }

    /// A boot read the log, up to this record.
    pub(super) fn was_read(&mut self, last: LogPosition) {
        self.read_through = Some(last.file_no());
        self.rotten.clear();
    }

    /// Takes a picture of its disk, to come back to it.
    pub(crate) fn remember(&mut self) {
        self.remembered = Some(Picture {
            disk: self.disk.fork(),
            journals: self.journals.clone(),
            harmed: self.harmed,
            harmed_quietly: self.harmed_quietly,
        });
    }

    /// Its disk is what it once was; it does not run.
    pub(crate) fn roll_back(&mut self) {
        if let Some(picture) = self.remembered.take() {
            self.disk = picture.disk;
            self.disk.kill();
            self.journals = picture.journals;
            self.harmed = picture.harmed || self.lies;
            self.harmed_quietly = picture.harmed_quietly || self.lies;
            self.read_through = None;
            self.rotten.clear();
            self.disk.set_faults(self.faults());
        }
    }

    fn faults(&self) -> Faults {
        Faults {
            no_space_for_writes: self.no_space,
            syncs_lie: self.lies,
            ..Faults::default()
        }
    }
}

impl World<'_> {
    /// Starts a server, if it does not run.
    pub(crate) fn start_server(&mut self, server: usize) {
        if self.servers[server].life.is_some() {
            return;
        }
        let boot = BootCore::new(&self.servers[server].journals);
        let life = Life {
            boot,
            journal: None,
            log: None,
            recovered: None,
            tail_core: TailCore::default(),
            tail: None,
            tail_block: None,
            serves: false,
            machines: BTreeMap::new(),
            inbox: VecDeque::new(),
            appends: VecDeque::new(),
            log_awake: false,
            commit: None,
            committed: None,
            replicas: BTreeMap::new(),
            replicas_begun: 0,
            backlog: BacklogCore::new(BACKLOG_MEMORY_MAX),
            reader: None,
            commit_at: None,
            jobs: BTreeMap::new(),
            next_job: 0,
            rotating: false,
            rotate_for: None,
        };
        self.servers[server].life = Some(life);
        self.tell(|| format!("server {server} boots"));
        self.server_after(server, Duration::from_millis(1), ServerEvent::Boot);
    }

    /// A server's process ends, and what else the loss takes.
    pub(crate) fn crash_server(&mut self, server: usize, down: Duration, loss: Loss) -> bool {
        let ran = self.servers[server].life.take().is_some();
        self.servers[server].life_no += 1;
        if ran {
            self.bury(Node::Server(server));
        }
        let node = &mut self.servers[server];
        match loss {
            Loss::Nothing => node.disk.kill(),
            Loss::Unsynced => node.disk.cut_power(),
            Loss::Disk => {
                node.disk = MemoryStorage::new(node.random.next());
                node.journals.clear();
                node.harmed = false;
                node.harmed_quietly = false;
                node.read_through = None;
                node.rotten.clear();
                node.lies = false;
                self.conditions.forgotten = true;
                self.oracle.forget_cached(|of| of == server);
            }
        }
        let node = &mut self.servers[server];
        node.disk.set_faults(node.faults());
        for link in 0..self.links.len() {
            if self.links[link].server == server && self.links[link].open_at_server {
                self.lose_link(link);
                self.links[link].close(Side::Server);
            }
        }
        self.server_after(server, down, ServerEvent::Start);
        ran || loss == Loss::Disk
    }

    /// The server ends itself, and a supervisor starts it again.
    pub(crate) fn server_ends(&mut self, server: usize, why: &str) {
        self.tell(|| format!("server {server} ends: {why}"));
        let loss = match self.servers[server].is_dead_at_disk() {
            true => self.servers[server].loss_at_disk(),
            false => Loss::Nothing,
        };
        self.crash_server(server, Duration::from_secs(1), loss);
    }

    pub(crate) fn server_after(&mut self, server: usize, delay: Duration, event: ServerEvent) {
        let life = self.servers[server].life_no;
        self.schedule
            .after(delay, Event::Server(server, life, event));
    }

    pub(crate) fn server_life(&mut self, server: usize) -> &mut Life {
        self.servers[server]
            .life
            .as_mut()
            .expect("a running server")
    }

    /// Something happens in a server.
    pub(crate) fn server_event(&mut self, server: usize, event: ServerEvent) {
        if self.servers[server].life.is_none() {
            return self.start_server(server);
        }
        match event {
            ServerEvent::Start => (),
            ServerEvent::Boot => self.boot(server),
            ServerEvent::Heard(link, message) => self.server_hears(server, link, message),
            ServerEvent::Log => self.log_step(server),
            ServerEvent::LogMark => {
                let log = self.server_life(server).log.as_ref();
                if log.is_some_and(|log| log.mark() == Written::Poisoned) {
                    self.server_ends(server, "the log failed");
                }
            }
            ServerEvent::Commit => {
                self.server_life(server).commit_at = None;
                self.commit(server);
            }
            ServerEvent::Answered(job, reply) => self.answered(server, job, reply),
            ServerEvent::Again(job) => self.job_goes_on(server, job),
            ServerEvent::Replica(disk) => self.replica_wakes(server, disk),
            ServerEvent::TargetSays(disk, replica, said) => {
                self.replica_hears(server, disk, replica, &said.0, said.1);
            }
            ServerEvent::Rebuild(disk) => self.rebuild_replica(server, disk),
        }
    }

    pub(crate) fn give_space_back(&mut self, server: usize) {
        let node = &mut self.servers[server];
        node.no_space = false;
        node.disk.set_faults(node.faults());
        if let Some(log) = node.life.as_ref().and_then(|life| life.log.as_ref()) {
            log.retry_space();
            self.wake_log(server);
        }
    }
}

impl Life {
    /// What it has of a machine.
    pub(crate) fn machine(&mut self, machine: MachineId) -> &mut Machine {
        self.machines.entry(machine).or_default()
    }

    /// The own journal, and how far it is committed.
    pub(crate) fn stands(&self) -> Place {
        let journal = self.journal.expect("it was noted");
        self.committed
            .filter(|(of, _)| *of == journal)
            .unwrap_or((journal, ObjectNo::ZERO))
    }

    /// Where its boot stands.
    pub(crate) const fn boot_step(&self) -> BootStep {
        self.boot.step()
    }

    /// Reads a block again that memory did not hold.
    fn read_again(&mut self, from: LogPosition) -> Option<Cached> {
        let log = self.log.as_ref()?;
        let mut reader = self.reader.take().unwrap_or_else(|| log.reader(from));
        let record = reader.next_record().ok().flatten()?;
        let len = record.payload.len();
        if !self.backlog.read_again(record.position, len) {
            self.reader = Some(reader);
        }
        Some(Cached {
            position: record.position,
            block: ChangeBlock::decode(record.payload).expect("what was logged decodes"),
            digests: None,
        })
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "server {}", self.index)
    }
}
