//! One task a replica: the shell round its core ([`crate::apply_core`]), which decides what is written and when.
//!
//! ```text
//! commit ──objects at hand──┐
//! vault ──path, objects─────┴─▶ staged ─▶ core ─▶ requests to the target
//! ```
//!
//! Where apply goes on after a start is what the target's mark says; from there on the machine's path in the vault is
//! read, up to what this server has committed, and then objects come as they are committed.

mod lease;
mod objects;
mod requests;
pub(crate) mod staging;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use everpoint_format::data::DataIndex;
use everpoint_journal::path::PathEnd;
use everpoint_replica::{PageTarget, Remedy};
use everpoint_units::{JournalId, MachineId, Moment, ObjectNo};
use everpoint_vault::history::{HistoryError, walk, walk_from};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::apply_core::{ApplyCore, ApplyReport, ApplyState, Effect, Followed, PageWork, Room};
use crate::blocking::outcome;
use crate::metrics;
use crate::ownership_core::Leads;
use crate::replicas::{Replicas, RunCount};
use crate::shared::{Shared, chain};

use lease::Lease;
use objects::{StageError, StagedObject, Wanted, stage};
use requests::{Answer, Arenas, Failed, ask};

/// How long a feed that failed waits before it tries again: at first, and at most.
const FEED_PAUSE: Duration = Duration::from_secs(2);
const FEED_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What others want of a replica.
pub(crate) enum Command {
    /// Write all of it again.
    Rebuild,
}

/// How a replica is.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaStatus {
    pub(crate) report: ApplyReport,
    /// Why the last request failed, until one succeeds.
    pub(crate) trouble: Option<String>,
}

/// See the module.
pub(crate) struct ApplyTask {
    shared: Arc<Shared>,
    replicas: Arc<Replicas>,
    about: Followed,
    target: Arc<dyn PageTarget>,
    lease: Arc<Lease>,
    core: ApplyCore,
    arenas: Arenas,
    runs: RunCount,
    jobs: JoinSet<Done>,
    feed: Feed,
    /// The last object that the core has, or that has nothing for it.
    last: Option<(JournalId, ObjectNo)>,
    feed_at: Option<Moment>,
    /// How long the path is not read if it does not lead here once more.
    feed_pause: Duration,
    trouble: Option<String>,
}

/// Where the next object is from.
enum Feed {
    /// Nobody asked yet.
    Idle,
    /// The path is read.
    Finding,
    /// The path led elsewhere, or could not be read: it is read again after a pause.
    Later,
    /// Objects of the path, and what is behind them.
    Listed {
        objects: VecDeque<(JournalId, ObjectNo)>,
        then: (JournalId, ObjectNo),
    },
    /// As they are committed, from behind this one on.
    Live(JournalId, ObjectNo),
}

/// What a job came to.
enum Done {
    Asked(Answer),
    Leads(Option<Leads>),
    Found {
        after: Option<(JournalId, ObjectNo)>,
        found: Result<Found, HistoryError>,
    },
    Object {
        window: u64,
        place: (JournalId, ObjectNo),
        staged: Result<StagedObject, StageError>,
    },
}

/// What the path has behind an object.
struct Found {
    objects: VecDeque<(JournalId, ObjectNo)>,
    end: PathEnd,
    /// Whether the object that it was to begin behind is there.
    has_start: bool,
}

