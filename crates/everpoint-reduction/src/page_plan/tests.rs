//! Tests of page plans: what they do to a target, what they cost against the best there is, and how they look.

use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 48;
const SECTOR: u64 = SECTOR_LEN;
/// So cheap a request that no gap is filled only because it is short.
const EXACT: Costs = Costs {
    request: 5 * SECTOR,
    read: 3 * SECTOR,
    put_sectors_max: 9,
};
const MIB: u64 = (1 << 20) / SECTOR;
/// A page blob's: 500 requests and 60 MiB a second, puts of 4 MiB.
const BLOB: Costs = Costs {
    request: (60 << 20) / 500,
    read: (60 << 20) / 500,
    put_sectors_max: 4 * MIB,
};

fn needs(runs: &[(u64, u64, Need)]) -> RunMap<Need> {
    let mut map = RunMap::new();
    for (start, end, need) in runs {
        map.insert_joined(between(*start, *end), *need);
    }
    map
}

fn known(runs: &[(u64, u64)]) -> RunMap<()> {
    let mut map = RunMap::new();
    runs.iter()
        .for_each(|(start, end)| map.insert(between(*start, *end), ()));
    map
}

/// `(start, end)` of each request, clears with a minus.
fn shape(ops: &[PageOp]) -> Vec<(char, u64, u64)> {
    ops.iter()
        .map(|op| {
            let kind = match op {
                PageOp::Put { .. } => '+',
                PageOp::Clear { .. } => '-',
            };
            let extent = op.extent();
            (kind, extent.start().sector(), extent.end().sector())
        })
        .collect()
}

fn cost(ops: &[PageOp], costs: &Costs) -> u64 {
    ops.iter()
        .map(|op| match op {
            PageOp::Clear { .. } => costs.request,
            PageOp::Put { extent, parts } => {
                let reads = parts.iter().any(|part| part.source == Source::Target);
                let reading = if reads { costs.read } else { 0 };
                costs.request + reading + extent.byte_len().0
            }
        })
        .sum()
}

/// The cheapest plan there is, tried out sector by sector.
fn cheapest(needs: &RunMap<Need>, known: &RunMap<()>, costs: &Costs) -> u64 {
    let mut need = vec![None; SECTORS as usize];
    for (extent, of) in needs.iter() {
        need[extent.start().sector() as usize..extent.end().sector() as usize].fill(Some(of));
    }
    let mut is_known = vec![false; SECTORS as usize];
    for (extent, ()) in known.iter() {
        is_known[extent.start().sector() as usize..extent.end().sector() as usize].fill(true);
    }
    let len = SECTORS as usize;
    let mut best = vec![u64::MAX; len + 1];
    best[len] = 0;
    for at in (0..len).rev() {
        if need[at].is_none() {
            best[at] = best[at + 1];
        }
        let (mut is_clear, mut reads) = (true, false);
        for end in at + 1..=len {
            let last = end - 1;
            is_clear &= need[last] == Some(Need::Zero);
            reads |= need[last].is_none() && !is_known[last];
            let sectors = (end - at) as u64;
            if is_clear {
                best[at] = best[at].min(costs.request.saturating_add(best[end]));
            }
            if sectors <= costs.put_sectors_max {
                let reading = if reads { costs.read } else { 0 };
                let put = costs.request + reading + sectors * SECTOR;
                best[at] = best[at].min(put.saturating_add(best[end]));
            }
        }
    }
    best[0]
}

fn extents() -> impl Strategy<Value = (u64, u64)> {
    (0..SECTORS, 1..12_u64).prop_map(|(start, len)| (start, (start + len).min(SECTORS)))
}

fn some_needs() -> impl Strategy<Value = RunMap<Need>> {
    let need = prop_oneof![2 => Just(Need::Data), 1 => Just(Need::Zero)];
    prop::collection::vec((extents(), need), 0..12).prop_map(|runs| {
        let runs: Vec<_> = runs
            .iter()
            .map(|((start, end), need)| (*start, *end, *need))
            .collect();
        needs(&runs)
    })
}

fn some_data() -> impl Strategy<Value = RunMap<Need>> {
    prop::collection::vec(extents(), 0..12).prop_map(|runs| {
        let runs: Vec<_> = runs
            .iter()
            .map(|(start, end)| (*start, *end, Need::Data))
            .collect();
        needs(&runs)
    })
}

