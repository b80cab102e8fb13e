//! Makes `tests/RELIABILITY.md`: what was counted on the present product, from its records, and nothing
//! that was not.
//!
//! A figure of another product is not shown: a kind of run that left no record for this one is said to be
//! missing. The same records give the same page.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::record::{self, Record, Version};
use crate::workspace::Workspace;

mod sections;

/// The page, from the root of the workspace.
const PAGE: &str = "tests/RELIABILITY.md";
/// What is not tested, in words.
const GAPS: &str = "tests/reliability-gaps.md";
/// Seeds that found a bug.
const FOUND: &str = "tests/seeds/found.txt";
/// Runs that leave records, each with the command that makes one.
const KINDS: [(&str, &str); 5] = [
    ("simulate", "cargo xtask simulate --seeds 100000"),
    ("planted", "cargo xtask planted"),
    ("model", "cargo xtask model"),
    ("mutants", "cargo xtask mutants"),
    ("fuzz", "cargo xtask fuzz --seconds 600"),
];

/// What the page is made of.
#[derive(Debug)]
struct Sources {
    version: Version,
    records: Vec<Record>,
    gaps: String,
    found: String,
}

/// Writes the page. Answers with where.
///
/// # Errors
///
/// When the product is not committed as it is, or no record is of it: the message says what to run.
pub fn write(workspace: &Workspace) -> Result<PathBuf> {
    let read = |name: &str| {
        let path = workspace.root.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let version = Version::of(workspace);
    let mut records = record::all(workspace)?;
    // What the product is made of may be told otherwise than when they ran: git knows whether it is the same.
    let mut same = BTreeMap::new();
    for record in &mut records {
        let ran = &record.version;
        let is_same = same
            .entry((ran.commit.clone(), ran.dirty))
            .or_insert_with(|| version.is_product_of(workspace, ran));
        if *is_same {
            record.version.product.clone_from(&version.product);
        }
    }
    let sources = Sources {
        version,
        records,
        gaps: read(GAPS)?,
        found: read(FOUND)?,
    };
    let path = workspace.root.join(PAGE);
    let page = page(sources)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn page(sources: Sources) -> Result<String> {
    let Sources {
        version,
        records,
        gaps,
        found,
    } = sources;
    if version.dirty {
        bail!(
            "the product differs from its commit: commit it, and run on that what is to be counted"
        );
    }
    let of_this =
        |record: &Record| record.version.product == version.product && !record.version.dirty;
    let mut records: Vec<Record> = records.into_iter().filter(of_this).collect();
    records
        .sort_by(|a, b| (&a.kind, &a.started, &a.command).cmp(&(&b.kind, &b.started, &b.command)));
    if records.is_empty() {
        let commands = KINDS.map(|(_, command)| format!("  {command}"));
        bail!(
            "no record in target/reliability is of this product; these commands leave some:\n{}",
            commands.join("\n")
        );
    }
    let of = |kind: &str| -> Vec<&Record> {
        records
            .iter()
            .filter(|record| record.kind == kind)
            .collect()
    };
    let parts = [
        sections::heading(&version, &records),
        sections::simulated(&of("simulate")),
        sections::planted(&of("planted")),
        sections::model(&of("model")),
        sections::wrong_changes(&of("mutants")),
        sections::fuzz(&of("fuzz")),
        sections::found(&found),
        format!("## What is not tested\n\n{}\n", gaps.trim()),
    ];
    Ok(parts.join("\n"))
}

/// Simulation records whose seeds do not overlap, those with the most seeds first: a seed counts once.
fn apart<'r>(records: &[&'r Record]) -> Vec<&'r Record> {
    let mut by_size = records.to_vec();
    by_size.sort_by_key(|record| std::cmp::Reverse(count_of(&ranges(record))));
    let mut taken: Vec<&Record> = Vec::new();
    for record in by_size {
        let own = ranges(record);
        let overlaps = taken
            .iter()
            .flat_map(|taken| ranges(taken))
            .any(|(from, to)| {
                own.iter()
                    .any(|(own_from, own_to)| from < *own_to && *own_from < to)
            });
        if !overlaps {
            taken.push(record);
        }
    }
    taken
}

/// Ranges of seeds, half-open.
fn ranges(record: &Record) -> Vec<(u64, u64)> {
    serde_json::from_value(record.counts["seeds"].clone()).unwrap_or_default()
}

fn count_of(ranges: &[(u64, u64)]) -> u64 {
    ranges
        .iter()
        .map(|(from, to)| to.saturating_sub(*from))
        .sum()
}

/// Ranges in order, those that touch made one.
fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Sums of counts by name, over values that are objects of numbers.
fn sums<'v>(objects: impl Iterator<Item = &'v Value>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for object in objects {
        for (name, count) in object.as_object().into_iter().flatten() {
            *sums.entry(name.clone()).or_default() += number(count);
        }
    }
    sums
}

#[cfg(test)]
mod tests;
