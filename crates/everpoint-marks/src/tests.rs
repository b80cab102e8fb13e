//! The lists say what they should, and a build without `--cfg planted` carries nothing of them.

use std::collections::BTreeSet;

use super::*;

#[test]
fn there_are_twenty_bugs_and_more_that_the_world_finds_and_five_that_need_two_faults() {
    for bug in Bug::ALL {
        assert!(0 < bug.search().seeds, "{}", bug.name());
    }
    let together = |bug: &&Bug| bug.search().together.is_some();
    let together = Bug::ALL.iter().filter(together).count();
    assert!(20 <= Bug::ALL.len() && 5 <= together, "{together}");
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
