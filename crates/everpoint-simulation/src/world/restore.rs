//! The restore actor: reads the machine's history from the store alone, at any moment, restores what it
//! finds restorable, and holds it against the truth.

use std::rc::Rc;

use everpoint_agent::disk_core::report::DiskStateWord;
use everpoint_format::replica::Applied;
use everpoint_journal::extent_map::ExtentMap;
use everpoint_journal::history::{MachineHistory, Span};
use everpoint_journal::path::{Need, PathEnd, PathWalk};
use everpoint_units::{DiskId, GenerationId, JournalId, Seq};

use super::jobs::{request_of, walk_on};
use super::oracle::{Content, index};
use super::server::{Owned, Server};
use super::store::{Reply, Stored};
use super::{World, disk_id, machine_id, place_of};

/// What the store alone says of a machine.
struct Read {
    machine: usize,
    history: MachineHistory,
    objects: Vec<Folded>,
    end: PathEnd,
}

/// An object of the path, and which of its sections the history took: after damage it takes no more.
struct Folded {
    stored: Rc<Stored>,
    sections: Vec<u32>,
}

impl World<'_> {
    /// Restores a few points of a machine, chosen at random.
    pub(crate) fn restore_somewhere(&mut self) {
        let machine = index(self.draws.restore.below(self.agents.len() as u64));
        let Some(read) = self.read_history(machine) else {
            return;
        };
        for disk in 0..self.plan.shape.disks {
            let windows = read.history.windows(Some(disk_id(machine, disk)));
            self.check_windows(machine, disk, &windows);
            if let Some(span) = windows.last() {
                self.check_restore(&read, disk, span.through);
                let at = self.draws.restore.below(windows.len() as u64);
                let seq = self.seq_in(windows[index(at)]);
                self.check_restore(&read, disk, seq);
            }
            self.check_report(&read, disk);
        }
        self.check_machine_point(&read);
    }

    fn seq_in(&mut self, span: Span) -> Seq {
        let len = span.through.0 - span.from.0 + 1;
        Seq(span.from.0 + self.draws.restore.below(len))
    }

    /// Restores all disks of a machine at one of its own points.
    fn check_machine_point(&mut self, read: &Read) {
        let windows = read.history.windows(None);
        if windows.is_empty() {
            return;
        }
        let at = self.draws.restore.below(windows.len() as u64);
        let seq = self.seq_in(windows[index(at)]);
        if read.history.check_point(None, seq).is_ok() {
            for disk in 0..self.plan.shape.disks {
                self.check_restore(read, disk, seq);
            }
        }
        // A bookmark that is listed is a point of the machine as any other.
        let marks = read.history.bookmarks().keys().rev();
        let mark = marks
            .copied()
            .find(|seq| read.history.check_point(None, *seq).is_ok());
        if let Some(seq) = mark {
            self.check_restore(read, 0, seq);
        }
    }

    /// What could be restored once still can be.
    fn check_windows(&mut self, machine: usize, disk: usize, windows: &[Span]) {
        if !self.store.rotten.is_empty() {
            return;
        }
        if let Some(gone) = self.oracle.of(machine).saw_windows(disk, windows) {
            self.violate(format!(
                "disk {disk} of machine {machine} could be restored from {} through {}, and cannot now",
                gone.from, gone.through
            ));
        }
    }

    /// What the agent says of a disk is never better than what the vault has.
    fn check_report(&mut self, read: &Read, disk: usize) {
        if !self.store.rotten.is_empty() {
            return;
        }
        let Some(report) = self.report(read.machine, disk) else {
            return;
        };
        if report.word != DiskStateWord::Protected {
            return;
        }
        let id = disk_id(read.machine, disk);
        let machine = read.machine;
        let latest = read.history.latest(Some(id));
        let level = read
            .history
            .disks()
            .get(&id)
            .is_some_and(|known| known.is_level());
        let Some(latest) = latest.ok().filter(|_| level) else {
            return self.violate(format!(
                "disk {disk} of machine {machine} is called protected, and the vault has no level copy"
            ));
        };
        let now = self.schedule.now();
        if self.oracle.of(machine).unwound {
            return;
        }
        let since = self.oracle.of(machine).first_after(disk, latest);
        let lag = since.map(|since| now.since(since)).unwrap_or_default();
        let said = report.lag;
        if said < lag {
            self.violate(format!(
                "disk {disk} of machine {machine} is said to lag by {said:?}, and lags by {lag:?}"
            ));
        }
    }

    /// Reads a history from the store, at this moment, and holds promises against it.
    fn read_history(&mut self, machine: usize) -> Option<Read> {
        let mut walk = PathWalk::new(machine_id(machine));
        let mut history = MachineHistory::new(machine_id(machine));
        let mut objects = Vec::new();
        while let Some(need) = walk.need() {
            let reply = match need {
                Need::Listing(journal) => Reply::Listing(self.store.listing(journal)),
                need => self.store.carry_out(&request_of(machine_id(machine), need)),
            };
            if let Some((journal, number, stored)) = walk_on(&mut walk, &reply) {
                let sections = stored
                    .index()
                    .into_iter()
                    .flat_map(|data| &data.index.sections);
                let sections = (0..).zip(sections);
                let folded = sections.filter(|(_, section)| history.fold(section, journal, number));
                let sections = folded.map(|(index, _)| index).collect();
                objects.push(Folded { stored, sections });
            }
        }
        let end = walk.end().expect("it needs nothing more");
        if let Some(damage) = walk
            .damage()
            .first()
            .filter(|_| self.store.rotten.is_empty())
        {
            self.violate(format!("a path is damaged: {damage}"));
            return None;
        }
        if end == PathEnd::Broken {
            self.path_is_broken(walk.damage());
            return None;
        }
        let broken = history.disks().values().find_map(|disk| disk.broken);
        match broken {
            Some(_) if !self.store.rotten.is_empty() => self.outcome.detected += 1,
            Some(broken) => {
                self.violate(format!("a disk's history is broken: {broken}"));
                return None;
            }
            None => self.check_committed(machine, &history),
        }
        Some(Read {
            machine,
            history,
            objects,
            end,
        })
    }

    /// What a server said is committed is in the store.
    fn check_committed(&mut self, machine: usize, history: &MachineHistory) {
        if !self.store.rotten.is_empty() {
            return;
        }
        for (disk, promised) in self.oracle.of(machine).committed.clone() {
            let known = history.disks().get(&disk_id(machine, disk));
            let through = known.map_or(Seq::ZERO, |known| known.complete_through);
            if through < promised {
                self.violate(format!(
                    "a server said that disk {disk} of machine {machine} is committed through {promised}; the vault has it through {through}"
                ));
            }
        }
    }

    fn check_restore(&mut self, read: &Read, disk: usize, seq: Seq) {
        let id = disk_id(read.machine, disk);
        if read.history.check_point(Some(id), seq).is_err() {
            return;
        }
        self.outcome.restores += 1;
        let Some(found) = restored(read, id, seq, self.plan.shape.sectors) else {
            if self.store.rotten.is_empty() {
                self.violate(format!("disk {disk} at {seq} does not restore"));
            } else {
                self.outcome.detected += 1;
            }
            return;
        };
        let generation = generation_at(read, id, seq);
        let expected = generation.map(|of| self.oracle.of(read.machine).at(disk, seq, of));
        let expected = expected.unwrap_or_default();
        if expected.contains(&found) {
            return;
        }
        let Some(expected) = expected.first() else {
            return self.violate(format!("disk {disk} at {seq}: no such `Seq` was given out"));
        };
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        let sector = differs.expect("they are not the same");
        let (has, had) = (found[sector], expected[sector]);
        let machine = read.machine;
        self.violate(format!(
            "disk {disk} of machine {machine} at {seq}: sector {sector} is restored as write {has}, and was write {had}"
        ));
    }

    /// The journal in which a machine's path ends, if it is open.
    pub(crate) fn open_journal(&mut self, machine: usize) -> Option<JournalId> {
        match self.read_history(machine)?.end {
            PathEnd::Open { journal, .. } => Some(journal),
            _ => None,
        }
    }

    /// A replica that is level, and has everything that there is of its disk, is what a restore makes.
    pub(crate) fn check_level_replica(&mut self, disk: DiskId, applied: Applied) {
        let (machine, number) = place_of(disk);
        let Some(read) = self.read_history(machine) else {
            return;
        };
        if read.history.latest(Some(disk)) != Ok(applied.through) {
            return;
        }
        self.check_restore(&read, number, applied.through);
        let restored = restored(&read, disk, applied.through, self.plan.shape.sectors);
        let pages = self.targets[&disk].pages();
        if restored.is_some_and(|image| pages[..image.len()] != image) {
            self.violate(format!(
                "the replica of disk {number} of machine {machine} is level at {}, and not what is restored there",
                applied.through
            ));
        }
    }

    /// Whether a server that runs owns a machine.
    pub(crate) fn is_owned(&mut self, machine: usize) -> bool {
        self.owner_of(machine).is_some()
    }

    /// The server that runs and owns a machine: it says so, and the path leads to its journal.
    pub(crate) fn owner_of(&mut self, machine: usize) -> Option<usize> {
        let open = self.open_journal(machine);
        self.servers.iter().position(|server| {
            let life = server.life.as_ref().filter(|life| life.journal == open);
            let known = life.and_then(|life| life.machines.get(&machine_id(machine)));
            known.is_some_and(|known| matches!(known.owned, Owned::Serves(_)))
        })
    }

    /// The server that owns a machine whose agent will not have it, for it has seen a higher epoch (R12).
    pub(crate) fn outgrown_owner(&mut self, machine: usize) -> Option<usize> {
        let journal = self.open_journal(machine)?;
        if self.agents[machine].highest_epoch() <= journal.level {
            return None;
        }
        let owns = |server: &Server| {
            let life = server.life.as_ref();
            life.is_some_and(|life| life.journal == Some(journal))
        };
        self.servers.iter().position(owns)
    }

    /// Why the healed world has not converged; `None` if it has.
    pub(crate) fn unconverged(&mut self) -> Option<String> {
        (0..self.agents.len()).find_map(|machine| self.machine_unconverged(machine))
    }

    fn machine_unconverged(&mut self, machine: usize) -> Option<String> {
        if let Some(why) = self.agent_unsettled(machine) {
            return Some(why);
        }
        let Some(read) = self.read_history(machine) else {
            return Some(format!("the history of machine {machine} cannot be read"));
        };
        if let Err(error) = read.history.latest(None) {
            return Some(format!("machine {machine} has no recovery point: {error}"));
        }
        let rotten = !self.store.rotten.is_empty();
        let stale = (0..self.plan.shape.disks).find(|disk| {
            let id = disk_id(machine, *disk);
            let latest = read.history.latest(Some(id));
            match latest.map(|seq| restored(&read, id, seq, self.plan.shape.sectors)) {
                Ok(Some(found)) => found != self.oracle.of(machine).now(*disk),
                // Its frame rotted behind a good index: a restore names it, and nothing repairs it yet.
                Ok(None) => !rotten,
                Err(_) => true,
            }
        });
        if let Some(disk) = stale {
            return Some(format!(
                "disk {disk} of machine {machine}: the newest point is not the disk as it is"
            ));
        }
        (0..self.plan.shape.disks).find_map(|disk| self.replica_unconverged(machine, disk))
    }
}

