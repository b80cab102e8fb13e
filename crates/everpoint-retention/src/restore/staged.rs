//! Staging: images are written under names that say that they are partial, and move into place complete.
//!
//! | output               | staged as                                | in place by                        |
//! |----------------------|------------------------------------------|------------------------------------|
//! | a file               | `<name>.partial-<random>` beside it      | rename that replaces nothing, unless told to |
//! | a new directory      | `<name>.partial-<random>` beside it      | rename of the whole directory      |
//! | a directory that is there | `.partial-<random>` in it           | rename of each image               |
//! | a block device       | the device, without its first MiB        | writing that MiB last              |
//!
//! What was not published is removed when the staging is dropped; only a kill leaves it behind, and then its
//! name says what it is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use everpoint_format::vhd;
use everpoint_units::{ByteLen, ByteOffset, WallTime};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::image::{Image, ZERO_STEP};
use super::output::{Output, OutputError};
use super::{ImageFormat, RestoreError, WantedDisk};
use crate::joined::unless_panicked;

/// Longest name of a file. Source: `NAME_MAX` of Linux. Unit: bytes.
const NAME_LEN_MAX: usize = 255;
/// Most of a disk's name that goes into a file's. Unit: bytes.
const DISK_NAME_LEN_MAX: usize = 100;

/// See the module.
pub(super) struct Staging {
    format: ImageFormat,
    place: Place,
    /// Images whose bytes are complete and durable: where they are, and where they belong.
    complete: Vec<(PathBuf, PathBuf)>,
    /// What is to be removed if nothing is published.
    leftover: Leftover,
    names: BTreeSet<String>,
}

enum Place {
    File {
        path: PathBuf,
        replaces: bool,
    },
    Device {
        path: PathBuf,
        file: Option<File>,
    },
    NewDirectory {
        path: PathBuf,
        staged: PathBuf,
    },
    OldDirectory {
        path: PathBuf,
        staged: PathBuf,
        replaces: bool,
    },
}

/// Removes what it names when it is dropped.
#[derive(Default)]
struct Leftover {
    files: Vec<PathBuf>,
    directory: Option<PathBuf>,
}

impl Staging {
    /// Makes the directory to stage in, where one is needed; refuses a device that is too small.
    pub(super) fn open(
        output: Output,
        format: ImageFormat,
        wanted: &[WantedDisk],
    ) -> Result<Self, RestoreError> {
        let mut leftover = Leftover::default();
        let place = match output {
            Output::File { path, replaces } => Place::File { path, replaces },
            Output::Device { path, file, len } => {
                let need = wanted
                    .iter()
                    .map(|disk| disk.size)
                    .max()
                    .unwrap_or_default();
                if len < need {
                    let have = len;
                    return Err(OutputError::TooSmall { path, have, need }.into());
                }
                let file = Some(file);
                Place::Device { path, file }
            }
            Output::Directory {
                path,
                exists: false,
                ..
            } => {
                let staged = partial_name(&path);
                leftover.make_directory(&staged)?;
                Place::NewDirectory { path, staged }
            }
            Output::Directory { path, replaces, .. } => {
                let staged = partial_in(&path, &[]);
                leftover.make_directory(&staged)?;
                Place::OldDirectory {
                    path,
                    staged,
                    replaces,
                }
            }
        };
        Ok(Self {
            format,
            place,
            complete: Vec::new(),
            leftover,
            names: BTreeSet::new(),
        })
    }

    /// The image of the next disk, zero all over.
    pub(super) async fn begin(&mut self, disk: &WantedDisk) -> Result<Arc<Image>, RestoreError> {
        let staged = match &mut self.place {
            Place::Device { path, file } => {
                let file = file.take().expect("a device takes one disk");
                let image = Arc::new(Image::of_device(file, path.clone(), disk.size));
                zero_all(&image, disk.size).await?;
                return Ok(image);
            }
            Place::File { path, .. } => partial_name(path),
            Place::NewDirectory { staged, .. } | Place::OldDirectory { staged, .. } => {
                let name = image_name(disk, self.format, &mut self.names);
                staged.join(name)
            }
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&staged, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("create", &staged, error.into()))?;
        self.leftover.files.push(staged.clone());
        let len = self.image_len(disk.size);
        Image::of_file(File::from(file), staged, len).map(Arc::new)
    }

    /// Finishes the image of a disk and makes it durable; where it will lie once it is published.
    pub(super) async fn complete(
        &mut self,
        disk: &WantedDisk,
        image: Arc<Image>,
        time: Option<WallTime>,
    ) -> Result<PathBuf, RestoreError> {
        let staged = image.path().to_path_buf();
        let is_device = image.is_device();
        let footer = (self.format == ImageFormat::Vhd).then(|| {
            let size = vhd::padded_size(disk.size);
            let footer = vhd::fixed_footer(size, disk.disk.0, time.unwrap_or_default());
            (ByteOffset(size.0), footer)
        });
        let completed = tokio::task::spawn_blocking(move || {
            image.complete(footer.as_ref().map(|(at, footer)| (*at, &footer[..])))
        });
        unless_panicked(completed.await).await?;
        if is_device {
            return Ok(staged);
        }
        let path = match &self.place {
            Place::File { path, .. } | Place::Device { path, .. } => path.clone(),
            Place::NewDirectory { path, .. } | Place::OldDirectory { path, .. } => {
                path.join(staged.file_name().expect("it was made with a name"))
            }
        };
        self.complete.push((staged, path.clone()));
        Ok(path)
    }

