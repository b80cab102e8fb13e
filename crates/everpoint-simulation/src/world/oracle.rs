//! What is true: every change of every disk in its order, and every promise that was heard.
//!
//! The reference model: a disk at `Seq` S is the fold of all that had changed when S was given out.
//! Changes that nobody recorded count like others: made while the disk kept no order, or by a process
//! that died before it could.

use std::collections::BTreeMap;

use everpoint_units::{DiskId, Extent, Lba, Seq};

/// What a sector holds: the number of the write that gave it, 0 for zeroes.
pub(crate) type Content = u64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    disks: Vec<Truth>,
    /// How many changes each disk had when a `Seq` was given out.
    given: BTreeMap<Seq, Vec<usize>>,
    /// The highest cut that an agent was told is committed.
    pub(crate) committed_cut: Seq,
    /// Up to which `Seq` each server told that it has a disk in its log, while no other has been owner.
    pub(crate) cached: BTreeMap<(usize, DiskId), Seq>,
}

#[derive(Debug)]
struct Truth {
    disk: DiskId,
    sectors: u64,
    changes: Vec<(Extent, Content)>,
}

impl Oracle {
    /// A disk with what it holds already.
    pub(crate) fn add(&mut self, disk: DiskId, holds: &[Content]) {
        let changes = holds
            .iter()
            .zip(0..)
            .filter(|(content, _)| **content != 0)
            .map(|(content, sector)| (extent(sector, sector + 1), *content));
        self.disks.push(Truth {
            disk,
            sectors: holds.len() as u64,
            changes: changes.collect(),
        });
    }

    /// The local disk changed.
    pub(crate) fn changed(&mut self, disk: DiskId, extent: Extent, content: Content) {
        let truth = self.disks.iter_mut().find(|truth| truth.disk == disk);
        truth.expect("a known disk").changes.push((extent, content));
    }

    /// `Seq`s up to this were given out.
    pub(crate) fn given(&mut self, newest: Seq) {
        let known = self.given.last_key_value();
        if known.is_none_or(|(known, _)| *known < newest) {
            let counts = self.disks.iter().map(|truth| truth.changes.len());
            self.given.insert(newest, counts.collect());
        }
    }

    /// What a disk held at `seq`; `None` if that was never given out.
    pub(crate) fn at(&self, disk: DiskId, seq: Seq) -> Option<Vec<Content>> {
        let index = self.disks.iter().position(|truth| truth.disk == disk)?;
        let (_, counts) = self.given.range(..=seq).next_back()?;
        Some(self.disks[index].fold(counts[index]))
    }

    /// What a disk holds now.
    pub(crate) fn now(&self, disk: DiskId) -> Vec<Content> {
        let truth = self.disks.iter().find(|truth| truth.disk == disk);
        let truth = truth.expect("a known disk");
        truth.fold(truth.changes.len())
    }

    /// A server's word on its log counts no more: its disk is lost, or another server owns the machine.
    pub(crate) fn forget_cached(&mut self, of: impl Fn(usize) -> bool) {
        self.cached.retain(|(server, _), _| !of(*server));
    }
}

impl Truth {
    fn fold(&self, count: usize) -> Vec<Content> {
        let mut image = vec![0; index(self.sectors)];
        for (extent, content) in &self.changes[..count] {
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
