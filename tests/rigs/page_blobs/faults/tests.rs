//! What chance chooses, and the pace that is kept.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn chosen(plan: &FaultPlan, kind: OperationKind) -> Vec<Chance> {
    let faults = Faults::new(7);
    (0..1000).map(|_| faults.chance(plan, kind)).collect()
}

fn plan() -> FaultPlan {
    let late = Late {
        p: 0.1,
        after: SECOND..2 * SECOND,
    };
    FaultPlan {
        error_500: 0.1,
        error_500_executed: 0.1,
        error_503: 0.1,
        lost_answer: 0.1,
        lost_request: 0.1,
        late: Some(late),
        ..FaultPlan::default()
    }
}

#[test]
fn each_fault_falls_as_often_as_it_is_asked_for() {
    let chosen = chosen(&plan(), OperationKind::PutPage);
    let count = |is: fn(&Chance) -> bool| chosen.iter().filter(|chance| is(chance)).count();
    let counts = [
        count(|chance| *chance == Chance::Error500),
        count(|chance| *chance == Chance::Error500Executed),
        count(|chance| *chance == Chance::Error503),
        count(|chance| *chance == Chance::LostAnswer),
        count(|chance| *chance == Chance::LostRequest),
        count(|chance| matches!(chance, Chance::Late { .. })),
    ];
    assert!(
        counts.iter().all(|count| (70..130).contains(count)),
        "{counts:?}"
    );
    for chance in &chosen {
        if let Chance::Late { after, .. } = chance {
            assert!((SECOND..2 * SECOND).contains(after), "{after:?}");
        }
    }
    let closed = count(|chance| {
        matches!(
            chance,
            Chance::Late {
                is_closed: true,
                ..
            }
        )
    });
    assert!((20..80).contains(&closed), "{closed}");
}

#[test]
fn the_same_seed_chooses_the_same() {
    let once = chosen(&plan(), OperationKind::PutPage);
    assert_eq!(once, chosen(&plan(), OperationKind::PutPage));
}

#[test]
fn only_writes_of_pages_come_late_and_reads_may_be_spared() {
    let late = |chance: &Chance| matches!(chance, Chance::Late { .. });
    let chosen_here = chosen(&plan(), OperationKind::SetProperties);
    assert!(!chosen_here.iter().any(late));
    assert!(chosen_here.contains(&Chance::Error500));
    let spared = FaultPlan {
        writes_only: true,
        ..plan()
    };
    let chosen = chosen(&spared, OperationKind::GetBlob);
    assert!(chosen.iter().all(|chance| *chance == Chance::Nothing));
}

#[test]
fn a_second_s_worth_goes_at_once_and_then_the_pace_is_kept() {
    let faults = Faults::new(1);
    let throttle = Throttle {
        requests_per_s: 500.0,
        bytes_per_s: 60e6,
    };
    let start = Instant::now();
    let pace = |blob: &str, bytes, now| faults.pace(throttle, blob, bytes, now);
    let at_once = (0..1000).filter(|_| pace("a", 0, start).is_ok()).count();
    assert_eq!(at_once, 500);
    assert_eq!(pace("a", 0, start), Err(SECOND / 500));
    assert!(pace("b", 0, start).is_ok(), "each blob has its own");
    let later = start + SECOND / 10;
    let in_tenth = (0..1000).filter(|_| pace("a", 0, later).is_ok()).count();
    assert_eq!(in_tenth, 50);
    let much_later = start + 100 * SECOND;
    let again = (0..1000).filter(|_| pace("a", 0, much_later).is_ok());
    assert_eq!(again.count(), 500);
}

#[test]
fn another_switch_that_is_turned_gives_no_second_s_worth() {
    let faults = Faults::new(1);
    let throttle = Throttle {
        requests_per_s: 1.0,
        bytes_per_s: 1e6,
    };
    faults.change(|plan| plan.throttle = Some(throttle));
    let start = Instant::now();
    let pace = || faults.pace(throttle, "a", 0, start);
    assert!(pace().is_ok());
    faults.change(|plan| plan.worm = true);
    assert!(pace().is_err());
    faults.change(|plan| plan.throttle = None);
    faults.change(|plan| plan.throttle = Some(throttle));
    assert!(pace().is_ok());
}

#[test]
fn bytes_are_counted_and_one_that_is_too_long_goes_when_nothing_else_has() {
    let faults = Faults::new(1);
    let throttle = Throttle {
        requests_per_s: 500.0,
        bytes_per_s: 1e6,
    };
    let start = Instant::now();
    let pace = |bytes, now| faults.pace(throttle, "a", bytes, now);
    assert!(pace(4_000_000, start).is_ok());
    // Three seconds of debt, and what it needs itself.
    let wait = pace(500_000, start).unwrap_err();
    assert_eq!(wait.as_millis(), 3500);
    assert!(pace(500_000, start + wait).is_ok());
}

#[test]
#[should_panic(expected = "error_500: 0.6")]
fn probabilities_that_exclude_each_other_are_not_more_than_one_together() {
    Faults::new(1).set(FaultPlan {
        error_500: 0.6,
        lost_answer: 0.6,
        ..FaultPlan::default()
    });
}
