//! One disk's stream to the server: opening it, reading what comes, sending a frame at a time.

use std::time::Duration;

use bytes::Bytes;
use everpoint_transport::{CloseReason, Closed, Link, RecvError, RecvHalf, SendError, SendHalf};
use everpoint_units::DiskId;
use everpoint_wire::{DiskState, FrameKind, MESSAGE_LEN_MAX, ToAgent, ToServer, WireError};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long the server may take to say where a disk stands.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that wait to be looked at.
const INCOMING_COUNT_MAX: usize = 64;

/// A stream whose server has said where the disk stands.
pub(crate) struct DiskStream {
    /// Absent while a frame is being sent.
    pub(crate) send: Option<SendHalf>,
    /// Ends when the stream does.
    pub(crate) incoming: mpsc::Receiver<ToAgent>,
    /// Stops reading when the stream is dropped.
    _reader: JoinSet<()>,
}

/// A frame that is being sent; gives the sending half back.
pub(crate) type Sending = BoxFuture<'static, (SendHalf, Result<(), SendError>)>;

/// Why a disk's stream was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the server took too long to say where the disk stands")]
    TimedOut,
    #[error("the link ended")]
    Closed(#[source] Closed),
    #[error("the request was not sent")]
    Send(#[source] SendError),
    #[error("the answer did not come")]
    Receive(#[source] RecvError),
    #[error("the server ended the stream")]
    Ended,
    #[error("the server broke the protocol")]
    Wire(#[source] WireError),
    #[error("the server answered something else")]
    Unexpected,
}

/// The longest frame of each kind that a server sends on a disk's stream.
fn limit(kind: u8) -> Option<u32> {
    let message = kind == FrameKind::Message.code();
    message.then(|| u32::try_from(MESSAGE_LEN_MAX).expect("far below 4 GiB"))
}

/// Opens a stream for `disk`.
///
/// # Errors
///
/// See [`OpenError`]. A server that breaks the protocol has been told so.
pub(crate) async fn open(link: Link, disk: DiskId) -> Result<(DiskStream, DiskState), OpenError> {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, exchange(&link, disk)).await;
    let (send, recv, state) = opened.unwrap_or(Err(OpenError::TimedOut))?;
    let (sender, incoming) = mpsc::channel(INCOMING_COUNT_MAX);
    let mut reader = JoinSet::new();
    reader.spawn(read(link, recv, sender));
    let stream = DiskStream {
        send: Some(send),
        incoming,
        _reader: reader,
    };
    Ok((stream, state))
}

async fn exchange(link: &Link, disk: DiskId) -> Result<(SendHalf, RecvHalf, DiskState), OpenError> {
    let (mut send, mut recv) = link.open_stream().await.map_err(OpenError::Closed)?;
    let request = ToServer::OpenDisk { disk }.encode();
    let kind = FrameKind::Message.code();
    send.send_frame(kind, &[request])
        .await
        .map_err(OpenError::Send)?;
    let frame = recv.recv_frame(limit).await.map_err(OpenError::Receive)?;
    let frame = frame.ok_or(OpenError::Ended)?;
    match ToAgent::decode(frame.body) {
        Ok(ToAgent::DiskState(state)) if state.disk == disk => Ok((send, recv, state)),
        Ok(_) => Err(OpenError::Unexpected),
        Err(error) => {
            link.close(CloseReason::Frame, &error.to_string());
            Err(OpenError::Wire(error))
        }
    }
}

/// Hands on what comes until the stream ends; the end of the channel says so.
async fn read(link: Link, mut recv: RecvHalf, sender: mpsc::Sender<ToAgent>) {
    loop {
        match recv.recv_frame(limit).await {
            Ok(Some(frame)) => match ToAgent::decode(frame.body) {
                Ok(message) => {
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the server broke the protocol");
                    return link.close(CloseReason::Frame, &error.to_string());
                }
            },
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a disk's stream ended");
                return;
            }
        }
    }
}

impl DiskStream {
    /// Begins to send one frame; `None` while another is being sent.
    pub(crate) fn send(&mut self, kind: FrameKind, pieces: Vec<Bytes>) -> Option<Sending> {
        let mut send = self.send.take()?;
        Some(Box::pin(async move {
            let sent = send.send_frame(kind.code(), &pieces).await;
            (send, sent)
        }))
    }

    /// Whether a frame can be sent now.
    pub(crate) fn is_free(&self) -> bool {
        self.send.is_some()
    }
}
