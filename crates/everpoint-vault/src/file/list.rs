//! Listing a `file://` vault in order of names.
//!
//! Only what a create can have made is listed: regular files with names of objects. Each page reads the directories
//! that it needs anew and remembers nothing.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use everpoint_units::ByteLen;
use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use crate::backend::Fault;
use crate::file::not_done;
use crate::file::root::DIRECTORY_FLAGS;
use crate::name::{ObjectName, ObjectPrefix};
use crate::vault::{ObjectEntry, Page};

/// The first objects below `prefix` after `after`, sorted by name.
pub(super) fn list(
    root: impl AsFd,
    prefix: &ObjectPrefix,
    after: Option<&ObjectName>,
    count_max: NonZeroUsize,
) -> Result<Page, Fault> {
    let mut walk = Walk {
        after: after.map(ObjectName::as_str),
        count_max,
        page: Page::default(),
    };
    if let Some(directory) = open(root, prefix.as_str(), prefix)? {
        walk.visit(&directory, prefix)?;
    }
    Ok(walk.page)
}

/// The directories right below `prefix`, sorted by name.
pub(super) fn list_prefixes(
    root: impl AsFd,
    prefix: &ObjectPrefix,
) -> Result<Vec<ObjectPrefix>, Fault> {
    let Some(directory) = open(root, prefix.as_str(), prefix)? else {
        return Ok(Vec::new());
    };
    let children = children(&directory, prefix)?;
    let prefixes = children.into_iter().filter(|child| child.is_directory);
    Ok(prefixes
        .filter_map(|child| prefix.child(child.segment()).ok())
        .collect())
}

/// The state of one page.
struct Walk<'a> {
    after: Option<&'a str>,
    count_max: NonZeroUsize,
    page: Page,
}

/// One entry of a directory. A directory's key ends in a slash, as its objects' names go on after it: `a-b/c` comes
/// before `a/c`, though `a` comes before `a-b`.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Child {
    key: String,
    is_directory: bool,
}

impl Walk<'_> {
    /// Takes the objects of a directory in order until the page is full and one more is seen.
    fn visit(&mut self, directory: &OwnedFd, prefix: &ObjectPrefix) -> Result<(), Fault> {
        for child in children(directory, prefix)? {
            if !self.page.is_last {
                break;
            }
            if self.lies_before(&format!("{prefix}/{}", child.key), child.is_directory) {
                continue;
            }
            if !child.is_directory {
                let Ok(name) = prefix.object(child.segment()) else {
                    continue;
                };
                if let Some(len) = file_len(directory, child.segment(), &name)? {
                    self.take(ObjectEntry { name, len });
                }
            } else if let Ok(prefix) = prefix.child(child.segment())
                && let Some(directory) = open(directory, child.segment(), &prefix)?
            {
                self.visit(&directory, &prefix)?;
            }
        }
        Ok(())
    }

    /// Whether this object, or all that this directory can hold, is at or before `after`.
    fn lies_before(&self, key: &str, is_directory: bool) -> bool {
        self.after.is_some_and(|after| {
            if is_directory {
                key < after && !after.starts_with(key)
            } else {
                key <= after
            }
        })
    }

    fn take(&mut self, entry: ObjectEntry) {
        if self.page.objects.len() < self.count_max.get() {
            self.page.objects.push(entry);
        } else {
            self.page.is_last = false;
        }
    }
}

impl Child {
    fn segment(&self) -> &str {
        self.key.strip_suffix('/').unwrap_or(&self.key)
    }
}

/// The files and directories right below one, sorted by key.
fn children(directory: &OwnedFd, prefix: &ObjectPrefix) -> Result<Vec<Child>, Fault> {
    let failed = |error| not_done("list", PathBuf::from(prefix.as_str()), error);
    let mut children = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Names of ours are ASCII; what is not is none of ours.
        let Ok(segment) = entry.file_name().to_str() else {
            continue;
        };
        let is_directory = match entry.file_type() {
            FileType::Directory => true,
            FileType::RegularFile => false,
            // Not every filesystem says it in the listing.
            FileType::Unknown => match kind(directory, segment).map_err(failed)? {
                Some(FileType::Directory) => true,
                Some(FileType::RegularFile) => false,
                _ => continue,
            },
            _ => continue,
        };
        let slash = if is_directory { "/" } else { "" };
        children.push(Child {
            key: format!("{segment}{slash}"),
            is_directory,
        });
    }
    children.sort_unstable();
    Ok(children)
}

fn kind(directory: &OwnedFd, segment: &str) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(directory, segment, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The length of a file, or `None` if it has gone meanwhile.
fn file_len(
    directory: &OwnedFd,
    segment: &str,
    name: &ObjectName,
) -> Result<Option<ByteLen>, Fault> {
    match rustix::fs::statat(directory, segment, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let len = u64::try_from(stat.st_size).expect("the length of a file is not negative");
            Ok(Some(ByteLen(len)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(not_done("stat", PathBuf::from(name.as_str()), error)),
    }
}

/// A handle to a directory, or `None` if there is none.
fn open(parent: impl AsFd, path: &str, prefix: &ObjectPrefix) -> Result<Option<OwnedFd>, Fault> {
    match rustix::fs::openat(parent, path, DIRECTORY_FLAGS, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(not_done("open", PathBuf::from(prefix.as_str()), error)),
    }
}
