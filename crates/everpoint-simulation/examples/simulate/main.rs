//! Runs the simulated world by seed; `cargo xtask simulate` is this.
//!
//! `simulate [--seeds N] [--from S]` runs seeds on every processor, `simulate --seed S [--trace]` one, as a
//! story. Exit code 3 when a promise was broken.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use everpoint_simulation::world::plan::KINDS;
use everpoint_simulation::{Outcome, Plan, run};

/// Each so many a seed is run twice, and must do the same.
const GUARD_EVERY: u64 = 50;
/// Violations after which no more seeds are begun.
const VIOLATIONS_MAX: usize = 20;

struct Order {
    from: u64,
    seeds: u64,
    story_of: Option<u64>,
}

#[derive(Default)]
struct Tally {
    events: Vec<u64>,
    faults: [u64; KINDS.len()],
    small_faults: u64,
    each_faults: Vec<u64>,
    restores: u64,
    guarded: u64,
    broken: Vec<String>,
}

fn main() -> ExitCode {
    let order = match Order::parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("{error}\n\nsimulate [--seeds N] [--from S] | --seed S [--trace]");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = order.story_of {
        return story(seed);
    }
    let began = Instant::now();
    let (next, tally) = (AtomicU64::new(order.from), Mutex::new(Tally::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&order, &next, &tally));
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.print(&order, began.elapsed().as_secs_f64());
    if tally.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    }
}

fn work(order: &Order, next: &AtomicU64, tally: &Mutex<Tally>) {
    let lock = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let seed = next.fetch_add(1, Relaxed);
        if order.from + order.seeds <= seed || VIOLATIONS_MAX <= lock().broken.len() {
            return;
        }
        let outcome = attempt(seed);
        let repeated = seed.is_multiple_of(GUARD_EVERY).then(|| attempt(seed));
        lock().add(seed, outcome, repeated);
    }
}

/// A panic of the product's code is a finding like any other.
fn attempt(seed: u64) -> Result<Outcome, String> {
    catch_unwind(|| run(&Plan::of(seed), None))
        .map_err(|_| format!("seed {seed}: panics, see above"))
}

fn story(seed: u64) -> ExitCode {
    let plan = Plan::of(seed);
    println!("{:#?}", plan.shape);
    let outcome = run(&plan, Some(&mut |line| println!("{line}")));
    println!("{} events, trace {:016x}", outcome.events, outcome.hash);
    if outcome.violation.is_some() {
        return ExitCode::from(3);
    }
    ExitCode::SUCCESS
}

impl Order {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut order = Self {
            from: 0,
            seeds: 1_000,
            story_of: None,
        };
        let mut args = args;
        while let Some(flag) = args.next() {
            let mut number = || {
                let value = args.next().unwrap_or_default();
                value
                    .parse()
                    .map_err(|_| format!("{flag}: a number is wanted, not {value:?}"))
            };
            match flag.as_str() {
                "--from" => order.from = number()?,
                "--seeds" => order.seeds = number()?,
                "--seed" => order.story_of = Some(number()?),
                // A single seed is told as a story anyway.
                "--trace" => (),
                other => return Err(format!("{other}: no such flag")),
            }
        }
        Ok(order)
    }
}

impl Tally {
    fn add(
        &mut self,
        seed: u64,
        outcome: Result<Outcome, String>,
        repeated: Option<Result<Outcome, String>>,
    ) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) => return self.break_off(panic),
        };
        if let Some(Ok(repeated)) = repeated {
            self.guarded += 1;
            if repeated.hash != outcome.hash {
                self.break_off(format!("seed {seed}: does not do the same twice"));
            }
        }
        self.events.push(outcome.events);
        self.each_faults
            .push(outcome.faults.iter().sum::<u64>() + outcome.small_faults);
        for (sum, count) in self.faults.iter_mut().zip(outcome.faults) {
            *sum += count;
        }
        self.small_faults += outcome.small_faults;
        self.restores += outcome.restores;
        if let Some(violation) = outcome.violation {
            self.break_off(violation.to_string());
        }
    }

    fn break_off(&mut self, what: String) {
        println!("{what}");
        self.broken.push(what);
    }

    fn print(&self, order: &Order, seconds: f64) {
        let events: u64 = self.events.iter().sum();
        println!(
            "{} seeds from {}: {} broken; {events} events ({:.0}/s), median {} a seed; {} points restored; \
             {} seeds run twice",
            self.events.len(),
            order.from,
            self.broken.len(),
            events as f64 / seconds,
            median(&self.events),
            self.restores,
            self.guarded,
        );
        let kinds = KINDS.iter().zip(self.faults);
        let kinds = kinds.map(|(kind, count)| format!("{kind} {count}"));
        println!(
            "faults that happened, median {} a seed: {}, small ones {}",
            median(&self.each_faults),
            kinds.collect::<Vec<_>>().join(", "),
            self.small_faults,
        );
    }
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
