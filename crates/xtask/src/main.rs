//! `cargo xtask`: parses the command line and calls the chore. `cargo xtask --help` lists them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask::image::{self, ImageSpec, Share};
use xtask::long_run::{self, Seeds, Step};
use xtask::parts::{self, Choice};
use xtask::workspace::Workspace;
use xtask::{formats, fuzz, model, mutants, planted, proto, reliability, simulate};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "The project's own chores",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Test everything, and print the time of each part
    #[command(after_help = parts::help())]
    Test(TestArgs),
    /// Run the end-to-end tests in their long forms (EVERPOINT_SOAK=1), one at a time
    Soak(NamesArgs),
    /// Run the benches and print what they measure
    Bench(NamesArgs),
    /// Run fuzz targets, with coverage guidance, on the pinned toolchain
    Fuzz(FuzzArgs),
    /// Run the simulated world by seed: many seeds, or one as a story
    Simulate(SimulateArgs),
    /// Plant bugs in the product, one after the other, and see that the simulated world finds them
    Planted(PlantedArgs),
    /// Explore the models of the ownership rules as far as their limits go, and keep the log in tests/model.log
    Model,
    /// Change the cores to wrong in every way, one at a time, and see which change no test notices
    Mutants(MutantsArgs),
    /// Run everything that tests/RELIABILITY.md counts, one after the other: some hours
    LongRun(LongRunArgs),
    /// Make tests/RELIABILITY.md of what was counted on the present commit
    ReliabilityReport,
    /// Generate the Rust code of the protobuf messages in proto/, and the page of byte tables
    Proto {
        /// Change nothing; fail when the committed code is not what proto/ gives
        #[arg(long)]
        check: bool,
    },
    /// Make the golden vault and cache log in tests/golden/ anew; see the README there before
    Golden,
    /// Make a dense raw disk image: an ext4 filesystem filled with files of this machine
    Image(ImageArgs),
}

#[derive(Args)]
struct TestArgs {
    /// Parts to run, in the order of the list below; without any, all that are marked with *
    #[arg(value_name = "PART")]
    parts: Vec<String>,
    /// Run what is left after a part has failed
    #[arg(long)]
    keep_going: bool,
    /// Seconds for each fuzz target
    #[arg(long, value_name = "SECONDS", default_value_t = parts::FUZZ_SECONDS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    fuzz_seconds: u64,
    /// Handed to the test binaries of `unit` and `e2e`: a filter, `--nocapture`, ...
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
}

#[derive(Args)]
struct NamesArgs {
    /// Which to run, by name; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Handed to each binary
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
}

#[derive(Args)]
struct FuzzArgs {
    /// Which to run, by name; without any, all
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// Run one target once on this file, as after a find
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

#[derive(Args)]
struct SimulateArgs {
    /// How many seeds to run
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000,
        conflicts_with = "seed"
    )]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Run this seed alone and tell what happens
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Tell it, which a single seed does anyway
    #[arg(long, requires = "seed", conflicts_with = "shrink")]
    trace: bool,
    /// Make the plan of that seed as small as it can be and still fail
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Leave the first plan of many that fails as it is
    #[arg(long, conflicts_with = "seed")]
    no_shrink: bool,
}

#[derive(Args)]
struct PlantedArgs {
    /// Which to plant, by name; without any, all
    #[arg(value_name = "BUG", conflicts_with = "marks")]
    bugs: Vec<String>,
    /// Plant none; list how often each mark in the product was reached
    #[arg(long)]
    marks: bool,
    /// Leave out what takes long to find, or to reach
    #[arg(long)]
    brief: bool,
    /// Seeds to run at most, instead of each bug's own budget
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Run so many seeds in any case, count those that fail, and see which faults they need
    #[arg(long, value_name = "N", conflicts_with = "marks")]
    share: Option<u64>,
}

#[derive(Args)]
struct LongRunArgs {
    /// What to run; without any, all, in this order
    #[arg(value_name = "STEP", value_enum)]
    steps: Vec<Step>,
    /// How many seeds of the simulated world, in records of 100,000
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    seeds: u64,
    /// The first of them; take others than the page has
    #[arg(long, value_name = "S", default_value_t = 10_000_000)]
    from: u64,
}

#[derive(Args)]
struct MutantsArgs {
    /// Files to change; without any, those of every core
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Only functions that are not as they were in this commit
    #[arg(long, value_name = "BASE")]
    in_diff: Option<String>,
    /// Not those again that were noticed in the run before, if they stand where they stood
    #[arg(long)]
    go_on: bool,
    /// When to stop. Unit: minutes
    #[arg(long, value_name = "M", default_value_t = 600)]
    minutes: u64,
}

