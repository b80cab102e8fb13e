//! Whole days, by seed.

use std::collections::BTreeMap;
use std::time::Duration;

use everpoint_format::Change;
use everpoint_format::replica::Mark;
use everpoint_replica::{Fence, Remedy};
use everpoint_units::{ByteLen, Level, Moment, SECTOR_LEN, VaultId};

use super::super::fold::ObjectFold;
use super::super::*;
use super::histories::{History, Random, SECTORS};
use crate::test_blocks::{DISK, MACHINE};

const VAULT: VaultId = VaultId([9; 16]);

pub(super) fn limits() -> ApplyLimits {
    ApplyLimits {
        window_min: Duration::from_millis(100),
        window_max: Duration::from_secs(60),
        window_len_max: ByteLen(2 << 20),
        window_runs_max: 500,
        known_len_max: ByteLen(256 << 10),
        in_flight_max: 4,
        rates: Rates {
            requests_per_s: 10_000,
            bytes_per_s: 40_000_000,
        },
        put_len_max: ByteLen(64 << 10),
        back_off_min: Duration::from_millis(10),
        back_off_max: Duration::from_secs(1),
    }
}

pub(super) fn followed() -> Followed {
    Followed {
        vault: VAULT,
        machine: MACHINE,
        disk: DISK,
        sectors: SECTORS,
    }
}

/// What everybody writes to.
#[derive(Default)]
struct Target {
    pages: Option<Vec<u64>>,
    mark: Option<Mark>,
    fence: Fence,
    /// Counts leases: what was asked for under an earlier one is refused.
    lease: u64,
}

/// Something that changes the target, as it goes over the link.
#[derive(Clone)]
enum Sent {
    Create(ByteLen, Fence),
    Raise(Fence),
    Resize(ByteLen, u64),
    Mark(Mark, Fence),
    Put(usize, Vec<u64>, Fence),
}

/// What the target answers.
#[derive(Clone, Copy)]
enum Answer {
    Done,
    Fence(Fence),
    Fenced,
    Refused,
}

/// A server that brings the replica forward, perhaps one that does not lead any more.
struct Server {
    core: ApplyCore,
    level: u64,
    /// The object that it hands in next.
    next: usize,
    follows: bool,
    staged: BTreeMap<u64, Vec<u64>>,
    /// Asked and not answered.
    under_way: Vec<Effect>,
}

struct Day {
    random: Random,
    history: History,
    target: Target,
    servers: Vec<Server>,
    /// Sent by somebody who does not wait for it any more.
    late: Vec<Sent>,
    level: u64,
    now: Moment,
    bad: bool,
}

impl Target {
    /// Carries it out, if it may be.
    fn take(&mut self, change: &Sent) -> Answer {
        let fence = self.fence;
        let Some(pages) = &mut self.pages else {
            let Sent::Create(len, fence) = change else {
                return Answer::Refused;
            };
            let count = usize::try_from(len.0 / SECTOR_LEN).unwrap();
            self.pages = Some(vec![0; count]);
            self.fence = *fence;
            return Answer::Done;
        };
        match change {
            Sent::Create(..) => return Answer::Refused,
            Sent::Raise(to) => {
                self.fence = fence.max(*to);
                return Answer::Fence(self.fence);
            }
            Sent::Resize(_, lease) if *lease != self.lease => return Answer::Refused,
            Sent::Resize(len, _) => {
                let count = usize::try_from(len.0 / SECTOR_LEN).unwrap();
                if count != pages.len() {
                    // The mark is a page like any other.
                    let last = pages.len() - 1;
                    pages[last] = u64::MAX;
                    pages.resize(count, 0);
                    self.mark = None;
                }
            }
            Sent::Mark(_, under) | Sent::Put(.., under) if *under != fence => {
                return Answer::Fenced;
            }
            Sent::Mark(mark, _) => self.mark = Some(*mark),
            Sent::Put(at, content, _) => {
                assert!(at + content.len() < pages.len(), "a put over the mark");
                pages[*at..at + content.len()].copy_from_slice(content);
            }
        }
        Answer::Done
    }
}

