//! What running servers and agents say on their control sockets.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use everpoint_transport::control::{ControlCallError, call};
use everpoint_wire::CONTROL_LEN_MAX;
use everpoint_wire::control::{
    AgentDisk, AgentStatus, ControlAnswer, ControlRequest, ServerDisk, ServerStatus, StatusRequest,
    control_answer::Answer, control_request::Request,
};
use prost::Message as _;

/// Longest time for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Asks, and takes the answer whatever it is.
///
/// # Errors
///
/// When nobody listens, or no answer comes.
async fn status(socket: &Path) -> Result<Option<Answer>> {
    let request = Some(Request::Status(StatusRequest {}));
    let request = ControlRequest { request }.encode_to_vec();
    let called = call(socket, &request, CONTROL_LEN_MAX);
    let answered = tokio::time::timeout(ANSWER_MAX, called).await;
    let answered = answered.with_context(|| format!("{} does not answer", socket.display()))?;
    Ok(ControlAnswer::decode(answered?)?.answer)
}

/// The status of an agent.
///
/// # Errors
///
/// When it does not answer; see [`is_away`].
pub async fn agent_status(socket: &Path) -> Result<AgentStatus> {
    match status(socket).await? {
        Some(Answer::AgentStatus(status)) => Ok(status),
        other => bail!("not the status of an agent: {other:?}"),
    }
}

/// The status of a process server.
///
/// # Errors
///
/// When it does not answer; see [`is_away`].
pub async fn server_status(socket: &Path) -> Result<ServerStatus> {
    match status(socket).await? {
        Some(Answer::ServerStatus(status)) => Ok(status),
        other => bail!("not the status of a server: {other:?}"),
    }
}

/// Whether an error says that nobody was there: not started yet, or killed.
pub fn is_away(error: &anyhow::Error) -> bool {
    let call = error.downcast_ref::<ControlCallError>();
    call.is_some_and(|call| !matches!(call, ControlCallError::TooLong { .. }))
}

/// `Some` unless nobody was there.
///
/// # Errors
///
/// Every other error.
pub fn if_there<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_away(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The only disk of an agent.
///
/// # Errors
///
/// When it has none, or several.
pub fn only_disk(status: &AgentStatus) -> Result<&AgentDisk> {
    match &status.disks[..] {
        [disk] => Ok(disk),
        disks => bail!("{} disks instead of one", disks.len()),
    }
}

/// A disk as a server has it; `None` while it does not know it.
pub fn disk_of<'a>(status: &'a ServerStatus, disk: &[u8]) -> Option<&'a ServerDisk> {
    let disks = status.machines.iter().flat_map(|machine| &machine.disks);
    disks.into_iter().find(|found| found.disk == disk)
}
