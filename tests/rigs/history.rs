//! What a guest did, and in which order: for each write when it was issued and when it had completed.
//!
//! Both are ticks of one count, which every line of the judge's record raises. Writes in flight never overlap,
//! so the writes of one block have a total order, which is the order of their numbers.

use anyhow::{Context as _, Result, ensure};

/// A moment on the judge's count.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Tick(pub u64);

/// One write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Write {
    /// Unit: blocks of the disk.
    pub first: u32,
    pub count: u32,
    pub issued: Tick,
    /// When the guest was told that it is done; `None` for one that is in flight, or whose connection was
    /// lost.
    pub completed: Option<Tick>,
}

/// All writes, by number.
#[derive(Clone, Debug, Default)]
pub struct History {
    writes: Vec<Write>,
}

impl History {
    /// Writes in the order of their numbers, from 1.
    pub fn writes(&self) -> impl Iterator<Item = (u32, &Write)> {
        (1..).zip(&self.writes)
    }

    /// The write of this number.
    pub fn write(&self, number: u32) -> Option<&Write> {
        let index = number.checked_sub(1)?;
        self.writes.get(usize::try_from(index).ok()?)
    }

    /// Notes that a write is issued.
    ///
    /// # Errors
    ///
    /// When it is not the next one.
    pub fn issue(&mut self, number: u32, first: u32, count: u32, at: Tick) -> Result<()> {
        let next = self.writes.len() + 1;
        ensure!(
            number as usize == next,
            "write {number} where {next} is the next"
        );
        ensure!(0 < count, "write {number} is empty");
        self.writes.push(Write {
            first,
            count,
            issued: at,
            completed: None,
        });
        Ok(())
    }

    /// Notes that a write has completed.
    ///
    /// # Errors
    ///
    /// When it was not issued, or had completed before.
    pub fn complete(&mut self, number: u32, at: Tick) -> Result<()> {
        let index = number.checked_sub(1).context("writes are counted from 1")?;
        let write = self.writes.get_mut(index as usize);
        let write = write.with_context(|| format!("write {number} was not issued"))?;
        ensure!(write.completed.is_none(), "write {number} completes twice");
        write.completed = Some(at);
        Ok(())
    }

    /// Writes that had completed before `at`.
    pub fn completed_before(&self, at: Tick) -> usize {
        let completed = |write: &&Write| write.completed.is_some_and(|tick| tick < at);
        self.writes.iter().filter(completed).count()
    }
}

impl Write {
    /// Whether it covers a block.
    pub fn covers(&self, block: u32) -> bool {
        self.first <= block && block - self.first < self.count
    }

    /// Its blocks, as indexes.
    pub fn blocks(&self) -> std::ops::Range<usize> {
        self.first as usize..self.first as usize + self.count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_found_by_their_numbers() {
        let mut history = History::default();
        history.issue(1, 10, 2, Tick(1)).unwrap();
        history.issue(2, 20, 1, Tick(2)).unwrap();
        history.complete(2, Tick(3)).unwrap();
        assert_eq!(history.write(2).unwrap().completed, Some(Tick(3)));
        assert_eq!(history.write(0), None);
        assert_eq!(history.write(3), None);
        assert!(history.write(1).unwrap().covers(11));
        assert!(!history.write(1).unwrap().covers(12));
        assert_eq!(history.completed_before(Tick(3)), 0);
        assert_eq!(history.completed_before(Tick(4)), 1);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_refused() {
        let mut history = History::default();
        assert!(history.issue(2, 0, 1, Tick(1)).is_err());
        assert!(history.complete(1, Tick(1)).is_err());
        history.issue(1, 0, 1, Tick(1)).unwrap();
        history.complete(1, Tick(2)).unwrap();
        assert!(history.complete(1, Tick(3)).is_err());
    }
}
