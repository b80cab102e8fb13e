//! What differs between two points of a disk: from indexes alone, no frame is read.
//!
//! Sectors are the same where one record gives them at both points, or none does. What was written between the points
//! counts as changed whatever was written, also bytes that were there before.

use everpoint_format::layer::page::Version;
use everpoint_journal::extent_map::{ExtentMap, RecordPlace};
use everpoint_journal::sweep::Found;
use everpoint_units::{ByteLen, ByteOffset, DiskId, MachineId, SECTOR_LEN, Seq};
use everpoint_vault::Vault;
use serde::Serialize;

use super::changes::{Changes, Sectors, sectors_of};
use super::{
    ImageFormat, Progress, RestoreConfig, RestoreError, Restoring, Subject, WantedDisk, locate,
};
use crate::layers::uncovered;
use crate::listing::Instant;
use crate::machine::{DamageNote, Reads};
use crate::plain;
use crate::point::At;

/// Two points of one disk, held against each other.
#[derive(Clone, Debug, Serialize)]
pub struct PointDiff {
    #[serde(serialize_with = "plain::text")]
    pub machine: MachineId,
    #[serde(serialize_with = "plain::text")]
    pub disk: DiskId,
    pub from: Instant,
    pub to: Instant,
    /// The disk's size at each of them.
    #[serde(serialize_with = "plain::bytes")]
    pub from_size_bytes: ByteLen,
    #[serde(serialize_with = "plain::bytes")]
    pub to_size_bytes: ByteLen,
    /// Bytes that `to` has otherwise than `from`, those that became zeroes included. What lies beyond the smaller of
    /// the two sizes counts where it holds data.
    #[serde(serialize_with = "plain::bytes")]
    pub changed_bytes: ByteLen,
    /// Bytes of those that read as zeroes at `to`, or are beyond its end.
    #[serde(serialize_with = "plain::bytes")]
    pub zeroed_bytes: ByteLen,
    pub extent_count: usize,
    /// Rising, disjoint; two that touch are of different kinds. `None` where nobody asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extents: Option<Vec<ChangedExtent>>,
    /// What is damaged in the machine's history.
    pub damage: Vec<DamageNote>,
}

/// Bytes that are not what they were.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ChangedExtent {
    #[serde(serialize_with = "plain::offset")]
    pub at: ByteOffset,
    #[serde(serialize_with = "plain::bytes")]
    pub len: ByteLen,
    /// They read as zeroes now.
    pub is_zero: bool,
}

/// Holds two points of a disk against each other; which of them is older does not matter.
///
/// # Errors
///
/// See [`RestoreError`].
pub async fn diff_points(
    vault: &Vault,
    disk: DiskId,
    machine: Option<MachineId>,
    (from, to): (&At, &At),
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<PointDiff, RestoreError> {
    let found = locate::<RestoreError>(vault, Subject::Disk(disk), machine, Reads::Layers).await;
    let (header, loaded, _) = found?;
    let (from, to) = (
        loaded.resolve(Some(disk), from)?,
        loaded.resolve(Some(disk), to)?,
    );
    let config = RestoreConfig::default();
    let restoring = Restoring {
        vault,
        header,
        config: &config,
        loaded,
        seq: from.max(to),
        format: ImageFormat::Raw,
        progress,
    };
    let extents = restoring.differing(disk, from, to).await?;
    let loaded = &restoring.loaded;
    let sum = |of: &dyn Fn(&&ChangedExtent) -> bool| {
        ByteLen(extents.iter().filter(of).map(|extent| extent.len.0).sum())
    };
    Ok(PointDiff {
        machine: loaded.machine(),
        disk,
        from: Instant::of(loaded, from),
        to: Instant::of(loaded, to),
        from_size_bytes: loaded.size_of(disk, from),
        to_size_bytes: loaded.size_of(disk, to),
        changed_bytes: sum(&|_| true),
        zeroed_bytes: sum(&|extent| extent.is_zero),
        extent_count: extents.len(),
        extents: Some(extents),
        damage: loaded.damage().to_vec(),
    })
}

impl Restoring<'_> {
    async fn differing(
        &self,
        disk: DiskId,
        from: Seq,
        to: Seq,
    ) -> Result<Vec<ChangedExtent>, RestoreError> {
        let wanted = WantedDisk {
            disk,
            name: String::new(),
            size: self.loaded.size_of(disk, to),
            index: 0,
            count: 1,
        };
        let (mut old, mut new) = (ExtentMap::new(from), ExtentMap::new(to));
        let (mut over_old, mut over_new) = (Changes::default(), Changes::default());
        let walked: Vec<_> = self.loaded.objects_up_to(self.seq).collect();
        self.read_sections(&wanted, &walked, |object, index, section, is_folded| {
            if is_folded {
                old.fold(section, object.ordinal, index);
                new.fold(section, object.ordinal, index);
                over_old.fold(section, |seq| seq <= from);
                over_new.fold(section, |seq| seq <= to);
            }
        })
        .await?;
        let old_size = self.loaded.size_of(disk, from);
        let old_layered = self.layered(disk, from, old_size).await?;
        let new_layered = self.layered(disk, to, wanted.size).await?;
        let old = inside(&old, uncovered(old_layered, &over_old), old_size);
        let new = inside(&new, uncovered(new_layered, &over_new), wanted.size);
        Ok(differing(&old, &new))
    }
}

/// Sectors that one record gives.
#[derive(Clone, Debug)]
struct Given {
    sectors: Sectors,
    by: Source,
}

/// Which record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Index(RecordPlace),
    Layer(Version),
}

