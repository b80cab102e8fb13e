//! Answers compares: which pieces differ from the state that a generation builds on.
//!
//! That state is in the vault as soon as the generation's first block is committed, for everything
//! before it in the log is committed too. A window of digests is folded from the disk's indexes; the
//! agent asks in rising order, so the window moves on a few times a disk.

use std::sync::Arc;

use everpoint_journal::digest_map::DigestMap;
use everpoint_transport::Taken;
use everpoint_units::{GenerationId, MachineId};
use everpoint_vault::history::{HistoryError, walk};
use everpoint_wire::{Compare, ToAgent};
use tokio::sync::{mpsc, watch};

use crate::compare_core::{CompareCore, Compared, all_differ};
use crate::shared::{BackOff, Shared};

/// Requests that an agent may have open on one disk.
const REQUESTS_MAX: usize = 64;

/// The way to a disk's comparer; dropping the last one ends it.
pub(crate) type CompareSender = mpsc::Sender<Compare>;

struct Window {
    core: CompareCore,
    _memory: Taken,
}

/// Starts a comparer; answers go to `answers`.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    (machine, about): (MachineId, Compared),
    mut committed: watch::Receiver<Option<GenerationId>>,
    answers: mpsc::Sender<ToAgent>,
) -> CompareSender {
    let (sender, mut requests) = mpsc::channel::<Compare>(REQUESTS_MAX);
    let spawner = Arc::clone(&shared);
    spawner.spawn(async move {
        let mut window: Option<Window> = None;
        while let Some(request) = requests.recv().await {
            let begun = committed.wait_for(|newest| *newest == Some(about.generation));
            if begun.await.is_err() {
                return;
            }
            let known = window
                .as_ref()
                .is_some_and(|window| window.core.covers(&request));
            if !known {
                // The old one's memory goes before the new one's is asked for.
                drop(window.take());
                window = load(&shared, (machine, about), &request).await;
            }
            let differs = match &window {
                Some(window) => window.core.differences(&request),
                None => all_differ(&request),
            };
            let answer = ToAgent::Differences {
                request: request.request,
                differs,
            };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    sender
}

/// Folds the window that a question begins; `None` where nothing can be known.
async fn load(
    shared: &Shared,
    (machine, about): (MachineId, Compared),
    request: &Compare,
) -> Option<Window> {
    let affordable = shared.budget.capacity() / 8 / DigestMap::PIECE_COST;
    let len = about.window_len(request.first_piece, affordable, request.digests.len());
    let memory = shared.budget.take(len * DigestMap::PIECE_COST).await.ok()?;
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
