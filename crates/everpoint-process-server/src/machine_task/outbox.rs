//! What goes back to an agent on one disk's stream: the newest marks, and answers in order.

use everpoint_transport::SendHalf;
use everpoint_wire::{FrameKind, ToAgent, Watermarks};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

/// Answers that wait for the agent to read them, at most. An agent that lets more come together loses
/// its connection.
const ANSWERS_MAX: usize = 256;

/// The end that fills. Dropping it ends the writer.
#[derive(Debug)]
pub(crate) struct Outbox {
    marks: watch::Sender<Option<Watermarks>>,
    answers: mpsc::Sender<ToAgent>,
}

/// The end that writes.
pub(crate) struct OutboxWriter {
    marks: watch::Receiver<Option<Watermarks>>,
    answers: mpsc::Receiver<ToAgent>,
}

/// A new pair.
pub(crate) fn outbox() -> (Outbox, OutboxWriter) {
    let (marks, marks_rx) = watch::channel(None);
    let (answers, answers_rx) = mpsc::channel(ANSWERS_MAX);
    let writer = OutboxWriter {
        marks: marks_rx,
        answers: answers_rx,
    };
    (Outbox { marks, answers }, writer)
}

impl Outbox {
    /// The newest marks; older ones that were not sent yet are forgotten.
    pub(crate) fn marks(&self, marks: Watermarks) {
        self.marks.send_replace(Some(marks));
    }

    /// An answer; `false` when the agent leaves too many unread.
    pub(crate) fn answer(&self, answer: ToAgent) -> bool {
        // A writer that is gone went with its stream, and nobody waits for the answer.
        !matches!(self.answers.try_send(answer), Err(TrySendError::Full(_)))
    }

    /// The way for answers that are made elsewhere.
    pub(crate) fn answers(&self) -> mpsc::Sender<ToAgent> {
        self.answers.clone()
    }
}

impl OutboxWriter {
    /// Writes until the other end is gone or the stream breaks.
    pub(crate) async fn run(mut self, mut send: SendHalf) {
        loop {
            // Both arms are cancel-safe; what they returned is sent before the next round.
            let message = tokio::select! {
                biased;
                answer = self.answers.recv() => match answer {
                    Some(answer) => answer,
                    None => return,
                },
                changed = self.marks.changed() => {
                    let marks = *self.marks.borrow_and_update();
                    match (changed, marks) {
                        (Ok(()), Some(marks)) => ToAgent::Watermarks(marks),
                        (Ok(()), None) => continue,
                        (Err(_), _) => return,
                    }
                }
            };
            let (kind, body) = (FrameKind::Message.code(), [message.encode()]);
            if let Err(error) = send.send_frame(kind, &body).await {
                tracing::debug!(%error, "an answer was not sent");
                return;
            }
        }
    }
}
