//! What closes a connection, and with which reason.

use everpoint_format::DiskPosition;
use everpoint_format::record::Consistency;
use everpoint_units::{GenerationId, WallTime};

use super::*;
use crate::test_blocks::{DISK, block, opening};

const NOW: Moment = Moment(0);

/// A block of nothing but bookmarks.
fn marks(count: u64) -> ChangeBlock {
    let mark = |seq| {
        let mark = Change::Bookmark {
            class: Consistency::Crash,
            name: "mark".into(),
            at: WallTime(0),
        };
        (seq, mark)
    };
    let after = DiskPosition::start_of(GenerationId([7; 16]));
    block(DISK, after, (1..=count).map(mark).collect())
}

#[test]
fn what_is_sent_in_vain_is_stale_and_all_else_is_a_limit() {
    assert_eq!(Excess::Untaken.reason(), CloseReason::Stale);
    for excess in [Excess::Answers, Excess::Compares, Excess::Bookmarks] {
        assert_eq!(excess.reason(), CloseReason::Limit);
    }
}

#[test]
fn two_blocks_of_bookmarks_pass_at_once_and_then_one_bookmark_at_a_time() {
    let full = marks(RECORD_COUNT_MAX as u64);
    let mut tally = Tally::new();
    for _ in 0..2 {
        assert_eq!(tally.allows(&full, NOW), Ok(()));
        tally.taken(&full, NOW);
    }
    let other = opening(DISK, 7, None, 1);
    assert_eq!(tally.allows(&marks(1), NOW), Err(Excess::Bookmarks));
    assert_eq!(tally.allows(&other, NOW), Ok(()), "it has no bookmark");
    let later = NOW.after(BOOKMARKS_EACH);
    assert_eq!(tally.allows(&marks(1), later), Ok(()));
    assert_eq!(tally.allows(&marks(2), later), Err(Excess::Bookmarks));
}

#[test]
fn bytes_sent_in_vain_are_bounded_until_a_block_is_taken_or_a_session_begins() {
    let block = marks(RECORD_COUNT_MAX as u64);
    let most = UNTAKEN_LEN_MAX / block.bytes().len() as u64;
    let mut tally = Tally::new();
    let mut send_in_vain = |begin_again: fn(&mut Tally, &ChangeBlock)| {
        begin_again(&mut tally, &block);
        for _ in 0..most {
            assert_eq!(tally.untaken(&block), Ok(()));
        }
        assert_eq!(tally.untaken(&block), Err(Excess::Untaken));
    };
    send_in_vain(|_, _| ());
    send_in_vain(|tally, _| tally.handle_session());
    send_in_vain(|tally, block| tally.taken(block, NOW));
}
