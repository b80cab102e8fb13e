//! Syncs that fail, and writes that are under way while the fence is raised.

use std::sync::mpsc;

use super::*;

/// What each sync comes to, in their order; `None` as long as nobody decides.
#[derive(Debug, Default)]
struct Scripted {
    verdicts: Mutex<Vec<Verdict>>,
}

/// What becomes of a sync.
#[derive(Debug)]
enum Verdict {
    Fails,
    /// Says that it began, and waits for a word.
    Waits(mpsc::Sender<()>, mpsc::Receiver<()>, Box<Self>),
    Succeeds,
}

impl Verdict {
    fn carry_out(self) -> io::Result<()> {
        match self {
            Self::Succeeds => Ok(()),
            Self::Fails => Err(io::Error::from_raw_os_error(5)),
            Self::Waits(begins, word, then) => {
                begins.send(()).unwrap();
                word.recv().unwrap();
                then.carry_out()
            }
        }
    }
}

impl Disk for Scripted {
    /// What nobody scripted succeeds: the kernel tells of lost pages once.
    fn sync(&self, _: &File) -> io::Result<()> {
        let verdict = self.verdicts.lock().unwrap().pop();
        verdict.unwrap_or(Verdict::Succeeds).carry_out()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    disk: Arc<Scripted>,
    target: VhdFile,
}

/// One end of a sync that waits.
struct Parked {
    begun: mpsc::Receiver<()>,
    word: mpsc::Sender<()>,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Scripted::default());
        let shared: Arc<dyn Disk> = disk.clone();
        let target = VhdFile::on(shared, dir.path(), "disk");
        target.create(LEN, fence(1)).await.unwrap();
        Self { dir, disk, target }
    }

    fn next_sync(&self, verdict: Verdict) {
        self.disk.verdicts.lock().unwrap().push(verdict);
    }

    fn park_next_sync(&self, then: Verdict) -> Parked {
        let (begins, begun) = mpsc::channel();
        let (word, waits) = mpsc::channel();
        self.next_sync(Verdict::Waits(begins, waits, Box::new(then)));
        Parked { begun, word }
    }

    /// Puts a page, on the runtime's own.
    fn put(&self, at: u64, byte: u8) -> tokio::task::JoinHandle<Result<(), PageError>> {
        let target = self.target.clone();
        tokio::spawn(async move { target.put(ByteOffset(at), &filled(byte), fence(1)).await })
    }

    fn aside(&self) -> PathBuf {
        self.dir.path().join("disk.failed")
    }

    fn is_refused_as_failed<T: std::fmt::Debug>(&self, answer: Result<T, PageError>) {
        let expected = Refusal::SyncFailed {
            sync: io::Error::from_raw_os_error(5).to_string(),
            aside: self.aside(),
        };
        match answer {
            Err(PageError::Refused(refusal)) => assert_eq!(refusal, expected),
            other => panic!("{other:?}"),
        }
    }
}

fn is_not_set_aside<T: std::fmt::Debug>(answer: Result<T, PageError>) {
    let is = matches!(answer, Err(PageError::Refused(Refusal::NotSetAside { .. })));
    assert!(is, "{answer:?}");
}

#[tokio::test]
async fn no_put_is_acknowledged_after_a_sync_that_failed_and_the_file_is_a_target_no_more() {
    let rig = Rig::new().await;
    std::fs::write(rig.aside(), "an older one").unwrap();
    rig.put(AT.0, 9).await.unwrap().unwrap();
    let parked = rig.park_next_sync(Verdict::Fails);
    let puts: Vec<_> = (1..9).map(|at| rig.put(at * 4_096, 7)).collect();
    // All of them are in the file before the first sync fails.
    for at in 1..9 {
        while byte(&rig.target, at * 4_096).await != 7 {
            tokio::task::yield_now().await;
        }
    }
    parked.begun.recv().unwrap();
    parked.word.send(()).unwrap();
    for put in puts {
        rig.is_refused_as_failed(put.await.unwrap());
    }

    assert_eq!(rig.target.properties().await.unwrap(), None);
    assert_eq!(rig.target.path().unwrap(), None);
    assert_eq!(rig.aside().metadata().unwrap().len(), LEN.0);
    rig.is_refused_as_failed(rig.put(AT.0, 8).await.unwrap());
    rig.is_refused_as_failed(rig.target.raise(fence(2)).await);
    rig.is_refused_as_failed(rig.target.read(AT, ByteLen(512), None).await);

    rig.target.create(LEN, fence(1)).await.unwrap();
    assert_eq!(byte(&rig.target, AT.0).await, 0);
    rig.put(AT.0, 8).await.unwrap().unwrap();
    assert_eq!(byte(&rig.target, AT.0).await, 8);
}

