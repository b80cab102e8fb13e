//! The restore actor: reads the machine's history from the store alone, at any moment, restores what it
//! finds restorable, and holds it against the truth.

use std::rc::Rc;

use bytes::Bytes;
use everpoint_format::data::DataIndex;
use everpoint_format::index::BlockEntry;
use everpoint_journal::extent_map::{ExtentMap, Run};
use everpoint_journal::history::{MachineHistory, Span};
use everpoint_journal::path::{Need, PathEnd, PathWalk};
use everpoint_units::{DiskId, JournalId, SECTOR_LEN, Seq};
use everpoint_vault::history::ObjectFound;

use super::disk::contents_of;
use super::jobs::walk_on;
use super::oracle::{Content, index};
use super::server::Owned;
use super::store::{Name, Reply, Request, Stored};
use super::{MACHINE, World, disk_id};

/// What the store alone says of the machine.
struct Read {
    history: MachineHistory,
    objects: Vec<Rc<Stored>>,
    end: PathEnd,
}

impl World<'_> {
    /// Restores a few points, chosen at random.
    pub(crate) fn restore_somewhere(&mut self) {
        let Some(read) = self.read_history() else {
            return;
        };
        for disk in 0..self.agent.disks.len() {
            let windows = read.history.windows(Some(disk_id(disk)));
            if let Some(span) = windows.last() {
                self.check_restore(&read, disk, span.through);
                let at = self.draws.restore.below(windows.len() as u64);
                let seq = self.seq_in(windows[index(at)]);
                self.check_restore(&read, disk, seq);
            }
        }
    }

    fn seq_in(&mut self, span: Span) -> Seq {
        let len = span.through.0 - span.from.0 + 1;
        Seq(span.from.0 + self.draws.restore.below(len))
    }

    /// Reads the history from the store, at this moment, and holds promises against it.
    fn read_history(&mut self) -> Option<Read> {
        let mut walk = PathWalk::new(MACHINE);
        let mut history = MachineHistory::new(MACHINE);
        let mut objects = Vec::new();
        while let Some(need) = walk.need() {
            let reply = match need {
                Need::Origin => self.store.carry_out(&Request::Read(Name::Origin(MACHINE))),
                Need::Listing(journal) => Reply::Listing(self.store.listing(journal)),
                Need::Object(journal, number) => {
                    Reply::Object(self.store.get(Name::Object(journal, number)).cloned())
                }
            };
            if let Some((journal, number, stored)) = walk_on(&mut walk, &reply) {
                if let Some(ObjectFound::Data(data, _)) = &stored.found {
                    for section in &data.index.sections {
                        history.fold(section, journal, number);
                    }
                }
                objects.push(stored);
            }
        }
        let end = walk.end().expect("it needs nothing more");
        if end == PathEnd::Broken {
            self.violate(format!("the machine's path is broken: {:?}", walk.damage()));
            return None;
        }
        let broken = history.disks().values().find_map(|disk| disk.broken);
        if let Some(broken) = broken {
            self.violate(format!("a disk's history is broken: {broken}"));
            return None;
        }
        self.check_committed(&history);
        Some(Read {
            history,
            objects,
            end,
        })
    }

    /// What an agent was told is committed is in the store.
    fn check_committed(&mut self, history: &MachineHistory) {
        let cut = self.oracle.committed_cut;
        for (disk, known) in history.disks() {
            if known.begun <= cut && known.complete_through < cut {
                let through = known.complete_through;
                self.violate(format!(
                    "the agent was told that all is committed through {cut}; the vault has disk {disk} through {through}"
                ));
            }
        }
    }

    fn check_restore(&mut self, read: &Read, disk: usize, seq: Seq) {
        let id = disk_id(disk);
        if read.history.check_point(Some(id), seq).is_err() {
            return;
        }
        self.outcome.restores += 1;
        let found = restored(read, id, seq, self.plan.shape.sectors);
        let expected = self.oracle.at(id, seq);
        let (Some(found), Some(expected)) = (found, expected) else {
            return self.violate(format!("disk {disk} at {seq} does not restore"));
        };
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        if let Some(sector) = differs {
            let (has, had) = (found[sector], expected[sector]);
            self.violate(format!(
                "disk {disk} at {seq}: sector {sector} is restored as write {has}, and was write {had}"
            ));
        }
    }

    /// The journal in which the machine's path ends, if it is open.
    pub(crate) fn open_journal(&mut self) -> Option<JournalId> {
        match self.read_history()?.end {
            PathEnd::Open { journal, .. } => Some(journal),
            _ => None,
        }
    }

    /// Why the healed world has not converged; `None` if it has.
    pub(crate) fn unconverged(&mut self) -> Option<String> {
        if let Some(why) = self.agent_unsettled() {
            return Some(why);
        }
        let owned = self.servers.iter().any(|server| {
            let life = server.life.as_ref();
            life.is_some_and(|life| matches!(life.machine, Owned::Serves(_)))
        });
        if !owned {
            return Some("nobody owns the machine".to_owned());
        }
        let Some(read) = self.read_history() else {
            return Some("the history cannot be read".to_owned());
        };
        if let Err(error) = read.history.latest(None) {
            return Some(format!("the machine has no recovery point: {error}"));
        }
        let stale = (0..self.agent.disks.len()).find(|disk| {
            let id = disk_id(*disk);
            let latest = read.history.latest(Some(id));
            let found = latest.map(|seq| restored(&read, id, seq, self.plan.shape.sectors));
            found != Ok(Some(self.oracle.now(id)))
        });
        stale.map(|disk| format!("disk {disk}: the newest point is not the disk as it is"))
    }
}

/// A disk at `seq`, from indexes and frames; `None` where bytes are none that were written.
fn restored(read: &Read, disk: DiskId, seq: Seq, sectors: u64) -> Option<Vec<Content>> {
    let mut map = ExtentMap::new(seq);
    for (object, stored) in (0..).zip(&read.objects) {
        for (section_index, section) in (0..).zip(&index_of(stored)?.index.sections) {
            if section.disk == disk {
                map.fold(section, object, section_index);
            }
        }
    }
    let mut image = vec![0; index(sectors)];
    for run in map.runs() {
        let contents = contents_of(&bytes_of_run(read, run)?)?;
        let (from, to) = (run.extent.start().sector(), run.extent.end().sector());
        image
            .get_mut(index(from)..index(to))?
            .copy_from_slice(&contents);
    }
    Some(image)
}

fn index_of(stored: &Stored) -> Option<&DataIndex> {
    match &stored.found {
        Some(ObjectFound::Data(data, _)) => Some(data),
        _ => None,
    }
}

fn bytes_of_run(read: &Read, run: &Run) -> Option<Bytes> {
    let place = run.source;
    let stored = &read.objects[place.object as usize];
    let section = &index_of(stored)?.index.sections[place.section as usize];
    let block: &BlockEntry = &section.blocks[place.block as usize];
    let at = index(block.frame_at);
    let frame = stored.bytes.slice(at..at + block.frame.stored_len as usize);
    let raw = block.frame.open(&frame).ok()?;
    let before = &block.records[..place.record as usize];
    let before: u64 = before.iter().map(|record| record.change.raw_len()).sum();
    let from = index(before + run.skip * SECTOR_LEN);
    Some(raw.slice(from..from + index(run.extent.byte_len().0)))
}
