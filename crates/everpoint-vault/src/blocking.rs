//! File I/O off the runtime's threads, on a bounded number of blocking ones.
//!
//! A frozen or dying filesystem parks every thread that touches it, without limit in time. The bound
//! keeps that loss small: further jobs wait here, where they can be cancelled, and not in the kernel. A job
//! that has begun runs to its end, also when nobody waits for it any more, and keeps its place until then.
//!
//! The runtime waits for parked threads when it is dropped: a process that must end while a filesystem
//! hangs shuts its runtime down with `shutdown_timeout`.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::backend::Fault;
use crate::error::Cause;

/// Places for blocking jobs.
#[derive(Debug)]
pub(crate) struct Blocking {
    places: Arc<Semaphore>,
}

impl Blocking {
    pub(crate) fn new(threads_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(threads_max)),
        }
    }

    /// Runs `job` on a blocking thread once a place is free. Dropping the future takes back a job that has
    /// not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let thread = tokio::task::spawn_blocking(move || {
            let _place = place;
            job()
        });
        match thread.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Fault::Unknown(Cause::ShuttingDown)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_hanging_job_keeps_its_place_and_the_runtime_goes_on() {
        let blocking = Arc::new(Blocking::new(1));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let hanging = tokio::spawn({
            let blocking = Arc::clone(&blocking);
            async move {
                let job = move || {
                    begun.send(()).expect("the test listens");
                    released.recv().expect("the test releases");
                    Ok(())
                };
                blocking.run(job).await
            }
        });
        has_begun.await.expect("the job begins");
        hanging.abort();
        assert!(hanging.await.unwrap_err().is_cancelled());

        let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mark = Arc::clone(&ran);
        let job = move || {
            mark.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        };
        let next = tokio::time::timeout(Duration::from_millis(20), blocking.run(job)).await;
        assert!(next.is_err(), "the place is taken");
        release.send(()).unwrap();
        assert_eq!(blocking.run(|| Ok(2)).await.unwrap(), 2);
        assert!(
            !ran.load(std::sync::atomic::Ordering::SeqCst),
            "what was taken back never ran"
        );
    }

    #[tokio::test]
    #[should_panic(expected = "as planned")]
    async fn a_panic_reaches_who_waits() {
        let outcome = Blocking::new(1).run::<()>(|| panic!("as planned")).await;
        assert!(outcome.is_ok(), "not reached");
    }
}
