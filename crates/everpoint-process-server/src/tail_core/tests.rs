//! Whose blocks of a tail are discarded, and for how long.

use everpoint_format::cache_log::LogFileNo;
use everpoint_units::{ByteOffset, JournalId, Level};

use super::*;

const MACHINE: MachineId = MachineId([1; 16]);
const OTHER: MachineId = MachineId([2; 16]);

fn at(offset: u64) -> LogPosition {
    LogPosition::new(LogFileNo(3), ByteOffset(offset))
}

#[test]
fn of_a_machine_that_is_anothers_the_tail_is_discarded_and_nothing_behind_it() {
    let journal = JournalId {
        level: Level(7),
        random: [7; 16],
    };
    for why in [
        NotServed::Elsewhere { journal },
        NotServed::Closed,
        NotServed::Damaged,
    ] {
        let mut tail = TailCore::new(Some(at(4_096)));
        assert_eq!(tail.handle_refused(MACHINE, why), Ok(()));
        assert!(tail.discards(MACHINE, at(0)) && tail.discards(MACHINE, at(4_096)));
        assert!(!tail.discards(MACHINE, at(8_192)), "it came later");
        assert!(!tail.discards(OTHER, at(0)));
    }
}

#[test]
fn what_may_be_served_tomorrow_ends_the_boot_and_discards_nothing() {
    let mut tail = TailCore::new(Some(at(4_096)));
    let why = NotServed::Unsettled;
    assert_eq!(tail.handle_refused(MACHINE, why), Err(why));
    assert!(!tail.discards(MACHINE, at(0)));
}

#[test]
fn without_a_tail_nothing_is_discarded() {
    let mut tail = TailCore::new(None);
    assert_eq!(tail.handle_refused(MACHINE, NotServed::Closed), Ok(()));
    assert!(!tail.discards(MACHINE, at(0)));
}
