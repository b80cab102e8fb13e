//! What a machine's objects say: where each disk stands, which instants can be restored, what is
//! damaged.
//!
//! Fed with the sections of the machine in path order. A disk's generations follow one another: a
//! new one states the position that it builds on, and only if that is where the disk stands is the
//! history whole; one that builds on nothing begins again with an empty disk. From a `resync complete` to the last block of its generation, every `Seq` that ends
//! a request is a recovery point of the disk; of the machine, where it is one of every disk that was
//! begun and not ended.

mod folded;
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use everpoint_format::index::{BlockEntry, Section};
use everpoint_format::record::Consistency;
use everpoint_format::{Change, DiskPosition};
use everpoint_marks::planted;
use everpoint_units::{
    BlockNo, DiskId, GenerationId, JournalId, MachineId, ObjectNo, Seq, WallTime,
};

use self::requests::Requests;

/// See the module.
#[derive(Clone, Debug)]
pub struct MachineHistory {
    machine: MachineId,
    disks: BTreeMap<DiskId, DiskHistory>,
    bookmarks: BTreeMap<Seq, Bookmark>,
    /// Capture time of the last change of each block, by that change's `Seq`.
    times: BTreeMap<Seq, WallTime>,
    highest_seq: Seq,
    /// Below this only what was kept is a point.
    every_from: Seq,
    /// Points below that.
    kept: BTreeSet<Seq>,
}

/// One disk of the machine.
#[derive(Clone, Debug)]
pub struct DiskHistory {
    pub name: String,
    /// Size as of the newest change. Unit: sectors.
    pub sectors: u64,
    /// 512 or 4096. Unit: bytes.
    pub block_size: u32,
    /// The last block.
    pub position: DiskPosition,
    /// No change of this disk at or below this is missing.
    pub complete_through: Seq,
    /// When the disk was one of the machine's, oldest first: all but the last have ended.
    pub lives: Vec<Life>,
    /// Sizes as they became, by `Seq`. Unit: sectors.
    pub sizes: BTreeMap<Seq, u64>,
    /// Where every request is a recovery point of this disk: disjoint, rising.
    pub spans: Vec<Span>,
    /// Order was lost for good: what came after this cannot be trusted.
    pub broken: Option<Broken>,
    level: bool,
    requests: Requests,
    /// With which `Seq` each copy began that builds on nothing, but the first.
    copies: Vec<Seq>,
}

/// When a disk joined the machine's cuts, and when it left them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Life {
    pub begun: Seq,
    pub ended: Option<Seq>,
}

/// A closed range of `Seq`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    pub from: Seq,
    pub through: Seq,
}

/// A named instant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bookmark {
    pub name: String,
    pub class: Consistency,
    /// True time, as all times of a history are.
    pub at: WallTime,
}

/// Where a disk's history stopped making sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("journal {journal}, {number}: disk {disk} has {found} where its history stands elsewhere")]
pub struct Broken {
    pub journal: JournalId,
    pub number: ObjectNo,
    pub disk: DiskId,
    /// What the object holds instead of what follows.
    pub found: BlockNo,
}

/// What a section is to its disk's history as far as that goes. Whoever folds a disk's sections asks this, for an
/// object that is damaged leaves others behind it that do not follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Joins {
    /// It goes on where the disk stands.
    Follows,
    /// A full copy that builds on nothing: the way out of damage, too.
    BeginsAgain,
    /// Something is missing before it.
    Not,
}

/// Why a `Seq` is no recovery point.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAPoint {
    /// Nothing is recoverable at all.
    #[error("nothing can be restored yet: no disk has finished its initial sync")]
    Nothing,
    /// A disk has no restorable state there.
    #[error("{seq} is not restorable{}", near(*before, *after))]
    Outside {
        seq: Seq,
        before: Option<Seq>,
        after: Option<Seq>,
    },
    /// In the middle of a guest's request.
    #[error("{seq} lies inside a request; its neighbours are {before} and {after}")]
    InsideRequest { seq: Seq, before: Seq, after: Seq },
}

fn near(before: Option<Seq>, after: Option<Seq>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("; nearest are {before} and {after}"),
        (Some(before), None) => format!("; the newest before it is {before}"),
        (None, Some(after)) => format!("; the first is {after}"),
        (None, None) => String::new(),
    }
}

impl MachineHistory {
    /// Nothing known yet.
    pub const fn new(machine: MachineId) -> Self {
        Self {
            machine,
            disks: BTreeMap::new(),
            bookmarks: BTreeMap::new(),
            times: BTreeMap::new(),
            highest_seq: Seq::ZERO,
            every_from: Seq::ZERO,
            kept: BTreeSet::new(),
        }
    }

