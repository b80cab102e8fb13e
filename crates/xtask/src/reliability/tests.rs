//! Made-up records become a page that says what they say, and no more.

use serde_json::json;

use super::*;
use crate::record::Machine;

fn version(product: &str) -> Version {
    Version {
        commit: "c0ffee".to_owned(),
        dirty: false,
        product: product.to_owned(),
    }
}

fn record(kind: &str, started: &str, counts: Value) -> Record {
    Record {
        kind: kind.to_owned(),
        version: version("now"),
        command: format!("cargo xtask {kind}"),
        started: started.to_owned(),
        seconds: 1.0,
        machine: Machine {
            cores: 2,
            cpu: "a processor".to_owned(),
        },
        counts,
    }
}

fn simulated(from: u64, to: u64, events: u64) -> Record {
    let counts = json!({
        "seeds": [[from, to]], "events": events, "simulated_seconds": 7_200.0, "crashes": 3, "run_twice": 1,
        "faults": {"freeze": 2}, "counts": {"restores compared": 5}, "violations": [],
    });
    record(
        "simulate",
        &format!("2026-11-0{}T00:00:00Z", 1 + from % 9),
        counts,
    )
}

fn page_of(records: Vec<Record>) -> Result<String> {
    page(Sources {
        version: version("now"),
        records,
        gaps: "Real disks.\n".to_owned(),
        found: "# seed what\n604  a lost write\n".to_owned(),
    })
}

fn has(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.contains(line), "no {line:?} in:\n{page}");
    }
}

#[test]
fn seeds_that_ran_twice_count_once_and_ranges_that_touch_are_one() {
    let records = vec![
        simulated(0, 1_000, 10),
        simulated(500, 600, 70),
        simulated(1_000, 1_500, 5),
    ];
    let page = page_of(records).unwrap();
    let lines = [
        "Seeds 0 to 1499; a seed that ran more than once counts once (1 runs left out for that).",
        "| seeds | 1,500 |",
        "| events | 15 |",
        "| simulated hours | 4 |",
        "| crashes | 6 |",
        "| restores compared | 10 |",
        "| freeze | 4 |",
        "| 0 to 999 | 2026-11-01T00:00:00Z | 1 s |\n| 1000 to 1499 | 2026-11-02T00:00:00Z | 1 s |\n",
        "Broken promises: 0.",
        "below 2.0e-3 with a confidence",
    ];
    has(&page, &lines);
}

#[test]
fn a_broken_promise_is_named_and_there_is_no_bound_then() {
    let mut broken = simulated(0, 10, 1);
    broken.counts["violations"] = json!([{"seed": 7, "what": "disk 1 is lost"}]);
    let page = page_of(vec![broken, simulated(100, 1_000, 1)]).unwrap();
    has(
        &page,
        &["**Broken promises: 1.**", "- seed 7: disk 1 is lost"],
    );
    assert!(!page.contains("confidence"));
}

#[test]
fn a_broken_promise_in_a_run_that_is_left_out_is_named_all_the_same() {
    let mut broken = simulated(0, 10, 1);
    broken.counts["violations"] = json!([{"seed": 7, "what": "disk 1 is lost"}]);
    let page = page_of(vec![broken, simulated(0, 1_000, 1)]).unwrap();
    has(&page, &["| seeds | 1,000 |", "**Broken promises: 1.**"]);
}

#[test]
fn kinds_without_a_record_are_said_to_be_missing() {
    let page = page_of(vec![simulated(0, 10, 1)]).unwrap();
    assert_eq!(page.matches("No record for this commit.").count(), 4);
    has(
        &page,
        &[
            "`cargo xtask model` leaves one",
            "Real disks.",
            "| 604 | a lost write |",
        ],
    );
}

#[test]
fn records_of_another_product_or_of_a_changed_tree_count_for_nothing() {
    let mut other = simulated(0, 10, 1);
    other.version.product = "then".to_owned();
    let mut changed = simulated(0, 10, 1);
    changed.version.dirty = true;
    let error = page_of(vec![other, changed]).unwrap_err().to_string();
    assert!(
        error.contains("no record") && error.contains("cargo xtask simulate"),
        "{error}"
    );
}

