//! The page, section by section.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{KINDS, apart, count_of, merged, number, ranges, sums};
use crate::mutants;
use crate::record::{Record, Version};

/// What the page is, of what, and how a stranger repeats it.
pub(super) fn heading(version: &Version, records: &[Record]) -> String {
    let mut machines: Vec<String> = records
        .iter()
        .map(|record| format!("{} cores, {}", record.machine.cores, record.machine.cpu))
        .collect();
    machines.sort();
    machines.dedup();
    let dates = records
        .iter()
        .map(|record| &record.started[..record.started.len().min(10)]);
    let (first, last) = (dates.clone().min().unwrap_or(""), dates.max().unwrap_or(""));
    format!(
        "# What was tested, and how much\n\n\
         Made by `cargo xtask reliability-report` from the records of the runs. Product `{}`, commit `{}`;\n\
         {first} to {last}; {}.\n\n\
         To repeat it, with nothing but this repository:\n\n\
         ```\n\
         cargo xtask long-run             # all that is counted here, some hours; --from S for other seeds\n\
         cargo xtask reliability-report   # makes this page of it\n\
         ```\n",
        version.product,
        version.commit,
        machines.join("; "),
    )
}

fn missing(kind: &str) -> String {
    let command = KINDS.iter().find(|(name, _)| *name == kind);
    let command = command.map_or("", |(_, command)| command);
    format!("No record for this commit. `{command}` leaves one.\n")
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn rows(counts: &BTreeMap<String, u64>) -> String {
    let rows = counts.iter();
    rows.map(|(name, count)| format!("| {name} | {} |\n", grouped(*count)))
        .collect()
}

/// The simulated world.
pub(super) fn simulated(records: &[&Record]) -> String {
    let mut text = "## The simulated world\n\n".to_owned();
    let counted = apart(records);
    if counted.is_empty() {
        return text + &missing("simulate");
    }
    let all = merged(counted.iter().flat_map(|record| ranges(record)).collect());
    let seeds = count_of(&all);
    let told = all
        .iter()
        .map(|(from, to)| format!("{from} to {}", to.saturating_sub(1)));
    let told = told.collect::<Vec<_>>().join(", ");
    let sum = |name: &str| {
        counted
            .iter()
            .map(|record| number(&record.counts[name]))
            .sum()
    };
    let seconds: f64 = counted
        .iter()
        .filter_map(|record| record.counts["simulated_seconds"].as_f64())
        .sum();
    let other = records.len() - counted.len();
    text += &format!(
        "Seeds {told}; a seed that ran more than once counts once ({other} runs left out for that).\n\n"
    );
    text += "| | |\n|---|---:|\n";
    text += &format!("| seeds | {} |\n", grouped(seeds));
    text += &format!("| events | {} |\n", grouped(sum("events")));
    text += &format!("| simulated hours | {:.0} |\n", seconds / 3_600.0);
    text += &format!("| crashes | {} |\n", grouped(sum("crashes")));
    text += &rows(&sums(counted.iter().map(|record| &record.counts["counts"])));
    text += &format!(
        "| seeds run twice, with the same history | {} |\n",
        grouped(sum("run_twice"))
    );
    text += "\nFaults that really happened:\n\n| fault | times |\n|---|---:|\n";
    text += &rows(&sums(counted.iter().map(|record| &record.counts["faults"])));
    text += &parts(&counted);
    text + &broken(records, seeds)
}

/// The runs that the seeds were in: which seeds, when, and how long.
fn parts(counted: &[&Record]) -> String {
    let mut rows: Vec<(u64, String)> = counted
        .iter()
        .flat_map(|record| ranges(record).into_iter().map(move |range| (range, record)))
        .map(|((from, to), record)| {
            let (last, begun) = (to.saturating_sub(1), &record.started);
            let row = format!("| {from} to {last} | {begun} | {:.0} s |\n", record.seconds);
            (from, row)
        })
        .collect();
    rows.sort();
    let rows: String = rows.into_iter().map(|(_, row)| row).collect();
    format!("\nThe parts that they ran in:\n\n| seeds | begun | took |\n|---|---|---:|\n{rows}")
}

/// Broken promises of all runs, those that were left out above too.
fn broken(records: &[&Record], seeds: u64) -> String {
    let mut broken: Vec<(u64, &str)> = records
        .iter()
        .flat_map(|record| record.counts["violations"].as_array().into_iter().flatten())
        .map(|found| (number(&found["seed"]), found["what"].as_str().unwrap_or("")))
        .collect();
    broken.sort_unstable();
    broken.dedup();
    if broken.is_empty() {
        return format!(
            "\nBroken promises: 0. So no write was lost that was acknowledged as cached or committed, no restored \
             point was\nanything but a prefix of what was written, and every world was level, committed and restorable \
             after it was healed.\n\n\
             What that says: if each seed failed by itself with some probability, that is below {:.1e} with a confidence\n\
             of 95 % (3/N for N = {} without a failure). It says so of the simulated world, not of disks and networks.\n",
            3.0 / seeds as f64,
            grouped(seeds)
        );
    }
    let list = broken
        .iter()
        .map(|(seed, what)| format!("- seed {seed}: {what}\n"));
    format!(
        "\n**Broken promises: {}.**\n\n{}",
        broken.len(),
        list.collect::<String>()
    )
}

/// Bugs that were planted to be found, and places that must be reached.
pub(super) fn planted(records: &[&Record]) -> String {
    let mut text = "## Planted bugs\n\n".to_owned();
    let bugs = newest(records, "bug");
    let marks = newest(records, "mark");
    if bugs.is_empty() && marks.is_empty() {
        return text + &missing("planted");
    }
    let mut first: Vec<u64> = bugs
        .values()
        .filter_map(|bug| bug["first_seed"].as_u64())
        .collect();
    first.sort_unstable();
    text += &format!("{} of {} are found", first.len(), bugs.len());
    text += &match first.get(first.len() / 2) {
        Some(median) => format!(
            "; the first seed that finds one is {} in the median.\n\n",
            grouped(*median)
        ),
        None => ".\n\n".to_owned(),
    };
    text += "| bug | first seed | seeds that fail |\n|---|---:|---:|\n";
    for (name, bug) in &bugs {
        let first = match bug["first_seed"].as_u64() {
            Some(first) => grouped(first),
            None => format!("**not found** in {}", grouped(number(&bug["budget"]))),
        };
        let share = match bug["of"].as_u64() {
            Some(of) => format!("{} of {}", grouped(number(&bug["failed"])), grouped(of)),
            None => String::new(),
        };
        text += &format!("| {name} | {first} | {share} |\n");
    }
    text + &reached(&marks)
}

/// Which marks were reached, which were not, and which nothing here can reach yet.
fn reached(marks: &BTreeMap<&str, &Value>) -> String {
    let awaited = |mark: &Value| mark["awaits"].as_str().map(str::to_owned);
    let expected = marks.iter().filter(|(_, mark)| awaited(mark).is_none());
    let expected: Vec<_> = expected.collect();
    let missed = expected
        .iter()
        .filter(|(_, mark)| number(&mark["count"]) == 0);
    let missed: Vec<&str> = missed.map(|(name, _)| **name).collect();
    let mut text = format!(
        "\nPlaces in the code that are marked to be reached: {} of {}",
        expected.len() - missed.len(),
        expected.len()
    );
    match missed.is_empty() {
        true => text += ".\n",
        false => text += &format!("; **not reached**: {}.\n", missed.join(", ")),
    }
    for (name, mark) in marks {
        if let Some(what) = awaited(mark) {
            text += &format!("No world of these reaches {name}: it takes {what}.\n");
        }
    }
    text
}

/// Entries of records that are lists, by what `key` names in them: of each the newest.
fn newest<'r>(records: &[&'r Record], key: &str) -> BTreeMap<&'r str, &'r Value> {
    let entries = records
        .iter()
        .flat_map(|record| record.counts.as_array().into_iter().flatten());
    entries
        .filter_map(|entry| Some((entry[key].as_str()?, entry)))
        .collect()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or("(without a name)")
}

