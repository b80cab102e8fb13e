//! Makes a plan that breaks a promise as small as it can be and still break the same one.
//!
//! Whoever reads a story wants to see what matters and nothing else: few faults, one server, one disk,
//! round numbers. The run is an argument, so that this is tested without a bug to be found: it answers
//! with what was broken, or nothing. The same promise is a text that differs in numbers alone
//! ([`class`]); a panic counts like any other text.
//!
//! The horizon comes first, because a shorter run makes all that follow cheaper; then whole classes of
//! faults, then single ones (ddmin: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
//! Input", 2002), then [`SIMPLER`], and all of it again until nothing changes any more.

use std::time::Duration;

use everpoint_units::Moment;

use crate::world::plan::{Fault, KINDS, Plan, Shape};

/// Runs that a search may take, if nothing else is said: at 20 ms each they take under a minute.
pub const RUNS_MAX: usize = 2_000;
/// The horizon is found to this. Unit: nanoseconds.
const HORIZON_STEP: u64 = 100_000_000;
/// Moments of faults are moved down to whole multiples of these, the coarsest that still fails first.
/// Unit: nanoseconds.
const ROUND_TO: [u64; 4] = [1_000_000_000, 100_000_000, 10_000_000, 1_000_000];

/// A plan that is simpler in one respect; `None` if it is as simple as it gets in that.
///
/// It is asked again after each success, and comes to an end.
type Simplify = fn(&Plan) -> Option<Plan>;

/// What makes a world simpler, one line each.
const SIMPLER: &[Simplify] = &[
    |plan| to(plan, |shape| &mut shape.unknown_per_mille, 0),
    |plan| to(plan, |shape| &mut shape.late_per_mille, 0),
    |plan| to(plan, |shape| &mut shape.twice_per_mille, 0),
    |plan| to(plan, |shape| &mut shape.stall_per_mille, 0),
    |plan| to(plan, |shape| &mut shape.clock_skew_s_max, 0),
    |plan| to(plan, |shape| &mut shape.corrupt_per_million, 0),
    |plan| to(plan, |shape| &mut shape.local_error_per_mille, 0),
    one_server_fewer,
    one_machine_fewer,
    |plan| one_fewer(plan, |shape| &mut shape.disks),
    |plan| to(plan, |shape| &mut shape.sectors, 8),
    |plan| halved(plan, |shape| &mut shape.sectors, 8),
    |plan| to(plan, |shape| &mut shape.store_us_max, 1_000),
    |plan| halved(plan, |shape| &mut shape.store_us_max, 1_000),
    |plan| to(plan, |shape| &mut shape.link_us_max, 100),
    |plan| halved(plan, |shape| &mut shape.link_us_max, 100),
    |plan| to(plan, |shape| &mut shape.queue_bytes_max, 512 << 10),
    |plan| to(plan, |shape| &mut shape.log_files, 8),
    // The longer a guest thinks, the less there is to read.
    |plan| doubled(plan, |shape| &mut shape.think_us, 1_000_000),
    |plan| interval_to(plan, 1_000),
    |plan| interval_to(plan, 100),
    shorter_faults,
];

/// A smallest plan, what it breaks, and how many runs it took to find.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub plan: Plan,
    pub violation: String,
    pub runs: usize,
}

/// The smallest plan found in at most `runs_max` runs that breaks what `plan` breaks; `None` if that
/// breaks nothing.
///
/// `run` answers with what a plan breaks. It gives the same answer for the same plan.
pub fn shrink(
    plan: &Plan,
    runs_max: usize,
    mut run: impl FnMut(&Plan) -> Option<String>,
) -> Option<Shrunk> {
    let violation = run(plan)?;
    let mut search = Search {
        class: class(&violation),
        best: plan.clone(),
        violation,
        runs: 1,
        runs_max,
        run: &mut run,
    };
    loop {
        let before = search.best.clone();
        search.shorten_horizon();
        search.drop_classes();
        search.drop_faults();
        search.simplify();
        search.close_gaps();
        search.round_moments();
        if search.best == before || search.is_over() {
            break;
        }
    }
    Some(Shrunk {
        plan: search.best,
        violation: search.violation,
        runs: search.runs,
    })
}

/// What a broken promise is, whatever the numbers in it: each word with a digit is `#`, and what a value
/// looks like inside is left out.
pub fn class(violation: &str) -> String {
    let outside = violation.split(['{', '[', '(']).next().unwrap_or_default();
    let words = outside.split_inclusive(|c: char| !c.is_alphanumeric());
    let words = words.map(|word| {
        let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        match bare.contains(|c: char| c.is_ascii_digit()) {
            true => word.replacen(bare, "#", 1),
            false => word.to_owned(),
        }
    });
    // A fraction is one number.
    words.collect::<String>().replace("#.#", "#")
}