#[test]
fn a_tree_that_is_not_committed_gets_no_page() {
    let sources = Sources {
        version: Version {
            dirty: true,
            ..version("now")
        },
        records: vec![simulated(0, 10, 1)],
        gaps: String::new(),
        found: String::new(),
    };
    assert!(page(sources).unwrap_err().to_string().contains("commit it"));
}

#[test]
fn the_order_of_the_records_does_not_matter() {
    let records = vec![
        simulated(0, 1_000, 10),
        record("model", "2026-11-02T00:00:00Z", json!({"worlds": []})),
        simulated(2_000, 3_000, 5),
    ];
    let reversed = records.iter().rev().cloned().collect();
    assert_eq!(page_of(records).unwrap(), page_of(reversed).unwrap());
}

#[test]
fn planted_bugs_and_marks_are_counted_and_what_is_not_found_is_named() {
    let bugs = json!([
        {"bug": "AckBeforeSync", "budget": 200, "first_seed": 1_234, "failed": 8, "of": 100},
        {"bug": "GapAccepted", "budget": 2_000},
    ]);
    let marks = json!([
        {"mark": "fork", "count": 9, "awaits": null},
        {"mark": "late end", "count": 0, "awaits": null},
        {"mark": "liar", "count": 0, "awaits": "a server that lies"},
    ]);
    let records = vec![
        record("planted", "2026-11-02T00:00:00Z", bugs),
        record("planted", "2026-11-03T00:00:00Z", marks),
    ];
    let page = page_of(records).unwrap();
    let lines = [
        "1 of 2 are found; the first seed that finds one is 1,234 in the median.",
        "| AckBeforeSync | 1,234 | 8 of 100 |",
        "| GapAccepted | **not found** in 2,000 |  |",
        "are marked to be reached: 1 of 2; **not reached**: late end.",
        "No world of these reaches liar: it takes a server that lies.",
    ];
    has(&page, &lines);
}

#[test]
fn the_model_says_what_was_seen_whole_and_which_rules_are_missed() {
    let world = |name: &str, exhausted: bool, fails: Option<&str>| json!({"name": name, "distinct": 1_000, "exhausted": exhausted, "fails": fails});
    let counts = json!({
        "worlds": [world("a", true, None), world("b", false, None)],
        "rules_left_out": [world("R1", false, Some("p")), world("R2", true, None)],
        "rules_left_out_in_vain": [world("R5", true, None)],
    });
    let page = page_of(vec![record("model", "2026-11-02T00:00:00Z", counts)]).unwrap();
    let lines = [
        "2 worlds, 2,000 distinct states; 1 worlds were seen whole",
        "No property fails.",
        "1 of 2 are missed.",
        "**Not missed: R2.**",
        "no model here needs: R5.",
    ];
    has(&page, &lines);
}

#[test]
fn of_several_runs_of_mutants_the_fullest_of_each_file_counts() {
    let score = |caught: u64, survived: &[&str], left: u64| json!({"caught": caught, "unviable": 1, "accepted": 1, "survived": survived, "left": left});
    let first = json!({"files": {"a.rs": score(8, &["a.rs: x"], 0), "b.rs": score(1, &[], 9)}});
    let second = json!({"files": {"a.rs": score(2, &[], 8), "b.rs": score(9, &[], 0)}});
    let records = vec![
        record("mutants", "2026-11-02T00:00:00Z", first),
        record("mutants", "2026-11-03T00:00:00Z", second),
    ];
    let page = page_of(records).unwrap();
    let lines = [
        "17 of 20 noticed (85.0 %), in 2 files; 2 are accepted",
        "2 do not compile, 0 were not tried.",
        "- `a.rs: x`",
    ];
    has(&page, &lines);
}

#[test]
fn runs_of_fuzz_targets_add_up_and_a_failed_one_is_said() {
    let ran = |executions: u64| json!({"executions": executions, "covered": 40, "counters": 90, "corpus": 7});
    let first = json!({"targets": {"block": ran(1_000_000), "wire": ran(5)}});
    let second = json!({"targets": {"block": ran(500_000), "wire": {"failed": true}}});
    let records = vec![
        record("fuzz", "2026-11-02T00:00:00Z", first),
        record("fuzz", "2026-11-03T00:00:00Z", second),
    ];
    let page = page_of(records).unwrap();
    has(
        &page,
        &[
            "| block | 1,500,000 | 7 | 40 |",
            "| wire | 5 | 0 | **failed** |",
        ],
    );
}