    /// Folds one section of the object `number` of `journal`; sections of other machines are left
    /// alone. Returns whether the section was folded: after damage a disk's later history is not.
    pub fn fold(&mut self, section: &Section, journal: JournalId, number: ObjectNo) -> bool {
        if section.machine != self.machine {
            return false;
        }
        let Some(disk) = self.place(section, journal, number) else {
            return false;
        };
        let mut disk = disk;
        for block in &section.blocks {
            self.fold_block(&mut disk, block);
        }
        disk.position = section.end();
        self.disks.insert(section.disk, disk);
        true
    }

    /// The disk that the section continues, taken out to be folded; `None` where it does not follow.
    fn place(
        &mut self,
        section: &Section,
        journal: JournalId,
        number: ObjectNo,
    ) -> Option<DiskHistory> {
        let stands = self.disks.get(&section.disk).map(|disk| disk.position);
        let joins = Joins::of(section, stands);
        let Some(disk) = self.disks.get_mut(&section.disk) else {
            let begins = joins == Joins::BeginsAgain;
            return begins.then(|| DiskHistory::new(section.generation));
        };
        match joins {
            Joins::BeginsAgain => {
                // Older points stay.
                let mut disk = self.disks.remove(&section.disk)?;
                disk.begin_again(section);
                Some(disk)
            }
            Joins::Follows if disk.broken.is_none() => self.disks.remove(&section.disk),
            Joins::Follows => None,
            Joins::Not => {
                disk.broken.get_or_insert(Broken {
                    journal,
                    number,
                    disk: section.disk,
                    found: section.first_block,
                });
                None
            }
        }
    }

    fn fold_block(&mut self, disk: &mut DiskHistory, block: &BlockEntry) {
        for record in &block.records {
            let seq = record.seq;
            if let Change::DiskBegin { .. } | Change::ResyncBegin { .. } = record.change {
                disk.requests.cut_off();
                disk.join(seq);
            }
            disk.requests.fold(seq, record.ends_request);
            match &record.change {
                Change::DiskBegin {
                    sectors,
                    block_size,
                    name,
                } => {
                    disk.name = name.to_string();
                    disk.block_size = *block_size;
                    disk.resize(seq, *sectors);
                }
                Change::Resize { sectors } => disk.resize(seq, *sectors),
                Change::DiskEnd => disk.leave(seq),
                Change::ResyncBegin { .. } if planted!(PointsWhileResyncing) => (),
                Change::ResyncBegin { .. } => disk.level = false,
                Change::ResyncComplete => {
                    disk.level = true;
                    disk.spans.push(Span {
                        from: seq,
                        through: seq,
                    });
                }
                Change::Bookmark { class, name, at } => {
                    let at = at.shifted(block.captured.clock_offset_us);
                    self.bookmarks.insert(
                        seq,
                        Bookmark {
                            name: name.to_string(),
                            class: *class,
                            at,
                        },
                    );
                    self.times.insert(seq, at);
                }
                Change::Data(_)
                | Change::Zero(_)
                | Change::Discard(_)
                | Change::Reference { .. } => (),
            }
        }
        disk.complete_through = disk.complete_through.max(block.complete_through);
        self.highest_seq = self.highest_seq.max(block.complete_through);
        if let Some(last) = block.records.last() {
            let time = block.captured.last.shifted(block.captured.clock_offset_us);
            self.times.insert(last.seq, time);
        }
        if disk.level
            && let Some(span) = disk.spans.last_mut()
        {
            span.through = disk.complete_through;
        }
    }

    /// The machine.
    pub const fn machine(&self) -> MachineId {
        self.machine
    }

    /// Its disks, ended ones included.
    pub const fn disks(&self) -> &BTreeMap<DiskId, DiskHistory> {
        &self.disks
    }

    /// Its bookmarks, restorable or not.
    pub const fn bookmarks(&self) -> &BTreeMap<Seq, Bookmark> {
        &self.bookmarks
    }

    /// The highest `Seq` that anything states.
    pub const fn highest_seq(&self) -> Seq {
        self.highest_seq
    }

    /// Where every request is a recovery point: of one disk, or of the machine, which needs all
    /// disks that are begun and not ended there. Disjoint, rising; ends are lowered to the end of a
    /// request.
    pub fn windows(&self, disk: Option<DiskId>) -> Vec<Span> {
        let raw = match disk {
            Some(disk) => self.disks.get(&disk).map_or(Vec::new(), DiskHistory::alive),
            None => self.machine_windows(),
        };
        raw.into_iter()
            .flat_map(|span| self.kept_of(span))
            .filter_map(|span| {
                let through = self.floor_to_request(disk, span.through);
                (span.from <= through).then_some(Span { through, ..span })
            })
            .collect()
    }

