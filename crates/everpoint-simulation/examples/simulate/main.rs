//! Runs the simulated world by seed; `cargo xtask simulate` is this.
//!
//! `simulate [--seeds N] [--from S]` runs seeds on every processor and makes the first plan that fails as
//! small as it gets; `simulate --seed S [--trace | --shrink]` runs one, as a story or to shrink it. Exit
//! code 3 when a promise was broken, 2 when the command line makes no sense.

mod attempt;
mod found;
mod order;
mod tally;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use everpoint_simulation::{Plan, run, words};

use attempt::attempt;
use order::{Order, Task};
use tally::Tally;

/// Each so many a seed is run twice, and must do the same.
const GUARD_EVERY: u64 = 50;
/// Violations after which no more seeds are begun.
const VIOLATIONS_MAX: usize = 20;
/// How often a long run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let order = match Order::parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", order::USAGE);
            return ExitCode::from(2);
        }
    };
    attempt::keep_quiet_when_asked();
    let clean = match order.task {
        Task::Many => many(&order),
        Task::Story(seed) => story(seed),
        Task::Shrink(seed) => match found::report(&Plan::of(seed), &order.commit) {
            Some(report) => {
                println!("{report}");
                Ok(false)
            }
            None => {
                println!("seed {seed} breaks no promise: there is nothing to shrink");
                Ok(true)
            }
        },
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the threads of a long run share.
struct Shared<'a> {
    order: &'a Order,
    next: AtomicU64,
    tally: Mutex<Tally>,
    /// Somebody has taken a failed plan to shrink it: one is enough.
    shrinks: AtomicBool,
    done: Mutex<bool>,
    is_done: Condvar,
}

/// Runs seeds on every processor; says whether all were clean.
fn many(order: &Order) -> Result<bool, String> {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = Shared {
        order,
        next: AtomicU64::new(order.from),
        tally: Mutex::default(),
        shrinks: AtomicBool::new(!order.shrinks),
        done: Mutex::new(false),
        is_done: Condvar::new(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| shared.report_progress(began));
        let workers = (0..threads).map(|_| scope.spawn(|| shared.work()));
        for worker in workers.collect::<Vec<_>>() {
            worker.join().expect("a worker catches what panics");
        }
        *lock(&shared.done) = true;
        shared.is_done.notify_all();
    });
    let tally = shared.tally.into_inner();
    let tally = tally.unwrap_or_else(PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    tally.print(order.from, seconds);
    if let Some(path) = &order.record {
        let record = tally.record(order.from, seconds, threads);
        std::fs::write(path, format!("{record:#}\n")).map_err(|error| {
            format!("cannot write {path}: {error}; --record wants a file in a folder that is there")
        })?;
    }
    Ok(tally.is_clean())
}

impl Shared<'_> {
    fn work(&self) {
        let end = self.order.from.saturating_add(self.order.seeds);
        while lock(&self.tally).broken() < VIOLATIONS_MAX {
            let seed = self.next.fetch_add(1, Relaxed);
            if end <= seed {
                return;
            }
            let plan = Plan::of(seed);
            let outcome = attempt(&plan);
            let repeated = seed.is_multiple_of(GUARD_EVERY).then(|| attempt(&plan));
            let fails = lock(&self.tally).add(seed, outcome, repeated);
            if fails && !self.shrinks.swap(true, Relaxed) {
                self.shrink(&plan);
            }
        }
    }

    fn shrink(&self, plan: &Plan) {
        eprintln!("shrinking seed {}", plan.seed);
        let report = found::report(plan, &self.order.commit);
        let report = report.unwrap_or_else(|| format!("seed {} does not fail again", plan.seed));
        println!("\n{report}");
    }

    fn report_progress(&self, began: Instant) {
        let mut done = lock(&self.done);
        loop {
            let waited = self.is_done.wait_timeout(done, PROGRESS_EVERY);
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *done {
                return;
            }
            let (ran, broken) = {
                let tally = lock(&self.tally);
                (tally.seeds(), tally.broken())
            };
            let rate = ran as f64 / began.elapsed().as_secs_f64();
            let left = self.order.seeds.saturating_sub(ran) as f64 / rate;
            eprintln!(
                "{ran} of {} seeds, {rate:.0} a second, {broken} broken; {left:.0} s to go",
                self.order.seeds
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line of a story. Whoever has read enough closes the pipe, and that is the end.
fn say(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Tells one seed from its plan to its verdict; says whether it was clean.
fn story(seed: u64) -> Result<bool, String> {
    let plan = Plan::of(seed);
    say(&words::told(&plan));
    let outcome = run(&plan, Some(&mut |line| say(&line)));
    println!("\n{} events, trace {:016x}", outcome.events, outcome.hash);
    match &outcome.violation {
        Some(violation) => {
            println!("BROKEN: {violation}");
            println!("cargo xtask simulate --seed {seed} --shrink   makes the plan smaller");
        }
        None => println!(
            "kept: every promise; level, committed and restorable at {:.3} s, {} points restored on the way",
            outcome.converged_at.0 as f64 / 1e9,
            outcome.restores
        ),
    }
    Ok(outcome.violation.is_none())
}
