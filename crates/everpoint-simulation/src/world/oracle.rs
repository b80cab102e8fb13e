//! What is true: every change of every disk in its order, and every promise that was heard.
//!
//! The reference model: a disk at `Seq` S is the fold of all that had changed when S was given out.
//! Changes that nobody recorded count like others: made while the disk kept no order, by a process that
//! died before it could, or by a power cut.
//!
//! An agent whose state was rolled back may give out a `Seq` for the second time. Which of the two
//! changes is the one of that `Seq` is decided by which the server took; its generation tells.

use std::collections::{BTreeMap, BTreeSet};

use everpoint_journal::history::Span;
use everpoint_units::{Extent, GenerationId, JournalId, Lba, Level, Moment, Seq};

/// What a sector holds: the number of the write that gave it, 0 for zeroes.
pub(crate) type Content = u64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    machines: Vec<Truth>,
    /// Who opened each journal.
    opened: BTreeMap<JournalId, usize>,
    /// What goes on after each journal that is sealed.
    successors: BTreeMap<JournalId, JournalId>,
}

/// What is true of one machine.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    disks: Vec<DiskTruth>,
    /// One for each run of `Seq`s that only rises.
    runs: Vec<GivenRun>,
    /// In which runs a generation was written.
    written_in: BTreeMap<GenerationId, BTreeSet<usize>>,
    /// Through which `Seq` a server said that a disk is committed, as part of a cut.
    pub(crate) committed: BTreeMap<usize, Seq>,
    /// Its disks were rolled back: changes that are not there any more are among the true ones.
    pub(crate) unwound: bool,
    /// Up to which `Seq` each server told that it has a disk in its log, while no other has been owner.
    pub(crate) cached: BTreeMap<(usize, usize), Seq>,
    /// The highest epoch by which its agent believed a server, as far as it can remember.
    heard: Level,
}

/// How many changes each disk had when a `Seq` was given out.
#[derive(Debug, Default)]
struct GivenRun(BTreeMap<Seq, Vec<usize>>);

#[derive(Debug, Default)]
struct DiskTruth {
    sectors: u64,
    changes: Vec<(Extent, Content, Moment)>,
    /// Where the vault could restore it from, as last seen.
    windows: Vec<Span>,
}

impl Oracle {
    /// A machine; the number of another one follows.
    pub(crate) fn add_machine(&mut self) {
        self.machines.push(Truth {
            runs: vec![GivenRun::default()],
            ..Truth::default()
        });
    }

    pub(crate) fn of(&mut self, machine: usize) -> &mut Truth {
        &mut self.machines[machine]
    }

    /// A server opened a journal.
    pub(crate) fn opened(&mut self, journal: JournalId, server: usize) {
        self.opened.insert(journal, server);
    }

    /// A journal was sealed. If what goes on in the end is somebody else's, then what its writer's log
    /// alone has is gone: also where the writer itself sealed it, and its next one was taken over already.
    pub(crate) fn sealed(&mut self, journal: JournalId, successor: JournalId) {
        self.successors.insert(journal, successor);
        let mut end = successor;
        while let Some(next) = self.successors.get(&end) {
            end = *next;
        }
        let writer = self.opened.get(&journal).copied();
        if writer != self.opened.get(&end).copied() {
            self.forget_cached(|of| Some(of) == writer);
        }
    }

    /// A server's word on its log counts no more: its disk is lost.
    pub(crate) fn forget_cached(&mut self, of: impl Fn(usize) -> bool) {
        for machine in &mut self.machines {
            machine.forget_cached(&of);
        }
    }
}

impl Truth {
    /// A disk with what it holds already.
    pub(crate) fn add(&mut self, holds: &[Content]) {
        let changes = holds
            .iter()
            .zip(0..)
            .filter(|(content, _)| **content != 0)
            .map(|(content, sector)| (extent(sector, sector + 1), *content, Moment(0)));
        self.disks.push(DiskTruth {
            sectors: holds.len() as u64,
            changes: changes.collect(),
            windows: Vec::new(),
        });
    }

    /// The local disk changed.
    pub(crate) fn changed(&mut self, disk: usize, extent: Extent, content: Content, now: Moment) {
        self.disks[disk].changes.push((extent, content, now));
    }

