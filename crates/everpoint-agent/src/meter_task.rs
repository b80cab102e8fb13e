//! Brings the gauges up to date, once a second. Counters are counted where things happen.

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use everpoint_units::BlockNo;
use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};

use crate::agent::Inner;
use crate::disk::Disk;
use crate::disk_core::report::DiskStateWord;
use crate::status::certificate_days;

const EACH: Duration = Duration::from_secs(1);

/// Runs until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>) {
    let mut ticks = interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(agent) = agent.upgrade() else {
            return;
        };
        machine(&agent);
        agent.disks.all().iter().for_each(|disk| one_disk(disk));
    }
}

fn machine(agent: &Inner) {
    let (seq, used, max) = {
        let order = agent.machine.order();
        (order.newest(), order.used(), order.limits().queue_bytes_max)
    };
    let session = agent.session.report.borrow();
    gauge!("everpoint_agent_connected").set(flag(session.connected));
    gauge!("everpoint_agent_epoch").set(number(session.epoch.0));
    let days = certificate_days(session.certificate_expires_at);
    gauge!("everpoint_agent_certificate_days").set(days as f64);
    gauge!("everpoint_agent_queue_bytes").set(number(used));
    gauge!("everpoint_agent_queue_bytes_max").set(number(max));
    gauge!("everpoint_agent_seq").set(number(seq.0));
}

fn one_disk(disk: &Disk) {
    let id = disk.id.to_string();
    let report = *disk.report.borrow();
    let set = |name: &'static str, value: f64| gauge!(name, "disk" => id.clone()).set(value);
    if let Some(marks) = report.marks {
        let mark = |mark: &'static str, block: BlockNo| {
            gauge!("everpoint_agent_watermark_block", "disk" => id.clone(), "mark" => mark)
                .set(number(block.0));
        };
        mark("frozen", marks.frozen);
        mark("sent", marks.sent);
        mark("cached", marks.cached);
        mark("committed", marks.committed);
    }
    let figures = disk.machine.order().figures(disk.slot);
    let queue = figures.map_or(0, |figures| figures.waiting_bytes + figures.frozen_bytes);
    set("everpoint_agent_disk_queue_bytes", number(queue));
    set(
        "everpoint_agent_uncommitted_seconds",
        disk.lag().as_secs_f64(),
    );
    set(
        "everpoint_agent_uncommitted_bytes",
        number(report.uncommitted_bytes),
    );
    set("everpoint_agent_unsent_bytes", number(report.unsent_bytes));
    let protected = disk.state() == DiskStateWord::Protected;
    set("everpoint_agent_protected", flag(protected));
    set(
        "everpoint_agent_resync_done_bytes",
        number(disk.progress.done.load(Relaxed)),
    );
    set(
        "everpoint_agent_resync_total_bytes",
        number(disk.progress.total.load(Relaxed)),
    );
}

/// Gauges are floating-point numbers; above 2^53 they lose the last digits, which nobody reads.
const fn number(value: u64) -> f64 {
    value as f64
}

const fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}
