//! Folding a machine's objects as the walk hands them over, with an eye on gaps.

use std::collections::BTreeMap;

use everpoint_format::data::DataIndex;
use everpoint_format::index::Section;
use everpoint_format::manifest::{FoldedTo, Manifest};
use everpoint_format::name;
use everpoint_journal::history::{MachineHistory, Span};
use everpoint_journal::path::PathEnd;
use everpoint_units::{DiskId, JournalId, MachineId, ObjectNo, Seq};
use everpoint_vault::history::Walked;

use super::{DamageNote, LoadedMachine, ObjectEntry, Objects};

/// A machine's history while it is walked.
pub(super) struct Loading {
    history: MachineHistory,
    /// `None` where nobody wants to restore from it.
    objects: Option<Objects>,
    /// How many objects had something of the machine.
    object_count: u32,
    rejected: BTreeMap<DiskId, (u32, u32)>,
    manifest: Option<Box<Manifest>>,
    /// The object that was handed over last, of any machine.
    previous: Option<(JournalId, ObjectNo)>,
    /// The machine's windows when the first object was missing from the path.
    before_gap: Option<Vec<Span>>,
    /// A section of a disk whose beginning never came.
    unknown: Option<DamageNote>,
}

impl Loading {
    pub(super) fn new(machine: MachineId, keeps_objects: bool) -> Self {
        Self {
            history: MachineHistory::new(machine),
            objects: keeps_objects.then(Objects::default),
            object_count: 0,
            rejected: BTreeMap::new(),
            manifest: None,
            previous: None,
            before_gap: None,
            unknown: None,
        }
    }

    /// A history that was taken up from a manifest; the walk goes on behind it.
    pub(super) fn behind(history: MachineHistory, manifest: Manifest, keeps_objects: bool) -> Self {
        let FoldedTo {
            journal, number, ..
        } = manifest.position;
        let objects = Objects {
            folded: Some((journal, number)),
            journals: vec![(journal, number)],
            entries: Vec::new(),
        };
        Self {
            history,
            objects: keeps_objects.then_some(objects),
            previous: Some((journal, number)),
            manifest: Some(Box::new(manifest)),
            ..Self::new(MachineId([0; 16]), false)
        }
    }

    /// The next object of the path.
    pub(super) fn fold(&mut self, journal: JournalId, number: ObjectNo, data: &DataIndex) {
        self.look_for_a_gap(journal, number);
        if let Some(objects) = &mut self.objects {
            objects.pass(journal, number);
        }
        let machine = self.history.machine();
        let mut first_seq = None;
        for (index, section) in (0_u32..).zip(&data.index.sections) {
            if section.machine != machine {
                continue;
            }
            let first = lowest_seq(section);
            first_seq = Some(first_seq.map_or(first, |lowest: Seq| lowest.min(first)));
            if !self.history.fold(section, journal, number) {
                self.reject(section, index, journal, number);
            }
        }
        let Some(first_seq) = first_seq else {
            return;
        };
        self.object_count += 1;
        if let Some(objects) = &mut self.objects {
            objects.push(first_seq, number, data);
        }
    }

    /// A section that does not follow what was folded of its disk.
    fn reject(&mut self, section: &Section, index: u32, journal: JournalId, number: ObjectNo) {
        let disk = section.disk;
        self.rejected
            .entry(disk)
            .or_insert((self.object_count, index));
        if self.unknown.is_none() && !self.history.disks().contains_key(&disk) {
            self.unknown = Some(DamageNote {
                object: Some(name::journal_object(journal, number)),
                disk: Some(disk),
                what: format!(
                    "disk {disk} has {} here, and no beginning",
                    section.first_block
                ),
            });
        }
    }

    fn look_for_a_gap(&mut self, journal: JournalId, number: ObjectNo) {
        let expected = match self.previous {
            Some((at, last)) if at == journal => last.next(),
            _ => ObjectNo::ZERO.next(),
        };
        if number != expected && self.before_gap.is_none() {
            self.before_gap = Some(self.history.windows(None));
        }
        self.previous = Some((journal, number));
    }

    pub(super) fn finish(self, walked: Walked) -> LoadedMachine {
        let machine = self.history.machine();
        let of_path = |damage| DamageNote::of_path(machine, damage);
        let mut damage: Vec<_> = walked.damage.iter().map(of_path).collect();
        let broken = self.history.disks().values();
        let broken = broken.filter_map(|disk| disk.broken.as_ref());
        damage.extend(broken.map(DamageNote::of_disk));
        // A disk that was never begun, though nothing is missing, is a writer's fault; the points up to
        // where it came to light are not known to lack it either.
        let cut_max = self.unknown.is_some().then(|| {
            let windows = self.before_gap.unwrap_or_default();
            windows.last().map_or(Seq::ZERO, |last| last.through)
        });
        damage.extend(self.unknown);
        if walked.end == PathEnd::Broken && damage.is_empty() {
            damage.push(DamageNote {
                object: None,
                disk: None,
                what: "the path cannot be followed".into(),
            });
        }
        LoadedMachine {
            history: self.history,
            end: walked.end,
            damage,
            objects: self.objects.unwrap_or_default(),
            manifest: self.manifest,
            rejected: self.rejected,
            cut_max,
        }
    }
}

impl Objects {
    /// The walk has come to this object.
    fn pass(&mut self, journal: JournalId, number: ObjectNo) {
        match self.journals.last_mut() {
            Some((last, through)) if *last == journal => *through = number,
            _ => self.journals.push((journal, number)),
        }
    }

    /// It has something of the machine.
    fn push(&mut self, first_seq: Seq, number: ObjectNo, data: &DataIndex) {
        self.entries.push(ObjectEntry {
            first_seq,
            number,
            checksum: data.checksum,
            journal_index: u32::try_from(self.journals.len() - 1)
                .expect("a path has fewer journals than objects, and those fit memory"),
        });
    }
}

/// The lowest `Seq` that a restore could want of a section; the maximum where it has no records.
fn lowest_seq(section: &Section) -> Seq {
    let records = section.blocks.iter().flat_map(|block| &block.records);
    records
        .map(|record| record.seq)
        .min()
        .unwrap_or(Seq(u64::MAX))
}
