//! What a replica may hold: its disk as it was at each object of the machine's path, folded one by one as plainly as
//! can be from what the store has.
//!
//! Where an object has rotted, nothing is asked of a replica: what it took before that it has, what comes after it may
//! not follow.

use everpoint_format::replica::Applied;
use everpoint_journal::extent_map::RecordPlace;
use everpoint_units::Seq;

use super::super::disk_id;
use super::super::oracle::index;
use super::*;

/// One machine's disks, object by object.
pub(crate) struct ReplicaTruth {
    history: MachineHistory,
    objects: Vec<Place>,
    disks: BTreeMap<DiskId, Vec<State>>,
}

/// A disk from an object on, until its next one.
#[derive(Clone)]
struct State {
    /// Its place in the path.
    at: usize,
    image: Vec<Content>,
    through: Seq,
    is_level: bool,
}

impl ReplicaTruth {
    pub(crate) fn new(machine: usize) -> Self {
        Self {
            history: MachineHistory::new(machine_id(machine)),
            objects: Vec::new(),
            disks: BTreeMap::new(),
        }
    }

    /// The next object of the path; false where it does not hold what its index says.
    fn take(&mut self, place: Place, stored: &Stored, sectors: u64) -> bool {
        let at = self.objects.len();
        self.objects.push(place);
        let sections = stored.index().map(|data| &data.index.sections[..]);
        for (number, section) in (0..).zip(sections.unwrap_or_default()) {
            if !self.history.fold(section, place.0, place.1) {
                continue;
            }
            let states = self.disks.entry(section.disk).or_default();
            let mut state = states.last().cloned().unwrap_or(State {
                at,
                image: vec![0; index(sectors)],
                through: Seq::ZERO,
                is_level: false,
            });
            if !fold(&mut state.image, stored, number, section) {
                return false;
            }
            let known = &self.history.disks()[&section.disk];
            state.through = known.complete_through;
            state.is_level = known.is_level();
            match states.last_mut() {
                Some(last) if last.at == at => *last = state,
                _ => states.push(State { at, ..state }),
            }
        }
        true
    }

    /// The states of a disk at an object of the path and behind it: that at the object, and the later ones.
    fn since(&self, disk: DiskId, at: usize) -> &[State] {
        let states = self.disks.get(&disk).map_or(&[][..], |states| states);
        let first = states.partition_point(|state| state.at <= at);
        &states[first.saturating_sub(1)..]
    }
}

