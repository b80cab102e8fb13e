//! A program that writes into a filesystem at a steady pace, and knows how long each write took: who watches whether
//! anything holds it. It lives in the test's own process, which nobody kills.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Unit: bytes.
const WRITE_LEN: usize = 8 << 10;
/// 8 KiB each give 20 MB a second.
const EACH: Duration = Duration::from_micros(409);

/// See the module. Dropped, it stops.
pub struct Writer {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<std::io::Result<u64>>>,
}

struct Seen {
    begun: Instant,
    stop: AtomicBool,
    /// When the write that is under way began, after `begun`; 0: none is. Unit: nanoseconds.
    under_way: AtomicU64,
    longest: Mutex<Duration>,
}

impl Writer {
    /// Writes 8 KiB again and again to random places of a file of so many bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn start(path: &Path, len: u64, seed: u64) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = file.with_context(|| path.display().to_string())?;
        // As a database's file is: in place, so that what is measured is writes and not allocations.
        for at in (0..len).step_by(WRITE_LEN) {
            file.write_all_at(&[0x5a; WRITE_LEN], at)?;
        }
        file.sync_all()?;
        let seen = Arc::new(Seen {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            longest: Mutex::default(),
        });
        let thread = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || seen.write(&file, len, StdRng::seed_from_u64(seed))
        });
        Ok(Self {
            seen,
            thread: Some(thread),
        })
    }

    /// For how long the write that is under way is held by now.
    pub fn held(&self) -> Duration {
        match self.seen.under_way.load(SeqCst) {
            0 => Duration::ZERO,
            since => self
                .seen
                .begun
                .elapsed()
                .saturating_sub(Duration::from_nanos(since)),
        }
    }

    /// How long the longest write took that ended since the last question.
    pub fn take_longest(&self) -> Duration {
        let mut longest = self
            .seen
            .longest
            .lock()
            .expect("nobody panics over a number");
        std::mem::take(&mut *longest)
    }

    /// Stops, and says how many writes there were.
    ///
    /// # Errors
    ///
    /// When one failed.
    pub fn stop(mut self) -> Result<u64> {
        self.seen.stop.store(true, SeqCst);
        let thread = self.thread.take().context("it is stopped once")?;
        let wrote = thread
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        Ok(wrote?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.seen.stop.store(true, SeqCst);
    }
}

impl Seen {
    fn write(&self, file: &File, len: u64, mut random: StdRng) -> std::io::Result<u64> {
        let mut bytes = vec![0; WRITE_LEN];
        let (mut count, mut next) = (0, Instant::now());
        while !self.stop.load(SeqCst) {
            random.fill(&mut bytes[..]);
            let at = random.random_range(0..len / WRITE_LEN as u64) * WRITE_LEN as u64;
            let begun = Instant::now();
            let since = u64::try_from(begun.duration_since(self.begun).as_nanos()).unwrap_or(0);
            self.under_way.store(since.max(1), SeqCst);
            file.write_all_at(&bytes, at)?;
            let mut longest = self.longest.lock().expect("nobody panics over a number");
            *longest = longest.max(begun.elapsed());
            drop(longest);
            // Last, so that whoever sees that nothing is held finds how long it was.
            self.under_way.store(0, SeqCst);
            count += 1;
            // What was held is not made up for.
            next = (next + EACH).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(count)
    }
}
