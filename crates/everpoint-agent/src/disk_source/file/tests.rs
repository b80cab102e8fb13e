//! A file as a disk: what is written is read, zeroes are zeroes, holes are told.

use everpoint_units::ByteOffset;

use super::*;
use crate::config::IdText;

const LEN: u64 = 1 << 20;

fn config(path: &Path, direct: bool) -> DiskConfig {
    DiskConfig {
        id: IdText(everpoint_units::DiskId([1; 16])),
        name: "d".into(),
        source: path.to_str().expect("a plain path").into(),
        block_size: direct.then_some(4_096),
        direct,
    }
}

fn made(len: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    File::create(&path)
        .expect("made")
        .set_len(len)
        .expect("set");
    (dir, path)
}

fn extent(at: u64, len: u64) -> Extent {
    Extent::from_bytes(ByteOffset(at), ByteLen(len)).expect("whole sectors")
}

/// As the NBD server aligns it.
fn filled(len: usize, byte: u8) -> Bytes {
    let buffer = vec![byte; len + ALIGN];
    let from = buffer.as_ptr().align_offset(ALIGN);
    Bytes::from(buffer).slice(from..from + len)
}

fn plain(may_discard: bool) -> ZeroMode {
    ZeroMode {
        may_discard,
        fast_only: false,
    }
}

#[tokio::test]
async fn what_is_written_is_read_back_cached_or_not() {
    for direct in [false, true] {
        let (_dir, path) = made(LEN);
        let disk = FileSource::open(&config(&path, direct)).expect("a good file");
        let data = Bytes::from(vec![7; 128 << 10]);
        let aligned = filled(data.len(), 7);
        assert!(
            disk.write_now(extent(0, data.len() as u64), &aligned)
                .is_none(),
            "too large"
        );
        let written = disk
            .write(extent(4_096, data.len() as u64), aligned.clone())
            .await;
        written.expect("written");
        let small = aligned.slice(..4_096);
        match disk.write_now(extent(0, 4_096), &small) {
            Some(done) if !direct => done.expect("written"),
            None if direct => disk.write(extent(0, 4_096), small).await.expect("written"),
            other => panic!("direct {direct}: {other:?}"),
        }
        disk.flush().await.expect("flushed");
        let read = disk.read(extent(0, 132 << 10)).await.expect("read");
        assert!(read.iter().all(|byte| *byte == 7));
        if let Some(read) = disk.read_now(extent(0, 8_192)) {
            assert_eq!(read.expect("read"), [7; 8_192].as_slice());
        }
    }
}

#[tokio::test]
async fn zeroes_and_discards_read_as_zeroes_and_the_size_stays() {
    let (_dir, path) = made(LEN);
    let disk = FileSource::open(&config(&path, false)).expect("a good file");
    let all = extent(0, LEN);
    disk.write(all, Bytes::from(vec![9; 1 << 20]))
        .await
        .expect("written");
    disk.zero(extent(512, 1_024), plain(false))
        .await
        .expect("zeroed");
    disk.zero(extent(100 << 10, 40 << 10), plain(true))
        .await
        .expect("zeroed");
    assert!(
        disk.discard(extent(LEN - (64 << 10), 64 << 10))
            .await
            .expect("punched")
    );
    disk.inner
        .write_zeroes(extent(300 << 10, 12 << 10))
        .expect("written");
    let read = disk.read(all).await.expect("read");
    for (index, byte) in read.iter().enumerate() {
        let zero = (512..1_536).contains(&index)
            || (100 << 10..140 << 10).contains(&index)
            || (300 << 10..312 << 10).contains(&index)
            || (1 << 20) - (64 << 10) <= index;
        assert_eq!(*byte == 0, zero, "at {index}");
    }
    assert_eq!(std::fs::metadata(&path).expect("there").len(), LEN);
}

/// As sysfs shows a disk with one partition.
fn shown(write_zeroes_max: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("sda");
    let partition = disk.join("sda1");
    std::fs::create_dir_all(&partition).expect("made");
    let queue = disk.join("queue");
    std::fs::create_dir(&queue).expect("made");
    let tell = |name, what: &str| std::fs::write(queue.join(name), what).expect("written");
    tell("logical_block_size", "4096\n");
    tell("write_zeroes_max_bytes", write_zeroes_max);
    (dir, disk, partition)
}

#[test]
fn a_device_that_makes_no_zeroes_by_itself_is_not_asked_for_holes() {
    for (told, can) in [("0\n", false), ("33553920\n", true), ("\n", true)] {
        let (_dir, disk, partition) = shown(told);
        for device in [disk, partition] {
            assert_eq!(can_unmap(&device), can, "{told:?} of {device:?}");
            assert_eq!(logical_block_size(&device), 4_096);
        }
    }
    let nowhere = Path::new("/nonexistent/device");
    assert!(can_unmap(nowhere), "the first attempt tells");
    assert_eq!(logical_block_size(nowhere), 512);
}

#[test]
fn a_hole_that_a_device_refuses_is_not_said_to_have_changed_nothing() {
    // The kernel has no holes for this file, and takes no zeroes at a place in it either.
    let open = || {
        let path = "/proc/self/comm";
        let file = OpenOptions::new().read(true).write(true).open(path);
        Arc::new(file.expect("everybody has one"))
    };
    let inner = |regular| Inner {
        file: open(),
        facts: SourceFacts {
            size: ByteLen(LEN),
            block_size: 512,
            zeroes_fast: true,
        },
        regular,
        direct: false,
        has_nowait: AtomicBool::new(false),
        can_punch: AtomicBool::new(true),
        syncs: Syncs::default(),
    };
    let file = inner(true).punch(extent(0, 512));
    assert!(matches!(file, Ok(false)), "not {file:?}");
    let device = inner(false).punch(extent(0, 512));
    assert!(
        matches!(
            device,
            Err(SourceError::Io {
                operation: "write",
                ..
            })
        ),
        "not {device:?}"
    );
}

