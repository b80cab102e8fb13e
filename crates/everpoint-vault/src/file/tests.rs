//! What a vault in a directory does beyond the contract: syncs, roots that move, what a crash leaves.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Mutex;

use super::*;
use crate::error::{CreateError, ReadError, Remedy};
use crate::{RetryConfig, Vault, VaultUrl};

/// A medium that writes down each sync and what could be seen at that moment, and does what a test wants to happen
/// just then.
#[derive(Clone, Default)]
struct Watched {
    shared: Arc<WatchedShared>,
}

type Hook = Box<dyn FnMut(&str) -> std::io::Result<()> + Send>;

#[derive(Default)]
struct WatchedShared {
    log: Mutex<Vec<String>>,
    hook: Mutex<Option<Hook>>,
}

impl Watched {
    /// Calls `hook` before each sync, with its line of the log; an error becomes the sync's.
    fn before(&self, hook: impl FnMut(&str) -> std::io::Result<()> + Send + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// What was synced since the last call; random parts of staged names are cut off.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.log.lock().unwrap())
    }

    fn note(&self, line: String) -> std::io::Result<()> {
        self.shared.log.lock().unwrap().push(line.clone());
        match &mut *self.shared.hook.lock().unwrap() {
            Some(hook) => hook(&line),
            None => Ok(()),
        }
    }
}

impl Medium for Watched {
    fn sync_file(&self, _: BorrowedFd<'_>, what: &Path) -> std::io::Result<()> {
        let what = what.to_str().expect("names are ASCII");
        let what = what.split_once('.').map_or(what, |(leaf, _)| leaf);
        self.note(format!("file {what}"))
    }

    fn sync_directory(&self, directory: BorrowedFd<'_>, what: &Path) -> std::io::Result<()> {
        let entries = rustix::fs::Dir::read_from(directory)?.flatten();
        let mut entries: Vec<_> = entries
            .filter_map(|entry| entry.file_name().to_str().map(str::to_owned).ok())
            .filter(|entry| !entry.starts_with('.') && entry != STAGED_DIRECTORY)
            .collect();
        entries.sort();
        self.note(format!(
            "directory {} [{}]",
            what.display(),
            entries.join(" ")
        ))
    }
}

struct Rig {
    directory: tempfile::TempDir,
    root: PathBuf,
    watched: Watched,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("vault");
        fs::create_dir(&root).unwrap();
        Self {
            directory,
            root,
            watched: Watched::default(),
        }
    }

    /// A vault with three quick attempts whose syncs are watched.
    async fn open(&self, options: OpenOptions) -> Vault {
        let config = config();
        let medium = Box::new(self.watched.clone());
        let backend = FileBackend::open_on(medium, &self.root, &config, options)
            .await
            .unwrap();
        Vault::over(
            Arc::new(backend),
            &VaultUrl::file(&self.root).unwrap(),
            &config,
        )
    }

    fn staged(&self) -> Vec<String> {
        let Ok(entries) = self.root.join(STAGED_DIRECTORY).read_dir() else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn exists(&self, name: &ObjectName) -> bool {
        self.root.join(name.as_str()).exists()
    }
}

fn config() -> VaultConfig {
    VaultConfig {
        retry: RetryConfig {
            attempts_max: 3,
            delay_ms_first: 1,
            delay_ms_max: 1,
            ..RetryConfig::default()
        },
        ..VaultConfig::default()
    }
}

fn name(leaf: &str) -> ObjectName {
    ObjectName::new(&format!("v1/journal/1-a/{leaf}")).unwrap()
}

fn payload() -> Payload {
    Payload::from(b"bytes".to_vec())
}

#[tokio::test]
async fn bytes_are_synced_before_the_name_is_seen_and_the_name_after() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    vault.create(&name("1"), &payload()).await.unwrap();
    assert_eq!(
        rig.watched.take(),
        [
            "directory  [v1]",
            "directory v1 [journal]",
            "directory v1/journal [1-a]",
            "file staged/1",
            "directory v1/journal/1-a [1]",
        ]
    );
    let path = rig.root.join(name("2").as_str());
    rig.watched.before(move |line| {
        let must_be_seen = line.starts_with("directory");
        assert_eq!(path.exists(), must_be_seen, "{line}");
        Ok(())
    });
    vault.create(&name("2"), &payload()).await.unwrap();
    assert_eq!(
        rig.watched.take(),
        ["file staged/2", "directory v1/journal/1-a [1 2]"]
    );
    assert!(rig.staged().is_empty());
}