/// What gives the sectors of a disk, cut off at its end.
fn inside(map: &ExtentMap, layered: Vec<Found>, size: ByteLen) -> Vec<Given> {
    let end = size.0 / SECTOR_LEN;
    let runs = map.runs().filter_map(|run| {
        let sectors = sectors_of(&run.extent);
        let sectors = sectors.start..sectors.end.min(end);
        let by = Source::Index(run.source);
        (!sectors.is_empty()).then_some(Given { sectors, by })
    });
    let layered = layered.into_iter().map(|found| Given {
        by: Source::Layer(Version {
            copy: found.copy,
            seq: found.seq,
        }),
        sectors: found.sectors,
    });
    let mut given: Vec<_> = runs.chain(layered).collect();
    given.sort_unstable_by_key(|given| given.sectors.start);
    given
}

/// Where two maps of a disk give other bytes. Each is rising and disjoint.
fn differing(old: &[Given], new: &[Given]) -> Vec<ChangedExtent> {
    let (mut old, mut new) = (Stretches { left: old }, Stretches { left: new });
    let mut found: Vec<ChangedExtent> = Vec::new();
    let mut at = 0;
    while at != u64::MAX {
        let (was, was_through) = old.at(at);
        let (is, is_through) = new.at(at);
        let end = was_through.min(is_through);
        if was.map(|given| given.by) != is.map(|given| given.by) {
            add(&mut found, at..end, is.is_none());
        }
        at = end;
    }
    found
}

fn add(found: &mut Vec<ChangedExtent>, sectors: Sectors, is_zero: bool) {
    let extent = ChangedExtent {
        at: ByteOffset(sectors.start * SECTOR_LEN),
        len: ByteLen((sectors.end - sectors.start) * SECTOR_LEN),
        is_zero,
    };
    match found.last_mut() {
        Some(last) if last.is_zero == is_zero && last.at.0 + last.len.0 == extent.at.0 => {
            last.len.0 += extent.len.0;
        }
        _ => found.push(extent),
    }
}

/// Runs that were not passed yet.
struct Stretches<'a> {
    left: &'a [Given],
}

impl Stretches<'_> {
    /// The run at a sector, and where that, or the hole, ends: `u64::MAX` where no run follows. Sectors rise from call
    /// to call.
    fn at(&mut self, sector: u64) -> (Option<&Given>, u64) {
        while let [first, left @ ..] = self.left
            && first.sectors.end <= sector
        {
            self.left = left;
        }
        match self.left.first() {
            None => (None, u64::MAX),
            Some(given) => match given.sectors.start <= sector {
                true => (Some(given), given.sectors.end),
                false => (None, given.sectors.start),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECTORS: usize = 64;

    fn run(start: u64, end: u64, record: u32) -> Given {
        let source = RecordPlace {
            object: 0,
            section: 0,
            block: 0,
            record,
        };
        Given {
            sectors: start..end,
            by: Source::Index(source),
        }
    }

    fn place(sector: u64) -> usize {
        usize::try_from(sector).unwrap()
    }

    /// What gives each sector.
    fn spread(runs: &[Given]) -> Vec<Option<Source>> {
        let mut sectors = vec![None; SECTORS];
        for run in runs {
            for sector in run.sectors.clone() {
                sectors[place(sector)] = Some(run.by);
            }
        }
        sectors
    }

    fn runs() -> impl Strategy<Value = Vec<Given>> {
        let steps = prop::collection::vec((0_u64..6, 1_u64..9, 0_u32..3), 0..12);
        steps.prop_map(|steps| {
            let (mut at, mut runs) = (0, Vec::new());
            for (gap, len, record) in steps {
                let (start, end) = (at + gap, at + gap + len);
                if SECTORS < place(end) {
                    break;
                }
                runs.push(run(start, end, record));
                at = end;
            }
            runs
        })
    }

    #[test]
    fn what_one_record_gives_at_both_points_is_the_same() {
        let (old, new) = ([run(0, 8, 1), run(8, 16, 2)], [run(0, 4, 1), run(4, 12, 3)]);
        let changed = |at: u64, end: u64, is_zero| ChangedExtent {
            at: ByteOffset(at * SECTOR_LEN),
            len: ByteLen((end - at) * SECTOR_LEN),
            is_zero,
        };
        assert_eq!(differing(&old, &old), []);
        assert_eq!(
            differing(&old, &new),
            [changed(4, 12, false), changed(12, 16, true)]
        );
        assert_eq!(differing(&[], &new), [changed(0, 12, false)]);
        assert_eq!(differing(&new, &[]), [changed(0, 12, true)]);
    }

    proptest! {
        #[test]
        fn exactly_the_sectors_that_differ_are_named(old in runs(), new in runs()) {
            let found = differing(&old, &new);
            let (was, is) = (spread(&old), spread(&new));
            let mut named = [None; SECTORS];
            let mut end = None;
            for extent in &found {
                let (start, len) = (extent.at.0 / SECTOR_LEN, extent.len.0 / SECTOR_LEN);
                prop_assert!(0 < len);
                let touches = end == Some((start, extent.is_zero));
                prop_assert!(end.is_none_or(|(end, _)| end <= start) && !touches);
                end = Some((start + len, extent.is_zero));
                named[place(start)..place(start + len)].fill(Some(extent.is_zero));
            }
            for sector in 0..SECTORS {
                let expected = (was[sector] != is[sector]).then_some(is[sector].is_none());
                prop_assert_eq!(named[sector], expected, "sector {}", sector);
            }
        }
    }
}
