//! Realistic raw disk images: an ext4 filesystem filled with files of this machine.
//!
//! Benches and tests need data that compresses and repeats as real disks do; random bytes and zeroes do
//! neither. Which files are taken depends on their names alone, so two images of one machine hold the same
//! files. The image is dense: every tool has to read all of it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::tools::MKE2FS;

/// Block size of the filesystem. Unit: bytes.
const BLOCK_LEN: u64 = 4096;
/// A filesystem needs room for its own tables and journal; mke2fs runs out of blocks above this share.
const FILL_MAX: Share = Share(900);
/// Below this size the filesystem's tables take a share that makes [`FILL_MAX`] a lie. Unit: MiB.
const MIB_MIN: u64 = 16;
/// Inodes beside those of the files: the filesystem's own, and some to spare.
const INODES_SPARE: usize = 1024;
const COPY_LEN: usize = 1 << 20;

/// What an image shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The raw image; replaced when it exists.
    pub out: PathBuf,
    /// Size of the image. Unit: MiB.
    pub mib: u64,
    /// Share of the filesystem that files take.
    pub fill: Share,
    /// Share of those files, by bytes, that are replaced by others: two images with different files in
    /// common are two machines of one kind.
    pub other: Share,
    /// The tree that files are taken from.
    pub root: PathBuf,
}

impl ImageSpec {
    /// An image of `mib` MiB as `cargo xtask image` makes it by default: 70 % full of `/usr`.
    pub fn new(out: impl Into<PathBuf>, mib: u64) -> Self {
        Self {
            out: out.into(),
            mib,
            fill: Share(700),
            other: Share(0),
            root: PathBuf::from("/usr"),
        }
    }
}

/// A share between 0 and 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    const ONE: u64 = 1000;

    /// `thousandths` of the whole; nothing above the whole.
    #[must_use]
    pub fn from_thousandths(thousandths: u16) -> Option<Self> {
        (u64::from(thousandths) <= Self::ONE).then_some(Self(thousandths))
    }

    fn of(self, len: u64) -> u64 {
        len / Self::ONE * u64::from(self.0) + len % Self::ONE * u64::from(self.0) / Self::ONE
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("`{text}` is not a share such as 0.70, from 0 to 1 in steps of 0.001");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 3 {
            return Err(refuse());
        }
        let thousandths = format!("{whole}{part:0<3}").parse().map_err(|_| refuse())?;
        Self::from_thousandths(thousandths).ok_or_else(refuse)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageMade {
    pub mib: u64,
    pub files: usize,
    /// Their bytes, in whole blocks.
    pub files_len: u64,
    /// Files that were chosen and could not be read; they are left out.
    pub unreadable: usize,
}

impl fmt::Display for ImageMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.files_len >> 20;
        write!(
            f,
            "{} MiB, {} files, {mib} MiB of them",
            self.mib, self.files
        )?;
        if self.unreadable > 0 {
            write!(f, ", {} could not be read", self.unreadable)?;
        }
        Ok(())
    }
}

/// A regular file of the tree and its size in whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    len: u64,
}

/// Makes the image. Takes about twice its size beside it while it works.
///
/// # Errors
///
/// When the tree cannot be read, has too few files, does not fit, or mke2fs (of e2fsprogs) fails.
pub fn make(spec: &ImageSpec) -> Result<ImageMade> {
    if spec.mib < MIB_MIN {
        bail!("an image has at least {MIB_MIN} MiB");
    }
    if FILL_MAX < spec.fill {
        bail!(
            "a filesystem can be filled up to a share of {FILL_MAX}, not {}",
            spec.fill
        );
    }
    let image_len = spec
        .mib
        .checked_mul(1 << 20)
        .context("an image has fewer than 2^44 MiB")?;
    let root = fs::canonicalize(&spec.root)
        .with_context(|| format!("cannot read the tree {}", spec.root.display()))?;
    let candidates = ranked(candidates(&root)?, &root);
    let wanted_len = spec.fill.of(image_len);
    let files = choose(candidates, wanted_len, spec.other);
    let files_len: u64 = files.iter().map(|file| file.len).sum();
    if files_len < wanted_len / 2 {
        bail!(
            "{} has {} MiB of files for this image, which wants {} MiB; choose a larger --root",
            root.display(),
            files_len >> 20,
            wanted_len >> 20
        );
    }
    let beside = match spec.out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let stage = tempfile::Builder::new()
        .prefix(".image-")
        .tempdir_in(beside)
        .with_context(|| format!("cannot write to {}", beside.display()))?;
    let tree = stage.path().join("tree");
    let unreadable = copy_files(&files, &tree)?;
    let sparse = stage.path().join("sparse");
    make_filesystem(&tree, &sparse, image_len)?;
    copy_dense(&sparse, &spec.out, image_len)
        .with_context(|| format!("cannot write {}", spec.out.display()))?;
    Ok(ImageMade {
        mib: spec.mib,
        files: files.len() - unreadable,
        files_len,
        unreadable,
    })
}