#[tokio::test]
async fn directories_that_were_found_are_synced_by_each_process() {
    let rig = Rig::new();
    fs::create_dir_all(rig.root.join("v1/journal/1-a")).unwrap();
    for _ in 0..2 {
        let vault = rig.open(OpenOptions::READ).await;
        vault
            .create(&name(&rand::random::<u32>().to_string()), &payload())
            .await
            .unwrap();
        let log = rig.watched.take();
        assert_eq!(
            log[..3],
            [
                "directory  [v1]",
                "directory v1 [journal]",
                "directory v1/journal [1-a]"
            ]
        );
    }
}

#[tokio::test]
async fn the_same_bytes_count_only_after_a_sync_of_file_and_directories() {
    let rig = Rig::new();
    fs::create_dir_all(rig.root.join("v1/journal/1-a")).unwrap();
    fs::write(rig.root.join(name("1").as_str()), b"bytes").unwrap();
    let vault = rig.open(OpenOptions::READ).await;
    assert!(
        vault
            .create(&name("1"), &payload())
            .await
            .unwrap()
            .was_there()
    );
    assert_eq!(
        rig.watched.take(),
        [
            "directory  [v1]",
            "directory v1 [journal]",
            "directory v1/journal [1-a]",
            "file staged/1",
            "file v1/journal/1-a/1",
            "directory v1/journal/1-a [1]",
        ]
    );
    assert!(vault.forget_cached(&name("1")).await.unwrap());
    assert_eq!(
        rig.watched.take(),
        ["file v1/journal/1-a/1", "directory v1/journal/1-a [1]"]
    );
}

#[tokio::test]
async fn a_failed_sync_is_fatal_wherever_it_happens_and_no_sync_follows_it() {
    for broken in [
        "directory v1 [journal]",
        "file staged/1",
        "directory v1/journal/1-a [1]",
    ] {
        let rig = Rig::new();
        let vault = rig.open(OpenOptions::READ).await;
        rig.watched.before(move |line| {
            let error = std::io::Error::from_raw_os_error(Errno::IO.raw_os_error());
            if line == broken { Err(error) } else { Ok(()) }
        });
        let fatal = vault.create(&name("1"), &payload()).await.unwrap_err();
        assert_eq!(fatal.remedy(), Remedy::EndProcess, "{fatal:?}");
        let CreateError::SyncFailed { source, .. } = fatal else {
            panic!("{fatal:?}");
        };
        assert_eq!(source.errno, Some(Errno::IO.raw_os_error()));
        assert_eq!(rig.watched.take().last().unwrap(), broken);

        // The medium is well again; this process must not believe it.
        rig.watched.before(|_| Ok(()));
        for leaf in ["1", "2"] {
            let fatal = vault.create(&name(leaf), &payload()).await.unwrap_err();
            assert!(matches!(fatal, CreateError::SyncFailed { .. }), "{fatal:?}");
        }
        assert_eq!(
            vault.forget_cached(&name("1")).await.unwrap_err().remedy(),
            Remedy::EndProcess
        );
        assert!(rig.watched.take().is_empty());
        assert!(rig.staged().is_empty());

        // The next process may.
        let vault = rig.open(OpenOptions::READ).await;
        assert_eq!(
            vault.create(&name("1"), &payload()).await.unwrap().name(),
            &name("1")
        );
    }
}

#[tokio::test]
async fn a_renamed_root_takes_no_commit_and_heals_when_it_is_back() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    vault.create(&name("1"), &payload()).await.unwrap();
    let away = rig.directory.path().join("away");
    fs::rename(&rig.root, &away).unwrap();
    let moved = vault.create(&name("2"), &payload()).await.unwrap_err();
    assert!(matches!(moved, CreateError::RootMoved { .. }), "{moved:?}");
    assert_eq!(moved.remedy(), Remedy::Again);
    assert!(
        vault.head(&name("1")).await.is_err(),
        "absence is not claimed of another directory"
    );

    fs::create_dir(&rig.root).unwrap();
    let moved = vault.create(&name("2"), &payload()).await.unwrap_err();
    assert!(matches!(moved, CreateError::RootMoved { .. }), "{moved:?}");
    assert!(vault.list(&name("1").prefix(), None).await.is_err());
    assert_eq!(
        rig.root.read_dir().unwrap().count(),
        0,
        "nothing is put into what took its place"
    );

    fs::remove_dir(&rig.root).unwrap();
    fs::rename(&away, &rig.root).unwrap();
    assert!(
        !vault
            .create(&name("2"), &payload())
            .await
            .unwrap()
            .was_there()
    );
}

