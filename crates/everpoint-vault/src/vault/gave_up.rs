//! From the fault that ended a request to the error that its caller understands.

use crate::backend::{Fault, Part};
use crate::config::VaultConfig;
use crate::error::{Cause, CreateError, ListError, ReadError, SettleError};
use crate::name::{ObjectName, ObjectPrefix};

/// What a request gave up with.
pub(super) struct GaveUp {
    pub(super) attempts: u32,
    /// Whether an attempt before the last one may have taken effect.
    pub(super) was_unknown: bool,
    pub(super) fault: Fault,
}

impl GaveUp {
    pub(super) fn into_create(self, name: &ObjectName) -> CreateError {
        let (name, attempts) = (name.clone(), self.attempts);
        match self.fault {
            Fault::Different => CreateError::Different { name },
            Fault::SyncFailed(source) => CreateError::SyncFailed { name, source },
            Fault::NotDone(Cause::RootMoved { root })
            | Fault::Unknown(Cause::RootMoved { root }) => CreateError::RootMoved { name, root },
            Fault::NotDone(source) if !self.was_unknown => CreateError::Unavailable {
                name,
                attempts,
                source,
            },
            // Also where what is there could not be read to compare it: it may be ours.
            fault => CreateError::Ambiguous {
                name,
                attempts,
                source: fault.into_cause(),
            },
        }
    }

    pub(super) fn into_read(
        self,
        name: &ObjectName,
        part: Part,
        config: &VaultConfig,
    ) -> ReadError {
        let name = name.clone();
        match (self.fault, part) {
            (Fault::Medium(source), _) => ReadError::Medium { name, source },
            (Fault::TooLong { len }, _) => ReadError::TooLong {
                name,
                len,
                max: config.object_len_max(),
            },
            (Fault::OutOfRange { len }, Part::Range { at, len: asked }) => ReadError::OutOfRange {
                name,
                at,
                asked,
                len,
            },
            (fault, _) => ReadError::Unavailable {
                name,
                attempts: self.attempts,
                source: fault.into_cause(),
            },
        }
    }

    pub(super) fn into_list(self, prefix: &ObjectPrefix) -> ListError {
        ListError::Unavailable {
            prefix: prefix.clone(),
            attempts: self.attempts,
            source: self.fault.into_cause(),
        }
    }

    pub(super) fn into_settle(self, name: &ObjectName) -> SettleError {
        let (name, attempts) = (name.clone(), self.attempts);
        match self.fault {
            Fault::SyncFailed(source) => SettleError::SyncFailed { name, source },
            fault => SettleError::Unavailable {
                name,
                attempts,
                source: fault.into_cause(),
            },
        }
    }
}
