//! Which requests bring a replica from one state to the next: few, long, never overlapping.
//!
//! ```text
//! needs       ██ data   ░░ zeroes            ██      ███████████████   ░░░░░░░░░░   ██
//! fill                                         ·····                             ···   (gap: bytes that stay)
//! requests                                   [ put           ][ put  ][ clear    ][put]
//! ```
//!
//! A put costs a request and its bytes, a clear costs a request. So a short gap between two needs is filled with the
//! bytes that are there anyway, and short zeroes are put with what is beside them. Bytes of a gap that are not at
//! hand have to be read from the target first, which costs a request more.
//!
//! The plan is a shortest path over the places where a request can begin: where the first sector is that no request
//! before it covers. From there a put reaches the end of any need within its limit, or its limit. A place that is
//! further on and not dearer makes all before it useless, so that few are looked at. One thing is left out to bound
//! the work: between two needs of one kind a put does not end where the gap costs less than one part in
//! `ALWAYS_FILLED` of a request, unless its limit makes it.

use std::collections::BTreeMap;

use everpoint_units::{Extent, Lba, SECTOR_LEN};

use crate::run_map::{RunMap, RunValue};

/// Gaps that cost less than this part of a request are filled wherever a put's limit allows.
const ALWAYS_FILLED: u64 = 16;

/// What sectors are to read as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Bytes that are somewhere else.
    Data,
    Zero,
}

/// What requests cost, in bytes that could be sent instead, and how long they may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Costs {
    /// A put or a clear. Where a target takes 500 requests and 60 MiB a second, one costs as much as 123 KiB.
    /// Unit: bytes.
    pub request: u64,
    /// Reading what a gap holds. Unit: bytes.
    pub read: u64,
    /// Longest put. Clears may be as long as any need. Unit: sectors.
    pub put_sectors_max: u64,
}

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PageOp {
    /// Its parts lie one after the other.
    Put {
        extent: Extent,
        parts: Vec<Part>,
    },
    Clear {
        extent: Extent,
    },
}

/// A part of a put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    pub extent: Extent,
    pub source: Source,
}

/// Where a part's bytes are from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// It is what is to be put.
    Need,
    /// Zeroes.
    Zero,
    /// What the target has already, and is at hand.
    Known,
    /// What the target has already, to be read there.
    Target,
}

impl RunValue for Need {
    fn after(self, _sectors: u64) -> Self {
        self
    }
}

impl PageOp {
    /// What it covers.
    pub const fn extent(&self) -> Extent {
        match self {
            Self::Put { extent, .. } | Self::Clear { extent } => *extent,
        }
    }
}

/// The requests that make all of `needs` true and change nothing else: rising, disjoint. What is in `known` is at
/// hand to fill gaps with.
///
/// # Panics
///
/// If a put may not have a single sector.
pub fn plan<K: RunValue>(needs: &RunMap<Need>, known: &RunMap<K>, costs: &Costs) -> Vec<PageOp> {
    assert!(0 < costs.put_sectors_max);
    let needs = Needs::new(needs, known, costs);
    let mut frontier = Frontier::default();
    if let Some(first) = needs.runs.first() {
        frontier.reach(
            Place {
                run: 0,
                at: first.start,
            },
            0,
            None,
        );
    }
    let mut done = Vec::new();
    let mut last = None;
    while let Some((place, reached)) = frontier.next() {
        done.push(reached.by);
        let from = done.len() - 1;
        if needs.runs.len() <= place.run {
            last = Some(from);
            break;
        }
        needs.steps(place, |step| {
            let request = Request {
                start: place.at,
                end: step.end,
                is_clear: step.is_clear,
                before: from,
            };
            frontier.reach(step.next, reached.cost + step.cost, Some(request));
        });
    }
    let mut requests = Vec::new();
    let mut at = last;
    while let Some(request) = at.and_then(|at| done[at]) {
        requests.push(request);
        at = Some(request.before);
    }
    requests.reverse();
    requests
        .iter()
        .map(|request| needs.op(request, known))
        .collect()
}

/// What is needed, as the search sees it.
struct Needs<'a> {
    runs: Vec<Run>,
    costs: &'a Costs,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// Unit: sectors, as `end`.
    start: u64,
    end: u64,
    need: Need,
    /// What filling the gap before it costs, beside its bytes: whether some of it is to be read.
    gap_is_read: bool,
    /// A put may end before it.
    may_begin: bool,
}

/// The first sector that no request covers yet, and the run that it lies in. Behind the last run everything is
/// covered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    run: usize,
    at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    end: u64,
    is_clear: bool,
    cost: u64,
    next: Place,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    start: u64,
    end: u64,
    is_clear: bool,
    /// The place that it begins at, among those done.
    before: usize,
}

#[derive(Clone, Copy, Debug)]
struct Reached {
    run: usize,
    cost: u64,
    by: Option<Request>,
}

/// Places that were reached and are not done: rising in place and in cost.
#[derive(Default)]
struct Frontier {
    places: BTreeMap<u64, Reached>,
}