/// Every regular file below `root`. Symbolic links are not followed.
fn candidates(root: &Path) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let mut unread = vec![root.to_path_buf()];
    while let Some(folder) = unread.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if folder != root && is_passing(&error) => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", folder.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                unread.push(entry.path());
            } else if metadata.is_file() {
                found.push(Candidate {
                    path: entry.path(),
                    len: metadata.len().next_multiple_of(BLOCK_LEN),
                });
            }
        }
    }
    Ok(found)
}

/// In an order that depends on names alone and has nothing to do with what the files are.
fn ranked(mut candidates: Vec<Candidate>, root: &Path) -> Vec<Candidate> {
    candidates.sort_by_cached_key(|file| {
        let name = file.path.strip_prefix(root).unwrap_or(&file.path);
        *blake3::hash(name.as_os_str().as_bytes()).as_bytes()
    });
    candidates
}

/// Files of at most `wanted_len` bytes: the first that fit, of which `other` is given up, first come first,
/// for files that did not fit.
fn choose(ranked: Vec<Candidate>, wanted_len: u64, other: Share) -> Vec<Candidate> {
    let mut taken_len = 0;
    let (taken, left): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|file| {
        let fits = file.len <= wanted_len - taken_len;
        if fits {
            taken_len += file.len;
        }
        fits
    });
    let give_up_len = other.of(taken_len);
    let mut room_len = 0;
    let mut chosen: Vec<_> = taken
        .into_iter()
        .filter(|file| {
            let stays = give_up_len <= room_len;
            if !stays {
                room_len += file.len;
            }
            stays
        })
        .collect();
    for file in left {
        if file.len <= room_len {
            room_len -= file.len;
            chosen.push(file);
        }
    }
    chosen
}

/// Copies to the same paths below `tree`. Answers with how many could not be read.
fn copy_files(files: &[Candidate], tree: &Path) -> Result<usize> {
    fs::create_dir_all(tree)?;
    let mut unreadable = 0;
    for file in files {
        let inside: PathBuf = file.path.components().skip(1).collect();
        let to = tree.join(inside);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::copy(&file.path, &to) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => unreadable += 1,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot copy {}", file.path.display()));
            }
        }
    }
    Ok(unreadable)
}

/// A file that went away or may not be read is left out; anything else is a fault of the machine.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

fn make_filesystem(tree: &Path, image: &Path, len: u64) -> Result<()> {
    File::create(image)?.set_len(len)?;
    let program = run::find(MKE2FS.program)
        .with_context(|| format!("{} is missing: install {}", MKE2FS.program, MKE2FS.package))?;
    let inodes = count_entries(tree)? + INODES_SPARE;
    let output = Command::new(program)
        .args(["-q", "-t", "ext4", "-b", &BLOCK_LEN.to_string()])
        .args(["-N", &inodes.to_string()])
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"])
        .args([tree.as_os_str(), image.as_os_str()])
        .output()
        .context("cannot start mke2fs")?;
    if !output.status.success() {
        bail!(
            "mke2fs failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn count_entries(tree: &Path) -> Result<usize> {
    let mut count = 0;
    let mut unread = vec![tree.to_path_buf()];
    while let Some(folder) = unread.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            count += 1;
            if entry.file_type()?.is_dir() {
                unread.push(entry.path());
            }
        }
    }
    Ok(count)
}

/// Writes every byte of `from`, its holes too.
fn copy_dense(from: &Path, to: &Path, len: u64) -> io::Result<()> {
    let mut from = File::open(from)?.take(len);
    let mut to = File::create(to)?;
    let mut buffer = vec![0; COPY_LEN];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
    }
}

#[cfg(test)]
mod tests;
