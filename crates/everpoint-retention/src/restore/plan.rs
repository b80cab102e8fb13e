//! The plan of one disk: which record gives each sector as of the point, sorted by where the records lie.
//!
//! A plan over a copy of a replica has less to say: it leaves out what the copy holds already.

use std::collections::BTreeSet;

use everpoint_format::index::Section;
use everpoint_format::{Change, vhd};
use everpoint_journal::extent_map::{ExtentMap, Run};
use everpoint_journal::sweep::Found;
use everpoint_units::{ByteLen, DiskId, Lba, SECTOR_LEN, Seq};
use everpoint_vault::history::read_objects;
use futures::StreamExt as _;

use super::changes::{Changes, Sectors, extent_of, sectors_of};
use super::{Progress, RestoreError, Restoring, WantedDisk, fetch};
use crate::layers::{found_at, uncovered, within};
use crate::machine::WalkedObject;

/// See the module.
pub(super) struct DiskPlan {
    /// By object, then section, block and record; of one record, by sector. Inside the disk; disjoint.
    pub(super) runs: Vec<Run>,
    /// What map layers give, rising. Inside the disk; disjoint, also from the others.
    pub(super) layered: Vec<Found>,
    /// Bytes that they give.
    pub(super) total: ByteLen,
    /// Indexes that were read to find out.
    pub(super) index_count: usize,
}

/// What a copy of a replica lacks.
pub(super) struct CopyPlan {
    /// Data to put.
    pub(super) puts: DiskPlan,
    /// What is to read as zeroes.
    pub(super) clears: Vec<Sectors>,
    /// Bytes of both.
    pub(super) changed: ByteLen,
}

/// Where in its machine's path a replica stands, and what was changed by objects behind that.
pub(super) struct Standing {
    /// The disk as the path has it up to there.
    pub(super) map: ExtentMap,
    /// Its size as the path has it up to there. Unit: sectors.
    pub(super) sectors: u64,
    pub(super) later: Changes,
    pub(super) index_count: usize,
}

impl Restoring<'_> {
    /// Folds every index of the machine that may say something about the disk at or below the point.
    pub(super) async fn plan(&self, disk: &WantedDisk) -> Result<DiskPlan, RestoreError> {
        let walked: Vec<_> = self.loaded.objects_up_to(self.seq).collect();
        let mut map = ExtentMap::new(self.seq);
        let mut covered = Changes::default();
        self.read_sections(disk, &walked, |object, index, section, is_folded| {
            if is_folded {
                map.fold(section, object.ordinal, index);
                covered.fold(section, |seq| seq <= self.seq);
            }
        })
        .await?;
        let layered = self.layered(disk.disk, self.seq, disk.size).await?;
        let layered = uncovered(layered, &covered);
        Ok(DiskPlan::of(&map, layered, disk.size, walked.len()))
    }

    /// The same over a copy of a replica that holds everything of the first `through` of the machine's objects, and
    /// anything of the others. What it may hold otherwise than the point: whatever objects behind these changed, and
    /// whatever these changed above the point. The rest is as it was at the point.
    pub(super) async fn plan_over_copy(
        &self,
        disk: &WantedDisk,
        through: u32,
    ) -> Result<CopyPlan, RestoreError> {
        let walked: Vec<_> = self.loaded.objects_up_to(Seq(u64::MAX)).collect();
        let mut map = ExtentMap::new(self.seq);
        let mut changes = Changes::default();
        self.read_sections(disk, &walked, |object, index, section, is_folded| {
            if is_folded {
                map.fold(section, object.ordinal, index);
            }
            // Nobody knows whether a replica took what does not follow.
            let is_sure = is_folded && object.ordinal < through;
            changes.fold(section, |seq| !is_sure || self.seq < seq);
        })
        .await?;
        // Where the replica ended once, its last page lay.
        let history = self.loaded.history().disks().get(&disk.disk);
        for sectors in history.iter().flat_map(|history| history.sizes.values()) {
            changes.add_last_page(*sectors);
        }
        changes.cut_off(vhd::padded_size(disk.size).0 / SECTOR_LEN);
        let whole = DiskPlan::of(&map, Vec::new(), disk.size, walked.len());
        let given = whole.given();
        Ok(CopyPlan {
            puts: whole.within(&changes),
            clears: changes.without(&given),
            changed: ByteLen(changes.sectors() * SECTOR_LEN),
        })
    }

    /// The disk as of the first `through` of the machine's objects.
    pub(super) async fn standing(
        &self,
        disk: &WantedDisk,
        through: u32,
    ) -> Result<Standing, RestoreError> {
        let walked: Vec<_> = self.loaded.objects_up_to(Seq(u64::MAX)).collect();
        let mut standing = Standing {
            map: ExtentMap::new(Seq(u64::MAX)),
            sectors: 0,
            later: Changes::default(),
            index_count: walked.len(),
        };
        self.read_sections(disk, &walked, |object, index, section, is_folded| {
            if is_folded && object.ordinal < through {
                standing.map.fold(section, object.ordinal, index);
                standing.sectors = size_after(section).unwrap_or(standing.sectors);
            } else {
                standing.later.fold(section, |_| true);
            }
        })
        .await?;
        Ok(standing)
    }

    /// What map layers give of the disk as of `seq`.
    pub(super) async fn layered(
        &self,
        disk: DiskId,
        seq: Seq,
        size: ByteLen,
    ) -> Result<Vec<Found>, RestoreError> {
        let (id, manifest) = (self.header.vault, self.loaded.manifest());
        let sectors = size.0 / SECTOR_LEN;
        let found = found_at(self.vault, id, manifest, (disk, seq), sectors).await;
        Ok(found?)
    }

    /// Hands over the disk's sections of these objects, in path order, and whether each is part of its history.
    pub(super) async fn read_sections(
        &self,
        disk: &WantedDisk,
        walked: &[WalkedObject],
        mut each: impl FnMut(&WalkedObject, u32, &Section, bool),
    ) -> Result<(), RestoreError> {
        let names = walked.iter().map(|object| (object.journal, object.number));
        let mut objects = read_objects(self.vault, self.header.vault, names);
        for (count, object) in walked.iter().enumerate() {
            let read = objects.next().await;
            let (_, _, found) = read.expect("one answer for each name")?;
            let data = fetch::same_object(object, found)?;
            for (index, section) in (0_u32..).zip(&data.index.sections) {
                if section.machine == self.loaded.machine() && section.disk == disk.disk {
                    let is_folded = self.loaded.is_folded(disk.disk, object.ordinal, index);
                    each(object, index, section, is_folded);
                }
            }
            (self.progress)(&Progress {
                planned_count: count + 1,
                plan_count: walked.len(),
                ..Progress::of(disk)
            });
        }
        Ok(())
    }
}

