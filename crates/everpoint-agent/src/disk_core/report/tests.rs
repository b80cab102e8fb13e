//! What is said of a disk.

use everpoint_units::BlockNo;

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

/// Marks of a generation that has begun.
fn marks() -> SourceMarks {
    SourceMarks {
        generation: GenerationId([7; 16]),
        frozen: BlockNo(4),
        sent: BlockNo(3),
        cached: BlockNo(2),
        committed: BlockNo(1),
    }
}

#[test]
fn order_is_lost_for_a_disk_that_had_some_or_could_have_and_not_for_one_that_waits_for_its_first_server()
 {
    let nothing = DiskReport {
        unordered: true,
        ..DiskReport::default()
    };
    assert_eq!(nothing.state(false), DiskStateWord::Disconnected);
    let begun = DiskReport {
        marks: Some(marks()),
        ..nothing
    };
    let linked = DiskReport {
        linked: true,
        ..nothing
    };
    let again = DiskReport {
        resync_count: 1,
        ..nothing
    };
    for report in [begun, linked, again] {
        assert_eq!(report.state(false), DiskStateWord::OrderLost, "{report:?}");
    }
}

#[test]
fn a_generation_is_level_while_its_order_is_kept() {
    let level = DiskReport {
        level: true,
        marks: Some(marks()),
        ..DiskReport::default()
    };
    assert_eq!(level.level_generation(), Some(GenerationId([7; 16])));
    let behind = DiskReport {
        level: false,
        ..level
    };
    let lost = DiskReport {
        unordered: true,
        ..level
    };
    for report in [behind, lost, DiskReport::default()] {
        assert_eq!(report.level_generation(), None, "{report:?}");
    }
}

#[test]
fn each_state_has_the_word_that_users_know() {
    let words = [
        (DiskStateWord::Protected, "protected"),
        (DiskStateWord::InitialSync, "initial-sync"),
        (DiskStateWord::Resync, "resync"),
        (DiskStateWord::OrderLost, "order-lost"),
        (DiskStateWord::Disconnected, "disconnected"),
        (DiskStateWord::Failed, "failed"),
    ];
    for (state, word) in words {
        assert_eq!(state.word(), word);
    }
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
