//! What the vault gives back: every bookmark whole, and positions that nobody marked.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use everpoint_retention::{
    At, ImageFormat, LoadedMachine, RestoreConfig, RestoreRequest, Subject, list_points,
    load_machine, restore,
};
use everpoint_units::{ByteLen, SECTOR_LEN, Seq};
use everpoint_vault::Vault;
use everpoint_vault::history::read_header;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::Advice;
use tokio::task::JoinSet;

use crate::error::QuickstartError;
use crate::folder::Folder;
use crate::history::{History, Tick};
use crate::judge::{Bounds, Seen, judge};
use crate::load::Finished;
use crate::report::{PointReport, PrefixChecks, ViolationReport, millis};
use crate::run::{Event, Mark, Tell};
use crate::setting::Setting;
use crate::shadow::Digest;

/// Positions without a bookmark that are tried.
const POSITIONS: usize = 24;
/// How often a position is drawn anew that lies inside a request, or on a bookmark.
const DRAWS_MAX: usize = 1_000;
/// Images that are removed at a time; while there are more, the next restore waits.
const REMOVALS_MAX: usize = 8;
/// Unit: bytes.
const CHUNK_LEN: usize = 1 << 20;

/// What was found.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) points: Vec<PointReport>,
    pub(crate) prefix_checks: PrefixChecks,
    pub(crate) lost_writes: u64,
}

/// Restores from the vault, one after the other.
struct Restores<'a> {
    vault: &'a Vault,
    folder: &'a Folder,
    setting: &'a Setting,
    count: usize,
    /// Images that are being removed. On a filesystem that discards what it frees, that takes longer than
    /// the restore, and nobody has to wait for it.
    removals: JoinSet<io::Result<()>>,
}

/// A restored image, read.
struct Image {
    digest: Digest,
    seen: Seen,
    restore_ms: u64,
}

/// Restores everything and compares it.
///
/// # Errors
///
/// Why something could not be restored, or compared.
pub(crate) async fn run(
    vault: &Vault,
    folder: &Folder,
    setting: &Setting,
    (marks, finished): (&[Mark], &Finished),
    seed: u64,
    tell: Tell<'_>,
) -> Result<Restored, QuickstartError> {
    let mut restores = Restores {
        vault,
        folder,
        setting,
        count: 0,
        removals: JoinSet::new(),
    };
    restores.find_marks(marks).await?;
    let mut points = Vec::with_capacity(marks.len());
    for mark in marks {
        let image = restores.restore(At::Bookmark(mark.name.clone())).await?;
        let took = std::time::Duration::from_millis(image.restore_ms);
        let point = PointReport::new(&mark.name, mark.seq, mark.source, image.digest, took);
        tell(Event::PointRestored(point.clone()));
        points.push(point);
    }
    let prefix_checks = restores
        .check_positions(marks, &finished.history, seed, tell)
        .await?;
    let newest = restores.restore(At::Latest).await?;
    restores.finish_removals(0).await?;
    let mut source = Seen::with_capacity(finished.shadow.image().len());
    source.read(finished.shadow.image());
    Ok(Restored {
        points,
        prefix_checks,
        lost_writes: newest.seen.lost(&source) as u64,
    })
}

