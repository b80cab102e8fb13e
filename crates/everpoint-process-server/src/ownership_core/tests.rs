//! Whom a server serves, and whom not, and why.

use everpoint_units::{Level, ObjectNo};

use super::*;

const fn journal(level: u64) -> JournalId {
    JournalId {
        level: Level(level),
        random: [7; 16],
    }
}

const fn open(level: u64) -> PathEnd {
    PathEnd::Open {
        journal: journal(level),
        last: ObjectNo(3),
    }
}

fn read(end: PathEnd, before: u64, now: u64) -> Claim {
    OwnershipCore::default().handle_read(end, journal(before), journal(now))
}

#[test]
fn a_machine_is_served_only_where_its_path_leads_here() {
    assert_eq!(read(open(5), 5, 5), Claim::Serve);
    assert_eq!(read(open(5), 5, 6), Claim::Serve, "its own seal leads on");
    let elsewhere = NotServed::Elsewhere {
        journal: journal(4),
    };
    assert_eq!(read(open(4), 5, 5), Claim::Refuse(elsewhere));
    assert_eq!(read(open(6), 5, 6), Claim::ReadAgain);
    assert_eq!(
        read(PathEnd::Broken, 5, 5),
        Claim::Refuse(NotServed::Damaged)
    );
    let closed = PathEnd::Closed {
        journal: journal(5),
        number: ObjectNo(1),
    };
    assert_eq!(read(closed, 5, 5), Claim::Refuse(NotServed::Closed));
}

#[test]
fn a_machine_without_a_path_gets_an_origin_and_is_read_again_a_few_times_only() {
    let mut core = OwnershipCore::default();
    let mut read = |end| core.handle_read(end, journal(5), journal(5));
    for _ in 1..ROUNDS_MAX {
        assert_eq!(read(PathEnd::NoOrigin), Claim::CreateOrigin);
    }
    assert_eq!(read(PathEnd::NoOrigin), Claim::Refuse(NotServed::Unsettled));
}