impl ApplyTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        replicas: Arc<Replicas>,
        about: Followed,
        target: Arc<dyn PageTarget>,
    ) -> Self {
        let level = shared.journal().level;
        Self {
            core: ApplyCore::new(about, level, replicas.limits),
            shared,
            runs: replicas.run_count(),
            replicas,
            about,
            target,
            lease: Arc::new(Lease::new()),
            arenas: Arenas::new(),
            jobs: JoinSet::new(),
            feed: Feed::Idle,
            last: None,
            feed_at: None,
            feed_pause: FEED_PAUSE,
            trouble: None,
        }
    }

    /// How it is before it runs.
    pub(crate) fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            report: self.core.report(),
            trouble: None,
        }
    }

    /// Follows until the server ends, or the machine is another's.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        status: watch::Sender<ReplicaStatus>,
    ) {
        let shared = Arc::clone(&self.shared);
        let mut progress = shared.progress.subscribe();
        loop {
            let now = shared.clock.now();
            self.core.handle_room(self.replicas.room());
            while let Some(effect) = self.core.poll(now) {
                self.act(effect);
            }
            self.feed(now);
            self.runs.set(self.core.runs());
            let report = self.core.report();
            let is_fenced = report.state == ApplyState::Fenced;
            metrics::replica(&self.about, &report, self.lag());
            let trouble = self.trouble.clone();
            status.send_replace(ReplicaStatus { report, trouble });
            if is_fenced {
                tracing::warn!(disk = %self.about.disk, "the replica is another server's now");
                return;
            }
            let timeout = [self.core.poll_timeout(), self.feed_at]
                .into_iter()
                .flatten()
                .min();
            // Every arm is cancel-safe: joins and receives take nothing when dropped.
            tokio::select! {
                Some(done) = self.jobs.join_next() => {
                    let done = outcome(done).await;
                    self.handle_done(done);
                }
                command = commands.recv() => match command {
                    Some(Command::Rebuild) => self.core.handle_rebuild(),
                    None => return,
                },
                changed = progress.changed(), if matches!(self.feed, Feed::Live(..) | Feed::Later) => {
                    if changed.is_err() {
                        return;
                    }
                    self.find_sooner(shared.clock.now());
                }
                () = shared.clock.sleep_until(timeout) => (),
            }
        }
    }

    /// Carries out what the core wants done.
    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Follow { after } => {
                self.last = after;
                self.find();
            }
            Effect::Forget { window } => {
                self.arenas.remove(&window);
            }
            Effect::AskWhoLeads => {
                let (shared, machine) = (Arc::clone(&self.shared), self.about.machine);
                let last = self.last;
                self.jobs
                    .spawn(async move { Done::Leads(leads(&shared, machine, last).await) });
            }
            effect => {
                let target = Arc::clone(&self.target);
                let replicas = Arc::clone(&self.replicas);
                let lease = Arc::clone(&self.lease);
                let arenas = match &effect {
                    Effect::Work { work, .. } => self.arenas_of(work),
                    _ => Arenas::new(),
                };
                self.jobs.spawn(async move {
                    Done::Asked(ask(target, lease, replicas, arenas, effect).await)
                });
            }
        }
    }

    /// The places that a request's bytes are in.
    fn arenas_of(&self, work: &PageWork) -> Arenas {
        let arena = |window| Some((window, Arc::clone(self.arenas.get(&window)?)));
        work.windows().filter_map(arena).collect()
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.shared.clock.now();
        match done {
            Done::Asked(answer) => self.handle_answer(answer, now),
            Done::Leads(leads) => self.core.handle_leads(leads, now),
            Done::Found { after, found } => self.handle_found(after, found, now),
            Done::Object {
                window,
                place,
                staged,
            } => self.handle_object(window, place, staged, now),
        }
    }

    fn handle_answer(&mut self, answer: Answer, now: Moment) {
        let core = &mut self.core;
        let trouble = &mut self.trouble;
        match answer {
            Answer::Looked(looked) => core.handle_look(said(looked, trouble), now),
            Answer::Created(created) => core.handle_created(said(created, trouble), now),
            Answer::Leased(leased) => core.handle_leased(said(leased, trouble), now),
            Answer::Raised(raised) => core.handle_raised(said(raised, trouble), now),
            Answer::Mark(found) => core.handle_mark(said(found, trouble), now),
            Answer::Done(done) => core.handle_done(said(done, trouble), now),
            Answer::Work(index, done) => core.handle_work(index, said(done, trouble), now),
        }
    }

    // -- the feed -----------------------------------------------------------------------------------

    /// Begins to fetch the next object, if the core wants one and there is one.
    fn feed(&mut self, now: Moment) {
        if self.feed_at.is_some_and(|at| now < at) {
            return;
        }
        self.feed_at = None;
        if !self.core.wants_object() {
            return;
        }
        if self.replicas.room() == Room::None {
            // Nobody says when another one's window is gone.
            self.feed_at = Some(now.after(FEED_PAUSE));
            return;
        }
        match &mut self.feed {
            Feed::Idle | Feed::Finding => (),
            Feed::Later => self.find(),
            Feed::Listed { objects, then } => match objects.front() {
                Some(&(journal, number)) => self.fetch(journal, number),
                None => {
                    self.feed = Feed::Live(then.0, then.1);
                    self.feed(now);
                }
            },
            &mut Feed::Live(journal, number) => {
                let progress = *self.shared.progress.borrow();
                if progress.journal != journal {
                    self.find();
                } else if number < progress.committed {
                    self.fetch(journal, number.next());
                }
            }
        }
    }

    fn fetch(&mut self, journal: JournalId, number: ObjectNo) {
        let window = self.core.begin_object();
        let arena = match self.arenas.get(&window) {
            Some(arena) => Ok(Arc::clone(arena)),
            None => self.replicas.arena().map(Arc::new),
        };
        let arena = match arena {
            Ok(arena) => arena,
            Err(error) => {
                self.core.handle_no_object();
                return self.feed_failed(&StageError::Staging(error), self.shared.clock.now());
            }
        };
        self.arenas.insert(window, Arc::clone(&arena));
        let (shared, replicas) = (Arc::clone(&self.shared), Arc::clone(&self.replicas));
        let wanted = Wanted {
            journal,
            number,
            disk: self.about.disk,
            stands: self.core.stands(),
            arena,
        };
        self.jobs.spawn(async move {
            let staged = stage(&shared, &replicas, wanted).await;
            Done::Object {
                window,
                place: (journal, number),
                staged,
            }
        });
    }

    fn handle_object(
        &mut self,
        window: u64,
        place: (JournalId, ObjectNo),
        staged: Result<StagedObject, StageError>,
        now: Moment,
    ) {
        if self.core.window() != window {
            // The window was given up meanwhile, and the feed begins anew.
            self.core.handle_no_object();
            self.arenas.remove(&window);
            return;
        }
        match staged {
            Err(error) => {
                self.core.handle_no_object();
                self.feed_failed(&error, now);
            }
            Ok(StagedObject { fold, staged }) => {
                let (journal, number) = place;
                self.core.handle_object(journal, number, fold, staged, now);
                self.last = Some(place);
                match &mut self.feed {
                    Feed::Listed { objects, .. } => {
                        objects.pop_front();
                    }
                    Feed::Live(_, at) => *at = number,
                    Feed::Idle | Feed::Finding | Feed::Later => {
                        unreachable!("nothing was fetched for them")
                    }
                }
            }
        }
    }

    fn feed_failed(&mut self, error: &dyn std::error::Error, now: Moment) {
        let text = chain(error);
        tracing::warn!(disk = %self.about.disk, error = text, "a replica waits for an object");
        self.trouble = Some(text);
        self.feed_at = Some(now.after(FEED_PAUSE));
    }

    /// Reads the path from behind the last object on.
    fn find(&mut self) {
        self.feed = Feed::Finding;
        let (shared, about, after) = (Arc::clone(&self.shared), self.about, self.last);
        self.jobs.spawn(async move {
            let found = find(&shared, about, after).await;
            Done::Found { after, found }
        });
    }

    fn handle_found(
        &mut self,
        after: Option<(JournalId, ObjectNo)>,
        found: Result<Found, HistoryError>,
        now: Moment,
    ) {
        if after != self.last || !matches!(self.feed, Feed::Finding) {
            return;
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.feed_failed(&error, now);
                return self.find_later(now);
            }
        };
        if !found.has_start {
            tracing::warn!(disk = %self.about.disk, "what a replica's mark names is not in the path: it is written anew");
            self.feed = Feed::Idle;
            return self.core.handle_lost_path();
        }
        let progress = *self.shared.progress.borrow();
        let PathEnd::Open { journal, last } = found.end else {
            return self.find_later(now);
        };
        if journal != progress.journal {
            return self.find_later(now);
        }
        self.feed_pause = FEED_PAUSE;
        let mut objects = found.objects;
        let committed = progress.committed;
        objects.retain(|(of, number)| *of != journal || *number <= committed);
        let then = (journal, last.min(committed));
        self.feed = Feed::Listed { objects, then };
    }

    /// The path does not lead here, or cannot be read now: each time it is left longer, until something is committed
    /// here.
    fn find_later(&mut self, now: Moment) {
        self.feed = Feed::Later;
        self.feed_at = Some(now.after(self.feed_pause));
        self.feed_pause = (self.feed_pause * 2).min(FEED_PAUSE_MAX);
    }

    /// Something was committed: perhaps the path leads here again.
    fn find_sooner(&mut self, now: Moment) {
        if matches!(self.feed, Feed::Later) {
            self.feed_pause = FEED_PAUSE;
            let soon = now.after(FEED_PAUSE);
            self.feed_at = self.feed_at.map(|at| at.min(soon));
        }
    }

    /// Whether something is committed that the replica does not have yet.
    fn lag(&self) -> bool {
        match self.feed {
            Feed::Live(journal, number) => {
                let progress = *self.shared.progress.borrow();
                (journal, number) != (progress.journal, progress.committed)
                    || !self.core.is_settled()
            }
            _ => true,
        }
    }
}

