//! Whether an image is a prefix of the write order.
//!
//! Nobody but the system under test knows the order of writes that were in flight together. What a guest does
//! know: a write that had completed before another was issued is the earlier one. So an image is accepted
//! when there is a set `C` of writes such that
//!
//! 1. in each block stands the last write of `C` that covers it, and zeroes where there is none;
//! 2. with a write, `C` holds every write that had completed before that one was issued;
//! 3. every write that had completed before `after` is in `C`, and none that was issued after `before`.
//!
//! With one request in flight that is "the first *k* writes, for some *k*". A write whose connection was lost
//! may be there in part: the agent died over it, and what the local disk kept is what counts.
//!
//! The smallest candidate is built: the writes that are shown, and everything that 2. and 3. demand for them.
//! It needs one step: what had completed before one of those was complete before the newest of them was
//! issued, too. If the image does not show what the candidate leaves behind, no larger set helps: a block
//! that shows less than the last write of a set falls further behind when the set grows.

use std::path::Path;

use anyhow::Result;

use crate::rigs::history::{History, Tick};
use crate::rigs::image::each_piece;
use crate::rigs::stamp::{BLOCK_LEN, Shown, read_block};

/// An image as it is seen, block by block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen(pub Vec<Shown>);

/// Between which moments an image lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// What had completed before this is in it.
    pub after: Tick,
    /// What was issued from here on is not.
    pub before: Tick,
}

/// An image that is a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    /// Writes in it: the *k* that was searched.
    pub write_count: usize,
}

/// Why an image is no prefix.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPrefix {
    #[error("block {block} holds bytes that no write put there")]
    Foreign { block: usize },
    #[error("block {block} shows write {number}, which never was there")]
    NeverThere { block: usize, number: u32 },
    #[error("block {block} shows write {number}, which was issued later")]
    FromTheFuture { block: usize, number: u32 },
    #[error("block {block} shows {shown:?} and lacks write {missing}: {because}")]
    Missing {
        block: usize,
        shown: Shown,
        missing: u32,
        because: Because,
    },
    #[error("block {block} shows {shown:?}, and another block of write {number} is there")]
    Torn {
        block: usize,
        shown: Shown,
        number: u32,
    },
}

/// Why a write must be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Because {
    /// It had completed before the promise was made.
    Promised,
    /// It had completed before this write was issued, which is there.
    Before(u32),
}

impl Seen {
    /// Reads an image.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut shown = Vec::new();
        each_piece(path, |piece| {
            for block in piece.chunks(BLOCK_LEN) {
                let index = u32::try_from(shown.len()).unwrap_or(u32::MAX);
                shown.push(read_block(block, index));
            }
        })?;
        Ok(Self(shown))
    }

    fn numbers(&self) -> impl Iterator<Item = (usize, u32)> {
        let blocks = self.0.iter().enumerate();
        blocks.filter_map(|(block, shown)| match shown {
            Shown::Write(number) => Some((block, *number)),
            Shown::Nothing | Shown::Foreign => None,
        })
    }
}

/// Searches the prefix that an image is.
///
/// # Errors
///
/// The first [`NoPrefix`] that shows that it is none.
pub fn find(history: &History, seen: &Seen, bounds: Bounds) -> Result<Prefix, NoPrefix> {
    let newest = newest_shown(history, seen, bounds)?;
    let (closed_to, because) = match newest {
        Some((issued, number)) if bounds.after < issued => (issued, Because::Before(number)),
        _ => (bounds.after, Because::Promised),
    };
    let mut expected = vec![0; seen.0.len()];
    let mut write_count = 0;
    for (number, write) in history.writes() {
        if write.completed.is_some_and(|tick| tick < closed_to) {
            expected[write.blocks()].fill(number);
            write_count += 1;
        }
    }
    let number_at = |block: usize| match seen.0[block] {
        Shown::Write(number) => number,
        Shown::Nothing | Shown::Foreign => 0,
    };
    for (block, &missing) in expected.iter().enumerate() {
        if number_at(block) < missing {
            return Err(NoPrefix::Missing {
                block,
                shown: seen.0[block],
                missing,
                because,
            });
        }
    }
    let mut beyond: Vec<u32> = seen
        .numbers()
        .filter(|&(block, number)| expected[block] < number)
        .map(|(_, number)| number)
        .collect();
    beyond.sort_unstable();
    beyond.dedup();
    for &number in &beyond {
        whole(history, seen, number, number_at)?;
    }
    write_count += beyond.len();
    Ok(Prefix { write_count })
}

/// Checks what each block shows by itself; returns the newest write that is shown, by its issue.
fn newest_shown(
    history: &History,
    seen: &Seen,
    bounds: Bounds,
) -> Result<Option<(Tick, u32)>, NoPrefix> {
    if let Some(block) = seen.0.iter().position(|shown| *shown == Shown::Foreign) {
        return Err(NoPrefix::Foreign { block });
    }
    let mut newest = None;
    for (block, number) in seen.numbers() {
        let index = u32::try_from(block).unwrap_or(u32::MAX);
        let write = history.write(number).filter(|write| write.covers(index));
        let write = write.ok_or(NoPrefix::NeverThere { block, number })?;
        if bounds.before <= write.issued {
            return Err(NoPrefix::FromTheFuture { block, number });
        }
        newest = newest.max(Some((write.issued, number)));
    }
    Ok(newest)
}

/// A write that completed is there whole, where nothing later covers it.
fn whole(
    history: &History,
    seen: &Seen,
    number: u32,
    number_at: impl Fn(usize) -> u32,
) -> Result<(), NoPrefix> {
    let write = history.write(number).expect("it was found before");
    if write.completed.is_none() {
        return Ok(());
    }
    let lacks = write.blocks().find(|&block| number_at(block) < number);
    lacks.map_or(Ok(()), |block| {
        let shown = seen.0[block];
        Err(NoPrefix::Torn {
            block,
            shown,
            number,
        })
    })
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Promised => f.write_str("it had completed before the promise was made"),
            Self::Before(number) => {
                write!(
                    f,
                    "it had completed before write {number} was issued, which is there"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
