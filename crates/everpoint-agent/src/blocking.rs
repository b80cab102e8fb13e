//! Work that may wait for a disk, on threads that may.

use tokio::task::JoinError;

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    outcome(tokio::task::spawn_blocking(work).await).await
}

/// What a task that nobody aborts came to. While its runtime goes down it may never come to anything;
/// nobody is there to use it then.
pub(crate) async fn outcome<T>(joined: Result<T, JoinError>) -> T {
    match joined {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
