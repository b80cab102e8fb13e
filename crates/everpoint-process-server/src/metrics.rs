//! What a process server counts, under stable names. The binary decides who may read it.

use std::time::Duration;

use everpoint_format::change::ChangeBlock;
use everpoint_format::data::DataObject;
use everpoint_replica::{DayTraffic, Prices, RequestKind};
use everpoint_transport::{CloseReason, Closed};
use metrics::{counter, gauge, histogram};

use crate::apply_core::{ApplyReport, ApplyState, Followed};
use crate::conduct::Denied;

/// A block was taken.
pub(crate) fn received(block: &ChangeBlock) {
    let frame = block.header().frame;
    counter!("everpoint_server_blocks_total").increment(1);
    counter!("everpoint_server_raw_bytes_total").increment(frame.raw_len.into());
    counter!("everpoint_server_received_bytes_total").increment(block.bytes().len() as u64);
}

/// An agent broke the protocol, and its connection was closed for it.
pub(crate) fn violation(reason: CloseReason) {
    counter!("everpoint_server_violations_total", "reason" => reason.name()).increment(1);
}

/// A connection was closed before a word was listened to.
pub(crate) fn denied(denied: Denied) {
    let reason = match denied {
        Denied::Faults { .. } => "faults",
        Denied::Links => "links",
    };
    counter!("everpoint_server_denied_total", "reason" => reason).increment(1);
}

/// How a replica stands.
pub(crate) fn replica(about: &Followed, report: &ApplyReport, lags: bool) {
    let disk = about.disk.to_string();
    let set = |name: &'static str, value: f64| gauge!(name, "disk" => disk.clone()).set(value);
    set("everpoint_replica_staged_bytes", report.staged.0 as f64);
    set(
        "everpoint_replica_window_seconds",
        report.window.as_secs_f64(),
    );
    let through = report.applied.map_or(0, |applied| applied.through.0);
    set("everpoint_replica_applied_seq", through as f64);
    set("everpoint_replica_level", f64::from(u8::from(!lags)));
    let blocked = matches!(report.state, ApplyState::Blocked(_) | ApplyState::Fenced);
    set("everpoint_replica_blocked", f64::from(u8::from(blocked)));
}

/// What all replicas' targets were asked for today, UTC, and what that comes to.
pub(crate) fn replica_traffic(day: &DayTraffic, prices: &Prices) {
    for (kind, name) in [
        (RequestKind::Write, "write"),
        (RequestKind::Read, "read"),
        (RequestKind::Other, "other"),
        (RequestKind::Delete, "delete"),
    ] {
        let requests = day.requests(kind) as f64;
        gauge!("everpoint_replica_requests_today", "kind" => name).set(requests);
    }
    for (way, bytes) in [("in", day.bytes_in), ("out", day.bytes_out)] {
        gauge!("everpoint_replica_bytes_today", "way" => way).set(bytes as f64);
    }
    let cost = prices.cost(day).0 as f64 / 1e6;
    gauge!("everpoint_replica_cost_today", "currency" => prices.currency.clone()).set(cost);
}

/// A connection ended.
pub(crate) fn closed(closed: &Closed) {
    let reason = closed.reason().map_or("transport", CloseReason::name);
    counter!("everpoint_server_connections_ended_total", "reason" => reason).increment(1);
}

/// An object was frozen.
pub(crate) fn frozen(object: &DataObject) {
    counter!("everpoint_server_objects_total").increment(1);
    counter!("everpoint_server_object_bytes_total").increment(object.len);
}

/// An object was committed, so long after its oldest block was taken into it.
pub(crate) fn committed(waited: Duration) {
    histogram!("everpoint_server_commit_seconds").record(waited);
}

/// Whether the vault answers.
pub(crate) fn vault_reachable(reachable: bool) {
    gauge!("everpoint_server_vault_reachable").set(f64::from(u8::from(reachable)));
}

/// How full things are. Unit: bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) log: u64,
    pub(crate) log_quota: u64,
    pub(crate) memory: u64,
    pub(crate) backlog: u64,
    pub(crate) waiting: Duration,
}

/// How full things are.
pub(crate) fn fill(fill: Fill) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float; 2^53 bytes are 8 PiB"
    )]
    let bytes = |bytes: u64| bytes as f64;
    gauge!("everpoint_server_log_bytes").set(bytes(fill.log));
    gauge!("everpoint_server_log_quota_bytes").set(bytes(fill.log_quota));
    gauge!("everpoint_server_memory_bytes").set(bytes(fill.memory));
    gauge!("everpoint_server_uncommitted_bytes").set(bytes(fill.backlog));
    gauge!("everpoint_server_commit_lag_seconds").set(fill.waiting.as_secs_f64());
}
