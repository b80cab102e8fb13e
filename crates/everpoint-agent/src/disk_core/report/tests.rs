//! What is said of a disk.

use super::*;

#[test]
fn nothing_that_is_not_level_and_linked_is_called_protected() {
    let level = DiskReport {
        linked: true,
        level: true,
        ..DiskReport::default()
    };
    assert_eq!(level.state(false), DiskStateWord::Protected);
    assert_eq!(level.state(true), DiskStateWord::Failed);
    let unlinked = DiskReport {
        linked: false,
        ..level
    };
    assert_eq!(unlinked.state(false), DiskStateWord::Disconnected);
    let lost = DiskReport {
        unordered: true,
        resync_count: 1,
        ..unlinked
    };
    assert_eq!(lost.state(false), DiskStateWord::OrderLost);
    let behind = DiskReport {
        level: false,
        reason: Some(ResyncReason::AgentRestart),
        ..level
    };
    assert_eq!(behind.state(false), DiskStateWord::Resync);
}

#[test]
fn the_lag_counts_from_the_oldest_change_wherever_that_is() {
    let at = |seconds: u64| Moment(seconds * 1_000_000_000);
    let frozen = DiskReport {
        uncommitted_since: Some(at(4)),
        ..DiskReport::default()
    };
    let lag = |report: DiskReport, queued| report.lag(queued, at(10)).as_secs();
    assert_eq!(lag(frozen, None), 6);
    assert_eq!(lag(frozen, Some(at(7))), 6);
    assert_eq!(lag(frozen, Some(at(3))), 7);
    assert_eq!(lag(DiskReport::default(), Some(at(9))), 1);
    assert_eq!(lag(DiskReport::default(), None), 0);
}
