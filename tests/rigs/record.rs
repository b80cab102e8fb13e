//! The judge's record: what the guest issued and saw completed, and what it was promised, in one order.
//!
//! One line each; the number of the line, from 1, is its tick.
//!
//! | line | means |
//! |---|---|
//! | `i NUMBER FIRST COUNT` | a write is issued: its number, its first block, its blocks |
//! | `c NUMBER` | its answer came |
//! | `a ASKED SEQ GENERATION CACHED COMMITTED STATE RESYNCS` | what the agent says; asked for at tick ASKED |
//! | `s GENERATION CACHED COMMITTED COMPLETE CUT` | what the server says: its marks, and which `Seq`s are committed whole |
//!
//! The file is synced by its writer after every batch of lines, independently of everything that is judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::rigs::history::{History, Tick};

/// Longest time between two syncs.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// What an agent said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentSample {
    /// When it was asked: every write that had completed before has a `Seq` at or below `seq`.
    pub asked: Tick,
    pub seq: u64,
    pub generation: String,
    /// Unit: blocks of the generation.
    pub cached: u64,
    pub committed: u64,
    pub state: String,
    pub resyncs: u64,
}

/// What a server said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerSample {
    pub generation: String,
    /// Unit: blocks of the generation.
    pub cached: u64,
    pub committed: u64,
    /// No change of the disk at or below this `Seq` is missing from what is committed.
    pub complete_through: u64,
    /// The same over all disks of the machine.
    pub cut: u64,
}

/// A record that was read back.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub history: History,
    /// Each with the tick of its line.
    pub agent: Vec<(Tick, AgentSample)>,
    pub server: Vec<(Tick, ServerSample)>,
}

/// What had been promised by some moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Promises {
    /// Every write that had completed before this is committed.
    pub committed: Tick,
    /// `Seq`s that are committed recovery points, rising, each with a moment: every write that had completed
    /// before it is at or below that `Seq`.
    pub points: Vec<(u64, Tick)>,
    /// Newest block that was said to be cached and committed, by generation.
    pub blocks: BTreeMap<String, BlockPromise>,
}

/// Newest blocks of a generation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BlockPromise {
    pub cached: u64,
    pub committed: u64,
}

impl Record {
    /// Reads a record up to the tick `upto`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or does not make sense.
    pub fn read(path: &Path, upto: Tick) -> Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let mut record = Self::default();
        for (tick, line) in (1..=upto.0).map(Tick).zip(text.lines()) {
            record
                .take(tick, line)
                .with_context(|| format!("line {} of the judge's record: {line}", tick.0))?;
        }
        Ok(record)
    }

    fn take(&mut self, tick: Tick, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let kind = words.next();
        let mut word = || words.next().context("the line ends too early");
        match kind {
            Some("i") => {
                let (number, first) = (word()?.parse()?, word()?.parse()?);
                self.history.issue(number, first, word()?.parse()?, tick)?;
            }
            Some("c") => self.history.complete(word()?.parse()?, tick)?,
            Some("a") => {
                let sample = AgentSample {
                    asked: Tick(word()?.parse()?),
                    seq: word()?.parse()?,
                    generation: word()?.to_owned(),
                    cached: word()?.parse()?,
                    committed: word()?.parse()?,
                    state: word()?.to_owned(),
                    resyncs: word()?.parse()?,
                };
                self.agent.push((tick, sample));
            }
            Some("s") => {
                let sample = ServerSample {
                    generation: word()?.to_owned(),
                    cached: word()?.parse()?,
                    committed: word()?.parse()?,
                    complete_through: word()?.parse()?,
                    cut: word()?.parse()?,
                };
                self.server.push((tick, sample));
            }
            _ => bail!("unknown kind"),
        }
        Ok(())
    }

    /// What had been promised before `mark`.
    pub fn promises(&self, mark: Tick) -> Promises {
        let mut promises = Promises::default();
        let agent = || self.agent.iter().filter(|(tick, _)| *tick < mark);
        let server = || self.server.iter().filter(|(tick, _)| *tick < mark);
        for (_, sample) in agent() {
            promises.note(&sample.generation, sample.cached, sample.committed);
        }
        for (_, sample) in server() {
            promises.note(&sample.generation, sample.cached, sample.committed);
        }
        // While a generation is not level its commits are no points: only what the agent called protected
        // counts, and only up to what the server has committed of that generation.
        for (_, sample) in agent().filter(|(_, sample)| sample.state == "protected") {
            let of_it = server().filter(|(_, said)| said.generation == sample.generation);
            let through = of_it
                .map(|(_, said)| said.cut.min(said.complete_through))
                .max();
            if through.is_some_and(|through| sample.seq <= through) {
                promises.committed = promises.committed.max(sample.asked);
                promises.points.push((sample.seq, sample.asked));
            }
        }
        promises
    }
}

