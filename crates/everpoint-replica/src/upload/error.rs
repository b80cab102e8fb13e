//! Why an upload ended.

use std::time::Duration;

use crate::error::{PageError, Refusal, Remedy};
use crate::fence::Fence;

/// Why a target did not become what it was to be.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Its fence is somebody else's.
    #[error("somebody else writes to it: its sequence number is that of {fence}")]
    Taken { fence: Fence },

    /// One request did not succeed for so long.
    #[error("it did not take a request for {} s", after.as_secs())]
    GaveUp {
        after: Duration,
        #[source]
        source: PageError,
    },

    /// Repeating does not help.
    #[error(transparent)]
    Target(#[from] PageError),
}

impl UploadError {
    /// What the caller does next.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::Taken { .. } => Remedy::LookWhoLeads,
            Self::GaveUp { source, .. } | Self::Target(source) => source.remedy(),
        }
    }

    /// What a person has to look at, if that is what ended it.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Target(PageError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }
}
