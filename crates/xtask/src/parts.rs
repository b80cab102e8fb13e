//! What `cargo xtask test` is made of, and the order in which it runs: what fails soonest comes first.
//!
//! A part is a function that answers with what is worth saying, or with the error that it ends in. The
//! end-to-end tests are one part to name, and a row each in the report.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Report;
use crate::run::{cargo, command, run, run_within};
use crate::workspace::{SYSTEM_TESTS, TIDY, Workspace, chosen};
use crate::{clouds, formats, fuzz, mutants, planted, proto, simulate, tools};

mod quickstart;

/// How long each fuzz target runs in the test command. Unit: seconds.
pub const FUZZ_SECONDS: u64 = 4;
/// Whether the test command runs the quickstart when it is not asked to.
const QUICKSTART_BY_DEFAULT: bool = true;
/// Tests of one end-to-end binary that run at a time, where [`SYSTEM_TEST_THREADS`] says nothing else.
const SYSTEM_TEST_THREADS_USUAL: usize = 2;
/// End-to-end binaries whose tests want the machine for themselves, or bear more company.
const SYSTEM_TEST_THREADS: &[(&str, usize)] = &[("kills", 1), ("apply_bad_days", 9)];
/// Says to the end-to-end tests where the vaults of their sites are: `azure`; not set: in directories.
pub const HOME_VARIABLE: &str = "EVERPOINT_TEST_VAULT";
/// What follows an end-to-end test's name where its vaults are on Azure.
const ON_AZURE: &str = "@azure";
/// End-to-end tests that are about no directory, and run on Azure, too.
const SYSTEM_TESTS_ON_AZURE: [&str; 3] = ["initial_sync", "order", "strangers"];
/// An advisory database that cannot be had in this time is not waited for.
const ADVISORIES_FETCH_TIME_MAX: Duration = Duration::from_secs(60);
/// The program that makes the golden files.
const GOLDEN_MAKER: &str = "everpoint-test-golden";
/// The row of the end-to-end tests' build; each test's row begins with it.
const END_TO_END: &str = "e2e";

/// What to run, and how.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Parts, or single end-to-end tests as `e2e/<name>`; empty: what runs by default.
    pub names: Vec<String>,
    pub keep_going: bool,
    pub fuzz_time: Duration,
    /// Handed to the test binaries.
    pub test_args: Vec<String>,
}

struct Part {
    name: &'static str,
    about: &'static str,
    by_default: bool,
    /// Parts that have to run before it.
    after: &'static [&'static str],
    run: fn(&Workspace, &Choice) -> Result<String>,
}

const PARTS: [Part; 14] = [
    Part {
        name: "tools",
        about: "install what the other parts need, or name it",
        by_default: true,
        after: &[],
        run: install_tools,
    },
    Part {
        name: "fmt",
        about: "formatting",
        by_default: true,
        after: &[],
        run: check_formatting,
    },
    Part {
        name: "proto",
        about: "the committed code of the messages is what proto/ gives",
        by_default: true,
        after: &[],
        run: |workspace, _| {
            let code = proto::check(workspace)?;
            Ok(format!("{code}; {}", formats::check(workspace)?))
        },
    },
    Part {
        name: "deny",
        about: "licences, bans and sources of the dependencies; advisories where their database can be had",
        by_default: true,
        after: &[],
        run: check_dependencies,
    },
    Part {
        name: "clippy",
        about: "lints, all targets",
        by_default: true,
        after: &[],
        run: lint,
    },
    Part {
        name: "build",
        about: "the programs",
        by_default: true,
        after: &[],
        run: build,
    },
    Part {
        name: "unit",
        about: "tests of every crate: unit, property, golden, contract, documentation; and the house rules",
        by_default: true,
        after: &[],
        run: unit_tests,
    },
    Part {
        name: "simulation",
        about: "the simulated world: some thousand seeds, in which everything breaks",
        by_default: true,
        after: &[],
        run: |workspace, _| simulate::part(workspace),
    },
    Part {
        name: "planted",
        about: "the simulated world finds bugs that are planted, and reaches every mark",
        by_default: true,
        after: &[],
        run: |workspace, _| planted::part(workspace),
    },
    Part {
        name: "mutants",
        about: "what was changed in the cores is changed back to wrong, and a test must notice: 3 minutes at most",
        by_default: true,
        after: &[],
        run: |workspace, _| mutants::part(workspace),
    },
    Part {
        name: "bench",
        about: "every bench once, without measuring",
        by_default: true,
        after: &[],
        run: bench_once,
    },
    Part {
        name: "fuzz",
        about: "every fuzz target for a few seconds",
        by_default: true,
        after: &[],
        run: |workspace, choice| fuzz::run(workspace, &[], choice.fuzz_time),
    },
    Part {
        name: END_TO_END,
        about: "the whole system; one of its tests alone: e2e/<name>",
        by_default: true,
        after: &["tools", "build"],
        run: build_system_tests,
    },
    Part {
        name: "quickstart",
        about: "the quickstart, and that its own figures hold",
        by_default: QUICKSTART_BY_DEFAULT,
        after: &["build"],
        run: |workspace, _| quickstart::check(workspace),
    },
];

