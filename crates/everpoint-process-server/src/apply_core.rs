//! How one disk's replica is brought forward: what is written there, when, under which fence, and what an answer
//! means. Pure.
//!
//! ```text
//! claim:   look ─▶ (create) ─▶ raise the fence ─▶ lease taken and given back ─▶ measure ─▶ read the mark ─▶ follow
//! follow:  objects ──fold──▶ window ──due──▶ plan ─▶ puts and clears, disjoint ─▶ mark ─▶ next window
//! ```
//!
//! Only objects that are committed come in, in the order of the machine's path. A window coalesces them: what was
//! written last counts. Its requests never overlap, and the next window's begin only when all of them and the mark are
//! done. So the replica always holds everything that its mark says, and beyond that nothing but parts of what is
//! committed: whoever goes on from the mark writes those again.
//!
//! What may have been carried out, or may yet be, is fenced before anything else is written: the fence is raised, and
//! a request that was under way under the old one either was carried out before that or never is. Whether this server
//! still leads is asked of the machine's path, never of the target.

mod back_off;
mod effect;
pub mod fold;
mod known;
pub mod pace;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use everpoint_format::replica::{Applied, Mark};
use everpoint_marks::{planted, reached};
use everpoint_reduction::{Costs, PageOp, Part, Source, plan};
use everpoint_replica::{Fence, Remedy};
use everpoint_units::{
    ByteLen, ByteOffset, DiskId, Extent, JournalId, Level, MachineId, Moment, ObjectNo, SECTOR_LEN,
    VaultId,
};

use self::back_off::BackOff;
pub use self::effect::{ApplyReport, ApplyState, Effect, Looked, MarkFound, Obstacle};
use self::fold::ObjectFold;
use self::known::Known;
use self::pace::Pace;
pub use self::pace::Rates;
use self::window::{Flush, Stage, Window};
pub use self::window::{PageWork, PartFrom, RUN_LEN, Staged, WorkPart};
pub use crate::ownership_core::Leads;

/// The disk that is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Followed {
    pub vault: VaultId,
    pub machine: MachineId,
    pub disk: DiskId,
    /// As the machine's history has it now; a new target is made so long. Unit: sectors.
    pub sectors: u64,
}

/// What a replica may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ApplyLimits {
    pub window_min: Duration,
    pub window_max: Duration,
    /// What a window may hold; from then on it is due. Unit: bytes.
    pub window_len_max: ByteLen,
    /// How many runs it may remember; from then on it is due.
    pub window_runs_max: usize,
    /// Of windows that are written, and kept to fill gaps with. Unit: bytes.
    pub known_len_max: ByteLen,
    /// Requests under way at once.
    pub in_flight_max: usize,
    pub rates: Rates,
    pub put_len_max: ByteLen,
    pub back_off_min: Duration,
    pub back_off_max: Duration,
}

/// How much room there is for what waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Room {
    Plenty,
    /// What can be had again is given up.
    Little,
    /// What waits is written.
    None,
}

/// What it is about now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Look,
    Create,
    Raise { to: Fence, then: After },
    Lease,
    Measure,
    ReadMark,
    Begin,
    Wipe,
    Follow,
    AskWhoLeads,
    Fenced,
}

/// What the fence is raised for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum After {
    Claim,
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub struct ApplyCore {
    about: Followed,
    limits: ApplyLimits,
    level: Level,
    step: Step,
    /// The step's request is under way.
    asked: bool,
    fence: Fence,
    /// Of the target. Unit: bytes.
    len: ByteLen,
    /// What the mark says.
    applied: Option<Applied>,
    filling: Window,
    flush: Option<Flush>,
    known: Known,
    pace: Pace,
    window: Duration,
    next_window: u64,
    effects: VecDeque<Effect>,
    again_at: Option<Moment>,
    back_off: BackOff,
    blocked: Option<Option<Obstacle>>,
    wants_rebuild: bool,
    hurries: bool,
    /// An object is fetched that goes into the present window.
    fetches: bool,
}