impl Restores<'_> {
    /// Every bookmark must be in the vault, where it was said to be.
    async fn find_marks(&self, marks: &[Mark]) -> Result<(), QuickstartError> {
        let subject = Subject::Disk(self.setting.disk);
        let list = list_points(self.vault, subject, Some(self.setting.machine)).await?;
        for mark in marks {
            let found = list
                .bookmarks
                .iter()
                .find(|bookmark| bookmark.name == mark.name);
            if found.is_none_or(|found| found.seq != mark.seq || !found.restorable) {
                let name = mark.name.clone();
                return Err(QuickstartError::PointMissing { name });
            }
        }
        Ok(())
    }

    async fn check_positions(
        &mut self,
        marks: &[Mark],
        history: &History,
        seed: u64,
        tell: Tell<'_>,
    ) -> Result<PrefixChecks, QuickstartError> {
        let header = read_header(self.vault).await;
        let id = header.map_err(everpoint_retention::LoadError::from)?.vault;
        let loaded = load_machine(self.vault, id, self.setting.machine).await?;
        let positions = self.draw_positions(&loaded, marks, seed)?;
        drop(loaded);
        let mut checks = PrefixChecks::default();
        for (index, &seq) in positions.iter().enumerate() {
            let image = self.restore(At::Seq(seq)).await?;
            let judged = judge(history, &image.seen, bounds(marks, seq));
            let violation = judged.as_ref().err().map(ToString::to_string);
            checks.tried += 1;
            match &violation {
                None => checks.held += 1,
                Some(what) => checks.violations.push(ViolationReport {
                    seq: seq.0,
                    what: what.clone(),
                }),
            }
            tell(Event::PositionRestored {
                seq,
                index,
                count: positions.len(),
                writes: judged.map_or(0, |holds| holds.write_count),
                restore_ms: image.restore_ms,
                violation,
            });
        }
        Ok(checks)
    }

    /// Positions spread over everything that can be restored, one in each of as many equal parts.
    fn draw_positions(
        &self,
        loaded: &LoadedMachine,
        marks: &[Mark],
        seed: u64,
    ) -> Result<Vec<Seq>, QuickstartError> {
        let disk = Some(self.setting.disk);
        let spans = loaded.windows(disk);
        let total: u64 = spans
            .iter()
            .map(|span| span.through.0 - span.from.0 + 1)
            .sum();
        let nth = |mut n: u64| {
            spans.iter().find_map(|span| {
                let count = span.through.0 - span.from.0 + 1;
                let here = (n < count).then(|| Seq(span.from.0 + n));
                n = n.saturating_sub(count);
                here
            })
        };
        let mut random = StdRng::seed_from_u64(seed);
        let parts = POSITIONS as u64;
        let mut positions: Vec<Seq> = Vec::with_capacity(POSITIONS);
        for part in 0..parts {
            let (from, end) = (total * part / parts, total * (part + 1) / parts);
            let drawn = (0..DRAWS_MAX.min(usize::try_from(end - from).unwrap_or(DRAWS_MAX) * 8))
                .filter_map(|_| nth(random.random_range(from..end)))
                .find(|seq| {
                    let is_new = !positions.contains(seq);
                    let unmarked = marks.iter().all(|mark| mark.seq != *seq);
                    is_new && unmarked && loaded.check_point(disk, *seq).is_ok()
                });
            positions.extend(drawn);
        }
        if positions.len() < POSITIONS {
            return Err(QuickstartError::TooFewPoints {
                found: positions.len(),
                wanted: POSITIONS,
            });
        }
        Ok(positions)
    }

    /// Restores the disk into a file, reads that back and removes it.
    async fn restore(&mut self, at: At) -> Result<Image, QuickstartError> {
        self.count += 1;
        let output = self
            .folder
            .path("restored")
            .join(format!("{}.img", self.count));
        let request = RestoreRequest {
            subject: Subject::Disk(self.setting.disk),
            machine: Some(self.setting.machine),
            at: at.clone(),
            format: ImageFormat::Raw,
            output: output.clone(),
            overwrite: false,
            force_overwrite: None,
            sources: vec![self.folder.path("disk.img")],
        };
        let begun = Instant::now();
        let restored = restore(self.vault, &request, &RestoreConfig::default(), &|_| {}).await;
        let restored = restored.map_err(|source| QuickstartError::Restore {
            at: at.to_string(),
            source: Box::new(source),
        })?;
        let restore_ms = millis(begun.elapsed());
        let size = self.setting.size;
        let image = output.clone();
        let read = tokio::task::spawn_blocking(move || read_image(&image, size, restored.seq));
        let (digest, seen) = read.await.expect("reading a file does not panic")?;
        self.finish_removals(REMOVALS_MAX - 1).await?;
        self.removals
            .spawn_blocking(move || fs::remove_file(output));
        Ok(Image {
            digest,
            seen,
            restore_ms,
        })
    }

    /// Waits until no more than `left_max` images are being removed.
    async fn finish_removals(&mut self, left_max: usize) -> Result<(), QuickstartError> {
        while left_max < self.removals.len() {
            let removed = self.removals.join_next().await;
            let removed = removed
                .expect("there is one")
                .expect("removing does not panic");
            removed.map_err(|source| QuickstartError::Image {
                path: self.folder.path("restored"),
                source,
            })?;
        }
        Ok(())
    }
}

