//! Coverage-guided fuzzing on the pinned, stable toolchain: libFuzzer, with LLVM's own instrumentation pass.
//!
//! A target is a `[[bin]]` in `fuzz/Cargo.toml`. Its inputs are what earlier runs found
//! (`target/fuzz/corpus`), the folders that `[package.metadata.seeds]` names for it, and `fuzz/seeds/<target>`
//! if there is one: what once made it fail is kept there. All of them run before anything new is tried.
//!
//! The instrumentation is LLVM's and is asked for by the flags below, which stable compilers pass on. That
//! they still do something is checked in each run: a target that reports no counters, or no covered code, fails.
//! There is no address sanitizer, which needs nightly; the workspace has no unsafe code for it to watch.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::record::Recording;
use crate::run;
use crate::tools::{self, C_COMPILER, CXX_COMPILER};
use crate::workspace::{Workspace, chosen};

/// Counters on every edge, their table, and every comparison: what libFuzzer learns from.
const RUST_FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];
/// One input may take this long before it counts as a hang. Unit: seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// A target that needs more memory has believed a length that it read. Unit: MiB.
const MEMORY_MIB_MAX: u32 = 1024;
/// Lines of a failed target's output that are shown.
const SHOWN_LINES_MAX: usize = 40;

/// What `fuzz/Cargo.toml` says.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    bin: Vec<Bin>,
    package: Package,
}

#[derive(Debug, Deserialize)]
struct Bin {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Package {
    #[serde(default)]
    metadata: PackageMetadata,
}

#[derive(Debug, Default, Deserialize)]
struct PackageMetadata {
    /// Folders of inputs by target, relative to the root of the workspace.
    #[serde(default)]
    seeds: BTreeMap<String, Vec<PathBuf>>,
}

/// Where things lie for one target.
#[derive(Debug)]
struct Target {
    name: String,
    program: PathBuf,
    corpus: PathBuf,
    finds: PathBuf,
    log: PathBuf,
    seeds: Vec<PathBuf>,
}

/// What one run of a target came to, read from libFuzzer's own words.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    executions: u64,
    /// Edges covered.
    covered: u64,
    /// Counters that the instrumentation put in.
    counters: u64,
}

/// Builds every target and runs those that `wanted` names (all, if none) for `time` each, one on each core.
///
/// # Errors
///
/// When a target does not build, fails on an input, or runs without guidance. The input that it failed on
/// is kept, and the message says how to run it again.
pub fn run(workspace: &Workspace, wanted: &[String], time: Duration) -> Result<String> {
    let targets = build(workspace, wanted)?;
    let seconds = ["--seconds".to_owned(), time.as_secs().to_string()];
    let args = [wanted, &seconds].concat();
    let recording = Recording::begin(workspace, "fuzz", &args)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_target(workspace, target, time);
                    let mut results = results
                        .lock()
                        .expect("no worker panics while it holds this");
                    results.push((target.name.as_str(), result));
                }
            });
        }
    });
    let results = results
        .into_inner()
        .expect("no worker panics while it holds this");
    let corpus = |name: &str| {
        let target = targets.iter().find(|target| target.name == name);
        target.map_or(0, Target::corpus_size)
    };
    recording.end(workspace, counted(&results, corpus))?;
    sum_up(results)
}

impl Target {
    /// Inputs that this and earlier runs kept.
    fn corpus_size(&self) -> usize {
        self.corpus.read_dir().map_or(0, Iterator::count)
    }
}

/// What a record has of a run.
fn counted(results: &[(&str, Result<Stats>)], corpus: impl Fn(&str) -> usize) -> Value {
    let targets = results.iter().map(|(name, result)| {
        let counts = match result {
            Ok(stats) => json!({
                "executions": stats.executions,
                "covered": stats.covered,
                "counters": stats.counters,
                "corpus": corpus(name),
            }),
            Err(_) => json!({ "failed": true }),
        };
        ((*name).to_owned(), counts)
    });
    json!({ "targets": targets.collect::<Map<_, _>>() })
}