    /// Moves everything into place, durably.
    pub(super) async fn publish(self) -> Result<(), RestoreError> {
        let published = tokio::task::spawn_blocking(move || self.publish_now());
        unless_panicked(published.await).await
    }

    fn publish_now(mut self) -> Result<(), RestoreError> {
        match &self.place {
            Place::Device { .. } => return Ok(()),
            Place::NewDirectory { path, staged } => {
                sync_directory(staged)?;
                move_into_place(staged, path, false)?;
                self.leftover = Leftover::default();
                return sync_directory(parent_of(path));
            }
            Place::File { replaces, .. } | Place::OldDirectory { replaces, .. } => {
                for (staged, path) in &self.complete {
                    move_into_place(staged, path, *replaces)?;
                }
            }
        }
        let directories: BTreeSet<_> = self
            .complete
            .iter()
            .map(|(_, path)| parent_of(path))
            .collect();
        directories.into_iter().try_for_each(sync_directory)
    }

    fn image_len(&self, size: ByteLen) -> ByteLen {
        match self.format {
            ImageFormat::Raw => size,
            ImageFormat::Vhd => ByteLen(vhd::padded_size(size).0 + vhd::FOOTER_LEN as u64),
        }
    }
}

impl Leftover {
    fn make_directory(&mut self, path: &Path) -> Result<(), RestoreError> {
        fs::create_dir(path).map_err(|source| failed("create", path, source))?;
        self.directory = Some(path.to_path_buf());
        Ok(())
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        for file in &self.files {
            report(file, fs::remove_file(file));
        }
        if let Some(directory) = &self.directory {
            report(directory, fs::remove_dir(directory));
        }
    }
}

/// A leftover that is gone was published; one that stays is named for what it is.
fn report(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "a partial image cannot be removed");
    }
}

/// Zeroes the part of a device that the disk will take, step by step, so that it can be given up.
async fn zero_all(image: &Arc<Image>, len: ByteLen) -> Result<(), RestoreError> {
    let mut at = 0;
    while at < len.0 {
        let step = (len.0 - at).min(ZERO_STEP);
        let image = Arc::clone(image);
        let zeroed = tokio::task::spawn_blocking(move || image.zero(ByteOffset(at), ByteLen(step)));
        unless_panicked(zeroed.await).await?;
        at += step;
    }
    Ok(())
}

/// A fresh name beside `path` that says that what it names is not complete.
fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    partial_in(parent_of(path), name.as_bytes())
}

fn partial_in(directory: &Path, name: &[u8]) -> PathBuf {
    let suffix = format!(".partial-{:016x}", rand::random::<u64>());
    let kept = name.len().min(NAME_LEN_MAX - suffix.len());
    let mut partial = name[..kept].to_vec();
    partial.extend(suffix.bytes());
    directory.join(OsString::from_vec(partial))
}

/// The directory that a path lies in.
fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// `<disk's name or id>.raw`, in characters that mean nothing to a shell or a filesystem, and no name twice,
/// whatever its case.
fn image_name(disk: &WantedDisk, format: ImageFormat, taken: &mut BTreeSet<String>) -> String {
    let extension = match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Vhd => "vhd",
    };
    let plain = sanitised(&disk.name);
    let mut stem = if plain.is_empty() {
        disk.disk.to_string()
    } else {
        plain
    };
    if !taken.insert(stem.to_ascii_lowercase()) {
        stem = format!("{stem}-{}", disk.disk);
        taken.insert(stem.to_ascii_lowercase());
    }
    format!("{stem}.{extension}")
}

fn sanitised(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => c,
            _ => '_',
        })
        .take(DISK_NAME_LEN_MAX)
        .collect();
    plain
        .trim_start_matches(['.', '_', '-'])
        .trim_end_matches('_')
        .to_owned()
}

/// Renames, and unless told otherwise only to a name that is free.
fn move_into_place(from: &Path, to: &Path, replaces: bool) -> Result<(), RestoreError> {
    let moved = if replaces {
        rustix::fs::rename(from, to)
    } else {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some filesystems cannot. A hard link does not replace either, of a file.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if from.is_file() => {
                rustix::fs::link(from, to).and_then(|()| rustix::fs::unlink(from))
            }
            // An empty directory is all that this may replace.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rustix::fs::rename(from, to),
            moved => moved,
        }
    };
    match moved {
        Ok(()) => Ok(()),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(OutputError::Exists {
            path: to.to_path_buf(),
        }
        .into()),
        Err(error) => Err(failed("move the image to", to, error.into())),
    }
}

fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| failed("sync", path, source))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> RestoreError {
    RestoreError::File {
        operation,
        path: path.to_path_buf(),
        source,
    }
}
