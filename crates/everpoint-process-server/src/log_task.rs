//! The one task that appends to the cache log: blocks of all disks, in the order in which their
//! machines took them, and the promises that follow.

use std::sync::Arc;

use everpoint_cache_log::{AppendError, Appended};
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::PieceDigest;
use everpoint_transport::Taken;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc;

use crate::backlog::Cached;
use crate::machine_task::{Mark, MarkSender};
use crate::shared::{Ended, Shared};

/// A block that its machine took.
pub(crate) struct LogItem {
    pub(crate) block: ChangeBlock,
    pub(crate) digests: Vec<PieceDigest>,
    /// What both take beyond the block's bytes.
    pub(crate) opened: Taken,
    /// Whom to tell when it is durable.
    pub(crate) marks: MarkSender,
}

/// Blocks that are written and not yet synced, at most. Their bytes are bounded by the budget; this
/// bounds the rest.
const APPENDS_MAX: usize = 4_096;

/// Appends until every sender of items is gone and everything is durable, or the log fails.
pub(crate) async fn run(shared: Arc<Shared>, mut items: mpsc::Receiver<LogItem>) {
    let mut appends = FuturesOrdered::new();
    let mut open = true;
    while open || !appends.is_empty() {
        // Both arms are cancel-safe: a receive that is dropped takes nothing, and an append that is
        // under way stays in the set.
        tokio::select! {
            item = next_item(&shared, &mut items), if open && appends.len() < APPENDS_MAX => {
                match item {
                    None => open = false,
                    Some(item) => {
                        // The place in the log is taken by this call, not by the first poll.
                        let append = shared.log.append([item.block.bytes().clone()]);
                        appends.push_back(async move { (item, append.await) });
                    }
                }
            }
            Some((item, appended)) = appends.next() => {
                if !settle(&shared, item, appended) {
                    return;
                }
            }
        }
    }
}

/// The next item, once the log has room for it: here the pressure of a full log begins its way back
/// to the agents.
async fn next_item(shared: &Shared, items: &mut mpsc::Receiver<LogItem>) -> Option<LogItem> {
    shared.log.wait_for_room().await;
    items.recv().await
}

/// Says that the block is cached. `appended` can only have come from the sync that covered it.
fn settle(shared: &Shared, item: LogItem, appended: Result<Appended, AppendError>) -> bool {
    let position = match appended {
        Ok(appended) => appended.position(),
        Err(AppendError::Poisoned(poisoned)) => {
            shared.end(Ended::Log(poisoned));
            return false;
        }
        Err(error) => {
            tracing::info!(%error, "a block was not cached");
            return false;
        }
    };
    let header = *item.block.header();
    shared.backlog.push(Cached {
        position,
        block: item.block,
        digests: Some(item.digests),
    });
    // The backlog counts it now, or has dropped it.
    drop(item.opened);
    let mark = Mark::Cached {
        disk: header.disk,
        position: header.position(),
    };
    // A machine that is gone needs no marks; its blocks are in the backlog all the same.
    let _ = item.marks.send(mark);
    true
}
