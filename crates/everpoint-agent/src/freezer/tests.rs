//! How a freezer that was let go is waited for.

use tokio::io::AsyncReadExt as _;

use super::*;

fn child(script: &str) -> (Child, ChildStdin) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let to = child.stdin.take().unwrap();
    (child, to)
}

#[tokio::test]
async fn a_freezer_whose_pipe_ends_ends_by_itself_and_nothing_is_left_to_thaw() {
    let (child, to) = child("read line; exit 0");
    drop(to);
    reap(child, Duration::from_secs(60), || panic!("it has thawed")).await;
}

#[tokio::test]
async fn what_a_killed_freezer_left_is_thawed_at_once() {
    let (mut child, _to) = child("read line");
    child.start_kill().unwrap();
    let mut was_thawed = false;
    reap(child, Duration::from_secs(60), || was_thawed = true).await;
    assert!(was_thawed);
}

#[tokio::test]
async fn a_freezer_that_does_not_end_is_killed_after_its_time_and_its_filesystems_are_thawed() {
    let (child, _to) = child("exec sleep 1000");
    let begun = std::time::Instant::now();
    let within = Duration::from_millis(30);
    let mut thawed_after = Duration::ZERO;
    reap(child, within, || thawed_after = begun.elapsed()).await;
    assert!(within <= thawed_after, "{thawed_after:?}");
}

#[tokio::test]
async fn a_freezer_that_is_let_go_hears_it_and_is_not_killed() {
    let mut command = Command::new("sh");
    command.arg("-c").arg("read line; echo ended >&2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = child.stderr.take().unwrap();
    let from = BufReader::new(child.stdout.take().unwrap());
    drop(Running {
        to: child.stdin.take().unwrap(),
        from: from.lines(),
        child: Some(child),
        filesystems: Vec::new(),
        hold_max: Duration::from_secs(60),
        may_hold: true,
    });
    let mut text = String::new();
    told.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "ended\n");
}
