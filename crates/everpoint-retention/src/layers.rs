//! What a machine's map layers say of a disk: read by sector, a few pages of each layer at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use everpoint_format::layer::marks::Marks;
use everpoint_format::layer::page::{Page, Version};
use everpoint_format::layer::{LiveObject, PagePlace};
use everpoint_format::manifest::{LayerLink, Manifest};
use everpoint_journal::history::MachineHistory;
use everpoint_journal::sweep::{Found, Sweep};
use everpoint_journal::versions::Given;
use everpoint_units::{DiskId, Seq, VaultId};
use everpoint_vault::Vault;
use everpoint_vault::history::{HistoryError, OpenLayer, WALK_AHEAD_MAX};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use crate::joined::unless_panicked;
use crate::restore::{Changes, Sectors};

/// Pages of a layer that are read at once, at most and at least; unpacked they take some three times as much. Unit: bytes
/// before they were compressed.
const CHUNK_LEN_MAX: u64 = 512 << 10;
const CHUNK_LEN_MIN: u64 = 64 << 10;
/// What the chunks of all layers have together, unless each has one page. Unit: bytes before they were compressed.
const CHUNKS_LEN_MAX: u64 = 32 << 20;
/// Such reads of one layer, held or under way.
const CHUNK_COUNT_MAX: usize = 2;

/// What layers give of a disk as of a point, if nothing came behind them.
pub(crate) async fn found_at(
    vault: &Vault,
    id: VaultId,
    manifest: Option<&Manifest>,
    (disk, seq): (DiskId, Seq),
    disk_sectors: u64,
) -> Result<Vec<Found>, HistoryError> {
    let mut sweep = Sweep::new(seq);
    each_given(vault, id, manifest, (disk, seq), |given| sweep.push(given)).await?;
    sweep.finish();
    Ok(sweep.take(disk_sectors))
}

/// Hands over what layers say of a disk, rising by first sector and version; of changes above `through` perhaps not
/// all.
pub(crate) async fn each_given(
    vault: &Vault,
    id: VaultId,
    manifest: Option<&Manifest>,
    (disk, through): (DiskId, Seq),
    mut each: impl FnMut(Given),
) -> Result<(), HistoryError> {
    let Some(manifest) = manifest else {
        return Ok(());
    };
    let wanted = |link: &&LayerLink| link.disk == disk && link.after < through;
    let links: Vec<_> = manifest.layers.iter().filter(wanted).collect();
    let share = CHUNKS_LEN_MAX / (links.len().max(1) * CHUNK_COUNT_MAX) as u64;
    let chunk_len = share.clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX);
    let open = links.into_iter();
    let open = open.map(|link| LayerStream::open(vault, id, manifest, link, chunk_len).boxed());
    let open: Vec<BoxFuture<'_, _>> = open.collect();
    let streams = stream::iter(open).buffered(WALK_AHEAD_MAX);
    let mut streams: Vec<LayerStream> = streams.try_collect().await?;
    let mut next = BinaryHeap::new();
    for (index, stream) in streams.iter_mut().enumerate() {
        next.extend(stream.next_key().await?.map(|key| Reverse((key, index))));
    }
    while let Some(Reverse((_, index))) = next.pop() {
        let stream = &mut streams[index];
        each(stream.queue.pop_front().expect("its key was asked for"));
        next.extend(stream.next_key().await?.map(|key| Reverse((key, index))));
    }
    Ok(())
}

/// A layer that is read from its first page to its last.
struct LayerStream {
    chunks: BoxStream<'static, Result<Vec<Given>, HistoryError>>,
    queue: VecDeque<Given>,
}