    /// `Seq`s up to this were given out.
    pub(crate) fn given(&mut self, newest: Seq) {
        let counts = self.disks.iter().map(|disk| disk.changes.len()).collect();
        let run = self.runs.last_mut().expect("there is always one");
        if run.newest().is_none_or(|known| known < newest) {
            run.0.insert(newest, counts);
        }
    }

    /// `Seq`s may be given out for the second time from now on.
    pub(crate) fn rolled_back(&mut self) {
        self.runs.push(GivenRun::default());
        self.heard = Level::ZERO;
    }

    /// The agent believes a server of this epoch; true if it may: it believed none of a later one.
    pub(crate) fn believes(&mut self, epoch: Level) -> bool {
        let may = self.heard <= epoch;
        self.heard = self.heard.max(epoch);
        may
    }

    /// A generation began, or goes on.
    pub(crate) fn writes(&mut self, generation: GenerationId) {
        let run = self.runs.len() - 1;
        self.written_in.entry(generation).or_default().insert(run);
    }

    /// What a disk may have held at `seq` if `generation` says so: usually one image, none if that was
    /// never given out.
    pub(crate) fn at(&self, disk: usize, seq: Seq, generation: GenerationId) -> Vec<Vec<Content>> {
        let mut counts: Vec<usize> = Vec::new();
        let mut newest_seen = false;
        let written_in = self.written_in.get(&generation);
        for (number, run) in self.runs.iter().enumerate().rev() {
            if !written_in.is_some_and(|runs| runs.contains(&number)) {
                continue;
            }
            let Some((_, known)) = run.0.range(..=seq).next_back() else {
                continue;
            };
            let covers = run.newest().is_some_and(|newest| seq <= newest);
            if covers || !newest_seen {
                counts.push(known[disk]);
            }
            newest_seen = true;
        }
        counts.dedup();
        let disk = &self.disks[disk];
        counts.into_iter().map(|count| disk.fold(count)).collect()
    }

    /// What a disk holds now.
    pub(crate) fn now(&self, disk: usize) -> Vec<Content> {
        let disk = &self.disks[disk];
        disk.fold(disk.changes.len())
    }

    /// When the oldest change was made that came after `seq` and that a restore at `seq` therefore lacks.
    pub(crate) fn first_after(&self, disk: usize, seq: Seq) -> Option<Moment> {
        let counts = self.runs.iter().filter_map(|run| {
            let (_, counts) = run.0.range(..=seq).next_back()?;
            Some(counts[disk])
        });
        let count = counts.max().unwrap_or(0);
        let change = self.disks[disk].changes.get(count)?;
        Some(change.2)
    }

    /// Windows of the vault were seen: what could be restored once can be restored for ever. The first
    /// window that is gone, if any.
    pub(crate) fn saw_windows(&mut self, disk: usize, windows: &[Span]) -> Option<Span> {
        let known = std::mem::replace(&mut self.disks[disk].windows, windows.to_vec());
        known.into_iter().find(|old| {
            let kept = |new: &&Span| new.from == old.from && old.through <= new.through;
            !windows.iter().any(|new| kept(&new))
        })
    }

    /// A server's word on its log counts no more: another server owns the machine.
    pub(crate) fn forget_cached(&mut self, of: impl Fn(usize) -> bool) {
        self.cached.retain(|(server, _), _| !of(*server));
    }
}

impl GivenRun {
    fn newest(&self) -> Option<Seq> {
        self.0.last_key_value().map(|(seq, _)| *seq)
    }
}

impl DiskTruth {
    fn fold(&self, count: usize) -> Vec<Content> {
        let mut image = vec![0; index(self.sectors)];
        for (extent, content, _) in &self.changes[..count] {
            let (from, to) = (extent.start().sector(), extent.end().sector());
            image[index(from)..index(to)].fill(*content);
        }
        image
    }
}

/// An extent of a simulated disk.
///
/// # Panics
///
/// If it is empty.
pub(crate) fn extent(from: u64, to: u64) -> Extent {
    let lba = |sector| Lba::new(sector).expect("a small disk");
    Extent::between(lba(from), lba(to)).expect("not empty")
}

/// A sector's place in a simulated disk.
pub(crate) fn index(sector: u64) -> usize {
    usize::try_from(sector).expect("a small disk")
}
