//! How often what happens may happen.

use super::*;

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

#[test]
fn a_burst_passes_and_then_one_at_a_time() {
    let mut rate = Rate::new(3, Duration::from_millis(10));
    assert!(!rate.allows(4, at(0)), "never more than a burst at once");
    assert!(rate.allows(3, at(0)));
    rate.count(3, at(0));
    assert!(!rate.allows(1, at(9)));
    assert!(rate.allows(1, at(10)) && !rate.allows(2, at(10)));
    rate.count(1, at(10));
    assert!(!rate.allows(1, at(10)));
}

#[test]
fn what_is_not_used_is_saved_up_to_a_burst() {
    let mut rate = Rate::new(3, Duration::from_millis(10));
    rate.count(3, at(0));
    assert!(rate.allows(3, at(1_000)) && !rate.allows(4, at(1_000)));
}
