//! The shell round a replica's core: what it asks of its target, and where its objects are from.
//!
//! The path and its objects are read from the store at the moment when they are wanted, or not at all while the
//! store gives this server no answer. Everything else takes its time, as other requests do.

mod asking;
mod truth;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use everpoint_format::Change;
use everpoint_format::index::Section;
use everpoint_journal::history::MachineHistory;
use everpoint_journal::path::{Need, PathEnd, PathWalk};
use everpoint_process_server::apply_core::fold::ObjectFold;
use everpoint_process_server::apply_core::{
    ApplyCore, ApplyLimits, ApplyState, Effect, Followed, Leads, Rates, Room, Staged,
};
use everpoint_replica::Remedy;
use everpoint_units::{ByteLen, DiskId, JournalId, MachineId, Moment, ObjectNo, SECTOR_LEN};

use super::jobs::{request_of, walk_on};
use super::oracle::Content;
use super::server::{Owned, ServerEvent};
use super::store::{Name, Reply, Request, Stored};
use super::target::Told;
use super::{Event, VAULT, World, machine_id, place_of};

pub(crate) use truth::ReplicaTruth;

/// How long a feed that failed waits before it tries again.
const FEED_PAUSE: Duration = Duration::from_millis(200);
/// How often an operator thinks of a replica, and how often it is then written again. Unit: in a thousand.
pub(crate) const REBUILD_EVERY: Duration = Duration::from_millis(400);
const REBUILD_PER_MILLE: u64 = 60;

/// An object of the path.
pub(crate) type Place = (JournalId, ObjectNo);

/// One that a running server brings forward.
pub(crate) struct Replica {
    /// Counts those of a life.
    number: u64,
    core: ApplyCore,
    /// What is staged, by window.
    arenas: BTreeMap<u64, Vec<Content>>,
    feed: Feed,
    /// The last object that the core has.
    last: Option<Place>,
    feed_at: Option<Moment>,
    wakes_at: Option<Moment>,
}

/// Where the next object is from.
enum Feed {
    /// Nobody asked yet.
    Idle,
    /// The path is to be read.
    Finding,
    /// Objects of the path, and what is behind them.
    Listed {
        objects: VecDeque<Place>,
        then: Place,
    },
    /// As they are committed, from behind this one on.
    Live(Place),
}

/// What a path has behind an object.
struct Walked {
    objects: Vec<(JournalId, ObjectNo, Rc<Stored>)>,
    end: PathEnd,
}

const fn limits() -> ApplyLimits {
    ApplyLimits {
        window_min: Duration::from_millis(50),
        window_max: Duration::from_secs(2),
        window_len_max: ByteLen(24 << 10),
        window_runs_max: 40,
        known_len_max: ByteLen(16 << 10),
        in_flight_max: 3,
        // A request costs as much as four sectors: what lies closer is put in one.
        rates: Rates {
            requests_per_s: 1_000,
            bytes_per_s: 2 << 20,
        },
        put_len_max: ByteLen(8 * SECTOR_LEN),
        back_off_min: Duration::from_millis(10),
        back_off_max: Duration::from_millis(500),
    }
}

