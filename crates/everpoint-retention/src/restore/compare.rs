//! A replica held against the bytes that it should have: where it differs, the first places by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use everpoint_replica::{PUT_LEN_MAX, PageTarget, SnapshotId, UploadConfig};
use everpoint_units::{ByteLen, ByteOffset, SECTOR_LEN};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::RestoreError;
use super::blob::failed;
use super::changes::{Changes, Sectors};
use super::pour::Part;
use crate::joined::unless_panicked;

const SECTOR: usize = 512;
/// Places that are told; of more, the first.
const PLACES_MAX: usize = 16;
/// Bytes between two parts that are read too, to save a request. Unit: bytes.
const GAP_MAX: u64 = 64 << 10;
/// Reads at once where zeroes should be.
const READS_MAX: usize = 4;

/// What is read.
pub(super) enum Source {
    Pages {
        target: Arc<dyn PageTarget>,
        snapshot: Option<SnapshotId>,
        shown: String,
    },
    File {
        file: Arc<File>,
        path: PathBuf,
    },
}

/// See the module. Shared by the tasks that fetch.
pub(super) struct Comparing {
    pub(super) source: Source,
    /// Sectors that may hold something newer.
    pub(super) loose: Changes,
    pub(super) found: Mutex<Found>,
}

/// What differs.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) sectors: u64,
    /// By first sector, with how many: the first ones.
    pub(super) places: BTreeMap<u64, u64>,
}

impl Source {
    /// Reads whole sectors, at most as many as one put has.
    async fn read(&self, at: u64, len: u64) -> Result<Bytes, RestoreError> {
        match self {
            Self::Pages {
                target,
                snapshot,
                shown,
            } => {
                let (at, len) = (ByteOffset(at), ByteLen(len));
                let asks = UploadConfig::default();
                let read = asks.ask(|| target.read(at, len, snapshot.as_ref())).await;
                read.map_err(failed(shown))
            }
            Self::File { file, path } => {
                let (file, path) = (Arc::clone(file), path.clone());
                let read = tokio::task::spawn_blocking(move || {
                    let len = usize::try_from(len).expect("at most 4 MiB");
                    let mut bytes = vec![0; len];
                    let read = file.read_exact_at(&mut bytes, at);
                    read.map(|()| bytes.into())
                        .map_err(|source| RestoreError::File {
                            operation: "read",
                            path,
                            source,
                        })
                });
                unless_panicked(read.await).await
            }
        }
    }

    /// Where something may be but zeroes, among the first `sectors`.
    async fn written(&self, sectors: u64) -> Result<Changes, RestoreError> {
        let mut written = Changes::default();
        match self {
            Self::Pages {
                target,
                snapshot,
                shown,
            } => {
                let asks = UploadConfig::default();
                let ranges = asks.ask(|| target.ranges(snapshot.as_ref())).await;
                for range in ranges.map_err(failed(shown))? {
                    let end = range.at.0.saturating_add(range.len.0);
                    if !range.is_clear {
                        written.add(range.at.0 / SECTOR_LEN..end.div_ceil(SECTOR_LEN));
                    }
                }
            }
            Self::File { .. } => written.add(0..sectors),
        }
        written.cut_off(sectors);
        Ok(written)
    }
}

impl Comparing {
    /// Compares parts, which rise and do not overlap.
    pub(super) async fn compare(&self, parts: &[Part]) -> Result<(), RestoreError> {
        let mut rest = parts;
        while let Some(first) = rest.first() {
            let from = first.at.0;
            let mut end = from;
            let joined = rest.iter().take_while(|part| {
                let part_end = part.at.0 + part.bytes.len() as u64;
                let fits =
                    end == from || (part.at.0 <= end + GAP_MAX && part_end - from <= PUT_LEN_MAX);
                if fits {
                    end = part_end;
                }
                fits
            });
            let count = joined.count();
            let there = self.source.read(from, end - from).await?;
            for part in &rest[..count] {
                let at = usize::try_from(part.at.0 - from).expect("at most 4 MiB");
                let there = &there[at..at + part.bytes.len()];
                if there != &part.bytes[..] {
                    self.note(part.at.0, there, &part.bytes);
                }
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Compares what should be zero among the first `sectors`: all that is not `given`, which rises.
    pub(super) async fn compare_zeroes(
        &self,
        sectors: u64,
        given: &[Sectors],
    ) -> Result<(), RestoreError> {
        let step = PUT_LEN_MAX / SECTOR_LEN;
        let left = self.source.written(sectors).await?.without(given);
        let reads = left.into_iter().flat_map(|part| {
            let starts = (part.start..part.end).step_by(step as usize);
            starts.map(move |start| start..part.end.min(start + step))
        });
        stream::iter(reads)
            .map(|part| async move {
                let len = (part.end - part.start) * SECTOR_LEN;
                let at = part.start * SECTOR_LEN;
                let there = self.source.read(at, len).await?;
                if there.iter().any(|&byte| byte != 0) {
                    self.note(at, &there, &vec![0; there.len()]);
                }
                Ok(())
            })
            .buffer_unordered(READS_MAX)
            .try_collect()
            .await
    }

    /// Notes each sector that differs, unless it may hold something newer.
    fn note(&self, at: u64, there: &[u8], expected: &[u8]) {
        let pairs = there.chunks(SECTOR).zip(expected.chunks(SECTOR));
        let differing = (at / SECTOR_LEN..).zip(pairs);
        let differing = differing
            .filter(|(sector, (there, expected))| there != expected && !self.loose.has(*sector));
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for (sector, _) in differing {
            found.add(sector);
        }
    }
}

impl Found {
    fn add(&mut self, sector: u64) {
        self.sectors += 1;
        let before = self.places.range_mut(..sector).next_back();
        match before.filter(|(start, count)| **start + **count == sector) {
            Some((_, count)) => *count += 1,
            None => {
                self.places.insert(sector, 1);
                if PLACES_MAX < self.places.len() {
                    self.places.pop_last();
                }
            }
        }
    }
}