/// The rules of ownership as models.
pub(super) fn model(records: &[&Record]) -> String {
    let mut text = "## The model of ownership, commit and deletion\n\n".to_owned();
    let Some(record) = records.last() else {
        return text + &missing("model");
    };
    let list = |name: &str| record.counts[name].as_array().cloned().unwrap_or_default();
    let worlds = list("worlds");
    let distinct = worlds.iter().map(|world| number(&world["distinct"])).sum();
    let exhausted: Vec<&Value> = worlds
        .iter()
        .filter(|world| world["exhausted"] == true)
        .collect();
    let failed: Vec<&str> = worlds
        .iter()
        .filter(|world| !world["fails"].is_null())
        .map(name)
        .collect();
    text += &format!(
        "{} worlds, {} distinct states; {} worlds were seen whole, the others up to a bound.\n",
        worlds.len(),
        grouped(distinct),
        exhausted.len()
    );
    match failed.is_empty() {
        true => text += "No property fails.\n\n",
        false => text += &format!("**A property fails in: {}.**\n\n", failed.join(", ")),
    }
    let left_out = list("rules_left_out");
    let missed: Vec<&str> = left_out
        .iter()
        .filter(|world| world["fails"].is_null())
        .map(name)
        .collect();
    text += &format!(
        "Rules left out to see whether something fails: {} of {} are missed.\n",
        left_out.len() - missed.len(),
        left_out.len()
    );
    if !missed.is_empty() {
        text += &format!("**Not missed: {}.**\n", missed.join("; "));
    }
    let in_vain = list("rules_left_out_in_vain");
    let names: Vec<&str> = in_vain.iter().map(name).collect();
    if !names.is_empty() {
        text += &format!("Rules that no model here needs: {}.\n", names.join("; "));
    }
    text + "\nEach world with its figures: `tests/model.log`.\n"
}

