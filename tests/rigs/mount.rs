//! Loop devices and mounts that are always taken down again, and a filesystem that can be frozen.
//!
//! All of it needs root. What is mounted twice over is taken down in the reverse order of making, by the
//! order of the fields that hold it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::rigs::child::Process;
use crate::rigs::tool::{run, tool};
use crate::rigs::wait;

/// Until a mount appears, or a mounting process ends.
const MOUNT_TIME_MAX: Duration = Duration::from_secs(30);

/// A file as a block device.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    frozen: bool,
}

/// An NBD export as a file, by nbdfuse.
pub struct Fuse {
    file: PathBuf,
    process: Process,
}

impl LoopDevice {
    /// Makes a block device of a file.
    ///
    /// # Errors
    ///
    /// When losetup fails; it needs root.
    pub async fn attach(file: &Path) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "loop devices and mounts need root"
        );
        let made = run(
            "losetup",
            ["--find".as_ref(), "--show".as_ref(), file.as_os_str()],
        )
        .await?;
        Ok(Self {
            path: PathBuf::from(made.trim_end()),
        })
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        quietly("losetup", &["--detach".as_ref(), self.path.as_os_str()]);
    }
}

impl Mount {
    /// Mounts a device or an image as ext4.
    ///
    /// # Errors
    ///
    /// When mount fails.
    pub async fn ext4(what: &Path, directory: &Path, options: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let words = ["-t", "ext4", "-o", options].map(std::ffi::OsStr::new);
        let args = words
            .into_iter()
            .chain([what.as_os_str(), directory.as_os_str()]);
        run("mount", args).await?;
        Ok(Self {
            directory: directory.to_path_buf(),
            frozen: false,
        })
    }

    /// Mounts an empty filesystem in memory that has room for so many bytes.
    ///
    /// # Errors
    ///
    /// When mount fails.
    pub async fn memory(directory: &Path, len: u64) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let size = format!("size={len}");
        let words = ["-t", "tmpfs", "-o", &size, "none"].map(std::ffi::OsStr::new);
        let args = words.into_iter().chain([directory.as_os_str()]);
        run("mount", args).await?;
        Ok(Self {
            directory: directory.to_path_buf(),
            frozen: false,
        })
    }

    /// Gives one in memory another size. Unit of `len`: bytes.
    ///
    /// # Errors
    ///
    /// When mount fails.
    pub async fn resize(&mut self, len: u64) -> Result<()> {
        let size = format!("remount,size={len}");
        let args = ["-o".as_ref(), size.as_ref(), self.directory.as_os_str()];
        run("mount", args).await.map(drop)
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Lets every change of the filesystem wait.
    ///
    /// # Errors
    ///
    /// When fsfreeze fails.
    pub async fn freeze(&mut self) -> Result<()> {
        run(
            "fsfreeze",
            ["--freeze".as_ref(), self.directory.as_os_str()],
        )
        .await?;
        self.frozen = true;
        Ok(())
    }

    /// Lets changes go on.
    ///
    /// # Errors
    ///
    /// When fsfreeze fails.
    pub async fn thaw(&mut self) -> Result<()> {
        run(
            "fsfreeze",
            ["--unfreeze".as_ref(), self.directory.as_os_str()],
        )
        .await?;
        self.frozen = false;
        Ok(())
    }

    /// Takes it down, and says if that fails, as a program that still uses it makes it do.
    ///
    /// # Errors
    ///
    /// When umount fails.
    pub async fn unmount(self) -> Result<()> {
        run("umount", [&self.directory]).await?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.frozen {
            quietly(
                "fsfreeze",
                &["--unfreeze".as_ref(), self.directory.as_os_str()],
            );
        }
        // What still writes to it is killed by whoever started it; lazily, so that this never waits.
        quietly("umount", &["--lazy".as_ref(), self.directory.as_os_str()]);
    }
}

impl Fuse {
    /// Shows an export as the file `file`, whose directory is the mount point.
    ///
    /// # Errors
    ///
    /// When nbdfuse fails.
    pub async fn mount(uri: &str, directory: &Path, log: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let file = directory.join("nbd");
        let mut command = tool("nbdfuse")?;
        command.arg(directory).arg(uri);
        let mut process = Process::start("nbdfuse", command, log)?;
        wait::until("nbdfuse's file", MOUNT_TIME_MAX, async || {
            ensure!(process.poll()?.is_none(), "nbdfuse ended");
            let len = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
            Ok((0 < len).then_some(()))
        })
        .await?;
        Ok(Self { file, process })
    }

    /// The export's bytes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Lets nothing reach the export any more, as if the guest stood still.
    ///
    /// # Errors
    ///
    /// When nbdfuse has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets the guest go on.
    ///
    /// # Errors
    ///
    /// When nbdfuse has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Takes it down and waits until nbdfuse has written everything.
    ///
    /// # Errors
    ///
    /// When it does not end in order.
    pub async fn unmount(mut self) -> Result<()> {
        let directory = self.file.parent().context("it lies in its mount point")?;
        run("fusermount3", ["-u".as_ref(), directory.as_os_str()]).await?;
        let ended = self.process.ended(MOUNT_TIME_MAX).await?;
        ensure!(ended.success(), "nbdfuse: {ended}");
        Ok(())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if matches!(self.process.poll(), Ok(None))
            && let Some(directory) = self.file.parent()
        {
            quietly(
                "fusermount3",
                &["-u".as_ref(), "-z".as_ref(), directory.as_os_str()],
            );
            // A guest that stands still cannot end. The process is killed and reaped by its own drop.
            let _ = self.process.signal(Signal::CONT);
        }
    }
}

/// Takes something down on the way out, where there is nobody left to answer to.
fn quietly(program: &str, args: &[&std::ffi::OsStr]) {
    let path = xtask::run::find(program).unwrap_or_else(|| PathBuf::from(program));
    match Command::new(path).args(args).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("{program} {args:?}: {} {said}", output.status);
        }
        Err(error) => eprintln!("{program}: {error}"),
    }
}
