//! What the log tells the metrics: fill, queue, and what each sync cost.

use std::time::Duration;

use metrics::{gauge, histogram};

/// After each change of the files or the queue.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, exact up to 8 PiB"
)]
pub(crate) fn standing(used: u64, quota: u64, queued: u64) {
    gauge!("everpoint_cache_log_used_bytes").set(used as f64);
    gauge!("everpoint_cache_log_quota_bytes").set(quota as f64);
    gauge!("everpoint_cache_log_queued_bytes").set(queued as f64);
}

/// After each sync.
#[expect(
    clippy::cast_precision_loss,
    reason = "a histogram takes floats; a batch is at most 64 MiB"
)]
pub(crate) fn synced(took: Duration, batch_len: usize) {
    histogram!("everpoint_cache_log_sync_seconds").record(took.as_secs_f64());
    histogram!("everpoint_cache_log_batch_bytes").record(batch_len as f64);
}
