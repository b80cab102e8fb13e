//! Reading objects of a `file://` vault.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd;
use std::path::PathBuf;

use everpoint_units::ByteLen;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::{Fault, Found, Part};
use crate::error::Cause;
use crate::file::not_done;
use crate::name::ObjectName;

/// Opens an object and says how long it is; `None` if there is none. A link, a device or a directory in its place
/// is refused: no create made it.
pub(super) fn open(root: impl AsFd, name: &ObjectName) -> Result<Option<(File, ByteLen)>, Fault> {
    let path = || PathBuf::from(name.as_str());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(root, name.as_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return Err(Fault::NotDone(Cause::NotAFile { path: path() })),
        Err(error) => return Err(not_done("open", path(), error)),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| not_done("stat", path(), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Fault::NotDone(Cause::NotAFile { path: path() }));
    }
    let len = u64::try_from(stat.st_size).expect("the length of a file is not negative");
    Ok(Some((file.into(), ByteLen(len))))
}

/// Reads a part of an object; `None` if there is none.
pub(super) fn read(
    root: impl AsFd,
    name: &ObjectName,
    part: Part,
    len_max: ByteLen,
) -> Result<Option<Found>, Fault> {
    let Some((mut file, object_len)) = open(root, name)? else {
        return Ok(None);
    };
    let (at, len) = part.within(object_len, len_max)?;
    let capacity = usize::try_from(len.0).map_err(|_| Fault::TooLong { len })?;
    // Room for one byte more, so that the end of the file is met without growing.
    let mut bytes = Vec::with_capacity(capacity + 1);
    file.seek(SeekFrom::Start(at.0)).map_err(failed(name))?;
    file.take(len.0)
        .read_to_end(&mut bytes)
        .map_err(failed(name))?;
    if bytes.len() != capacity {
        return Err(Fault::Medium(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Some(Found {
        bytes: bytes.into(),
        object_len,
    }))
}

/// EIO is the medium's own word and no other attempt will get a better one; the rest may heal.
pub(super) fn failed(name: &ObjectName) -> impl Fn(io::Error) -> Fault + '_ {
    |error| {
        if error.raw_os_error() == Some(Errno::IO.raw_os_error()) {
            Fault::Medium(error)
        } else {
            not_done("read", PathBuf::from(name.as_str()), error)
        }
    }
}