impl LayerStream {
    async fn open(
        vault: &Vault,
        id: VaultId,
        manifest: &Manifest,
        link: &LayerLink,
        chunk_len: u64,
    ) -> Result<Self, HistoryError> {
        let layer = Arc::new(OpenLayer::open(vault, id, manifest.machine, link).await?);
        let vault = vault.clone();
        let chunks = chunks(&layer.directory.pages, chunk_len);
        let reads = stream::iter(chunks).map(move |places| {
            let (vault, layer) = (vault.clone(), Arc::clone(&layer));
            let read = async move {
                let pages = layer.read_pages(&vault, &places).await?;
                Ok(given_of(&pages, &layer.directory.objects))
            };
            let task = AbortOnDropHandle::new(tokio::spawn(read));
            async move { unless_panicked(task.await).await }
        });
        Ok(Self {
            chunks: reads.buffered(CHUNK_COUNT_MAX).boxed(),
            queue: VecDeque::new(),
        })
    }

    /// Where the next entry stands in the order; `None` behind the last one.
    async fn next_key(&mut self) -> Result<Option<(u64, Version)>, HistoryError> {
        while self.queue.is_empty() {
            let Some(chunk) = self.chunks.next().await else {
                return Ok(None);
            };
            self.queue.extend(chunk?);
        }
        let next = self.queue.front();
        Ok(next.map(|given| (given.sectors.start, given.version)))
    }
}

fn chunks(pages: &[PagePlace], len_max: u64) -> Vec<Vec<PagePlace>> {
    let mut chunks: Vec<Vec<PagePlace>> = Vec::new();
    let mut len = u64::MAX;
    for page in pages {
        let own = u64::from(page.frame.raw_len);
        match chunks.last_mut() {
            Some(chunk) if len + own <= len_max => {
                chunk.push(*page);
                len += own;
            }
            _ => {
                chunks.push(vec![*page]);
                len = own;
            }
        }
    }
    chunks
}

fn given_of(pages: &[Page], objects: &[LiveObject]) -> Vec<Given> {
    let entries = pages.iter().flat_map(|page| {
        let entries = page.entries.iter();
        entries.map(move |entry| Given::of(entry, page, objects))
    });
    entries.collect()
}

/// Adds what the marks of the layers say to a history that was taken up from their manifest.
pub(crate) async fn add_marks(
    vault: &Vault,
    id: VaultId,
    manifest: &Manifest,
    history: &mut MachineHistory,
) -> Result<(), HistoryError> {
    let reads = manifest.layers.iter();
    let reads = reads.map(|link| read_marks(vault, id, manifest, link).boxed());
    let reads: Vec<BoxFuture<'_, _>> = reads.collect();
    let mut reads = stream::iter(reads).buffered(WALK_AHEAD_MAX);
    while let Some((disk, marks)) = reads.try_next().await? {
        marks
            .iter()
            .for_each(|marks| history.add_marks(disk, marks));
    }
    Ok(())
}

async fn read_marks(
    vault: &Vault,
    id: VaultId,
    manifest: &Manifest,
    link: &LayerLink,
) -> Result<(DiskId, Vec<Marks>), HistoryError> {
    let layer = OpenLayer::open(vault, id, manifest.machine, link).await?;
    let marks = layer.read_marks(vault, &layer.directory.marks).await?;
    Ok((link.disk, marks))
}

/// What of it no later change covers.
pub(crate) fn uncovered(found: Vec<Found>, covered: &Changes) -> Vec<Found> {
    let parts = found.into_iter().flat_map(|found| {
        let left = covered.outside(found.sectors.clone());
        let parts = left.into_iter().map(move |sectors| part(&found, sectors));
        parts.collect::<Vec<_>>()
    });
    parts.collect()
}

/// What of it lies in these sectors.
pub(crate) fn within(found: &[Found], changes: &Changes) -> Vec<Found> {
    let parts = found.iter().flat_map(|found| {
        let parts = changes.within(found.sectors.clone());
        parts.map(|sectors| part(found, sectors))
    });
    parts.collect()
}

fn part(found: &Found, sectors: Sectors) -> Found {
    let skipped = sectors.start - found.sectors.start;
    let mut part = found.clone();
    part.bytes.lead += u32::try_from(skipped).expect("inside a record");
    part.sectors = sectors;
    part
}
