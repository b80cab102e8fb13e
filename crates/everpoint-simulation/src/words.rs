//! A plan as a person reads it, and as Rust that builds it.
//!
//! Both are made from what `Debug` prints, so that a field or a kind of fault that is added to the plan
//! needs nothing here. Units are told from the ends of names, as everywhere: `_us`, `_bytes_max`,
//! `_per_mille`.

use std::fmt::Debug;
use std::time::Duration;

use crate::world::plan::{Fault, KINDS, Plan};

/// Fields that the first sentence tells already.
const IN_THE_SENTENCE: [&str; 5] = ["servers", "machines", "disks", "sectors", "healed_at"];

/// The plan in plain sentences, and its faults as a list. What is zero is left out.
pub fn told(plan: &Plan) -> String {
    let shape = &plan.shape;
    let mut told = format!(
        "Seed {}: {}, {} with {} of {} each, healed at {}.\n",
        plan.seed,
        counted(shape.servers as u64, "server"),
        counted(shape.machines as u64, "machine"),
        counted(shape.disks as u64, "disk"),
        counted(shape.sectors, "sector"),
        seconds(shape.healed_at.0),
    );
    let printed = format!("{shape:?}");
    let rest = fields(&printed)
        .into_iter()
        .filter(|(name, value)| !IN_THE_SENTENCE.contains(name) && *value != "0")
        .map(|(name, value)| field_told(name, value));
    told += &format!("{}.\n", upper_first(&rest.collect::<Vec<_>>().join(", ")));
    told += &match plan.faults.len() as u64 {
        0 => "No faults.\n".to_owned(),
        count => format!("{}:\n", counted(count, "fault")),
    };
    for fault in &plan.faults {
        told += &format!("{}\n", fault_told(fault));
    }
    told
}

/// A fault with its moment, in a line.
pub fn fault_told(fault: &Fault) -> String {
    let kind = KINDS[fault.kind.class()];
    let printed = format!("{:?}", fault.kind);
    let details = fields(&printed);
    let details = details
        .into_iter()
        .map(|(name, value)| field_told(name, value));
    let line = [kind.to_owned()].into_iter().chain(details);
    let line = line.collect::<Vec<_>>().join(", ");
    format!("  {:>12}  {line}", seconds(fault.at.0))
}

/// A test for `tests/regressions.rs` that builds this plan and wants it to break nothing.
pub fn regression(plan: &Plan, violation: &str) -> String {
    let mut faults = String::new();
    for fault in &plan.faults {
        let kind = rust(&fault.kind);
        let at = fault.at.0;
        faults += &format!("            Fault {{ at: Moment({at}), kind: FaultKind::{kind} }},\n");
    }
    let seed = plan.seed;
    let shape = rust(&plan.shape);
    let said = violation.lines().next().unwrap_or_default();
    format!(
        "/// {said}\n\
         #[test]\n\
         fn seed_{seed}_stays_mended() {{\n    \
             let plan = Plan {{\n        \
                 seed: {seed},\n        \
                 shape: {shape},\n        \
                 faults: vec![\n{faults}        ],\n    \
             }};\n    \
             assert_eq!(run(&plan, None).violation, None);\n\
         }}\n"
    )
}

/// What `Debug` prints, with durations as Rust has them.
fn rust(value: &impl Debug) -> String {
    let printed = format!("{value:?}");
    let mut rust = String::new();
    for piece in printed.split_inclusive([' ', ',', '}', ')']) {
        let end = piece.trim_end_matches([' ', ',', '}', ')']).len();
        let (word, rest) = piece.split_at(end);
        match duration(word) {
            Some(time) => rust += &duration_in_rust(time),
            None => rust += word,
        }
        rust += rest;
    }
    rust
}

fn duration_in_rust(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos.is_multiple_of(1_000_000) {
        true => format!("Duration::from_millis({})", nanos / 1_000_000),
        false => format!("Duration::from_nanos({nanos})"),
    }
}

/// What `Debug` prints of a duration, read.
fn duration(printed: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [
        ("ns", 1),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
    ];
    let (number, unit) = UNITS.into_iter().find_map(|(name, nanos)| {
        let number = printed.strip_suffix(name)?;
        Some((number, nanos))
    })?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let mut nanos = whole.parse::<u64>().ok()? * unit;
    let mut place = unit;
    for digit in part.chars() {
        place /= 10;
        nanos += u64::from(digit.to_digit(10)?) * place;
    }
    Some(Duration::from_nanos(nanos))
}

/// Names and values of a struct as `Debug` prints it, if it is one level deep.
fn fields(printed: &str) -> Vec<(&str, &str)> {
    let inside = printed.split_once('{').map_or("", |(_, inside)| inside);
    let inside = inside.trim_end_matches([' ', '}']);
    let fields = inside.split(", ");
    fields
        .filter_map(|field| field.trim().split_once(": "))
        .collect()
}

