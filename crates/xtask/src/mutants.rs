//! Mutation testing of the cores: code that decides is changed to wrong, one place at a time, and a test
//! of its own crate must notice.
//!
//! cargo-mutants makes the changes, in a copy of the tree below `target/`, so that nobody builds a wrong
//! product by accident, and with a target folder of its own, so that no other build makes a test wait until
//! it seems to hang. Both stay: the next run writes only files that differ, and builds only those. What is
//! changed is built without optimisation, the rest with little, and of its package only the unit tests run.
//! So a mutant of a pure crate takes a second.
//!
//! What survives fails the run, unless `mutants-accepted.txt` has it with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::record::Recording;
use crate::run::{command, stdout_of};
use crate::tools::{CARGO_MUTANTS, cargo_tool};
use crate::workspace::Workspace;

/// Packages with cores, and where in them these lie.
const CORES: [(&str, &[&str]); 5] = [
    ("everpoint-capture", &["src/**"]),
    ("everpoint-replication", &["src/**"]),
    ("everpoint-journal", &["src/**"]),
    (
        "everpoint-process-server",
        &["src/*_core.rs", "src/*_core/**"],
    ),
    ("everpoint-agent", &["src/*_core.rs", "src/*_core/**"]),
];
/// How long the part of the test command goes on.
const PART_TIME: Duration = Duration::from_secs(180);
/// Tests that take longer go in circles: those of a package's cores take 2 s. Unit: seconds.
const TEST_SECONDS_MAX: &str = "20";
/// Where a package has shells too, only the tests with this in their names can tell: those of its cores.
const CORE: &str = "_core";
/// How often a running cargo-mutants is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Survivors that are known, with reasons.
const ACCEPTED: &str = include_str!("../mutants-accepted.txt");

/// What to change, and for how long.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Files, from the root of the workspace; empty: every core.
    pub files: Vec<String>,
    /// Only functions that differ from this commit.
    pub base: Option<String>,
    /// Not those again that a test noticed in the run before, if they stand where they stood.
    pub go_on: bool,
    pub time: Duration,
}

/// What became of the mutants, file by file.
type Scores = BTreeMap<String, Score>;

/// What became of the mutants of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Score {
    /// A test failed, or did not end.
    caught: u64,
    /// Such a change does not compile, and says nothing.
    unviable: u64,
    accepted: u64,
    survived: Vec<String>,
    /// There was no time for them.
    left: u64,
}

/// Changes what `order` names, package by package, and leaves a record.
///
/// # Errors
///
/// When a mutant survives that is not accepted, or the tests fail without one.
pub fn run(workspace: &Workspace, order: &Order) -> Result<String> {
    let program = cargo_tool(workspace, CARGO_MUTANTS)?.program;
    let recording = Recording::begin(workspace, "mutants", &order.args())?;
    let work = workspace.target.join("mutants");
    copy_tree(workspace, &work.join("tree"))?;
    let diff = order.base.as_ref().map(|base| write_diff(workspace, base));
    let diff = diff.transpose()?;
    let end = Instant::now() + order.time;
    let mut scores = Scores::new();
    for (package, globs) in CORES {
        let files = files(package, globs, &order.files);
        if files.is_empty() {
            continue;
        }
        let output = work.join(package);
        let mutants = || {
            let mut mutants = mutants(workspace, &program, (package, globs), &output);
            mutants.args(files.iter().flat_map(|file| ["--file", file]));
            if let Some(diff) = &diff {
                mutants.arg("--in-diff").arg(diff);
            }
            mutants
        };
        let known = Known::of(&output, order.go_on)?;
        let listed = listed(mutants())?;
        let outcomes = match listed.is_empty() || end <= Instant::now() {
            true => None,
            false => run_until(mutants(), &known, &output, end)?,
        };
        scores.extend(scores_of(&listed, outcomes, &known)?);
    }
    if order.base.is_none() {
        recording.end(workspace, counted(&scores))?;
    }
    sum_up(&scores)
}

/// The part of the test command: functions that differ from where this branch began.
///
/// # Errors
///
/// As [`run`].
pub fn part(workspace: &Workspace) -> Result<String> {
    let Some(base) = base(workspace) else {
        return Ok("git has no commit to compare with: NOTHING CHANGED AND TESTED".to_owned());
    };
    let order = Order {
        files: Vec::new(),
        base: Some(base),
        go_on: false,
        time: PART_TIME,
    };
    run(workspace, &order)
}

impl Order {
    fn args(&self) -> Vec<String> {
        let base = self.base.iter();
        let base = base.flat_map(|base| ["--in-diff".to_owned(), base.clone()]);
        let go_on = self.go_on.then(|| "--go-on".to_owned());
        base.chain(go_on)
            .chain(self.files.iter().cloned())
            .collect()
    }
}

