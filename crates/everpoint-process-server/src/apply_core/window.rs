//! Changes that are collected, and how a collection is written.

use std::collections::VecDeque;

use everpoint_format::replica::{Applied, Mark};
use everpoint_reduction::{Need, PageOp, RunMap, RunValue, Source};
use everpoint_replica::Fence;
use everpoint_units::{ByteLen, ByteOffset, Extent, JournalId, Lba, Moment, ObjectNo, SECTOR_LEN};

use super::fold::{Folded, ObjectFold, Stands, extents};
use super::known::Known;
use super::pace::Pace;
use super::*;

/// What a run takes in memory, so that many small ones count. Unit: bytes.
pub const RUN_LEN: usize = 128;

/// Where bytes were staged, in sectors from the beginning of their window's place.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Staged(pub u64);

/// A put or a clear, with where its bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PageWork {
    /// Its parts lie one after the other.
    Put {
        extent: Extent,
        parts: Vec<WorkPart>,
    },
    Clear {
        extent: Extent,
    },
}

/// A part of a put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkPart {
    pub extent: Extent,
    pub from: PartFrom,
}

/// Where a part's bytes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartFrom {
    Staged {
        window: u64,
        at: Staged,
    },
    Zero,
    /// In the target already: to be read there.
    Target,
}

/// Changes of some consecutive objects, coalesced.
#[derive(Debug)]
pub(super) struct Window {
    number: u64,
    pieces: RunMap<Piece>,
    /// Of what was staged, and of the runs. Unit: bytes.
    len: u64,
    /// Before the first object, and behind the last.
    before: Stands,
    stands: Stands,
    /// The last object.
    last: Option<(JournalId, ObjectNo)>,
    /// Whether an object came in.
    has_moved: bool,
    since: Option<Moment>,
}

/// What sectors become.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Data(Staged),
    Zero,
}

/// A window that is written.
#[derive(Debug)]
pub(super) struct Flush {
    window: Window,
    resize: Option<ByteLen>,
    requests: Vec<Request>,
    waiting: VecDeque<usize>,
    in_flight: usize,
    began: Moment,
}

#[derive(Debug)]
struct Request {
    op: PageOp,
    /// Under which it was sent last.
    fence: Fence,
}

/// What a window that is written needs next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Resize { len: ByteLen },
    Work,
    Mark,
}

impl RunValue for Piece {
    fn after(self, sectors: u64) -> Self {
        match self {
            Self::Data(Staged(at)) => Self::Data(Staged(at + sectors)),
            Self::Zero => Self::Zero,
        }
    }
}

impl Window {
    /// An empty one, of a disk of which nothing is known but its size.
    pub(super) const fn new(number: u64, sectors: u64) -> Self {
        let stands = Stands::at_the_beginning(sectors);
        Self {
            number,
            pieces: RunMap::new(),
            len: 0,
            before: stands,
            stands,
            last: None,
            has_moved: false,
            since: None,
        }
    }

    /// An empty one that goes on behind another.
    pub(super) fn behind(other: &Self, number: u64) -> Self {
        Self {
            before: other.stands,
            stands: other.stands,
            last: other.last,
            ..Self::new(number, other.stands.sectors)
        }
    }