#[tokio::test]
async fn clears_and_changes_of_length_that_do_not_last_end_a_file_too() {
    let rig = Rig::new().await;
    rig.next_sync(Verdict::Fails);
    rig.is_refused_as_failed(rig.target.clear(AT, ByteLen(512), fence(1)).await);
    rig.target.create(LEN, fence(1)).await.unwrap();
    rig.next_sync(Verdict::Fails);
    rig.is_refused_as_failed(rig.target.resize(ByteLen(4_096), None).await);
    assert_eq!(rig.target.properties().await.unwrap(), None);
}

#[tokio::test]
async fn a_file_whose_first_sync_fails_is_never_a_target() {
    let rig = Rig::new().await;
    let other = VhdFile::on(Arc::clone(&rig.target.shared.disk), rig.dir.path(), "other");
    rig.next_sync(Verdict::Fails);
    let created = other.create(LEN, fence(1)).await;
    let refused = matches!(created, Err(PageError::Refused(Refusal::SyncFailed { .. })));
    assert!(refused, "{created:?}");
    assert_eq!(other.properties().await.unwrap(), None);
    other.create(LEN, fence(1)).await.unwrap();
    other.put(AT, &filled(3), fence(1)).await.unwrap();
}

#[tokio::test]
async fn a_failed_file_that_cannot_be_set_aside_refuses_everything_until_it_can() {
    let rig = Rig::new().await;
    let target = &rig.target;
    rig.put(AT.0, 9).await.unwrap().unwrap();
    std::fs::create_dir(rig.aside()).unwrap();
    rig.next_sync(Verdict::Fails);
    is_not_set_aside(rig.put(AT.0 + 4_096, 7).await.unwrap());
    is_not_set_aside(rig.put(AT.0, 7).await.unwrap());
    is_not_set_aside(target.clear(AT, ByteLen(512), fence(1)).await);
    is_not_set_aside(target.read(AT, ByteLen(512), None).await);
    is_not_set_aside(target.ranges(None).await);
    is_not_set_aside(target.properties().await);
    is_not_set_aside(target.raise(fence(2)).await);
    is_not_set_aside(target.create(LEN, fence(2)).await);
    is_not_set_aside(target.resize(LEN, None).await);
    is_not_set_aside(target.lease(LeaseId(1), 15).await);

    std::fs::remove_dir(rig.aside()).unwrap();
    assert_eq!(target.properties().await.unwrap(), None);
    assert!(rig.aside().is_file());
    target.create(LEN, fence(2)).await.unwrap();
}

#[tokio::test]
async fn a_later_process_finds_what_was_acknowledged_in_a_failed_file() {
    let rig = Rig::new().await;
    rig.put(AT.0, 9).await.unwrap().unwrap();
    std::fs::create_dir(rig.aside()).unwrap();
    rig.next_sync(Verdict::Fails);
    is_not_set_aside(rig.put(AT.0 + 4_096, 7).await.unwrap());
    let dir = rig.dir;
    drop(rig.target);
    let later = VhdFile::new(dir.path(), "disk");
    later.raise(fence(1).next().unwrap()).await.unwrap();
    assert_eq!(byte(&later, AT.0).await, 9);
}

/// Who wants a file for itself waits for a put that has passed its fence. The lock gives way to whoever waits to be alone, so
/// a second reader is refused from then on.
async fn waits_for_a_put<T: Send + 'static>(
    rig: &Rig,
    alone: impl Future<Output = Result<T, PageError>> + Send + 'static,
) {
    let parked = rig.park_next_sync(Verdict::Succeeds);
    let put = rig.put(AT.0, 7);
    while parked.begun.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    assert!(rig.target.shared.writes.try_write().is_err());
    let alone = tokio::spawn(alone);
    while rig.target.shared.writes.try_read().is_ok() {
        assert!(!alone.is_finished(), "it did not wait");
        tokio::task::yield_now().await;
    }
    assert!(!alone.is_finished() && !put.is_finished());
    parked.word.send(()).unwrap();
    put.await.unwrap().unwrap();
    assert!(alone.await.unwrap().is_ok());
}

#[tokio::test]
async fn who_raises_the_fence_waits_for_puts_that_have_passed_it() {
    let rig = Rig::new().await;
    let target = rig.target.clone();
    waits_for_a_put(&rig, async move { target.raise(fence(2)).await }).await;
    let late = rig.put(AT.0, 8).await.unwrap();
    assert!(matches!(late, Err(PageError::Fenced { .. })), "{late:?}");
    assert_eq!(byte(&rig.target, AT.0).await, 7);
}

#[tokio::test]
async fn a_change_of_length_waits_for_puts() {
    let rig = Rig::new().await;
    let target = rig.target.clone();
    waits_for_a_put(
        &rig,
        async move { target.resize(ByteLen(4_096), None).await },
    )
    .await;
    assert_eq!(
        rig.target
            .path()
            .unwrap()
            .unwrap()
            .metadata()
            .unwrap()
            .len(),
        4_096
    );
}
