//! Comparers: when they hold memory, and when they end.

use everpoint_format::digest::{PIECE_LEN, PIECE_SECTORS, PlainDigest};
use everpoint_units::DiskId;

use super::*;
use crate::shared::testing::{MEMORY, shared, soon};
use crate::test_blocks::MACHINE;

/// Longer than any test.
const NEVER_IDLE: Duration = Duration::from_secs(3_600);

/// A comparer and both of its ends.
struct Asked {
    comparer: Comparer,
    committed: watch::Sender<Option<GenerationId>>,
    answers: mpsc::Receiver<ToAgent>,
}

const fn generation(number: u8) -> GenerationId {
    GenerationId([number; 16])
}

/// A comparer of a disk that is larger than any window, about its first generation, which is committed.
fn comparer(shared: &Arc<Shared>, disk: u8, idle: Duration) -> Asked {
    let about = Compared {
        disk: DiskId([disk; 16]),
        generation: generation(1),
        sectors: MEMORY as u64 * PIECE_SECTORS,
    };
    let committed = watch::Sender::new(Some(about.generation));
    let (sender, answers) = mpsc::channel(REQUESTS_MAX);
    let task = Task {
        shared: Arc::clone(shared),
        machine: MACHINE,
        about,
        committed: committed.subscribe(),
        answers: sender,
        idle,
    };
    Asked {
        comparer: task.start(),
        committed,
        answers,
    }
}

impl Asked {
    fn ask(&self) {
        let digests = vec![PlainDigest::of(&[0; PIECE_LEN])];
        let compare = Compare {
            request: 1,
            first_piece: 0,
            digests,
        };
        self.comparer.ask(compare).expect("there is room");
    }

    async fn answered(&mut self) {
        let answer = soon("an answer", self.answers.recv()).await;
        // The vault has nothing of the disk, so nothing can be known of what it was.
        let differs = [0xff].as_ref().into();
        assert_eq!(
            answer,
            Some(ToAgent::Differences {
                request: 1,
                differs
            })
        );
    }
}

/// Waits until nobody holds a window, and nobody waits for one.
async fn all_given_back(shared: &Shared) {
    let all = soon("the memory's return", shared.compare_budget.take(MEMORY)).await;
    assert_eq!(all.expect("that much there is").len(), MEMORY);
}

/// Waits until no comparer is left.
async fn all_ended(shared: &Shared) {
    shared.tasks.close();
    soon("the comparers' end", shared.tasks.wait()).await;
}

#[tokio::test]
async fn more_disks_than_windows_all_have_their_turn_and_take_nothing_from_what_comes_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "more-disks-than-windows").await;
    let disks = 1..=u8::try_from(2 * WINDOWS + 1).expect("few");
    let idle = Duration::from_millis(10);
    let mut asked: Vec<Asked> = disks.map(|disk| comparer(&shared, disk, idle)).collect();
    asked.iter().for_each(Asked::ask);
    for asked in &mut asked {
        asked.answered().await;
    }
    let high = shared.compare_budget.high_water();
    assert!(MEMORY / WINDOWS < high && high <= MEMORY, "{high}");
    assert_eq!(shared.budget.high_water(), 0);
}

#[tokio::test]
async fn a_window_is_given_back_when_nobody_asks_for_a_while_and_there_again_when_somebody_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "idle-window").await;
    let mut asked = comparer(&shared, 1, Duration::from_millis(10));
    for _ in 0..2 {
        asked.ask();
        asked.answered().await;
        all_given_back(&shared).await;
    }
}

#[tokio::test]
async fn a_comparer_that_waits_for_a_superseded_generation_ends_with_its_handle() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "superseded-generation").await;
    let mut asked = comparer(&shared, 1, NEVER_IDLE);
    asked.ask();
    asked.answered().await;
    assert!(0 < shared.compare_budget.used());
    // What it waits for from now on never comes.
    asked.committed.send_replace(Some(generation(2)));
    asked.ask();
    drop(asked.comparer);
    all_ended(&shared).await;
    assert_eq!(shared.compare_budget.used(), 0);
}

#[tokio::test]
async fn a_comparer_that_waits_for_memory_ends_with_its_handle() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "waits-for-memory").await;
    let held = shared.compare_budget.try_take(MEMORY).expect("free");
    let asked = comparer(&shared, 1, NEVER_IDLE);
    asked.ask();
    drop(asked.comparer);
    all_ended(&shared).await;
    drop(held);
}

#[tokio::test]
async fn a_comparer_ends_with_its_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "ends-with-stream").await;
    let mut asked = comparer(&shared, 1, NEVER_IDLE);
    asked.ask();
    asked.answered().await;
    drop(asked.answers);
    all_ended(&shared).await;
    assert_eq!(shared.compare_budget.used(), 0);
}
