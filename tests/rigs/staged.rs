//! Objects of a `file://` vault that are being created: their staged files, watched.
//!
//! A staged file is there from the first byte of an object to its name, so whoever kills or stops the writer
//! at the sight of one does it in the middle of a PUT. Whether it was in time shows afterwards: the staged
//! file of a writer that was killed stays.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use everpoint_vault::STAGED_DIRECTORY;
use rustix::fs::inotify;
use rustix::io::Errno;

/// How long a look waits for the next one.
const PAUSE: Duration = Duration::from_micros(20);

/// Watches the staged files of a vault.
#[derive(Debug)]
pub struct StagedWatch {
    events: rustix::fd::OwnedFd,
    directory: PathBuf,
}

impl StagedWatch {
    /// Begins to watch. The directory is made where the vault has none yet.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn begin(vault: &Path) -> Result<Self> {
        let directory = vault.join(STAGED_DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, &directory, inotify::WatchFlags::CREATE)?;
        Ok(Self { events, directory })
    }

    /// Waits for the next journal object that begins to be created, and returns the name of its staged
    /// file. Blocks: between the sight and what the caller does about it lies no scheduler of tasks.
    ///
    /// # Errors
    ///
    /// When none begins in time.
    pub fn next(&self, within: Duration) -> Result<String> {
        while self.event()?.is_some() {}
        let end = Instant::now() + within;
        loop {
            match self.event()? {
                Some(name) if is_journal_object(&name) => return Ok(name),
                Some(_) => {}
                None if end <= Instant::now() => {
                    bail!("no object began to be created within {within:?}")
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The name of the next file that was made, if there is one. Events that were read together and not
    /// looked at are dropped: the first of them is what the caller waits for.
    fn event(&self) -> Result<Option<String>> {
        let mut room = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut room);
        loop {
            let name = match reader.next() {
                Ok(event) => event
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let name = name.unwrap_or_default();
            if is_journal_object(&name) || reader.is_buffer_empty() {
                return Ok(Some(name));
            }
        }
    }

    /// Staged files that are there now.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn present(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.directory.read_dir()? {
            let name = entry?.file_name();
            let name = name.to_str().filter(|name| is_journal_object(name));
            names.extend(name.map(str::to_owned));
        }
        Ok(names)
    }
}

/// Twenty digits, a dot and sixteen hexadecimal digits.
fn is_journal_object(name: &str) -> bool {
    let parts = name.split_once('.');
    parts.is_some_and(|(number, random)| {
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let hex = random.bytes().all(|byte| byte.is_ascii_hexdigit());
        number.len() == 20 && random.len() == 16 && digits && hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00000000000000000007.0123456789abcdef";

    #[test]
    fn only_staged_journal_objects_are_seen_and_only_new_ones() {
        let vault = tempfile::tempdir().unwrap();
        let watch = StagedWatch::begin(vault.path()).unwrap();
        let file = |name: &str| {
            std::fs::write(watch.directory.join(name), "").unwrap();
        };
        file(NAME);
        assert!(watch.next(Duration::ZERO).is_err(), "it began before");
        std::thread::scope(|scope| {
            let next = scope.spawn(|| watch.next(Duration::from_secs(10)).unwrap());
            // Made again and again: the watch forgets what was there before it began to wait.
            while !next.is_finished() {
                file("origin.0123456789abcdef");
                std::fs::remove_file(watch.directory.join(NAME)).unwrap();
                file(NAME);
            }
            assert_eq!(next.join().unwrap(), NAME);
        });
        assert_eq!(watch.present().unwrap(), [NAME]);
    }
}
