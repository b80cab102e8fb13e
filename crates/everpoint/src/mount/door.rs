//! Where a point is served: on a socket over NBD, or in a directory over FUSE.

use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use everpoint_fuse::{FuseConfig, FuseMount, FuseMountError, UnmountError};
use everpoint_nbd::{ListenError, NbdAddress, Server, ServerConfig};
use everpoint_retention::{MountExport, MountFile, MountedPoint, Overlay};
use everpoint_units::ByteLen;

use crate::failure::{Code, Failure};

/// Payload of requests in memory, beside the frames. Unit: bytes.
const PAYLOAD_MAX: ByteLen = ByteLen(64 << 20);

/// What was asked for.
#[derive(Debug)]
pub(super) enum Doorway {
    Socket(PathBuf),
    Directory(PathBuf),
}

/// What serves.
pub(super) enum Door {
    Nbd { server: Server, socket: PathBuf },
    Fuse(FuseMount),
}

impl Doorway {
    /// # Errors
    ///
    /// When a path says nothing.
    pub(super) fn new(socket: Option<&Path>, directory: Option<&Path>) -> Result<Self, Failure> {
        let (path, key, make): (_, _, fn(PathBuf) -> Self) = match (socket, directory) {
            (Some(path), _) => (path, "--socket", Self::Socket),
            (None, Some(path)) => (path, "--fuse", Self::Directory),
            (None, None) => return Err(Failure::new(Code::Usage, "give --socket or --fuse")),
        };
        let path = absolute(path);
        let path = path.map_err(|error| Failure::of(Code::Usage, &error).while_doing(key))?;
        Ok(make(path))
    }

    /// # Errors
    ///
    /// Why it cannot be served there, with the fix.
    pub(super) fn open(
        self,
        point: &MountedPoint,
        overlay: Option<Overlay>,
    ) -> Result<Door, Failure> {
        let export = MountExport::new(point, overlay);
        match self {
            Self::Socket(socket) => {
                let server = listen(export, &socket)?;
                Ok(Door::Nbd { server, socket })
            }
            Self::Directory(directory) => {
                let config = FuseConfig {
                    bytes_max: PAYLOAD_MAX,
                    ..FuseConfig::default()
                };
                let file = MountFile::new(point, export);
                let mounted = everpoint_fuse::mount(file, &directory, &config);
                mounted.map(Door::Fuse).map_err(fuse_failure)
            }
        }
    }
}

impl Door {
    /// Its address, where clients connect.
    pub(super) fn uri(&self) -> Option<String> {
        match self {
            Self::Nbd { socket, .. } => Some(NbdAddress::unix(socket, "").to_string()),
            Self::Fuse(_) => None,
        }
    }

    /// Its path, where it is a file.
    pub(super) fn file(&self) -> Option<String> {
        match self {
            Self::Nbd { .. } => None,
            Self::Fuse(mount) => Some(mount.path().display().to_string()),
        }
    }

    /// Returns when somebody else has closed it. Cancel-safe.
    pub(super) async fn closed(&mut self) {
        match self {
            Self::Nbd { .. } => std::future::pending().await,
            Self::Fuse(mount) => mount.unmounted().await,
        }
    }

    /// Lets everybody have the answers that they wait for.
    ///
    /// # Errors
    ///
    /// When it is there still.
    pub(super) async fn close(self) -> Result<(), Failure> {
        match self {
            Self::Nbd { server, .. } => server.shutdown().await,
            Self::Fuse(mount) => mount.end().await.map_err(|error| {
                let help = match &error {
                    UnmountError::Covered { .. } => "unmount that one first, then this one",
                    UnmountError::Refused { .. } => "end what uses it, then `umount` it",
                };
                Failure::of(Code::Failed, &error).help(help)
            })?,
        }
        Ok(())
    }
}

fn listen(export: MountExport, socket: &Path) -> Result<Server, Failure> {
    let server = Server::new(ServerConfig {
        connection_bytes_max: PAYLOAD_MAX,
        server_bytes_max: PAYLOAD_MAX,
        ..ServerConfig::default()
    });
    let server = server.map_err(|error| Failure::of(Code::Failed, &error))?;
    let attached = server.attach("", Arc::new(export));
    attached.map_err(|error| Failure::of(Code::Failed, &error))?;
    server.listen_unix(socket).map_err(|error| {
        let help = match &error {
            ListenError::InUse { .. } | ListenError::NotASocket { .. } => "name another --socket",
            ListenError::Unix { .. } | ListenError::Tcp { .. } => {
                "name a --socket in a directory that is there, with a path of at most 107 bytes"
            }
        };
        Failure::of(Code::Usage, &error)
            .while_doing("--socket")
            .help(help)
    })?;
    Ok(server)
}

fn fuse_failure(error: FuseMountError) -> Failure {
    let (code, help) = match &error {
        FuseMountError::Missing { path } => {
            let help = format!("make it: mkdir -p {}", path.display());
            return failed_fuse(Code::Usage, &error).help(&help);
        }
        FuseMountError::NotADirectory { .. } | FuseMountError::NotEmpty { .. } => (
            Code::Usage,
            "name an empty directory: what lies in it could not be seen",
        ),
        FuseMountError::Directory { .. } => (
            Code::Usage,
            "name a directory that you may read; `umount` it if a mount that broke lies there",
        ),
        FuseMountError::NoDevice => (
            Code::Failed,
            "load the module: sudo modprobe fuse (a container is given the device: --device /dev/fuse), or use --socket",
        ),
        FuseMountError::Device { source } => {
            let text = format!("--fuse: {error}: {source}");
            return Failure::new(Code::NotAuthorised, text).help(
                "run it as root, or let this user read and write /dev/fuse, or use --socket",
            );
        }
        FuseMountError::NoHelper => (
            Code::Failed,
            "install it (Debian: sudo apt-get install --yes fuse3), or run as root, or use --socket",
        ),
        FuseMountError::Mount { .. } => (
            Code::Failed,
            "a container needs the right to mount (CAP_SYS_ADMIN); --socket needs none",
        ),
        FuseMountError::Config { .. } | FuseMountError::File { .. } => {
            return failed_fuse(Code::Failed, &error);
        }
    };
    failed_fuse(code, &error).help(help)
}

fn failed_fuse(code: Code, error: &FuseMountError) -> Failure {
    Failure::of(code, error).while_doing("--fuse")
}
