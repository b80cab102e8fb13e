//! Where a quickstart's files lie, and that they are gone afterwards.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::QuickstartError;

/// Longest path of a unix socket that a program may bind, its file's name included. Unit: bytes. Linux has
/// 108 with the final NUL; a name beside it is taken while it is bound.
const SOCKET_PATH_MAX: usize = 80;

/// Threads that are being ended, because somebody interrupted, may still make a file: then it is removed again.
const REMOVE_ATTEMPTS: usize = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// A directory of a quickstart's own. Dropped, it is removed with everything in it, unless it is kept.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// The directory itself was there before.
    existed: bool,
    kept: bool,
    /// For sockets, where the root's path is too long for them.
    sockets: Option<TempDir>,
}

/// Everything that a quickstart puts into its directory.
const ENTRIES: [&str; 7] = [
    "agent", "disk.img", "pki", "restored", "server", "sockets", "vault",
];

impl Folder {
    /// A fresh directory in the system's place for temporary files, or the one that is given: it must be
    /// empty or missing.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(crate) fn create(given: Option<&Path>) -> Result<Self, QuickstartError> {
        let (root, existed) = match given {
            None => {
                let made = tempfile::Builder::new().prefix("everpoint-").tempdir();
                let failed = |source| QuickstartError::Dir {
                    path: std::env::temp_dir(),
                    source,
                };
                (made.map_err(failed)?.keep(), false)
            }
            Some(given) => open_given(given)?,
        };
        let mut folder = Self {
            root,
            existed,
            kept: false,
            sockets: None,
        };
        for name in ["pki", "restored", "sockets"] {
            folder.make_private(name)?;
        }
        let longest = folder.root.join("sockets").as_os_str().len();
        if SOCKET_PATH_MAX < longest {
            let made = tempfile::Builder::new().prefix("everpoint-").tempdir();
            folder.sockets = Some(made.map_err(|source| QuickstartError::Dir {
                path: std::env::temp_dir(),
                source,
            })?);
        }
        Ok(folder)
    }

    fn make_private(&self, name: &str) -> Result<(), QuickstartError> {
        let path = self.path(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| QuickstartError::Dir { path, source })
    }

    /// Something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A socket's place.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        match &self.sockets {
            Some(dir) => dir.path().join(name),
            None => self.root.join("sockets").join(name),
        }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Leaves everything where it is.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    fn remove(&self) -> io::Result<()> {
        if !self.existed && self.root.exists() {
            return fs::remove_dir_all(&self.root);
        }
        for name in ENTRIES {
            let path = self.root.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
                Ok(_) => fs::remove_file(&path)?,
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for _ in 0..REMOVE_ATTEMPTS {
            let Err(error) = self.remove() else {
                return;
            };
            tracing::warn!(dir = %self.root.display(), %error, "the directory is not removed yet");
            std::thread::sleep(REMOVE_PAUSE);
        }
    }
}

/// Makes the directory, or takes an empty one. Returns its absolute path and whether it was there.
fn open_given(given: &Path) -> Result<(PathBuf, bool), QuickstartError> {
    let failed = |source| QuickstartError::Dir {
        path: given.to_owned(),
        source,
    };
    let existed = given.symlink_metadata().is_ok();
    if !existed {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(given);
        made.map_err(failed)?;
    }
    let mut entries = fs::read_dir(given).map_err(failed)?;
    if entries.next().is_some() {
        return Err(QuickstartError::DirNotEmpty {
            path: given.to_owned(),
        });
    }
    let root = given.canonicalize().map_err(failed)?;
    if root.to_str().is_none() {
        return Err(QuickstartError::DirNotText { path: root });
    }
    Ok((root, existed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(folder: &Folder) {
        fs::write(folder.path("disk.img"), b"x").expect("written");
        fs::create_dir(folder.path("vault")).expect("made");
    }

    #[test]
    fn a_fresh_directory_goes_when_it_is_dropped_and_stays_when_it_is_kept() {
        let folder = Folder::create(None).expect("made");
        let root = folder.root().to_owned();
        fill(&folder);
        drop(folder);
        assert!(!root.exists());

        let mut folder = Folder::create(None).expect("made");
        let root = folder.root().to_owned();
        folder.keep();
        drop(folder);
        assert!(root.exists());
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_directory_that_was_there_stays_and_is_empty_again() {
        let given = tempfile::tempdir().expect("a directory");
        let folder = Folder::create(Some(given.path())).expect("empty");
        fill(&folder);
        drop(folder);
        assert_eq!(fs::read_dir(given.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let given = tempfile::tempdir().expect("a directory");
        fs::write(given.path().join("precious"), b"x").expect("written");
        let refused = Folder::create(Some(given.path()));
        assert!(matches!(refused, Err(QuickstartError::DirNotEmpty { .. })));
        assert!(given.path().join("precious").exists());
    }

    #[test]
    fn sockets_move_out_of_a_directory_whose_path_is_too_long() {
        let given = tempfile::tempdir().expect("a directory");
        let long = given.path().join("x".repeat(SOCKET_PATH_MAX));
        let folder = Folder::create(Some(&long)).expect("made");
        let socket = folder.socket("control");
        assert!(socket.as_os_str().len() < SOCKET_PATH_MAX);
        let dir = socket.parent().expect("it has one").to_owned();
        drop(folder);
        assert!(!dir.exists() && !long.exists());
    }
}