/// The size that a section leaves the disk with, if it says one. Unit: sectors.
fn size_after(section: &Section) -> Option<u64> {
    let records = section.blocks.iter().flat_map(|block| &block.records);
    let mut sizes = records.filter_map(|record| match record.change {
        Change::Resize { sectors } | Change::DiskBegin { sectors, .. } => Some(sectors),
        _ => None,
    });
    sizes.next_back()
}

impl DiskPlan {
    pub(super) fn of(
        map: &ExtentMap,
        layered: Vec<Found>,
        size: ByteLen,
        index_count: usize,
    ) -> Self {
        let end = Lba::new(size.0 / SECTOR_LEN).unwrap_or(Lba::MAX);
        let mut runs = Vec::with_capacity(map.run_count());
        // No writer may write past a disk's end; should one have, that is no part of the disk.
        let inside = map.runs().filter_map(|run| {
            let extent =
                everpoint_units::Extent::between(run.extent.start(), run.extent.end().min(end))?;
            Some(Run { extent, ..*run })
        });
        runs.extend(inside);
        Self::sorted(runs, layered, index_count)
    }

    /// The sectors that it gives, rising.
    pub(super) fn given(&self) -> Vec<Sectors> {
        let runs = self.runs.iter().map(|run| sectors_of(&run.extent));
        let layered = self.layered.iter().map(|found| found.sectors.clone());
        let mut given: Vec<_> = runs.chain(layered).collect();
        given.sort_unstable_by_key(|sectors| sectors.start);
        given
    }

    /// What of it lies in these sectors.
    fn within(&self, changes: &Changes) -> Self {
        let parts = self.runs.iter().flat_map(|run| {
            let parts = changes.within(sectors_of(&run.extent));
            parts.map(|part| {
                let skip = run.skip + (part.start - run.extent.start().sector());
                let extent = extent_of(&part).expect("a part of an extent is an extent");
                Run {
                    extent,
                    skip,
                    ..*run
                }
            })
        });
        let layered = within(&self.layered, changes);
        Self::sorted(parts.collect(), layered, self.index_count)
    }

    fn sorted(mut runs: Vec<Run>, layered: Vec<Found>, index_count: usize) -> Self {
        runs.sort_unstable_by_key(|run| (run.source, run.extent.start()));
        let sectors = runs.iter().map(|run| u64::from(run.extent.sectors().get()));
        let layered_sectors = layered
            .iter()
            .map(|found| found.sectors.end - found.sectors.start);
        let total = ByteLen((sectors.sum::<u64>() + layered_sectors.sum::<u64>()) * SECTOR_LEN);
        Self {
            runs,
            layered,
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