#[tokio::test]
async fn holes_are_told_as_they_are() {
    let (_dir, path) = made(LEN);
    let disk = FileSource::open(&config(&path, false)).expect("a good file");
    let data = Bytes::from(vec![1; 64 << 10]);
    disk.write(extent(256 << 10, 64 << 10), data)
        .await
        .expect("written");
    let runs = disk.allocation(extent(0, LEN)).await.expect("told");
    assert_eq!(
        runs,
        [
            Run {
                extent: extent(0, 256 << 10),
                hole: true
            },
            Run {
                extent: extent(256 << 10, 64 << 10),
                hole: false
            },
            Run {
                extent: extent(320 << 10, LEN - (320 << 10)),
                hole: true
            },
        ]
    );
    let inside = disk
        .allocation(extent(300 << 10, 4_096))
        .await
        .expect("told");
    assert_eq!(inside.len(), 1);
    assert!(!inside[0].hole);
}

#[tokio::test]
async fn a_file_is_served_once_and_anybody_who_writes_to_it_is_noticed() {
    let (_dir, path) = made(LEN);
    let disk = FileSource::open(&config(&path, false)).expect("a good file");
    let second = FileSource::open(&config(&path, false));
    assert!(matches!(second.err(), Some(SourceOpenError::InUse { .. })));
    let before = disk.identity().expect("known").expect("a regular file");
    assert_eq!(disk.identity().expect("known"), Some(before));
    drop(disk);
    let file = OpenOptions::new().write(true).open(&path).expect("there");
    // The clock of a file system may tick slowly; the length tells at once.
    file.set_len(LEN + 512).expect("grown");
    let disk = FileSource::open(&config(&path, false)).expect("a good file");
    assert_ne!(disk.identity().expect("known"), Some(before));
}

#[test]
fn sizes_that_are_no_disks_are_refused_with_their_size() {
    for len in [0, 511, 1_000] {
        let (_dir, path) = made(len);
        let error = FileSource::open(&config(&path, false))
            .err()
            .expect("no disk");
        assert!(
            matches!(error, SourceOpenError::Size { size, .. } if size.0 == len),
            "{error}"
        );
    }
    let (_dir, path) = made(LEN + 512);
    let mut pages = config(&path, false);
    pages.block_size = Some(4_096);
    let error = FileSource::open(&pages).err().expect("half a block");
    assert!(error.to_string().contains("4096 B blocks"), "{error}");
}

#[tokio::test]
async fn a_file_that_was_shortened_fails_the_read() {
    for direct in [false, true] {
        let (_dir, path) = made(LEN);
        let disk = FileSource::open(&config(&path, direct)).expect("a good file");
        let file = OpenOptions::new().write(true).open(&path).expect("there");
        file.set_len(4_096).expect("shortened");
        assert!(matches!(
            disk.read(extent(0, 8_192)).await,
            Err(SourceError::Short)
        ));
        assert!(!matches!(disk.read_now(extent(0, 8_192)), Some(Ok(_))));
    }
}

#[tokio::test]
async fn a_direct_write_that_the_device_refuses_is_an_error_with_its_number() {
    let (_dir, path) = made(LEN);
    let disk = FileSource::open(&config(&path, true)).expect("a good file");
    // Direct I/O takes no memory at an odd address.
    let crooked = filled(8_192, 7).slice(1..4_097);
    let error = disk.write(extent(0, 4_096), crooked).await;
    let error = error.expect_err("not aligned");
    assert_eq!(error.errno(), everpoint_nbd::Errno::Inval);
    disk.write(extent(0, 4_096), filled(4_096, 7))
        .await
        .expect("the next is not harmed");
}

/// More requests at one time than the ring has places, of every size, some not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_requests_all_end_up_where_they_belong() {
    const PIECE: u64 = 64 << 10;
    let (_dir, path) = made(64 << 20);
    let disk = FileSource::open(&config(&path, true)).expect("a good file");
    assert!(disk.ring.is_some(), "this kernel has a completion ring");
    let byte = |piece: u64| u8::try_from(piece % 251 + 1).expect("small");
    let len = |piece: u64| 4_096 * (piece % 16 + 1);
    let mut writes = Vec::new();
    for piece in 0..1_024 {
        let data = filled(usize::try_from(len(piece)).expect("small"), byte(piece));
        let mut write = disk.write(extent(piece * PIECE, len(piece)), data);
        // Begun here, in this order; what is dropped goes on.
        let begun = futures::poll!(&mut write);
        if piece % 3 != 0 && begun.is_pending() {
            writes.push(write);
        }
    }
    for write in writes {
        write.await.expect("written");
    }
    drop(disk);
    // The lock goes with the file, and that with the last request that the kernel has.
    let file = File::open(&path).expect("there");
    let file = crate::blocking::blocking(move || {
        flock(&file, FlockOperation::LockExclusive).expect("let go of");
        file
    });
    let mut found = vec![0; 64 << 20];
    let file = file.await;
    file.read_exact_at(&mut found, 0).expect("read");
    for (at, found) in (0_u64..).zip(found) {
        let (piece, inside) = (at / PIECE, at % PIECE);
        let wanted = if inside < len(piece) { byte(piece) } else { 0 };
        assert_eq!(found, wanted, "at {at}");
    }
}
