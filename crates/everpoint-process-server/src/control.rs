//! What a process server answers on its control socket.

use std::sync::Arc;

use bytes::Bytes;
use everpoint_replica::{DayTraffic, Prices, RequestKind, UtcDay};
use everpoint_units::{ByteLen, DiskId, SECTOR_LEN, ServerId};
use everpoint_wire::control as pb;
use prost::Message as _;

use crate::apply_core::ApplyState;
use crate::machine_task::Request;
use crate::shared::{Shared, chain};
use crate::take_over::{Whose, take_over};

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) vault_url: String,
    pub(crate) certificate_expires_at: everpoint_units::WallTime,
}

/// Answers one request.
pub(crate) async fn answer(shared: Arc<Shared>, facts: Arc<Facts>, body: Bytes) -> Bytes {
    use pb::control_answer::Answer;
    use pb::control_request::Request as R;
    let request = pb::ControlRequest::decode(body).ok();
    let answer = match request.and_then(|request| request.request) {
        Some(R::Status(_)) => Answer::ServerStatus(status(&shared, &facts).await),
        Some(R::RebuildReplica(order)) => rebuild_answer(&shared, &order),
        Some(R::TakeOver(order)) => take_over_answer(&shared, &order).await,
        Some(_) => failure("a process server cannot do that", "ask an agent's socket"),
        None => failure(
            "the request was not understood",
            "use an everpoint of the same version",
        ),
    };
    let answer = Some(answer);
    pb::ControlAnswer { answer }.encode_to_vec().into()
}

fn failure(text: &str, remedy: &str) -> pb::control_answer::Answer {
    pb::control_answer::Answer::Failure(pb::Failure {
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    })
}

async fn take_over_answer(
    shared: &Arc<Shared>,
    order: &pb::TakeOver,
) -> pb::control_answer::Answer {
    let server = <[u8; 16]>::try_from(order.server.as_ref());
    let whose = match (server, order.journal.parse()) {
        (_, Ok(journal)) => Whose::Journal(journal),
        (Ok(server), Err(_)) if order.journal.is_empty() => Whose::Server(ServerId(server)),
        _ => return failure("neither a server nor a journal", "name one of them"),
    };
    match take_over(shared, whose).await {
        Ok(sealed) => pb::control_answer::Answer::TakenOver(pb::TakenOver {
            journals: sealed
                .into_iter()
                .map(|(journal, successor)| pb::SealedJournal {
                    journal: journal.to_string(),
                    successor: successor.to_string(),
                })
                .collect(),
        }),
        Err(error) => failure(&chain(&error), "it is safe to try again"),
    }
}

fn rebuild_answer(shared: &Shared, order: &pb::RebuildReplica) -> pb::control_answer::Answer {
    let Ok(disk) = <[u8; 16]>::try_from(order.disk.as_ref()) else {
        return failure("no disk is named", "name one");
    };
    let Some(replicas) = &shared.replicas else {
        return failure(
            "this server keeps no replicas",
            "give its configuration a section [process.replica]",
        );
    };
    if replicas.rebuild(DiskId(disk)) {
        pb::control_answer::Answer::Done(pb::Done {})
    } else {
        failure(
            "this server brings no replica of that disk forward",
            "`everpoint server status` shows the disks that it serves",
        )
    }
}

fn replica(shared: &Shared, disk: DiskId) -> Option<pb::ServerReplica> {
    let replicas = shared.replicas.as_ref()?;
    let (status, traffic) = replicas.status(disk)?;
    let report = status.report;
    let (state, obstacle) = match report.state {
        ApplyState::Claiming => ("claiming", None),
        ApplyState::Filling => ("filling", None),
        ApplyState::Following => ("following", None),
        ApplyState::Waiting => ("waiting", None),
        ApplyState::Blocked(obstacle) => ("blocked", obstacle),
        ApplyState::Fenced => ("fenced", None),
    };
    let trouble = obstacle.map(|obstacle| obstacle.to_string());
    let window = report.window.as_millis();
    Some(pb::ServerReplica {
        url: replicas.url(disk),
        state: state.to_owned(),
        trouble: trouble.or(status.trouble).unwrap_or_default(),
        applied_through: report.applied.map_or(0, |applied| applied.through.0),
        level: report.applied.is_some_and(|applied| applied.is_level),
        staged_bytes: report.staged.0,
        window_ms: u64::try_from(window).unwrap_or(u64::MAX),
        days: traffic
            .days()
            .map(|day| day_of(day, &replicas.prices))
            .collect(),
        currency: match replicas.prices.is_priced() {
            true => replicas.prices.currency.clone(),
            false => String::new(),
        },
    })
}

fn day_of((day, traffic): (UtcDay, DayTraffic), prices: &Prices) -> pb::ReplicaDay {
    pb::ReplicaDay {
        day: day.0,
        writes: traffic.requests(RequestKind::Write),
        reads: traffic.requests(RequestKind::Read),
        others: traffic.requests(RequestKind::Other),
        deletes: traffic.requests(RequestKind::Delete),
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        cost_micros: prices.cost(&traffic).0,
    }
}

async fn status(shared: &Arc<Shared>, facts: &Facts) -> pb::ServerStatus {
    let progress = *shared.progress.borrow();
    let now = shared.clock.now();
    let usage = shared.log.usage();
    let state = if progress.unreachable_since.is_some() {
        "vault-unreachable"
    } else {
        "running"
    };
    let mut machines = Vec::new();
    for (machine, handle) in shared.registry.loaded().await {
        let Some(report) = handle.ask(|reply| Request::Report { reply }).await else {
            continue;
        };
        let disks = report
            .disks
            .into_iter()
            .map(|(disk, report)| pb::ServerDisk {
                disk: Bytes::copy_from_slice(&disk.0),
                name: report.name,
                size_bytes: report.sectors * SECTOR_LEN,
                level: report.level,
                generation: Bytes::copy_from_slice(&report.generation.0),
                cached_block: report.cached.0,
                committed_block: report.committed.0,
                complete_through: report.complete_through.0,
                replica: replica(shared, disk),
            });
        machines.push(pb::ServerMachine {
            machine: Bytes::copy_from_slice(&machine.0),
            connected: report.connected,
            committed_cut: report.committed_cut.0,
            disks: disks.collect(),
        });
    }
    let waiting = progress.waiting_since.map_or(0, |since| {
        u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
    });
    pb::ServerStatus {
        server: Bytes::copy_from_slice(&shared.server.0),
        vault: Bytes::copy_from_slice(&shared.header.vault.0),
        vault_url: facts.vault_url.clone(),
        journal: progress.journal.to_string(),
        state: state.to_owned(),
        last_object: progress.committed.0,
        log_bytes: bytes(usage.used),
        log_quota_bytes: bytes(usage.quota),
        memory_bytes: shared.memory_used(),
        memory_bytes_max: shared.memory_max(),
        uncommitted_bytes: shared.backlog.waiting(),
        oldest_uncommitted_ms: waiting,
        machines,
        certificate_days: days_until(facts.certificate_expires_at),
        last_error: String::new(),
    }
}

const fn bytes(len: ByteLen) -> u64 {
    len.0
}

fn days_until(time: everpoint_units::WallTime) -> i64 {
    const DAY_US: i64 = 86_400_000_000;
    let micros = |time: everpoint_units::WallTime| i64::try_from(time.0).unwrap_or(i64::MAX);
    (micros(time) - micros(crate::clock::wall_time())) / DAY_US
}
