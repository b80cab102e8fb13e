//! Which part of a disk a resync does what with. Pure.

use bytes::Bytes;
use everpoint_capture::is_zero;
use everpoint_format::Change;
use everpoint_format::digest::PIECE_SECTORS;
use everpoint_units::{Extent, Lba, SECTOR_LEN};

use super::{OwnChange, Run};

/// A part of the disk, whole pieces but for the end of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Segment {
    /// Nothing is allocated.
    Hole(Extent),
    /// Something may be.
    Data(Extent),
}

/// An extent inside a disk.
///
/// # Panics
///
/// If it would be empty.
pub(super) fn extent(start: u64, end: u64) -> Extent {
    let lba = |sector| Lba::new(sector).expect("inside a disk");
    Extent::between(lba(start), lba(end)).expect("a part of a disk is not empty")
}

/// Cuts `window`, which begins with a piece, by what was said about its allocation. A hole shrinks to
/// the pieces that it covers whole. Returns where the next window begins too: what was said may end
/// early.
pub(super) fn segments(window: Extent, runs: &[Run]) -> (Vec<Segment>, u64) {
    let (start, window_end) = (window.start().sector(), window.end().sector());
    let told = runs
        .last()
        .map_or(window_end, |run| run.extent.end().sector());
    // Never stand still, and begin the next window with a piece.
    let reached = if told < window_end {
        let whole = told / PIECE_SECTORS * PIECE_SECTORS;
        whole.max(start + PIECE_SECTORS).min(window_end)
    } else {
        window_end
    };
    let mut list = Vec::new();
    let mut at = start;
    for run in runs.iter().filter(|run| run.hole) {
        let from = run
            .extent
            .start()
            .sector()
            .next_multiple_of(PIECE_SECTORS)
            .max(at);
        let to = match run.extent.end().sector() {
            end if window_end <= end => window_end,
            end => end / PIECE_SECTORS * PIECE_SECTORS,
        };
        let to = to.min(reached);
        if from < to {
            if at < from {
                list.push(Segment::Data(extent(at, from)));
            }
            list.push(Segment::Hole(extent(from, to)));
            at = to;
        }
    }
    if at < reached {
        list.push(Segment::Data(extent(at, reached)));
    }
    (list, reached)
}

/// Cuts an extent at multiples of `sectors` of the disk.
pub(super) fn steps(whole: Extent, sectors: u64) -> impl Iterator<Item = Extent> {
    let (mut at, end) = (whole.start().sector(), whole.end().sector());
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let from = at;
            at = ((at / sectors + 1) * sectors).min(end);
            extent(from, at)
        })
    })
}

/// The number of the piece that an extent begins with.
pub(super) fn first_piece(extent: Extent) -> u64 {
    extent.start().sector() / PIECE_SECTORS
}

/// The runs of pieces that differ, or of which nothing was said.
pub(super) fn differing(whole: Extent, differs: &[u8]) -> Vec<Extent> {
    let first = first_piece(whole);
    let differs = |piece: u64| {
        let index = piece - first;
        let byte = usize::try_from(index / 8)
            .ok()
            .and_then(|at| differs.get(at));
        byte.is_none_or(|byte| byte >> (index % 8) & 1 == 1)
    };
    let mut runs: Vec<Extent> = Vec::new();
    for step in steps(whole, PIECE_SECTORS) {
        let part = step.sectors().get() < u32::try_from(PIECE_SECTORS).expect("eight");
        if part || differs(first_piece(step)) {
            match runs.last_mut() {
                Some(last) if last.end() == step.start() => {
                    *last = extent(last.start().sector(), step.end().sector());
                }
                _ => runs.push(step),
            }
        }
    }
    runs
}

/// What to queue for an extent that holds `bytes`: its runs of pieces, zeroes apart. Without
/// `with_zeroes` they are left out: nobody holds anything else there.
pub(super) fn changes(whole: Extent, bytes: &Bytes, with_zeroes: bool) -> Vec<OwnChange> {
    let mut runs: Vec<(bool, Extent)> = Vec::new();
    let (mut from, mut data) = (0, 0);
    for step in steps(whole, PIECE_SECTORS) {
        let len = byte_len(step);
        let zero = is_zero(&bytes[from..from + len]);
        data += if zero { 0 } else { len };
        from += len;
        match runs.last_mut() {
            Some((same, last)) if *same == zero => {
                *last = extent(last.start().sector(), step.end().sector());
            }
            _ => runs.push((zero, step)),
        }
    }
    // A slice keeps its whole buffer in memory, and only the slice is charged.
    let sparse = data < bytes.len() / 2;
    let piece = |run: Extent| {
        let from = byte_len_between(whole.start(), run.start());
        let slice = from..from + byte_len(run);
        if sparse {
            Bytes::copy_from_slice(&bytes[slice])
        } else {
            bytes.slice(slice)
        }
    };
    let queued = runs.into_iter().filter(|(zero, _)| with_zeroes || !zero);
    queued
        .map(|(zero, run)| match zero {
            true => (Change::Zero(run), None),
            false => (Change::Data(run), Some(piece(run))),
        })
        .collect()
}

fn byte_len(extent: Extent) -> usize {
    usize::try_from(extent.byte_len().0).expect("a part that was read fits in memory")
}

fn byte_len_between(from: Lba, to: Lba) -> usize {
    usize::try_from((to.sector() - from.sector()) * SECTOR_LEN).expect("inside a buffer")
}

#[cfg(test)]
mod tests;
