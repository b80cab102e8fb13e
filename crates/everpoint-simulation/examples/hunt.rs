//! Shows that the simulated world is not blind: it finds every bug that can be planted in the product, and
//! reaches every mark. `cargo xtask planted` builds this with the bugs, and is this.
//!
//! `hunt [BUG…] [--brief | --seeds N] [--share N] [--record FILE]` plants one bug after the other and runs
//! seeds from 0 on until one fails, and holds that the same seed passes without the bug; `--brief` leaves out
//! what takes long to find, and `--share` runs so many seeds in any case, counts those that fail, and takes
//! out of some of them all faults that they fail without. `hunt --marks [--brief] [--seeds N] [--record FILE]`
//! plants nothing and lists how often each mark was reached. `hunt --history [--seeds N]` says in one number
//! what seeds do without a bug: the same with the bugs in the build and without. Exit code 3 when a bug was
//! not found within its budget, or a mark not reached, or one was that is not expected to be.

use std::cell::RefCell;
use std::fmt::Write;
use std::panic::{catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use everpoint_marks::{Bug, Mark, Reach, choose, count};
use everpoint_simulation::world::plan::KINDS;
use everpoint_simulation::{Plan, run};

const USAGE: &str = "hunt [BUG…] [--brief | --seeds N] [--share N] [--record FILE]
hunt --marks [--brief] [--seeds N] [--record FILE]
hunt --history [--seeds N]";
/// Seeds in which every mark must be reached; in a brief run, those that are reached often.
const MARK_SEEDS: u64 = 400_000;
const MARK_SEEDS_BRIEF: u64 = 500;
/// Seeds whose history is told.
const HISTORY_SEEDS: u64 = 100;
/// What is found in so many seeds is found soon.
const BRIEF_MAX: u64 = 20_000;
/// Failing seeds from which faults are taken out.
const REDUCED_MAX: usize = 2;

thread_local! {
    /// What this thread panicked with last.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

#[derive(Clone, Copy, Default)]
enum Wanted {
    #[default]
    Bugs,
    Marks,
    History,
}

#[derive(Default)]
struct Order {
    bugs: Vec<Bug>,
    wanted: Wanted,
    brief: bool,
    seeds: Option<u64>,
    share: u64,
    record: Option<String>,
}

/// How often a small fault strikes, in a plan.
type Rate = fn(&mut Plan) -> &mut u64;

/// What became of one bug.
struct Hunted {
    bug: Bug,
    /// Seeds that it was searched in, at most.
    budget: u64,
    first: Option<(u64, String)>,
    /// How that seed fails without the bug: then it is the product that is broken there, and the bug was not found.
    anyway: Option<String>,
    share: Option<Share>,
    seconds: f64,
}

/// What many seeds came to.
struct Share {
    failed: usize,
    of: u64,
    /// What is left of the faults of a failing seed when all that it fails without are taken out: of
    /// those that were tried, the fewest.
    needs: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let order = match Order::parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    set_hook(Box::new(|info| {
        let said = info.to_string();
        PANIC.with_borrow_mut(|panic| {
            *panic = said.split_whitespace().collect::<Vec<_>>().join(" ")
        });
    }));
    let (passed, record) = match order.wanted {
        Wanted::Bugs => hunt(&order),
        Wanted::Marks => marks(&order),
        Wanted::History => history(&order),
    };
    if let Some(path) = &order.record
        && let Err(error) = std::fs::write(path, record)
    {
        eprintln!("{path}: {error}");
        return ExitCode::from(2);
    }
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(3),
    }
}

/// Plants bug after bug. Whether all were found that should be, and the record.
fn hunt(order: &Order) -> (bool, String) {
    println!(
        "{:<22} {:>10} {:>12}  {:<30} violated",
        "bug", "first seed", "share", "it takes"
    );
    let mut hunted = Vec::new();
    for bug in order.bugs.iter().filter(|bug| order.wants(**bug)) {
        if let Err(error) = choose(Some(*bug)) {
            println!("{error}");
            return (false, String::new());
        }
        let one = Hunted::hunt(*bug, order);
        println!("{}", one.row());
        hunted.push(one);
    }
    let failed: Vec<&str> = hunted
        .iter()
        .filter(|one| !one.is_as_expected())
        .map(|one| one.bug.name())
        .collect();
    let found = hunted
        .iter()
        .filter(|one| one.first.is_some() && one.anyway.is_none())
        .count();
    let seconds: f64 = hunted.iter().map(|one| one.seconds).sum();
    println!("{found} of {} bugs found in {seconds:.0} s", hunted.len());
    if !failed.is_empty() {
        println!("NOT AS EXPECTED: {}", failed.join(", "));
    }
    let records: Vec<String> = hunted.iter().map(Hunted::record).collect();
    (
        failed.is_empty(),
        format!("[\n{}\n]\n", records.join(",\n")),
    )
}

/// Runs seeds without a bug. Whether all marks were reached that should be and nothing failed, and the
/// record.
fn marks(order: &Order) -> (bool, String) {
    let usual = match order.brief {
        true => MARK_SEEDS_BRIEF,
        false => MARK_SEEDS,
    };
    let seeds = order.seeds.unwrap_or(usual);
    let broken = first_that_fails(seeds);
    if let Some((seed, violated)) = &broken {
        println!("seed {seed} fails without a bug: {violated}");
    }
    let mut records = Vec::new();
    let mut unexpected = Vec::new();
    for mark in Mark::ALL {
        let (name, count) = (mark.name(), count(*mark));
        let (note, awaits) = match mark.reach() {
            Reach::Awaits(what) => (format!("; awaits {what}"), quoted(what)),
            Reach::Often | Reach::Rarely => (String::new(), "null".to_owned()),
        };
        println!("{name:<24} {count:>10}  {}{note}", mark.about());
        records.push(format!(
            "  {{\"mark\": \"{name}\", \"count\": {count}, \"awaits\": {awaits}}}"
        ));
        let expected = match mark.reach() {
            Reach::Often => count != 0,
            Reach::Rarely => order.brief || count != 0,
            Reach::Awaits(_) => count == 0,
        };
        unexpected.extend((!expected).then_some(name));
    }
    println!("{} marks in {seeds} seeds", Mark::ALL.len());
    if !unexpected.is_empty() {
        println!("NOT AS EXPECTED: {}", unexpected.join(", "));
    }
    let passed = unexpected.is_empty() && broken.is_none();
    (passed, format!("[\n{}\n]\n", records.join(",\n")))
}

/// What seeds do without a bug, in one number.
fn history(order: &Order) -> (bool, String) {
    let seeds = order.seeds.unwrap_or(HISTORY_SEEDS);
    let sum = AtomicU64::new(0);
    for_each_seed(seeds, |seed| {
        sum.fetch_xor(
            run(&Plan::of(seed), None).hash.rotate_left(17) ^ seed,
            Relaxed,
        );
        true
    });
    let said = format!("{:016x}", sum.into_inner());
    println!("{said}");
    (true, said)
}

/// What a plan comes to: the promise that was broken, or the panic.
fn failure(plan: &Plan) -> Option<String> {
    match catch_unwind(|| run(plan, None)) {
        Ok(outcome) => outcome.violation.map(|violation| violation.what),
        Err(_) => Some(PANIC.with_borrow(String::clone)),
    }
}

/// Calls `with` for seeds from 0 on, on every processor, until all are done or it answers false.
fn for_each_seed(seeds: u64, with: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seeds <= seed || !with(seed) {
                        return;
                    }
                }
            });
        }
    });
}

