//! Threads that thaw: one for each filesystem, begun before anything is frozen. The kernel lets a thaw wait as long as
//! a freeze of the same filesystem hangs, and no other filesystem may wait with it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use rustix::io::{Errno, Result};

use crate::clock::Clock;
use crate::freeze_core::{GuardCore, TRY_AGAIN, ThawEnd};

/// What such a thread needs. Unit: bytes. All of it is locked in memory.
const STACK_LEN: usize = 128 << 10;

/// Thaws the filesystem of this index.
pub(crate) type Thaw = Arc<dyn Fn(usize) -> Result<()> + Send + Sync>;

/// The freezer's threads. They end when this is dropped.
pub(crate) struct Thawers {
    /// By filesystem.
    to: Vec<SyncSender<()>>,
    /// Whether one was frozen, when it is so no longer.
    from: Receiver<bool>,
}

/// The guard's threads, from armed until disarmed. They thaw when this is dropped before.
pub(crate) struct Watch {
    watchers: Vec<(SyncSender<Disarmed>, JoinHandle<()>)>,
}

struct Disarmed;

impl Thawers {
    /// Begins `count` threads, which wait.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn start(thaw: &Thaw, count: usize) -> io::Result<Self> {
        let (done, from) = channel();
        let begun = (0..count).map(|index| {
            let (thaw, done): (Thaw, Sender<bool>) = (Arc::clone(thaw), done.clone());
            let (to, told) = sync_channel(1);
            builder().spawn(move || {
                while told.recv().is_ok() {
                    let was_frozen = thaw_surely(|| thaw(index), None);
                    if done.send(was_frozen).is_err() {
                        return;
                    }
                }
            })?;
            Ok(to)
        });
        let to = begun.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { to, from })
    }

    /// Thaws the first `held` filesystems, waits until none of them is frozen, and says whether all were.
    pub(crate) fn thaw(&self, held: usize) -> bool {
        for to in &self.to[..held] {
            to.send(()).expect("it waits as long as this lives");
        }
        let ends = (0..held).map(|_| self.from.recv());
        let were_frozen = ends.map(|end| end.expect("each says how it went"));
        were_frozen.fold(true, |all, was_frozen| all & was_frozen)
    }
}

impl Watch {
    /// Begins `count` threads, armed for `hold_max`.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn start(
        thaw: &Thaw,
        count: usize,
        hold_max: Duration,
        clock: Clock,
    ) -> io::Result<Self> {
        let core = GuardCore::new(hold_max, clock.now());
        let begun = (0..count).map(|index| {
            let thaw = Arc::clone(thaw);
            let (to, told) = sync_channel(1);
            let thread = builder().spawn(move || watch(|| thaw(index), core, &told, clock))?;
            Ok((to, thread))
        });
        let watchers = begun.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { watchers })
    }

    /// All are thawed. Does not wait: a thread that is in a thaw ends after it.
    pub(crate) fn disarm(self) {
        for (to, _) in self.watchers {
            // One that has thawed is gone.
            let _ = to.send(Disarmed);
        }
    }

    /// The freezer is gone: thaws what it left, and waits for that.
    pub(crate) fn freezer_gone(self) {
        let (tos, threads): (Vec<_>, Vec<_>) = self.watchers.into_iter().unzip();
        drop(tos);
        for thread in threads {
            thread.join().expect("it does not panic");
        }
    }
}

/// Thaws until it is not frozen, and says whether it was; gives up after so many errors, if a number is named.
pub(crate) fn thaw_surely(thaw: impl Fn() -> Result<()>, tries_max: Option<u32>) -> bool {
    let mut tries = 0;
    loop {
        match end_of(thaw()) {
            ThawEnd::WasFrozen => return true,
            ThawEnd::WasNot => return false,
            ThawEnd::Failed => tries += 1,
        }
        if tries_max.is_some_and(|max| max <= tries) {
            return false;
        }
        thread::sleep(TRY_AGAIN);
    }
}

