//! Work on threads that may wait or be busy for a while, and what tasks come to when the runtime goes down.

use tokio::task::JoinError;

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    outcome(tokio::task::spawn_blocking(work).await).await
}

/// What a task that nobody aborts came to. While the runtime goes down it may never come to anything;
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn work_that_the_end_of_the_runtime_drops_comes_to_nothing_and_panics_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        let late = runtime.handle().clone();
        runtime.shutdown_background();
        let never = late.spawn_blocking(|| "ran");
        let other = tokio::runtime::Builder::new_current_thread().build();
        let joined = other.expect("a runtime").block_on(never);
        assert!(joined.as_ref().is_err_and(JoinError::is_cancelled));
        assert_eq!(outcome(joined).now_or_never(), None);
    }

    #[tokio::test]
    #[should_panic(expected = "the work's own words")]
    async fn a_panic_in_the_work_is_a_panic_of_who_waits_for_it() {
        blocking(|| panic!("the work's own words")).await
    }
}
