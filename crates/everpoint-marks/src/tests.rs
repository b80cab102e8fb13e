//! The lists say what they should, and a build without `--cfg planted` carries nothing of them.

use std::collections::BTreeSet;

use super::*;

#[test]
fn there_are_twenty_bugs_and_more_that_the_world_finds_and_five_that_need_two_faults() {
    let (mut found, mut together) = (0, 0);
    for bug in Bug::ALL {
        match bug.search() {
            Search::Within {
                seeds,
                together: two,
            } => {
                assert!(0 < seeds, "{}", bug.name());
                found += 1;
                together += usize::from(two.is_some());
            }
            Search::Awaits(why) | Search::Harmless(why) => assert!(!why.is_empty()),
        }
    }
    assert!(20 <= found && 5 <= together, "{found}, {together}");
}

#[test]
fn no_two_bugs_or_marks_share_a_name() {
    let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    assert_eq!(names.len(), Bug::ALL.len());
    let names: BTreeSet<&str> = Mark::ALL.iter().map(|mark| mark.name()).collect();
    assert_eq!(names.len(), Mark::ALL.len());
    let awaited = |mark: &&Mark| matches!(mark.reach(), Reach::Awaits(_));
    let awaited = Mark::ALL.iter().filter(awaited).count();
    assert!(30 <= names.len() - awaited);
}

#[test]
fn a_bug_is_found_by_its_name() {
    for bug in Bug::ALL {
        assert_eq!(Bug::named(bug.name()), Some(*bug));
    }
    assert_eq!(Bug::named("NoSuchBug"), None);
}

#[cfg(not(planted))]
mod plain {
    use super::*;

    /// For the compiler, so that what a bug would do is no part of the program.
    const NEVER: bool = planted!(AckBeforeSync);
    const CHOICE: Result<(), NoBugs> = choose(Some(Bug::AckBeforeSync));

    #[test]
    fn a_build_without_bugs_refuses_to_choose_one_and_has_none_of_them() {
        assert_eq!(CHOICE, Err(NoBugs));
        for bug in Bug::ALL {
            assert_eq!(choose(Some(*bug)), Err(NoBugs));
            assert!(!is_planted(*bug));
        }
        assert_eq!([NEVER, planted!(AckBeforeSync)], [false, false]);
    }

    #[test]
    fn a_build_without_marks_counts_nothing() {
        reached!(TailOvertaken);
        assert_eq!(count(Mark::TailOvertaken), 0);
    }
}
