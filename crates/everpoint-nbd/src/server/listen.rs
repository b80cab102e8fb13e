//! Where connections come from: unix sockets and TCP ports.
//!
//! A unix socket appears with mode 0600 from its first moment, and takes the place of a socket file
//! only if nobody listens behind that. Two servers that start at the same time settle it by a lock
//! on the directory, so neither removes the other's new socket.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::stream::Stream;

/// Connections that the system keeps until they are accepted. Unit: connections.
const BACKLOG: i32 = 128;

/// How often, and how far apart, the lock on a directory is tried: a second in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// How long accepting waits after an error, such as no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process serves there. Stop it, or choose another path.
    #[error("somebody already listens on {}", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is not a socket has this name. Choose another path.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system does not allow a socket of this name, or no file in this directory.
    #[error("cannot listen on {}", path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not allow this address.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A place where connections come from. Dropping a unix socket's removes its file, if it is still
/// the same; that goes first, as long as others still see that somebody listens.
pub(super) enum Listener {
    Unix {
        _file: SocketFile,
        listener: UnixListener,
    },
    Tcp(TcpListener),
}

/// The file of a unix socket.
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    pub(super) fn unix(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Unix {
            path: path.to_owned(),
            source,
        };
        // Held until this returns.
        let _directory = lock_directory(path).map_err(failed)?;
        remove_stale(path)?;
        let listener = bind_private(path).map_err(failed)?;
        let file = path.symlink_metadata().map_err(failed)?;
        let _file = SocketFile {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        };
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self::Unix { _file, listener })
    }

    pub(super) async fn tcp(address: SocketAddr) -> Result<(Self, SocketAddr), ListenError> {
        let failed = |source| ListenError::Tcp { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok((Self::Tcp(listener), bound))
    }

    /// The next connection. Errors are waited out: the listener itself does not break. Cancel-safe.
    pub(super) async fn accept(&self) -> Stream {
        loop {
            let accepted = match self {
                Self::Unix { listener, .. } => {
                    listener.accept().await.map(|(s, _)| Stream::Unix(s))
                }
                Self::Tcp(listener) => {
                    let accepted = listener.accept().await;
                    accepted.and_then(|(stream, _)| Stream::tcp(stream))
                }
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "nbd connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Locks the directory of `path` against other servers of this kind. They hold it for as long as
/// this file takes to bind a socket, so blocking the thread costs nothing where nobody else locks
/// directories, and a second otherwise.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            locked => return locked.map(|()| directory).map_err(io::Error::from),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Makes way for a new socket, if what is there is a socket that nobody serves.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let own = || path.to_owned();
    let failed = |source| ListenError::Unix {
        path: own(),
        source,
    };
    match path.symlink_metadata() {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: own() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // A server that is slow to accept has a full backlog: that is an answer, not a reason to wait.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(ListenError::InUse { path: own() }),
    }
}

/// Binds a socket whose file nobody else may open, from its first moment: on Linux a socket's file
/// takes the mode that the socket had when it was bound.
fn bind_private(path: &Path) -> io::Result<StdUnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = |file: std::fs::Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if self.path.symlink_metadata().is_ok_and(same) {
            // Whoever removed it in between has done what was to be done.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