struct Search<'f> {
    class: String,
    best: Plan,
    violation: String,
    runs: usize,
    runs_max: usize,
    run: &'f mut dyn FnMut(&Plan) -> Option<String>,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.runs_max <= self.runs
    }

    /// Takes a plan if it breaks the same promise; says whether.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.is_over() || plan == self.best {
            return false;
        }
        self.runs += 1;
        let Some(violation) = (self.run)(&plan) else {
            return false;
        };
        if class(&violation) != self.class {
            return false;
        }
        self.best = plan;
        self.violation = violation;
        true
    }

    fn try_faults(&mut self, faults: Vec<Fault>) -> bool {
        let plan = Plan {
            faults,
            ..self.best.clone()
        };
        self.try_plan(plan)
    }

    /// Heals the world as early as can be, by halves. Faults after that are gone.
    fn shorten_horizon(&mut self) {
        let mut passes = 0;
        while HORIZON_STEP < self.best.shape.healed_at.0 - passes && !self.is_over() {
            let middle = passes.midpoint(self.best.shape.healed_at.0);
            let middle = (middle / HORIZON_STEP * HORIZON_STEP).max(passes + HORIZON_STEP);
            let mut plan = self.best.clone();
            plan.shape.healed_at = Moment(middle);
            plan.faults.retain(|fault| fault.at.0 < middle);
            if !self.try_plan(plan) {
                passes = middle;
            }
        }
    }

    fn drop_classes(&mut self) {
        for class in 0..KINDS.len() {
            let faults = self.best.faults.iter().copied();
            let others = faults.filter(|fault| fault.kind.class() != class);
            let others = others.collect();
            self.try_faults(others);
        }
    }

    /// Leaves out ever smaller parts of the faults, until none can be left out alone.
    fn drop_faults(&mut self) {
        self.try_faults(Vec::new());
        let mut parts = 2;
        while !self.best.faults.is_empty() && !self.is_over() {
            let count = self.best.faults.len();
            let len = count.div_ceil(parts);
            let mut dropped = false;
            let mut from = 0;
            while from < self.best.faults.len() {
                let mut faults = self.best.faults.clone();
                faults.drain(from..(from + len).min(faults.len()));
                if self.try_faults(faults) {
                    dropped = true;
                } else {
                    from += len;
                }
            }
            match (dropped, len) {
                (true, _) => parts = 2,
                (false, 1) => return,
                (false, _) => parts = (parts * 2).min(count),
            }
        }
    }

    fn simplify(&mut self) {
        for simpler in SIMPLER {
            while let Some(plan) = simpler(&self.best) {
                if !self.try_plan(plan) {
                    break;
                }
            }
        }
    }

    /// Lets each fault, and all after it, come sooner.
    fn close_gaps(&mut self) {
        for index in 0..self.best.faults.len() {
            for part in [4, 2] {
                let mut plan = self.best.clone();
                let before = index
                    .checked_sub(1)
                    .map_or(0, |before| plan.faults[before].at.0);
                let gap = plan.faults[index].at.0 - before;
                let sooner = (gap - gap / part) / HORIZON_STEP * HORIZON_STEP;
                for fault in &mut plan.faults[index..] {
                    fault.at.0 -= sooner;
                }
                plan.shape.healed_at.0 -= sooner;
                if self.try_plan(plan) {
                    break;
                }
            }
        }
    }

    /// Moves each fault to the roundest moment at which it does the same.
    fn round_moments(&mut self) {
        for index in 0..self.best.faults.len() {
            for unit in ROUND_TO {
                let mut faults = self.best.faults.clone();
                let at = faults[index].at.0;
                if at.is_multiple_of(unit) {
                    break;
                }
                faults[index].at = Moment(at - at % unit);
                faults.sort_by_key(|fault| fault.at);
                if self.try_faults(faults) {
                    break;
                }
            }
        }
    }
}

/// A number of a shape.
type Number<N> = fn(&mut Shape) -> &mut N;

fn to<N: PartialEq>(plan: &Plan, number: Number<N>, wanted: N) -> Option<Plan> {
    let mut plan = plan.clone();
    let value = number(&mut plan.shape);
    let differs = *value != wanted;
    *value = wanted;
    differs.then_some(plan)
}

fn one_fewer(plan: &Plan, count: Number<usize>) -> Option<Plan> {
    let mut plan = plan.clone();
    let value = count(&mut plan.shape);
    let fewer = value.checked_sub(1).filter(|fewer| 1 <= *fewer)?;
    *value = fewer;
    Some(plan)
}

fn halved(plan: &Plan, number: Number<u64>, least: u64) -> Option<Plan> {
    let mut plan = plan.clone();
    let value = number(&mut plan.shape);
    let half = (*value / 2).max(least);
    let smaller = half < *value;
    *value = half;
    smaller.then_some(plan)
}

fn doubled(plan: &Plan, number: Number<u64>, most: u64) -> Option<Plan> {
    let mut plan = plan.clone();
    let value = number(&mut plan.shape);
    let double = (*value * 2).min(most);
    let larger = *value < double;
    *value = double;
    larger.then_some(plan)
}

/// Rounds the commit interval to so many milliseconds, once it is longer.
fn interval_to(plan: &Plan, millis: u64) -> Option<Plan> {
    let shorter = Duration::from_millis(millis);
    if plan.shape.commit_interval <= shorter {
        return None;
    }
    to(plan, |shape| &mut shape.commit_interval, shorter)
}

/// The last server goes, and what would have happened to it happens to the one before it.
fn one_server_fewer(plan: &Plan) -> Option<Plan> {
    within_bounds(one_fewer(plan, |shape| &mut shape.servers)?)
}

/// The last machine goes, likewise.
fn one_machine_fewer(plan: &Plan) -> Option<Plan> {
    within_bounds(one_fewer(plan, |shape| &mut shape.machines)?)
}

/// No fault names what is not there.
fn within_bounds(mut plan: Plan) -> Option<Plan> {
    let Shape {
        servers, machines, ..
    } = plan.shape;
    for fault in &mut plan.faults {
        fault.kind.keep_within(machines, servers);
    }
    Some(plan)
}

/// All that takes its time takes half of it, in whole milliseconds.
fn shorter_faults(plan: &Plan) -> Option<Plan> {
    let mut plan = plan.clone();
    let mut shorter = false;
    for fault in &mut plan.faults {
        if let Some(time) = fault.kind.time_mut() {
            let half = Duration::from_millis(u64::try_from(time.as_millis()).ok()? / 2);
            if Duration::from_millis(1) <= half {
                *time = half;
                shorter = true;
            }
        }
    }
    shorter.then_some(plan)
}

#[cfg(test)]
mod tests;