    /// What a policy kept of a span: points below, and every write from there on.
    fn kept_of(&self, span: Span) -> impl Iterator<Item = Span> {
        let last = span.through.min(Seq(self.every_from.0.saturating_sub(1)));
        let below = (span.from <= last).then(|| self.kept.range(span.from..=last));
        let below = below.into_iter().flatten().map(|&seq| Span {
            from: seq,
            through: seq,
        });
        let from = span.from.max(self.every_from);
        let through = span.through;
        below.chain((from <= through).then_some(Span { from, through }))
    }

    fn machine_windows(&self) -> Vec<Span> {
        let mut edges: Vec<Seq> = Vec::new();
        for disk in self.disks.values() {
            edges.extend(disk.lives.iter().map(|life| life.begun));
            edges.extend(disk.lives.iter().filter_map(|life| life.ended));
            edges.extend(disk.spans.iter().flat_map(|s| [s.from, s.through.next()]));
        }
        edges.sort_unstable();
        edges.dedup();
        let covered = |seq: Seq| {
            let mut any = false;
            let all = self.disks.values().all(|disk| {
                let lives = disk.lives_at(seq);
                any |= lives;
                !lives || disk.spans.iter().any(|span| span.contains(seq))
            });
            all && any
        };
        let mut windows: Vec<Span> = Vec::new();
        for pair in edges.windows(2) {
            let [from, next] = [pair[0], pair[1]];
            if !covered(from) {
                continue;
            }
            let through = Seq(next.0 - 1);
            match windows.last_mut() {
                Some(last) if last.through.next() == from => last.through = through,
                _ => windows.push(Span { from, through }),
            }
        }
        windows
    }

    /// The newest recovery point of a disk or of the machine.
    ///
    /// # Errors
    ///
    /// [`NotAPoint::Nothing`] when there is none.
    pub fn latest(&self, disk: Option<DiskId>) -> Result<Seq, NotAPoint> {
        self.windows(disk)
            .last()
            .map(|span| span.through)
            .ok_or(NotAPoint::Nothing)
    }

    /// Checks that `seq` is a recovery point.
    ///
    /// # Errors
    ///
    /// [`NotAPoint`] with the nearest ones.
    pub fn check_point(&self, disk: Option<DiskId>, seq: Seq) -> Result<(), NotAPoint> {
        let windows = self.windows(disk);
        if windows.is_empty() {
            return Err(NotAPoint::Nothing);
        }
        if let Some((before, Some(after))) = self.request_around(disk, seq) {
            return Err(NotAPoint::InsideRequest { seq, before, after });
        }
        if windows.iter().any(|span| span.contains(seq)) {
            return Ok(());
        }
        Err(NotAPoint::Outside {
            seq,
            before: windows
                .iter()
                .rev()
                .map(|span| span.through)
                .find(|&through| through < seq),
            after: windows
                .iter()
                .map(|span| span.from)
                .find(|&from| seq < from),
        })
    }

    /// The highest recovery point whose time, made monotone over `Seq`, is at or before `time`.
    ///
    /// # Errors
    ///
    /// [`NotAPoint`] when there is none so early.
    pub fn at_time(&self, disk: Option<DiskId>, time: WallTime) -> Result<Seq, NotAPoint> {
        let windows = self.windows(disk);
        let first = windows.first().ok_or(NotAPoint::Nothing)?.from;
        let mut newest = WallTime(0);
        let mut limit = None;
        for (&seq, &at) in &self.times {
            newest = newest.max(at);
            if time < newest {
                break;
            }
            limit = Some(seq);
        }
        let outside = |seq| NotAPoint::Outside {
            seq,
            before: None,
            after: Some(first),
        };
        let limit = self.floor_to_request(disk, limit.ok_or_else(|| outside(Seq::ZERO))?);
        windows
            .iter()
            .rev()
            .find(|span| span.from <= limit)
            .map(|span| span.through.min(limit))
            .ok_or_else(|| outside(limit))
    }

    /// Capture time of the newest change at or below `seq`, made monotone.
    pub fn time_of(&self, seq: Seq) -> Option<WallTime> {
        self.times.range(..=seq).map(|(_, &at)| at).max()
    }

    /// The request of this disk, or of any, that `seq` lies inside: as [`Requests::around`] says.
    fn request_around(&self, disk: Option<DiskId>, seq: Seq) -> Option<(Seq, Option<Seq>)> {
        match disk {
            Some(disk) => self.disks.get(&disk)?.requests.around(seq),
            None => self
                .disks
                .values()
                .find_map(|disk| disk.requests.around(seq)),
        }
    }

    fn floor_to_request(&self, disk: Option<DiskId>, seq: Seq) -> Seq {
        self.request_around(disk, seq)
            .map_or(seq, |(before, _)| before)
    }
}