/// The lowest seed that fails, and how.
fn first_that_fails(seeds: u64) -> Option<(u64, String)> {
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_seed(seeds, |seed| {
        if lock().as_ref().is_some_and(|(first, _)| *first < seed) {
            return false;
        }
        if let Some(violated) = failure(&Plan::of(seed)) {
            let mut found = lock();
            if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                *found = Some((seed, violated));
            }
        }
        true
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Share {
    fn of(seeds: u64) -> Self {
        let failed = Mutex::new(Vec::new());
        for_each_seed(seeds, |seed| {
            if failure(&Plan::of(seed)).is_some() {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.push(seed);
            }
            true
        });
        let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.sort_unstable();
        let tried = failed.iter().take(REDUCED_MAX);
        let needs = tried.map(|seed| needs(*seed)).min_by_key(Vec::len);
        Self {
            failed: failed.len(),
            of: seeds,
            needs,
        }
    }
}

/// Takes out of a seed's plan the faults that it fails without, until none is left of them. What is left.
fn needs(seed: u64) -> Vec<String> {
    let mut plan = Plan::of(seed);
    let small: [(&str, Rate); 4] = [
        ("unclear answers", |plan| &mut plan.shape.unknown_per_mille),
        ("late creates", |plan| &mut plan.shape.late_per_mille),
        ("damaged blocks", |plan| &mut plan.shape.corrupt_per_million),
        ("local errors", |plan| &mut plan.shape.local_error_per_mille),
    ];
    loop {
        let before = plan.clone();
        for (_, rate) in small {
            let often = std::mem::take(rate(&mut plan));
            if often != 0 && failure(&plan).is_none() {
                *rate(&mut plan) = often;
            }
        }
        for index in (0..plan.faults.len()).rev() {
            let fault = plan.faults.remove(index);
            if failure(&plan).is_none() {
                plan.faults.insert(index, fault);
            }
        }
        if plan == before {
            break;
        }
    }
    let small = small.into_iter();
    let small = small.filter(|(_, rate)| *rate(&mut plan.clone()) != 0);
    let mut needs: Vec<String> = small.map(|(name, _)| name.to_owned()).collect();
    let kinds = plan.faults.iter().map(|fault| KINDS[fault.kind.class()]);
    needs.extend(kinds.map(str::to_owned));
    needs
}

impl Hunted {
    fn hunt(bug: Bug, order: &Order) -> Self {
        let begun = Instant::now();
        let budget = order.seeds.unwrap_or(bug.search().seeds);
        let first = first_that_fails(budget);
        let share = (order.share != 0).then(|| Share::of(order.share));
        choose(None).expect("this build has bugs");
        let anyway = first
            .as_ref()
            .and_then(|(seed, _)| failure(&Plan::of(*seed)));
        Self {
            bug,
            budget,
            first,
            anyway,
            share,
            seconds: begun.elapsed().as_secs_f64(),
        }
    }

    /// Found where it should be, and by no fault alone where it takes two.
    fn is_as_expected(&self) -> bool {
        let needs = self.share.as_ref().and_then(|share| share.needs.as_ref());
        let takes_two = self.bug.search().together.is_some();
        let alone = takes_two && needs.is_some_and(|needs| needs.len() < 2);
        self.first.is_some() && self.anyway.is_none() && !alone
    }

    fn row(&self) -> String {
        let name = self.bug.name();
        let unknown = || "-".to_owned();
        let share = self.share.as_ref();
        let failed =
            share.map_or_else(unknown, |share| format!("{} of {}", share.failed, share.of));
        let needs = share.and_then(|share| share.needs.as_ref());
        let needs = needs.map_or_else(unknown, |needs| needs.join(" + "));
        let (seed, said) = match (&self.first, &self.anyway) {
            (Some((seed, _)), Some(violated)) => (
                seed.to_string(),
                format!("FAILS WITHOUT THE BUG: {violated}"),
            ),
            (Some((seed, violated)), None) => (seed.to_string(), violated.clone()),
            (None, _) => (
                "never".to_owned(),
                format!("NOT FOUND in {} seeds", self.budget),
            ),
        };
        format!("{name:<22} {seed:>10} {failed:>12}  {needs:<30} {said:.110}")
    }

    fn record(&self) -> String {
        let mut record = format!("  {{\"bug\": {}", quoted(self.bug.name()));
        let mut add = |name: &str, value: String| {
            write!(record, ", \"{name}\": {value}").expect("a text takes all");
        };
        add("about", quoted(self.bug.about()));
        let together = self.bug.search().together;
        add("together", together.map_or("null".to_owned(), quoted));
        add("budget", self.budget.to_string());
        // A seed that fails without the bug has not found it.
        let found = self.first.as_ref().filter(|_| self.anyway.is_none());
        if let Some((seed, violated)) = found {
            add("first_seed", seed.to_string());
            add("violated", quoted(violated));
        }
        if let Some(share) = &self.share {
            add("failed", share.failed.to_string());
            add("of", share.of.to_string());
            let needs = share.needs.iter().flatten();
            let needs: Vec<String> = needs.map(|need| quoted(need)).collect();
            add("needs", format!("[{}]", needs.join(", ")));
        }
        record + "}"
    }
}

/// A text of JSON.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

impl Order {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut order = Self::default();
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg}: of what?"));
            let number = |value: String| {
                let number = value.parse();
                number.map_err(|_| format!("a number is wanted, not {value:?}"))
            };
            match arg.as_str() {
                "--seeds" => order.seeds = Some(number(value()?)?),
                "--share" => order.share = number(value()?)?,
                "--record" => order.record = Some(value()?),
                "--marks" => order.wanted = Wanted::Marks,
                "--history" => order.wanted = Wanted::History,
                "--brief" => order.brief = true,
                name => {
                    let bug = Bug::named(name).ok_or_else(|| format!("{name}: no such bug"))?;
                    order.bugs.push(bug);
                }
            }
        }
        if order.bugs.is_empty() {
            order.bugs = Bug::ALL.to_vec();
        }
        Ok(order)
    }

    fn wants(&self, bug: Bug) -> bool {
        let soon = bug.search().seeds <= BRIEF_MAX;
        soon || !self.brief
    }
}
