//! What can go wrong with a vault, by operation, and what to do about each.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use everpoint_units::{ByteLen, ByteOffset};

use crate::cloud::AccessError;
use crate::config::ConfigError;
use crate::name::{ObjectName, ObjectPrefix};

/// What the caller does next. Each error names exactly one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Remedy {
    /// The same request again, later: same name, same bytes. It may have taken effect, and may still.
    Again,
    /// Somebody else holds the name. Stand down; repeating cannot help.
    StandDown,
    /// The medium no longer keeps its word. Promise nothing more, end the process; a new one reads
    /// again from the medium what is there.
    EndProcess,
    /// Repeating cannot help: tell the operator.
    Report,
}

/// Why one attempt got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The operating system refused.
    #[error("{operation} {path:?}")]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The object store refused.
    #[error("the object store refused")]
    Store {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object store does not let this credential do that.
    #[error(
        "the object store refuses the credential: it has to read, list and create there; look at its key, its \
         role, the end of its SAS, and this machine's clock"
    )]
    Denied {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such container or bucket.
    #[error("the container or bucket does not exist: create it, or look at account and endpoint")]
    NoContainer {
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The medium could not give an object's bytes back.
    #[error("the medium does not give the object back")]
    Medium { source: io::Error },
    /// A sync failed while something was read.
    #[error(transparent)]
    Sync(SyncFailure),
    /// What has the object's name is a directory, a link or a device.
    #[error("{path:?} is not a regular file")]
    NotAFile { path: PathBuf },
    /// The root is missing, or another directory than the one that was opened: unmounted, renamed, replaced.
    #[error("{root:?} is not the directory that was opened as the vault")]
    RootMoved { root: PathBuf },
    /// No answer in time.
    #[error("no answer within {after:?}")]
    TimedOut { after: Duration },
    /// A create was told that the object exists, then it was not found.
    #[error("the store said that the object exists, and then that it does not")]
    ExistedThenNotFound,
    /// The store lists names in an order that is not theirs.
    #[error("the store does not list names in order")]
    Unsorted,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
    /// A fault that a test asked for.
    #[error("injected by a test")]
    Injected,
}

/// A sync that failed: the kernel may have dropped the bytes, and the next sync may lie.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("sync of {what:?} failed: {}", self.reason())]
pub struct SyncFailure {
    /// The file or directory, as far as it is known.
    pub what: PathBuf,
    /// What the kernel said.
    pub error: io::ErrorKind,
    /// The kernel's number for it, if any.
    pub errno: Option<i32>,
}

/// Why a vault was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store's client cannot be made of what is configured.
    #[error("the vault's store cannot be reached as it is configured")]
    Access(#[from] AccessError),
    /// A setting is outside its bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No such directory, and none was to be made.
    #[error("{root:?} does not exist: mount it, or make the directory")]
    Missing { root: PathBuf },
    /// The root is something else.
    #[error("{root:?} is not a directory")]
    NotADirectory { root: PathBuf },
    /// The root lies on a filesystem whose server may forget, or answer from a cache.
    #[error("{root:?} is on {filesystem}: a vault needs a local filesystem")]
    NetworkFilesystem {
        root: PathBuf,
        filesystem: &'static str,
    },
    /// The store does not do what a vault needs.
    #[error("the store cannot hold a vault")]
    Unsuitable {
        #[source]
        finding: ProbeFinding,
    },
    /// The operating system or the store gave no answer.
    #[error("the vault cannot be opened")]
    Unavailable { source: Cause },
    /// The probe's create got no clear answer.
    #[error("the vault cannot be probed")]
    ProbeFailed { source: CreateError },
    /// The probe's object could not be read or listed.
    #[error("the vault's probe cannot be read back")]
    ProbeUnread { source: ReadError },
    /// The probe's object could not be listed.
    #[error("the vault's probe cannot be listed")]
    ProbeUnlisted { source: ListError },
    /// A sync failed.
    #[error("the vault's medium does not keep its word")]
    SyncFailed(#[source] SyncFailure),
}

/// What the probe found a store to do that a vault cannot live with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeFinding {
    /// Two creates of one name with different bytes both succeeded.
    #[error("it lets a second create of a name succeed")]
    SecondCreateSucceeded,
    /// What was created is not what is read.
    #[error("it does not give back what was created first")]
    OtherBytesRead,
    /// What was created is not listed.
    #[error("it does not list what was just created")]
    NotListed,
}

/// Why an object was not created, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is taken, by other bytes: fenced.
    #[error("{name} exists with other bytes")]
    Different { name: ObjectName },
    /// At least one attempt may have taken effect, or may still.
    #[error("whether {name} exists is unknown after {attempts} attempts")]
    Ambiguous {
        name: ObjectName,
        attempts: u32,
        source: Cause,
    },
    /// No attempt took effect.
    #[error("{name} was not created in {attempts} attempts")]
    Unavailable {
        name: ObjectName,
        attempts: u32,
        source: Cause,
    },
    /// The root is not the directory that was opened; the object may lie where nobody will look. Never
    /// *committed*. Heals when the root is back.
    #[error("{name} is not in the vault that was opened: its root {root:?} moved")]
    RootMoved { name: ObjectName, root: PathBuf },
    /// A sync failed, now or at an earlier request of this vault.
    #[error("{name} may not survive: a sync failed")]
    SyncFailed {
        name: ObjectName,
        source: SyncFailure,
    },
    /// Longer than the configuration allows.
    #[error("{name} would have {} bytes, the limit is {}", len.0, max.0)]
    TooLong {
        name: ObjectName,
        len: ByteLen,
        max: ByteLen,
    },
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No clear answer; absence is an answer, not an error.
    #[error("{name} could not be read in {attempts} attempts")]
    Unavailable {
        name: ObjectName,
        attempts: u32,
        source: Cause,
    },
    /// The medium could not give the bytes back (EIO, or the file ends early). This is damage.
    #[error("the medium does not give {name} back")]
    Medium { name: ObjectName, source: io::Error },
    /// The object ends before the range does.
    #[error("{}+{} passes the end of {name}, which has {} bytes", at.0, asked.0, len.0)]
    OutOfRange {
        name: ObjectName,
        at: ByteOffset,
        asked: ByteLen,
        len: ByteLen,
    },
    /// More bytes than the configuration allows at once.
    #[error("{} bytes of {name} at once, the limit is {}", len.0, max.0)]
    TooLong {
        name: ObjectName,
        len: ByteLen,
        max: ByteLen,
    },
}

