//! How long a request is repeated, and with what pauses.

use std::time::Duration;

use tokio::time::Instant;

use super::{UploadConfig, UploadError};
use crate::error::{PageError, Remedy};

/// The patience with one request.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    left_from: Option<Instant>,
    pause: Duration,
    pause_max: Duration,
    time_max: Duration,
}

impl Patience {
    pub(super) fn new(config: &UploadConfig) -> Self {
        Self {
            left_from: None,
            pause: Duration::from_millis(config.delay_ms_first),
            pause_max: Duration::from_millis(config.delay_ms_max),
            time_max: Duration::from_millis(config.patience_ms_max),
        }
    }

    /// The pause after a failure, `asked` at least; the error itself when it has gone on for too long.
    pub(super) fn after(
        &mut self,
        error: PageError,
        asked: Option<Duration>,
    ) -> Result<Duration, UploadError> {
        let now = Instant::now();
        let since = *self.left_from.get_or_insert(now);
        let after = now - since;
        if self.time_max <= after {
            return Err(UploadError::GaveUp {
                after,
                source: error,
            });
        }
        let pause = self.pause.max(asked.unwrap_or_default());
        self.pause = (self.pause * 2).min(self.pause_max);
        Ok(pause)
    }
}

/// Asks again until there is an answer: for what changes nothing, or nothing more when it is done twice.
pub(super) async fn ask<T, F>(
    config: &UploadConfig,
    mut request: impl FnMut() -> F,
) -> Result<T, UploadError>
where
    F: Future<Output = Result<T, PageError>>,
{
    let mut patience = Patience::new(config);
    loop {
        let error = match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let after = match error.remedy() {
            Remedy::Again { after } => after,
            Remedy::RaiseFence => None,
            Remedy::LookWhoLeads | Remedy::Report => return Err(error.into()),
        };
        tokio::time::sleep(patience.after(error, after)?).await;
    }
}