impl Promises {
    fn note(&mut self, generation: &str, cached: u64, committed: u64) {
        let blocks = self.blocks.entry(generation.to_owned()).or_default();
        blocks.cached = blocks.cached.max(cached);
        blocks.committed = blocks.committed.max(committed);
    }
}

/// Writes a record. Lines get their ticks in the order of the calls.
#[derive(Debug, Default)]
pub struct Recorder {
    state: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    text: String,
    tick: u64,
    synced: u64,
    closed: bool,
    failed: Option<String>,
}

impl Recorder {
    /// Adds a line.
    pub fn line(&self, line: std::fmt::Arguments<'_>) -> Tick {
        let mut lines = self.lock();
        // Writing to a string does not fail.
        let _ = writeln!(lines.text, "{line}");
        lines.tick += 1;
        Tick(lines.tick)
    }

    /// The tick that comes next.
    pub fn next_tick(&self) -> Tick {
        Tick(self.lock().tick + 1)
    }

    /// Waits until everything that was added is on the medium; returns the tick that comes next.
    ///
    /// # Errors
    ///
    /// When the file could not be written or synced.
    pub fn sync(&self) -> Result<Tick> {
        let mut lines = self.lock();
        let wanted = lines.tick;
        while lines.synced < wanted {
            if let Some(failed) = &lines.failed {
                bail!("the record cannot be kept: {failed}");
            }
            let waited = self.more.wait_timeout(lines, SYNC_EVERY);
            (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Tick(wanted + 1))
    }

    /// Lets [`Self::keep`] end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }

    /// Writes and syncs what is added, until it is closed. Blocks.
    pub fn keep(&self, mut file: File) {
        loop {
            let (text, tick) = {
                let mut lines = self.lock();
                if lines.text.is_empty() {
                    if lines.closed {
                        return;
                    }
                    let waited = self.more.wait_timeout(lines, SYNC_EVERY);
                    (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                (std::mem::take(&mut lines.text), lines.tick)
            };
            let kept = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_data());
            let mut lines = self.lock();
            match kept {
                Ok(()) => lines.synced = tick,
                Err(error) => lines.failed = Some(error.to_string()),
            }
            self.more.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 9] = [
        "i 1 0 4",
        "c 1",
        "a 3 10 g1 5 4 protected 1",
        "i 2 8 1",
        "s g1 6 5 12 12",
        "c 2",
        "a 7 11 g1 7 5 protected 1",
        "a 8 20 g2 2 1 resync 2",
        "s g2 2 2 21 21",
    ];

    fn record(upto: u64) -> Record {
        let mut record = Record::default();
        for (tick, line) in (1..=upto).map(Tick).zip(LINES) {
            record.take(tick, line).unwrap();
        }
        record
    }

    #[test]
    fn a_promise_counts_from_the_line_that_makes_it() {
        assert_eq!(record(9).promises(Tick(5)).committed, Tick(0));
        let promises = record(9).promises(Tick(6));
        assert_eq!(promises.committed, Tick(3));
        assert_eq!(promises.points, [(10, Tick(3))]);
        let promises = record(9).promises(Tick(8));
        assert_eq!(promises.committed, Tick(7));
        assert_eq!(promises.points, [(10, Tick(3)), (11, Tick(7))]);
    }

    #[test]
    fn what_is_committed_of_a_resync_is_no_point() {
        let promises = record(9).promises(Tick(10));
        assert_eq!(promises.committed, Tick(7));
        assert_eq!(promises.points.len(), 2);
        let blocks: Vec<_> = promises.blocks.into_iter().collect();
        let of = |cached, committed| BlockPromise { cached, committed };
        assert_eq!(blocks, [("g1".into(), of(7, 5)), ("g2".into(), of(2, 2))]);
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for line in ["", "i 1 0", "x 1", "c 1", "i 2 0 1", "a 1 2 g"] {
            assert!(Record::default().take(Tick(1), line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let recorder = Recorder::default();
        std::thread::scope(|scope| {
            scope.spawn(|| recorder.keep(file.reopen().unwrap()));
            for (tick, line) in (1..).map(Tick).zip(LINES) {
                assert_eq!(recorder.next_tick(), tick);
                assert_eq!(recorder.line(format_args!("{line}")), tick);
            }
            assert_eq!(recorder.sync().unwrap(), Tick(10));
            let read = Record::read(file.path(), Tick(10)).unwrap();
            assert_eq!(read.promises(Tick(10)), record(9).promises(Tick(10)));
            let read = Record::read(file.path(), Tick(5)).unwrap();
            assert_eq!(read.history.write(2).unwrap().completed, None);
            recorder.close();
        });
    }
}