#[derive(Args)]
struct ImageArgs {
    /// The raw image to write
    out: PathBuf,
    /// Size of the image. Unit: MiB
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Share of the filesystem that files take, 0 to 0.9
    #[arg(long, default_value = "0.70")]
    fill: Share,
    /// Share of the files, by bytes, that are replaced by others: another machine of the same kind
    #[arg(long, default_value = "0.0")]
    other: Share,
    /// The tree that files are taken from
    #[arg(long, default_value = "/usr")]
    root: PathBuf,
}

impl SimulateArgs {
    /// As the program wants them.
    fn given(&self) -> Vec<String> {
        let mut given = match self.seed {
            Some(seed) => vec!["--seed".to_owned(), seed.to_string()],
            None => vec![
                "--seeds".to_owned(),
                self.seeds.to_string(),
                "--from".to_owned(),
                self.from.to_string(),
            ],
        };
        given.extend(self.shrink.then(|| "--shrink".to_owned()));
        given.extend(self.no_shrink.then(|| "--no-shrink".to_owned()));
        given
    }
}

impl PlantedArgs {
    /// As the program wants them.
    fn given(&self) -> Vec<String> {
        let mut given = self.bugs.clone();
        given.extend(self.marks.then(|| "--marks".to_owned()));
        given.extend(self.brief.then(|| "--brief".to_owned()));
        for (flag, number) in [("--seeds", self.seeds), ("--share", self.share)] {
            if let Some(number) = number {
                given.extend([flag.to_owned(), number.to_string()]);
            }
        }
        given
    }
}

fn main() -> ExitCode {
    match call(Cli::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn call(chore: Chore) -> Result<ExitCode> {
    if let Chore::Image(args) = chore {
        return make_image(args);
    }
    let workspace = Workspace::here()?;
    match chore {
        Chore::Test(args) => {
            let choice = Choice {
                names: args.parts,
                keep_going: args.keep_going,
                fuzz_time: Duration::from_secs(args.fuzz_seconds),
                test_args: args.args,
            };
            return Ok(exit_code(parts::test(&workspace, &choice)?));
        }
        Chore::Soak(args) => {
            return Ok(exit_code(parts::soak(&workspace, &args.names, &args.args)?));
        }
        Chore::Bench(args) => parts::bench(&workspace, &args.names, &args.args)?,
        Chore::Fuzz(args) => match args.input {
            Some(input) => fuzz::replay(&workspace, &args.targets, &input)?,
            None => {
                let note = fuzz::run(&workspace, &args.targets, Duration::from_secs(args.seconds))?;
                println!("{note}");
            }
        },
        Chore::Simulate(args) => simulate::simulate(&workspace, &args.given())?,
        Chore::Planted(args) => planted::hunt(&workspace, &args.given())?,
        Chore::Model => println!("kept in {}", model::run(&workspace)?.display()),
        Chore::Mutants(args) => {
            let time = Duration::from_secs(args.minutes * 60);
            let order = mutants::Order {
                files: args.files,
                base: args.in_diff,
                go_on: args.go_on,
                time,
            };
            println!("{}", mutants::run(&workspace, &order)?);
        }
        Chore::LongRun(args) => {
            let (from, count) = (args.from, args.seeds);
            long_run::run(&workspace, &args.steps, Seeds { from, count })?;
        }
        Chore::ReliabilityReport => {
            println!("written: {}", reliability::write(&workspace)?.display());
        }
        Chore::Proto { check: true } => {
            println!("{}", proto::check(&workspace)?);
            println!("{}", formats::check(&workspace)?);
        }
        Chore::Proto { check: false } => {
            println!("{}", proto::write(&workspace)?);
            println!("{}", formats::write(&workspace)?);
        }
        Chore::Golden => parts::golden(&workspace)?,
        Chore::Image(_) => unreachable!("made above, without a workspace"),
    }
    Ok(ExitCode::SUCCESS)
}

fn make_image(args: ImageArgs) -> Result<ExitCode> {
    let spec = ImageSpec {
        out: args.out,
        mib: args.mib,
        fill: args.fill,
        other: args.other,
        root: args.root,
    };
    println!("{}: {}", spec.out.display(), image::make(&spec)?);
    Ok(ExitCode::SUCCESS)
}

fn exit_code(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
