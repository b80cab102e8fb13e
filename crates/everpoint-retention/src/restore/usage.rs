//! Who uses a file or a device right now: mounts, loop devices, locks.
//!
//! What the kernel does not tell (no `/proc`, no `/sys`) is taken as unused: devices are opened exclusively
//! besides, which the kernel refuses for one that is mounted or otherwise claimed.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Where a filesystem on the device `device` is mounted, if it is.
pub(super) fn mount_of(device: u64) -> Option<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let of_device = mounts(&table).find(|mount| mount.device == device);
    of_device.map(|mount| mount.point)
}

/// Whether something is mounted on the path itself, as a bind mount of a file is.
pub(super) fn is_mount_point(path: &Path) -> bool {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts(&table).any(|mount| mount.point == path)
}

/// The loop device that the file backs, if any.
pub(super) fn loop_of(file: &Metadata) -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/block").ok()?;
    for device in devices.flatten() {
        let backing = device.path().join("loop/backing_file");
        let Ok(mut path) = fs::read(backing) else {
            continue;
        };
        if path.last() == Some(&b'\n') {
            path.pop();
        }
        let path = PathBuf::from(OsString::from_vec(path));
        if fs::metadata(path).is_ok_and(|backing| is_same_file(&backing, file)) {
            return Some(Path::new("/dev").join(device.file_name()));
        }
    }
    None
}

/// Whether another process holds a lock on the file, as qemu and others do while they use an image. What
/// cannot be opened is not ours to replace, and is told elsewhere.
pub(super) fn is_locked(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let operation = FlockOperation::NonBlockingLockExclusive;
    let refused =
        |locked: Result<(), Errno>| matches!(locked, Err(Errno::WOULDBLOCK | Errno::ACCESS));
    refused(rustix::fs::flock(&file, operation))
        || refused(rustix::fs::fcntl_lock(&file, operation))
}

/// Whether two names are one file.
pub(super) fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

struct Mount {
    device: u64,
    point: PathBuf,
}

/// The lines of `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5): field 3 is the device, field 5 the mount
/// point, with octal escapes.
fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = std::str::from_utf8(fields.nth(2)?).ok()?;
        let (major, minor) = device.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        let point = unescape(fields.nth(1)?);
        Some(Mount { device, point })
    })
}

fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.first_chunk::<3>().filter(|_| byte == b'\\');
        let code = escaped.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let Some(code) = code {
            plain.push(code);
            rest = &after[3..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134 rw,noatime master:1 - ext3 /dev/root rw\n\
                      37 35 0:22 / /proc rw - proc proc rw\nnonsense\n";
        let found: Vec<_> = mounts(table)
            .map(|mount| (mount.device, mount.point))
            .collect();
        let expected = [
            (rustix::fs::makedev(98, 0), PathBuf::from("/mnt/a b\\")),
            (rustix::fs::makedev(0, 22), PathBuf::from("/proc")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_root_is_a_mount_point() {
        assert!(is_mount_point(Path::new("/")));
        assert!(!is_mount_point(Path::new("/proc/self")));
    }
}