/// One row of the report.
enum Step {
    Part(&'static Part),
    /// The end-to-end test of this name.
    SystemTest(String),
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Part(part) => part.name.to_owned(),
            Self::SystemTest(test) => format!("{END_TO_END}/{test}"),
        }
    }

    fn run(&self, workspace: &Workspace, choice: &Choice) -> Result<String> {
        match self {
            Self::Part(part) => (part.run)(workspace, choice),
            Self::SystemTest(test) => {
                let threads = system_test_threads(test);
                run(system_test(workspace, test, threads, &choice.test_args))?;
                Ok(String::new())
            }
        }
    }
}

/// The list of parts, for `--help`.
#[must_use]
pub fn help() -> String {
    let mut help = "Parts:\n".to_owned();
    for part in &PARTS {
        let mark = if part.by_default { '*' } else { ' ' };
        help += &format!("  {mark} {:10}  {}\n", part.name, part.about);
    }
    help += "\nA part brings those with it that it builds on. The exit code is 0 when all passed.";
    help
}

/// Runs the chosen parts and prints the report. Says whether all passed.
///
/// # Errors
///
/// When a name is not that of a part.
pub fn test(workspace: &Workspace, choice: &Choice) -> Result<bool> {
    let steps = steps(
        &choice.names,
        &with_those_on_azure(workspace.system_tests()),
    )?;
    let mut report = Report::default();
    let mut stopped = false;
    for step in steps {
        if stopped {
            report.not_run(&step.name());
        } else {
            let passed = report.time(&step.name(), || step.run(workspace, choice));
            stopped = !passed && !choice.keep_going;
        }
    }
    println!("\n{report}");
    Ok(report.passed())
}

/// What `names` asks for, with what that builds on, in the order of [`PARTS`].
fn steps(names: &[String], system_tests: &[String]) -> Result<Vec<Step>> {
    let mut all: Vec<String> = PARTS.iter().map(|part| part.name.to_owned()).collect();
    let single = |test: &String| format!("{END_TO_END}/{test}");
    all.extend(system_tests.iter().map(single));
    if names.is_empty() {
        all.retain(|name| {
            let part = PARTS.iter().find(|part| part.name == name);
            part.is_some_and(|part| part.by_default)
        });
    }
    let wanted = chosen(all, names, "part")?;
    let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted == name);
    let tests: Vec<&String> = system_tests
        .iter()
        .filter(|test| is_wanted(END_TO_END) || is_wanted(&single(test)))
        .collect();

    let mut parts: Vec<&'static Part> = PARTS
        .iter()
        .filter(|part| is_wanted(part.name) || (part.name == END_TO_END && !tests.is_empty()))
        .collect();
    let brought: Vec<&str> = parts.iter().flat_map(|part| part.after).copied().collect();
    parts = PARTS
        .iter()
        .filter(|part| {
            brought.contains(&part.name) || parts.iter().any(|chosen| chosen.name == part.name)
        })
        .collect();

    let mut steps = Vec::new();
    for part in parts {
        steps.push(Step::Part(part));
        if part.name == END_TO_END {
            steps.extend(tests.iter().map(|test| Step::SystemTest((*test).clone())));
        }
    }
    Ok(steps)
}

fn install_tools(workspace: &Workspace, _: &Choice) -> Result<String> {
    let installed = tools::provide(workspace, &tools::ALL)?;
    let mut news = installed;
    news.extend(clouds::provide(workspace)?);
    for tool in [tools::CARGO_DENY, tools::CARGO_MUTANTS] {
        let built = tools::cargo_tool(workspace, tool)?;
        news.extend(built.is_new.then_some(tool.name));
    }
    // The check of licences reads every crate of the lock file, those of other platforms too.
    run(cargo(workspace, ["fetch", "--quiet", "--locked"]))?;
    run(cargo(
        workspace,
        ["fetch", "--quiet", "--manifest-path", "fuzz/Cargo.toml"],
    ))?;
    Ok(if news.is_empty() {
        "nothing was missing".into()
    } else {
        format!("installed {}", news.join(", "))
    })
}

fn check_formatting(workspace: &Workspace, _: &Choice) -> Result<String> {
    run(cargo(workspace, ["fmt", "--all", "--check"]))?;
    run(cargo(
        workspace,
        ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"],
    ))?;
    Ok(String::new())
}