/// Mutation testing of the cores.
pub(super) fn wrong_changes(records: &[&Record]) -> String {
    let mut text = "## Wrong changes to the cores that a test notices\n\n".to_owned();
    let mut files: BTreeMap<&str, &Value> = BTreeMap::new();
    for record in records {
        for (file, score) in record.counts["files"].as_object().into_iter().flatten() {
            // Of several runs, the newest that had time for as many.
            let left = |score: &Value| number(&score["left"]);
            if files
                .get(file.as_str())
                .is_none_or(|known| left(score) <= left(known))
            {
                files.insert(file, score);
            }
        }
    }
    if files.is_empty() {
        return text + &missing("mutants");
    }
    let sum = |name: &str| -> u64 { files.values().map(|score| number(&score[name])).sum() };
    // The reason of one may have been written down after it survived.
    let (explained, survived): (Vec<&str>, Vec<&str>) = files
        .values()
        .flat_map(|score| score["survived"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .partition(|name| mutants::is_accepted(name));
    let caught = sum("caught");
    let accepted = sum("accepted") + explained.len() as u64;
    let viable = caught + accepted + survived.len() as u64;
    text += &format!(
        "{} of {} noticed ({:.1} %), in {} files; {accepted} are accepted with a reason \
         (`crates/xtask/mutants-accepted.txt`),\n{} do not compile, {} were not tried.\n",
        grouped(caught),
        grouped(viable),
        100.0 * caught as f64 / viable.max(1) as f64,
        files.len(),
        sum("unviable"),
        sum("left"),
    );
    if !survived.is_empty() {
        text += &format!("\nNot noticed ({}):\n\n", survived.len());
        survived
            .iter()
            .for_each(|name| text += &format!("- `{name}`\n"));
    }
    text
}

/// Fuzzing of what is read from outside.
pub(super) fn fuzz(records: &[&Record]) -> String {
    let mut text = "## Fuzzing\n\n".to_owned();
    let mut targets: BTreeMap<&str, (u64, &Value)> = BTreeMap::new();
    for record in records {
        for (target, counts) in record.counts["targets"].as_object().into_iter().flatten() {
            let known = targets.get(target.as_str()).map_or(0, |(sum, _)| *sum);
            targets.insert(target, (known + number(&counts["executions"]), counts));
        }
    }
    if targets.is_empty() {
        return text + &missing("fuzz");
    }
    text += "| target | runs | inputs kept | edges covered |\n|---|---:|---:|---:|\n";
    for (target, (executions, newest)) in targets {
        let covered = match newest["failed"] == true {
            true => "**failed**".to_owned(),
            false => grouped(number(&newest["covered"])),
        };
        let corpus = grouped(number(&newest["corpus"]));
        text += &format!(
            "| {target} | {} | {corpus} | {covered} |\n",
            grouped(executions)
        );
    }
    text
}

/// Bugs of the product that seeds found.
pub(super) fn found(listed: &str) -> String {
    let mut text =
        "## Bugs that this found in the product\n\n| seed | what it was |\n|---|---|\n".to_owned();
    for line in listed.lines().filter(|line| !line.starts_with('#')) {
        if let Some((seed, what)) = line.trim().split_once(char::is_whitespace) {
            text += &format!("| {seed} | {} |\n", what.trim());
        }
    }
    text
}