/// Between which bookmarks a position lies.
fn bounds(marks: &[Mark], seq: Seq) -> Bounds {
    let below = marks.iter().filter(|mark| mark.seq <= seq);
    let above = marks.iter().filter(|mark| seq <= mark.seq);
    Bounds {
        after: below.map(|mark| mark.tick).max().unwrap_or(Tick::ZERO),
        before: above.map(|mark| mark.tick).min().unwrap_or(Tick::MAX),
    }
}

/// Reads an image.
fn read_image(path: &Path, expected: ByteLen, seq: Seq) -> Result<(Digest, Seen), QuickstartError> {
    let failed = |source| QuickstartError::Image {
        path: PathBuf::from(path),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let found = ByteLen(file.metadata().map_err(failed)?.len());
    if found != expected {
        return Err(QuickstartError::ImageSize {
            seq,
            found,
            expected,
        });
    }
    // A restore passes the cache by and writes in any order, so that reading in order is reading all over
    // the medium: asked for all at once, that is done side by side. Only a hint, so its failure is none.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::WillNeed);
    let mut hasher = blake3::Hasher::new();
    let sectors = usize::try_from(found.0 / SECTOR_LEN).unwrap_or(0);
    let mut seen = Seen::with_capacity(sectors);
    let mut chunk = vec![0; CHUNK_LEN];
    let mut left = found.0;
    while 0 < left {
        let len = usize::try_from(left).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        file.read_exact(&mut chunk[..len]).map_err(failed)?;
        hasher.update(&chunk[..len]);
        seen.read(&chunk[..len]);
        left -= len as u64;
    }
    Ok((Digest(*hasher.finalize().as_bytes()), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_lies_between_the_bookmarks_around_it() {
        let mark = |seq, tick| Mark {
            name: String::new(),
            seq: Seq(seq),
            source: Digest([0; 32]),
            tick: Tick(tick),
        };
        let marks = [mark(10, 100), mark(20, 200), mark(30, 300)];
        let between = |seq| {
            let bounds = bounds(&marks, Seq(seq));
            (bounds.after, bounds.before)
        };
        assert_eq!(between(5), (Tick::ZERO, Tick(100)));
        assert_eq!(between(10), (Tick(100), Tick(100)));
        assert_eq!(between(15), (Tick(100), Tick(200)));
        assert_eq!(between(31), (Tick(300), Tick::MAX));
    }

    #[test]
    fn an_image_is_read_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let bytes: Vec<u8> = (0..3 * CHUNK_LEN / 2).map(|at| u8::from(at == 5)).collect();
        fs::write(&path, &bytes).expect("written");
        let size = ByteLen(bytes.len() as u64);
        let other = read_image(&path, ByteLen(size.0 + 512), Seq(1));
        assert!(matches!(other, Err(QuickstartError::ImageSize { .. })));
        let (digest, seen) = read_image(&path, size, Seq(1)).expect("read");
        assert_eq!(digest.0, *blake3::hash(&bytes).as_bytes());
        let mut expected = Seen::with_capacity(0);
        expected.read(&bytes);
        assert_eq!(seen, expected);
    }
}
