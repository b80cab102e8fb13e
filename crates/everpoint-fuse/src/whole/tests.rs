//! Bytes are read and written as a plain array of bytes would do it.

use std::sync::{Mutex, MutexGuard};
use std::time::UNIX_EPOCH;

use super::*;
use crate::file::{FileInfo, Run};

/// Not a whole number of pages.
const SIZE: usize = 24 * 512;

/// A file in memory that lets others go first before each step. Sectors of zeroes are holes.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap()
    }
}

fn place(extent: Extent) -> std::ops::Range<usize> {
    in_memory(extent.start().byte_offset().0)..in_memory(extent.end().byte_offset().0)
}

impl FixedFile for Memory {
    fn describe(&self) -> FileInfo {
        FileInfo {
            name: "memory".into(),
            size: ByteLen(SIZE as u64),
            allocated: ByteLen(0),
            writable: true,
            modified: UNIX_EPOCH,
        }
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, Errno> {
        tokio::task::yield_now().await;
        Ok(Bytes::copy_from_slice(&self.bytes()[place(extent)]))
    }

    async fn write(&self, extent: Extent, data: Bytes) -> Result<(), Errno> {
        tokio::task::yield_now().await;
        self.bytes()[place(extent)].copy_from_slice(&data);
        Ok(())
    }

    async fn zero(&self, extent: Extent, _keep: bool) -> Result<(), Errno> {
        tokio::task::yield_now().await;
        self.bytes()[place(extent)].fill(0);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn runs(&self, extent: Extent) -> Result<Vec<Run>, Errno> {
        let bytes = self.bytes();
        // At most three of them: who asks has to ask again.
        let sectors = bytes[place(extent)].chunks(512).take(3);
        let runs = sectors.map(|sector| Run {
            len: ByteLen(SECTOR_LEN),
            is_hole: sector.iter().all(|&byte| byte == 0),
        });
        Ok(runs.collect())
    }
}

fn memory(bytes: Vec<u8>) -> WholeSectors<Memory> {
    let size = ByteLen(bytes.len() as u64);
    WholeSectors::new(Memory(Mutex::new(bytes)), size)
}

fn pattern() -> Vec<u8> {
    (1..=250).cycle().take(SIZE).collect()
}

/// Where requests begin and end: at sectors, beside them, and at the ends of the file.
const EDGES: [u64; 13] = [
    0, 1, 511, 512, 513, 1_023, 1_024, 4_096, 5_000, 11_775, 11_776, 12_287, 12_288,
];

#[tokio::test]
async fn any_bytes_read_as_they_lie_there_and_nothing_lies_behind_the_end() {
    let whole = memory(pattern());
    for at in EDGES {
        for len in EDGES {
            let found = whole.read(at, len).await.unwrap();
            let end = (at + len).min(SIZE as u64);
            assert_eq!(
                found,
                &pattern()[in_memory(at)..in_memory(end)],
                "{at} {len}"
            );
        }
    }
    assert!(whole.read(1 << 40, 512).await.unwrap().is_empty());
}

#[tokio::test]
async fn any_bytes_are_written_and_zeroed_and_their_neighbours_stay() {
    for at in EDGES {
        for end in EDGES.into_iter().filter(|&end| at < end) {
            let (from, to) = (in_memory(at), in_memory(end));
            let whole = memory(pattern());
            let data = vec![251; to - from];
            whole.write(Padded::new(at, &data).unwrap()).await.unwrap();
            let mut expected = pattern();
            expected[from..to].fill(251);
            assert!(*whole.file.bytes() == expected, "{at} to {end}");

            whole.zero(at, end - at, false).await.unwrap();
            expected[from..to].fill(0);
            assert!(*whole.file.bytes() == expected, "zeroes, {at} to {end}");
        }
    }
}

#[tokio::test]
async fn zeroes_end_where_the_file_does() {
    let whole = memory(pattern());
    whole.zero(12_000, 1 << 50, true).await.unwrap();
    whole.zero(1 << 40, 1, true).await.unwrap();
    let mut expected = pattern();
    expected[12_000..].fill(0);
    assert!(*whole.file.bytes() == expected);
}

#[tokio::test]
async fn writes_to_parts_of_one_sector_lose_nothing_of_each_other() {
    let whole = memory(vec![0; SIZE]);
    let parts = (0..64_u8).map(async |part| {
        let at = 508 + u64::from(part);
        let padded = Padded::new(at, &[part + 1]).unwrap();
        whole.write(padded).await.unwrap();
    });
    let mut waiting: Vec<_> = parts.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        waiting.retain_mut(|part| part.as_mut().poll(cx).is_pending());
        match waiting.len() {
            0 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        }
    })
    .await;
    let expected: Vec<u8> = (1..=64).collect();
    assert_eq!(whole.file.bytes()[508..572], expected);
}

#[tokio::test]
async fn data_and_holes_are_found_from_any_byte() {
    let mut bytes = vec![0; SIZE];
    bytes[9 * 512..11 * 512].fill(1);
    let whole = memory(bytes);
    for (at, data, hole) in [
        (0, Ok(4_608), Ok(0)),
        (700, Ok(4_608), Ok(700)),
        (4_608, Ok(4_608), Ok(5_632)),
        (5_000, Ok(5_000), Ok(5_632)),
        (5_632, Err(Errno::NXIO), Ok(5_632)),
        (12_287, Err(Errno::NXIO), Ok(12_287)),
        (12_288, Err(Errno::NXIO), Err(Errno::NXIO)),
    ] {
        assert_eq!(whole.seek(at, Sought::Data).await, data, "{at}");
        assert_eq!(whole.seek(at, Sought::Hole).await, hole, "{at}");
    }
    let full = memory(pattern());
    assert_eq!(full.seek(3, Sought::Hole).await, Ok(SIZE as u64));
}