#[tokio::test]
async fn a_root_that_moves_under_a_create_takes_no_commit() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    vault.create(&name("1"), &payload()).await.unwrap();
    let away = rig.directory.path().join("away");
    let (from, to) = (rig.root.clone(), away.clone());
    rig.watched.before(move |line| {
        if line.starts_with("directory v1/journal/1-a") {
            fs::rename(&from, &to)?;
            fs::create_dir(&from)?;
        }
        Ok(())
    });
    let moved = vault.create(&name("2"), &payload()).await.unwrap_err();
    assert!(matches!(moved, CreateError::RootMoved { .. }), "{moved:?}");
    rig.watched.before(|_| Ok(()));
    fs::remove_dir(&rig.root).unwrap();
    fs::rename(&away, &rig.root).unwrap();
    assert!(
        vault
            .create(&name("2"), &payload())
            .await
            .unwrap()
            .was_there()
    );
}

#[tokio::test]
async fn a_root_that_was_deleted_and_made_anew_is_another() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    // ext4 gives the inode number away again at once, so the time of birth has to tell; its clock ticks in
    // milliseconds.
    let born = || fs::metadata(&rig.root).unwrap().created().unwrap();
    let first = born();
    while born() == first {
        fs::remove_dir(&rig.root).unwrap();
        fs::create_dir(&rig.root).unwrap();
    }
    let moved = vault.create(&name("1"), &payload()).await.unwrap_err();
    assert!(matches!(moved, CreateError::RootMoved { .. }), "{moved:?}");
}

#[tokio::test]
async fn what_a_crash_left_is_never_listed_and_goes_at_the_next_writing_open() {
    let rig = Rig::new();
    let staged = rig.root.join(STAGED_DIRECTORY);
    fs::create_dir(&staged).unwrap();
    fs::write(
        staged.join("00000000000000000001.0123456789abcdef"),
        b"half an obj",
    )
    .unwrap();
    let living = fs::File::create(staged.join("00000000000000000002.0123456789abcdef")).unwrap();
    living.lock().unwrap();

    let vault = rig.open(OpenOptions::READ).await;
    let everything = ObjectPrefix::new("v1").unwrap();
    assert!(
        vault
            .list(&everything, None)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
    assert_eq!(rig.staged().len(), 2, "who only reads removes nothing");

    rig.open(OpenOptions::WRITE).await;
    assert_eq!(
        rig.staged(),
        ["00000000000000000002.0123456789abcdef"],
        "its writer lives"
    );
    drop(living);
    rig.open(OpenOptions::WRITE).await;
    assert!(rig.staged().is_empty());
}

#[tokio::test]
async fn a_staged_file_that_is_taken_away_costs_a_repetition() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    let staged = rig.root.join(STAGED_DIRECTORY);
    let mut once = false;
    rig.watched.before(move |line| {
        if line.starts_with("file") && !std::mem::replace(&mut once, true) {
            let entry = staged.read_dir()?.next().expect("one is staged")?;
            fs::remove_file(entry.path())?;
        }
        Ok(())
    });
    assert!(
        !vault
            .create(&name("1"), &payload())
            .await
            .unwrap()
            .was_there()
    );
    let log = rig.watched.take();
    assert_eq!(
        log.iter().filter(|line| *line == "file staged/1").count(),
        2
    );
    assert!(rig.exists(&name("1")));
}

#[tokio::test]
async fn a_root_that_is_not_utf_8_is_a_vault_like_any_other() {
    let rig = Rig::new();
    let root = rig.root.join(OsStr::from_bytes(b"v\xFFault"));
    let url = VaultUrl::file(&root).unwrap();
    let vault = Vault::open(&url, &config(), OpenOptions::CREATE)
        .await
        .unwrap();
    vault.create(&name("1"), &payload()).await.unwrap();
    assert!(
        vault
            .create(&name("1"), &payload())
            .await
            .unwrap()
            .was_there()
    );
    assert!(
        vault
            .create(&name("1"), &Payload::from(b"other".to_vec()))
            .await
            .is_err()
    );
    assert!(root.join(name("1").as_str()).exists());
}