impl World<'_> {
    /// A machine is this server's: its disks are followed.
    pub(crate) fn begin_replicas(&mut self, server: usize, history: &MachineHistory) {
        for (disk, known) in history.disks() {
            if !known.has_ended() && 0 < known.sectors {
                self.begin_replica(server, history.machine(), *disk, known.sectors);
            }
        }
    }

    fn begin_replica(&mut self, server: usize, machine: MachineId, disk: DiskId, sectors: u64) {
        let life = self.server_life(server);
        let journal = life.journal.expect("it was noted");
        if life.replicas.contains_key(&disk) {
            return;
        }
        let about = Followed {
            vault: VAULT,
            machine,
            disk,
            sectors,
        };
        life.replicas_begun += 1;
        let replica = Replica {
            number: life.replicas_begun,
            core: ApplyCore::new(about, journal.level, limits()),
            arenas: BTreeMap::new(),
            feed: Feed::Idle,
            last: None,
            feed_at: None,
            wakes_at: None,
        };
        life.replicas.insert(disk, replica);
        self.tell(|| format!("server {server} follows disk {:?}", place_of(disk)));
        self.replica_goes_on(server, disk);
    }

    /// Objects of the own journal are committed, up to this one.
    pub(crate) fn replicas_hear(&mut self, server: usize, journal: JournalId, through: ObjectNo) {
        let life = self.server_life(server);
        let (_, before) = life.stands();
        life.committed = Some((journal, through));
        for number in before.0 + 1..=through.0 {
            let read = Request::Read(Name::Object(journal, ObjectNo(number)));
            let Reply::Object(Some(stored)) = self.store.carry_out(&read) else {
                continue;
            };
            let sections = stored.index().map(|data| &data.index.sections[..]);
            for section in sections.unwrap_or_default() {
                let owned = &self.server_life(server).machine(section.machine).owned;
                if let (Some(sectors), Owned::Serves(_)) = (begins_with(section), owned) {
                    self.begin_replica(server, section.machine, section.disk, sectors);
                }
            }
        }
        self.replicas_go_on(server);
    }

    /// All replicas of a server look for something to do.
    pub(crate) fn replicas_go_on(&mut self, server: usize) {
        let life = self.server_life(server);
        let disks: Vec<DiskId> = life.replicas.keys().copied().collect();
        for disk in disks {
            self.replica_goes_on(server, disk);
        }
    }

    /// Does what the core wants done, hands it what there is, and has it woken when time alone changes something.
    pub(crate) fn replica_goes_on(&mut self, server: usize, disk: DiskId) {
        let now = self.schedule.now();
        let room = match self.healed {
            true => Room::None,
            false => Room::Plenty,
        };
        loop {
            let Some(replica) = self.replica(server, disk) else {
                return;
            };
            replica.core.handle_room(room);
            match replica.core.poll(now) {
                Some(Effect::Forget { window }) => {
                    replica.arenas.remove(&window);
                }
                Some(Effect::Follow { after }) => {
                    replica.last = after;
                    replica.feed = Feed::Finding;
                    replica.feed_at = None;
                }
                Some(effect) => self.ask_target(server, disk, effect),
                None if self.feed_replica(server, disk) => (),
                None => break,
            }
        }
        let Some(replica) = self.replica(server, disk) else {
            return;
        };
        if replica.core.report().state == ApplyState::Fenced {
            self.server_life(server).replicas.remove(&disk);
            return self.tell(|| format!("server {server} gives up disk {:?}", place_of(disk)));
        }
        let feed_at = replica.feed_at.filter(|at| now < *at);
        let timeouts = [replica.core.poll_timeout(), feed_at];
        let Some(at) = timeouts.into_iter().flatten().min() else {
            return;
        };
        // Where only an answer helps, time alone does not.
        let at = at.max(now.after(Duration::from_millis(1)));
        if replica.wakes_at.is_none_or(|known| at < known) {
            replica.wakes_at = Some(at);
            let event = ServerEvent::Replica(disk);
            let life = self.servers[server].life_no;
            self.schedule.at(at, Event::Server(server, life, event));
        }
    }

    /// It is time.
    pub(crate) fn replica_wakes(&mut self, server: usize, disk: DiskId) {
        if let Some(replica) = self.replica(server, disk) {
            replica.wakes_at = None;
            self.replica_goes_on(server, disk);
        }
    }

    /// An operator has a replica written again, or thinks better of it.
    pub(crate) fn rebuild_somewhere(&mut self) {
        let random = &mut self.draws.replica;
        if !random.chance(REBUILD_PER_MILLE) {
            return;
        }
        let server = super::oracle::index(random.below(self.servers.len() as u64));
        let draw = random.next();
        let Some(life) = &self.servers[server].life else {
            return;
        };
        let disks = life.replicas.keys();
        if let Some(disk) = disks
            .copied()
            .max_by_key(|disk| (draw >> (disk.0[0] & 31)) & 15)
        {
            let event = ServerEvent::Rebuild(disk);
            self.server_after(server, Duration::from_millis(1), event);
        }
    }

    /// A replica is to be written again, from the origin on.
    pub(crate) fn rebuild_replica(&mut self, server: usize, disk: DiskId) {
        if let Some(replica) = self.replica(server, disk) {
            replica.core.handle_rebuild();
            self.tell(|| format!("server {server} rebuilds disk {:?}", place_of(disk)));
            self.replica_goes_on(server, disk);
        }
    }

    fn replica(&mut self, server: usize, disk: DiskId) -> Option<&mut Replica> {
        let life = self.servers[server].life.as_mut()?;
        life.replicas.get_mut(&disk)
    }

    /// How a replica of a running server stands; `None` if there is none.
    pub(crate) fn replica_state(&self, server: usize, disk: DiskId) -> Option<String> {
        let life = self.servers[server].life.as_ref()?;
        let replica = life.replicas.get(&disk)?;
        let feed = match &replica.feed {
            Feed::Idle => "asks for nothing",
            Feed::Finding => "reads the path",
            Feed::Listed { .. } => "reads objects",
            Feed::Live(_) => "follows",
        };
        Some(format!("{:?}, {feed}", replica.core.report()))
    }

    // -- the feed -----------------------------------------------------------------------------------

    /// Hands in the next object, or finds out which that is; whether anything was done.
    fn feed_replica(&mut self, server: usize, disk: DiskId) -> bool {
        let now = self.schedule.now();
        let Some(replica) = self.replica(server, disk) else {
            return false;
        };
        if replica.feed_at.is_some_and(|at| now < at) || !replica.core.wants_object() {
            return false;
        }
        replica.feed_at = None;
        let next = match &replica.feed {
            Feed::Idle => return false,
            Feed::Finding => return self.find(server, disk),
            Feed::Listed { objects, then } => match objects.front() {
                Some(next) => *next,
                None => {
                    replica.feed = Feed::Live(*then);
                    return true;
                }
            },
            Feed::Live((journal, number)) => {
                let (journal, number) = (*journal, *number);
                let (own, committed) = self.server_life(server).stands();
                if own != journal {
                    let replica = self.replica(server, disk).expect("looked at");
                    replica.feed = Feed::Finding;
                    return true;
                }
                if committed <= number {
                    return false;
                }
                (journal, number.next())
            }
        };
        self.hand_in(server, disk, next)
    }

    /// The feed fails, and tries again later.
    fn feed_later(&mut self, server: usize, disk: DiskId) -> bool {
        let at = self.schedule.now().after(FEED_PAUSE);
        if let Some(replica) = self.replica(server, disk) {
            replica.feed_at = Some(at);
        }
        false
    }

    /// Folds an object, stages what it needs, and hands it in. One that is damaged changes nothing; one whose frame
    /// does not open is waited for.
    fn hand_in(&mut self, server: usize, disk: DiskId, place: Place) -> bool {
        let now = self.schedule.now();
        let read = Request::Read(Name::Object(place.0, place.1));
        let refused = self.conditions.store_refuses(server, now);
        let Reply::Object(found) = self.store.carry_out(&read) else {
            return false;
        };
        let Some(replica) = self.replica(server, disk).filter(|_| !refused) else {
            return self.feed_later(server, disk);
        };
        let core = &mut replica.core;
        let index = found.as_ref().and_then(|stored| stored.index());
        let sections = index.map(|data| &data.index.sections[..]);
        let fold = ObjectFold::of(disk, core.stands(), sections.unwrap_or_default());
        let arena = replica.arenas.entry(core.begin_object()).or_default();
        let mut staged = Vec::new();
        for run in fold.runs() {
            let contents = found.as_ref().and_then(|stored| stored.run(&run));
            let Some(contents) = contents else {
                core.handle_no_object();
                return self.feed_later(server, disk);
            };
            staged.push((run.extent, Staged(arena.len() as u64)));
            arena.extend(contents);
        }
        core.handle_object(place.0, place.1, fold, staged, now);
        replica.last = Some(place);
        match &mut replica.feed {
            Feed::Listed { objects, .. } => {
                objects.pop_front();
            }
            Feed::Live(at) => *at = place,
            Feed::Idle | Feed::Finding => unreachable!("nothing is handed in for them"),
        }
        true
    }

    /// Reads the path from behind the last object on.
    fn find(&mut self, server: usize, disk: DiskId) -> bool {
        let now = self.schedule.now();
        if self.conditions.store_refuses(server, now) {
            return self.feed_later(server, disk);
        }
        let (own, committed) = self.server_life(server).stands();
        let replica = self.replica(server, disk).expect("it is fed");
        let after = replica.last;
        let walked = self.walk_path(machine_id(place_of(disk).0), after);
        let replica = self.replica(server, disk).expect("it is fed");
        let mut objects = walked.objects.into_iter();
        if after.is_some() {
            let first = objects.next().map(|(journal, number, _)| (journal, number));
            if first != after {
                replica.feed = Feed::Idle;
                replica.core.handle_lost_path();
                return true;
            }
        }
        let PathEnd::Open { journal, last } = walked.end else {
            return self.feed_later(server, disk);
        };
        if journal != own {
            return self.feed_later(server, disk);
        }
        let objects = objects.filter(|(of, number, stored)| {
            let sections = stored.index().map(|data| &data.index.sections[..]);
            let mut sections = sections.unwrap_or_default().iter();
            (*of != own || *number <= committed) && sections.any(|section| section.disk == disk)
        });
        replica.feed = Feed::Listed {
            objects: objects
                .map(|(journal, number, _)| (journal, number))
                .collect(),
            then: (journal, last.min(committed)),
        };
        true
    }

    /// A machine's path as the store has it at this moment, from its origin or from an object of it on.
    fn walk_path(&mut self, machine: MachineId, from: Option<Place>) -> Walked {
        let mut walk = match from {
            None => PathWalk::new(machine),
            Some((journal, number)) => PathWalk::from(machine, journal, number),
        };
        let mut objects = Vec::new();
        while let Some(need) = walk.need() {
            let reply = match need {
                Need::Listing(journal) => Reply::Listing(self.store.listing(journal)),
                need => self.store.carry_out(&request_of(machine, need)),
            };
            objects.extend(walk_on(&mut walk, &reply));
        }
        Walked {
            objects,
            end: walk.end().expect("it needs nothing more"),
        }
    }

    /// Whether a machine's path leads to a server; `None` where that is not known.
    fn who_leads(&mut self, server: usize, disk: DiskId) -> Option<Leads> {
        let own = self.servers[server].life.as_ref()?.journal?;
        let last = self.replica(server, disk)?.last;
        match self.walk_path(machine_id(place_of(disk).0), last).end {
            PathEnd::Open { journal, .. } if journal == own => {
                let level = journal.level;
                Some(Leads::Here { level })
            }
            PathEnd::Broken => None,
            _ => Some(Leads::Elsewhere),
        }
    }

    // -- answers ------------------------------------------------------------------------------------

    /// A request was answered.
    pub(crate) fn replica_hears(
        &mut self,
        server: usize,
        disk: DiskId,
        number: u64,
        effect: &Effect,
        told: Result<Told, Remedy>,
    ) {
        let now = self.schedule.now();
        let replica = self.replica(server, disk);
        let Some(replica) = replica.filter(|replica| replica.number == number) else {
            return;
        };
        let core = &mut replica.core;
        let done = told.map(|_| ());
        match (effect, told) {
            (Effect::Look, Ok(Told::Looked(looked))) => core.handle_look(Ok(looked), now),
            (Effect::Look, _) => core.handle_look(Err(remedy_of(done)), now),
            (Effect::Create { .. }, _) => core.handle_created(done, now),
            (Effect::Lease, _) => core.handle_leased(done, now),
            (Effect::Raise { .. }, Ok(Told::Fence(fence))) => core.handle_raised(Ok(fence), now),
            (Effect::Raise { .. }, _) => core.handle_raised(Err(remedy_of(done)), now),
            (Effect::ReadMark { .. }, Ok(Told::Mark(found))) => core.handle_mark(Ok(found), now),
            (Effect::ReadMark { .. }, _) => core.handle_mark(Err(remedy_of(done)), now),
            (Effect::Resize { .. } | Effect::PutMark { .. } | Effect::Wipe { .. }, _) => {
                core.handle_done(done, now);
            }
            (Effect::Work { index, .. }, _) => core.handle_work(*index, done, now),
            (Effect::AskWhoLeads, Ok(Told::Leads(leads))) => core.handle_leads(Some(leads), now),
            (Effect::AskWhoLeads, _) => core.handle_leads(None, now),
            (Effect::Follow { .. } | Effect::Forget { .. }, _) => unreachable!("no requests"),
        }
        self.replica_goes_on(server, disk);
    }
}

fn remedy_of(done: Result<(), Remedy>) -> Remedy {
    done.expect_err("what was asked for is told, or why it is not")
}

/// The size that a section gives a disk that begins in it. Unit: sectors.
fn begins_with(section: &Section) -> Option<u64> {
    let mut records = section.blocks.iter().flat_map(|block| &block.records);
    records.find_map(|record| match record.change {
        Change::DiskBegin { sectors, .. } => Some(sectors),
        _ => None,
    })
}