impl ApplyCore {
    /// A replica that this server, whose journal has `level`, is to bring forward: the machine's path leads to it.
    pub fn new(about: Followed, level: Level, limits: ApplyLimits) -> Self {
        Self {
            about,
            limits,
            level,
            step: Step::Look,
            asked: false,
            fence: Fence::NONE,
            len: ByteLen(0),
            applied: None,
            filling: Window::new(0, about.sectors),
            flush: None,
            known: Known::default(),
            pace: Pace::new(limits.rates),
            window: limits.window_min,
            next_window: 1,
            effects: VecDeque::new(),
            again_at: None,
            back_off: BackOff::new(limits.back_off_min, limits.back_off_max),
            blocked: None,
            wants_rebuild: false,
            hurries: false,
            fetches: false,
        }
    }

    /// The next thing to do at `now`, until there is none.
    #[must_use]
    pub fn poll(&mut self, now: Moment) -> Option<Effect> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.asked || self.again_at.is_some_and(|at| now < at) {
            return None;
        }
        self.again_at = None;
        if self.wants_rebuild && self.step == Step::Follow && self.is_quiet() {
            self.wants_rebuild = false;
            self.give_up_windows();
            self.applied = None;
            self.step = Step::Begin;
            reached!(ReplicaRebuilt);
        }
        // What is under way under an old fence has to be answered before anything is begun anew.
        if matches!(self.step, Step::Look) && !self.is_quiet() {
            return None;
        }
        if self.step == Step::Look && (self.flush.is_some() || self.filling.has_moved()) {
            self.give_up_windows();
            return self.effects.pop_front();
        }
        let effect = match self.step {
            Step::Look | Step::Measure => Effect::Look,
            Step::Create => return self.create(now),
            Step::Lease => Effect::Lease,
            Step::Raise { to, .. } => Effect::Raise { to },
            Step::ReadMark => Effect::ReadMark { at: self.mark_at() },
            Step::Begin => Effect::PutMark {
                at: self.mark_at(),
                mark: self.mark(self.about.sectors, None),
                fence: self.fence,
            },
            Step::Wipe => Effect::Wipe {
                len: ByteLen(self.mark_at().0),
                fence: self.fence,
            },
            Step::AskWhoLeads => Effect::AskWhoLeads,
            Step::Follow => return self.follow(now),
            Step::Fenced => return None,
        };
        self.asked = true;
        Some(effect)
    }

    /// When [`Self::poll`] has something to say by time alone.
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.asked {
            return None;
        }
        if self.again_at.is_some() {
            return self.again_at;
        }
        if self.step != Step::Follow {
            return None;
        }
        match &self.flush {
            Some(flush) => flush.waits_until(self.limits.in_flight_max, &self.pace),
            // The window waits for the object.
            None if self.fetches => None,
            None => self.filling.due_at(self.window, self.limits.window_max),
        }
    }

    /// Whether the next object of the path may be handed in.
    pub fn wants_object(&self) -> bool {
        self.step == Step::Follow
            && !self.wants_rebuild
            && !self.fetches
            && self.effects.is_empty()
            && !self.is_full()
    }

    /// What the next object is folded on.
    pub fn stands(&self) -> fold::Stands {
        self.filling.stands()
    }

    /// The next object is fetched: it goes into the window that this names, and what it needs is staged for that. The
    /// window waits for it, up to [`Self::handle_object`] or [`Self::handle_no_object`].
    pub const fn begin_object(&mut self) -> u64 {
        self.fetches = true;
        self.filling.number()
    }

    /// The object that was fetched comes to nothing.
    pub const fn handle_no_object(&mut self) {
        self.fetches = false;
    }

    /// The window that objects go into now. Where it is not the one that an object was fetched for, that object counts
    /// for nothing.
    pub const fn window(&self) -> u64 {
        self.filling.number()
    }

    /// The next object of the path was folded, and the bytes of its data records are where `staged` says.
    pub fn handle_object(
        &mut self,
        journal: JournalId,
        number: ObjectNo,
        fold: ObjectFold,
        staged: Vec<(Extent, Staged)>,
        now: Moment,
    ) {
        self.fetches = false;
        self.filling.take(journal, number, fold, staged, now);
    }

    /// What is there.
    pub fn handle_look(&mut self, looked: Result<Looked, Remedy>, now: Moment) {
        self.asked = false;
        match looked {
            Err(remedy) => self.put_off(remedy, now),
            Ok(Looked::Nothing) => self.step = Step::Create,
            Ok(Looked::Target { fence, .. }) if fence == Fence::NONE => {
                self.block(Obstacle::NoReplica, now);
            }
            Ok(Looked::Target { len, fence }) if self.step == Step::Measure => {
                self.len = len;
                self.step = match fence == self.fence {
                    true => Step::ReadMark,
                    false => Step::AskWhoLeads,
                };
            }
            Ok(Looked::Target { fence, .. }) => {
                self.fence = self.fence.max(fence);
                match self.own_fence() {
                    Ok(to) => {
                        let then = After::Claim;
                        self.step = Step::Raise { to, then };
                    }
                    Err(obstacle) => self.block(obstacle, now),
                }
            }
        }
    }

    /// Whether it was made.
    pub fn handle_created(&mut self, created: Result<(), Remedy>, now: Moment) {
        self.asked = false;
        match created {
            Ok(()) => (),
            // What cannot be made, for whatever reason, is not asked for again at once.
            Err(Remedy::RaiseFence) => self.put_off(Remedy::Again { after: None }, now),
            Err(remedy) => self.put_off(remedy, now),
        }
        // Whatever it came to: what is there now is looked at, by the one way there is.
        if self.step == Step::Create {
            self.step = Step::Look;
        }
    }

    /// Whether the lease was had.
    pub fn handle_leased(&mut self, leased: Result<(), Remedy>, now: Moment) {
        self.asked = false;
        match leased {
            Ok(()) => self.step = Step::Measure,
            Err(remedy) => self.put_off(remedy, now),
        }
    }

    /// What the fence is now.
    pub fn handle_raised(&mut self, raised: Result<Fence, Remedy>, now: Moment) {
        self.asked = false;
        let Step::Raise { to, then } = self.step else {
            return;
        };
        match raised {
            // The same again: the highest counts, so that is no other request.
            Err(Remedy::RaiseFence) => self.put_off(Remedy::Again { after: None }, now),
            Err(remedy) => self.put_off(remedy, now),
            Ok(fence) if fence == to => {
                self.fence = fence;
                self.step = match then {
                    After::Claim => Step::Lease,
                    After::Unknown => Step::Follow,
                };
            }
            // Somebody was there: perhaps another life of this server, whose level it is too.
            Ok(fence) => {
                self.fence = self.fence.max(fence);
                self.step = if fence.level() == to.level() {
                    Step::Look
                } else {
                    Step::AskWhoLeads
                };
            }
        }
    }

    /// What the last page holds.
    pub fn handle_mark(&mut self, found: Result<MarkFound, Remedy>, now: Moment) {
        self.asked = false;
        let about = &self.about;
        match found {
            Err(remedy) => self.put_off(remedy, now),
            Ok(MarkFound::Footer) => self.block(Obstacle::NoReplica, now),
            Ok(MarkFound::Mark(mark)) if mark.vault != about.vault => {
                self.block(Obstacle::OtherVault, now);
            }
            Ok(MarkFound::Mark(mark))
                if (mark.machine, mark.disk) != (about.machine, about.disk) =>
            {
                self.block(Obstacle::OtherDisk, now);
            }
            Ok(MarkFound::Mark(mark)) if Mark::target_len(mark.sectors) == self.len => {
                match mark.applied {
                    Some(applied) => self.begin_to_follow(Some(applied), mark.sectors),
                    None => self.step = Step::Wipe,
                }
            }
            // Somebody of this disk's writers was interrupted: what is there is not known.
            Ok(MarkFound::Mark(_) | MarkFound::Nothing) => self.step = Step::Begin,
        }
    }

    /// What the machine's path says.
    pub fn handle_leads(&mut self, leads: Option<Leads>, now: Moment) {
        self.asked = false;
        match leads {
            None => self.put_off(Remedy::Again { after: None }, now),
            Some(Leads::Elsewhere) => {
                reached!(ReplicaFenced);
                self.step = Step::Fenced;
            }
            Some(Leads::Here { level }) => {
                let had = std::mem::replace(&mut self.level, level);
                self.step = Step::Look;
                if had == level && level < self.fence.level() {
                    self.block(Obstacle::StrangeFence, now);
                }
            }
        }
    }

    /// A request that changes the target, and is no part of a window, was answered.
    pub fn handle_done(&mut self, done: Result<(), Remedy>, now: Moment) {
        self.asked = false;
        if let Err(remedy) = done {
            return self.not_done(remedy, self.fence, now);
        }
        match self.step {
            Step::Begin => self.step = Step::Wipe,
            Step::Wipe => self.begin_to_follow(None, self.about.sectors),
            Step::Follow => {
                self.settled();
                self.stage_done(now);
            }
            step => unreachable!("{step:?} asks for nothing of the kind"),
        }
    }

    /// A put or clear of the window was answered.
    pub fn handle_work(&mut self, index: usize, done: Result<(), Remedy>, now: Moment) {
        let Some(flush) = &mut self.flush else {
            unreachable!("work is part of a window");
        };
        let fence = flush.answered(index, done.is_ok());
        match done {
            Ok(()) => {
                self.pace.handle_done(now);
                self.settled();
            }
            Err(remedy) => self.not_done(remedy, fence, now),
        }
    }

    /// The path that was to be followed does not lead through the mark's object any more: its bytes are not to be
    /// trusted.
    pub fn handle_lost_path(&mut self) {
        self.handle_rebuild();
    }

    /// Everything is to be written again, from the origin on.
    pub fn handle_rebuild(&mut self) {
        self.wants_rebuild = true;
    }

    /// How much room there is now, for this one and others.
    pub fn handle_room(&mut self, room: Room) {
        self.hurries = room == Room::None;
        // Requests that are planned may fill gaps with it.
        if room != Room::Plenty && self.flush.is_none() {
            self.forget_known();
        }
    }

    /// Runs that it remembers.
    pub fn runs(&self) -> usize {
        let flushing = self.flush.as_ref().map_or(0, |flush| flush.window().runs());
        self.filling.runs() + flushing + self.known.pieces().len()
    }

    /// How it stands.
    pub fn report(&self) -> ApplyReport {
        let state = match (self.step, self.blocked, self.again_at) {
            (Step::Fenced, ..) => ApplyState::Fenced,
            (_, Some(obstacle), _) => ApplyState::Blocked(obstacle),
            (_, None, Some(_)) => ApplyState::Waiting,
            (
                Step::Follow
                | Step::Raise {
                    then: After::Unknown,
                    ..
                },
                ..,
            ) => match self.applied {
                Some(_) => ApplyState::Following,
                None => ApplyState::Filling,
            },
            _ => ApplyState::Claiming,
        };
        let flushing = self
            .flush
            .as_ref()
            .map_or(0, |flush| flush.window().len().0);
        ApplyReport {
            state,
            applied: self.applied,
            sectors: self.about.sectors,
            staged: ByteLen(self.filling.len().0 + flushing),
            window: self.window,
        }
    }

    /// Whether everything that was handed in is in the target, and its mark says so.
    pub fn is_settled(&self) -> bool {
        let has_windows = self.flush.is_some() || self.filling.has_moved();
        self.step == Step::Follow && !has_windows && self.effects.is_empty() && !self.wants_rebuild
    }

    // -- following ----------------------------------------------------------------------------------

    fn follow(&mut self, now: Moment) -> Option<Effect> {
        if self.flush.is_none() && !self.begin_flush(now) {
            return None;
        }
        let flush = self.flush.as_mut().expect("begun");
        match flush.stage() {
            Stage::Resize { len } => {
                self.asked = true;
                let fence = self.fence;
                Some(Effect::Resize { len, fence })
            }
            Stage::Work => {
                let in_flight_max = self.limits.in_flight_max;
                let (index, work) =
                    flush.next_work(in_flight_max, &mut self.pace, now, self.fence, &self.known)?;
                let fence = self.fence;
                Some(Effect::Work { index, fence, work })
            }
            Stage::Mark => {
                let (sectors, applied) = flush.window().outcome();
                self.asked = true;
                Some(Effect::PutMark {
                    at: self.mark_at(),
                    mark: self.mark(sectors, applied),
                    fence: self.fence,
                })
            }
        }
    }

    /// Begins to write a window that is due.
    fn begin_flush(&mut self, now: Moment) -> bool {
        if self.fetches {
            return false;
        }
        let due = self.filling.due_at(self.window, self.limits.window_max);
        let hurried = self.hurries && self.filling.has_moved();
        if !(self.is_full() || hurried || due.is_some_and(|due| due <= now)) {
            return false;
        }
        let next = Window::behind(&self.filling, self.next_window);
        self.next_window += 1;
        let window = std::mem::replace(&mut self.filling, next);
        let (sectors, _) = window.outcome();
        let len = Mark::target_len(sectors);
        let old_mark = (len != self.len).then(|| self.mark_at());
        let needs = window.needs(old_mark.filter(|at| at.0 + SECTOR_LEN < len.0));
        if old_mark.is_some() {
            // What was cut off, and where the mark was, is not told apart here.
            self.forget_known();
        }
        let requests = plan(&needs, self.known.pieces(), &self.costs());
        if requests.iter().any(fills_a_gap) {
            reached!(ReplicaGapFilled);
        }
        let resize = old_mark.map(|_| len);
        self.flush = Some(Flush::new(window, resize, requests, now));
        true
    }

    /// Whether no more goes into the window that is filled.
    fn is_full(&self) -> bool {
        let (len, runs) = (self.filling.len(), self.filling.runs());
        self.limits.window_len_max <= len || self.limits.window_runs_max <= runs
    }

    fn forget_known(&mut self) {
        let gone = self.known.forget();
        self.not_needed(gone);
    }

    fn not_needed(&mut self, windows: Vec<u64>) {
        let forget = windows.into_iter().map(|window| Effect::Forget { window });
        self.effects.extend(forget);
    }

    /// A resize or the mark is done.
    fn stage_done(&mut self, now: Moment) {
        let flush = self.flush.as_mut().expect("a stage is a flush's");
        match flush.stage() {
            Stage::Resize { len } => {
                self.len = len;
                flush.resized();
            }
            Stage::Work => unreachable!("work is answered apart"),
            Stage::Mark => {
                let flush = self.flush.take().expect("looked at");
                let (sectors, applied) = flush.window().outcome();
                self.applied = applied;
                self.about.sectors = sectors;
                let gone = self.known.add(flush.window(), self.limits.known_len_max);
                self.not_needed(gone);
                // So much time again for the next: half of the time at most goes into requests.
                let took = now.since(flush.began()) * 2;
                let window = took.max(self.window / 2);
                self.window = window.clamp(self.limits.window_min, self.limits.window_max);
            }
        }
    }

    /// Something that changes the target was not done, or that is not known.
    fn not_done(&mut self, remedy: Remedy, fence: Fence, now: Moment) {
        match remedy {
            Remedy::Again { .. } => {
                self.pace.handle_busy(now);
                self.put_off(remedy, now);
            }
            Remedy::RaiseFence if planted!(FenceNotRaised) => (),
            Remedy::RaiseFence if fence == self.fence => self.raise_for_unknown(now),
            // It was sent before the fence was raised for another: never carried out, or it is done again.
            Remedy::RaiseFence | Remedy::LookWhoLeads if fence < self.fence => (),
            Remedy::RaiseFence | Remedy::LookWhoLeads => {
                if !matches!(self.step, Step::Raise { .. }) {
                    self.step = Step::AskWhoLeads;
                }
            }
            Remedy::Report => self.put_off(remedy, now),
        }
    }

    fn raise_for_unknown(&mut self, now: Moment) {
        let then = match self.step {
            Step::Follow => After::Unknown,
            // It is raised already, or begun anew, which raises it too.
            Step::Begin | Step::Wipe => After::Claim,
            _ => return,
        };
        reached!(ReplicaOutcomeUnknown);
        // A change of length is not fenced: what it came to is looked at.
        let resizes = self.flush.as_ref().is_some_and(Flush::resizes);
        match self.fence.next() {
            Some(to) if !resizes => self.step = Step::Raise { to, then },
            Some(_) => self.step = Step::Look,
            None => self.block(Obstacle::StrangeFence, now),
        }
    }

    // -- claiming -----------------------------------------------------------------------------------

    fn create(&mut self, now: Moment) -> Option<Effect> {
        let len = Mark::target_len(self.about.sectors);
        match self.own_fence() {
            Ok(fence) if len.0 <= everpoint_replica::TARGET_LEN_MAX => {
                self.asked = true;
                Some(Effect::Create { len, fence })
            }
            Ok(_) => {
                self.block(Obstacle::DiskTooLarge, now);
                None
            }
            Err(obstacle) => {
                self.block(obstacle, now);
                None
            }
        }
    }

    /// The first fence of this server's own that nothing was sent under.
    fn own_fence(&self) -> Result<Fence, Obstacle> {
        let first = Fence::first_of(self.level).ok_or(Obstacle::LevelTooHigh)?;
        if self.fence < first {
            return Ok(first);
        }
        if self.fence.level() == self.level {
            return self.fence.next().ok_or(Obstacle::StrangeFence);
        }
        // A later level than this one's: raising says so, and the path is asked.
        Ok(first)
    }

    /// Follows from a mark, or from nothing.
    fn begin_to_follow(&mut self, applied: Option<Applied>, sectors: u64) {
        self.applied = applied;
        self.about.sectors = sectors;
        let number = self.next_window;
        self.next_window += 1;
        self.filling = Window::new(number, sectors);
        self.filling.begin(applied);
        self.step = Step::Follow;
        self.settled();
        self.forget_known();
        let after = applied.map(|applied| (applied.journal, applied.number));
        self.effects.push_back(Effect::Follow { after });
    }

    /// What was collected counts for nothing.
    fn give_up_windows(&mut self) {
        if let Some(flush) = self.flush.take() {
            let window = flush.window().number();
            self.effects.push_back(Effect::Forget { window });
        }
        let number = self.next_window;
        self.next_window += 1;
        let window = self.filling.number();
        self.filling = Window::new(number, self.about.sectors);
        self.effects.push_back(Effect::Forget { window });
        self.forget_known();
    }

    // -- trouble ------------------------------------------------------------------------------------

    /// The same again after a pause, longer each time that it comes to nothing.
    fn put_off(&mut self, remedy: Remedy, now: Moment) {
        match remedy {
            Remedy::LookWhoLeads => self.step = Step::AskWhoLeads,
            Remedy::RaiseFence | Remedy::Report | Remedy::Again { .. } => {
                let pause = self.back_off.pause(self.step);
                if remedy == Remedy::Report {
                    self.blocked = Some(None);
                    self.step = Step::Look;
                }
                let asked_for = match remedy {
                    Remedy::Again { after } => after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                let at = now.after(pause.max(asked_for));
                self.again_at = Some(self.again_at.map_or(at, |known| known.max(at)));
            }
        }
    }

    /// A person has to do something: it is looked at again now and then.
    fn block(&mut self, obstacle: Obstacle, now: Moment) {
        self.blocked = Some(Some(obstacle));
        self.step = Step::Look;
        self.again_at = Some(now.after(self.limits.back_off_max));
    }

    /// Something of a window went well.
    const fn settled(&mut self) {
        self.back_off.begin_anew();
        self.blocked = None;
    }

    /// Whether nothing of a window is under way.
    fn is_quiet(&self) -> bool {
        self.flush.as_ref().is_none_or(Flush::is_quiet)
    }

    // -- what is where ------------------------------------------------------------------------------

    fn mark_at(&self) -> ByteOffset {
        ByteOffset(self.len.0.saturating_sub(SECTOR_LEN))
    }

    const fn mark(&self, sectors: u64, applied: Option<Applied>) -> Mark {
        Mark {
            vault: self.about.vault,
            machine: self.about.machine,
            disk: self.about.disk,
            sectors,
            applied,
        }
    }

    const fn costs(&self) -> Costs {
        let rates = &self.limits.rates;
        let request = rates.bytes_per_s / rates.requests_per_s;
        Costs {
            request,
            read: request,
            put_sectors_max: self.limits.put_len_max.0 / SECTOR_LEN,
        }
    }
}

/// Whether it fills a gap with what is known.
fn fills_a_gap(op: &PageOp) -> bool {
    let known = |part: &Part| part.source == Source::Known;
    matches!(op, PageOp::Put { parts, .. } if parts.iter().any(known))
}

#[cfg(test)]
mod tests;
