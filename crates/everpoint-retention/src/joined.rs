//! What tasks that are waited for come to.

use tokio::task::JoinError;

/// What a task returned. A panic goes on here. One that was cancelled was so because the runtime is shutting down, for
/// nothing else cancels a task that is waited for: whoever waits is dropped, too.
pub(crate) async fn unless_panicked<T>(outcome: Result<T, JoinError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
