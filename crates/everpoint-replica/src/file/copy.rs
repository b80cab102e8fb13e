//! A file's copy for a new owner, and names that last.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

/// The end says how far the rest is, so it is copied first: what somebody else still writes makes the rest newer
/// than the end says, never older. Unit: bytes.
const END_LEN: u64 = 512;
const PIECE_LEN: usize = 1 << 20;

/// Copies what the filesystem keeps blocks for, to a file that has its name only once it is whole.
pub(super) fn copy(source: &File, to: &Path) -> io::Result<File> {
    let part = part_of(to);
    // A copy that was cut short is begun again.
    let target = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&part)?;
    let len = source.metadata()?.len();
    target.set_len(len)?;
    let mut piece = vec![0; PIECE_LEN];
    let end_at = len.saturating_sub(END_LEN);
    copy_range(source, &target, end_at..len, &mut piece)?;
    let mut at = 0;
    while at < end_at {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start.min(end_at),
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(end_at);
        copy_range(source, &target, start..end, &mut piece)?;
        at = end.max(start + 1);
    }
    target.sync_all()?;
    rename(&part, to)?;
    Ok(target)
}

/// Gives a file another name that survives a loss of power.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Makes names in a directory last.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn copy_range(
    source: &File,
    target: &File,
    range: std::ops::Range<u64>,
    piece: &mut [u8],
) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let len = left.min(piece.len());
        source.read_exact_at(&mut piece[..len], at)?;
        target.write_all_at(&piece[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// The name of a file while it is made.
pub(super) fn part_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".part");
    name.into()
}