impl Day {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            history: History::new(),
            target: Target::default(),
            servers: Vec::new(),
            late: Vec::new(),
            level: 0,
            now: Moment(1_000_000_000),
            bad: true,
        }
    }

    fn take_over(&mut self) {
        self.level += 1 + self.random.below(2);
        let level = self.level;
        self.history.rotate(level);
        self.servers.push(Server {
            core: ApplyCore::new(followed_now(&self.history), Level(level), limits()),
            level,
            next: 0,
            follows: false,
            staged: BTreeMap::new(),
            under_way: Vec::new(),
        });
        // Most often whoever led is gone; what it sent is not.
        while 1 < self.servers.len() && !self.random.one_in(3) {
            self.crash(0);
        }
    }

    fn crash(&mut self, server: usize) {
        let server = self.servers.remove(server);
        for effect in &server.under_way {
            if let Some(change) = self.change(&server, effect)
                && self.random.one_in(2)
            {
                self.late.push(change);
            }
        }
    }

    /// What a request of a server changes, with the bytes that it has now.
    fn change(&self, server: &Server, effect: &Effect) -> Option<Sent> {
        let at = |extent: &Extent| usize::try_from(extent.start().sector()).unwrap();
        match effect {
            Effect::Create { len, fence } => Some(Sent::Create(*len, *fence)),
            Effect::Raise { to } => Some(Sent::Raise(*to)),
            // Under the lease it was seen that the fence is still this server's own.
            Effect::Resize { len, fence } if *fence == self.target.fence => {
                Some(Sent::Resize(*len, self.target.lease))
            }
            Effect::PutMark { mark, fence, .. } => Some(Sent::Mark(*mark, *fence)),
            Effect::Wipe { len, fence } => {
                let count = usize::try_from(len.0 / SECTOR_LEN).unwrap();
                Some(Sent::Put(0, vec![0; count], *fence))
            }
            Effect::Work { fence, work, .. } => {
                let count = |extent: &Extent| usize::try_from(extent.sectors().get()).unwrap();
                let content = match work {
                    PageWork::Clear { extent } => vec![0; count(extent)],
                    PageWork::Put { parts, .. } => {
                        let mut content = Vec::new();
                        for part in parts {
                            let len = count(&part.extent);
                            match part.from {
                                PartFrom::Zero => content.extend(vec![0; len]),
                                PartFrom::Staged { window, at } => {
                                    let at = usize::try_from(at.0).unwrap();
                                    content.extend(&server.staged[&window][at..at + len]);
                                }
                                PartFrom::Target => {
                                    let pages = self.target.pages.as_ref()?;
                                    let from = at(&part.extent);
                                    content.extend(pages.get(from..from + len)?);
                                }
                            }
                        }
                        content
                    }
                };
                Some(Sent::Put(at(&work.extent()), content, *fence))
            }
            _ => None,
        }
    }

    /// One thing happens.
    fn step(&mut self) {
        let passes = self.random.below(40_000_000);
        self.now = Moment(self.now.0 + passes);
        match self.random.below(100) {
            0..8 if self.bad => self.history.go_on(&mut self.random),
            8 if self.random.one_in(3) && self.bad => self.history.resync(),
            9 if self.random.one_in(12) && self.bad => self.history.begin_again(None),
            10 if self.random.one_in(3) && self.bad => self.take_over(),
            11 if self.random.one_in(6) && self.bad => {
                self.servers.last_mut().unwrap().core.handle_rebuild()
            }
            12..15 if !self.late.is_empty() => {
                let at = self.random.below(self.late.len() as u64);
                let late = self.late.swap_remove(usize::try_from(at).unwrap());
                self.target.take(&late);
                self.check();
            }
            _ => {
                let server = self.random.below(self.servers.len() as u64);
                self.drive(usize::try_from(server).unwrap());
            }
        }
    }

    /// A server does something, or hears an answer.
    fn drive(&mut self, index: usize) {
        let now = self.now;
        let answers = self.random.one_in(2);
        let server = &mut self.servers[index];
        if answers && !server.under_way.is_empty() {
            let at = self.random.below(server.under_way.len() as u64);
            let effect = server.under_way.swap_remove(usize::try_from(at).unwrap());
            return self.answer(index, &effect);
        }
        let room = match self.random.below(200) {
            0 => Room::None,
            1..4 => Room::Little,
            _ => Room::Plenty,
        };
        server.core.handle_room(room);
        match server.core.poll(now) {
            Some(Effect::Forget { window }) => {
                server.staged.remove(&window);
            }
            Some(Effect::Follow { after }) => {
                let place = |at: &(JournalId, ObjectNo)| {
                    let objects = self.history.objects.iter();
                    let mut places = objects.map(|object| (object.journal, object.number));
                    places
                        .position(|place| place == *at)
                        .expect("it is in the path")
                        + 1
                };
                server.next = after.as_ref().map_or(0, place);
                server.follows = true;
            }
            Some(effect) => server.under_way.push(effect),
            None => {
                let at = server.core.poll_timeout();
                assert!(at.is_none_or(|at| now < at), "its task would spin");
                self.feed(index);
            }
        }
    }

    fn feed(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let Some(object) = self.history.objects.get(server.next) else {
            return;
        };
        // Who does not lead any more has nothing committed of what came after it.
        if !server.follows || !server.core.wants_object() || server.level < object.journal.level.0 {
            return;
        }
        let fold = ObjectFold::of(DISK, server.core.stands(), &object.sections);
        let arena = server.staged.entry(server.core.begin_object()).or_default();
        let staged = fold.runs().map(|run| {
            let section = &object.sections[run.source.section as usize];
            let record =
                &section.blocks[run.source.block as usize].records[run.source.record as usize];
            assert!(matches!(record.change, Change::Data(_)));
            let at = Staged(arena.len() as u64);
            let count = usize::try_from(run.extent.sectors().get()).unwrap();
            arena.extend(vec![History::content(record); count]);
            (run.extent, at)
        });
        let staged = staged.collect();
        server.next += 1;
        server
            .core
            .handle_object(object.journal, object.number, fold, staged, self.now);
    }

    fn answer(&mut self, index: usize, effect: &Effect) {
        let now = self.now;
        if matches!(effect, Effect::Lease | Effect::Resize { .. }) {
            self.target.lease += 1;
        }
        let change = self.change(&self.servers[index], effect);
        // Of ten answers one is lost, one comes to nothing and nobody knows, one is of a busy service.
        let luck = if self.bad { self.random.below(24) } else { 24 };
        let answer = match (&change, luck) {
            (Some(change), 0) => {
                self.target.take(change);
                self.check();
                Err(Remedy::RaiseFence)
            }
            (Some(change), 1) => {
                self.late.push(change.clone());
                Err(Remedy::RaiseFence)
            }
            (Some(_), 2) => Err(Remedy::RaiseFence),
            // A file of which a sync failed: it is set aside.
            (Some(Sent::Put(.., fence) | Sent::Mark(_, fence)), 5)
                if *fence == self.target.fence && self.random.one_in(4) =>
            {
                let lease = self.target.lease;
                self.target = Target {
                    lease,
                    ..Target::default()
                };
                Err(Remedy::Report)
            }
            (_, 3) => Err(Remedy::Again { after: None }),
            (_, 4) if self.random.one_in(4) => Err(Remedy::Report),
            (Some(change), _) => {
                let answer = self.target.take(change);
                self.check();
                match answer {
                    Answer::Done | Answer::Fence(_) => Ok(answer),
                    Answer::Fenced => Err(Remedy::LookWhoLeads),
                    Answer::Refused => Err(Remedy::Report),
                }
            }
            (None, _) if matches!(effect, Effect::Resize { .. }) => Err(Remedy::LookWhoLeads),
            // What was to be read is not there any more.
            (None, _) if matches!(effect, Effect::Work { .. }) => Err(Remedy::Report),
            (None, _) => Ok(Answer::Done),
        };
        let leads = self.servers[index].level == self.level;
        let target = &self.target;
        let server = &mut self.servers[index];
        let done = answer.map(|_| ());
        match effect {
            Effect::Look => {
                let looked = done.map(|()| match &target.pages {
                    None => Looked::Nothing,
                    Some(pages) => Looked::Target {
                        len: ByteLen(pages.len() as u64 * SECTOR_LEN),
                        fence: target.fence,
                    },
                });
                server.core.handle_look(looked, now);
            }
            Effect::Create { .. } => server.core.handle_created(done, now),
            Effect::Lease => server.core.handle_leased(done, now),
            Effect::Raise { .. } => {
                let raised = answer.map(|answer| match answer {
                    Answer::Fence(fence) => fence,
                    _ => unreachable!("a raise is answered with a fence"),
                });
                server.core.handle_raised(raised, now);
            }
            Effect::ReadMark { .. } => {
                let found = target.mark.map_or(MarkFound::Nothing, MarkFound::Mark);
                server.core.handle_mark(done.map(|()| found), now);
            }
            Effect::Resize { .. } | Effect::PutMark { .. } | Effect::Wipe { .. } => {
                server.core.handle_done(done, now);
            }
            Effect::Work { index, .. } => server.core.handle_work(*index, done, now),
            Effect::AskWhoLeads => {
                let level = Level(server.level);
                let leads = if leads {
                    Leads::Here { level }
                } else {
                    Leads::Elsewhere
                };
                server.core.handle_leads(done.ok().map(|()| leads), now);
            }
            Effect::Follow { .. } | Effect::Forget { .. } => unreachable!("no requests"),
        }
    }

    /// All that the mark says is there, and beyond that nothing but what was committed later.
    fn check(&self) {
        let Some(mark) = &self.target.mark else {
            return;
        };
        let Some(applied) = &mark.applied else {
            return;
        };
        let objects = self.history.objects.iter();
        let mut places = objects.map(|object| (object.journal, object.number));
        let at = places.position(|place| place == (applied.journal, applied.number));
        let at = at.expect("a mark names an object of the path");
        let object = &self.history.objects[at];
        assert_eq!(
            (applied.is_level, applied.through),
            (object.is_level, object.through)
        );
        let pages = self.target.pages.as_ref().expect("it has a mark");
        assert_eq!(mark.sectors, self.history.states[at + 1].len() as u64);
        // While its length changes, what is cut off or comes is not looked at.
        for (sector, content) in pages[..pages.len() - 1].iter().enumerate() {
            let was = |state: &Vec<u64>| state.get(sector).copied().unwrap_or(0) == *content;
            let mut states = self.history.states[at + 1..].iter();
            assert!(
                states.any(was),
                "sector {sector} is {content}, and never was since {applied:?}"
            );
        }
    }

    /// Everything is healed: in the end it is the disk.
    fn heal(&mut self) {
        self.bad = false;
        let steps = (0..200_000).find(|_| {
            self.step();
            let server = self.servers.last().unwrap();
            let is_fed = server.next == self.history.objects.len() && server.follows;
            self.late.is_empty()
                && is_fed
                && server.under_way.is_empty()
                && server.core.is_settled()
        });
        let report = self.servers.last().unwrap().core.report();
        assert!(steps.is_some(), "never settled: {report:?}");
        let disk = self.history.disk();
        let pages = self.target.pages.as_ref().unwrap();
        assert_eq!(
            pages.len() as u64 * SECTOR_LEN,
            Mark::target_len(disk.len() as u64).0
        );
        let (is, rest) = pages.split_at(disk.len());
        let differs = (0..disk.len()).find(|sector| is[*sector] != disk[*sector]);
        let differs = differs.map(|sector| (sector, is[sector], disk[sector]));
        assert_eq!(differs, None, "sector, what it is, what it was");
        assert!(rest[..rest.len() - 1].iter().all(|content| *content == 0));
        let last = self.history.objects.last().unwrap();
        let applied = self.target.mark.unwrap().applied.unwrap();
        assert_eq!(
            (applied.journal, applied.number),
            (last.journal, last.number)
        );
    }
}

fn followed_now(history: &History) -> Followed {
    Followed {
        sectors: history.disk().len() as u64,
        ..followed()
    }
}

fn bad_day(seed: u64) {
    let mut day = Day::new(seed);
    day.take_over();
    let steps = 200 + day.random.below(3_000);
    for _ in 0..steps {
        day.step();
    }
    day.heal();
}

#[test]
fn after_a_bad_day_the_replica_is_the_disk() {
    for seed in 0..1_000 {
        let day = std::panic::catch_unwind(|| bad_day(seed));
        if let Err(panic) = day {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
