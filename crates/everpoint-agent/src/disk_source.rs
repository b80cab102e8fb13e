//! What holds a protected disk's bytes: a file, a block device, or another NBD export.
//!
//! A source does what it is told and keeps no order: overlapping requests are the splitter's affair.
//! What can be done without waiting has a method of its own ([`DiskSource::write_now`],
//! [`DiskSource::read_now`]), so that a guest's small write costs a system call and no change of
//! thread.

mod file;
mod nbd;
mod peer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use everpoint_nbd::{Errno, NbdAddress, RequestError};
use everpoint_units::{ByteLen, Extent};
use futures::future::BoxFuture;
use tokio::runtime::Handle;

use crate::blocking::{blocking, outcome};
use crate::config::DiskConfig;
use crate::resync_core::Run;

use file::FileSource;
pub(crate) use file::SourceIdentity;
use nbd::NbdSource;

/// See the module. All requests lie inside the disk and are whole blocks.
pub(crate) trait DiskSource: Send + Sync + 'static {
    fn facts(&self) -> &SourceFacts;

    /// Writes, if that can be done without waiting for a device or a peer; otherwise `None`, and
    /// nothing has been done.
    fn write_now(&self, extent: Extent, data: &Bytes) -> Option<Result<(), SourceError>>;

    /// Reads, if the bytes are at hand; otherwise `None`.
    fn read_now(&self, extent: Extent) -> Option<Result<Bytes, SourceError>>;

    /// Writes `data`, which is as long as `extent`. After an error the extent's content is unknown.
    fn write(&self, extent: Extent, data: Bytes) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Reads `extent` whole.
    fn read(&self, extent: Extent) -> BoxFuture<'_, Result<Bytes, SourceError>>;

    /// Makes durable what was written.
    fn flush(&self) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Makes `extent` read as zeroes.
    fn zero(&self, extent: Extent, how: ZeroMode) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Gives `extent` back if it reads as zeroes afterwards; `false`: this source cannot promise
    /// that, and nothing has been done.
    fn discard(&self, extent: Extent) -> BoxFuture<'_, Result<bool, SourceError>>;

    /// What is allocated: consecutive runs from the start of `extent`, at least one, at most
    /// [`RUNS_MAX`]; may end early. A hole reads as zeroes.
    fn allocation(&self, extent: Extent) -> BoxFuture<'_, Result<Vec<Run>, SourceError>>;

    /// How often what was written before may have been lost without a request saying so.
    fn losses(&self) -> u64 {
        0
    }

    /// What tells, after a clean stop, that nobody else has written meanwhile; `None` where nothing
    /// can tell.
    fn identity(&self) -> Result<Option<SourceIdentity>, SourceError>;
}

/// Most runs in one answer about allocation.
pub(crate) const RUNS_MAX: usize = 1_024;

/// What is known of a source from the moment it was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceFacts {
    /// Size of the disk, whole blocks.
    pub(crate) size: ByteLen,
    /// Every request is whole blocks of this size. 512 or 4096. Unit: bytes.
    pub(crate) block_size: u32,
    /// Whether zeroing needs no data to be written.
    pub(crate) zeroes_fast: bool,
}

/// How zeroes may be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZeroMode {
    /// The space may be given back.
    pub(crate) may_discard: bool,
    /// Refuse rather than write data.
    pub(crate) fast_only: bool,
}

/// Why a source did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A system call failed.
    #[error("{operation} failed")]
    Io {
        /// Which.
        operation: &'static str,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The file ends before the disk does: somebody shortened it.
    #[error("the file is shorter than the disk")]
    Short,
    /// The NBD export failed.
    #[error("the NBD source failed")]
    Nbd(#[source] RequestError),
    /// The NBD export is out of reach, or not the one that it was.
    #[error("the NBD source cannot be reached")]
    NbdGone,
    /// Zeroing fast is not possible; nothing was changed.
    #[error("zeroing would write data")]
    NotFast,
}

/// Why a source was not opened; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceOpenError {
    /// The operating system refused.
    #[error("source {path:?}: {operation}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("source {path:?} is neither a regular file nor a block device")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error(
        "source {path:?} is in use: another agent serves it, or it is mounted; stop that first"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Its size is not whole blocks.
    #[error(
        "source {source_name:?} has {size}, which is not a positive number of {block_size} B blocks"
    )]
    Size {
        /// The source as it was given.
        source_name: String,
        /// Its size.
        size: ByteLen,
        /// The disk's block size. Unit: bytes.
        block_size: u32,
    },
    /// It takes only larger blocks.
    #[error("source {source_name:?} needs blocks of {needed} B: set block_size = {needed}")]
    BlockSize {
        /// The source as it was given.
        source_name: String,
        /// What it needs. Unit: bytes.
        needed: u32,
    },
    /// `direct` is for files.
    #[error("source {source_name:?}: direct is for files and block devices; leave it out")]
    Direct {
        /// The source as it was given.
        source_name: String,
    },
    /// Not an address.
    #[error("source {source_name:?} is no NBD address")]
    Address {
        /// The source as it was given.
        source_name: String,
        /// What is wrong with it.
        #[source]
        source: everpoint_nbd::ParseAddressError,
    },
    /// The NBD server did not answer as one should.
    #[error("source {source_name:?}")]
    Connect {
        /// The source as it was given.
        source_name: String,
        /// What went wrong.
        #[source]
        source: everpoint_nbd::ConnectError,
    },
    /// It cannot be written.
    #[error("source {source_name:?} is read-only")]
    ReadOnly {
        /// The source as it was given.
        source_name: String,
    },
    /// Nothing that is written to it could ever be called durable.
    #[error(
        "source {source_name:?} cannot flush, so no write could be made durable: let its server offer NBD_CMD_FLUSH"
    )]
    NoFlush {
        /// The source as it was given.
        source_name: String,
    },
}

impl SourceError {
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    /// What the guest is told.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Io { source, .. } => Errno::from_io(source),
            Self::Nbd(error) => error.errno(),
            Self::NotFast => Errno::NotSup,
            Self::Short | Self::NbdGone => Errno::Io,
        }
    }
}

/// Opens what the configuration names. `guest` carries what the source does in the background.
///
/// # Errors
///
/// See [`SourceOpenError`].
pub(crate) async fn open(
    config: &DiskConfig,
    guest: &Handle,
) -> Result<Arc<dyn DiskSource>, SourceOpenError> {
    if !config.source.contains("://") {
        let config = config.clone();
        // Begun on a guest's thread: a new thread gets the priority of the one that begins it.
        let open = guest.spawn(blocking(move || FileSource::open(&config)));
        return Ok(Arc::new(outcome(open.await).await?));
    }
    let source_name = config.source.clone();
    if config.direct {
        return Err(SourceOpenError::Direct { source_name });
    }
    let address: NbdAddress = match source_name.parse() {
        Ok(address) => address,
        Err(source) => {
            return Err(SourceOpenError::Address {
                source_name,
                source,
            });
        }
    };
    let source = NbdSource::open(config, address, guest.clone()).await?;
    Ok(Arc::new(source))
}

/// The size of a disk of `size` bytes in blocks of `block_size`.
fn check_size(config: &DiskConfig, size: ByteLen, block_size: u32) -> Result<(), SourceOpenError> {
    // Above this, file systems cannot count.
    let countable = i64::try_from(size.0).is_ok();
    if size.0 == 0 || !size.0.is_multiple_of(u64::from(block_size)) || !countable {
        let source_name = config.source.clone();
        return Err(SourceOpenError::Size {
            source_name,
            size,
            block_size,
        });
    }
    Ok(())
}
