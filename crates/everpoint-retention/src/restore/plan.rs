//! The plan of one disk: which record gives each sector as of the point, sorted by where the records lie.

use std::collections::BTreeSet;

use everpoint_journal::extent_map::{ExtentMap, Run};
use everpoint_units::{ByteLen, Lba, SECTOR_LEN};
use everpoint_vault::history::read_objects;
use futures::StreamExt as _;

use super::{Progress, RestoreError, Restoring, WantedDisk, fetch};

/// See the module.
pub(super) struct DiskPlan {
    /// By object, then section, block and record; of one record, by sector. Inside the disk; disjoint.
    pub(super) runs: Vec<Run>,
    /// Bytes that they give.
    pub(super) total: ByteLen,
    /// Indexes that were read to find out.
    pub(super) index_count: usize,
}

impl Restoring<'_> {
    /// Folds every index of the machine that may say something about the disk at or below the point.
    pub(super) async fn plan(&self, disk: &WantedDisk) -> Result<DiskPlan, RestoreError> {
        let walked: Vec<_> = self.loaded.objects_up_to(self.seq).collect();
        let names = walked.iter().map(|object| (object.journal, object.number));
        let mut objects = read_objects(self.vault, self.header.vault, names);
        let mut map = ExtentMap::new(self.seq);
        for (count, object) in walked.iter().enumerate() {
            let read = objects.next().await;
            let (_, _, found) = read.expect("one answer for each name")?;
            let data = fetch::same_object(object, found)?;
            for (index, section) in (0_u32..).zip(&data.index.sections) {
                let is_its = section.machine == self.loaded.machine() && section.disk == disk.disk;
                if is_its && self.loaded.is_folded(disk.disk, object.ordinal, index) {
                    map.fold(section, object.ordinal, index);
                }
            }
            (self.progress)(&Progress {
                planned_count: count + 1,
                plan_count: walked.len(),
                ..Progress::of(disk)
            });
        }
        Ok(DiskPlan::of(&map, disk.size, walked.len()))
    }
}

impl DiskPlan {
    fn of(map: &ExtentMap, size: ByteLen, index_count: usize) -> Self {
        let end = Lba::new(size.0 / SECTOR_LEN).unwrap_or(Lba::MAX);
        let mut runs = Vec::with_capacity(map.run_count());
        // No writer may write past a disk's end; should one have, that is no part of the disk.
        let inside = map.runs().filter_map(|run| {
            let extent =
                everpoint_units::Extent::between(run.extent.start(), run.extent.end().min(end))?;
            Some(Run { extent, ..*run })
        });
        runs.extend(inside);
        runs.sort_unstable_by_key(|run| (run.source, run.extent.start()));
        let sectors = runs.iter().map(|run| u64::from(run.extent.sectors().get()));
        let total = ByteLen(sectors.sum::<u64>() * SECTOR_LEN);
        Self {
            runs,
            total,
            index_count,
        }
    }

    /// The objects that the records lie in, by ordinal.
    pub(super) fn ordinals(&self) -> BTreeSet<u32> {
        self.runs.iter().map(|run| run.source.object).collect()
    }
}

impl Progress {
    pub(super) fn of(disk: &WantedDisk) -> Self {
        Self {
            disk: disk.disk,
            disk_index: disk.index,
            disk_count: disk.count,
            planned_count: 0,
            plan_count: 0,
            done: ByteLen(0),
            total: ByteLen(0),
        }
    }
}
