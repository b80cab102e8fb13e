//! When a disk's comparer is let go.

use everpoint_format::digest::{PIECE_LEN, PlainDigest};

use super::*;
use crate::machine_task::outbox;
use crate::shared::testing::{shared, soon};
use crate::test_blocks::{DISK, MACHINE};

const fn generation(number: u8) -> GenerationId {
    GenerationId([number; 16])
}

/// Asks about the first generation, of which nothing will be committed any more: whoever answers waits
/// for ever.
fn ask(shared: &Arc<Shared>, ways: &mut DiskWays) {
    let about = Compared {
        disk: DISK,
        generation: generation(1),
        sectors: 1_000,
    };
    let compare = Compare {
        request: 1,
        first_piece: 0,
        digests: vec![PlainDigest::of(&[0; PIECE_LEN])],
    };
    let asked = ways.compare(shared, MACHINE, about, compare);
    assert_eq!(asked, Ok(()));
}

/// Waits until no comparer is left.
async fn all_ended(shared: &Shared) {
    assert_eq!(shared.tasks.len(), 1, "one was started");
    shared.tasks.close();
    soon("the comparer's end", shared.tasks.wait()).await;
}

#[tokio::test]
async fn a_newer_generation_ends_the_comparer_of_the_older() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "newer-generation").await;
    let (outbox, _writer) = outbox();
    let mut ways = DiskWays::new(Some(generation(2)));
    ways.begin_session(outbox);
    ask(&shared, &mut ways);
    ways.handle_generation(generation(1));
    assert!(ways.comparer.is_some(), "it is the newest still");
    ways.handle_generation(generation(2));
    all_ended(&shared).await;
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_comparers() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "session-end").await;
    let (outbox, _writer) = outbox();
    let mut ways = DiskWays::new(Some(generation(2)));
    ways.begin_session(outbox);
    ask(&shared, &mut ways);
    ways.end_session();
    all_ended(&shared).await;
}

#[tokio::test]
async fn a_newer_stream_of_the_disk_ends_the_comparer_of_the_older() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "newer-stream").await;
    let mut ways = DiskWays::new(Some(generation(2)));
    let (older, _older_writer) = outbox();
    ways.begin_session(older);
    ask(&shared, &mut ways);
    let (newer, _newer_writer) = outbox();
    ways.begin_session(newer);
    all_ended(&shared).await;
}
