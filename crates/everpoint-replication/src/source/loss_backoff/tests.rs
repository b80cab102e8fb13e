//! How long a disk waits that loses its order again and again.

use super::*;

#[test]
fn only_generations_that_never_became_level_make_the_next_one_wait() {
    let mut losses = LossBackoff::default();
    assert_eq!(losses.handle_lost(true), Duration::ZERO);
    assert_eq!(losses.handle_lost(false), FROM);
    assert_eq!(losses.handle_lost(false), FROM * 2);
    assert_eq!(losses.handle_lost(true), Duration::ZERO);
    assert_eq!(losses.handle_lost(false), FROM);
    for _ in 0..100 {
        assert!(losses.handle_lost(false) <= TO);
    }
    assert_eq!(losses.handle_lost(false), TO);
}
