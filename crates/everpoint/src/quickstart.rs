//! `everpoint quickstart`: the whole on one machine, told as it happens.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use everpoint_quickstart::{
    ErrorKind, Event, Kept, Outcome, PointReport, QuickstartConfig, QuickstartError, Report,
    SECONDS_MAX,
};
use everpoint_vault::VaultUrl;
use indicatif::ProgressBar;

use crate::failure::{Code, Failure};
use crate::output::{self, Table, bytes};
use crate::progress;
use crate::signals::Signals;
use crate::size::Size;

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// Directory for everything, empty or missing. Default: a fresh one. It is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the directory in place, and say what to look at.
    #[arg(long)]
    keep: bool,
    /// Size of the disk, 32MiB to 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    size: Size,
    /// How long the disk is written to.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
    /// Another vault than one in the directory: file:///dir.
    #[arg(long, value_name = "URL")]
    vault: Option<VaultUrl>,
    /// Do not kill the process server while the disk is written to.
    #[arg(long)]
    no_attack: bool,
}

/// Does it.
///
/// # Errors
///
/// Why there is no verdict, or that it is a bad one.
pub(crate) async fn run(args: &Quickstart, json: bool) -> Result<(), Failure> {
    let config = QuickstartConfig {
        dir: args.dir.clone(),
        keep: args.keep,
        size: args.size.0,
        seconds: args.seconds,
        vault: args.vault.clone(),
        attack: !args.no_attack,
        seed: rand::random(),
    };
    let story = Story::new();
    let tell = |event| story.tell(&event);
    let mut signals = Signals::listen()?;
    let outcome = tokio::select! {
        outcome = everpoint_quickstart::run(&config, &tell) => outcome,
        signal = signals.received() => {
            return Err(Failure::new(Code::Incomplete, format!("{signal}: ended before the verdict")));
        }
    };
    let outcome = outcome.map_err(|error| no_verdict(&error))?;
    story.end();
    output::print(json, &outcome.report, summary)?;
    if let Some(kept) = &outcome.kept {
        story.say(&how_to_look(kept, &outcome));
    }
    if outcome.report.holds() {
        return Ok(());
    }
    Err(
        Failure::new(Code::Integrity, "what was restored is not what was written")
            .help("the directory was kept: please report what it holds"),
    )
}

fn no_verdict(error: &QuickstartError) -> Failure {
    let code = match error.kind() {
        ErrorKind::Usage => Code::Usage,
        ErrorKind::Integrity => Code::Integrity,
        ErrorKind::Incomplete => Code::Incomplete,
        ErrorKind::Failed => Code::Failed,
    };
    let failure = Failure::of(code, error);
    match error.remedy() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// Tells what happens, on stderr: a line for each event, and on a terminal one that changes.
struct Story {
    live: ProgressBar,
    is_terminal: bool,
}

impl Story {
    fn new() -> Self {
        Self {
            live: progress::line(),
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn say(&self, line: &str) {
        self.live
            .suspend(|| eprintln!("{}", output::escape_lines(line)));
    }

    fn end(&self) {
        self.live.finish_and_clear();
    }

    fn tell(&self, event: &Event) {
        match event {
            Event::Writing {
                elapsed,
                total,
                done,
                bytes_per_s,
                rpo_lag,
            } => {
                let line = format!(
                    "writing  {:>3} of {} s  {:>6} writes  {:>5.1} MB/s  RPO lag {:>4.1} s",
                    elapsed.as_secs_f64().round(),
                    total.as_secs(),
                    done.writes,
                    megabytes(*bytes_per_s),
                    rpo_lag.as_secs_f64(),
                );
                // Where lines stay, one in five is enough.
                if self.is_terminal {
                    self.live.set_message(line);
                } else if (elapsed.as_millis() + 500) / 1_000 % 5 == 0 {
                    self.say(&line);
                }
            }
            Event::PositionRestored {
                index,
                count,
                violation: None,
                ..
            } if self.is_terminal => {
                let line = format!("restoring unmarked positions  {} of {count}", index + 1);
                self.live.set_message(line);
                if index + 1 == *count {
                    self.say(&format!("✓ {count} unmarked positions restored and judged"));
                }
            }
            event => {
                if let Some(line) = line(event) {
                    self.say(&line);
                }
            }
        }
    }
}

/// What is said of an event that happens once.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::ServerRuns { address, vault } => {
            format!("process server  on {address}, vault {vault}")
        }
        Event::Exported { uri, size } => format!("agent           {} disk at {uri}", bytes(size.0)),
        Event::Protected => {
            "protected       from now on every completed write is a recovery point".into()
        }
        Event::Bookmark { name, seq, source } => {
            format!(
                "bookmark        {name} at {seq}, source {}",
                short(&source.to_string())
            )
        }
        Event::ServerKilled => "ATTACK          process server killed, the load runs on".into(),
        Event::ServerBack { down } => {
            format!(
                "back            process server runs again after {} ms",
                down.as_millis()
            )
        }
        Event::Committed { done, took } => format!(
            "load ended      {} writes, {:.1} MB; the last one committed after {:.1} s",
            done.writes,
            megabytes(done.bytes_written),
            took.as_secs_f64(),
        ),
        Event::Stopped => {
            "stopped         agent and process server are gone; only the vault is left".into()
        }
        Event::PointRestored(point) => format!(
            "{} {} restored in {} ms, {}",
            tick(point.identical),
            point.name,
            point.restore_ms,
            comparison(point),
        ),
        Event::PositionRestored {
            seq,
            violation: Some(what),
            ..
        } => format!("✗ {seq}: {what}"),
        Event::PositionRestored {
            seq,
            index,
            count,
            writes,
            restore_ms,
            ..
        } => format!(
            "✓ {seq} restored in {restore_ms} ms, holds with {writes} writes ({} of {count})",
            index + 1
        ),
        Event::Writing { .. } => return None,
    })
}

