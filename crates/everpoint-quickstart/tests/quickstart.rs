//! The whole, on a small disk and for two seconds: everything is real but the patience.

use std::sync::Mutex;

use everpoint_quickstart::{ErrorKind, Event, QuickstartConfig, QuickstartError, run};
use everpoint_units::ByteLen;

fn config(dir: &std::path::Path) -> QuickstartConfig {
    QuickstartConfig {
        dir: Some(dir.to_owned()),
        keep: false,
        size: ByteLen(32 << 20),
        seconds: 2,
        vault: None,
        attack: true,
        seed: 11,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_short_run_is_what_the_source_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let events = Mutex::new(Vec::new());
    let tell = |event| events.lock().expect("unpoisoned").push(event);
    let outcome = run(&config(dir.path()), &tell).await;
    let outcome = outcome.expect("a verdict");
    let report = &outcome.report;

    assert!(report.holds(), "{report:#?}");
    assert_eq!(report.points.len(), 11, "ten bookmarks and the end");
    assert!(report.prefix_checks.tried >= 20, "{report:#?}");
    assert!(
        report.writes > 100 && report.journal_bytes > 0,
        "{report:#?}"
    );
    assert_eq!(
        report.attacked.as_ref().map(|attack| attack.server_kills),
        Some(1)
    );
    let distinct = |digests: Vec<&String>| {
        let mut digests = digests;
        digests.sort_unstable();
        digests.dedup();
        digests.len()
    };
    let digests = report.points.iter().map(|point| &point.source_digest);
    assert!(
        distinct(digests.collect()) >= 10,
        "the load ran between the bookmarks"
    );

    let events = events.into_inner().expect("unpoisoned");
    let at = |is: fn(&Event) -> bool| events.iter().position(is).expect("it happened");
    let killed = at(|event| matches!(event, Event::ServerKilled));
    assert!(at(|event| matches!(event, Event::Bookmark { .. })) < killed);
    assert!(killed < at(|event| matches!(event, Event::Committed { .. })));
    assert!(
        at(|event| matches!(event, Event::Stopped))
            < at(|event| matches!(event, Event::PointRestored(_)))
    );
    drop(outcome);
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn a_size_or_a_time_that_cannot_be_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let size = QuickstartConfig {
        size: ByteLen(1 << 20),
        ..config(dir.path())
    };
    let seconds = QuickstartConfig {
        seconds: 0,
        ..config(dir.path())
    };
    for bad in [size, seconds] {
        let error = run(&bad, &|_| {}).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn a_directory_with_something_in_it_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("precious"), b"x").expect("written");
    let error = run(&config(dir.path()), &|_| {})
        .await
        .expect_err("refused");
    assert!(
        matches!(error, QuickstartError::DirNotEmpty { .. }),
        "{error}"
    );
    assert!(dir.path().join("precious").exists());
}