/// The generation that wrote a disk last at or below `seq`.
fn generation_at(read: &Read, disk: DiskId, seq: Seq) -> Option<GenerationId> {
    let mut generation = None;
    for object in &read.objects {
        for index in &object.sections {
            let section = &object.stored.index()?.index.sections[*index as usize];
            let mut records = section.blocks.iter().flat_map(|block| &block.records);
            if section.disk == disk && records.any(|record| record.seq <= seq) {
                generation = Some(section.generation);
            }
        }
    }
    generation
}

/// A disk at `seq`, from indexes and frames; `None` where bytes are none that were written.
fn restored(read: &Read, disk: DiskId, seq: Seq, sectors: u64) -> Option<Vec<Content>> {
    let mut map = ExtentMap::new(seq);
    for (number, object) in (0..).zip(&read.objects) {
        for index in &object.sections {
            let section = &object.stored.index()?.index.sections[*index as usize];
            if section.disk == disk {
                map.fold(section, number, *index);
            }
        }
    }
    let mut image = vec![0; index(sectors)];
    for run in map.runs() {
        let contents = read.objects[run.source.object as usize].stored.run(run)?;
        let (from, to) = (run.extent.start().sector(), run.extent.end().sector());
        image
            .get_mut(index(from)..index(to))?
            .copy_from_slice(contents);
    }
    Some(image)
}
