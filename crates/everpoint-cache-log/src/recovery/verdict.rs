//! The decision over scanned facts: which records of a boot survived, where its tail is, and whether
//! anything is missing that was synced.
//!
//! A crash may lose any subset of the records that were not synced yet: the *torn tail*. So the
//! survivors are the unbroken run from the oldest record on, and nothing behind its first gap. If a
//! valid record anywhere says that a record in that gap was synced, it was no crash that took it:
//! that is *damage*, and nobody but an operator may go on.

use everpoint_format::cache_log::{LogFileNo, RecordNo};
use everpoint_units::ByteOffset;

use super::scan::FileFacts;
use crate::config::Layout;
use crate::error::Damage;

/// What became of one boot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// The gaps that no crash explains, oldest first.
    pub(crate) damage: Vec<Damage>,
    /// Files without a record that survived.
    pub(crate) empty: Vec<LogFileNo>,
    /// Where the next record would have gone; none if there are no survivors.
    pub(crate) tail: Option<Tail>,
}

/// The end of a boot's records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tail {
    pub(crate) file: LogFileNo,
    pub(crate) at: ByteOffset,
    pub(crate) next: RecordNo,
    pub(crate) file_first: RecordNo,
    /// Whether a mark says already that all before it was synced.
    pub(crate) is_marked: bool,
}

/// Judges one boot by its files, oldest first.
pub(crate) fn judge(files: &[(LogFileNo, FileFacts)]) -> Verdict {
    let mut verdict = Verdict::default();
    let proven = files.iter().map(|(_, facts)| facts.proven).max();
    let proven = proven.unwrap_or(RecordNo::ZERO);
    // The record that must come next, and where it should lie.
    let mut expected: Option<(RecordNo, LogFileNo, u64)> = None;

    for &(file, facts) in files {
        let Some(first) = facts.first else {
            verdict.empty.push(file);
            continue;
        };
        if let Some((missing, gap_file, gap_at)) = expected
            && missing != first
        {
            let through = RecordNo(first.0.saturating_sub(1));
            verdict.damage.push(gap(gap_file, gap_at, missing, through));
        }
        match facts.run {
            Some(run) => {
                let next = run.last.next();
                expected = Some((next, file, facts.stop));
                verdict.tail = Some(Tail {
                    file,
                    at: ByteOffset(facts.stop),
                    next,
                    file_first: first,
                    is_marked: run.ends_in_mark,
                });
            }
            None => {
                verdict.empty.push(file);
                expected = Some((first, file, Layout::FIRST));
            }
        }
    }
    if let Some((missing, file, at)) = expected
        && missing <= proven
    {
        verdict.damage.push(gap(file, at, missing, proven));
    }
    verdict
}

fn gap(file: LogFileNo, at: u64, missing: RecordNo, proven: RecordNo) -> Damage {
    Damage::Records {
        file,
        offset: ByteOffset(at),
        missing,
        proven,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::scan::Run;

    const STOP: u64 = 20_480;

    /// A file whose records `first..=last` survived, with a highest statement of what was synced.
    fn file(no: u64, first: u64, last: Option<u64>, proven: u64) -> (LogFileNo, FileFacts) {
        let run = last.map(|last| Run {
            last: RecordNo(last),
            ends_in_mark: false,
            blocks: None,
            block_count: 0,
            block_len: 0,
        });
        let facts = FileFacts {
            first: Some(RecordNo(first)),
            run,
            stop: last.map_or(Layout::FIRST, |_| STOP),
            proven: RecordNo(proven),
        };
        (LogFileNo(no), facts)
    }

    fn blank(no: u64) -> (LogFileNo, FileFacts) {
        (LogFileNo(no), FileFacts::default())
    }

    fn missing(verdict: &Verdict) -> Vec<(u64, u64, u64)> {
        let place = |damage: &Damage| match damage {
            Damage::Records {
                file,
                offset,
                missing,
                ..
            } => (file.0, offset.0, missing.0),
            Damage::Header { file, .. } => (file.0, 0, 0),
        };
        verdict.damage.iter().map(place).collect()
    }

    fn tail(verdict: &Verdict) -> Option<(u64, u64)> {
        verdict.tail.map(|tail| (tail.file.0, tail.next.0))
    }

    #[test]
    fn files_that_follow_each_other_end_at_the_last_record_and_spare_files_are_empty() {
        let verdict = judge(&[
            file(3, 10, Some(20), 18),
            file(4, 21, Some(25), 20),
            blank(5),
        ]);
        assert_eq!(missing(&verdict), []);
        assert_eq!(tail(&verdict), Some((4, 26)));
        assert_eq!(verdict.empty, [LogFileNo(5)]);
    }

    #[test]
    fn records_lost_behind_the_last_proof_are_a_torn_tail() {
        // 11 and 12 went out in one batch with 10; 11 is gone, 12 is there and proves only 9.
        let verdict = judge(&[file(3, 1, Some(10), 9)]);
        assert_eq!(missing(&verdict), []);
        assert_eq!(tail(&verdict), Some((3, 11)));
    }

    #[test]
    fn a_lost_record_that_a_later_one_calls_synced_is_damage() {
        let verdict = judge(&[file(3, 1, Some(10), 11)]);
        assert_eq!(missing(&verdict), [(3, STOP, 11)]);
    }

    #[test]
    fn a_lost_end_of_a_file_is_damage_when_the_next_file_was_begun() {
        let verdict = judge(&[file(3, 1, Some(10), 5), file(4, 13, Some(14), 12)]);
        assert_eq!(missing(&verdict), [(3, STOP, 11)]);
        let verdict = judge(&[file(3, 1, Some(10), 5), blank(4), file(5, 13, None, 12)]);
        assert_eq!(missing(&verdict), [(3, STOP, 11)]);
    }

    #[test]
    fn a_torn_first_batch_of_a_file_is_no_damage_and_leaves_the_tail_in_the_file_before() {
        let verdict = judge(&[file(3, 1, Some(10), 9), file(4, 11, None, 10)]);
        assert_eq!(missing(&verdict), []);
        assert_eq!(tail(&verdict), Some((3, 11)));
        assert_eq!(verdict.empty, [LogFileNo(4)]);
        // Everything before it was freed: what it says about freed records is no damage either.
        let verdict = judge(&[file(4, 11, None, 10)]);
        assert_eq!(missing(&verdict), []);
        assert_eq!(tail(&verdict), None);
    }

    #[test]
    fn a_lost_first_batch_that_was_synced_is_damage() {
        let verdict = judge(&[file(4, 11, None, 12)]);
        assert_eq!(missing(&verdict), [(4, Layout::FIRST, 11)]);
    }

    #[test]
    fn a_boot_without_a_record_has_no_tail() {
        let verdict = judge(&[blank(1), blank(2)]);
        assert_eq!(tail(&verdict), None);
        assert_eq!(verdict.empty, [LogFileNo(1), LogFileNo(2)]);
    }
}
