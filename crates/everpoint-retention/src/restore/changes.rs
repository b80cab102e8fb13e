//! Which sectors of a disk some of its records touched, whatever they put there.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

use everpoint_format::index::Section;
use everpoint_format::{Change, vhd};
use everpoint_units::{ByteLen, Extent, Lba, SECTOR_LEN, Seq};

/// Sectors, half-open. A disk's end may move, so they may reach beyond any disk.
pub(crate) type Sectors = Range<u64>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// First sector and end: disjoint, none that touch.
    runs: BTreeMap<u64, u64>,
}

impl Changes {
    /// Adds what those records of a section touch whose `Seq` is wanted.
    pub(crate) fn fold(&mut self, section: &Section, is_wanted: impl Fn(Seq) -> bool) {
        let records = section.blocks.iter().flat_map(|block| &block.records);
        for record in records.filter(|record| is_wanted(record.seq)) {
            match &record.change {
                Change::Data(extent)
                | Change::Reference { extent, .. }
                | Change::Zero(extent)
                | Change::Discard(extent) => self.add(sectors_of(extent)),
                // Beyond an end everything is gone.
                Change::Resize { sectors } | Change::DiskBegin { sectors, .. } => {
                    self.add(*sectors..u64::MAX);
                }
                Change::ResyncBegin { base: None } => self.add(0..u64::MAX),
                Change::Bookmark { .. }
                | Change::ResyncBegin { base: Some(_) }
                | Change::ResyncComplete
                | Change::DiskEnd => {}
            }
        }
    }

    pub(super) fn add(&mut self, sectors: Sectors) {
        let (mut start, mut end) = (sectors.start, sectors.end);
        if end <= start {
            return;
        }
        let touching: Vec<_> = self
            .runs
            .range(..=end)
            .rev()
            .take_while(|(_, last)| start <= **last)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in touching {
            self.runs.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        self.runs.insert(start, end);
    }

    /// Adds the page behind a disk of so many sectors, where a VHD has its footer.
    pub(super) fn add_last_page(&mut self, sectors: u64) {
        let size = vhd::padded_size(ByteLen(sectors.saturating_mul(SECTOR_LEN)));
        let page = size.0 / SECTOR_LEN;
        self.add(page..page + 1);
    }

    /// Forgets what lies at `end` or behind it.
    pub(super) fn cut_off(&mut self, end: u64) {
        self.runs.split_off(&end);
        if let Some(mut last) = self.runs.last_entry() {
            let cut = end.min(*last.get());
            last.insert(cut);
        }
    }

    /// How many there are.
    pub(super) fn sectors(&self) -> u64 {
        self.runs.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether this sector is one of them.
    pub(super) fn has(&self, sector: u64) -> bool {
        let before = self.runs.range(..=sector).next_back();
        before.is_some_and(|(_, end)| sector < *end)
    }

    /// Those that lie in `sectors`, rising.
    pub(crate) fn within(&self, sectors: Sectors) -> impl Iterator<Item = Sectors> + '_ {
        let before = self.runs.range(..sectors.start).next_back();
        let inside = self.runs.range(sectors.clone());
        let touching = before.into_iter().chain(inside);
        touching.filter_map(move |(&first, &last)| {
            let part = first.max(sectors.start)..last.min(sectors.end);
            (part.start < part.end).then_some(part)
        })
    }

    /// What of `sectors` is not among them, rising.
    pub(crate) fn outside(&self, sectors: Sectors) -> Vec<Sectors> {
        let (mut left, mut at) = (Vec::new(), sectors.start);
        for inside in self.within(sectors.clone()) {
            if at < inside.start {
                left.push(at..inside.start);
            }
            at = inside.end;
        }
        if at < sectors.end {
            left.push(at..sectors.end);
        }
        left
    }

    /// Those that are not among `given`, which rise and are disjoint.
    pub(super) fn without(&self, given: &[Sectors]) -> Vec<Sectors> {
        let mut left = Vec::new();
        let mut given = given.iter().peekable();
        for (&start, &end) in &self.runs {
            let mut at = start;
            while let Some(next) = given.peek().filter(|next| next.start < end) {
                if at < next.start {
                    left.push(at..next.start);
                }
                at = at.max(next.end);
                if end < next.end {
                    break;
                }
                given.next();
            }
            if at < end {
                left.push(at..end);
            }
        }
        left
    }
}

/// The sectors of an extent.
pub(crate) fn sectors_of(extent: &Extent) -> Sectors {
    extent.start().sector()..extent.end().sector()
}

/// The extent of sectors that lie in one.
pub(super) fn extent_of(sectors: &Sectors) -> Option<Extent> {
    let count = u32::try_from(sectors.end - sectors.start).ok()?;
    Extent::new(Lba::new(sectors.start)?, NonZeroU32::new(count)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0..60_u64, 0..12_u64), 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn they_are_the_sectors_that_were_added(
            added in ranges(),
            given in ranges(),
            end in 0..80_u64,
            looked in (0..60_u64, 0..20_u64),
        ) {
            let mut changes = Changes::default();
            let mut oracle = BTreeSet::new();
            for (start, len) in added {
                changes.add(start..start + len);
                oracle.extend(start..start + len);
            }
            changes.cut_off(end);
            oracle.retain(|sector| *sector < end);
            prop_assert_eq!(changes.sectors(), oracle.len() as u64);
            prop_assert!((0..100).all(|sector| changes.has(sector) == oracle.contains(&sector)));
            let runs: Vec<_> = changes.runs.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", runs);

            let looked = looked.0..looked.0 + looked.1;
            let within: Vec<u64> = changes.within(looked.clone()).flatten().collect();
            let expected: Vec<u64> = oracle.iter().copied().filter(|at| looked.contains(at)).collect();
            prop_assert_eq!(within, expected);

            let outside: Vec<u64> = changes.outside(looked.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = looked.filter(|at| !oracle.contains(at)).collect();
            prop_assert_eq!(outside, expected);

            let mut other = Changes::default();
            given.iter().for_each(|(start, len)| other.add(*start..start + len));
            let given: Vec<_> = other.runs.iter().map(|(start, end)| *start..*end).collect();
            let without: Vec<u64> = changes.without(&given).into_iter().flatten().collect();
            let expected: Vec<u64> = oracle.into_iter().filter(|at| !other.has(*at)).collect();
            prop_assert_eq!(without, expected);
        }
    }
}
