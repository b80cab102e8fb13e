//! One disk as the fake server holds it: the real sink, the blocks, and the image that they make.

use bytes::Bytes;
use everpoint_format::Change;
use everpoint_format::change::ChangeBlock;
use everpoint_format::digest::{PIECE_LEN, PlainDigest};
use everpoint_replication::sink::{Sink, Verdict};
use everpoint_units::{BlockNo, DiskId, Extent, SECTOR_LEN, Seq};
use everpoint_wire::Compare;

pub(crate) struct DiskStore {
    disk: DiskId,
    pub(crate) sink: Sink,
    pub(crate) blocks: Vec<ChangeBlock>,
    committed_count: usize,
    pub(crate) image: Vec<u8>,
    /// What the newest generation builds on.
    base: Vec<u8>,
    pub(crate) committed_through: Seq,
    pub(crate) highest_seq: Seq,
    pub(crate) ended: bool,
    /// Bytes of blocks that came, and of data in them.
    pub(crate) block_bytes: u64,
    pub(crate) raw_bytes: u64,
}

impl DiskStore {
    pub(crate) fn new(disk: DiskId) -> Self {
        Self {
            disk,
            sink: Sink::new(disk),
            blocks: Vec::new(),
            committed_count: 0,
            image: Vec::new(),
            base: Vec::new(),
            committed_through: Seq::ZERO,
            highest_seq: Seq::ZERO,
            ended: false,
            block_bytes: 0,
            raw_bytes: 0,
        }
    }

    pub(crate) fn take(&mut self, block: ChangeBlock, keeps: bool) -> Verdict {
        let verdict = self.sink.handle_block(&block);
        if verdict != Verdict::Append {
            return verdict;
        }
        let header = *block.header();
        self.sink.handle_cached(header.position());
        self.highest_seq = self.highest_seq.max(header.complete_through);
        self.block_bytes += block.bytes().len() as u64;
        self.raw_bytes += u64::from(header.frame.raw_len);
        let ended = |record: &everpoint_format::record::Record| record.change == Change::DiskEnd;
        self.ended |= block.records().iter().any(ended);
        if keeps {
            if header.block_no == BlockNo(1) {
                self.base.clone_from(&self.image);
            }
            apply(&mut self.image, &block, Seq(u64::MAX));
        } else {
            self.blocks.clear();
        }
        self.blocks.push(block);
        verdict
    }

    /// Everything cached is committed.
    pub(crate) fn commit(&mut self) {
        if let Some(last) = self.blocks.last() {
            self.sink.handle_committed(last.header().position());
            self.committed_through = last.header().complete_through;
            self.committed_count = self.blocks.len();
        }
    }

    pub(crate) fn restart(&mut self, loses_cache: bool) {
        let kept = if loses_cache {
            self.committed_count
        } else {
            self.blocks.len()
        };
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.truncate(kept);
        let committed_count = self.committed_count;
        *self = Self::new(self.disk);
        for (index, block) in blocks.into_iter().enumerate() {
            assert_eq!(self.take(block, true), Verdict::Append);
            if index + 1 == committed_count {
                self.commit();
            }
        }
    }

    /// The image as it was after every change up to `seq`.
    pub(crate) fn image_at(&self, seq: Seq) -> Vec<u8> {
        let mut image = Vec::new();
        for block in &self.blocks {
            apply(&mut image, block, seq);
        }
        image
    }

    /// Names of the bookmarks that came, and where they stand.
    pub(crate) fn bookmarks(&self) -> Vec<(String, Seq)> {
        let records = self.blocks.iter().flat_map(ChangeBlock::records);
        let marks = records.filter_map(|record| match &record.change {
            Change::Bookmark { name, .. } => Some((name.to_string(), record.seq)),
            _ => None,
        });
        marks.collect()
    }

    pub(crate) fn differing(&self, compare: &Compare) -> Bytes {
        let mut differs = vec![0_u8; compare.digests.len().div_ceil(8)];
        for (index, digest) in compare.digests.iter().enumerate() {
            let piece = usize::try_from(compare.first_piece).expect("small") + index;
            let stored = self.base.get(piece * PIECE_LEN..(piece + 1) * PIECE_LEN);
            if stored.is_none_or(|stored| PlainDigest::of(stored) != *digest) {
                differs[index / 8] |= 1 << (index % 8);
            }
        }
        differs.into()
    }
}

/// Folds the records of a block up to `seq` into an image.
fn apply(image: &mut Vec<u8>, block: &ChangeBlock, seq: Seq) {
    let raw = block.header().frame.open(&block.payload()).expect("sound");
    let mut from = 0;
    for record in block.records() {
        let len = usize::try_from(record.change.raw_len()).expect("small");
        let piece = &raw[from..from + len];
        from += len;
        if seq < record.seq {
            continue;
        }
        match &record.change {
            Change::DiskBegin { sectors, .. } | Change::Resize { sectors } => {
                image.resize(usize::try_from(sectors * SECTOR_LEN).expect("small"), 0);
            }
            Change::Data(extent) => image[range(*extent)].copy_from_slice(piece),
            Change::Zero(extent) | Change::Discard(extent) => image[range(*extent)].fill(0),
            _ => {}
        }
    }
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    let at = |lba: everpoint_units::Lba| usize::try_from(lba.byte_offset().0).expect("small");
    at(extent.start())..at(extent.end())
}