impl World<'_> {
    /// All that the mark says is in the target, and beyond that nothing but what the path has behind it.
    pub(super) fn check_replica(&mut self, disk: DiskId, is_mark: bool) {
        let Some(applied) = self.applied(disk) else {
            return;
        };
        if !self.store.rotten.is_empty() || !self.know_path(disk) {
            return;
        }
        let truth = &self.replica_truths[place_of(disk).0];
        let name = place_of(disk);
        let named = (applied.journal, applied.number);
        let Some(at) = truth.objects.iter().rposition(|place| *place == named) else {
            return self.violate(format!(
                "the mark of the replica of {name:?} names {named:?}, which is not in the path"
            ));
        };
        let states = truth.since(disk, at);
        let was = states.first().filter(|state| state.at <= at);
        let (through, is_level) = was.map_or((Seq::ZERO, false), |was| (was.through, was.is_level));
        if (applied.through, applied.is_level) != (through, is_level) {
            return self.violate(format!(
                "the mark of the replica of {name:?} says {applied:?}, and the disk was complete through {through}, level: {is_level}"
            ));
        }
        let pages = self.targets[&disk].pages();
        let mut sectors = pages[..pages.len() - 1].iter().enumerate();
        let wrong = sectors.find(|(sector, has)| {
            let held = |state: &State| state.image.get(*sector).copied().unwrap_or(0) == **has;
            // Before its first object a disk is empty.
            let empty = was.is_none() && **has == 0;
            !empty && !states.iter().any(held)
        });
        if let Some((sector, has)) = wrong {
            let had: Vec<Content> = states
                .iter()
                .filter_map(|state| state.image.get(sector).copied())
                .collect();
            return self.violate(format!(
                "the replica of {name:?} has write {has} in sector {sector}, and since {applied:?} that was {had:?}"
            ));
        }
        let newest = states.last().is_none_or(|state| state.at <= at);
        if is_mark && newest && applied.is_level {
            self.check_level_replica(disk, applied);
        }
    }

    /// Why the replica of a disk that is owned is not what it should be, in a world that is healed; `None` if it is.
    pub(crate) fn replica_unconverged(&mut self, machine: usize, disk: usize) -> Option<String> {
        let id = disk_id(machine, disk);
        if !self.store.rotten.is_empty() || !self.know_path(id) {
            return None;
        }
        let server = self.owner_of(machine)?;
        let Some(state) = self.replica_state(server, id) else {
            return Some(format!(
                "server {server} does not follow disk {disk} of machine {machine}"
            ));
        };
        let lags = |why| {
            Some(format!(
                "the replica of disk {disk} of machine {machine} {why}: {state}"
            ))
        };
        let Some(applied) = self.applied(id) else {
            return lags("has no mark");
        };
        let truth = &self.replica_truths[machine];
        let named = (applied.journal, applied.number);
        let at = truth.objects.iter().rposition(|place| *place == named);
        let newest = truth.disks.get(&id).and_then(|states| states.last());
        let (Some(at), Some(newest)) = (at, newest) else {
            return lags("names what is not there");
        };
        if at < newest.at {
            return lags("lacks what is committed");
        }
        if !applied.is_level {
            return lags("is not level");
        }
        let pages = self.targets[&id].pages();
        let is = &pages[..newest.image.len()];
        if is != self.oracle.of(machine).now(disk) {
            return lags("is not the disk");
        }
        None
    }

    /// What the mark of a target says.
    fn applied(&self, disk: DiskId) -> Option<Applied> {
        self.targets.get(&disk)?.mark?.applied
    }

    /// Reads what the path has since the last look; false where it cannot be followed.
    fn know_path(&mut self, disk: DiskId) -> bool {
        let (machine, sectors) = (place_of(disk).0, self.plan.shape.sectors);
        let last = self.replica_truths[machine].objects.last().copied();
        let walked = self.walk_path(machine_id(machine), last);
        let known = usize::from(last.is_some());
        let truth = &mut self.replica_truths[machine];
        let mut objects = walked.objects.iter().skip(known);
        objects.all(|(journal, number, stored)| truth.take((*journal, *number), stored, sectors))
    }
}

/// Folds a section onto a disk; false where a record is none that was written.
fn fold(image: &mut [Content], stored: &Stored, number: u32, section: &Section) -> bool {
    for (block, entry) in (0..).zip(&section.blocks) {
        for (record, change) in (0..).zip(&entry.records) {
            match &change.change {
                Change::Data(extent) => {
                    let place = RecordPlace {
                        object: 0,
                        section: number,
                        block,
                        record,
                    };
                    let (from, to) = (extent.start().sector(), extent.end().sector());
                    let Some(contents) = stored.record(place, 0, to - from) else {
                        return false;
                    };
                    image[index(from)..index(to)].copy_from_slice(contents);
                }
                Change::Zero(extent) | Change::Discard(extent) => {
                    let (from, to) = (extent.start().sector(), extent.end().sector());
                    image[index(from)..index(to)].fill(0);
                }
                Change::ResyncBegin { base: None } => image.fill(0),
                // A resync says the size, which is what it was.
                Change::Resize { sectors } => {
                    let end = index(*sectors).min(image.len());
                    image[end..].fill(0);
                }
                Change::Reference { .. } => unreachable!("nothing in this world makes one"),
                _ => (),
            }
        }
    }
    true
}
