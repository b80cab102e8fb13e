//! What a machine's task does beside its core: whom it holds a connection of, and whose questions it
//! answers.

use everpoint_format::digest::{PIECE_LEN, PlainDigest};
use everpoint_transport::memory::{End, pair};
use everpoint_transport::{Identity, Pace, Peer};
use everpoint_units::WallTime;

use super::*;
use crate::shared::testing::{shared, soon};
use crate::test_blocks::{DISK, MACHINE, next, opening};

/// A task that nothing drives but the test.
fn task(shared: &Arc<Shared>) -> MachineTask {
    MachineTask {
        shared: Arc::clone(shared),
        machine: MACHINE,
        core: MachineCore::new(MACHINE, &MachineHistory::new(MACHINE)),
        disks: BTreeMap::new(),
        link: None,
        marks: mpsc::unbounded_channel().0,
        taken: VecDeque::new(),
    }
}

/// The server's end of an agent's connection.
fn link(shared: &Shared) -> Link {
    let end = End {
        peer: Peer {
            identity: Identity::Agent(MACHINE),
            expires_at: WallTime(0),
            address: ([127, 0, 0, 1], 1).into(),
        },
        budget: shared.budget.clone(),
        pace: Pace::default(),
    };
    pair(end.clone(), end).0
}

fn take(task: &mut MachineTask, session: SessionId, block: ChangeBlock) {
    let opened = task.shared.opened.try_take(0).expect("nothing");
    let open = OpenBlock {
        block,
        digests: Vec::new(),
        opened,
    };
    let taken = task.taken.len();
    task.handle_block(session, DISK, open);
    assert_eq!(task.taken.len(), taken + 1);
}

/// Asks about the newest generation. Nothing of it is committed, so that whoever answers waits.
fn ask(task: &mut MachineTask, session: SessionId) {
    let compare = Compare {
        request: 1,
        first_piece: 0,
        digests: vec![PlainDigest::of(&[0; PIECE_LEN])],
    };
    task.handle_compare(session, DISK, compare);
    assert_eq!(task.shared.tasks.len(), 1, "a comparer was started");
}

/// Waits until no comparer is left.
async fn all_ended(shared: &Shared) {
    shared.tasks.close();
    soon("the comparer's end", shared.tasks.wait()).await;
}

#[tokio::test]
async fn a_block_of_a_newer_generation_ends_the_comparer_of_the_older() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "newer-block").await;
    let mut task = task(&shared);
    let session = task.begin(link(&shared)).session;
    let (outbox, _writer) = outbox();
    assert!(task.open(session, DISK, outbox).is_some());
    let first = opening(DISK, 1, None, 1);
    let second = next(&first, 3);
    let newer = opening(DISK, 2, Some(second.header().position()), 4);
    take(&mut task, session, first);
    ask(&mut task, session);
    take(&mut task, session, second);
    tokio::task::yield_now().await;
    assert_eq!(shared.tasks.len(), 1, "its generation goes on");
    take(&mut task, session, newer);
    all_ended(&shared).await;
}

#[tokio::test]
async fn the_end_of_the_connection_ends_its_comparers_and_that_of_an_older_one_ends_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(dir.path(), "connection-end").await;
    let mut task = task(&shared);
    let older = task.begin(link(&shared)).session;
    let session = task.begin(link(&shared)).session;
    let (outbox, _writer) = outbox();
    assert!(task.open(session, DISK, outbox).is_some());
    take(&mut task, session, opening(DISK, 1, None, 1));
    ask(&mut task, session);
    task.handle_request(Request::End { session: older });
    tokio::task::yield_now().await;
    assert_eq!(shared.tasks.len(), 1, "the newer session goes on");
    assert!(task.report().connected);
    task.handle_request(Request::End { session });
    all_ended(&shared).await;
    assert!(!task.report().connected);
}