fn lint(workspace: &Workspace, _: &Choice) -> Result<String> {
    let mut clippy = cargo(
        workspace,
        ["clippy", "--release", "--workspace", "--all-targets"],
    );
    clippy.args(["--", "-D", "warnings"]);
    run(clippy)?;
    Ok(String::new())
}

fn check_dependencies(workspace: &Workspace, _: &Choice) -> Result<String> {
    let program = tools::cargo_tool(workspace, tools::CARGO_DENY)?.program;
    let deny = |args: &[&str]| {
        let mut deny = command(workspace, &program);
        deny.args(args);
        deny
    };
    let check = [
        "--offline",
        "check",
        "--allow",
        "license-exception-not-encountered",
    ];
    run(deny(
        &[&check[..], &["licenses", "bans", "sources"]].concat(),
    ))?;
    // What only the fuzzer uses is in no program: its versions are not held to those of the rest.
    let fuzz = [
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--config",
        "deny.toml",
    ];
    let check = ["--offline", "check", "--allow", "license-not-encountered"];
    run(deny(
        &[&fuzz[..], &check[..], &["licenses", "sources"]].concat(),
    ))?;

    let fetched = run_within(deny(&["fetch", "db"]), ADVISORIES_FETCH_TIME_MAX);
    let age = match &fetched {
        Ok(()) => "newest",
        Err(_) if has_advisories(workspace) => "an older",
        Err(error) => {
            eprintln!("advisories are not checked: {error:#}");
            return Ok("ADVISORIES NOT CHECKED: their database is out of reach".into());
        }
    };
    run(deny(&[
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "advisories",
    ]))?;
    Ok(format!("advisories checked with {age} database"))
}

/// Whether an earlier fetch left the database where `deny.toml` has it.
fn has_advisories(workspace: &Workspace) -> bool {
    let folder = workspace.root.join("target/advisory-db");
    let mut entries = folder.read_dir().into_iter().flatten().flatten();
    entries.any(|entry| entry.path().join(".git").exists())
}

fn build(workspace: &Workspace, _: &Choice) -> Result<String> {
    run(cargo(
        workspace,
        ["build", "--release", "--workspace", "--bins"],
    ))?;
    Ok(String::new())
}

fn unit_tests(workspace: &Workspace, choice: &Choice) -> Result<String> {
    let mut crates = cargo(
        workspace,
        ["test", "--release", "--workspace", "--no-fail-fast"],
    );
    crates
        .args(["--exclude", SYSTEM_TESTS, "--"])
        .args(&choice.test_args);
    run(crates)?;
    // The rigs of the end-to-end tests, in the library of the package that is left out above: every library of the
    // workspace is named, so that nothing is built anew, and the filter leaves the rigs.
    let mut rigs = cargo(workspace, ["test", "--release", "--workspace", "--lib"]);
    rigs.args(["--quiet", "--", "rigs::"])
        .args(&choice.test_args);
    run(rigs)?;
    run(system_test(
        workspace,
        TIDY,
        system_test_threads(TIDY),
        &choice.test_args,
    ))?;
    Ok(String::new())
}

fn bench_once(workspace: &Workspace, _: &Choice) -> Result<String> {
    bench(workspace, &[], &["--test".into()])?;
    Ok(format!("{} benches", workspace.benches().len()))
}

/// Runs the benches that `names` names; all, if none.
///
/// # Errors
///
/// When there is no such bench, or one fails.
pub fn bench(workspace: &Workspace, names: &[String], args: &[String]) -> Result<()> {
    let benches = chosen(workspace.benches(), names, "bench")?;
    if benches.is_empty() {
        return Ok(());
    }
    let mut bench = cargo(workspace, ["bench", "--workspace"]);
    bench.args(benches.iter().flat_map(|name| ["--bench", name]));
    bench.arg("--").args(args);
    run(bench)
}

fn build_system_tests(workspace: &Workspace, _: &Choice) -> Result<String> {
    let tests = workspace.system_tests();
    if !tests.is_empty() {
        let mut build = cargo(workspace, ["test", "--release", "--workspace", "--no-run"]);
        build.args(tests.iter().flat_map(|test| ["--test", test]));
        run(build)?;
    }
    Ok(format!("{} test programs", tests.len()))
}

/// The end-to-end tests, and behind them those that run on Azure, too.
fn with_those_on_azure(mut tests: Vec<String>) -> Vec<String> {
    let on_azure = SYSTEM_TESTS_ON_AZURE
        .into_iter()
        .filter(|test| tests.iter().any(|known| known == test))
        .map(|test| format!("{test}{ON_AZURE}"));
    let on_azure: Vec<String> = on_azure.collect();
    tests.extend(on_azure);
    tests
}

