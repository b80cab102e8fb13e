//! What cargo-mutants writes is read as it is meant.

use super::*;

const LISTED: &str = r#"[{"name": "a.rs:1:1: w"}, {"name": "a.rs:2:1: x"}, {"name": "a.rs:12:5: y"},
    {"name": "a.rs:13:5: z"}, {"name": "b.rs:1:1: w"}]"#;

fn outcomes(baseline: &str, mutants: &[(&str, &str)]) -> String {
    let baseline = json!({"scenario": "Baseline", "summary": baseline});
    let mutants = mutants
        .iter()
        .map(|(name, summary)| json!({"scenario": {"Mutant": {"name": name}}, "summary": summary}));
    let all: Vec<Value> = [baseline].into_iter().chain(mutants).collect();
    json!({ "outcomes": all }).to_string()
}

#[test]
fn every_mutant_is_noticed_does_not_compile_survives_or_is_left() {
    let ran = [
        ("a.rs:1:1: w", "CaughtMutant"),
        ("a.rs:2:1: x", "Unviable"),
        ("a.rs:12:5: y", "MissedMutant"),
    ];
    let scores = scores(LISTED, &outcomes("Success", &ran)).unwrap();
    let expected = Score {
        caught: 1,
        unviable: 1,
        accepted: 0,
        survived: vec!["a.rs: y".to_owned()],
        left: 1,
    };
    assert_eq!(scores["a.rs"], expected);
    assert_eq!(scores["a.rs"].viable(), 2);
    assert_eq!(scores["b.rs"].left, 1);
}

#[test]
fn a_test_that_does_not_end_has_noticed() {
    let outcomes = outcomes("Success", &[("b.rs:1:1: w", "Timeout")]);
    assert_eq!(scores(LISTED, &outcomes).unwrap()["b.rs"].caught, 1);
}

#[test]
fn where_there_was_no_time_all_are_left() {
    assert_eq!(scores(LISTED, "").unwrap()["a.rs"].left, 4);
}

#[test]
fn tests_that_fail_without_a_mutant_say_nothing_of_mutants() {
    let error = scores(LISTED, &outcomes("Failure", &[])).unwrap_err();
    assert!(error.to_string().contains("fail as they are"));
}

#[test]
fn a_survivor_fails_the_run_and_is_named() {
    let mut score = Score {
        caught: 3,
        ..Score::default()
    };
    let scores = Scores::from([("x".to_owned(), score.clone())]);
    assert!(
        sum_up(&scores)
            .unwrap()
            .starts_with("3 of 3 wrong changes noticed")
    );
    score.survived.push("a.rs: replace + with -".to_owned());
    let error = sum_up(&Scores::from([("x".to_owned(), score)]))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("3 of 4") && error.contains("a.rs: replace + with -"));
}

#[test]
fn what_is_accepted_has_a_reason_and_lies_in_a_core() {
    for name in accepted(ACCEPTED) {
        let core = CORES
            .iter()
            .any(|(package, _)| name.starts_with(&format!("crates/{package}/")));
        assert!(core, "{name}");
        let (_, after) = ACCEPTED.split_once(name).expect("it is from there");
        let reason = after.lines().nth(1).unwrap_or_default();
        assert!(reason.starts_with("    "), "{name} has no reason");
    }
    let text = "# heading\na.rs: x\n    because\n\nb.rs: y\n    so\n";
    assert_eq!(accepted(text).collect::<Vec<_>>(), ["a.rs: x", "b.rs: y"]);
}

#[test]
fn files_are_those_of_the_package() {
    let wanted = ["crates/everpoint-agent/src/disk_core.rs".to_owned()];
    assert_eq!(files("everpoint-agent", &["src/**"], &wanted), wanted);
    assert!(files("everpoint-journal", &["src/**"], &wanted).is_empty());
    let all = files("everpoint-journal", &["src/**"], &[]);
    assert_eq!(all, ["crates/everpoint-journal/src/**"]);
}
