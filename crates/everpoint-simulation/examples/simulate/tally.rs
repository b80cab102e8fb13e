//! What many seeds come to, in words and as a record.

use everpoint_simulation::Outcome;
use everpoint_simulation::world::plan::KINDS;
use serde_json::{Map, Value, json};

/// Something that a run counts.
type Count = (&'static str, fn(&Outcome) -> u64);

/// What a run counts beside faults and events, one line each.
const COUNTS: &[Count] = &[
    ("small faults", |outcome| outcome.small_faults),
    ("restores compared", |outcome| outcome.restores),
    ("damage noticed", |outcome| outcome.detected),
    ("objects created", |outcome| outcome.objects),
];

#[derive(Default)]
pub(crate) struct Tally {
    seeds: u64,
    events: Vec<u64>,
    faults: [u64; KINDS.len()],
    each_faults: Vec<u64>,
    counts: [u64; COUNTS.len()],
    /// Unit: nanoseconds.
    simulated: u128,
    run_twice: u64,
    /// Processes that ended in the middle of something.
    crashes: u64,
    panics: u64,
    broken: Vec<(u64, String)>,
}

impl Tally {
    /// Adds a run, and its repetition; says whether something was broken.
    pub(crate) fn add(
        &mut self,
        seed: u64,
        outcome: Result<Outcome, String>,
        repeated: Option<Result<Outcome, String>>,
    ) -> bool {
        self.seeds += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.panics += 1;
                return self.break_off(seed, panic);
            }
        };
        self.count(&outcome);
        if let Some(Ok(repeated)) = repeated {
            self.run_twice += 1;
            if repeated.hash != outcome.hash {
                self.break_off(seed, "does not do the same twice".to_owned());
            }
        }
        match outcome.violation {
            Some(violation) => {
                let at = violation.at.0 as f64 / 1e9;
                self.break_off(seed, format!("{} (at {at:.6} s)", violation.what))
            }
            None => false,
        }
    }

    fn count(&mut self, outcome: &Outcome) {
        self.events.push(outcome.events);
        self.each_faults
            .push(outcome.faults.iter().sum::<u64>() + outcome.small_faults);
        for (sum, count) in self.faults.iter_mut().zip(outcome.faults) {
            *sum += count;
        }
        self.crashes += outcome.crashes;
        for (sum, (_, count)) in self.counts.iter_mut().zip(COUNTS) {
            *sum += count(outcome);
        }
        let violation = outcome.violation.as_ref();
        let end = violation.map_or(outcome.converged_at, |violation| violation.at);
        self.simulated += u128::from(end.0);
    }

    fn break_off(&mut self, seed: u64, what: String) -> bool {
        println!("seed {seed}: {what}");
        self.broken.push((seed, what));
        true
    }

    pub(crate) const fn seeds(&self) -> u64 {
        self.seeds
    }

    pub(crate) const fn broken(&self) -> usize {
        self.broken.len()
    }

    pub(crate) const fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    fn simulated_seconds(&self) -> f64 {
        self.simulated as f64 / 1e9
    }

    pub(crate) fn print(&self, from: u64, seconds: f64) {
        let events: u64 = self.events.iter().sum();
        println!(
            "{} seeds from {from}: {} broken; {events} events ({:.0}/s), median {} a seed; {:.1} h simulated; \
             {} seeds run twice",
            self.seeds,
            self.broken.len(),
            events as f64 / seconds,
            median(&self.events),
            self.simulated_seconds() / 3_600.0,
            self.run_twice,
        );
        let faults = listed(KINDS.into_iter().zip(self.faults));
        let median = median(&self.each_faults);
        println!("faults that happened, median {median} a seed: {faults}");
        let counts = COUNTS.iter().map(|(name, _)| *name).zip(self.counts);
        println!("beside them: {}", listed(counts));
    }

    pub(crate) fn record(&self, from: u64, seconds: f64, threads: usize) -> Value {
        let events: u64 = self.events.iter().sum();
        let faults: Map<_, _> = named(KINDS.into_iter().zip(self.faults));
        let counts = named(COUNTS.iter().map(|(name, _)| *name).zip(self.counts));
        let broken = self.broken.iter();
        let broken = broken.map(|(seed, what)| json!({ "seed": seed, "what": what }));
        json!({
            "seeds": [[from, from + self.seeds]],
            "seed_count": self.seeds,
            "events": events,
            "seconds": seconds,
            "threads": threads,
            "events_per_second_per_core": events as f64 / seconds / threads as f64,
            "simulated_seconds": self.simulated_seconds(),
            "median_events": median(&self.events),
            "median_faults": median(&self.each_faults),
            "faults": faults,
            "crashes": self.crashes,
            "counts": counts,
            "run_twice": self.run_twice,
            "panics": self.panics,
            "violations": broken.collect::<Vec<_>>(),
        })
    }
}

fn listed(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let counts = counts.map(|(name, count)| format!("{name} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> Map<String, Value> {
    let counts = counts.map(|(name, count)| (name.to_owned(), Value::from(count)));
    counts.collect()
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