#[tokio::test]
async fn only_who_asks_for_it_makes_a_root() {
    let rig = Rig::new();
    let root = rig.root.join("deep/er");
    let url = VaultUrl::file(&root).unwrap();
    for options in [OpenOptions::READ, OpenOptions::WRITE] {
        let error = Vault::open(&url, &config(), options).await.unwrap_err();
        assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
    }
    assert_eq!(rig.root.read_dir().unwrap().count(), 0);
    let options = OpenOptions {
        create_root: true,
        ..OpenOptions::READ
    };
    let medium = Box::new(rig.watched.clone());
    FileBackend::open_on(medium, &root, &config(), options)
        .await
        .unwrap();
    let log = rig.watched.take();
    assert_eq!(
        log[0],
        format!("directory {} [er]", rig.root.join("deep").display())
    );
    assert_eq!(log[1], format!("directory {} [deep]", rig.root.display()));
    assert!(
        Vault::open(&url, &config(), OpenOptions::WRITE)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_file_is_no_root() {
    let rig = Rig::new();
    let file = rig.root.join("file");
    fs::write(&file, b"x").unwrap();
    for root in [file.clone(), file.join("below")] {
        let url = VaultUrl::file(&root).unwrap();
        let error = Vault::open(&url, &config(), OpenOptions::CREATE)
            .await
            .unwrap_err();
        assert!(
            matches!(error, OpenError::NotADirectory { .. }),
            "{error:?}"
        );
        assert_eq!(error.remedy(), Remedy::Report);
    }
}

#[tokio::test]
async fn what_no_create_made_is_neither_listed_nor_served() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    vault.create(&name("1"), &payload()).await.unwrap();
    let journal = rig.root.join("v1/journal/1-a");
    fs::write(journal.join("UPPER"), b"x").unwrap();
    fs::write(journal.join(".hidden"), b"x").unwrap();
    fs::write(journal.join(OsStr::from_bytes(b"\xFF")), b"x").unwrap();
    fs::create_dir(journal.join("2")).unwrap();
    std::os::unix::fs::symlink("1", journal.join("3")).unwrap();
    fs::create_dir(rig.root.join("v1/lost+found")).unwrap();

    let everything = ObjectPrefix::new("v1").unwrap();
    let page = vault.list(&everything, None).await.unwrap();
    assert_eq!(
        page.objects
            .into_iter()
            .map(|entry| entry.name)
            .collect::<Vec<_>>(),
        [name("1")]
    );
    let prefixes = vault.list_prefixes(&everything).await.unwrap();
    assert_eq!(prefixes, [everything.child("journal").unwrap()]);
    for leaf in ["2", "3"] {
        let error = vault.read(&name(leaf)).await.unwrap_err();
        let ReadError::Unavailable { source, .. } = error else {
            panic!("{error:?}");
        };
        assert!(matches!(source, Cause::NotAFile { .. }), "{source:?}");
        assert!(vault.create(&name(leaf), &payload()).await.is_err());
    }
}

/// Lets the next sync of staged object 2 hang; says when it does, and ends it when told.
fn hang_once(
    watched: &Watched,
) -> (
    tokio::sync::oneshot::Receiver<()>,
    std::sync::mpsc::Sender<()>,
) {
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let mut once = Some((begun, released));
    watched.before(move |line| {
        if line == "file staged/2"
            && let Some((begun, released)) = once.take()
        {
            begun.send(()).expect("the test listens");
            released.recv().expect("the test releases");
        }
        Ok(())
    });
    (has_begun, release)
}

/// A create that forgets its sync must fail the test, not hang it.
async fn begun_soon(has_begun: tokio::sync::oneshot::Receiver<()>) {
    let begun = tokio::time::timeout(Duration::from_secs(20), has_begun).await;
    begun.expect("the sync begins").expect("the hook lives");
}

#[tokio::test]
async fn a_repetition_waits_for_the_attempt_that_still_hangs() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    vault.create(&name("1"), &payload()).await.unwrap();
    let (has_begun, release) = hang_once(&rig.watched);
    let payload = payload();
    let create = || {
        let (vault, payload) = (vault.clone(), payload.clone());
        async move { vault.create(&name("2"), &payload).await }
    };
    let waiting = tokio::spawn(create());
    begun_soon(has_begun).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    rig.watched.take();

    // Others are served meanwhile, the repetition is not.
    assert!(vault.read(&name("1")).await.unwrap().is_some());
    let mut repetition = std::pin::pin!(create());
    assert!(repetition.as_mut().now_or_never().is_none());
    assert_eq!(rig.staged().len(), 1);
    release.send(()).unwrap();
    assert!(repetition.await.unwrap().was_there());
    let log = rig.watched.take();
    assert!(
        !log.contains(&"file staged/2".to_owned()),
        "written once: {log:?}"
    );
}

#[tokio::test]
async fn a_create_of_other_bytes_does_not_wait_and_may_win() {
    let rig = Rig::new();
    let vault = rig.open(OpenOptions::READ).await;
    let (has_begun, release) = hang_once(&rig.watched);
    let waiting = tokio::spawn({
        let vault = vault.clone();
        async move { vault.create(&name("2"), &payload()).await }
    });
    begun_soon(has_begun).await;
    // The hook of this test's medium is busy, so the rival is another process's vault.
    let url = VaultUrl::file(&rig.root).unwrap();
    let rival = Vault::open(&url, &config(), OpenOptions::WRITE)
        .await
        .unwrap();
    let other = Payload::from(b"other".to_vec());
    assert!(!rival.create(&name("2"), &other).await.unwrap().was_there());
    release.send(()).unwrap();
    let refused = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(refused, CreateError::Different { .. }),
        "{refused:?}"
    );
}