fn system_test_threads(test: &str) -> usize {
    let own = SYSTEM_TEST_THREADS.iter().find(|(name, _)| *name == test);
    own.map_or(SYSTEM_TEST_THREADS_USUAL, |(_, threads)| *threads)
}

/// One test program of the whole system. It is chosen from the whole workspace, so that dependencies are
/// built with the features that everything else has them with.
fn system_test(workspace: &Workspace, test: &str, threads: usize, args: &[String]) -> Command {
    let (test, on_azure) = match test.strip_suffix(ON_AZURE) {
        Some(test) => (test, true),
        None => (test, false),
    };
    let mut tests = cargo(
        workspace,
        ["test", "--release", "--workspace", "--test", test],
    );
    tests
        .arg("--")
        .arg(format!("--test-threads={threads}"))
        .args(args);
    if on_azure {
        tests.env(HOME_VARIABLE, "azure");
    }
    tests
}

/// Runs the end-to-end tests that `names` names (all, if none) in their long forms. Says whether all passed.
///
/// # Errors
///
/// When there is no such test, or the programs do not build.
pub fn soak(workspace: &Workspace, names: &[String], args: &[String]) -> Result<bool> {
    let tests = with_those_on_azure(workspace.system_tests());
    let tests = chosen(tests, names, "end-to-end test")?;
    if tests.is_empty() {
        bail!("there are no end-to-end tests");
    }
    let mut report = Report::default();
    let choice = Choice::default();
    for part in PARTS
        .iter()
        .filter(|part| ["tools", "build"].contains(&part.name))
    {
        if !report.time(part.name, || (part.run)(workspace, &choice)) {
            return Ok(false);
        }
    }
    for test in tests {
        report.time(&format!("soak/{test}"), || {
            let mut soak = system_test(workspace, &test, 1, args);
            soak.arg("--nocapture").env("EVERPOINT_SOAK", "1");
            run(soak)?;
            Ok(String::new())
        });
    }
    println!("\n{report}");
    Ok(report.passed())
}

/// Makes the golden files anew, with the programs as they are now. No part of the test command.
///
/// # Errors
///
/// When the programs do not build, or the making fails; files may be missing then.
pub fn golden(workspace: &Workspace) -> Result<()> {
    build(workspace, &Choice::default())?;
    run(command(workspace, workspace.program(GOLDEN_MAKER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str], system_tests: &[&str]) -> Result<Vec<String>> {
        let owned = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let steps = steps(&owned(wanted), &owned(system_tests))?;
        Ok(steps.iter().map(Step::name).collect())
    }

    #[test]
    fn without_a_name_everything_runs_and_what_fails_soonest_comes_first() {
        let all = names(&[], &["kills", "order"]).unwrap();
        let quickstart = QUICKSTART_BY_DEFAULT.then_some("quickstart");
        let expected = [
            "tools",
            "fmt",
            "proto",
            "deny",
            "clippy",
            "build",
            "unit",
            "simulation",
            "planted",
            "mutants",
            "bench",
            "fuzz",
            "e2e",
            "e2e/kills",
            "e2e/order",
        ];
        let expected: Vec<&str> = expected.into_iter().chain(quickstart).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn parts_run_in_their_own_order_whatever_the_order_of_the_names() {
        assert_eq!(names(&["clippy", "fmt"], &[]).unwrap(), ["fmt", "clippy"]);
    }

    #[test]
    fn a_part_brings_what_it_builds_on() {
        let expected = ["tools", "build", "e2e", "e2e/order"];
        assert_eq!(
            names(&["e2e/order"], &["kills", "order"]).unwrap(),
            expected
        );
        let expected = ["build", "quickstart"];
        assert_eq!(names(&["quickstart"], &["kills"]).unwrap(), expected);
    }

    #[test]
    fn what_is_about_no_directory_runs_on_azure_too() {
        let tests = ["kills", "order"].map(str::to_owned);
        let tests = with_those_on_azure(tests.into());
        assert_eq!(tests, ["kills", "order", "order@azure"]);
    }

    #[test]
    fn an_unknown_part_is_refused_with_those_that_there_are() {
        let refused = names(&["e2e/oder"], &["order"]).unwrap_err().to_string();
        assert!(refused.contains("no part `e2e/oder`"), "{refused}");
        assert!(
            refused.contains("fmt") && refused.contains("e2e/order"),
            "{refused}"
        );
    }

    #[test]
    fn what_a_part_builds_on_stands_before_it() {
        for (at, part) in PARTS.iter().enumerate() {
            for name in part.after {
                let before = PARTS.iter().position(|part| part.name == *name);
                assert!(
                    before.is_some_and(|before| before < at),
                    "{name} before {}",
                    part.name
                );
            }
        }
    }

    #[test]
    fn help_names_every_part() {
        for part in &PARTS {
            assert!(help().contains(part.name) && help().contains(part.about));
        }
    }
}
