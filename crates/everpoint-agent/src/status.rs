//! What an agent says of itself on the control socket.

use bytes::Bytes;
use everpoint_nbd::NbdAddress;
use everpoint_transport::pki::warn_if_expiring;
use everpoint_units::{GenerationId, WallTime};
use everpoint_wire::control::{AgentDisk, AgentStatus};

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::agent::Inner;
use crate::clock::wall;
use crate::disk::Disk;

const DAY_S: u64 = 86_400;

/// Everything, now.
pub(crate) fn of(agent: &Inner) -> AgentStatus {
    let session = agent.session.report.borrow().clone();
    let (seq, used, max) = {
        let order = agent.machine.order();
        (order.newest(), order.used(), order.limits().queue_bytes_max)
    };
    let disks = agent.disks.all();
    AgentStatus {
        machine: id(agent.machine.id.0),
        vault: session.vault.map_or_else(Bytes::new, |vault| id(vault.0)),
        server: session.server,
        connected: session.connected,
        last_error: session.last_error,
        epoch: session.epoch.0,
        seq: seq.0,
        queue_bytes: used,
        queue_bytes_max: max,
        disks: disks.iter().map(|disk| disk_status(agent, disk)).collect(),
        certificate_days: certificate_days(session.certificate_expires_at),
    }
}

/// Whole days until a certificate ends; negative when it has ended.
pub(crate) fn certificate_days(expires_at: WallTime) -> i64 {
    let now = wall();
    let days = |micros: u64| i64::try_from(micros / 1_000_000 / DAY_S).unwrap_or(i64::MAX);
    match warn_if_expiring(expires_at, now, Duration::MAX) {
        Some(expiring) if !expiring.left.is_zero() => days(expires_at.0 - now.0),
        _ => -days(now.0.saturating_sub(expires_at.0)) - 1,
    }
}

fn disk_status(agent: &Inner, disk: &Disk) -> AgentDisk {
    let report = *disk.report.borrow();
    let figures = disk.machine.order().figures(disk.slot);
    let queue = figures.map_or(0, |figures| figures.waiting_bytes + figures.frozen_bytes);
    let generation = report.marks.map(|marks| marks.generation);
    let facts = disk.source().facts();
    AgentDisk {
        disk: id(disk.id.0),
        name: disk.config.name.clone(),
        source: disk.config.source.clone(),
        size_bytes: facts.size.0,
        block_size: facts.block_size,
        state: disk.state().word().to_owned(),
        resync_reason: report.reason.map_or("", |reason| reason.word()).to_owned(),
        resync_done_bytes: disk.progress.done.load(Relaxed),
        resync_total_bytes: disk.progress.total.load(Relaxed),
        resync_count: report.resync_count,
        generation: generation.map_or_else(Bytes::new, |GenerationId(bytes)| id(bytes)),
        written_seq: figures.map_or(0, |figures| figures.newest.0),
        sent_block: report.marks.map_or(0, |marks| marks.sent.0),
        cached_block: report.marks.map_or(0, |marks| marks.cached.0),
        committed_block: report.marks.map_or(0, |marks| marks.committed.0),
        queue_bytes: queue,
        rpo_lag_ms: u64::try_from(disk.lag().as_millis()).unwrap_or(u64::MAX),
        export_uri: export_uri(agent, &disk.config.name),
        unsent_bytes: report.unsent_bytes,
    }
}

/// Where a guest finds the disk.
fn export_uri(agent: &Inner, name: &str) -> String {
    match (&agent.config.nbd.unix, agent.tcp.get()) {
        (Some(path), _) => NbdAddress::unix(path, name).to_string(),
        (None, Some(tcp)) => NbdAddress::tcp(tcp.ip().to_string(), tcp.port(), name).to_string(),
        (None, None) => String::new(),
    }
}

fn id(bytes: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_has_ended_has_less_than_no_days() {
        let day = i64::try_from(DAY_S).expect("small") * 1_000_000;
        let now = wall();
        assert_eq!(certificate_days(now.shifted(10 * day + day / 2)), 10);
        assert_eq!(certificate_days(now.shifted(day / 2)), 0);
        assert_eq!(certificate_days(now.shifted(-day / 2)), -1);
        assert_eq!(certificate_days(now.shifted(-day - day / 2)), -2);
    }
}