/// The answer for the core; what went wrong is kept for whoever asks, until something succeeds.
fn said<T>(answer: Result<T, Failed>, trouble: &mut Option<String>) -> Result<T, Remedy> {
    match answer {
        Ok(done) => {
            *trouble = None;
            Ok(done)
        }
        Err(failed) => {
            if trouble.as_ref() != Some(&failed.text) {
                tracing::warn!(error = failed.text, "a replica's target");
            }
            *trouble = Some(failed.text);
            Err(failed.remedy)
        }
    }
}

/// Who leads the machine, as its path says now; `None` where that is not known.
async fn leads(
    shared: &Shared,
    machine: MachineId,
    last: Option<(JournalId, ObjectNo)>,
) -> Option<Leads> {
    let (vault, id) = (&shared.vault, shared.header.vault);
    let walked = match last {
        Some(last) => walk_from(vault, id, machine, last, |_, _, _, _| ()).await,
        None => walk(vault, id, machine, |_, _, _, _| ()).await,
    };
    Leads::of(walked.ok()?.end, |journal| shared.has_noted(journal))
}

/// The objects behind `after` that have something of the disk, and how the path ends.
async fn find(
    shared: &Shared,
    about: Followed,
    after: Option<(JournalId, ObjectNo)>,
) -> Result<Found, HistoryError> {
    let (vault, id) = (&shared.vault, shared.header.vault);
    let mut objects = VecDeque::new();
    let mut has_start = after.is_none();
    let visit = |journal, number, data: &DataIndex, _| {
        if after == Some((journal, number)) {
            has_start = true;
        } else if data
            .index
            .sections
            .iter()
            .any(|section| section.disk == about.disk)
        {
            objects.push_back((journal, number));
        }
    };
    let walked = match after {
        Some(after) => walk_from(vault, id, about.machine, after, visit).await?,
        None => walk(vault, id, about.machine, visit).await?,
    };
    Ok(Found {
        objects,
        end: walked.end,
        has_start,
    })
}
