//! The first exchange on a link, and what else the server may say on that stream.

use std::time::Duration;

use everpoint_transport::{CloseReason, Link, RecvHalf, SendHalf};
use everpoint_units::MachineId;
use everpoint_wire::{ANSWER_LEN_MAX, FrameKind, HelloAnswer, ToAgent, ToServer};

use super::SessionError;
use crate::clock::wall;
use crate::session_core::{AnswerError, SessionState, answer_of, clock_offset, hello};

/// How long the server may take to answer; it may have to read the machine's path from a vault.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks, and what it remembers.
pub(super) struct Greeting {
    pub(super) machine: MachineId,
    pub(super) remembered: SessionState,
    /// Disk streams.
    pub(super) announced: u32,
}

/// The first stream, kept open as long as the session.
pub(super) struct Control {
    _send: SendHalf,
    recv: RecvHalf,
}

/// Says hello. The last value is the server's clock minus this one's, in microseconds, measured in
/// the middle of the round trip.
///
/// # Errors
///
/// See [`SessionError`].
pub(super) async fn exchange(
    link: &Link,
    greeting: Greeting,
) -> Result<(HelloAnswer, Control, i64), SessionError> {
    let exchange = ask(link, greeting);
    let answered = tokio::time::timeout(HELLO_TIMEOUT, exchange).await;
    answered.unwrap_or(Err(SessionError::TimedOut))
}

async fn ask(link: &Link, greeting: Greeting) -> Result<(HelloAnswer, Control, i64), SessionError> {
    let (mut send, mut recv) = link.open_stream().await.map_err(SessionError::Closed)?;
    let asked_at = wall();
    let Greeting {
        machine,
        remembered,
        announced,
    } = greeting;
    let hello = ToServer::Hello(hello(machine, remembered, announced, asked_at));
    let kind = FrameKind::Message.code();
    send.send_frame(kind, &[hello.encode()]).await?;
    let frame = recv.recv_frame(limit).await?;
    let frame = frame.ok_or(AnswerError::Unexpected)?;
    let answered_at = wall();
    let message = ToAgent::decode(frame.body).inspect_err(|error| {
        link.close(CloseReason::Frame, &error.to_string());
    })?;
    let answer = answer_of(message)?;
    let offset = clock_offset(asked_at, answered_at, answer.clock);
    Ok((answer, Control { _send: send, recv }, offset))
}

impl Control {
    /// Waits for the server to say that it serves this machine no longer. Cancel-safe.
    pub(super) async fn refused(&mut self) -> SessionError {
        match self.recv.recv_frame(limit).await {
            Ok(Some(frame)) => match ToAgent::decode(frame.body) {
                Ok(ToAgent::Refusal { reason, text }) => {
                    AnswerError::Refused { reason, text }.into()
                }
                Ok(_) => AnswerError::Unexpected.into(),
                Err(error) => SessionError::Wire(error),
            },
            // The end of this stream says nothing that the end of the link does not.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// The longest frame of each kind that a server sends on the first stream.
fn limit(kind: u8) -> Option<u32> {
    let message = kind == FrameKind::Message.code();
    message.then(|| u32::try_from(ANSWER_LEN_MAX).expect("far below 4 GiB"))
}