fn sum_up(results: Vec<(&str, Result<Stats>)>) -> Result<String> {
    let mut executions = 0;
    let mut failed = Vec::new();
    let count = results.len();
    for (name, result) in results {
        match result {
            Ok(stats) => {
                eprintln!(
                    "{name}: {} runs, {} of {} edges",
                    stats.executions, stats.covered, stats.counters
                );
                executions += stats.executions;
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("fuzzing found something in: {}", failed.join(", "));
    }
    Ok(format!("{count} targets, {executions} runs"))
}

/// Runs one target once, on `input`, and shows what happens.
///
/// # Errors
///
/// When `wanted` does not name exactly one target, or the target fails on the input.
pub fn replay(workspace: &Workspace, wanted: &[String], input: &Path) -> Result<()> {
    let input = fs::canonicalize(input)
        .with_context(|| format!("cannot read the input {}", input.display()))?;
    let [target] = &build(workspace, wanted)?[..] else {
        bail!("--input runs one target: name it");
    };
    let mut command = run::command(workspace, &target.program);
    command.arg(input);
    run::run(command)
}

fn build(workspace: &Workspace, wanted: &[String]) -> Result<Vec<Target>> {
    tools::provide(workspace, &[C_COMPILER, CXX_COMPILER])?;
    let manifest = read_manifest(&workspace.root.join("fuzz/Cargo.toml"))?;
    let all = manifest.bin.iter().map(|bin| bin.name.clone()).collect();
    let names = chosen(all, wanted, "fuzz target")?;
    let host = host_triple(workspace)?;
    // Both with the same flags and folder, so that the fuzzer's runtime is compiled once.
    for action in ["clippy", "build"] {
        let mut cargo = run::cargo(workspace, [action, "--release", "--quiet"]);
        cargo
            .args(["--manifest-path", "fuzz/Cargo.toml", "--bins"])
            // With a target named, build scripts and macros are not instrumented; they could not link.
            .args(["--target", &host])
            .arg("--target-dir")
            .arg(workspace.target.join("fuzz"))
            .env("CARGO_ENCODED_RUSTFLAGS", RUST_FLAGS.join("\u{1f}"));
        if action == "clippy" {
            cargo.args(["--", "-D", "warnings"]);
        }
        run::run(cargo)?;
    }
    let built = workspace.target.join("fuzz").join(host).join("release");
    let targets = names.into_iter().map(|name| {
        let seeds = seeds(workspace, &manifest, &name)?;
        target(workspace, &built, name, seeds)
    });
    targets.collect()
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_manifest(&text).with_context(|| format!("in {}", path.display()))
}

fn parse_manifest(text: &str) -> Result<Manifest> {
    let manifest: Manifest = toml::from_str(text)?;
    for name in manifest.package.metadata.seeds.keys() {
        if !manifest.bin.iter().any(|bin| bin.name == *name) {
            bail!("[package.metadata.seeds] names `{name}`, which is no [[bin]]");
        }
    }
    Ok(manifest)
}

fn host_triple(workspace: &Workspace) -> Result<String> {
    let mut rustc = run::command(workspace, "rustc");
    rustc.arg("-vV");
    let said = run::stdout_of(rustc)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names the host")?.to_owned())
}

/// Folders of inputs that are there to begin with.
fn seeds(workspace: &Workspace, manifest: &Manifest, name: &str) -> Result<Vec<PathBuf>> {
    let named = manifest.package.metadata.seeds.get(name);
    let mut folders = Vec::new();
    for folder in named.into_iter().flatten() {
        let folder = workspace.root.join(folder);
        if !folder.is_dir() {
            bail!(
                "the seeds of `{name}` are said to lie in {}, which is no folder",
                folder.display()
            );
        }
        folders.push(folder);
    }
    let kept = workspace.root.join("fuzz/seeds").join(name);
    folders.extend(kept.is_dir().then_some(kept));
    Ok(folders)
}

fn target(
    workspace: &Workspace,
    built: &Path,
    name: String,
    seeds: Vec<PathBuf>,
) -> Result<Target> {
    let fuzz = workspace.target.join("fuzz");
    let target = Target {
        program: built.join(&name),
        corpus: fuzz.join("corpus").join(&name),
        finds: fuzz.join("finds").join(&name),
        log: fuzz.join(format!("{name}.log")),
        name,
        seeds,
    };
    for folder in [&target.corpus, &target.finds] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    Ok(target)
}

fn run_target(workspace: &Workspace, target: &Target, time: Duration) -> Result<Stats> {
    let log = File::create(&target.log)
        .with_context(|| format!("cannot write {}", target.log.display()))?;
    let begun = Instant::now();
    let status = libfuzzer(workspace, target, time)
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start {}", target.program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&target.log)?).into_owned();
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let shown = lines.len().saturating_sub(SHOWN_LINES_MAX);
        bail!(
            "failed after {} s ({status}); the end of {}:\n{}\n{}",
            begun.elapsed().as_secs(),
            target.log.display(),
            lines[shown..].join("\n"),
            how_to_repeat(&target.name, &said)
        );
    }
    read_stats(&said).with_context(|| format!("in {}", target.log.display()))
}

fn libfuzzer(workspace: &Workspace, target: &Target, time: Duration) -> Command {
    let mut command = run::command(workspace, &target.program);
    command
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix={}/", target.finds.display()))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        // A comparison that comes closer counts as progress. Without it, a planted fault behind two compared
        // numbers was not found in 40 s; with it, in 4 to 10 s, at a third of the runs per second.
        .arg("-use_value_profile=1")
        .arg("-print_final_stats=1")
        .arg(&target.corpus)
        .args(&target.seeds);
    command
}

fn how_to_repeat(name: &str, said: &str) -> String {
    let written = said
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    match written {
        Some((_, file)) => format!(
            "run it again with: cargo xtask fuzz {name} --input {file}\n\
             keep it, once mended, in: fuzz/seeds/{name}/"
        ),
        None => "no input was written".into(),
    }
}

/// What libFuzzer said of its own run.
///
/// # Errors
///
/// When there is no sign of instrumentation, or nothing was covered: then the fuzzer was guessing blindly.
fn read_stats(said: &str) -> Result<Stats> {
    let number_after = |line: &str, label: &str| -> Option<u64> {
        let (_, rest) = line.split_once(label)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let counters = said
        .lines()
        .find(|line| line.contains("inline 8-bit counters"))
        .and_then(|line| number_after(line, "("))
        .ok_or_else(|| {
            anyhow!("libFuzzer found no counters: the instrumentation flags no longer work")
        })?;
    let covered = said
        .lines()
        .rev()
        .find_map(|line| number_after(line, " cov: "));
    let executions = said
        .lines()
        .find_map(|line| number_after(line, "stat::number_of_executed_units:"));
    let stats = Stats {
        executions: executions.context("libFuzzer did not say how often it ran")?,
        covered: covered.unwrap_or_default(),
        counters,
    };
    if stats.covered == 0 || stats.executions == 0 {
        bail!("nothing was covered in {} runs", stats.executions);
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
INFO: Loaded 1 modules   (1043 inline 8-bit counters): 1043 [0x55, 0x56),
#2\tINITED cov: 17 ft: 18 corp: 1/1b exec/s: 0 rss: 27Mb
#999\tDONE   cov: 212 ft: 530 corp: 66/1120b lim: 21 exec/s: 3 rss: 28Mb
stat::number_of_executed_units: 250123
stat::average_exec_per_sec:     80000";

    #[test]
    fn the_figures_are_those_of_the_end_of_the_run() {
        let stats = read_stats(SAID).unwrap();
        assert_eq!(
            stats,
            Stats {
                executions: 250_123,
                covered: 212,
                counters: 1043
            }
        );
    }

    #[test]
    fn a_run_without_guidance_fails() {
        let blind = SAID.replace("inline 8-bit counters", "nothing");
        assert!(
            read_stats(&blind)
                .unwrap_err()
                .to_string()
                .contains("no counters")
        );
        let uncovered = SAID
            .replace("cov: 17", "cov: 0")
            .replace("cov: 212", "cov: 0");
        assert!(
            read_stats(&uncovered)
                .unwrap_err()
                .to_string()
                .contains("nothing was covered")
        );
    }

    #[test]
    fn a_find_comes_with_the_command_that_runs_it_again() {
        let said = "x\nartifact_prefix='/t/'; Test unit written to /t/crash-1\nBase64: AA==";
        let hint = how_to_repeat("change_block", said);
        assert!(
            hint.contains("cargo xtask fuzz change_block --input /t/crash-1"),
            "{hint}"
        );
    }

    #[test]
    fn targets_and_their_seeds_are_what_the_manifest_says() {
        let text = r#"
            [package]
            name = "everpoint-fuzz"
            [package.metadata.seeds]
            block = ["crates/everpoint-format/testdata"]
            [[bin]]
            name = "block"
            path = "fuzz_targets/block.rs"
            [[bin]]
            name = "rfc3339""#;
        let manifest = parse_manifest(text).unwrap();
        let names: Vec<&str> = manifest.bin.iter().map(|bin| bin.name.as_str()).collect();
        assert_eq!(names, ["block", "rfc3339"]);
        let seeds = &manifest.package.metadata.seeds["block"];
        assert_eq!(seeds, &[PathBuf::from("crates/everpoint-format/testdata")]);

        let typo = text.replace("block = [", "blocks = [");
        let refused = parse_manifest(&typo).unwrap_err().to_string();
        assert!(
            refused.contains("`blocks`, which is no [[bin]]"),
            "{refused}"
        );
    }

    #[test]
    fn a_record_has_the_figures_of_each_target_and_says_which_failed() {
        let results = [
            ("a", Ok(read_stats(SAID).unwrap())),
            ("b", Err(anyhow!("crash"))),
        ];
        let a = json!({"executions": 250_123, "covered": 212, "counters": 1043, "corpus": 7});
        let targets = json!({"a": a, "b": {"failed": true}});
        assert_eq!(counted(&results, |_| 7), json!({ "targets": targets }));
    }

    #[test]
    fn one_failed_target_fails_the_whole_run() {
        let good = || Ok(read_stats(SAID).unwrap());
        assert_eq!(
            sum_up(vec![("a", good()), ("b", good())]).unwrap(),
            "2 targets, 500246 runs"
        );
        let failed = sum_up(vec![("a", good()), ("b", Err(anyhow!("crash")))]);
        assert!(failed.unwrap_err().to_string().ends_with(": b"));
    }
}