fn field_told(name: &str, value: &str) -> String {
    let moment = value.strip_prefix("Moment(");
    let moment = moment.and_then(|moment| moment.trim_end_matches(')').parse().ok());
    if let Some(nanos) = moment {
        return format!("{} {}", name.replace('_', " "), seconds(nanos));
    }
    let number: Option<u64> = value.parse().ok();
    let of_unit = |unit: &str| {
        let ending = name.find(unit)?;
        Some((name.replacen(unit, "", 1), number?)).filter(|_| 0 < ending)
    };
    let (name, value) = if let Some((name, micros)) = of_unit("_us") {
        (name, format!("{} ms", micros as f64 / 1_000.0))
    } else if let Some((name, bytes)) = of_unit("_bytes") {
        (name, format!("{} KiB", bytes >> 10))
    } else if let Some((name, rate)) = of_unit("_per_mille") {
        (name, format!("{rate} in a thousand"))
    } else if let Some((name, rate)) = of_unit("_per_million") {
        (name, format!("{rate} in a million"))
    } else if let Some(time) = duration(value) {
        (
            name.to_owned(),
            format!("{} ms", time.as_nanos() as f64 / 1e6),
        )
    } else {
        (name.to_owned(), value.to_owned())
    };
    let name = match name.strip_suffix("_max") {
        Some(name) => format!("{name} at most"),
        None => name,
    };
    format!("{} {value}", name.replace('_', " "))
}

fn counted(count: u64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

fn seconds(nanos: u64) -> String {
    format!("{} s", nanos as f64 / 1e9)
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase());
    first.into_iter().flatten().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use everpoint_units::Moment;

    use crate::world::plan::FaultKind;

    use super::*;

    fn plan() -> Plan {
        let mut plan = Plan::of(7);
        plan.shape.servers = 2;
        plan.shape.machines = 1;
        plan.shape.disks = 1;
        plan.shape.sectors = 120;
        plan.shape.healed_at = Moment(14_500_000_000);
        plan.shape.think_us = 1_500;
        plan.shape.queue_bytes_max = 64 << 10;
        plan.shape.unknown_per_mille = 3;
        plan.faults = vec![
            Fault {
                at: Moment(1_250_000_000),
                kind: FaultKind::PowerCut {
                    server: 1,
                    down: Duration::from_micros(1_500),
                },
            },
            Fault {
                at: Moment(2_000_000_001),
                kind: FaultKind::LinkBreak { machine: 0 },
            },
        ];
        plan
    }

    #[test]
    fn a_plan_is_told_in_sentences_with_units() {
        let told = told(&plan());
        let lines: Vec<&str> = told.lines().collect();
        let first =
            "Seed 7: 2 servers, 1 machine with 1 disk of 120 sectors each, healed at 14.5 s.";
        assert_eq!(lines[0], first);
        assert!(lines[1].starts_with("Think 1.5 ms, queue at most 64 KiB, "));
        assert!(lines[1].contains("unknown 3 in a thousand"), "{}", lines[1]);
        assert_eq!(
            lines[2..],
            [
                "2 faults:",
                "        1.25 s  power cut, server 1, down 1.5 ms",
                "  2.000000001 s  link break, machine 0",
            ]
        );
    }

    #[test]
    fn every_plan_is_told_with_all_that_is_in_it() {
        for seed in 0..100 {
            let plan = Plan::of(seed);
            let lines: Vec<String> = told(&plan).lines().map(str::to_owned).collect();
            assert_eq!(lines.len(), 3 + plan.faults.len(), "seed {seed}");
            let printed = format!("{:?}", plan.shape);
            let known = fields(&printed).into_iter();
            let known = known.filter(|(_, value)| *value != "0").count();
            let told = lines[1].split(", ").count();
            assert_eq!(told, known - IN_THE_SENTENCE.len(), "seed {seed}");
        }
    }

    #[test]
    fn durations_are_read_as_they_are_printed() {
        for nanos in [0, 1, 1_500, 1_500_000, 37_000_000, 1_234_567_891] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(duration(&format!("{time:?}")), Some(time));
        }
        for other in ["", "s", "2", "servers", "Moment(2)", "x.1s"] {
            assert_eq!(duration(other), None, "{other}");
        }
    }

    #[test]
    fn a_regression_test_is_rust_that_builds_the_plan() {
        let test = regression(&plan(), "disk 1 is lost");
        let begin =
            "/// disk 1 is lost\n#[test]\nfn seed_7_stays_mended() {\n    let plan = Plan {\n";
        assert!(test.starts_with(begin), "{test}");
        let fault = "Fault { at: Moment(1250000000), kind: FaultKind::PowerCut { server: 1, down: \
                     Duration::from_nanos(1500000) } },";
        assert!(test.contains(fault), "{test}");
        assert!(
            test.contains("shape: Shape { servers: 2, machines: 1, disks: 1, "),
            "{test}"
        );
        assert!(test.ends_with("assert_eq!(run(&plan, None).violation, None);\n}\n"));
    }
}
