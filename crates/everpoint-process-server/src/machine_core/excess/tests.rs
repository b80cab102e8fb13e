//! What closes a connection, and with which reason.

use super::*;

#[test]
fn what_is_sent_in_vain_is_stale_and_all_else_is_a_limit() {
    assert_eq!(Excess::Untaken.reason(), CloseReason::Stale);
    for excess in [Excess::Answers, Excess::Compares, Excess::Bookmarks] {
        assert_eq!(excess.reason(), CloseReason::Limit);
    }
}
