//! The control socket: what the command line asks of a running agent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use everpoint_transport::control::ControlSocket;
use everpoint_units::DiskId;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{
    AttachDisk, ControlAnswer, ControlRequest, CreatePoint, DetachDisk, Done, Failure, PointCreated,
};
use prost::Message as _;

use crate::agent::Inner;
use crate::config::{DiskConfig, IdText};
use crate::splitter::chain;
use crate::status;

/// Answers until the agent is gone or the task is aborted.
pub(crate) async fn serve(agent: Weak<Inner>, socket: ControlSocket) {
    socket
        .serve(move |request| {
            let agent = agent.upgrade();
            async move {
                let answer = match agent {
                    Some(agent) => answer(&agent, request).await,
                    None => failure("the agent stops", "start it again"),
                };
                let answer = Some(answer);
                ControlAnswer { answer }.encode_to_vec().into()
            }
        })
        .await;
}

async fn answer(agent: &Arc<Inner>, request: Bytes) -> Answer {
    let request = match ControlRequest::decode(request) {
        Ok(request) => request.request,
        Err(_) => return failure("not a request", "use the command line of the same version"),
    };
    match request {
        Some(Request::Status(_)) => Answer::AgentStatus(status::of(agent)),
        Some(Request::CreatePoint(request)) => create_point(agent, request).await,
        Some(Request::Attach(request)) => attach(agent, request).await,
        Some(Request::Detach(request)) => detach(agent, request).await,
        Some(Request::TakeOver(_)) => {
            failure("an agent takes nothing over", "ask a process server")
        }
        Some(Request::RebuildReplica(_)) => {
            failure("an agent keeps no replicas", "ask a process server")
        }
        None => failure(
            "an unknown request",
            "use the command line of the same version",
        ),
    }
}

async fn create_point(agent: &Arc<Inner>, request: CreatePoint) -> Answer {
    let wait = Duration::from_millis(u64::from(request.wait_ms));
    let made = if request.app {
        agent.create_app_point(&request.name, wait).await
    } else {
        agent.create_point(&request.name, wait).await
    };
    match made {
        Ok(point) if point.lost => failure(
            &format!(
                "a disk lost its write order before point {:?} (seq:{}) was committed; it may be lost",
                request.name, point.seq.0
            ),
            "wait until `agent status` says protected, then create it again",
        ),
        Ok(point) => Answer::PointCreated(PointCreated {
            seq: point.seq.0,
            at_us: point.at.0,
            committed: point.committed,
            held_us: point.held.map_or(0, |held| {
                u64::try_from(held.as_micros()).unwrap_or(u64::MAX)
            }),
        }),
        Err(error) => failure(&chain(&error), error.remedy()),
    }
}

async fn attach(agent: &Arc<Inner>, request: AttachDisk) -> Answer {
    let id = match disk_id(&request.disk) {
        _ if request.disk.is_empty() => DiskId(rand::random()),
        Some(id) => id,
        None => return failure("a disk id is 16 bytes", "leave it out for a new one"),
    };
    let config = DiskConfig {
        id: IdText(id),
        name: request.name,
        source: request.source,
        block_size: (request.block_size != 0).then_some(request.block_size),
        direct: false,
    };
    match agent.attach(config).await {
        Ok(()) => Answer::Done(Done {}),
        Err(error) => failure(&chain(&error), ""),
    }
}

async fn detach(agent: &Inner, request: DetachDisk) -> Answer {
    let Some(disk) = disk_id(&request.disk) else {
        return failure("a disk id is 16 bytes", "see `agent status` for the disks");
    };
    match agent.detach(disk, request.end).await {
        Ok(()) => Answer::Done(Done {}),
        Err(error) => failure(&chain(&error), error.remedy()),
    }
}

fn disk_id(bytes: &[u8]) -> Option<DiskId> {
    bytes.try_into().ok().map(DiskId)
}

fn failure(text: &str, remedy: &str) -> Answer {
    Answer::Failure(Failure {
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    })
}