/// What the change is counted from: `EVERPOINT_BASE`, or the commit before the newest.
fn base(workspace: &Workspace) -> Option<String> {
    let wanted = std::env::var("EVERPOINT_BASE").unwrap_or_else(|_| "HEAD^".to_owned());
    let mut git = command(workspace, "git");
    git.args(["rev-parse", "--verify", "--quiet", &wanted]);
    let output = git.stderr(std::process::Stdio::null()).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// The files of a package that are asked for, as patterns.
fn files(package: &str, globs: &[&str], wanted: &[String]) -> Vec<String> {
    let folder = format!("crates/{package}/");
    if wanted.is_empty() {
        return globs.iter().map(|glob| folder.clone() + glob).collect();
    }
    let own = wanted.iter().filter(|file| file.starts_with(&folder));
    own.cloned().collect()
}

/// Writes what differs from `base`; answers with where.
fn write_diff(workspace: &Workspace, base: &str) -> Result<PathBuf> {
    let mut git = command(workspace, "git");
    git.args(["diff", "--no-ext-diff", "--no-color", base, "--", "crates"]);
    let path = workspace.target.join("mutants/changed.diff");
    fs::write(&path, stdout_of(git)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Makes `tree` what git has, or would take, of the workspace, as it lies there now. Files that are the same are
/// not touched.
fn copy_tree(workspace: &Workspace, tree: &Path) -> Result<()> {
    let mut git = command(workspace, "git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = stdout_of(git)?;
    for name in listed.split_terminator('\0') {
        let (from, to) = (workspace.root.join(name), tree.join(name));
        if !from.is_file() {
            // It is deleted and not yet committed so.
            if to.is_file() {
                fs::remove_file(&to)?;
            }
            continue;
        }
        let wanted = fs::read(&from)?;
        if fs::read(&to).is_ok_and(|has| has == wanted) {
            continue;
        }
        let folder = to.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&to, wanted))
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

fn mutants(
    workspace: &Workspace,
    program: &Path,
    (package, globs): (&str, &[&str]),
    output: &Path,
) -> Command {
    let mut mutants = command(workspace, program);
    let work = workspace.target.join("mutants");
    mutants.env("CARGO_TARGET_DIR", work.join("build"));
    mutants.env("CARGO_INCREMENTAL", "1");
    // Unoptimised, a property of a whole resync takes half a minute at its usual 256 cases.
    mutants.env("PROPTEST_CASES", "32");
    // It says where it was when it is interrupted, at length.
    mutants.env("RUST_BACKTRACE", "0");
    mutants.arg("mutants").arg("--dir").arg(work.join("tree"));
    mutants.arg("--output").arg(output);
    mutants.args(["--in-place", "--package", package, "--profile", "release"]);
    mutants.args(["--colors", "never", "--no-times", "--cargo-arg=--lib"]);
    mutants.args(["--timeout", TEST_SECONDS_MAX]);
    if globs.iter().any(|glob| glob.contains(CORE)) {
        mutants.arg(format!("--cargo-test-arg={CORE}"));
    }
    let settings = [
        "opt-level=1".to_owned(),
        "debug=false".to_owned(),
        format!("package.\"{package}\".opt-level=0"),
    ];
    for setting in settings {
        mutants.arg(format!("--cargo-arg=--config=profile.release.{setting}"));
    }
    mutants
}

/// What earlier runs found out, if it is gone on from there: names of mutants, with their places.
#[derive(Debug, Default)]
struct Known {
    caught: Vec<String>,
    unviable: Vec<String>,
}

impl Known {
    /// Of what lies in `output`. It is written there for the run after this one.
    fn of(output: &Path, go_on: bool) -> Result<Self> {
        fs::create_dir_all(output)?;
        let known = |name: &str| -> Result<Vec<String>> {
            let kept = output.join(format!("known-{name}"));
            let mut names = String::new();
            if go_on {
                let newest = output.join("mutants.out").join(name);
                for path in [&kept, &newest] {
                    names += &fs::read_to_string(path).unwrap_or_default();
                }
            }
            fs::write(&kept, &names).with_context(|| format!("cannot write {}", kept.display()))?;
            Ok(names.lines().map(str::to_owned).collect())
        };
        Ok(Self {
            caught: known("caught.txt")?,
            unviable: known("unviable.txt")?,
        })
    }
}

/// All that could be changed.
fn listed(mut mutants: Command) -> Result<Vec<Mutant>> {
    mutants.args(["--list", "--json"]);
    // It says nothing where nothing is to be changed.
    match stdout_of(mutants)?.trim() {
        "" => Ok(Vec::new()),
        listed => Ok(serde_json::from_str(listed)?),
    }
}

/// Runs cargo-mutants until it is done or the time is up; nothing is answered where there is nothing to change.
fn run_until(
    mut mutants: Command,
    known: &Known,
    output: &Path,
    end: Instant,
) -> Result<Option<Outcomes>> {
    let results = output.join("mutants.out");
    if known.caught.is_empty() {
        if results.is_dir() {
            fs::remove_dir_all(&results)?;
        }
    } else {
        mutants.arg("--iterate");
    }
    let mut child = mutants.spawn().context("cannot start cargo-mutants")?;
    let mut is_told = false;
    while child.try_wait()?.is_none() {
        if end <= Instant::now() && !is_told {
            // It ends the mutant that it is at, and puts the file back.
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.context("a child has a number")?, Signal::INT)?;
            is_told = true;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    match fs::read_to_string(results.join("outcomes.json")) {
        Ok(outcomes) => Ok(Some(serde_json::from_str(&outcomes)?)),
        Err(_) => Ok(None),
    }
}

/// What cargo-mutants writes, as far as it is read here.
#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<OutcomeOf>,
}

#[derive(Deserialize)]
struct OutcomeOf {
    scenario: Scenario,
    summary: String,
}

#[derive(Deserialize)]
enum Scenario {
    /// The tree as it is.
    Baseline,
    Mutant(Mutant),
}

/// A mutant as cargo-mutants describes it: file, line, column and what it is.
#[derive(Deserialize)]
struct Mutant {
    name: String,
}

impl Mutant {
    fn file(&self) -> String {
        let (file, _) = self.name.split_once(':').unwrap_or((&self.name, ""));
        file.to_owned()
    }
}

/// # Errors
///
/// When the tests fail without a mutant.
fn scores_of(listed: &[Mutant], outcomes: Option<Outcomes>, known: &Known) -> Result<Scores> {
    let mut scores = Scores::new();
    let mut left: BTreeSet<&str> = BTreeSet::new();
    for mutant in listed {
        scores.entry(mutant.file()).or_default();
        left.insert(&mutant.name);
    }
    let outcomes = outcomes.map_or_else(Vec::new, |outcomes| outcomes.outcomes);
    for outcome in outcomes {
        let Scenario::Mutant(mutant) = outcome.scenario else {
            if outcome.summary != "Success" {
                bail!("the tests fail as they are, without a mutant: mend that first");
            }
            continue;
        };
        left.remove(mutant.name.as_str());
        let score = scores.entry(mutant.file()).or_default();
        match outcome.summary.as_str() {
            "CaughtMutant" | "Timeout" => score.caught += 1,
            "Unviable" => score.unviable += 1,
            "MissedMutant" => {
                let name = without_place(&mutant.name);
                match is_accepted(&name) {
                    true => score.accepted += 1,
                    false => score.survived.push(name),
                }
            }
            other => bail!("cargo-mutants says {other:?} of a mutant, which is not known here"),
        }
    }
    for mutant in listed {
        if !left.contains(mutant.name.as_str()) {
            continue;
        }
        let score = scores.entry(mutant.file()).or_default();
        if known.caught.contains(&mutant.name) {
            score.caught += 1;
        } else if known.unviable.contains(&mutant.name) {
            score.unviable += 1;
        } else {
            score.left += 1;
        }
    }
    Ok(scores)
}

/// A mutant's name without line and column, which other changes move.
fn without_place(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.nth(2)) {
        (Some(file), Some(what)) => format!("{file}:{what}"),
        _ => name.to_owned(),
    }
}

/// Whether the mutant of this name, without its place, may survive.
pub(crate) fn is_accepted(name: &str) -> bool {
    accepted(ACCEPTED).any(|accepted| accepted == name)
}

/// Mutants that may survive: a line each, and below it the reason, indented.
fn accepted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines();
    lines.filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty())
}

impl Score {
    /// Mutants that a test could have noticed.
    const fn viable(&self) -> u64 {
        self.caught + self.accepted + self.survived.len() as u64
    }

    fn json(&self) -> Value {
        json!({
            "caught": self.caught,
            "unviable": self.unviable,
            "accepted": self.accepted,
            "survived": self.survived,
            "left": self.left,
        })
    }
}

fn counted(scores: &Scores) -> Value {
    let files = scores.iter();
    let files = files.map(|(file, score)| (file.clone(), score.json()));
    json!({ "files": files.collect::<Map<_, _>>() })
}

fn sum_up(scores: &Scores) -> Result<String> {
    let sum = |count: fn(&Score) -> u64| scores.values().map(count).sum::<u64>();
    let survived: Vec<&str> = scores
        .values()
        .flat_map(|score| score.survived.iter().map(String::as_str))
        .collect();
    if scores.is_empty() {
        return Ok("nothing that decides was changed".to_owned());
    }
    let said = format!(
        "{} of {} wrong changes noticed, {} accepted, {} left for want of time",
        sum(|score| score.caught),
        sum(Score::viable),
        sum(|score| score.accepted),
        sum(|score| score.left)
    );
    if survived.is_empty() {
        return Ok(said);
    }
    bail!(
        "{said}; no test notices:\n{}\ntest what they change, or list them with a reason in \
         crates/xtask/mutants-accepted.txt",
        survived.join("\n")
    )
}

#[cfg(test)]
mod tests;
