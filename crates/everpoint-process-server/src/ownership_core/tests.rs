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

#[test]
fn a_path_leads_here_where_it_ends_in_a_journal_of_this_server_s() {
    let is_own = |asked| asked == journal(5);
    let here = Leads::Here { level: Level(5) };
    assert_eq!(Leads::of(open(5), is_own), Some(here));
    assert_eq!(Leads::of(open(4), is_own), Some(Leads::Elsewhere));
    let stranger = PathEnd::Open {
        journal: JournalId {
            random: [8; 16],
            ..journal(5)
        },
        last: ObjectNo(3),
    };
    assert_eq!(Leads::of(stranger, is_own), Some(Leads::Elsewhere));
}

#[test]
fn a_server_leads_while_its_own_journal_is_rotated() {
    // The next one is noted, and the present one is not sealed yet; then it is, and the path ends in the next.
    let is_own = |asked| [journal(5), journal(6)].contains(&asked);
    for level in [5, 6] {
        let here = Leads::Here {
            level: Level(level),
        };
        assert_eq!(Leads::of(open(level), is_own), Some(here));
    }
}

#[test]
fn nobody_leads_a_machine_that_ended_or_never_began_and_damage_says_nothing() {
    let is_own = |_| true;
    let closed = PathEnd::Closed {
        journal: journal(5),
        number: ObjectNo(1),
    };
    assert_eq!(Leads::of(closed, is_own), Some(Leads::Elsewhere));
    let none = Leads::of(PathEnd::NoOrigin, is_own);
    assert_eq!(none, Some(Leads::Elsewhere));
    assert_eq!(Leads::of(PathEnd::Broken, is_own), None);
}
