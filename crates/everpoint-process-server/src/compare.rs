//! Answers compares: which pieces differ from the state that a generation builds on.
//!
//! That state is in the vault as soon as the generation's first block is committed, for everything
//! before it in the log is committed too. A window of digests is folded from the disk's indexes; the
//! agent asks in rising order, so the window moves on a few times a disk.
//!
//! Windows have a part of the memory to themselves, and are few at a time: a disk whose turn has not come
//! waits, and holds up nothing but its own compare. Each window that is held comes back: with the next
//! one of its disk, when nobody asked for a while, and with its comparer. That one ends with its
//! generation, its stream or its session, wherever it waits.

use std::sync::Arc;
use std::time::Duration;

use everpoint_journal::digest_map::DigestMap;
use everpoint_transport::Taken;
use everpoint_units::{GenerationId, MachineId};
use everpoint_vault::history::{HistoryError, walk};
use everpoint_wire::{Compare, ToAgent};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::compare_core::{CompareCore, Compared, all_differ};
use crate::shared::{BackOff, Shared};

/// Requests that an agent may have open on one disk.
const REQUESTS_MAX: usize = 64;
/// Windows that are held at a time when each is as large as it may be. Fewer would make more disks wait
/// for each other; with more, each disk's history is walked more often.
const WINDOWS: usize = 4;
/// How long a window outlives the last question about it. A resync that goes on asks many times a second;
/// one that is over, or stands still, must not keep the others waiting.
const IDLE: Duration = Duration::from_secs(10);

/// The way to a disk's comparer. Dropping it ends that one wherever it waits, and gives back its window.
pub(crate) struct Comparer {
    generation: GenerationId,
    requests: mpsc::Sender<Compare>,
    _ends: DropGuard,
}

/// The comparer itself.
struct Task {
    shared: Arc<Shared>,
    machine: MachineId,
    about: Compared,
    /// The newest generation of which something is committed.
    committed: watch::Receiver<Option<GenerationId>>,
    answers: mpsc::Sender<ToAgent>,
    idle: Duration,
}

struct Window {
    core: CompareCore,
    _memory: Taken,
}

impl Comparer {
    /// Starts a comparer; answers go to `answers`.
    pub(crate) fn start(
        shared: Arc<Shared>,
        (machine, about): (MachineId, Compared),
        committed: watch::Receiver<Option<GenerationId>>,
        answers: mpsc::Sender<ToAgent>,
    ) -> Self {
        Task {
            shared,
            machine,
            about,
            committed,
            answers,
            idle: IDLE,
        }
        .start()
    }

    /// The generation whose questions are answered.
    pub(crate) const fn generation(&self) -> GenerationId {
        self.generation
    }

    /// Asks.
    ///
    /// # Errors
    ///
    /// When too many questions are open, or the comparer ended with its stream.
    pub(crate) fn ask(&self, compare: Compare) -> Result<(), TrySendError<Compare>> {
        self.requests.try_send(compare)
    }
}

impl Task {
    fn start(self) -> Comparer {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let generation = self.about.generation;
        let (ends, stream) = (CancellationToken::new(), self.answers.clone());
        let ended = ends.clone();
        let spawner = Arc::clone(&self.shared);
        spawner.spawn(async move {
            // Answers are all that is lost, and nobody waits for those.
            tokio::select! {
                () = ended.cancelled() => (),
                () = stream.closed() => (),
                () = self.run(requests) => (),
            }
        });
        Comparer {
            generation,
            requests: sender,
            _ends: ends.drop_guard(),
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Compare>) {
        let mut window: Option<Window> = None;
        while let Some(request) = self.next(&mut requests, &mut window).await {
            let generation = self.about.generation;
            let begun = self
                .committed
                .wait_for(|newest| *newest == Some(generation));
            if begun.await.is_err() {
                return;
            }
            let known = window
                .as_ref()
                .is_some_and(|window| window.core.covers(&request));
            if !known {
                // The old one's memory goes before the new one's is asked for.
                drop(window.take());
                window = load(&self.shared, (self.machine, self.about), &request).await;
            }
            let differs = match &window {
                Some(window) => window.core.differences(&request),
                None => all_differ(&request),
            };
            let answer = ToAgent::Differences {
                request: request.request,
                differs,
            };
            if self.answers.send(answer).await.is_err() {
                return;
            }
        }
    }

    /// The next question. The window goes when there is none for a while.
    async fn next(
        &self,
        requests: &mut mpsc::Receiver<Compare>,
        window: &mut Option<Window>,
    ) -> Option<Compare> {
        if window.is_some() {
            match timeout(self.idle, requests.recv()).await {
                Ok(request) => return request,
                Err(_) => *window = None,
            }
        }
        requests.recv().await
    }
}

/// Folds the window that a question begins; `None` where nothing can be known.
async fn load(
    shared: &Shared,
    (machine, about): (MachineId, Compared),
    request: &Compare,
) -> Option<Window> {
    let affordable = shared.compare_budget.capacity() / WINDOWS / DigestMap::PIECE_COST;
    let len = about.window_len(request.first_piece, affordable, request.digests.len());
    let memory = shared.compare_budget.take(len * DigestMap::PIECE_COST);
    let memory = memory.await.ok()?;
    let mut back_off = BackOff::new();
    loop {
        let key = shared.header.digest_key;
        let core = CompareCore::new(about, key, request.first_piece, len);
        match fold(shared, machine, core).await {
            Ok(core) => {
                return Some(Window {
                    core,
                    _memory: memory,
                });
            }
            Err(error) => {
                tracing::warn!(disk = %about.disk, %error, "a compare waits for the vault");
                back_off.pause().await;
            }
        }
        if shared.has_ended() {
            return None;
        }
    }
}

async fn fold(
    shared: &Shared,
    machine: MachineId,
    mut core: CompareCore,
) -> Result<CompareCore, HistoryError> {
    let (vault, id) = (&shared.vault, shared.header.vault);
    let walked = walk(vault, id, machine, |_, _, data, _| {
        data.index
            .sections
            .iter()
            .for_each(|section| core.fold(section));
    });
    walked.await?;
    Ok(core)
}

#[cfg(test)]
mod tests;