fn some_known() -> impl Strategy<Value = RunMap<()>> {
    prop::collection::vec(extents(), 0..6).prop_map(|runs| known(&runs))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A target on which each sector remembers what happened to it.
    #[test]
    fn what_is_needed_is_done_once_and_nothing_else_changes(
        needs in some_needs(),
        known in some_known(),
        request in 1..40_u64,
        put_sectors_max in 1..20_u64,
    ) {
        let costs = Costs { request: request * SECTOR, put_sectors_max, ..EXACT };
        let ops = plan(&needs, &known, &costs);
        let mut is: Vec<Option<Need>> = vec![None; SECTORS as usize];
        let mut end = 0;
        for op in &ops {
            let extent = op.extent();
            prop_assert!(end <= extent.start().sector(), "{:?}", ops);
            end = extent.end().sector();
            let sectors = u64::from(extent.sectors().get());
            match op {
                PageOp::Clear { .. } => {
                    is[extent.start().sector() as usize..end as usize].fill(Some(Need::Zero));
                }
                PageOp::Put { parts, .. } => {
                    prop_assert!(sectors <= costs.put_sectors_max);
                    let mut at = extent.start();
                    for part in parts {
                        prop_assert_eq!(part.extent.start(), at);
                        at = part.extent.end();
                        let sectors = part.extent.start().sector()..at.sector();
                        let filled = match part.source {
                            Source::Need => Some(Need::Data),
                            Source::Zero => Some(Need::Zero),
                            Source::Known | Source::Target => None,
                        };
                        let is_known = known.within(part.extent).map(|(e, ())| u64::from(e.sectors().get())).sum::<u64>();
                        let len = u64::from(part.extent.sectors().get());
                        match part.source {
                            Source::Known => prop_assert_eq!(is_known, len),
                            Source::Target => prop_assert_eq!(is_known, 0),
                            Source::Need | Source::Zero => {}
                        }
                        for sector in sectors {
                            is[sector as usize] = filled;
                        }
                    }
                    prop_assert_eq!(at, extent.end());
                }
            }
        }
        let mut expected = vec![None; SECTORS as usize];
        for (extent, need) in needs.iter() {
            expected[extent.start().sector() as usize..extent.end().sector() as usize].fill(Some(need));
        }
        prop_assert_eq!(is, expected);
    }

    #[test]
    fn no_plan_is_cheaper(needs in some_needs(), known in some_known()) {
        let planned = cost(&plan(&needs, &known, &EXACT), &EXACT);
        prop_assert_eq!(planned, cheapest(&needs, &known, &EXACT));
    }

    /// Where short gaps between data are always filled, that costs at most a sixteenth of each request. (Between
    /// zeroes it may cost more: they are put then, and a clear might have done.)
    #[test]
    fn what_bounds_the_work_costs_a_sixteenth(
        needs in some_data(),
        known in some_known(),
        request in 17..200_u64,
    ) {
        let costs = Costs { request: request * SECTOR, put_sectors_max: 24, ..EXACT };
        let planned = cost(&plan(&needs, &known, &costs), &costs);
        let best = cheapest(&needs, &known, &costs);
        prop_assert!(best <= planned);
        prop_assert!(planned <= best + best / ALWAYS_FILLED, "{} of {}", planned, best);
    }
}

#[test]
fn nothing_needs_no_request() {
    assert_eq!(plan(&RunMap::new(), &RunMap::<()>::new(), &BLOB), []);
}

#[test]
fn a_long_run_is_cut_where_the_limit_is() {
    let ops = plan(
        &needs(&[(8, 8 + 9 * MIB, Need::Data)]),
        &RunMap::<()>::new(),
        &BLOB,
    );
    let starts = shape(&ops);
    assert_eq!(starts.len(), 3);
    assert_eq!(starts[0], ('+', 8, 8 + 4 * MIB));
}

#[test]
fn short_known_gaps_are_filled_and_long_ones_are_not() {
    let runs = [
        (0, 16, Need::Data),
        (32, 48, Need::Data),
        (1_024, 1_040, Need::Data),
    ];
    let ops = plan(&needs(&runs), &known(&[(0, 2_000)]), &BLOB);
    assert_eq!(shape(&ops), [('+', 0, 48), ('+', 1_024, 1_040)]);
    let PageOp::Put { parts, .. } = &ops[0] else {
        panic!("{ops:?}");
    };
    let sources: Vec<_> = parts.iter().map(|part| part.source).collect();
    assert_eq!(sources, [Source::Need, Source::Known, Source::Need]);
}

#[test]
fn what_is_not_at_hand_is_read_only_where_that_saves_more_than_it_costs() {
    let two = [(0, 16, Need::Data), (32, 48, Need::Data)];
    let ops = plan(&needs(&two), &RunMap::<()>::new(), &BLOB);
    assert_eq!(
        ops.len(),
        2,
        "a read and a put for two puts: nothing is saved"
    );
    let many: Vec<_> = (0..20)
        .map(|at| (at * 32, at * 32 + 16, Need::Data))
        .collect();
    let ops = plan(&needs(&many), &RunMap::<()>::new(), &BLOB);
    assert_eq!(shape(&ops), [('+', 0, 19 * 32 + 16)]);
}

#[test]
fn long_zeroes_are_cleared_and_short_ones_are_put() {
    let runs = [
        (0, 16, Need::Data),
        (16, 24, Need::Zero),
        (24, 32, Need::Data),
        (32, 32 + 64 * MIB, Need::Zero),
    ];
    let ops = plan(&needs(&runs), &RunMap::<()>::new(), &BLOB);
    assert_eq!(shape(&ops), [('+', 0, 32), ('-', 32, 32 + 64 * MIB)]);
}

#[test]
fn a_gap_of_many_tib_is_no_gap_to_fill() {
    let far = (1 << 33) * 2;
    let runs = [(0, 8, Need::Data), (far, far + 8, Need::Data)];
    let ops = plan(&needs(&runs), &RunMap::<()>::new(), &BLOB);
    assert_eq!(shape(&ops), [('+', 0, 8), ('+', far, far + 8)]);
}

/// All writes of 8 KiB within 512 MiB, as many as 20 MB/s are in a minute.
#[test]
fn puts_of_random_small_writes_are_long() {
    let mut state = 1_u64;
    let mut map = RunMap::new();
    for _ in 0..60 * 20_000_000 / 8_192 {
        // Source: Knuth, MMIX's linear congruential generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) % 65_536 * 16;
        map.insert_joined(between(at, at + 16), Need::Data);
    }
    for known in [RunMap::new(), known(&[(0, 512 * MIB)])] {
        let ops = plan(&map, &known, &BLOB);
        let sectors: u64 = ops
            .iter()
            .map(|op| u64::from(op.extent().sectors().get()))
            .sum();
        let mean = sectors * SECTOR / ops.len() as u64;
        assert!((256 << 10) <= mean, "{mean} bytes a put");
    }
}