const fn tick(good: bool) -> &'static str {
    if good { "✓" } else { "✗" }
}

fn comparison(point: &PointReport) -> String {
    let restored = short(&point.restored_digest);
    if point.identical {
        return format!("identical to the source ({restored})");
    }
    format!(
        "{restored} is NOT the source's {}",
        short(&point.source_digest)
    )
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn megabytes(bytes: u64) -> f64 {
    let tenths = u32::try_from(bytes / 100_000).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}

/// The verdict, for people.
fn summary(report: &Report) -> String {
    let identical = report.points.iter().filter(|point| point.identical).count();
    let mut restores: Vec<u64> = report.points.iter().map(|point| point.restore_ms).collect();
    restores.sort_unstable();
    let checks = &report.prefix_checks;
    let mut table = Table::plain();
    let written = format!(
        "{} writes, {} of data in {:.1} s",
        report.writes,
        bytes(report.bytes_written),
        report.seconds
    );
    table.row(["written", &written]);
    let attacked = match &report.attacked {
        Some(attack) => format!(
            "process server killed {} time, away for {} ms",
            attack.server_kills, attack.down_ms
        ),
        None => "no".to_owned(),
    };
    table.row(["attacked", &attacked]);
    table.row([
        "bookmarks",
        &format!(
            "{identical} of {} restored byte by byte",
            report.points.len()
        ),
    ]);
    table.row([
        "unmarked positions",
        &format!("{} of {} hold", checks.held, checks.tried),
    ]);
    table.row(["lost writes", &report.lost_writes.to_string()]);
    let rpo = report.rpo_ms;
    table.row([
        "RPO lag",
        &format!(
            "median {} ms, 99 % {} ms, worst {} ms",
            rpo.p50, rpo.p99, rpo.max
        ),
    ]);
    let median = restores.get(restores.len() / 2).copied().unwrap_or(0);
    table.row(["restore", &format!("median {median} ms")]);
    let journal = format!(
        "{}, reduced {:.2} times",
        bytes(report.journal_bytes),
        report.reduction_ratio
    );
    table.row(["journal", &journal]);
    let verdict = if report.holds() {
        "every point is what the source was, and nothing is lost"
    } else {
        "NOT what was written: see above"
    };
    table.row(["verdict", verdict]);
    format!("\n{}", table.render())
}

/// What to type next.
fn how_to_look(kept: &Kept, outcome: &Outcome) -> String {
    let Kept {
        dir,
        vault,
        machine,
        disk,
    } = kept;
    let point = outcome
        .report
        .points
        .first()
        .map_or("latest", |point| point.name.as_str());
    format!(
        "\neverything is in {}; look with\n\
         \x20 everpoint point list --vault {vault} --machine {machine}\n\
         \x20 everpoint restore --vault {vault} --disk {disk} --at {point} --output restored.img\n\
         \x20 everpoint check --vault {vault} --read-data",
        dir.display(),
    )
}
