//! Windows, and what in them differs.

use everpoint_units::{DiskId, GenerationId};

use super::*;

#[test]
fn a_window_ends_with_the_disk_or_the_memory_and_never_before_the_question() {
    let about = Compared {
        disk: DiskId([1; 16]),
        generation: GenerationId([1; 16]),
        sectors: 10 * PIECE_SECTORS - 1,
    };
    assert_eq!(about.window_len(0, 100, 1), 10, "the last piece is short");
    assert_eq!(about.window_len(7, 100, 1), 3);
    assert_eq!(about.window_len(0, 4, 1), 4);
    assert_eq!(about.window_len(0, 4, 6), 6);
    assert_eq!(about.window_len(11, 4, 0), 0);
}
