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
        // Aligned as the NBD server aligns it.
        let buffer = vec![7; data.len() + ALIGN];
        let from = buffer.as_ptr().align_offset(ALIGN);
        let aligned = Bytes::from(buffer).slice(from..from + data.len());
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
    let (_dir, path) = made(LEN);
    let disk = FileSource::open(&config(&path, false)).expect("a good file");
    let file = OpenOptions::new().write(true).open(&path).expect("there");
    file.set_len(4_096).expect("shortened");
    assert!(matches!(
        disk.read(extent(0, 8_192)).await,
        Err(SourceError::Short)
    ));
    assert!(!matches!(disk.read_now(extent(0, 8_192)), Some(Ok(_))));
}
