//! Control sockets: a unix socket, mode 0600, on which the command line asks a running role.
//!
//! One connection carries any number of requests; each is a length (u32, little-endian) and so many
//! bytes, each answer the same. What the bytes say is the caller's matter.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at a time; the next one waits.
const CONNECTIONS_MAX: usize = 16;
/// How long a started request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A control socket that is being served.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
    len_max: usize,
}

/// Why a control socket was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlBindError {
    /// Another process answers there.
    #[error("{path:?} is in use by a running process: stop it, or set another control_socket")]
    InUse { path: PathBuf },
    /// What has the name is no socket.
    #[error("{path:?} exists and is not a socket: remove it, or set another control_socket")]
    NotASocket { path: PathBuf },
    /// The operating system refused.
    #[error("control socket {path:?}: {operation}")]
    Io {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlCallError {
    /// Nobody listens.
    #[error("nothing answers on {path:?}: is it running, and is this its control_socket?")]
    Connect { path: PathBuf, source: io::Error },
    /// The connection broke.
    #[error("the connection to {path:?} broke")]
    Broken { path: PathBuf, source: io::Error },
    /// The answer is longer than any.
    #[error("{path:?} answered with {len} bytes, more than the {len_max} that an answer may have")]
    TooLong {
        path: PathBuf,
        len: usize,
        len_max: usize,
    },
}

impl ControlSocket {
    /// Opens the socket. A socket file that nobody listens on is replaced.
    ///
    /// # Errors
    ///
    /// See [`ControlBindError`].
    pub async fn bind(path: &Path, len_max: usize) -> Result<Self, ControlBindError> {
        use std::os::unix::fs::FileTypeExt as _;
        let failed = |operation| {
            let path = path.to_owned();
            move |source| ControlBindError::Io {
                path,
                operation,
                source,
            }
        };
        if let Ok(found) = tokio::fs::symlink_metadata(path).await {
            let path = path.to_owned();
            if !found.file_type().is_socket() {
                return Err(ControlBindError::NotASocket { path });
            }
            if UnixStream::connect(&path).await.is_ok() {
                return Err(ControlBindError::InUse { path });
            }
            let removed = tokio::fs::remove_file(&path).await;
            removed.map_err(failed("cannot remove the old one"))?;
        }
        // Bound under a private name first: between bind and chmod nobody else can connect.
        let staged = path.with_extension(format!("{}.new", std::process::id()));
        let listener = UnixListener::bind(&staged).map_err(failed("cannot bind"))?;
        let private = Permissions::from_mode(0o600);
        let settled = match tokio::fs::set_permissions(&staged, private).await {
            Ok(()) => tokio::fs::rename(&staged, path).await,
            Err(error) => Err(error),
        };
        settled.map_err(failed("cannot set its mode and name"))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            len_max,
        })
    }

    /// Answers requests for ever; drop the future to stop. The socket file goes with it.
    pub async fn serve<H, F>(self, handler: H)
    where
        H: Fn(Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Bytes> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (handler, len_max) = (Arc::clone(&handler), self.len_max);
            connections.spawn(async move {
                if let Err(error) = answer(stream, &*handler, len_max).await {
                    tracing::debug!(%error, "a control connection broke");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A socket file that stays is replaced at the next start; nothing depends on this.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = ?self.path, %error, "the control socket's file stays");
        }
    }
}

async fn answer<H, F>(mut stream: UnixStream, handler: &H, len_max: usize) -> io::Result<()>
where
    H: Fn(Bytes) -> F,
    F: Future<Output = Bytes>,
{
    loop {
        let mut len = [0; 4];
        if stream.read_exact(&mut len[..1]).await.is_err() {
            return Ok(());
        }
        let request = async {
            stream.read_exact(&mut len[1..]).await?;
            read_body(&mut stream, len, len_max).await
        };
        let body = timeout(REQUEST_TIMEOUT, request).await??;
        write_message(&mut stream, &handler(body).await).await?;
    }
}

/// Sends one request and waits for its answer.
///
/// # Errors
///
/// See [`ControlCallError`].
pub async fn call(path: &Path, request: &[u8], len_max: usize) -> Result<Bytes, ControlCallError> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(source) => {
            let path = path.to_owned();
            return Err(ControlCallError::Connect { path, source });
        }
    };
    let exchange = async {
        write_message(&mut stream, request).await?;
        let mut len = [0; 4];
        stream.read_exact(&mut len).await?;
        Ok(len)
    };
    let broken = |source| ControlCallError::Broken {
        path: path.to_owned(),
        source,
    };
    let len = exchange.await.map_err(broken)?;
    let claimed = u32::from_le_bytes(len) as usize;
    if len_max < claimed {
        return Err(ControlCallError::TooLong {
            path: path.to_owned(),
            len: claimed,
            len_max,
        });
    }
    read_body(&mut stream, len, len_max).await.map_err(broken)
}

async fn read_body(stream: &mut UnixStream, len: [u8; 4], len_max: usize) -> io::Result<Bytes> {
    let len = u32::from_le_bytes(len) as usize;
    if len_max < len {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is longer than any",
        ));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}

async fn write_message(stream: &mut UnixStream, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_answered_and_a_socket_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control");
        let socket = ControlSocket::bind(&path, 64).await.expect("free");
        let mode = std::fs::metadata(&path)
            .expect("bound")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let served = tokio::spawn(
            socket.serve(async |body: Bytes| Bytes::from([b"got ", body.as_ref()].concat())),
        );
        let answer = call(&path, b"hello", 64).await.expect("answered");
        assert_eq!(answer, "got hello");
        assert!(matches!(
            ControlSocket::bind(&path, 64).await,
            Err(ControlBindError::InUse { .. })
        ));
        assert!(call(&path, &[0; 65], 64).await.is_err(), "longer than any");
        served.abort();
        assert!(served.await.is_err());
        assert!(matches!(
            call(&path, b"hello", 64).await,
            Err(ControlCallError::Connect { .. })
        ));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(
            ControlSocket::bind(&path, 64).await,
            Err(ControlBindError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }
}
