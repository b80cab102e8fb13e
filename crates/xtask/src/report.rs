//! The table at the end of a test run: each part, its seconds, its result.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Rows in the order in which the parts ran.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    took: Duration,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// With what is worth saying of it.
    Passed(String),
    Failed(String),
    NotRun,
}

impl Report {
    /// Runs `part` under a heading, times it, and keeps its result. Says whether it passed.
    pub fn time(&mut self, name: &str, part: impl FnOnce() -> Result<String>) -> bool {
        eprintln!("\n=== {name}");
        let begun = Instant::now();
        let outcome = match part() {
            Ok(note) => Outcome::Passed(note),
            Err(error) => {
                eprintln!("error: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        let passed = matches!(outcome, Outcome::Passed(_));
        self.rows.push(Row {
            name: name.to_owned(),
            took: begun.elapsed(),
            outcome,
        });
        passed
    }

    /// Keeps that `name` was asked for and did not run.
    pub fn not_run(&mut self, name: &str) {
        self.rows.push(Row {
            name: name.to_owned(),
            took: Duration::ZERO,
            outcome: Outcome::NotRun,
        });
    }

    /// Whether every part that was asked for ran and passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows
            .iter()
            .all(|row| matches!(row.outcome, Outcome::Passed(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.rows.iter().map(|row| row.name.len());
        let wide = wide.chain(["total".len()]).max().unwrap_or_default();
        writeln!(f, "{:wide$}  seconds  result", "part")?;
        for row in &self.rows {
            let seconds = row.took.as_secs_f64();
            write!(f, "{:wide$}  ", row.name)?;
            match &row.outcome {
                Outcome::Passed(note) if note.is_empty() => writeln!(f, "{seconds:7.1}  passed")?,
                Outcome::Passed(note) => writeln!(f, "{seconds:7.1}  passed: {note}")?,
                Outcome::Failed(why) => {
                    let why = why.lines().next().unwrap_or_default();
                    writeln!(f, "{seconds:7.1}  FAILED: {why}")?;
                }
                Outcome::NotRun => writeln!(f, "{:>7}  not run", "-")?,
            }
        }
        let total: Duration = self.rows.iter().map(|row| row.took).sum();
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        write!(
            f,
            "{:wide$}  {:7.1}  {verdict}",
            "total",
            total.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_report_passes_only_when_every_part_ran_and_passed() {
        let mut report = Report::default();
        assert!(report.time("fmt", || Ok(String::new())));
        assert!(report.passed());
        report.not_run("e2e");
        assert!(!report.passed());
    }

    #[test]
    fn the_table_says_what_passed_what_failed_and_what_did_not_run() {
        let mut report = Report::default();
        report.time("deny", || Ok("no advisory database".into()));
        assert!(!report.time("e2e/kills", || bail!("lost a write\nat seq 9")));
        report.not_run("fuzz");
        let table = report.to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "part       seconds  result");
        assert_eq!(lines[1], "deny           0.0  passed: no advisory database");
        assert_eq!(lines[2], "e2e/kills      0.0  FAILED: lost a write");
        assert_eq!(lines[3], "fuzz             -  not run");
        assert_eq!(lines[4], "total          0.0  FAILED");
    }
}
