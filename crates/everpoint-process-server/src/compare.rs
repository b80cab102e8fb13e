//! Answers compares: which pieces differ from the state that a generation builds on.
//!
//! That state is in the vault as soon as the generation's first block is committed, for everything
//! before it in the log is committed too. A window of digests is folded from the disk's indexes; the
//! agent asks in rising order, so the window moves on a few times a disk.

use std::sync::Arc;

use bytes::Bytes;
use everpoint_format::digest::PIECE_SECTORS;
use everpoint_journal::digest_map::DigestMap;
use everpoint_journal::history::stated_base;
use everpoint_transport::Taken;
use everpoint_units::{DiskId, GenerationId, MachineId};
use everpoint_vault::history::{HistoryError, walk};
use everpoint_wire::{Compare, ToAgent};
use tokio::sync::{mpsc, watch};

use crate::shared::{BackOff, Shared};

/// Requests that an agent may have open on one disk.
const REQUESTS_MAX: usize = 64;

/// The way to a disk's comparer; dropping the last one ends it.
pub(crate) type CompareSender = mpsc::Sender<Compare>;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) machine: MachineId,
    pub(crate) disk: DiskId,
    /// The compare is with what this generation builds on.
    pub(crate) generation: GenerationId,
    /// Unit: sectors.
    pub(crate) sectors: u64,
}

struct Window {
    map: DigestMap,
    _memory: Taken,
}

/// Starts a comparer; answers go to `answers`.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    order: Order,
    mut committed: watch::Receiver<Option<GenerationId>>,
    answers: mpsc::Sender<ToAgent>,
) -> CompareSender {
    let (sender, mut requests) = mpsc::channel::<Compare>(REQUESTS_MAX);
    let spawner = Arc::clone(&shared);
    spawner.spawn(async move {
        let mut window: Option<Window> = None;
        while let Some(request) = requests.recv().await {
            let begun = committed.wait_for(|newest| *newest == Some(order.generation));
            if begun.await.is_err() {
                return;
            }
            let count = request.digests.len();
            let known = window
                .as_ref()
                .is_some_and(|window| window.map.covers(request.first_piece, count));
            if !known {
                // The old one's memory goes before the new one's is asked for.
                drop(window.take());
                window = load(&shared, order, request.first_piece, count).await;
            }
            let differs = match &window {
                Some(window) => differences(&window.map, &request),
                // What cannot be known counts as different.
                None => Bytes::from(vec![0xff; count.div_ceil(8)]),
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

/// Folds the window that begins at `first_piece`; `None` where nothing can be known.
async fn load(shared: &Shared, order: Order, first_piece: u64, count: usize) -> Option<Window> {
    let pieces = order
        .sectors
        .div_ceil(PIECE_SECTORS)
        .saturating_sub(first_piece);
    let affordable = shared.budget.capacity() / 8 / DigestMap::PIECE_COST;
    let len = usize::try_from(pieces)
        .unwrap_or(usize::MAX)
        .min(affordable)
        .max(count);
    let memory = shared.budget.take(len * DigestMap::PIECE_COST).await.ok()?;
    let mut back_off = BackOff::new();
    loop {
        match fold(shared, order, first_piece, len).await {
            Ok(map) => {
                return Some(Window {
                    map,
                    _memory: memory,
                });
            }
            Err(error) => {
                tracing::warn!(disk = %order.disk, %error, "a compare waits for the vault");
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
    order: Order,
    first_piece: u64,
    len: usize,
) -> Result<DigestMap, HistoryError> {
    let key = shared.header.digest_key;
    let mut map = DigestMap::new(key, first_piece, len);
    let mut reached = false;
    let (vault, id) = (&shared.vault, shared.header.vault);
    let walked = walk(vault, id, order.machine, |_, _, data, _| {
        let sections = data.index.sections.iter();
        for section in sections.filter(|section| section.disk == order.disk) {
            if !reached && section.generation == order.generation {
                reached = true;
                if stated_base(section) == Some(None) {
                    map = DigestMap::new(key, first_piece, len);
                }
            }
            if !reached {
                map.fold(section);
            }
        }
    });
    walked.await?;
    Ok(map)
}

fn differences(map: &DigestMap, request: &Compare) -> Bytes {
    let mut differs = vec![0_u8; request.digests.len().div_ceil(8)];
    for (index, (piece, digest)) in (request.first_piece..).zip(&request.digests).enumerate() {
        if map.differs(piece, *digest) {
            differs[index / 8] |= 1 << (index % 8);
        }
    }
    Bytes::from(differs)
}
