//! Syncs of one open file, one at a time.
//!
//! The kernel reports that it could not write something back once for each open file: of two syncs
//! side by side one fails, and the other would be called a success. So whoever comes during a sync
//! waits for its outcome. The next sync is for all that came meanwhile: many that ask at one time
//! cost two syncs, not one each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    /// How many have asked so far.
    asked: AtomicU64,
    /// All that had asked up to this number are served. Held during a sync.
    served: Mutex<u64>,
    /// A sync has failed. Written with `served` held.
    failed: AtomicBool,
}

/// Why a sync was not done.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum SyncError<E> {
    /// An earlier one has failed.
    Earlier,
    /// This one has.
    Now(E),
}

impl Syncs {
    /// Whether one has failed: what the file holds is not known any more.
    pub(super) fn have_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// Makes durable what was written before this call, with `sync` unless another caller's sync that
    /// began after it has done so. Waits for a sync that is going on, so it belongs on a thread that
    /// may block.
    pub(super) fn run<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), SyncError<E>> {
        let turn = self.asked.fetch_add(1, SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if self.have_failed() {
            return Err(SyncError::Earlier);
        }
        if turn <= *served {
            return Ok(());
        }
        let all = self.asked.load(SeqCst);
        sync().map_err(|error| {
            self.failed.store(true, SeqCst);
            SyncError::Now(error)
        })?;
        *served = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ScopedJoinHandle, scope, yield_now};

    use super::*;

    type Done = Result<(), SyncError<&'static str>>;

    /// Waits until `count` have asked.
    fn wait_asked(syncs: &Syncs, count: u64) {
        while syncs.asked.load(SeqCst) < count {
            yield_now();
        }
    }

    #[test]
    fn a_sync_beside_one_that_fails_fails_too() {
        let syncs = Syncs::default();
        scope(|threads| {
            let mut beside: Option<ScopedJoinHandle<'_, Done>> = None;
            let first = syncs.run(|| {
                beside = Some(threads.spawn(|| syncs.run(|| Ok(()))));
                wait_asked(&syncs, 2);
                assert!(syncs.served.try_lock().is_err(), "nobody is let in now");
                Err("EIO")
            });
            assert_eq!(first, Err(SyncError::Now("EIO")));
            let beside = beside.expect("begun").join().expect("no panic");
            assert_eq!(beside, Err(SyncError::Earlier));
        });
        let later: Done = syncs.run(|| Ok(()));
        assert_eq!(later, Err(SyncError::Earlier));
        assert!(syncs.have_failed());
    }

    #[test]
    fn all_that_ask_during_a_sync_share_the_next_one() {
        let syncs = Syncs::default();
        let count = AtomicU64::new(0);
        let one = || -> Done {
            syncs.run(|| {
                count.fetch_add(1, SeqCst);
                Ok(())
            })
        };
        scope(|threads| {
            let mut beside = Vec::new();
            let first: Done = syncs.run(|| {
                beside.extend((0..8).map(|_| threads.spawn(one)));
                wait_asked(&syncs, 9);
                Ok(())
            });
            assert_eq!(first, Ok(()));
            for thread in beside {
                assert_eq!(thread.join().expect("no panic"), Ok(()));
            }
        });
        assert_eq!(
            count.load(SeqCst),
            1,
            "theirs began after the last had asked"
        );
        assert_eq!(one(), Ok(()));
        assert_eq!(count.load(SeqCst), 2, "what comes later has its own");
    }
}