fn watch(
    thaw: impl Fn() -> Result<()>,
    mut core: GuardCore,
    told: &Receiver<Disarmed>,
    clock: Clock,
) {
    let mut freezer_is_gone = false;
    while let Some(look) = core.deadline() {
        let left = look.since(clock.now());
        if freezer_is_gone {
            thread::sleep(left);
        } else {
            match told.recv_timeout(left) {
                Ok(Disarmed) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    freezer_is_gone = true;
                    core.freezer_gone(clock.now());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if core.is_due(clock.now()) {
            core.note(end_of(thaw()), clock.now());
        }
    }
}

fn end_of(thawed: Result<()>) -> ThawEnd {
    match thawed {
        Ok(()) => ThawEnd::WasFrozen,
        Err(Errno::INVAL) => ThawEnd::WasNot,
        Err(_) => ThawEnd::Failed,
    }
}

fn builder() -> Builder {
    Builder::new().stack_size(STACK_LEN)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// The last of two filesystems hangs until the sender is dropped; the other says that it was thawed.
    fn one_hangs() -> (Thaw, Receiver<usize>, Sender<()>) {
        let (thawed, heard) = channel();
        let (release, hangs) = channel::<()>();
        let hangs = Mutex::new(hangs);
        let thaw: Thaw = Arc::new(move |index| {
            if index == 1 {
                let _ = hangs.lock().unwrap().recv();
            }
            thawed.send(index).unwrap();
            Ok(())
        });
        (thaw, heard, release)
    }

    #[test]
    fn a_guard_lets_one_go_while_another_hangs() {
        let (thaw, heard, release) = one_hangs();
        let watch = Watch::start(&thaw, 2, Duration::ZERO, Clock::start()).unwrap();
        assert_eq!(heard.recv().unwrap(), 0);
        assert!(heard.try_recv().is_err());
        drop(release);
        assert_eq!(heard.recv().unwrap(), 1);
        watch.disarm();
    }

    #[test]
    fn a_guard_whose_freezer_is_gone_lets_one_go_while_another_hangs_and_waits_for_that() {
        let (thaw, heard, release) = one_hangs();
        let hour = Duration::from_secs(3600);
        let watch = Watch::start(&thaw, 2, hour, Clock::start()).unwrap();
        let guard = thread::spawn(|| watch.freezer_gone());
        assert_eq!(heard.recv().unwrap(), 0);
        assert!(!guard.is_finished());
        drop(release);
        guard.join().unwrap();
        assert_eq!(heard.try_recv().unwrap(), 1);
    }

    #[test]
    fn a_guard_that_is_disarmed_thaws_nothing() {
        let thaw: Thaw = Arc::new(|_| panic!("it was disarmed"));
        let hour = Duration::from_secs(3600);
        let watch = Watch::start(&thaw, 1, hour, Clock::start()).unwrap();
        let (to, thread) = watch.watchers.into_iter().next().unwrap();
        to.send(Disarmed).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_freezer_lets_one_go_while_another_hangs() {
        let (thaw, heard, release) = one_hangs();
        let thawers = Thawers::start(&thaw, 2).unwrap();
        let freezer = thread::spawn(move || thawers.thaw(2));
        assert_eq!(heard.recv().unwrap(), 0);
        assert!(!freezer.is_finished());
        drop(release);
        assert!(freezer.join().unwrap());
    }

    #[test]
    fn an_error_is_no_thaw_and_only_one_says_that_nothing_was_frozen() {
        let calls = AtomicU32::new(0);
        let fails = |last: Result<()>| {
            calls.store(0, Ordering::Relaxed);
            thaw_surely(
                || match calls.fetch_add(1, Ordering::Relaxed) {
                    0..3 => Err(Errno::IO),
                    _ => last,
                },
                None,
            )
        };
        assert!(fails(Ok(())));
        assert!(!fails(Err(Errno::INVAL)));
        assert_eq!(calls.load(Ordering::Relaxed), 4);
        assert!(!thaw_surely(|| Err(Errno::IO), Some(2)));
    }

    #[test]
    fn a_guard_whose_freezer_is_gone_tries_again_after_an_error() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let thaw: Thaw = Arc::new(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0..3 => Err(Errno::IO),
            _ => Err(Errno::INVAL),
        });
        let hour = Duration::from_secs(3600);
        Watch::start(&thaw, 1, hour, Clock::start())
            .unwrap()
            .freezer_gone();
        assert_eq!(calls.load(Ordering::Relaxed), 4);
    }
}
