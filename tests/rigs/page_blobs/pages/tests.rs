//! Pages against a model with a cell for every sector.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Long enough for five chunks.
const SECTORS_MAX: u64 = 5 * CHUNK_SECTORS as u64;

/// Which write each sector is of, and its byte; the simplest thing that could be right.
#[derive(Clone, Debug, Default)]
struct Model {
    sectors: Vec<Option<(u64, u8)>>,
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, count: u64, byte: u8 },
    Clear { at: u64, count: u64 },
    Resize { count: u64 },
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let extent = (0..SECTORS_MAX, prop_oneof![1..4_u64, 100..300_u64]);
    let step = prop_oneof![
        4 => (extent.clone(), 0..3_u8).prop_map(|((at, count), byte)| Step::Write { at, count, byte }),
        2 => extent.prop_map(|(at, count)| Step::Clear { at, count }),
        1 => (0..=SECTORS_MAX).prop_map(|count| Step::Resize { count }),
        1 => Just(Step::Snapshot),
    ];
    vec(step, 1..40)
}

impl Model {
    fn extents(&self, kind: impl Fn(usize) -> Option<Change>) -> Vec<(Range<u64>, Change)> {
        let mut found = Vec::new();
        for sector in 0..self.sectors.len() {
            if let Some(change) = kind(sector) {
                let at = sector as u64 * SECTOR_LEN;
                push(&mut found, at..at + SECTOR_LEN, change);
            }
        }
        found
    }

    fn written(&self) -> Vec<Range<u64>> {
        let found = self.extents(|sector| self.sectors[sector].map(|_| Change::Written));
        found.into_iter().map(|(extent, _)| extent).collect()
    }

    fn changed(&self, since: &Self) -> Vec<(Range<u64>, Change)> {
        self.extents(|sector| {
            let old = since.sectors.get(sector).copied().flatten();
            match (self.sectors[sector], old) {
                (Some(new), old) => {
                    (old.map(|old| old.0) != Some(new.0)).then_some(Change::Written)
                }
                (None, Some(_)) => Some(Change::Cleared),
                (None, None) => None,
            }
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let sectors = self.sectors.iter();
        let bytes = sectors.map(|sector| [sector.map_or(0, |sector| sector.1); 512]);
        bytes.flatten().collect()
    }
}

fn sectors(at: u64, count: u64) -> Range<u64> {
    at * SECTOR_LEN..(at + count) * SECTOR_LEN
}

/// The same bytes, in pieces that end where no sector does.
fn pieces(len: u64, byte: u8) -> Vec<Bytes> {
    let bytes = Bytes::from(vec![byte; index(len)]);
    let cut = bytes.len() / 3 + 1;
    vec![bytes.slice(..cut), Bytes::new(), bytes.slice(cut..)]
}

proptest! {
    #[test]
    fn bytes_extents_and_differences_are_those_of_the_model(steps in steps(), window in (0..SECTORS_MAX, 0..SECTORS_MAX)) {
        let mut pages = Pages::new(SECTORS_MAX * SECTOR_LEN);
        let mut model = Model { sectors: vec![None; index(SECTORS_MAX)] };
        let mut snapshots = vec![(pages.clone(), model.clone())];
        for (number, step) in steps.into_iter().enumerate() {
            let room = model.sectors.len() as u64;
            match step {
                Step::Write { at, count, byte } if at + count <= room => {
                    pages.write(at * SECTOR_LEN, &pieces(count * SECTOR_LEN, byte));
                    model.sectors[index(at)..index(at + count)].fill(Some((number as u64, byte)));
                }
                Step::Clear { at, count } if at + count <= room => {
                    pages.clear(sectors(at, count));
                    model.sectors[index(at)..index(at + count)].fill(None);
                }
                Step::Resize { count } => {
                    pages.resize(count * SECTOR_LEN);
                    model.sectors.resize(index(count), None);
                }
                Step::Snapshot => snapshots.push((pages.clone(), model.clone())),
                Step::Write { .. } | Step::Clear { .. } => {}
            }
        }
        snapshots.push((pages, model));
        for (last, (pages, model)) in snapshots.iter().enumerate() {
            let all = 0..pages.len();
            prop_assert_eq!(pages.read(all.clone()), model.bytes());
            prop_assert_eq!(pages.written(all.clone()), model.written());
            for (since, model_since) in &snapshots[..=last] {
                let changed = model.changed(model_since);
                prop_assert_eq!(&pages.changed(since, all.clone()), &changed);
                let window = sectors(window.0, window.1);
                let inside = changed.into_iter().filter_map(|(extent, change)| {
                    let start = extent.start.max(window.start);
                    let end = extent.end.min(window.end);
                    (start < end).then_some((start..end, change))
                });
                let found = pages.changed(since, window.clone());
                prop_assert_eq!(found, inside.collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_write_of_the_same_bytes_is_a_change() {
    let mut pages = Pages::new(4096);
    pages.write(0, &pieces(1024, 7));
    let before = pages.clone();
    pages.write(512, &pieces(512, 7));
    assert_eq!(
        pages.changed(&before, 0..4096),
        [(512..1024, Change::Written)]
    );
}

#[test]
fn a_snapshot_keeps_what_was_there() {
    let mut pages = Pages::new(2 * CHUNK_LEN);
    pages.write(0, &pieces(2 * CHUNK_LEN, 1));
    let before = pages.clone();
    pages.write(CHUNK_LEN, &pieces(CHUNK_LEN, 2));
    pages.clear(0..512);
    assert_eq!(before.read(0..2 * CHUNK_LEN), vec![1; index(2 * CHUNK_LEN)]);
    assert_eq!(pages.read(510..514), [0, 0, 1, 1]);
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let mut pages = Pages::new(1024);
    pages.write(0, &pieces(1024, 1));
    let before = pages.clone();
    pages.resize(512);
    assert_eq!(pages.changed(&before, 0..u64::MAX / 2), []);
    pages.resize(1024);
    assert_eq!(pages.read(512..1024), [0; 512]);
    assert_eq!(
        pages.changed(&before, 0..1024),
        [(512..1024, Change::Cleared)]
    );
}

#[test]
fn room_costs_nothing() {
    let mut pages = Pages::new(8 << 40);
    pages.write((8 << 40) - 512, &pieces(512, 1));
    pages.clear(0..(8 << 40) - 512);
    assert_eq!(pages.chunks.len(), 1);
    assert_eq!(pages.part(&(0..1 << 40)).chunks.len(), 0);
}
