//! What can go wrong with a target, and what to do about each.

use std::path::PathBuf;
use std::time::Duration;

use everpoint_units::{ByteLen, ByteOffset};

use crate::fence::Fence;

/// What the caller does next. Each error names exactly one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// It was not carried out and never will be: the same again, after the pause if one was asked for.
    Again { after: Option<Duration> },
    /// It may have been carried out, or may yet be: the fence is raised before anything else is written.
    RaiseFence,
    /// The target's fence is another writer's, or a later one of one's own: find out who leads.
    LookWhoLeads,
    /// A person has to do something: tell what, and look again now and then.
    Report,
}

/// Why a request to a target failed.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The fence was not the target's own: nothing was written.
    #[error("the target no longer takes writes under {fence}")]
    Fenced { fence: Fence },

    /// There is no answer that says whether it was carried out; it may still be.
    #[error("no answer says whether it was carried out")]
    Unknown {
        #[source]
        cause: Cause,
    },

    /// The target has too much to do; nothing was carried out.
    #[error("the target is busy")]
    Busy { after: Option<Duration> },

    /// The target, or whoever hands out tokens for it, is not reached; nothing was sent.
    #[error("the target cannot be reached")]
    Unreachable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The bytes did not arrive as they were sent; nothing was written.
    #[error("what arrived differs from what was sent")]
    Damaged,

    /// Nothing was carried out, and asking again does not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The connection failed before or while the answer came.
    #[error("the connection failed")]
    Connection {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service failed.
    #[error("the service answered {status} {code}")]
    Service { status: u16, code: String },
    /// No answer in time.
    #[error("no answer within {after:?}")]
    TimedOut { after: Duration },
    /// The operating system refused.
    #[error("{operation}")]
    File {
        operation: &'static str,
        source: std::io::Error,
    },
    /// The answer is not what it should be.
    #[error("the answer makes no sense: {what}")]
    Answer { what: &'static str },
    /// A fault that a test asked for.
    #[error("injected by a test")]
    Injected,
}

/// What a person has to look at.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The credential is wrong, has ended, or may not do that.
    #[error(
        "the service refuses the credential ({code}): it has to read, create and write page blobs there; look at \
         its key, its role, and the end and the permissions of its SAS"
    )]
    Credential { code: String },

    /// This machine's clock and the service's differ by more than it allows.
    #[error(
        "this machine's clock differs from the service's by {minutes} minutes, and it allows 15: set the clock"
    )]
    Clock { minutes: i64 },

    /// The container does not exist.
    #[error("the container does not exist: create it, or look at account and endpoint")]
    NoContainer,

    /// The target does not exist.
    #[error("the target does not exist")]
    Missing,

    /// A target of that name exists.
    #[error("a target of that name exists")]
    Exists,

    /// What has the name is no page blob, or no VHD.
    #[error(
        "what is there under this name is a {found}, not a page blob: remove it or choose another name"
    )]
    Foreign { found: String },

    /// Somebody else holds a lease on it.
    #[error(
        "somebody else holds the lease on it: a disk that is attached, another server, or a tool; end that, or break \
         the lease"
    )]
    LeaseHeld,

    /// A policy of the container, or of the account, forbids to change what is there.
    #[error(
        "a policy forbids to change it ({code}): a replica is written in place, so its container may have neither a \
         retention policy nor a legal hold; use another container than the vault's"
    )]
    Immutable { code: String },

    /// It ends before the write does.
    #[error("it ends before {at} plus {len}: it is smaller than the disk")]
    TooSmall { at: ByteOffset, len: ByteLen },

    /// It keeps no account of changes between snapshots.
    #[error("it cannot tell what changed since a snapshot")]
    NoDifference,

    /// It keeps no snapshots.
    #[error("it keeps no snapshots: only a page blob does")]
    NoSnapshots,

    /// The filesystem has no room.
    #[error("the filesystem has no room for it")]
    NoRoom,

    /// A write to a VHD file did not become durable, and nothing of the file was kept in use.
    #[error(
        "a write to it did not become durable ({sync}): its disk may be failing; look at the kernel's log. It is written \
         anew; what was there lies in {aside:?}, which may be removed"
    )]
    SyncFailed { sync: String, aside: PathBuf },

    /// A write to a VHD file did not become durable, and the file has the name of one in use still.
    #[error(
        "a write to {path:?} did not become durable ({sync}): its disk may be failing; look at the kernel's log. It cannot \
         be renamed to end in .failed ({rename}): remove it, or what is in the way, so that it is written anew"
    )]
    NotSetAside {
        path: PathBuf,
        sync: String,
        rename: String,
    },

    /// Another process has it open.
    #[error("another process of this machine has it open")]
    InUse,

    /// Endpoint, container and name make no URL of a blob.
    #[error(
        "{url:?} is no URL of a blob: look at the endpoint (https://ACCOUNT.blob.core.windows.net), and at the names of \
         container and blob: A-Z, a-z, 0-9, '-', '_', '.' and '/'"
    )]
    NoUrl { url: String },

    /// Something that should not happen; the code is the service's.
    #[error("the service refuses the request: {status} {code}")]
    Request { status: u16, code: String },
}

impl PageError {
    /// What the caller does next.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::Fenced { .. } => Remedy::LookWhoLeads,
            Self::Unknown { .. } => Remedy::RaiseFence,
            Self::Busy { after } => Remedy::Again { after: *after },
            Self::Damaged | Self::Unreachable { .. } => Remedy::Again { after: None },
            Self::Refused(_) => Remedy::Report,
        }
    }
}

impl From<Cause> for PageError {
    fn from(cause: Cause) -> Self {
        Self::Unknown { cause }
    }
}
