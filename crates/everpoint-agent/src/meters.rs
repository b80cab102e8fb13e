//! What an agent measures, under names that stay.
//!
//! | name | kind | labels | unit |
//! |---|---|---|---|
//! | `everpoint_agent_connected` | gauge | | 0 or 1 |
//! | `everpoint_agent_epoch` | gauge | | level of the server's journal |
//! | `everpoint_agent_certificate_days` | gauge | | days until the certificate ends |
//! | `everpoint_agent_queue_bytes`, `…_queue_bytes_max` | gauge | | bytes |
//! | `everpoint_agent_seq` | gauge | | newest position handed out |
//! | `everpoint_agent_session_failures_total` | counter | | attempts that gave no session |
//! | `everpoint_agent_watermark_block` | gauge | disk, mark | blocks of the generation |
//! | `everpoint_agent_uncommitted_seconds` | gauge | disk | age of the oldest uncommitted change |
//! | `everpoint_agent_uncommitted_bytes`, `…_unsent_bytes` | gauge | disk | bytes |
//! | `everpoint_agent_disk_queue_bytes` | gauge | disk | bytes |
//! | `everpoint_agent_protected` | gauge | disk | 0 or 1 |
//! | `everpoint_agent_resync_done_bytes`, `…_total_bytes` | gauge | disk | bytes |
//! | `everpoint_agent_resyncs_total` | counter | disk, reason | generations begun |
//! | `everpoint_agent_order_lost_total` | counter | disk, reason | |
//! | `everpoint_agent_guest_bytes_total` | counter | disk, kind | bytes read, written, zeroed, discarded |
//! | `everpoint_agent_guest_write_seconds` | histogram | disk | seconds, one write in 16 |
//! | `everpoint_agent_points_total` | counter | class | points made |
//! | `everpoint_agent_point_failures_total` | counter | class, reason | points that were wanted and not made |
//! | `everpoint_agent_held_seconds` | histogram | | seconds that writes were held for a point |
//! | `everpoint_agent_packed_bytes_total`, `…_sent_bytes_total` | counter | disk | bytes before and after compression |

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use everpoint_capture::LossReason;
use everpoint_replication::source::ResyncReason;
use everpoint_units::DiskId;
use metrics::{Counter, Histogram, counter, histogram};

/// One write in so many is timed: a histogram costs more than the rest of the bookkeeping together.
const TIMED_EACH: u32 = 16;

/// What is counted on the guests' own threads.
pub(crate) struct GuestMeters {
    disk: String,
    read: Counter,
    written: Counter,
    zeroed: Counter,
    discarded: Counter,
    write_seconds: Histogram,
    turn: AtomicU32,
}

/// What is counted where blocks are made and sent.
pub(crate) struct BlockMeters {
    disk: String,
    pub(crate) packed: Counter,
    pub(crate) sent: Counter,
}

/// Counts a point of a class: made, or the word for why not.
pub(crate) fn point(class: &'static str, failed: Option<&'static str>) {
    match failed {
        None => counter!("everpoint_agent_points_total", "class" => class).increment(1),
        Some(reason) => {
            counter!("everpoint_agent_point_failures_total", "class" => class, "reason" => reason)
                .increment(1);
        }
    }
}

/// Counts for how long writes were held.
pub(crate) fn held(span: Duration) {
    histogram!("everpoint_agent_held_seconds").record(span);
}

impl GuestMeters {
    pub(crate) fn new(disk: DiskId) -> Self {
        let disk = disk.to_string();
        let bytes = |kind: &'static str| counter!("everpoint_agent_guest_bytes_total", "disk" => disk.clone(), "kind" => kind);
        Self {
            read: bytes("read"),
            written: bytes("written"),
            zeroed: bytes("zeroed"),
            discarded: bytes("discarded"),
            write_seconds: histogram!("everpoint_agent_guest_write_seconds", "disk" => disk.clone()),
            turn: AtomicU32::new(0),
            disk,
        }
    }

    pub(crate) fn read(&self, len: u32) {
        self.read.increment(u64::from(len));
    }

    pub(crate) fn written(&self, len: u64, took: Duration) {
        self.written.increment(len);
        if self.turn.fetch_add(1, Relaxed).is_multiple_of(TIMED_EACH) {
            self.write_seconds.record(took);
        }
    }

    pub(crate) fn zeroed(&self, len: u32) {
        self.zeroed.increment(u64::from(len));
    }

    pub(crate) fn discarded(&self, len: u32) {
        self.discarded.increment(u64::from(len));
    }

    pub(crate) fn order_lost(&self, reason: LossReason) {
        let (disk, reason) = (self.disk.clone(), reason.word());
        counter!("everpoint_agent_order_lost_total", "disk" => disk, "reason" => reason)
            .increment(1);
    }
}

impl BlockMeters {
    pub(crate) fn new(disk: DiskId) -> Self {
        let disk = disk.to_string();
        Self {
            packed: counter!("everpoint_agent_packed_bytes_total", "disk" => disk.clone()),
            sent: counter!("everpoint_agent_sent_bytes_total", "disk" => disk.clone()),
            disk,
        }
    }

    pub(crate) fn resync(&self, reason: ResyncReason) {
        let (disk, reason) = (self.disk.clone(), reason.word());
        counter!("everpoint_agent_resyncs_total", "disk" => disk, "reason" => reason).increment(1);
    }
}
