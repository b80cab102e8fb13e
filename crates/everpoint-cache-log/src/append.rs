//! The promise of an append: a future, and the token that only the sync behind it can make.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::{AppendError, LogPosition};

/// Where the writer's answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// Proof that a record is on the medium: the sync that covered it has returned success. There is no
/// other way to come by one, so who asks for an `Appended` cannot acknowledge too early.
#[derive(Debug, Eq, PartialEq)]
pub struct Appended {
    position: LogPosition,
}

/// The answer to an append, when it comes. Dropping it does not take the record back.
#[derive(Debug)]
#[must_use = "a record is durable when this future says so, not before"]
pub struct Append(oneshot::Receiver<Result<Appended, AppendError>>);

impl Appended {
    /// Called by the writer alone, after its sync.
    pub(crate) fn after_sync(position: LogPosition) -> Self {
        Self { position }
    }

    /// Where the record lies.
    pub const fn position(&self) -> LogPosition {
        self.position
    }
}

impl Append {
    pub(crate) fn pending() -> (Reply, Self) {
        let (reply, answer) = oneshot::channel();
        (reply, Self(answer))
    }

    /// Waits on this thread. Not for use inside a runtime.
    ///
    /// # Errors
    ///
    /// See [`AppendError`].
    pub fn wait(self) -> Result<Appended, AppendError> {
        self.0.blocking_recv().unwrap_or(Err(AppendError::Closed))
    }

    /// The answer if it has come, once.
    pub fn answer(&mut self) -> Option<Result<Appended, AppendError>> {
        self.0.try_recv().ok()
    }
}

impl Future for Append {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(AppendError::Closed)))
    }
}
