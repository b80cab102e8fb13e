//! Puts the file into a directory, and takes it away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use everpoint_units::SECTOR_LEN;
use fuser::{BackgroundSession, Config, MountOption, Session};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::sync::watch;

use crate::file::{FileInfo, FixedFile};
use crate::handler::Handler;
use crate::place::{
    DEVICE, FilesystemId, check_device, check_directory, check_helper, helper_folders,
};
use crate::serving::{FuseConfig, Serving};

/// A file that is shown. It is taken away when this is dropped.
#[derive(Debug)]
pub struct FuseMount {
    directory: PathBuf,
    name: String,
    /// The filesystem that the directory is, as long as this is mounted there.
    id: FilesystemId,
    session: Option<BackgroundSession>,
    serving: Arc<Serving>,
    over: watch::Receiver<bool>,
}

/// Why nothing is mounted.
#[derive(Debug, thiserror::Error)]
pub enum FuseMountError {
    /// A limit is outside its bounds.
    #[error("FUSE setting {key} is {value}, it must be {min} to {max}")]
    Config {
        key: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
    /// The file says of itself what no file can be: a bad name, or a length of broken sectors.
    #[error("no file can have the name {:?} and {} B", info.name, info.size.0)]
    File { info: FileInfo },
    /// Make it.
    #[error("{} is not there", path.display())]
    Missing { path: PathBuf },
    /// Name another.
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    /// Name another: what lies there could not be seen.
    #[error("{} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    /// It cannot be read; what another mount left there looks so.
    #[error("{} cannot be read", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// The kernel's module is not loaded, or the container has no device.
    #[error("{DEVICE} is not there")]
    NoDevice,
    /// This user may not use FUSE.
    #[error("{DEVICE} cannot be opened")]
    Device { source: io::Error },
    /// Users mount by the program `fusermount3` only.
    #[error("fusermount3 is not there, and only root mounts without it")]
    NoHelper,
    /// The kernel refused, or `fusermount3` did, or somebody has unmounted it at once.
    #[error("cannot mount on {}", path.display())]
    Mount { path: PathBuf, source: io::Error },
}

/// Why a mount did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody mounted over it. That is to be unmounted first.
    #[error("another filesystem is mounted over {}", path.display())]
    Covered { path: PathBuf },
    /// The kernel refused.
    #[error("cannot unmount {}", path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// Shows `file` in `directory`, which must be empty, for the user whom this process runs as.
///
/// # Errors
///
/// See [`FuseMountError`]. Nothing is mounted then.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn mount<F: FixedFile>(
    file: F,
    directory: &Path,
    config: &FuseConfig,
) -> Result<FuseMount, FuseMountError> {
    if let Some((key, value, min, max)) = config.wrong() {
        return Err(FuseMountError::Config {
            key,
            value,
            min,
            max,
        });
    }
    let info = file.describe();
    if !info.has_a_name() || !info.size.0.is_multiple_of(SECTOR_LEN) {
        return Err(FuseMountError::File { info });
    }
    check_directory(directory)?;
    check_device(Path::new(DEVICE))?;
    let before = FilesystemId::of(directory);
    let before = before.map_err(|source| FuseMountError::Directory {
        path: directory.to_path_buf(),
        source,
    })?;
    let is_root = rustix::process::geteuid().is_root();
    check_helper(is_root, helper_folders().into_iter())?;

    let serving = Arc::new(Serving::new(config));
    let (over, is_over) = watch::channel(false);
    let (name, options) = (info.name.clone(), options(&info));
    let count_max = config.request_count_max;
    let handler = Handler::new((file, info), Arc::clone(&serving), count_max, over);
    let failed = |source| FuseMountError::Mount {
        path: directory.to_path_buf(),
        source,
    };
    let session = Session::new(handler, directory, &options).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    let shown = FilesystemId::of(directory).map_err(failed)?;
    if shown == before {
        // Somebody has unmounted it already.
        leave(Some(session));
        return Err(failed(Errno::NOTCONN.into()));
    }
    Ok(FuseMount {
        id: shown,
        directory: directory.to_path_buf(),
        name,
        session: Some(session),
        serving,
        over: is_over,
    })
}

fn options(info: &FileInfo) -> Config {
    let mut options = Config::default();
    options.mount_options = vec![
        MountOption::FSName("everpoint".into()),
        MountOption::Subtype("everpoint".into()),
        MountOption::DefaultPermissions,
        MountOption::NoExec,
        if info.writable {
            MountOption::RW
        } else {
            MountOption::RO
        },
    ];
    options
}

impl FuseMount {
    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Returns when somebody else has unmounted it. Cancel-safe.
    pub async fn unmounted(&mut self) {
        // The sender is gone only when it was sent, or when the runtime goes.
        let _ = self.over.wait_for(|over| *over).await;
    }

    /// Takes it away and lets every request have its answer. Who has it open still has it no longer.
    ///
    /// # Errors
    ///
    /// See [`UnmountError`].
    pub async fn end(mut self) -> Result<(), UnmountError> {
        let session = self.session.take();
        if self.is_there() {
            let (directory, id) = (self.directory.clone(), self.id);
            // It asks the kernel, which may ask this process.
            let unmounted = tokio::task::spawn_blocking(move || take_away(&directory, id, session));
            let unmounted = unmounted.await.expect("it does not panic");
            unmounted.map_err(|source| UnmountError::Refused {
                path: self.directory.clone(),
                source,
            })?;
            self.serving.close().await;
            return Ok(());
        }
        leave(session);
        if !self.is_over() {
            return Err(UnmountError::Covered {
                path: self.directory.clone(),
            });
        }
        self.serving.close().await;
        Ok(())
    }

    /// Whether it was unmounted, by whomever. What the directory shows then is not this, whatever its number.
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Whether this is what the directory shows.
    fn is_there(&self) -> bool {
        !self.is_over() && shows(&self.directory, self.id)
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        let session = self.session.take();
        if session.is_some() && self.is_there() {
            // What it says of a failure it says itself: there is nobody to answer to.
            let _ = take_away(&self.directory, self.id, session);
        } else {
            leave(session);
        }
    }
}

/// Unmounts it: root at once, also where somebody has it open, others by `fusermount3`.
fn take_away(
    directory: &Path,
    id: FilesystemId,
    session: Option<BackgroundSession>,
) -> io::Result<()> {
    let unmounted = match unmount(directory, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => {
            tracing::warn!(directory = %directory.display(), "still in use: it ends for whoever uses it");
            unmount(directory, UnmountFlags::DETACH)
        }
        Err(Errno::PERM) => {
            // It runs the program, and does not say what came of it.
            drop(session);
            return if shows(directory, id) {
                Err(io::ErrorKind::PermissionDenied.into())
            } else {
                Ok(())
            };
        }
        done => done,
    };
    leave(session);
    Ok(unmounted?)
}

fn shows(directory: &Path, id: FilesystemId) -> bool {
    FilesystemId::of(directory).is_ok_and(|shown| shown == id)
}

/// Forgets a session whose mount is gone: it would unmount whatever the directory shows now.
fn leave(session: Option<BackgroundSession>) {
    std::mem::forget(session);
}

#[cfg(test)]
mod tests;
