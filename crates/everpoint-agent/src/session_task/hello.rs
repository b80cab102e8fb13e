//! The first exchange on a link, and what else the server may say on that stream.

use std::time::Duration;

use everpoint_transport::{CloseReason, Link, RecvHalf, SendHalf};
use everpoint_units::MachineId;
use everpoint_wire::{ANSWER_LEN_MAX, FrameKind, Hello, HelloAnswer, PROTOCOL, ToAgent, ToServer};

use super::SessionError;
use crate::clock::wall;
use crate::state::SessionState;

/// How long the server may take to answer; it may have to read the machine's path from a vault.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks, and what it remembers.
pub(super) struct Greeting {
    pub(super) machine: MachineId,
    pub(super) remembered: SessionState,
    pub(super) disk_count: u32,
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
    let hello = ToServer::Hello(Hello {
        protocol: PROTOCOL,
        machine: greeting.machine,
        highest_epoch: greeting.remembered.highest_epoch,
        vault: greeting.remembered.vault,
        clock: asked_at,
        disk_count: greeting.disk_count,
    });
    let kind = FrameKind::Message.code();
    send.send_frame(kind, &[hello.encode()]).await?;
    let frame = recv.recv_frame(limit).await?;
    let frame = frame.ok_or(SessionError::Unexpected)?;
    let answered_at = wall();
    let message = ToAgent::decode(frame.body).inspect_err(|error| {
        link.close(CloseReason::Frame, &error.to_string());
    })?;
    match message {
        ToAgent::HelloAnswer(answer) if answer.protocol == PROTOCOL => {
            let middle = asked_at.0.midpoint(answered_at.0);
            let offset = i64::try_from(i128::from(answer.clock.0) - i128::from(middle));
            let control = Control { _send: send, recv };
            Ok((answer, control, offset.unwrap_or(0)))
        }
        ToAgent::Refusal { reason, text } => Err(SessionError::Refused { reason, text }),
        _ => Err(SessionError::Unexpected),
    }
}

impl Control {
    /// Waits for the server to say that it serves this machine no longer. Cancel-safe.
    pub(super) async fn refused(&mut self) -> SessionError {
        match self.recv.recv_frame(limit).await {
            Ok(Some(frame)) => match ToAgent::decode(frame.body) {
                Ok(ToAgent::Refusal { reason, text }) => SessionError::Refused { reason, text },
                Ok(_) => SessionError::Unexpected,
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