impl Frontier {
    fn reach(&mut self, place: Place, cost: u64, by: Option<Request>) {
        let further = self.places.range(place.at..).next();
        if further.is_some_and(|(_, reached)| reached.cost <= cost) {
            return;
        }
        while let Some((&at, reached)) = self.places.range(..=place.at).next_back() {
            if reached.cost < cost {
                break;
            }
            self.places.remove(&at);
        }
        let run = place.run;
        self.places.insert(place.at, Reached { run, cost, by });
    }

    fn next(&mut self) -> Option<(Place, Reached)> {
        let (at, reached) = self.places.pop_first()?;
        let run = reached.run;
        Some((Place { run, at }, reached))
    }
}

impl<'a> Needs<'a> {
    fn new<K: RunValue>(needs: &RunMap<Need>, known: &RunMap<K>, costs: &'a Costs) -> Self {
        let mut runs: Vec<Run> = Vec::with_capacity(needs.len());
        for (extent, need) in needs.iter() {
            let (start, end) = (extent.start().sector(), extent.end().sector());
            let last = runs.last().copied();
            let gap = last.map_or(0, |last| start - last.end);
            // No put reaches over a gap as long as it may be.
            let gap_is_read = costs.put_sectors_max <= gap
                || (0 < gap && gap != known_sectors(known, start - gap, start));
            let reading = if gap_is_read { costs.read } else { 0 };
            let filling = reading.saturating_add(gap.saturating_mul(SECTOR_LEN));
            let changes = last.is_some_and(|last| last.need != need);
            let may_begin = changes || costs.request / ALWAYS_FILLED <= filling;
            runs.push(Run {
                start,
                end,
                need,
                gap_is_read,
                may_begin,
            });
        }
        Self { runs, costs }
    }

    /// Every request that may begin at a place.
    fn steps(&self, place: Place, mut step: impl FnMut(Step)) {
        let first = self.runs[place.run];
        if first.need == Need::Zero {
            step(self.clear(place));
        }
        let limit = place.at.saturating_add(self.costs.put_sectors_max);
        let mut is_read = false;
        for (index, run) in (place.run..).zip(&self.runs[place.run..]) {
            if place.run < index {
                if limit <= run.start {
                    break;
                }
                is_read |= run.gap_is_read;
            }
            if limit < run.end {
                let next = Place {
                    run: index,
                    at: limit,
                };
                step(self.put(place, limit, next, is_read));
                break;
            }
            let next = self.runs.get(index + 1);
            let must_end = next.is_none_or(|next| limit <= next.start);
            if must_end || next.is_some_and(|next| next.may_begin) {
                let next = Place {
                    run: index + 1,
                    at: next.map_or(run.end, |next| next.start),
                };
                step(self.put(place, run.end, next, is_read));
            }
        }
    }

    fn put(&self, place: Place, end: u64, next: Place, is_read: bool) -> Step {
        let reading = if is_read { self.costs.read } else { 0 };
        Step {
            end,
            is_clear: false,
            cost: self.costs.request + reading + (end - place.at) * SECTOR_LEN,
            next,
        }
    }

    /// Clears from a place to the end of its need.
    fn clear(&self, place: Place) -> Step {
        let end = self.runs[place.run].end;
        let run = place.run + 1;
        let at = self.runs.get(run).map_or(end, |next| next.start);
        Step {
            end,
            is_clear: true,
            cost: self.costs.request,
            next: Place { run, at },
        }
    }

    fn op<K: RunValue>(&self, request: &Request, known: &RunMap<K>) -> PageOp {
        let extent = between(request.start, request.end);
        if request.is_clear {
            return PageOp::Clear { extent };
        }
        let mut parts = Vec::new();
        let mut at = request.start;
        let first = self.runs.partition_point(|run| run.end <= request.start);
        for run in &self.runs[first..] {
            if request.end <= run.start {
                break;
            }
            if at < run.start {
                fill(between(at, run.start), known, &mut parts);
            }
            let (from, to) = (run.start.max(at), run.end.min(request.end));
            let source = match run.need {
                Need::Data => Source::Need,
                Need::Zero => Source::Zero,
            };
            parts.push(Part {
                extent: between(from, to),
                source,
            });
            at = to;
        }
        PageOp::Put { extent, parts }
    }
}

/// The parts of a gap.
fn fill<K: RunValue>(gap: Extent, known: &RunMap<K>, parts: &mut Vec<Part>) {
    let mut at = gap.start().sector();
    let mut push = |from: u64, to: u64, source| {
        if from < to {
            let extent = between(from, to);
            parts.push(Part { extent, source });
        }
    };
    for (part, _) in known.within(gap) {
        push(at, part.start().sector(), Source::Target);
        push(part.start().sector(), part.end().sector(), Source::Known);
        at = part.end().sector();
    }
    push(at, gap.end().sector(), Source::Target);
}

/// How many of the sectors are known. Unit: sectors.
fn known_sectors<K: RunValue>(known: &RunMap<K>, start: u64, end: u64) -> u64 {
    let parts = known.within(between(start, end));
    parts.map(|(part, _)| u64::from(part.sectors().get())).sum()
}

fn between(start: u64, end: u64) -> Extent {
    let ends = Lba::new(start).zip(Lba::new(end));
    ends.and_then(|(start, end)| Extent::between(start, end))
        .expect("a part of what extents cover")
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the test disk has a few dozen sectors"
)]
mod tests;