impl DiskHistory {
    fn new(generation: GenerationId) -> Self {
        Self {
            name: String::new(),
            sectors: 0,
            block_size: 512,
            position: DiskPosition::start_of(generation),
            complete_through: Seq::ZERO,
            lives: Vec::new(),
            sizes: BTreeMap::new(),
            spans: Vec::new(),
            broken: None,
            level: false,
            requests: Requests::default(),
            copies: Vec::new(),
        }
    }

    /// Whether the newest generation has its resync behind it.
    pub const fn is_level(&self) -> bool {
        self.level
    }

    /// How many copies that build on nothing it had begun, after the first.
    pub fn copy(&self) -> u32 {
        u32::try_from(self.copies.len()).expect("a copy of a disk takes longer than that")
    }

    /// Whether the disk is one of the machine's at `seq`.
    pub fn lives_at(&self, seq: Seq) -> bool {
        self.lives.iter().any(|life| life.contains(seq))
    }

    /// Whether the disk left the machine, and has not come back.
    pub fn has_ended(&self) -> bool {
        self.lives.last().is_some_and(|life| life.ended.is_some())
    }

    /// The disk's size at `seq`. Unit: sectors.
    pub fn sectors_at(&self, seq: Seq) -> u64 {
        self.sizes
            .range(..=seq)
            .next_back()
            .map_or(0, |(_, &sectors)| sectors)
    }

    /// A copy begins that builds on nothing. Usually all of it is newer than what was there. But where
    /// an object was damaged, a server may have had those blocks in its log still, and have committed
    /// them for the second time: then the copy counts from its first `Seq` on, and what lay at or above
    /// that is the copy's to say.
    fn begin_again(&mut self, section: &Section) {
        let records = section.blocks.iter().flat_map(|block| &block.records);
        if let Some(first) = records.map(|record| record.seq).next() {
            let before = Seq(first.0.saturating_sub(1));
            self.spans.retain(|span| span.from < first);
            for span in &mut self.spans {
                span.through = span.through.min(before);
            }
            self.complete_through = self.complete_through.min(before);
            self.lives.retain(|life| life.begun < first);
            if let Some(life) = self.lives.last_mut() {
                life.ended = life.ended.filter(|ended| *ended < first);
            }
            self.requests.forget_from(first);
            self.copies.push(first);
        }
        self.broken = None;
        self.level = false;
    }

    fn resize(&mut self, seq: Seq, sectors: u64) {
        self.sectors = sectors;
        self.sizes.insert(seq, sectors);
    }

    /// A copy of the disk begins: from here on it is one of the machine's.
    fn join(&mut self, seq: Seq) {
        if self.lives.is_empty() || self.has_ended() {
            self.lives.push(Life {
                begun: seq,
                ended: None,
            });
        }
    }

    fn leave(&mut self, seq: Seq) {
        if let Some(life) = self.lives.last_mut() {
            life.ended.get_or_insert(seq);
        }
    }

    /// Spans up to the end of the life that they are of.
    fn alive(&self) -> Vec<Span> {
        let spans = self.spans.iter().filter_map(|span| {
            let life = self.lives.iter().find(|life| life.contains(span.from))?;
            let last = life.ended.map_or(Seq(u64::MAX), |ended| Seq(ended.0 - 1));
            Some(Span {
                from: span.from,
                through: span.through.min(last),
            })
        });
        spans.collect()
    }
}

impl Life {
    /// Whether the disk was one of the machine's at `seq`, in this life.
    pub fn contains(self, seq: Seq) -> bool {
        self.begun <= seq && self.ended.is_none_or(|ended| seq < ended)
    }
}

impl Span {
    /// Whether `seq` lies inside.
    pub fn contains(self, seq: Seq) -> bool {
        self.from <= seq && seq <= self.through
    }
}

impl Joins {
    /// What the section is to a disk that stands at `stands`; `None`: of which nothing is known.
    pub fn of(section: &Section, stands: Option<DiskPosition>) -> Self {
        let begins = section.before() == DiskPosition::start_of(section.generation);
        let base = begins.then(|| stated_base(section)).flatten();
        let follows =
            |stands: DiskPosition| section.before() == stands || base == Some(Some(stands));
        match base {
            Some(None) => Self::BeginsAgain,
            _ if stands.is_some_and(follows) => Self::Follows,
            _ => Self::Not,
        }
    }
}

/// What a generation's first block says that it builds on; `None` if it says nothing, which no
/// generation may.
pub fn stated_base(section: &Section) -> Option<Option<DiskPosition>> {
    let first = section.blocks.first()?;
    first.records.iter().find_map(|record| match record.change {
        Change::ResyncBegin { base } => Some(base),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
