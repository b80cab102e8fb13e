//! What tasks that are waited for come to.

use tokio::task::JoinError;

/// What a task returned. A panic goes on here; nothing cancels a task that is still waited for.
pub(crate) fn unless_panicked<T>(outcome: Result<T, JoinError>) -> T {
    outcome.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("a task that is waited for was cancelled: {error}"),
    })
}
