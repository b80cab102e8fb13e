//! Why an agent does not start, or does not do what it is asked.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use everpoint_capture::BookmarkError;
use everpoint_nbd::{AttachError, ConnectError, ListenError, Remedy, ServerConfigError};
use everpoint_transport::control::ControlBindError;
use everpoint_transport::pki::LoadError;
use everpoint_transport::{Identity, ServerNameError};
use everpoint_units::{DiskId, MachineId};

use crate::config::SettingError;
use crate::disk_core::report::DiskStateWord;
use crate::disk_source::SourceOpenError;
use crate::state::StateError;

/// Why an agent does not start. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting outside its bounds.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Certificate, key or CA.
    #[error("tls: {0}")]
    Credentials(#[source] LoadError),
    /// A certificate of another machine, or of a server.
    #[error("tls.cert: the certificate names {found}, not the agent of machine {wanted}")]
    OtherMachine {
        /// Whom it names.
        found: Identity,
        /// Whom the configuration names.
        wanted: MachineId,
    },
    /// A certificate of a server.
    #[error("tls.cert: the certificate names {found}; an agent needs one of an agent")]
    NotAnAgent {
        /// Whom it names.
        found: Identity,
    },
    /// A server's name.
    #[error("servers[{index}].name")]
    ServerName {
        /// Which server.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: ServerNameError,
    },
    /// A disk.
    #[error("disk {name:?}")]
    Disk {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: AddDiskError,
    },
    /// The limits of the NBD server.
    #[error("nbd")]
    Nbd(#[from] ServerConfigError),
    /// The NBD server's sockets.
    #[error("nbd")]
    Listen(#[from] ListenError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlBindError),
    /// What freezes filesystems.
    #[error("app_points")]
    AppPoints(#[source] FreezeError),
    /// The operating system gives no threads.
    #[error("threads cannot be started")]
    Threads(#[source] io::Error),
}

/// Why a disk cannot be protected.
#[derive(Debug, thiserror::Error)]
pub enum AddDiskError {
    /// A setting outside its bounds.
    #[error("{key}: {rule}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What holds for it.
        rule: &'static str,
    },
    /// Its source.
    #[error(transparent)]
    Source(#[from] SourceOpenError),
    /// It is there already.
    #[error("disk {disk} is attached already")]
    Attached {
        /// Which.
        disk: DiskId,
    },
    /// Another has its name, or there are too many.
    #[error("the export cannot be served")]
    Export(#[from] AttachError),
    /// It could not be remembered, so it was not attached.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why a disk was not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// It is not there.
    #[error("no disk {disk} is attached")]
    Unknown {
        /// Which.
        disk: DiskId,
    },
    /// Its end has a place in its write order, and it has none.
    #[error("the end of disk {disk} can be recorded only while it is protected; it is {}", state.word())]
    NotProtected {
        /// Which.
        disk: DiskId,
        /// Where it stands.
        state: DiskStateWord,
    },
    /// It is detached; whether the server knows that it ended is open.
    #[error("disk {disk} is detached, but its end was not committed within {waited:?}")]
    EndNotCommitted {
        /// Which.
        disk: DiskId,
        /// How long that was waited for.
        waited: Duration,
    },
    /// It is detached, and will be back at the next start.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why no point was made.
#[derive(Debug, thiserror::Error)]
pub enum CreatePointError {
    /// Not a name.
    #[error("a point's name must be 1 to 255 bytes")]
    Name,
    /// There is nothing to make a point of.
    #[error("no disk is attached")]
    NoDisk,
    /// A point holds for all disks of the machine, and one is not level.
    #[error("disk {name:?} is {}, and a point needs every disk protected", state.word())]
    NotProtected {
        /// Which.
        name: String,
        /// Where it stands.
        state: DiskStateWord,
    },
    /// A disk lost its write order this very moment.
    #[error("a disk lost its write order; nothing was marked")]
    OrderLost,
    /// The state directory is too slow.
    #[error("no sequence number is reserved at the moment; see the log for the state directory")]
    NoSeqs,
    /// Nothing says how applications are made to hold still.
    #[error("app-consistent points are not configured")]
    NoAppPoints,
    /// The application did not get ready.
    #[error("no app-consistent point was made: the script before it did not succeed")]
    PreScript(#[source] ScriptError),
    /// The filesystems were not frozen, or not until the point had its place.
    #[error("no app-consistent point was made")]
    Freeze(#[source] FreezeError),
}

/// Why a script did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It cannot be run.
    #[error("{path:?} cannot be run")]
    NotRun {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says so.
    #[error("{path:?}: {status}")]
    Failed {
        /// Which.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was killed.
    #[error("{path:?} took longer than {within:?} and was killed")]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How long it may take.
        within: Duration,
    },
}

/// Why filesystems were not frozen, or not for long enough.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The processes that freeze cannot be started.
    #[error("the freezer cannot be started")]
    NoProcess(#[source] io::Error),
    /// They must not be paged out while a filesystem stands still.
    #[error("the freezer cannot be kept in memory")]
    Lock(#[source] io::Error),
    /// Something of the agent would stand still too.
    #[error("{path:?} cannot be frozen: {name} ({place:?}) lies on it")]
    Place {
        /// The filesystem.
        path: PathBuf,
        /// What lies on it.
        name: &'static str,
        /// Where.
        place: PathBuf,
    },
    /// It is not there.
    #[error("{path:?} cannot be opened")]
    Open {
        /// The filesystem.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory of another filesystem.
    #[error("{path:?} is not the root of a mounted filesystem")]
    NoMount {
        /// The directory.
        path: PathBuf,
    },
    /// What is unwritten could not be written.
    #[error("{path:?} cannot be synced")]
    Sync {
        /// The filesystem.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A freeze would write for so long that the deadline could pass.
    #[error(
        "what is written reaches the disk too slowly: writes could be held for longer than {deadline:?}"
    )]
    Busy {
        /// For how long they may be held.
        deadline: Duration,
    },
    /// The kernel refused.
    #[error("{path:?} cannot be frozen")]
    Freeze {
        /// The filesystem.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writes went on before the point had its place.
    #[error(
        "the filesystems were thawed before the point had its place, after {deadline:?} at the latest"
    )]
    Late {
        /// For how long they may be frozen.
        deadline: Duration,
    },
    /// The processes that freeze have ended; whatever was frozen is thawed.
    #[error("the freezer ended")]
    Lost,
}

impl From<BookmarkError> for CreatePointError {
    fn from(error: BookmarkError) -> Self {
        match error {
            BookmarkError::Unordered => Self::OrderLost,
            BookmarkError::NoSeqs(_) => Self::NoSeqs,
        }
    }
}

impl AddDiskError {
    /// Whether a later try may succeed with the same configuration: what holds the disk is not there
    /// yet, or not free yet.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Source(error) => source_may_pass(error),
            Self::State(_) => true,
            Self::Setting { .. } | Self::Attached { .. } | Self::Export(_) => false,
        }
    }
}

fn source_may_pass(error: &SourceOpenError) -> bool {
    match error {
        SourceOpenError::Io { .. } | SourceOpenError::InUse { .. } => true,
        // A server can be there before its exports are, and refuse for reasons of its own.
        SourceOpenError::Connect { source, .. } => {
            let is_early = matches!(
                source,
                ConnectError::UnknownExport | ConnectError::Refused { .. }
            );
            is_early || source.remedy() == Remedy::Reconnect
        }
        // What the source is does not change by itself.
        _ => false,
    }
}

impl CreatePointError {
    /// What the operator does next.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Name => "choose another name",
            Self::NoDisk => "attach a disk",
            Self::NotProtected { .. } | Self::OrderLost => {
                "wait until `agent status` says protected, then try again"
            }
            Self::NoSeqs => "try again",
            Self::NoAppPoints => "set filesystems or pre_script in [agent.app_points]",
            Self::PreScript(_) => "see what the script says in the agent's log",
            Self::Freeze(error) => error.remedy(),
        }
    }

    /// The word that it is counted under.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NoDisk => "no-disk",
            Self::NotProtected { .. } => "not-protected",
            Self::OrderLost => "order-lost",
            Self::NoSeqs => "no-seqs",
            Self::NoAppPoints => "not-configured",
            Self::PreScript(_) => "pre-script",
            Self::Freeze(FreezeError::Late { .. }) => "late",
            Self::Freeze(FreezeError::Busy { .. }) => "busy",
            Self::Freeze(FreezeError::Lost) => "freezer-lost",
            Self::Freeze(FreezeError::Sync { .. }) => "sync",
            Self::Freeze(_) => "freeze",
        }
    }
}

impl FreezeError {
    /// What the operator does next.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoProcess(_) | Self::Lock(_) => {
                "give the agent CAP_SYS_ADMIN and CAP_IPC_LOCK: see the notes in everpoint-agent.service"
            }
            Self::Place { .. } => "move it to another filesystem, or do not freeze this one",
            Self::Open { .. } | Self::NoMount { .. } => {
                "mount it, or correct filesystems in [agent.app_points]"
            }
            Self::Sync { .. } => "see the kernel's log for the filesystem",
            Self::Freeze { .. } => {
                "if somebody else has frozen it, try again; if it is of a kind that cannot be frozen, \
                 leave it out and use scripts"
            }
            Self::Busy { .. } | Self::Late { .. } => {
                "try again when less is written, or raise deadline_ms"
            }
            Self::Lost => "try again; it is started anew",
        }
    }
}

impl DetachError {
    /// What the operator does next.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "see `agent status` for the disks",
            Self::NotProtected { .. } => "wait until it is protected, or detach without ending it",
            Self::EndNotCommitted { .. } => "attach it again and detach it once the server answers",
            Self::State(_) => "correct the state directory and detach it again after the restart",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_connect(source: ConnectError) -> bool {
        let source_name = "nbd://ps1/data".to_owned();
        AddDiskError::from(SourceOpenError::Connect {
            source_name,
            source,
        })
        .may_pass()
    }

    #[test]
    fn a_server_that_is_not_ready_passes_and_one_that_cannot_serve_does_not() {
        let unreachable = ConnectError::Unreachable(io::ErrorKind::ConnectionRefused.into());
        for early in [
            unreachable,
            ConnectError::TimedOut,
            ConnectError::Closed,
            ConnectError::ShuttingDown,
            ConnectError::UnknownExport,
            ConnectError::Refused { reply: 0x8000_0002 },
        ] {
            let said = early.to_string();
            assert!(may_connect(early), "{said}");
        }
        for wrong in [ConnectError::TlsRequired, ConnectError::NoSize] {
            let said = wrong.to_string();
            assert!(!may_connect(wrong), "{said}");
        }
    }
}