    /// It goes on behind what a mark says.
    pub(super) fn begin(&mut self, applied: Option<Applied>) {
        if let Some(applied) = &applied {
            self.stands = Stands::of(applied, self.stands.sectors);
            self.before = self.stands;
            self.last = Some((applied.journal, applied.number));
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn stands(&self) -> Stands {
        self.stands
    }

    pub(super) const fn len(&self) -> ByteLen {
        ByteLen(self.len)
    }

    /// How many runs it remembers.
    pub(super) fn runs(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = (Extent, Piece)> + '_ {
        self.pieces.iter()
    }

    pub(super) const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// An object, folded on where this stands.
    pub(super) fn take(
        &mut self,
        journal: JournalId,
        number: ObjectNo,
        fold: ObjectFold,
        staged: Vec<(Extent, Staged)>,
        now: Moment,
    ) {
        let was_idle = self.is_idle();
        for (extent, folded) in fold.pieces.iter() {
            if folded == Folded::Zero {
                self.pieces.insert(extent, Piece::Zero);
                self.len += RUN_LEN as u64;
            }
        }
        for (extent, at) in staged {
            self.pieces.insert(extent, Piece::Data(at));
            self.len += RUN_LEN as u64 + extent.byte_len().0;
        }
        self.stands = fold.stands;
        self.last = Some((journal, number));
        self.has_moved = true;
        if self.since.is_none() || (was_idle && !self.is_idle()) {
            self.since = Some(now);
        }
    }

    /// When it is to be written, if nothing else happens. One that changes nothing moves the mark on now and then.
    pub(super) fn due_at(&self, window: Duration, idle: Duration) -> Option<Moment> {
        let since = self.since?;
        Some(since.after(if self.is_idle() { idle } else { window }))
    }

    /// Whether nothing of the disk changes but how far it is known.
    fn is_idle(&self) -> bool {
        self.pieces.is_empty()
            && self.before.sectors == self.stands.sectors
            && self.before.is_level == self.stands.is_level
    }

    /// The disk's size and the mark behind it.
    pub(super) fn outcome(&self) -> (u64, Option<Applied>) {
        let applied = self.last.map(|(journal, number)| Applied {
            journal,
            number,
            position: self.stands.position,
            through: self.stands.through,
            is_level: self.stands.is_level,
        });
        (self.stands.sectors, applied)
    }

    /// What the target's pages are to become, and the page of a mark that lies elsewhere now.
    pub(super) fn needs(&self, old_mark: Option<ByteOffset>) -> RunMap<Need> {
        let mut needs = RunMap::new();
        let page = old_mark.map(|at| at.0 / SECTOR_LEN);
        for extent in page.into_iter().flat_map(|page| extents(page, page + 1)) {
            needs.insert(extent, Need::Zero);
        }
        let end = Mark::target_len(self.stands.sectors).0 / SECTOR_LEN - 1;
        let end = Lba::new(end).unwrap_or(Lba::MAX);
        for (extent, piece) in self.pieces.iter() {
            if let Some(inside) = Extent::between(extent.start(), extent.end().min(end)) {
                let need = match piece {
                    Piece::Data(_) => Need::Data,
                    Piece::Zero => Need::Zero,
                };
                needs.insert_joined(inside, need);
            }
        }
        needs
    }

    fn work(&self, op: &PageOp, known: &Known) -> PageWork {
        match op {
            PageOp::Clear { extent } => PageWork::Clear { extent: *extent },
            PageOp::Put { extent, parts } => PageWork::Put {
                extent: *extent,
                parts: parts
                    .iter()
                    .flat_map(|part| self.parts(part, known))
                    .collect(),
            },
        }
    }

    fn parts(&self, part: &Part, known: &Known) -> Vec<WorkPart> {
        let whole = |from| {
            vec![WorkPart {
                extent: part.extent,
                from,
            }]
        };
        match part.source {
            Source::Zero => whole(PartFrom::Zero),
            Source::Target => whole(PartFrom::Target),
            Source::Known => known.parts(part.extent).collect(),
            Source::Need => {
                let pieces = self.pieces.within(part.extent);
                let parts = pieces.map(|(extent, piece)| WorkPart {
                    extent,
                    from: PartFrom::of(self.number, piece),
                });
                parts.collect()
            }
        }
    }
}

impl PartFrom {
    /// Where a piece of a window is.
    pub(super) const fn of(window: u64, piece: Piece) -> Self {
        match piece {
            Piece::Zero => Self::Zero,
            Piece::Data(at) => Self::Staged { window, at },
        }
    }
}

impl Flush {
    pub(super) fn new(
        window: Window,
        resize: Option<ByteLen>,
        ops: Vec<PageOp>,
        now: Moment,
    ) -> Self {
        let fence = Fence::NONE;
        Self {
            window,
            resize,
            waiting: (0..ops.len()).collect(),
            requests: ops.into_iter().map(|op| Request { op, fence }).collect(),
            in_flight: 0,
            began: now,
        }
    }

    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    pub(super) const fn began(&self) -> Moment {
        self.began
    }

    pub(super) const fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    pub(super) const fn resizes(&self) -> bool {
        self.resize.is_some()
    }

    pub(super) fn resized(&mut self) {
        self.resize = None;
    }

    pub(super) fn stage(&self) -> Stage {
        match self.resize {
            Some(len) => Stage::Resize { len },
            None if self.waiting.is_empty() && self.in_flight == 0 => Stage::Mark,
            None => Stage::Work,
        }
    }

    /// The next request that may be sent now.
    pub(super) fn next_work(
        &mut self,
        in_flight_max: usize,
        pace: &mut Pace,
        now: Moment,
        fence: Fence,
        known: &Known,
    ) -> Option<(usize, PageWork)> {
        if in_flight_max <= self.in_flight {
            return None;
        }
        let index = *self.waiting.front()?;
        let work = self.window.work(&self.requests[index].op, known);
        let (requests, len) = work.traffic();
        if !pace.take(requests, len, now) {
            return None;
        }
        self.waiting.pop_front();
        self.in_flight += 1;
        self.requests[index].fence = fence;
        Some((index, work))
    }

    /// A request was answered; one that was not carried out waits again. Returns the fence that it was sent under.
    pub(super) fn answered(&mut self, index: usize, is_done: bool) -> Fence {
        self.in_flight -= 1;
        if !is_done {
            self.waiting.push_back(index);
        }
        self.requests[index].fence
    }

    /// When the pace allows the next request, if nothing else is waited for.
    pub(super) fn waits_until(&self, in_flight_max: usize, pace: &Pace) -> Option<Moment> {
        let waits = !self.waiting.is_empty() && self.in_flight < in_flight_max;
        (waits && self.resize.is_none()).then(|| pace.ready_at())
    }
}

impl PageWork {
    /// What it covers.
    pub const fn extent(&self) -> Extent {
        match self {
            Self::Put { extent, .. } | Self::Clear { extent } => *extent,
        }
    }

    /// The sectors that have to be read in the target first, gaps and all.
    pub fn reads(&self) -> Option<Extent> {
        let Self::Put { parts, .. } = self else {
            return None;
        };
        let mut read = parts.iter().filter(|part| part.from == PartFrom::Target);
        let first = read.next()?;
        let last = read.next_back().unwrap_or(first);
        Extent::between(first.extent.start(), last.extent.end())
    }

    /// The windows that its bytes are staged for.
    pub fn windows(&self) -> impl Iterator<Item = u64> + '_ {
        let parts = match self {
            Self::Put { parts, .. } => &parts[..],
            Self::Clear { .. } => &[],
        };
        parts.iter().filter_map(|part| match part.from {
            PartFrom::Staged { window, .. } => Some(window),
            PartFrom::Zero | PartFrom::Target => None,
        })
    }

    /// Requests, and bytes that they move.
    fn traffic(&self) -> (u64, u64) {
        match self {
            Self::Clear { .. } => (1, 0),
            Self::Put { extent, .. } => match self.reads() {
                None => (1, extent.byte_len().0),
                Some(read) => (2, extent.byte_len().0 + read.byte_len().0),
            },
        }
    }
}