/// Why a prefix was not listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// No clear answer; an empty listing is an answer, not an error.
    #[error("{prefix} could not be listed in {attempts} attempts")]
    Unavailable {
        prefix: ObjectPrefix,
        attempts: u32,
        source: Cause,
    },
}

/// Why what is visible was not made durable.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// No clear answer.
    #[error("{name} could not be settled in {attempts} attempts")]
    Unavailable {
        name: ObjectName,
        attempts: u32,
        source: Cause,
    },
    /// A sync failed, now or at an earlier request of this vault.
    #[error("{name} may not survive: a sync failed")]
    SyncFailed {
        name: ObjectName,
        source: SyncFailure,
    },
}

impl SyncFailure {
    pub(crate) fn new(what: PathBuf, error: &io::Error) -> Self {
        Self {
            what,
            error: error.kind(),
            errno: error.raw_os_error(),
        }
    }

    fn reason(&self) -> io::Error {
        self.errno
            .map_or_else(|| self.error.into(), io::Error::from_raw_os_error)
    }
}

impl OpenError {
    /// Whether the store refuses the credential.
    pub fn is_denied(&self) -> bool {
        let cause = match self {
            Self::Unavailable { source } => source,
            Self::ProbeFailed {
                source: CreateError::Unavailable { source, .. },
            } => source,
            _ => return false,
        };
        matches!(cause, Cause::Denied { .. })
    }

    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Access(_)
            | Self::Config(_)
            | Self::Missing { .. }
            | Self::NotADirectory { .. }
            | Self::NetworkFilesystem { .. }
            | Self::Unsuitable { .. } => Remedy::Report,
            Self::Unavailable { .. } | Self::ProbeUnlisted { .. } => Remedy::Again,
            Self::ProbeFailed { source } => source.remedy(),
            Self::ProbeUnread { source } => source.remedy(),
            Self::SyncFailed(_) => Remedy::EndProcess,
        }
    }
}

impl CreateError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Different { .. } => Remedy::StandDown,
            Self::Ambiguous { .. } | Self::Unavailable { .. } | Self::RootMoved { .. } => {
                Remedy::Again
            }
            Self::SyncFailed { .. } => Remedy::EndProcess,
            Self::TooLong { .. } => Remedy::Report,
        }
    }
}

impl ReadError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } => Remedy::Again,
            Self::Medium { .. } | Self::OutOfRange { .. } | Self::TooLong { .. } => Remedy::Report,
        }
    }
}

impl ListError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } => Remedy::Again,
        }
    }
}

impl SettleError {
    /// What the caller does next.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } => Remedy::Again,
            Self::SyncFailed { .. } => Remedy::EndProcess,
        }
    }
}
