//! Tests of runs against a disk that has one value a sector.

use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 64;

/// A value that counts its sectors, as a place in a record does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    record: u32,
    skip: u64,
}

impl RunValue for Place {
    fn after(self, sectors: u64) -> Self {
        Self {
            skip: self.skip + sectors,
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Fill(u8);

impl RunValue for Fill {
    fn after(self, _sectors: u64) -> Self {
        self
    }
}

fn extents() -> impl Strategy<Value = (u64, u64)> {
    (0..SECTORS, 1..=SECTORS).prop_map(|(start, len)| (start, (start + len).min(SECTORS)))
}

fn by_sector<V: RunValue>(map: &RunMap<V>) -> Vec<Option<V>> {
    let mut sectors = vec![None; SECTORS as usize];
    for (extent, value) in map.iter() {
        let start = extent.start().sector();
        for at in start..extent.end().sector() {
            assert!(sectors[at as usize].is_none(), "runs are disjoint");
            sectors[at as usize] = Some(value.after(at - start));
        }
    }
    sectors
}

proptest! {
    #[test]
    fn the_newest_run_counts_for_each_sector(
        steps in prop::collection::vec((extents(), any::<bool>()), 0..40),
        window in extents(),
    ) {
        let mut map = RunMap::new();
        let mut naive: Vec<Option<Place>> = vec![None; SECTORS as usize];
        for (record, ((start, end), inserts)) in (0_u32..).zip(steps) {
            let extent = between(start, end);
            match inserts {
                true => map.insert(extent, Place { record, skip: 0 }),
                false => map.remove(extent.start(), extent.end()),
            }
            for at in start..end {
                let place = Place { record, skip: at - start };
                naive[at as usize] = inserts.then_some(place);
            }
        }
        prop_assert_eq!(by_sector(&map), naive.clone());
        prop_assert_eq!(map.sectors(), naive.iter().flatten().count() as u64);

        let mut seen = vec![None; SECTORS as usize];
        for (extent, value) in map.within(between(window.0, window.1)) {
            let start = extent.start().sector();
            for at in start..extent.end().sector() {
                seen[at as usize] = Some(value.after(at - start));
            }
        }
        for at in 0..SECTORS {
            let inside = (window.0..window.1).contains(&at);
            let expected = naive[at as usize].filter(|_| inside);
            prop_assert_eq!(seen[at as usize], expected);
        }
    }

    #[test]
    fn joined_runs_say_the_same_and_no_two_neighbours_could_be_one(
        steps in prop::collection::vec((extents(), 0..3_u8), 0..40),
    ) {
        let mut map = RunMap::new();
        let mut naive = vec![None; SECTORS as usize];
        for ((start, end), fill) in steps {
            map.insert_joined(between(start, end), Fill(fill));
            naive[start as usize..end as usize].fill(Some(Fill(fill)));
        }
        prop_assert_eq!(by_sector(&map), naive);
        let runs: Vec<_> = map.iter().collect();
        for pair in runs.windows(2) {
            let touch = pair[0].0.end() == pair[1].0.start();
            prop_assert!(!(touch && pair[0].1 == pair[1].1), "{:?}", pair);
        }
    }
}

#[test]
fn removing_nothing_leaves_all() {
    let mut map = RunMap::new();
    map.insert(between(3, 9), ());
    map.remove(Lba::new(5).unwrap(), Lba::new(5).unwrap());
    assert_eq!(map.len(), 1);
    assert_eq!(map.sectors(), 6);
}
