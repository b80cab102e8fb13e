//! What cargo-mutants writes is read as it is meant.

use super::*;

const LISTED: &str = r#"[{"name": "a.rs:1:1: w"}, {"name": "a.rs:2:1: x"}, {"name": "a.rs:12:5: y"},
    {"name": "a.rs:13:5: z"}, {"name": "b.rs:1:1: w"}]"#;

fn outcomes(baseline: &str, mutants: &[(&str, &str)]) -> Outcomes {
    let baseline = json!({"scenario": "Baseline", "summary": baseline});
    let mutants = mutants
        .iter()
        .map(|(name, summary)| json!({"scenario": {"Mutant": {"name": name}}, "summary": summary}));
    let all: Vec<Value> = [baseline].into_iter().chain(mutants).collect();
    serde_json::from_value(json!({ "outcomes": all })).unwrap()
}

fn scores(outcomes: Option<Outcomes>, known: &Known) -> Result<Scores> {
    let listed: Vec<Mutant> = serde_json::from_str(LISTED).unwrap();
    scores_of(&listed, outcomes, known)
}

#[test]
fn every_mutant_is_noticed_does_not_compile_survives_or_is_left() {
    let ran = [
        ("a.rs:1:1: w", "CaughtMutant"),
        ("a.rs:2:1: x", "Unviable"),
        ("a.rs:12:5: y", "MissedMutant"),
    ];
    let scores = scores(Some(outcomes("Success", &ran)), &Known::default()).unwrap();
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
    let scores = scores(Some(outcomes), &Known::default()).unwrap();
    assert_eq!(scores["b.rs"].caught, 1);
}

#[test]
fn where_there_was_no_time_all_are_left() {
    let scores = scores(None, &Known::default()).unwrap();
    assert_eq!(scores["a.rs"].left, 4);
}

#[test]
fn what_was_known_before_counts_where_it_stands_where_it_stood_and_was_not_tried_again() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let known = Known {
        caught: names(&["a.rs:1:1: w", "a.rs:2:1: x", "a.rs:99:1: y"]),
        unviable: names(&["b.rs:1:1: w"]),
    };
    let ran = outcomes("Success", &[("a.rs:2:1: x", "MissedMutant")]);
    let scores = scores(Some(ran), &known).unwrap();
    let of_a = &scores["a.rs"];
    assert_eq!((of_a.caught, of_a.survived.len(), of_a.left), (1, 1, 2));
    assert_eq!((scores["b.rs"].unviable, scores["b.rs"].left), (1, 0));
}

#[test]
fn what_a_run_found_out_is_known_to_those_after_it_that_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("mutants.out");
    fs::create_dir(&results).unwrap();
    let wrote = |caught: &str| fs::write(results.join("caught.txt"), caught).unwrap();
    wrote("a.rs:1:1: w\n");
    let known = |go_on| Known::of(folder.path(), go_on).unwrap().caught;
    assert_eq!(known(true), ["a.rs:1:1: w"]);
    wrote("a.rs:2:1: x\n");
    assert_eq!(known(true), ["a.rs:1:1: w", "a.rs:2:1: x"]);
    assert!(known(false).is_empty());
    assert_eq!(known(true), ["a.rs:2:1: x"]);
}

#[test]
fn tests_that_fail_without_a_mutant_say_nothing_of_mutants() {
    let failed = outcomes("Failure", &[]);
    let error = scores(Some(failed), &Known::default()).unwrap_err();
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
