//! How long a history may take.

use std::future::pending;

use tokio::time::sleep;

use super::*;

const SILENCE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn what_moves_on_may_take_as_long_as_it_takes() {
    let steps = AtomicU64::new(0);
    let work = async {
        for _ in 0..100 {
            sleep(Duration::from_secs(7)).await;
            steps.fetch_add(1, Relaxed);
        }
        "done"
    };
    assert_eq!(while_it_moves(work, &steps, SILENCE).await, Some("done"));
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_is_given_up_also_when_it_moved_before() {
    let steps = AtomicU64::new(0);
    assert_eq!(while_it_moves(pending::<()>(), &steps, SILENCE).await, None);
    let work = async {
        sleep(Duration::from_secs(7)).await;
        steps.fetch_add(1, Relaxed);
        pending::<()>().await;
    };
    assert_eq!(while_it_moves(work, &steps, SILENCE).await, None);
}
